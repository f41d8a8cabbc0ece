//! Changes and removals of members, and the transfer of ownership.

use super::add::{check_person, find};
use super::{RemoveMember, TransferOwnership, TransferredOwnership, UnknownOwners, UpdateMember};
use crate::authz::decide::Grant;
use crate::domain::event::EventType;
use crate::domain::{
    Member, Membership, Organization, OrganizationId, OrganizationState, Refusal, RoleName, User, UserId,
};
use crate::service::ServiceError;
use crate::service::invitations::revoke_all;
use crate::service::limits;
use crate::service::write::OrganizationChange;
use crate::service::write::preconditions::{check_etag, check_user, check_writable, unknown_state};
use crate::service::write::unit_of_work::{DeletionMark, UnitOfWork};
use crate::store::invitations::PendingInvitations;
use crate::store::{memberships, users};
use serde_json::json;
use std::collections::BTreeSet;

/// Reads a member of the locked organization.
async fn member(
    tx: &mut UnitOfWork<'_>,
    organization: &Organization,
    user: &UserId,
) -> Result<Membership, ServiceError> {
    Ok(tx.membership(organization.id, user).await?.ok_or(Refusal::MemberNotFound)?)
}

/// Reads the user of a membership.
async fn with_user(tx: &mut UnitOfWork<'_>, membership: Membership) -> Result<Member, ServiceError> {
    let user = users::get(tx.connection, &membership.user).await?.ok_or(Refusal::UserNotFound)?;
    Ok(Member { membership, user })
}

/// Refuses a change that would take the membership or the role from the owner. Ownership must be transferred first.
fn check_not_owner(organization: &Organization, user: &UserId) -> Result<(), Refusal> {
    if organization.owner.as_ref() == Some(user) {
        return Err(Refusal::OwnershipRequired { organizations: vec![organization.id.to_string()], count: 1 });
    }
    Ok(())
}

impl OrganizationChange for UpdateMember {
    type Answer = Member;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        grant: Grant,
    ) -> Result<Member, ServiceError> {
        check_writable(&organization)?;
        let before = member(tx, &organization, &self.user).await?;
        let role = if let Some(name) = &self.role {
            check_not_owner(&organization, &self.user)?;
            grant.reaches(&before.role)?;
            let role = tx.assignable_role(&organization, name).await?;
            grant.reaches(&role)?;
            Some(role)
        } else {
            // Attributes hold no permission of roster's. What they mean is up to the application, so users change them within
            // the ceiling; a service is the application.
            if tx.user().is_some() {
                grant.reaches(&before.role)?;
            }
            before.role.require()?;
            None
        };
        check_etag(self.etag.as_deref(), &before.etag())?;
        let stored = if before.role.name == RoleName::OWNER {
            &tx.role(organization.id, &RoleName::ADMIN).await?
        } else {
            &before.role
        };
        let role = role.as_ref().unwrap_or(stored);
        let attributes = self.attributes.as_ref().unwrap_or(&before.attributes);
        if role == stored && *attributes == before.attributes {
            return with_user(tx, before).await;
        }
        if !role.require()?.includes(stored.require()?) && tx.user() == Some(&self.user) {
            tx.revoke_own_access();
        }
        let after = tx.update_member(&mut organization, &before, role, attributes).await?;
        with_user(tx, after).await
    }
}

async fn remove(
    tx: &mut UnitOfWork<'_>,
    mut organization: Organization,
    membership: Membership,
) -> Result<Member, ServiceError> {
    if tx.user() == Some(&membership.user) {
        tx.revoke_own_access();
    }
    tx.remove_member(&mut organization, &membership).await?;
    let member = with_user(tx, membership).await?;
    revoke_invitations_to(tx, &mut organization, &member.user).await?;
    Ok(member)
}

/// Revokes the pending invitations to a removed user's verified address: the user must not become a member again through
/// one. An invitation to an unverified address may be another person's.
async fn revoke_invitations_to(
    tx: &mut UnitOfWork<'_>,
    organization: &mut Organization,
    user: &User,
) -> Result<(), ServiceError> {
    match user.verified_email() {
        Some(email) => revoke_all(tx, organization, PendingInvitations::To(email)).await,
        None => Ok(()),
    }
}

impl OrganizationChange for RemoveMember {
    type Answer = Member;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: Organization,
        grant: Grant,
    ) -> Result<Member, ServiceError> {
        check_writable(&organization)?;
        let membership = member(tx, &organization, &self.user).await?;
        check_not_owner(&organization, &self.user)?;
        grant.reaches_removal(&membership.role)?;
        check_etag(self.etag.as_deref(), &membership.etag())?;
        remove(tx, organization, membership).await
    }
}

pub(super) struct Leave {
    pub(super) user: UserId,
}

impl OrganizationChange for Leave {
    type Answer = Member;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: Organization,
        _: Grant,
    ) -> Result<Member, ServiceError> {
        check_writable(&organization)?;
        check_not_owner(&organization, &self.user)?;
        let membership = member(tx, &organization, &self.user).await?;
        remove(tx, organization, membership).await
    }
}

pub(super) struct Transfer {
    pub(super) input: TransferOwnership,
    pub(super) to_unknown: UnknownOwners,
}

impl OrganizationChange for Transfer {
    type Answer = TransferredOwnership;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        _: Grant,
    ) -> Result<TransferredOwnership, ServiceError> {
        let TransferOwnership { person, etag } = &self.input;
        match organization.state() {
            OrganizationState::Active | OrganizationState::Inactive => {}
            OrganizationState::Pending => return Err(Refusal::OrganizationPending.into()),
            OrganizationState::Deleted => return Err(Refusal::OrganizationDeleted.into()),
            OrganizationState::Unknown => return Err(unknown_state().into()),
        }
        check_etag(etag.as_deref(), &organization.etag())?;
        let target = find(tx, person).await?;
        if organization.owner.as_ref() == Some(&target) {
            let owner = users::get(tx.connection, &target).await?.ok_or(Refusal::UserNotFound)?;
            return Ok(TransferredOwnership { organization, new_owner_known: owner.is_known });
        }
        let membership = tx.membership(organization.id, &target).await?.ok_or(Refusal::TargetNotMember)?;
        let users = tx.lock_users_for_share(&BTreeSet::from([target.clone()])).await?;
        let user = users.into_values().next().ok_or(Refusal::UserNotFound)?;
        check_user(&user)?;
        check_person(person, &user)?;
        membership.role.require()?;
        if !user.is_known && self.to_unknown == UnknownOwners::Refuse && !tx.by_operator() {
            return Err(Refusal::NewOwnerUnknown { user_id: target }.into());
        }
        if membership.role.name != RoleName::ADMIN {
            let admin = tx.role(organization.id, &RoleName::ADMIN).await?;
            tx.update_member(&mut organization, &membership, &admin, &membership.attributes).await?;
        }
        // The former owner is an admin from now on, and could not repeat the request.
        tx.revoke_own_access();
        let old = json!({ "owner": organization.owner });
        let new = json!({ "owner": target });
        let former = organization.owner.replace(target.clone());
        tx.save(&mut organization, DeletionMark::No, EventType::OwnerChanged, old, new).await?;
        let members: Vec<&UserId> = former.iter().chain([&target]).collect();
        memberships::record_ownership(tx.connection, &organization, &members).await?;
        Ok(TransferredOwnership { organization, new_owner_known: user.is_known })
    }
}

/// Removes a user from a locked organization that the user does not own. Returns false if the user is not a member.
pub(in crate::service) async fn remove_deleted_user(
    tx: &mut UnitOfWork<'_>,
    organization: &mut Organization,
    user: &User,
) -> Result<bool, ServiceError> {
    let Some(membership) = tx.membership(organization.id, &user.id).await? else { return Ok(false) };
    tx.remove_member(organization, &membership).await?;
    Ok(true)
}

/// The refusal that names the owned organizations, up to [`limits::NAMED_ORGANIZATIONS`].
pub(in crate::service) fn ownership_required(owned: &[OrganizationId]) -> Refusal {
    Refusal::OwnershipRequired {
        organizations: owned.iter().take(limits::NAMED_ORGANIZATIONS).map(ToString::to_string).collect(),
        count: u64::try_from(owned.len()).unwrap_or(u64::MAX),
    }
}
