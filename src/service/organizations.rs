//! Organizations: made, changed, switched on and off, handed over, deleted, restored, purged.

use super::invitations::{
    InvitationSettings, Invite, InviteAll, IssuedInvitation, Terms, check_delivery, inviter, revoke_all,
};
use super::write::preconditions::{check_etag, check_user, check_writable};
use super::write::unit_of_work::{DeletionMark, UnitOfWork};
use super::write::{Change, Meta, OrganizationChange, WriteResult, enter_as_caller};
use super::{Roster, ServiceError};
use crate::authn::Caller;
use crate::authz::decide::{self, Access, Grant};
use crate::domain::{
    Attributes, EmailAddress, Inviter, Kind, Name, Organization, OrganizationId, OrganizationState, Recipient, Refusal,
    Role, Slug, UserId,
};
use crate::random;
use crate::service::limits;
use crate::store::{organizations, slugs};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;

/// An organization to be made.
#[derive(Debug, Clone)]
pub struct CreateOrganization {
    /// What it is called.
    pub name: Name,
    /// Its slug; made from the name if none.
    pub slug: Option<Slug>,
    /// What sort it is.
    pub kind: Kind,
    /// What the deployment keeps there.
    pub attributes: Attributes,
    /// The owner; if none, the calling user, or nobody where a service or an operator calls.
    pub owner: Option<Owner>,
    /// What the deployment keeps about the owner's membership.
    pub owner_attributes: Attributes,
    /// Make it switched off.
    pub inactive: bool,
}

/// Who is to own a new organization.
#[derive(Debug, Clone)]
pub enum Owner {
    /// A user, at once.
    User(UserId),
    /// Whoever has verified this address and accepts: until then the organization is pending. It makes no difference
    /// whether somebody has.
    Address(EmailAddress, Terms),
}

/// A new organization, and the invitation of its owner, if one was made.
#[derive(Serialize, Deserialize)]
pub struct CreatedOrganization {
    /// The organization.
    pub organization: Organization,
    /// The owner's invitation.
    pub owner: Option<IssuedInvitation>,
}

/// What to change about an organization; what is none stays.
#[derive(Debug, Clone)]
pub struct UpdateOrganization {
    /// The new name.
    pub name: Option<Name>,
    /// The new slug.
    pub slug: Option<Slug>,
    /// The new attributes.
    pub attributes: Option<Attributes>,
    /// The etag that was read, if the change hangs on it.
    pub etag: Option<String>,
}

/// Whether to delete, and how.
#[derive(Debug, Clone)]
pub struct DeleteOrganization {
    /// For good, at once.
    pub purge: bool,
    /// The etag that was read, if the change hangs on it.
    pub etag: Option<String>,
}

impl Roster {
    /// Makes an organization.
    ///
    /// # Errors
    /// `CALLER_NOT_ALLOWED` for a user who names another owner, `SLUG_TAKEN`, `USER_INACTIVE`, `USER_DELETED`.
    pub async fn create_organization(
        &self,
        caller: Caller,
        meta: Meta,
        wish: CreateOrganization,
    ) -> Result<WriteResult<CreatedOrganization>, ServiceError> {
        if let Some(Owner::Address(address, terms)) = &wish.owner {
            let recipient = Recipient::Email(address.clone());
            check_delivery(&caller, terms, self.invitations.mail, std::iter::once(&recipient))?;
        }
        let inviter = inviter(&caller)?;
        let settings = (*self.invitations).clone();
        let written = self.write(Some(caller), meta, Create { wish, inviter, settings }).await;
        self.mail_due.notify_one();
        written
    }

    /// Changes name, slug or attributes.
    ///
    /// # Errors
    /// `SLUG_TAKEN`, `ETAG_MISMATCH`, `ORGANIZATION_INACTIVE`.
    pub async fn update_organization(
        &self,
        access: Access,
        meta: Meta,
        wish: UpdateOrganization,
    ) -> Result<WriteResult<Organization>, ServiceError> {
        self.write_in(access, meta, wish).await
    }

    /// Switches an organization on or off.
    ///
    /// # Errors
    /// `OPERATOR_REQUIRED`, `ORGANIZATION_PENDING`.
    pub async fn set_organization_active(
        &self,
        access: Access,
        meta: Meta,
        active: bool,
    ) -> Result<WriteResult<Organization>, ServiceError> {
        self.write_in(access, meta, SetActive { active }).await
    }

    /// Deletes an organization, restorably or for good.
    ///
    /// # Errors
    /// `ETAG_MISMATCH`, `OPERATOR_REQUIRED`.
    pub async fn delete_organization(
        &self,
        access: Access,
        meta: Meta,
        wish: DeleteOrganization,
    ) -> Result<WriteResult<Organization>, ServiceError> {
        self.write_in(access, meta, wish).await
    }

    /// Restores a deleted organization.
    ///
    /// # Errors
    /// `USER_INACTIVE` if its owner was switched off meanwhile.
    pub async fn undelete_organization(
        &self,
        access: Access,
        meta: Meta,
    ) -> Result<WriteResult<Organization>, ServiceError> {
        self.write_in(access, meta, Undelete).await
    }
}

struct Create {
    wish: CreateOrganization,
    inviter: Inviter,
    settings: InvitationSettings,
}

impl Change for Create {
    type Place = ();
    type Answer = CreatedOrganization;

    async fn enter(&self, unit: &mut UnitOfWork<'_>) -> Result<(), ServiceError> {
        enter_as_caller(unit).await
    }

    async fn apply(&self, unit: &mut UnitOfWork<'_>, (): ()) -> Result<CreatedOrganization, ServiceError> {
        let wish = &self.wish;
        let owner = self.owner(unit)?;
        if wish.inactive && owner.is_none() {
            return Err(Refusal::field("inactive", "an inactive organization needs an owner: name one").into());
        }
        let state = match (&owner, wish.inactive) {
            (None, _) => OrganizationState::Pending,
            (Some(_), false) => OrganizationState::Active,
            (Some(_), true) => OrganizationState::Inactive,
        };
        let id = OrganizationId::from_uuid(random::uuid());
        // Slugs before users, here and everywhere: one order of locks.
        let slug = claim(unit, wish.slug.as_ref(), &wish.name, id).await?;
        if let Some(owner) = &owner {
            hold_owner(unit, owner).await?;
        }
        let new = organizations::NewOrganization {
            id,
            slug,
            name: wish.name.clone(),
            kind: wish.kind.clone(),
            attributes: wish.attributes.clone(),
            state,
            deactivated_by_operator: wish.inactive && unit.by_operator(),
            owner: owner.clone(),
        };
        let mut here = unit.create(&new).await?;
        if let Some(owner) = &owner {
            unit.add_member(&mut here, owner, Role::ADMIN, &wish.owner_attributes).await?;
        }
        let invited = self.invite_owner(unit, &mut here).await?;
        Ok(CreatedOrganization { organization: here, owner: invited })
    }
}

impl Create {
    /// The owner from the first moment, if there is one. Users make organizations for themselves.
    fn owner(&self, unit: &UnitOfWork<'_>) -> Result<Option<UserId>, Refusal> {
        match (unit.user(), &self.wish.owner) {
            (Some(caller), None) => Ok(Some(caller.clone())),
            (Some(caller), Some(Owner::User(named))) if named == caller => Ok(Some(caller.clone())),
            (Some(_), Some(_)) => {
                let advice = "leave the owner out, and transfer the ownership afterwards".to_owned();
                Err(Refusal::CallerNotAllowed { caller: "user".to_owned(), advice })
            }
            (None, Some(Owner::User(named))) => Ok(Some(named.clone())),
            (None, Some(Owner::Address(..)) | None) => Ok(None),
        }
    }

    async fn invite_owner(
        &self,
        unit: &mut UnitOfWork<'_>,
        here: &mut Organization,
    ) -> Result<Option<IssuedInvitation>, ServiceError> {
        let Some(Owner::Address(address, terms)) = &self.wish.owner else { return Ok(None) };
        let wish = Invite {
            recipient: Recipient::Email(address.clone()),
            role: Role::ADMIN,
            attributes: self.wish.owner_attributes.clone(),
        };
        let invite = InviteAll {
            wishes: vec![wish],
            terms: terms.clone(),
            inviter: self.inviter.clone(),
            settings: self.settings.clone(),
            makes_owner: true,
        };
        let grant = Grant { permissions: Role::ADMIN.permissions(), role: None };
        let invited = invite.invite(unit, here, grant).await?.into_iter().next();
        Ok(invited.transpose()?)
    }
}

async fn hold_owner(unit: &mut UnitOfWork<'_>, owner: &UserId) -> Result<(), ServiceError> {
    for user in unit.hold_users(&BTreeSet::from([owner.clone()])).await?.values() {
        // Asked again now that they are held: the caller may have been switched off since.
        if unit.user() == Some(&user.id) {
            decide::require_active(Some(user.state))?;
        }
        check_user(user)?;
    }
    Ok(())
}

/// Claims the given slug, or one made from the name: with a number behind it when taken, a random one when nothing is
/// left of the name or too many numbers are taken.
async fn claim(
    unit: &mut UnitOfWork<'_>,
    given: Option<&Slug>,
    name: &Name,
    id: OrganizationId,
) -> Result<Slug, ServiceError> {
    if let Some(slug) = given {
        let free = unit.claim_slug(slug, id).await?;
        return if free { Ok(slug.clone()) } else { Err(Refusal::SlugTaken { slug: slug.to_string() }.into()) };
    }
    if let Some(plain) = Slug::from_name(name.as_str()) {
        let mut candidates = vec![plain.clone()];
        candidates.extend((2..=limits::SLUG_SUFFIXES).map(|number| plain.numbered(number)));
        // A free one may be gone a moment later: then the next one.
        while let Some(index) = slugs::first_free(unit.connection, &candidates).await? {
            let slug = candidates[index].clone();
            if unit.claim_slug(&slug, id).await? {
                return Ok(slug);
            }
            candidates.drain(..=index);
        }
    }
    let slug = Slug::random(random::bits());
    let free = unit.claim_slug(&slug, id).await?;
    if free { Ok(slug) } else { Err(Refusal::Conflict.into()) }
}

impl OrganizationChange for UpdateOrganization {
    type Answer = Organization;

    async fn apply(
        &self,
        unit: &mut UnitOfWork<'_>,
        mut here: Organization,
        _: Grant,
    ) -> Result<Organization, ServiceError> {
        check_writable(&here)?;
        check_etag(self.etag.as_deref(), &here.etag())?;
        let (mut old, mut new) = (serde_json::Map::new(), serde_json::Map::new());
        if let Some(name) = self.name.as_ref().filter(|name| **name != here.name) {
            old.insert("name".to_owned(), json!(here.name));
            new.insert("name".to_owned(), json!(name));
            here.name = name.clone();
        }
        if let Some(slug) = self.slug.as_ref().filter(|slug| **slug != here.slug) {
            if !unit.claim_slug(slug, here.id).await? {
                return Err(Refusal::SlugTaken { slug: slug.to_string() }.into());
            }
            slugs::release(unit.connection, &here.slug, here.id).await?;
            old.insert("slug".to_owned(), json!(here.slug));
            new.insert("slug".to_owned(), json!(slug));
            here.slug = slug.clone();
        }
        if let Some(attributes) = self.attributes.as_ref().filter(|attributes| **attributes != here.attributes) {
            old.insert("attributes".to_owned(), json!(here.attributes));
            new.insert("attributes".to_owned(), json!(attributes));
            here.attributes = attributes.clone();
        }
        if !new.is_empty() {
            unit.save(&mut here, DeletionMark::No, "organization.updated", old.into(), new.into()).await?;
        }
        Ok(here)
    }
}

struct SetActive {
    active: bool,
}

impl OrganizationChange for SetActive {
    type Answer = Organization;

    async fn apply(
        &self,
        unit: &mut UnitOfWork<'_>,
        mut here: Organization,
        _: Grant,
    ) -> Result<Organization, ServiceError> {
        let (state, kind) = match here.state() {
            OrganizationState::Deleted => return Err(Refusal::OrganizationDeleted.into()),
            OrganizationState::Pending => return Err(Refusal::OrganizationPending.into()),
            OrganizationState::Active | OrganizationState::Inactive if self.active => {
                (OrganizationState::Active, "organization.activated")
            }
            OrganizationState::Active | OrganizationState::Inactive => {
                (OrganizationState::Inactive, "organization.deactivated")
            }
        };
        if self.active && here.deactivated_by_operator && !unit.by_operator() {
            return Err(Refusal::OperatorRequired.into());
        }
        // Switched off again by an operator, it becomes theirs to switch on; by somebody else, it stays whose it was.
        let by_operator = !self.active && (unit.by_operator() || here.deactivated_by_operator);
        if (here.stored_state, here.deactivated_by_operator) != (state, by_operator) {
            let old = json!({ "state": here.stored_state.as_str(), "by_operator": here.deactivated_by_operator });
            let new = json!({ "state": state.as_str(), "by_operator": by_operator });
            here.stored_state = state;
            here.deactivated_by_operator = by_operator;
            unit.save(&mut here, DeletionMark::No, kind, old, new).await?;
        }
        Ok(here)
    }
}

impl OrganizationChange for DeleteOrganization {
    type Answer = Organization;

    async fn apply(
        &self,
        unit: &mut UnitOfWork<'_>,
        mut here: Organization,
        _: Grant,
    ) -> Result<Organization, ServiceError> {
        if self.purge && !unit.by_operator() {
            return Err(Refusal::OperatorRequired.into());
        }
        check_etag(self.etag.as_deref(), &here.etag())?;
        // Those who delete no longer see it, and could not repeat the request.
        unit.forfeit();
        if self.purge {
            unit.purge(&mut here).await?;
        } else if here.state() != OrganizationState::Deleted {
            let old = json!({ "state": here.state().as_str() });
            let new = json!({ "state": OrganizationState::Deleted.as_str() });
            revoke_all(unit, &mut here, None).await?;
            unit.save(&mut here, DeletionMark::Deleted, "organization.deleted", old, new).await?;
        }
        Ok(here)
    }
}

struct Undelete;

impl OrganizationChange for Undelete {
    type Answer = Organization;

    async fn apply(
        &self,
        unit: &mut UnitOfWork<'_>,
        mut here: Organization,
        _: Grant,
    ) -> Result<Organization, ServiceError> {
        if here.state() == OrganizationState::Deleted {
            if let Some(owner) = here.owner.clone() {
                // A deleted organization does not keep its owner from being switched off; a living one does.
                unit.hold_users(&BTreeSet::from([owner])).await?.values().try_for_each(check_user)?;
            }
            let old = json!({ "state": here.state().as_str() });
            here.deletion = None;
            let new = json!({ "state": here.state().as_str() });
            unit.save(&mut here, DeletionMark::No, "organization.undeleted", old, new).await?;
        }
        Ok(here)
    }
}

/// Purges one organization whose time has come, if it still has.
pub(super) struct PurgeIfDue(pub(super) OrganizationId);

impl Change for PurgeIfDue {
    type Place = Option<Organization>;
    type Answer = bool;

    async fn enter(&self, unit: &mut UnitOfWork<'_>) -> Result<Self::Place, ServiceError> {
        unit.lock(self.0).await
    }

    async fn apply(&self, unit: &mut UnitOfWork<'_>, here: Self::Place) -> Result<bool, ServiceError> {
        // Asked again under the lock: it may have been restored, or purged by another process.
        match here {
            Some(mut here) if organizations::is_due(unit.connection, here.id).await? => {
                unit.purge(&mut here).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
