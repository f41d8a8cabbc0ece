//! Organizations: creation, updates, activation, deletion, restoration and purge.

use super::invitations::{
    InvitationSettings, Invite, InviteAll, IssuedInvitation, Terms, check_delivery, inviter, revoke_all,
};
use super::write::preconditions::{check_etag, check_user, check_writable, unknown_state};
use super::write::queue::QueueKey;
use super::write::unit_of_work::{DeletionMark, UnitOfWork};
use super::write::{Change, Meta, OrganizationChange, WriteAnswer, WriteResult, enter_as_caller, hold_caller};
use super::{Roster, ServiceError};
use crate::authn::Caller;
use crate::authz::decide::{Access, Grant};
use crate::domain::event::EventType;
use crate::domain::{
    Attributes, EmailAddress, Invitation, Inviter, Kind, Locale, Name, Organization, OrganizationId, OrganizationState,
    PermissionSet, Recipient, Refusal, RoleName, Slug, UserId,
};
use crate::random;
use crate::service::limits;
use crate::store::invitations::PendingInvitations;
use crate::store::{organizations, slugs};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;

/// The organization to create.
#[derive(Debug, Clone)]
pub struct CreateOrganization {
    /// The name of the organization.
    pub name: Name,
    /// The slug; if `None`, it is derived from the name.
    pub slug: Option<Slug>,
    /// The kind, which never changes afterwards.
    pub kind: Kind,
    /// The deployment's own data about the organization.
    pub attributes: Attributes,
    /// The owner. If `None`, the calling user; if a service or an operator calls, the organization has no owner and is
    /// pending.
    pub owner: Option<Owner>,
    /// The deployment's own data about the owner's membership.
    pub owner_attributes: Attributes,
    /// The locale of the mails to an owner named by address; `None` for that of the deployment.
    pub owner_locale: Option<Locale>,
    /// Whether to create it inactive. Requires an owner.
    pub inactive: bool,
}

/// The owner of a new organization.
#[derive(Debug, Clone)]
pub enum Owner {
    /// This user owns the organization from its creation.
    User(UserId),
    /// The user with this verified address who accepts the owner's invitation. Until then the organization is pending,
    /// whether or not a user with this address exists.
    Address(EmailAddress, Terms),
}

/// A new organization.
#[derive(Serialize, Deserialize)]
pub struct CreatedOrganization {
    /// The organization as it was created.
    pub organization: Organization,
    /// The owner's invitation, if the owner was named by address.
    pub owner: Option<IssuedInvitation>,
}

impl WriteAnswer for CreatedOrganization {
    fn invitations(&mut self) -> Vec<&mut Invitation> {
        self.owner.iter_mut().map(|owner| &mut owner.invitation).collect()
    }
}

/// The changes of an organization. Fields that are `None` stay unchanged.
#[derive(Debug, Clone)]
pub struct UpdateOrganization {
    /// The new name.
    pub name: Option<Name>,
    /// The new slug.
    pub slug: Option<Slug>,
    /// The new attributes.
    pub attributes: Option<Attributes>,
    /// The expected etag; `None` to skip the check.
    pub etag: Option<String>,
}

/// The options of a deletion.
#[derive(Debug, Clone)]
pub struct DeleteOrganization {
    /// Whether to purge the organization at once, for good.
    pub purge: bool,
    /// The expected etag; `None` to skip the check.
    pub etag: Option<String>,
}

impl Roster {
    /// Creates an organization.
    ///
    /// # Errors
    /// `CALLER_NOT_ALLOWED` for a user who names another owner, `SLUG_TAKEN`, `USER_INACTIVE`, `USER_DELETED`,
    /// `MAIL_OFF`.
    pub async fn create_organization(
        &self,
        caller: Caller,
        meta: Meta,
        input: CreateOrganization,
    ) -> Result<WriteResult<CreatedOrganization>, ServiceError> {
        if let Some(Owner::Address(address, terms)) = &input.owner {
            let recipient = Recipient::Email(address.clone());
            check_delivery(&caller, terms, self.invitations.mail, std::iter::once(&recipient))?;
        }
        let inviter = inviter(&caller)?;
        let settings = (*self.invitations).clone();
        let written = self.write(Some(caller), meta, Create { input, inviter, settings }).await;
        self.mail_due.notify_one();
        written
    }

    /// Changes the name, the slug or the attributes.
    ///
    /// # Errors
    /// `SLUG_TAKEN`, `ETAG_MISMATCH`, `ORGANIZATION_INACTIVE`.
    pub async fn update_organization(
        &self,
        access: Access,
        meta: Meta,
        input: UpdateOrganization,
    ) -> Result<WriteResult<Organization>, ServiceError> {
        self.write_in(access, meta, input).await
    }

    /// Activates or deactivates an organization.
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

    /// Deletes an organization, either restorably or for good.
    ///
    /// # Errors
    /// `ETAG_MISMATCH`, `OPERATOR_REQUIRED`.
    pub async fn delete_organization(
        &self,
        access: Access,
        meta: Meta,
        input: DeleteOrganization,
    ) -> Result<WriteResult<Organization>, ServiceError> {
        self.write_in(access, meta, input).await
    }

    /// Restores a deleted organization.
    ///
    /// # Errors
    /// `USER_INACTIVE` if its owner was deactivated after the deletion.
    pub async fn undelete_organization(
        &self,
        access: Access,
        meta: Meta,
    ) -> Result<WriteResult<Organization>, ServiceError> {
        self.write_in(access, meta, Undelete).await
    }
}

struct Create {
    input: CreateOrganization,
    inviter: Inviter,
    settings: InvitationSettings,
}

impl Change for Create {
    type Place = ();
    type Answer = CreatedOrganization;

    fn queue(&self) -> Option<QueueKey> {
        // A slug that is derived from the name waits for concurrent claims too.
        self.input.slug.clone().or_else(|| Slug::from_name(self.input.name.as_str())).map(QueueKey::Slug)
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<(), ServiceError> {
        enter_as_caller(tx).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, (): ()) -> Result<CreatedOrganization, ServiceError> {
        let input = &self.input;
        let owner = self.owner(tx)?;
        if input.inactive && owner.is_none() {
            return Err(Refusal::field("inactive", "an inactive organization needs an owner: name one").into());
        }
        if owner.is_none() && input.owner.is_none() && input.owner_attributes != Attributes::default() {
            return Err(Refusal::field("owner_attributes", "attributes of an owner need an owner: name one").into());
        }
        let state = match (&owner, input.inactive) {
            (None, _) => OrganizationState::Pending,
            (Some(_), false) => OrganizationState::Active,
            (Some(_), true) => OrganizationState::Inactive,
        };
        let id = OrganizationId::from_uuid(random::uuid());
        // The lock order is slugs before users, in every use case.
        let slug = claim(tx, input.slug.as_ref(), &input.name, id).await?;
        if let Some(owner) = &owner {
            hold_owner(tx, owner).await?;
        }
        let new = organizations::NewOrganization {
            id,
            slug,
            name: input.name.clone(),
            kind: input.kind.clone(),
            attributes: input.attributes.clone(),
            state,
            deactivated_by_operator: input.inactive && tx.by_operator(),
            owner: owner.clone(),
        };
        let mut organization = tx.create(&new).await?;
        if let Some(owner) = &owner {
            let admin = tx.role(organization.id, &RoleName::ADMIN).await?;
            tx.add_member(&mut organization, owner, &admin, &input.owner_attributes).await?;
        }
        let owner = self.invite_owner(tx, &mut organization).await?;
        Ok(CreatedOrganization { organization, owner })
    }
}

impl Create {
    /// The owner from creation on, if there is one. Users create organizations for themselves only.
    fn owner(&self, tx: &UnitOfWork<'_>) -> Result<Option<UserId>, Refusal> {
        match (tx.user(), &self.input.owner) {
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
        tx: &mut UnitOfWork<'_>,
        organization: &mut Organization,
    ) -> Result<Option<IssuedInvitation>, ServiceError> {
        let Some(Owner::Address(address, terms)) = &self.input.owner else { return Ok(None) };
        let input = Invite {
            recipient: Recipient::Email(address.clone()),
            role: RoleName::ADMIN,
            attributes: self.input.owner_attributes.clone(),
            locale: self.input.owner_locale.clone(),
        };
        let invite = InviteAll {
            inputs: vec![input],
            terms: terms.clone(),
            inviter: self.inviter.clone(),
            settings: self.settings.clone(),
            makes_owner: true,
        };
        // The future owner will hold everything.
        let grant = Grant { permissions: PermissionSet::EVERYTHING, role: None };
        let invitation = invite.invite(tx, organization, &grant).await?.into_iter().next();
        Ok(invitation.transpose()?)
    }
}

async fn hold_owner(tx: &mut UnitOfWork<'_>, owner: &UserId) -> Result<(), ServiceError> {
    for user in tx.lock_users_for_share(&BTreeSet::from([owner.clone()])).await?.values() {
        // Checked again now that the user is held: the caller may have been deactivated since the first decision.
        if tx.user() == Some(&user.id) {
            hold_caller(tx).await?;
        }
        check_user(user)?;
    }
    Ok(())
}

/// Claims the requested slug, or one derived from the name. A derived slug that is taken gets a number, and random digits
/// if every number is taken. The slug is random if the name has none.
async fn claim(
    tx: &mut UnitOfWork<'_>,
    requested: Option<&Slug>,
    name: &Name,
    id: OrganizationId,
) -> Result<Slug, ServiceError> {
    if let Some(slug) = requested {
        let free = tx.claim_slug(slug, id).await?;
        return if free { Ok(slug.clone()) } else { Err(Refusal::SlugTaken { slug: slug.to_string() }.into()) };
    }
    let plain = Slug::from_name(name.as_str());
    if let Some(plain) = &plain {
        let mut candidates = vec![plain.clone()];
        candidates.extend((2..=limits::SLUG_SUFFIXES).map(|number| plain.numbered(number)));
        // Another transaction may claim the free slug first: then try the next one.
        while let Some(index) = slugs::first_free(tx.connection, &candidates).await? {
            let slug = candidates[index].clone();
            if tx.claim_slug(&slug, id).await? {
                return Ok(slug);
            }
            candidates.drain(..=index);
        }
    }
    let slug = Slug::random(plain.as_ref(), random::bits());
    let free = tx.claim_slug(&slug, id).await?;
    if free { Ok(slug) } else { Err(Refusal::Conflict.into()) }
}

impl OrganizationChange for UpdateOrganization {
    type Answer = Organization;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        _: Grant,
    ) -> Result<Organization, ServiceError> {
        check_writable(&organization)?;
        check_etag(self.etag.as_deref(), &organization.etag())?;
        let (mut old, mut new) = (serde_json::Map::new(), serde_json::Map::new());
        if let Some(name) = self.name.as_ref().filter(|name| **name != organization.name) {
            old.insert("name".to_owned(), json!(organization.name));
            new.insert("name".to_owned(), json!(name));
            organization.name = name.clone();
        }
        if let Some(slug) = self.slug.as_ref().filter(|slug| **slug != organization.slug) {
            if !tx.claim_slug(slug, organization.id).await? {
                return Err(Refusal::SlugTaken { slug: slug.to_string() }.into());
            }
            slugs::release(tx.connection, &organization.slug, organization.id).await?;
            old.insert("slug".to_owned(), json!(organization.slug));
            new.insert("slug".to_owned(), json!(slug));
            organization.slug = slug.clone();
        }
        if let Some(attributes) = self.attributes.as_ref().filter(|attributes| **attributes != organization.attributes)
        {
            old.insert("attributes".to_owned(), json!(organization.attributes));
            new.insert("attributes".to_owned(), json!(attributes));
            organization.attributes = attributes.clone();
        }
        if !new.is_empty() {
            tx.save(&mut organization, DeletionMark::No, EventType::OrganizationUpdated, old.into(), new.into())
                .await?;
        }
        Ok(organization)
    }
}

struct SetActive {
    active: bool,
}

fn activation_details(state: OrganizationState, by_operator: bool) -> serde_json::Value {
    json!({ "state": state.as_str(), "by_operator": by_operator })
}

impl OrganizationChange for SetActive {
    type Answer = Organization;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        _: Grant,
    ) -> Result<Organization, ServiceError> {
        let (state, kind) = match organization.state() {
            OrganizationState::Deleted => return Err(Refusal::OrganizationDeleted.into()),
            OrganizationState::Pending => return Err(Refusal::OrganizationPending.into()),
            OrganizationState::Unknown => return Err(unknown_state().into()),
            OrganizationState::Active | OrganizationState::Inactive if self.active => {
                (OrganizationState::Active, EventType::OrganizationActivated)
            }
            OrganizationState::Active | OrganizationState::Inactive => {
                (OrganizationState::Inactive, EventType::OrganizationDeactivated)
            }
        };
        if self.active && organization.deactivated_by_operator && !tx.by_operator() {
            return Err(Refusal::OperatorRequired.into());
        }
        // If an operator deactivates it again, only an operator may activate it. If another caller does, the former
        // rule stays.
        let by_operator = !self.active && (tx.by_operator() || organization.deactivated_by_operator);
        if (organization.stored_state, organization.deactivated_by_operator) != (state, by_operator) {
            let old = activation_details(organization.stored_state, organization.deactivated_by_operator);
            let new = activation_details(state, by_operator);
            organization.stored_state = state;
            organization.deactivated_by_operator = by_operator;
            tx.save(&mut organization, DeletionMark::No, kind, old, new).await?;
        }
        Ok(organization)
    }
}

impl OrganizationChange for DeleteOrganization {
    type Answer = Organization;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        _: Grant,
    ) -> Result<Organization, ServiceError> {
        if self.purge && !tx.by_operator() {
            return Err(Refusal::OperatorRequired.into());
        }
        check_etag(self.etag.as_deref(), &organization.etag())?;
        // After a deletion the caller no longer has access, and could not repeat the request.
        tx.revoke_own_access();
        if self.purge {
            tx.purge(&mut organization).await?;
        } else if organization.state() != OrganizationState::Deleted {
            let old = json!({ "state": organization.state().as_str() });
            let new = json!({ "state": OrganizationState::Deleted.as_str() });
            revoke_all(tx, &mut organization, PendingInvitations::All).await?;
            tx.save(&mut organization, DeletionMark::Deleted, EventType::OrganizationDeleted, old, new).await?;
        }
        Ok(organization)
    }
}

struct Undelete;

impl OrganizationChange for Undelete {
    type Answer = Organization;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        _: Grant,
    ) -> Result<Organization, ServiceError> {
        if organization.state() == OrganizationState::Deleted {
            if let Some(owner) = organization.owner.clone() {
                // An owner can be deactivated while the organization is deleted, and not while it exists.
                tx.lock_users_for_share(&BTreeSet::from([owner])).await?.values().try_for_each(check_user)?;
            }
            let old = json!({ "state": organization.state().as_str() });
            organization.deletion = None;
            if organization.state() == OrganizationState::Unknown {
                return Err(unknown_state().into());
            }
            let new = json!({ "state": organization.state().as_str() });
            tx.save(&mut organization, DeletionMark::No, EventType::OrganizationUndeleted, old, new).await?;
        }
        Ok(organization)
    }
}

/// Purges an organization, if its purge is still due.
pub(super) struct PurgeIfDue(pub(super) OrganizationId);

impl Change for PurgeIfDue {
    type Place = Option<Organization>;
    type Answer = bool;

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::Organization(self.0))
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<Self::Place, ServiceError> {
        tx.lock(self.0).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, organization: Self::Place) -> Result<bool, ServiceError> {
        // Read again under the lock: it may have been restored, or purged by another process.
        match organization {
            Some(mut organization) if organizations::is_due(tx.connection, organization.id).await? => {
                tx.purge(&mut organization).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
