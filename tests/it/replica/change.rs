//! A change of one organization: picked, sent, and what it makes of the state.

use super::oracle::{self, MEMBERS, OWNERS, Organization, Role, SLUGS};
use super::traffic::Dice;
use crate::harness::server::Clients;
use crate::harness::{add, remove, set_role, transfer};
use roster::grpc::pb;
use tonic::Status;

/// A change.
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
    /// What copies do not keep, but for the revision.
    Name,
}

impl Change {
    pub fn pick(dice: &mut Dice, state: &Organization) -> Self {
        let who = |wanted: &dyn Fn(Role) -> bool, users: std::ops::Range<usize>| -> Vec<usize> {
            users.filter(|user| *user != state.owner && wanted(state.roles[*user])).collect()
        };
        let members = who(&|role| role != Role::None, 0..MEMBERS);
        let chance = dice.roll(100);
        let fallback = Self::Name;
        match (state.deleted, state.inactive) {
            (true, _) => Self::Undelete,
            (false, true) if chance < 80 => Self::Activate,
            (false, true) if chance < 90 => Self::Delete,
            (false, false) if chance < 35 => {
                let role = if dice.roll(2) == 0 { Role::Admin } else { Role::Member };
                dice.pick(&who(&|role| role == Role::None, 0..MEMBERS)).map_or(fallback, |user| Self::Add(user, role))
            }
            (false, false) if chance < 60 => dice.pick(&members).map_or(fallback, Self::Remove),
            (false, false) if chance < 75 => dice.pick(&members).map_or(fallback, |user| {
                let other = if state.roles[user] == Role::Admin { Role::Member } else { Role::Admin };
                Self::SetRole(user, other)
            }),
            (false, false) if chance < 78 => Self::Deactivate,
            (false, false) if chance < 81 => Self::Delete,
            (false, false) if chance < 88 => Self::Rename((state.slug + 1 + dice.roll(SLUGS - 1)) % SLUGS),
            (false, false) if chance < 92 => fallback,
            (false, _) => {
                let heirs = who(&|role| role != Role::None, 0..OWNERS);
                let otherwise = if state.inactive { Self::Activate } else { fallback };
                dice.pick(&heirs).map_or(otherwise, Self::Transfer)
            }
        }
    }

    /// The state after it, and how many revisions that is later.
    pub fn apply(self, before: &Organization) -> (Organization, i64) {
        let (mut after, mut more) = (before.clone(), 1);
        match self {
            Self::Add(user, role) | Self::SetRole(user, role) => after.roles[user] = role,
            Self::Remove(user) => after.roles[user] = Role::None,
            Self::Activate => after.inactive = false,
            Self::Deactivate => after.inactive = true,
            Self::Delete => after.deleted = true,
            Self::Undelete => after.deleted = false,
            Self::Transfer(user) => {
                // A mere member becomes an admin first.
                more += i64::from(after.roles[user] != Role::Admin);
                after.roles[user] = Role::Admin;
                after.owner = user;
            }
            Self::Rename(slug) => after.slug = slug,
            Self::Name => {}
        }
        (after, more)
    }

    /// Sends it, and gives the token of the answer. A new name is this one.
    async fn call(
        self,
        clients: Clients,
        place: usize,
        id: &str,
        name: &str,
        request_id: String,
    ) -> Result<String, Status> {
        let mut to = clients.organizations;
        let organization = id.to_owned();
        let word = |role| if role == Role::Admin { "admin" } else { "member" };
        Ok(match self {
            Self::Add(user, role) => {
                let request = pb::AddMemberRequest { request_id, ..add(id, &oracle::user(user), word(role)) };
                to.add_member(request).await?.into_inner().consistency_token
            }
            Self::SetRole(user, role) => {
                let request = pb::UpdateMemberRequest { request_id, ..set_role(id, &oracle::user(user), word(role)) };
                to.update_member(request).await?.into_inner().consistency_token
            }
            Self::Remove(user) => {
                let request = pb::RemoveMemberRequest { request_id, ..remove(id, &oracle::user(user)) };
                to.remove_member(request).await?.into_inner().consistency_token
            }
            Self::Activate => {
                let request = pb::ActivateOrganizationRequest { organization, request_id, ..Default::default() };
                to.activate_organization(request).await?.into_inner().consistency_token
            }
            Self::Deactivate => {
                let request = pb::DeactivateOrganizationRequest { organization, request_id, ..Default::default() };
                to.deactivate_organization(request).await?.into_inner().consistency_token
            }
            Self::Delete => {
                let request = pb::DeleteOrganizationRequest { organization, request_id, ..Default::default() };
                to.delete_organization(request).await?.into_inner().consistency_token
            }
            Self::Undelete => {
                let request = pb::UndeleteOrganizationRequest { organization, request_id, ..Default::default() };
                to.undelete_organization(request).await?.into_inner().consistency_token
            }
            Self::Transfer(user) => {
                let request = pb::TransferOwnershipRequest { request_id, ..transfer(id, &oracle::user(user)) };
                to.transfer_ownership(request).await?.into_inner().consistency_token
            }
            Self::Rename(_) | Self::Name => {
                let mut request = pb::UpdateOrganizationRequest { organization, request_id, ..Default::default() };
                match self {
                    Self::Rename(slug) => request.slug = oracle::slug(place, slug),
                    _ => name.clone_into(&mut request.name),
                }
                to.update_organization(request).await?.into_inner().consistency_token
            }
        })
    }
}

/// A write, to be sent as often as it takes.
pub enum Write {
    In { change: Change, place: usize, id: String, name: String },
    Switch { user: usize, off: bool },
}

impl Write {
    /// Sends it, and gives the token of the answer.
    pub async fn call(&self, mut clients: Clients, request_id: String) -> Result<String, Status> {
        match self {
            Self::In { change, place, id, name } => change.call(clients, *place, id, name, request_id).await,
            Self::Switch { user, off: true } => {
                let request =
                    pb::DeactivateUserRequest { user_id: oracle::user(*user), request_id, ..Default::default() };
                Ok(clients.users.deactivate_user(request).await?.into_inner().consistency_token)
            }
            Self::Switch { user, off: false } => {
                let request =
                    pb::ReactivateUserRequest { user_id: oracle::user(*user), request_id, ..Default::default() };
                Ok(clients.users.reactivate_user(request).await?.into_inner().consistency_token)
            }
        }
    }
}
