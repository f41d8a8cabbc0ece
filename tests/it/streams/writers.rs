//! Callers who make random writes of every kind until they are stopped.

use crate::harness::server::Clients;
use crate::harness::{Server, add, organization, remove, set_role, transfer};
use crate::roles::apply;
use roster::domain::Scope;
use roster::grpc::pb;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::task::JoinHandle;

/// Writers that run until they are stopped.
pub struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

/// A request to apply one of four access models. They differ in what `clerk` and `member` hold, and in the kinds of
/// `agent`.
pub fn apply_model(number: u64) -> pb::ApplyAccessModelRequest {
    let kind = if number < 2 { "vendor" } else { "" };
    let clerk: &[&str] = if number.is_multiple_of(2) { &["billing.read"] } else { &["billing.read", "billing.pay"] };
    let member: &[&str] = if number == 3 { &["organization.read", "billing.read"] } else { &["organization.read"] };
    let admin = ["organization.read", "members.list", "members.add", "billing.read"];
    let json = serde_json::json!({
        "permissions": [{ "name": "billing.read" }, { "name": "billing.pay", "title": "Pay bills" }],
        "roles": [
            { "name": "clerk", "permissions": clerk },
            { "name": "agent", "kind": kind, "permissions": ["members.list"] },
            { "name": "member", "permissions": member },
            { "name": "admin", "permissions": admin },
        ],
    });
    pb::ApplyAccessModelRequest { older_clients_gone: true, ..apply(json) }
}

/// A request to define a role that holds these permissions.
pub fn define(organization: &str, name: &str, permissions: &[&str]) -> pb::CreateRoleRequest {
    pb::CreateRoleRequest {
        organization: organization.to_owned(),
        name: name.to_owned(),
        permissions: permissions.iter().map(|word| (*word).to_owned()).collect(),
        ..Default::default()
    }
}

/// The number of members that a batch adds in one write.
pub const BATCH: usize = 7;

impl Writers {
    /// Starts this many writers, of memberships, organizations and users.
    pub fn begin(server: &Server, count: u64) -> Self {
        Self::of(server, count, 12)
    }

    /// Starts this many writers, also of access models and of the roles of organizations.
    pub fn with_roles(server: &Server, count: u64) -> Self {
        Self::of(server, count, 18)
    }

    fn of(server: &Server, count: u64, kinds: u64) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..count)
            .map(|number| {
                let clients = [server.operator(), server.service(&[Scope::Manage])];
                let (stop, written) = (stop.clone(), written.clone());
                tokio::spawn(async move {
                    let mut writer =
                        Writer { clients, seed: number + 1, organizations: Vec::new(), number, batches: 0, kinds };
                    while !stop.load(Ordering::Relaxed) {
                        if writer.write().await {
                            written.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        Self { stop, written, tasks }
    }

    /// The number of successful writes so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Waits until this many writes have succeeded.
    pub async fn until(&self, written: u64) {
        while self.written() < written {
            tokio::task::yield_now().await;
        }
    }

    /// Stops the writers, and waits for their current writes.
    pub async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

struct Writer {
    clients: [Clients; 2],
    seed: u64,
    organizations: Vec<String>,
    number: u64,
    batches: u64,
    /// The number of kinds of writes that it makes.
    kinds: u64,
}

impl Writer {
    fn below(&mut self, bound: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % bound
    }

    /// Makes one write, and returns whether it succeeded.
    async fn write(&mut self) -> bool {
        let user = format!("user-{}", self.below(40));
        if self.organizations.len() < 3 {
            let request = pb::CreateOrganizationRequest {
                owner_user_id: format!("owner-{}", self.number),
                kind: ["account", "vendor"][usize::try_from(self.below(2)).unwrap()].to_owned(),
                ..organization("Some")
            };
            let created = self.clients[0].organizations.create_organization(request).await.unwrap().into_inner();
            self.organizations.push(created.organization.unwrap().id);
            return true;
        }
        let index = usize::try_from(self.below(3)).unwrap();
        let organization = self.organizations[index].clone();
        let [operator, service] = &mut self.clients.clone();
        match self.below(self.kinds) {
            kind @ 12.. => self.write_role(kind, &organization, &user).await,
            0..=3 => service.organizations.add_member(add(&organization, &user, "member")).await.is_ok(),
            4..=5 => service.organizations.remove_member(remove(&organization, &user)).await.is_ok(),
            6 => service.organizations.update_member(set_role(&organization, &user, "admin")).await.is_ok(),
            7 => operator.organizations.transfer_ownership(transfer(&organization, &user)).await.is_ok(),
            8 => {
                self.batches += 1;
                let item = |item| pb::BatchAddMembersItem {
                    person: Some(pb::batch_add_members_item::Person::UserId(format!(
                        "batch-{}-{}-{item}",
                        self.number, self.batches
                    ))),
                    ..Default::default()
                };
                let request = pb::BatchAddMembersRequest {
                    organization,
                    items: (0..BATCH).map(item).collect(),
                    all_or_nothing: true,
                    ..Default::default()
                };
                service.organizations.batch_add_members(request).await.is_ok()
            }
            9 => {
                let request = pb::DeactivateUserRequest { user_id: user.clone(), ..Default::default() };
                if operator.users.deactivate_user(request).await.is_ok() {
                    return true;
                }
                let request = pb::ReactivateUserRequest { user_id: user, ..Default::default() };
                operator.users.reactivate_user(request).await.is_ok()
            }
            10 => {
                let slug = self.below(1000);
                let request = pb::UpdateOrganizationRequest {
                    organization,
                    slug: format!("slug-{}-{slug}", self.number),
                    ..Default::default()
                };
                service.organizations.update_organization(request).await.is_ok()
            }
            _ => {
                let purge = self.below(2) == 0;
                let request = pb::DeleteOrganizationRequest { organization, purge, ..Default::default() };
                self.organizations.remove(index);
                operator.organizations.delete_organization(request).await.is_ok()
            }
        }
    }
    /// Makes a write about roles, and returns whether it succeeded.
    async fn write_role(&mut self, kind: u64, organization: &str, user: &str) -> bool {
        let mut operator = self.clients[0].clone();
        let (organization, name) = (organization.to_owned(), "org:own".to_owned());
        match kind {
            12 => operator.roles.create_role(define(&organization, &name, &["billing.read"])).await.is_ok(),
            13 => {
                let permissions = if self.below(2) == 0 { vec!["billing.pay".to_owned()] } else { Vec::new() };
                let update_mask = Some(prost_types::FieldMask { paths: vec!["permissions".to_owned()] });
                let request =
                    pb::UpdateRoleRequest { organization, name, permissions, update_mask, ..Default::default() };
                operator.roles.update_role(request).await.is_ok()
            }
            14 => {
                let replace_with = "member".to_owned();
                let request = pb::DeleteRoleRequest { organization, name, replace_with, ..Default::default() };
                operator.roles.delete_role(request).await.is_ok()
            }
            15 => {
                let keep = apply_model(self.below(4));
                let replace_roles = [("agent".to_owned(), "member".to_owned())].into();
                let replace = pb::ApplyAccessModelRequest { replace_roles, ..keep.clone() };
                operator.models.apply_access_model(keep).await.is_ok()
                    || operator.models.apply_access_model(replace).await.is_ok()
            }
            _ => {
                let role = ["org:own", "clerk", "agent"][usize::try_from(self.below(3)).unwrap()];
                operator.organizations.update_member(set_role(&organization, user, role)).await.is_ok()
            }
        }
    }
}
