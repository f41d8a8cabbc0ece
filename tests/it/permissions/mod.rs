//! The questions about permissions: what may a user do, why is an answer no, and who may do this?

mod effective;
mod explanations;
mod holders;

use crate::harness::server::{Clients, Credential};
use crate::harness::{Server, add, organization};
use pb::access_model_service_client::AccessModelServiceClient;
use pb::consistency::Requirement;
use pb::role_service_client::RoleServiceClient;
use roster::domain::{Permission, Scope};
use roster::grpc::pb;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

type OperatorChannel = InterceptedService<Channel, Credential>;

fn models(server: &Server) -> AccessModelServiceClient<OperatorChannel> {
    AccessModelServiceClient::new(InterceptedService::new(server.channel(), server.credential(&[Scope::Operator])))
}

fn roles(server: &Server) -> RoleServiceClient<OperatorChannel> {
    RoleServiceClient::new(InterceptedService::new(server.channel(), server.credential(&[Scope::Operator])))
}

/// A model of these permissions and roles. A role is named `name` or `name@kind`.
fn model(permissions: &[&str], roles: &[(&str, &[&str])]) -> pb::AccessModel {
    let permission = |name: &&str| pb::AccessModelPermission { name: (*name).to_owned(), ..Default::default() };
    let role = |(name, words): &(&str, &[&str])| {
        let (name, kind) = name.split_once('@').unwrap_or((name, ""));
        let permissions = words.iter().map(|word| (*word).to_owned()).collect();
        pb::AccessModelRole { name: name.to_owned(), kind: kind.to_owned(), permissions, ..Default::default() }
    };
    pb::AccessModel {
        permissions: permissions.iter().map(permission).collect(),
        roles: roles.iter().map(role).collect(),
        ..Default::default()
    }
}

/// Applies a model. Returns the consistency token.
async fn apply(server: &Server, model: pb::AccessModel) -> String {
    let request = pb::ApplyAccessModelRequest { model: Some(model), older_clients_gone: true, ..Default::default() };
    models(server).apply_access_model(request).await.unwrap().into_inner().consistency_token
}

/// Defines a role of an organization.
async fn define(server: &Server, organization: &str, name: &str, words: &[&str]) {
    let request = pb::CreateRoleRequest {
        organization: organization.to_owned(),
        name: name.to_owned(),
        permissions: words.iter().map(|word| (*word).to_owned()).collect(),
        ..Default::default()
    };
    roles(server).create_role(request).await.unwrap();
}

/// The permissions of the application in [`Fixture`].
const WORDS: [&str; 3] = ["billing.pay", "billing.read", "reports.view"];

/// What the roles of [`Fixture`] hold, roster's own permissions included.
const ACCOUNTANT: [&str; 3] = ["billing.pay", "billing.read", "members.list"];
const AUDITOR: [&str; 1] = ["reports.view"];
const CLERK: [&str; 2] = ["billing.read", "reports.view"];

/// A server with [`WORDS`] and the roles `accountant`, `auditor` (of the kind `team`) and `org:clerk`. Every organization is
/// of the kind `team`, has the owner `ada`, the admin `grace`, the member `alan`, the accountants `joan` and `ivan`, the
/// auditor `max` and the clerk `eve`. `ivan` is deactivated.
struct Fixture {
    server: Server,
    backend: Clients,
    /// An active organization.
    acme: String,
    /// A deactivated one.
    closed: String,
    /// A deleted one.
    gone: String,
}

impl Fixture {
    async fn new() -> Self {
        let server = Server::start_generous().await;
        let table: [(&str, &[&str]); 2] = [("accountant", &ACCOUNTANT), ("auditor@team", &AUDITOR)];
        apply(&server, model(&WORDS, &table)).await;
        let mut ids = Vec::new();
        for name in ["Acme", "Closed", "Gone"] {
            ids.push(team(&server, name).await);
        }
        let [acme, closed, gone] = <[String; 3]>::try_from(ids).unwrap();
        let (mut ada, mut operator) = (server.user("ada"), server.operator());
        let request = pb::DeactivateOrganizationRequest { organization: closed.clone(), ..Default::default() };
        ada.organizations.deactivate_organization(request).await.unwrap();
        let request = pb::DeleteOrganizationRequest { organization: gone.clone(), ..Default::default() };
        ada.organizations.delete_organization(request).await.unwrap();
        let request = pb::DeactivateUserRequest { user_id: "ivan".to_owned(), ..Default::default() };
        operator.users.deactivate_user(request).await.unwrap();
        let backend = server.service(&[Scope::Check]);
        Self { server, backend, acme, closed, gone }
    }
}

/// Creates an organization of [`Fixture`].
async fn team(server: &Server, name: &str) -> String {
    let mut ada = server.user("ada");
    let request = pb::CreateOrganizationRequest { kind: "team".to_owned(), ..organization(name) };
    let created = ada.organizations.create_organization(request).await.unwrap().into_inner();
    let id = created.organization.unwrap().id;
    define(server, &id, "org:clerk", &CLERK).await;
    for (user, role) in [
        ("grace", "admin"),
        ("alan", "member"),
        ("joan", "accountant"),
        ("ivan", "accountant"),
        ("max", "auditor"),
        ("eve", "org:clerk"),
    ] {
        ada.organizations.add_member(add(&id, user, role)).await.unwrap();
    }
    id
}

#[expect(clippy::unnecessary_wraps, reason = "the field of the request is optional")]
fn fully_consistent() -> Option<pb::Consistency> {
    Some(pb::Consistency { requirement: Some(Requirement::FullyConsistent(true)) })
}

#[expect(clippy::unnecessary_wraps, reason = "the field of the request is optional")]
fn at_least(token: &str) -> Option<pb::Consistency> {
    Some(pb::Consistency { requirement: Some(Requirement::AtLeastAsFresh(token.to_owned())) })
}

/// The words of a set of roster's own permissions, ordered by name.
fn reserved(set: &roster::domain::PermissionSet) -> Vec<String> {
    sorted(set.iter().map(|permission| permission.to_string()))
}

/// Every permission that exists in [`Fixture`], ordered by name.
fn everything() -> Vec<String> {
    let reserved = Permission::RESERVED.iter().map(|permission| permission.as_str());
    sorted(reserved.chain(WORDS).map(str::to_owned))
}

fn sorted(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut words: Vec<String> = words.into_iter().collect();
    words.sort_unstable();
    words
}
