//! Random changes of one organization: their choice, their request and their effect on the state.

use super::oracle::{self, MEMBERS, OWNERS, OrganizationState, Permissions, Role, SLUGS, WORDS};
use super::traffic::SeededRandom;
use crate::harness::server::{AuthenticatedChannel, Clients};
use crate::harness::{add, remove, set_role, transfer};
use crate::roles::apply;
use roster::grpc::pb;
use roster::grpc::pb::role_service_client::RoleServiceClient;
use serde_json::json;
use tonic::Status;

/// A change that the model can make.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    Add(usize, Role),
    SetRole(usize, Role),
    Remove(usize),
    Activate,
    Deactivate,
    Delete,
    Undelete,
    Transfer(usize),
    Rename(usize),
    /// Defines the organization's own role, or changes what it holds.
    Define(Permissions),
    /// Deletes the organization's own role, which no member holds.
    Undefine,
    /// A change of the name, which the replica does not store; only the revision changes.
    Name,
}

impl Change {
    pub fn pick(random: &mut SeededRandom, state: &OrganizationState) -> Self {
        let users = |filter: &dyn Fn(Role) -> bool, range: std::ops::Range<usize>| -> Vec<usize> {
            range.filter(|user| *user != state.owner && filter(state.roles[*user])).collect()
        };
        let members = users(&|role| role != Role::None, 0..MEMBERS);
        let own = state.own.map(|_| Role::Own);
        let roles: Vec<Role> = [Role::Admin, Role::Member, Role::Accountant].into_iter().chain(own).collect();
        let chance = random.below(100);
        let fallback = Self::Name;
        match (state.deleted, state.inactive) {
            (true, _) => Self::Undelete,
            (false, true) if chance < 80 => Self::Activate,
            (false, true) if chance < 90 => Self::Delete,
            (false, false) if chance < 35 => {
                let role = roles[random.below(roles.len())];
                random
                    .pick(&users(&|role| role == Role::None, 0..MEMBERS))
                    .map_or(fallback, |user| Self::Add(user, role))
            }
            (false, false) if chance < 60 => random.pick(&members).map_or(fallback, Self::Remove),
            (false, false) if chance < 75 => random.pick(&members).map_or(fallback, |user| {
                let others: Vec<Role> = roles.iter().copied().filter(|role| *role != state.roles[user]).collect();
                Self::SetRole(user, others[random.below(others.len())])
            }),
            (false, false) if chance < 77 => Self::Deactivate,
            (false, false) if chance < 79 => Self::Delete,
            (false, false) if chance < 84 => Self::pick_definition(random, state),
            (false, false) if chance < 89 => Self::Rename((state.slug + 1 + random.below(SLUGS - 1)) % SLUGS),
            (false, false) if chance < 92 => fallback,
            (false, _) => {
                let heirs = users(&|role| role != Role::None, 0..OWNERS);
                let alternative = if state.inactive { Self::Activate } else { fallback };
                random.pick(&heirs).map_or(alternative, Self::Transfer)
            }
        }
    }

    fn pick_definition(random: &mut SeededRandom, state: &OrganizationState) -> Self {
        let next = other_words(random, state.own);
        let is_held = state.roles.contains(&Role::Own);
        if state.own.is_some() && !is_held && random.below(3) == 0 { Self::Undefine } else { Self::Define(next) }
    }

    /// The state after the change, and the number of revisions that it takes.
    pub fn apply(self, before: &OrganizationState) -> (OrganizationState, i64) {
        let (mut after, mut revisions) = (before.clone(), 1);
        match self {
            Self::Add(user, role) | Self::SetRole(user, role) => after.roles[user] = role,
            Self::Remove(user) => after.roles[user] = Role::None,
            Self::Activate => after.inactive = false,
            Self::Deactivate => after.inactive = true,
            Self::Delete => after.deleted = true,
            Self::Undelete => after.deleted = false,
            Self::Transfer(user) => {
                // A transfer promotes a plain member to admin first.
                revisions += i64::from(after.roles[user] != Role::Admin);
                after.roles[user] = Role::Admin;
                after.owner = user;
            }
            Self::Rename(slug) => after.slug = slug,
            Self::Define(permissions) => after.own = Some(permissions),
            Self::Undefine => after.own = None,
            Self::Name => {}
        }
        (after, revisions)
    }

    /// Sends the change and returns the consistency token of the response. `name` is the new name of a name change.
    async fn call(
        self,
        clients: Clients,
        index: usize,
        id: &str,
        name: &str,
        request_id: String,
        is_first: bool,
    ) -> Result<String, Status> {
        let (mut client, mut definitions) = (clients.organizations, clients.roles);
        let organization = id.to_owned();
        let own = || Role::Own.name().to_owned();
        Ok(match self {
            Self::Add(user, role) => {
                let request = pb::AddMemberRequest { request_id, ..add(id, &oracle::user(user), role.name()) };
                client.add_member(request).await?.into_inner().consistency_token
            }
            Self::SetRole(user, role) => {
                let request = pb::UpdateMemberRequest { request_id, ..set_role(id, &oracle::user(user), role.name()) };
                client.update_member(request).await?.into_inner().consistency_token
            }
            Self::Remove(user) => {
                let request = pb::RemoveMemberRequest { request_id, ..remove(id, &oracle::user(user)) };
                client.remove_member(request).await?.into_inner().consistency_token
            }
            Self::Activate => {
                let request = pb::ActivateOrganizationRequest { organization, request_id, ..Default::default() };
                client.activate_organization(request).await?.into_inner().consistency_token
            }
            Self::Deactivate => {
                let request = pb::DeactivateOrganizationRequest { organization, request_id, ..Default::default() };
                client.deactivate_organization(request).await?.into_inner().consistency_token
            }
            Self::Delete => {
                let request = pb::DeleteOrganizationRequest { organization, request_id, ..Default::default() };
                client.delete_organization(request).await?.into_inner().consistency_token
            }
            Self::Undelete => {
                let request = pb::UndeleteOrganizationRequest { organization, request_id, ..Default::default() };
                client.undelete_organization(request).await?.into_inner().consistency_token
            }
            Self::Transfer(user) => {
                let request = pb::TransferOwnershipRequest { request_id, ..transfer(id, &oracle::user(user)) };
                client.transfer_ownership(request).await?.into_inner().consistency_token
            }
            Self::Define(permissions) => define(definitions, organization, permissions, request_id, is_first).await?,
            Self::Undefine => {
                let request = pb::DeleteRoleRequest { organization, name: own(), request_id, ..Default::default() };
                definitions.delete_role(request).await?.into_inner().consistency_token
            }
            Self::Rename(_) | Self::Name => {
                let mut request = pb::UpdateOrganizationRequest { organization, request_id, ..Default::default() };
                match self {
                    Self::Rename(slug) => request.slug = oracle::slug(index, slug),
                    _ => name.clone_into(&mut request.name),
                }
                client.update_organization(request).await?.into_inner().consistency_token
            }
        })
    }
}

/// Defines the organization's own role, or changes what it holds. Returns the consistency token of the response.
async fn define(
    mut client: RoleServiceClient<AuthenticatedChannel>,
    organization: String,
    permissions: Permissions,
    request_id: String,
    is_first: bool,
) -> Result<String, Status> {
    let (name, permissions) = (Role::Own.name().to_owned(), oracle::words(permissions));
    if is_first {
        let request = pb::CreateRoleRequest { organization, name, permissions, request_id, ..Default::default() };
        return Ok(client.create_role(request).await?.into_inner().consistency_token);
    }
    let update_mask = Some(prost_types::FieldMask { paths: vec!["permissions".to_owned()] });
    let request =
        pb::UpdateRoleRequest { organization, name, permissions, update_mask, request_id, ..Default::default() };
    Ok(client.update_role(request).await?.into_inner().consistency_token)
}

/// A write, which can be sent repeatedly with the same `request_id`.
pub enum Write {
    Organization {
        change: Change,
        index: usize,
        id: String,
        name: String,
        /// Whether the organization does not have the role that the change defines.
        is_first: bool,
    },
    User {
        user: usize,
        inactive: bool,
    },
    /// The accountant gets these permissions.
    Model(Permissions),
}

/// A set of words other than this one.
pub fn other_words(random: &mut SeededRandom, present: Option<Permissions>) -> Permissions {
    let sets: Vec<Permissions> = (0..1 << WORDS.len()).filter(|set| Some(*set) != present).collect();
    sets[random.below(sets.len())]
}

/// The access model in which the accountant has these permissions.
pub fn model(accountant: Permissions) -> pb::ApplyAccessModelRequest {
    apply(json!({
        "permissions": WORDS.map(|(word, _)| json!({ "name": word })),
        "roles": [{ "name": Role::Accountant.name(), "permissions": oracle::words(accountant) }],
    }))
}

impl Write {
    /// Sends the write and returns the consistency token of the response.
    pub async fn call(&self, mut clients: Clients, request_id: String) -> Result<String, Status> {
        match self {
            Self::Organization { change, index, id, name, is_first } => {
                change.call(clients, *index, id, name, request_id, *is_first).await
            }
            Self::Model(accountant) => {
                let request = pb::ApplyAccessModelRequest { request_id, ..model(*accountant) };
                Ok(clients.models.apply_access_model(request).await?.into_inner().consistency_token)
            }
            Self::User { user, inactive: true } => {
                let request =
                    pb::DeactivateUserRequest { user_id: oracle::user(*user), request_id, ..Default::default() };
                Ok(clients.users.deactivate_user(request).await?.into_inner().consistency_token)
            }
            Self::User { user, inactive: false } => {
                let request =
                    pb::ReactivateUserRequest { user_id: oracle::user(*user), request_id, ..Default::default() };
                Ok(clients.users.reactivate_user(request).await?.into_inner().consistency_token)
            }
        }
    }
}
