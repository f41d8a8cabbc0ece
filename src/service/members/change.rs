//! Changing and removing members, and handing the organization over.

use super::add::{check_person, find};
use super::{RemoveMember, TransferOwnership, UpdateMember};
use crate::authz::decide::Grant;
use crate::domain::{Member, Membership, Organization, OrganizationId, OrganizationState, Refusal, Role, User, UserId};
use crate::service::ServiceError;
use crate::service::invitations::revoke_all;
use crate::service::limits;
use crate::service::write::OrganizationChange;
use crate::service::write::preconditions::{check_etag, check_user, check_writable};
use crate::service::write::unit_of_work::{DeletionMark, UnitOfWork};
use crate::store::{memberships, users};
use serde_json::json;
use std::collections::BTreeSet;

/// Reads a member of the locked organization.
async fn member(unit: &mut UnitOfWork<'_>, here: &Organization, user: &UserId) -> Result<Membership, ServiceError> {
    Ok(memberships::get(unit.connection, here.id, user).await?.ok_or(Refusal::MemberNotFound)?)
}

/// The membership with what is shown of its user.
async fn with_user(unit: &mut UnitOfWork<'_>, membership: Membership) -> Result<Member, ServiceError> {
    let user = users::get(unit.connection, &membership.user).await?.ok_or(Refusal::UserNotFound)?;
    Ok(Member { membership, user })
}

/// The one rule that no path breaks: the owner stays until ownership moves.
fn check_not_owner(here: &Organization, user: &UserId) -> Result<(), Refusal> {
    if here.owner.as_ref() == Some(user) {
        return Err(Refusal::OwnershipRequired { organizations: vec![here.id.to_string()], count: 1 });
    }
    Ok(())
}

impl OrganizationChange for UpdateMember {
    type Answer = Member;

    async fn apply(
        &self,
        unit: &mut UnitOfWork<'_>,
        mut here: Organization,
        grant: Grant,
    ) -> Result<Member, ServiceError> {
        check_writable(&here)?;
        let before = member(unit, &here, &self.user).await?;
        if self.role.is_some() {
            check_not_owner(&here, &self.user)?;
        }
        grant.reaches(before.role)?;
        if let Some(role) = self.role {
            grant.reaches(role)?;
        }
        check_etag(self.etag.as_deref(), &before.etag())?;
        let stored = if before.role == Role::OWNER { Role::ADMIN } else { before.role };
        let role = self.role.unwrap_or(stored);
        let attributes = self.attributes.as_ref().unwrap_or(&before.attributes);
        if role == stored && *attributes == before.attributes {
            return with_user(unit, before).await;
        }
        if role < stored && unit.user() == Some(&self.user) {
            unit.forfeit();
        }
        let after = unit.update_member(&mut here, &before, role, attributes).await?;
        with_user(unit, after).await
    }
}

async fn remove(
    unit: &mut UnitOfWork<'_>,
    mut here: Organization,
    membership: Membership,
) -> Result<Member, ServiceError> {
    if unit.user() == Some(&membership.user) {
        unit.forfeit();
    }
    unit.remove_member(&mut here, &membership).await?;
    let member = with_user(unit, membership).await?;
    revoke_theirs(unit, &mut here, &member.user).await?;
    Ok(member)
}

/// Who is removed is not let in again by an invitation that was still on its way.
async fn revoke_theirs(unit: &mut UnitOfWork<'_>, here: &mut Organization, user: &User) -> Result<(), ServiceError> {
    match &user.email {
        Some(email) => revoke_all(unit, here, Some(email)).await,
        None => Ok(()),
    }
}

impl OrganizationChange for RemoveMember {
    type Answer = Member;

    async fn apply(&self, unit: &mut UnitOfWork<'_>, here: Organization, grant: Grant) -> Result<Member, ServiceError> {
        check_writable(&here)?;
        let membership = member(unit, &here, &self.user).await?;
        check_not_owner(&here, &self.user)?;
        grant.reaches(membership.role)?;
        check_etag(self.etag.as_deref(), &membership.etag())?;
        remove(unit, here, membership).await
    }
}

pub(super) struct Leave {
    pub(super) user: UserId,
}

impl OrganizationChange for Leave {
    type Answer = Member;

    async fn apply(&self, unit: &mut UnitOfWork<'_>, here: Organization, _: Grant) -> Result<Member, ServiceError> {
        check_writable(&here)?;
        check_not_owner(&here, &self.user)?;
        let membership = member(unit, &here, &self.user).await?;
        remove(unit, here, membership).await
    }
}

impl OrganizationChange for TransferOwnership {
    type Answer = Organization;

    async fn apply(
        &self,
        unit: &mut UnitOfWork<'_>,
        mut here: Organization,
        _: Grant,
    ) -> Result<Organization, ServiceError> {
        match here.state() {
            OrganizationState::Active | OrganizationState::Inactive => {}
            OrganizationState::Pending => return Err(Refusal::OrganizationPending.into()),
            OrganizationState::Deleted => return Err(Refusal::OrganizationDeleted.into()),
        }
        check_etag(self.etag.as_deref(), &here.etag())?;
        let target = find(unit, &self.person).await??;
        if here.owner.as_ref() == Some(&target) {
            return Ok(here);
        }
        let membership = memberships::get(unit.connection, here.id, &target).await?.ok_or(Refusal::TargetNotMember)?;
        for user in unit.hold_users(&BTreeSet::from([target.clone()])).await?.values() {
            check_user(user)?;
            check_person(&self.person, user)?;
        }
        if membership.role != Role::ADMIN {
            unit.update_member(&mut here, &membership, Role::ADMIN, &membership.attributes).await?;
        }
        // The owner who hands it over is an admin from now on, and could not repeat the request.
        unit.forfeit();
        let old = json!({ "owner": here.owner });
        let new = json!({ "owner": target });
        here.owner = Some(target);
        unit.save(&mut here, DeletionMark::No, "owner.changed", old, new).await?;
        Ok(here)
    }
}

/// Removes a user from one locked organization, where they are a member and not the owner.
pub(in crate::service) async fn remove_deleted_user(
    unit: &mut UnitOfWork<'_>,
    here: &mut Organization,
    user: &User,
) -> Result<bool, ServiceError> {
    let Some(membership) = memberships::get(unit.connection, here.id, &user.id).await? else { return Ok(false) };
    unit.remove_member(here, &membership).await?;
    revoke_theirs(unit, here, user).await?;
    Ok(true)
}

/// Names at most as many organizations as an error may.
pub(in crate::service) fn ownership_required(owned: &[OrganizationId]) -> Refusal {
    Refusal::OwnershipRequired {
        organizations: owned.iter().take(limits::NAMED_ORGANIZATIONS).map(ToString::to_string).collect(),
        count: u64::try_from(owned.len()).unwrap_or(u64::MAX),
    }
}
