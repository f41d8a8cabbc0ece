//! The recipient's side of invitations: preview, accept, decline.
//!
//! A caller learns nothing about an invitation before the token is known to be valid or the invitation to be addressed
//! to the caller. Callers cannot distinguish unknown, foreign, used, revoked and expired tokens: all of them take one
//! statement and get one answer.

use super::end::{check_not_void, check_pending, settle};
use super::{InvitationKey, InvitationPageKey, InvitationPreview, tokens};
use crate::authn::{Caller, CallerKey};
use crate::domain::{
    EmailAddress, Invitation, InvitationId, InvitationState, Inviter, Member, Organization, OrganizationState,
    Permission, PermissionSet, Quota, Recipient, Refusal, Role, RoleName, User, UserId, UserState, ValueKind,
};
use crate::service::members::{AddMember, AddOutcome, MemberNotification, Person, add};
use crate::service::write::preconditions::unknown_state;
use crate::service::write::queue::QueueKey;
use crate::service::write::unit_of_work::UnitOfWork;
use crate::service::write::{Change, Meta, WriteResult, hold_caller};
use crate::service::{Roster, ServiceError};
use crate::store::row_page::RowPage;
use crate::store::{StoreError, invitation_tokens, invitations, quotas, users};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use std::collections::BTreeSet;
use std::time::Duration;

const MINUTE: Duration = Duration::from_mins(1);

/// A reference to an invitation, as its recipient sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvitationReference {
    /// The invitation token, unchecked: any text.
    Token(String),
    /// The invitation's id; only for an invitation to an e-mail address.
    Id(InvitationId),
}

impl Roster {
    /// Describes the invitation of a token, before the caller decides about it.
    ///
    /// # Errors
    /// `INVITATION_NOT_FOUND`, `QUOTA_EXCEEDED`.
    pub async fn preview(&self, caller: &Caller, token: &str) -> Result<InvitationPreview, ServiceError> {
        self.find_by_token(caller, token).await
    }

    /// Lists the pending invitations to the calling user's verified address.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn received_invitations(
        &self,
        user: &UserId,
        after: Option<InvitationPageKey>,
        limit: i64,
    ) -> Result<RowPage<InvitationPreview>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = list_received(&mut connection, user, after, limit).await;
        Ok(connection.finish(outcome)?)
    }

    /// Accepts an invitation: the calling user becomes a member.
    ///
    /// # Errors
    /// `INVITATION_NOT_FOUND`, `NOT_YOUR_INVITATION`, `INVITATION_NOT_PENDING`, `INVITER_NOT_ALLOWED`,
    /// `ORGANIZATION_INACTIVE`, `ORGANIZATION_PENDING`, `QUOTA_EXCEEDED`.
    pub async fn accept(
        &self,
        caller: Caller,
        user: UserId,
        meta: Meta,
        reference: InvitationReference,
    ) -> Result<WriteResult<Member>, ServiceError> {
        let key = self.find(&caller, &user, &reference).await?;
        self.write(Some(caller), meta, Accept { key, user, token: token_hash(&reference) }).await
    }

    /// Declines an invitation.
    ///
    /// # Errors
    /// `INVITATION_NOT_FOUND`, `NOT_YOUR_INVITATION`, `INVITATION_NOT_PENDING`, `QUOTA_EXCEEDED`.
    pub async fn decline(
        &self,
        caller: Caller,
        user: UserId,
        meta: Meta,
        reference: InvitationReference,
    ) -> Result<WriteResult<()>, ServiceError> {
        // The token of a declined invitation is invalid, so a caller that lost the response could not repeat the
        // request. The stored answer is looked up first, so that a repetition does not count as a failed token; and
        // again if the invitation is not found, because the first request may have finished in between.
        if let Some(stored) = self.replayed_answer(&caller, &meta).await? {
            return Ok(stored);
        }
        let key = match self.find(&caller, &user, &reference).await {
            Err(ServiceError::Refused(Refusal::InvitationNotFound)) => {
                let stored = self.replayed_answer(&caller, &meta).await?;
                return stored.ok_or_else(|| Refusal::InvitationNotFound.into());
            }
            found => found?,
        };
        self.write(Some(caller), meta, Decline { key, user, token: token_hash(&reference) }).await
    }

    /// Finds the invitation of a reference, if the caller may know that it exists.
    async fn find(
        &self,
        caller: &Caller,
        user: &UserId,
        reference: &InvitationReference,
    ) -> Result<InvitationKey, ServiceError> {
        match reference {
            InvitationReference::Token(token) => {
                let invitation = self.find_by_token(caller, token).await?.invitation;
                Ok((invitation.organization, invitation.id))
            }
            InvitationReference::Id(id) => {
                let mut connection = self.pool.acquire_read().await?;
                let outcome = find_by_id(&mut connection, *id, user).await;
                Ok(connection.finish(outcome)?.ok_or(Refusal::InvitationNotFound)?)
            }
        }
    }

    /// Finds the invitation of a valid token: one that is pending, or that the calling user has accepted.
    ///
    /// Takes one attempt from the caller's quota first and returns it if the token is valid, so that concurrent calls
    /// cannot exceed the quota.
    async fn find_by_token(&self, caller: &Caller, token: &str) -> Result<InvitationPreview, ServiceError> {
        let most = self.invitations.failed_tokens_per_minute;
        let subject = attempt_subject(caller);
        let mut connection = self.pool.acquire_read().await?;
        let lookup = async {
            if let Some(subject) = &subject
                && !quotas::take(&mut connection, subject, 1, most, MINUTE).await?
            {
                return Ok::<_, StoreError>((false, None));
            }
            let preview = invitation_tokens::find_valid(&mut connection, &tokens::hash(token), caller.user()).await?;
            if let (Some(subject), Some(_)) = (&subject, &preview) {
                quotas::give_back(&mut connection, subject, 1).await?;
            }
            Ok((true, preview))
        };
        let outcome = lookup.await;
        let (within_quota, preview) = connection.finish(outcome)?;
        if !within_quota {
            return Err(Refusal::quota(Quota::FailedTokensPerMinute, most, MINUTE).into());
        }
        Ok(preview.ok_or(Refusal::InvitationNotFound)?)
    }
}

async fn list_received(
    connection: &mut PgConnection,
    user: &UserId,
    after: Option<InvitationPageKey>,
    limit: i64,
) -> Result<RowPage<InvitationPreview>, StoreError> {
    match verified_address(users::get(connection, user).await?) {
        Some(address) => invitation_tokens::received(connection, &address, user, after, limit).await,
        None => Ok(RowPage { rows: Vec::new(), is_cut: false }),
    }
}

/// Finds an invitation to the user's verified address. The id proves nothing; the address does.
async fn find_by_id(
    connection: &mut PgConnection,
    id: InvitationId,
    user: &UserId,
) -> Result<Option<InvitationKey>, StoreError> {
    let Some(organization) = invitations::organization_of(connection, id).await? else { return Ok(None) };
    let Some(invitation) = invitations::get(connection, organization, id).await? else { return Ok(None) };
    let address = verified_address(users::get(connection, user).await?);
    Ok(match (&invitation.recipient, address) {
        (Some(Recipient::Email(invited)), Some(own)) if invited.normal() == own.normal() => Some((organization, id)),
        _ => None,
    })
}

/// The subject of the quota of failed tokens: a hash of the caller, and of the user if a service acts for one. `None` for
/// an anonymous caller, who has no quota.
fn attempt_subject(caller: &Caller) -> Option<[u8; 32]> {
    let actor = caller.actor()?;
    let via = actor.via.as_deref().unwrap_or_default();
    let mut subject = format!("token\0{}\0{}\0{via}", actor.kind, actor.id);
    if let CallerKey::Service(identity) = caller.key() {
        // Last, because an issuer may contain any character.
        subject = format!("{subject}\0{}", identity.namespace);
    }
    Some(Sha256::digest(subject).into())
}

fn token_hash(reference: &InvitationReference) -> Option<[u8; 32]> {
    match reference {
        InvitationReference::Token(token) => Some(tokens::hash(token)),
        InvitationReference::Id(_) => None,
    }
}

fn verified_address(user: Option<User>) -> Option<EmailAddress> {
    user.filter(|user| user.state == UserState::Active)?.verified_email().cloned()
}

/// An invitation and its organization. The organization's lock protects both.
struct LockedInvitation {
    organization: Organization,
    invitation: Invitation,
}

/// Locks the organization and reads the invitation again: the caller may have lost the right to it since it was found.
async fn enter(
    tx: &mut UnitOfWork<'_>,
    key: InvitationKey,
    user: &UserId,
    token: Option<&[u8; 32]>,
) -> Result<LockedInvitation, ServiceError> {
    let (organization_id, id) = key;
    let organization = tx.lock(organization_id).await?.ok_or(Refusal::InvitationNotFound)?;
    hold_caller(tx).await?;
    let invitation = invitations::get(tx.connection, organization.id, id).await?.ok_or(Refusal::InvitationNotFound)?;
    if let Some(hash) = token
        && invitation_tokens::invitation_of(tx.connection, hash).await? != Some(id)
    {
        // A reminder with `rotate` has replaced the token since.
        return Err(Refusal::InvitationNotFound.into());
    }
    match organization.state() {
        OrganizationState::Deleted => return Err(Refusal::InvitationNotFound.into()),
        OrganizationState::Inactive => return Err(Refusal::OrganizationInactive.into()),
        OrganizationState::Unknown => return Err(unknown_state().into()),
        OrganizationState::Active | OrganizationState::Pending => {}
    }
    check_recipient(tx, &invitation, user).await?;
    Ok(LockedInvitation { organization, invitation })
}

/// Checks that the user may answer the invitation: the user has verified the invited address, if it is to an address,
/// and is not the inviter.
async fn check_recipient(tx: &mut UnitOfWork<'_>, invitation: &Invitation, user: &UserId) -> Result<(), ServiceError> {
    let is_addressed = match &invitation.recipient {
        Some(Recipient::Email(address)) => {
            let own = verified_address(users::get(tx.connection, user).await?);
            own.is_some_and(|own| own.normal() == address.normal())
        }
        Some(Recipient::Other(_)) => true,
        // Erased with another user of the address.
        None => invitation.accepted_by.as_ref() == Some(user),
    };
    if !is_addressed {
        return Err(Refusal::NotYourInvitation.into());
    }
    if invitation.inviter.user().as_ref() == Some(user) {
        return Err(Refusal::NotYourInvitation.into());
    }
    Ok(())
}

struct Accept {
    key: InvitationKey,
    user: UserId,
    token: Option<[u8; 32]>,
}

impl Change for Accept {
    type Place = LockedInvitation;
    type Answer = Member;

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::Organization(self.key.0))
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<LockedInvitation, ServiceError> {
        enter(tx, self.key, &self.user, self.token.as_ref()).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, locked: LockedInvitation) -> Result<Member, ServiceError> {
        let LockedInvitation { mut organization, invitation } = locked;
        let users = tx.lock_users_for_share(&BTreeSet::from([self.user.clone()])).await?;
        let user = users.into_values().next().ok_or(Refusal::UserNotFound)?;
        let membership = tx.membership(organization.id, &self.user).await?;
        if invitation.accepted_by.as_ref() == Some(&self.user)
            && let Some(membership) = membership
        {
            // Accepted by the same user before: the answer is the same.
            return Ok(Member { membership, user });
        }
        check_pending(&invitation)?;
        check_not_void(&invitation, &organization)?;
        if organization.owner.is_none() && !invitation.makes_owner {
            // The first member becomes the owner, which is not the role that this invitation offers.
            return Err(Refusal::OrganizationPending.into());
        }
        let role = self.role(tx, &organization, &invitation.role.name).await?;
        check_inviter(tx, &organization, &invitation.inviter, &role).await?;
        settle(tx, &mut organization, &invitation, InvitationState::Accepted, Some(&self.user)).await?;
        let input = AddMember {
            person: Person::Id(self.user.clone()),
            role: role.name,
            attributes: invitation.attributes.clone(),
            locale: None,
            notify: MemberNotification::None,
        };
        match add(tx, &mut organization, &input, &user).await? {
            AddOutcome::Added(member) | AddOutcome::Present(member) => Ok(member),
        }
    }
}

impl Accept {
    /// The role that the member gets. The role of the invitation may be gone: the invitation then stays pending.
    async fn role(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: &Organization,
        name: &RoleName,
    ) -> Result<Role, ServiceError> {
        match tx.assignable_role(organization, name).await {
            Err(ServiceError::Refused(Refusal::InvalidRequest(_))) => {
                Err(Refusal::RoleNotFound { role: name.clone() }.into())
            }
            outcome => outcome,
        }
    }
}

/// Checks that a user who invited may still do so, and may still give this role. The rights of services and operators
/// do not depend on an organization, so they are not checked.
async fn check_inviter(
    tx: &mut UnitOfWork<'_>,
    organization: &Organization,
    inviter: &Inviter,
    role: &Role,
) -> Result<(), ServiceError> {
    if inviter.kind.known().is_none() {
        return Err(Refusal::ValueUnknown { value: ValueKind::InviterKind }.into());
    }
    let Some(inviter) = inviter.user() else { return Ok(()) };
    let membership = tx.membership(organization.id, &inviter).await?;
    let state = users::status(tx.connection, &inviter).await?.state;
    if state == Some(UserState::Unknown) {
        return Err(Refusal::ValueUnknown { value: ValueKind::UserState }.into());
    }
    let own = membership.as_ref().map(|membership| membership.role.require()).transpose()?;
    let required = role.require()?;
    let may_invite = |own: &PermissionSet| own.contains(Permission::INVITATIONS_CREATE) && own.includes(required);
    if state.is_none() && own.is_some_and(may_invite) { Ok(()) } else { Err(Refusal::InviterNotAllowed.into()) }
}

struct Decline {
    key: InvitationKey,
    user: UserId,
    token: Option<[u8; 32]>,
}

impl Change for Decline {
    type Place = LockedInvitation;
    type Answer = ();

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::Organization(self.key.0))
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<LockedInvitation, ServiceError> {
        enter(tx, self.key, &self.user, self.token.as_ref()).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, locked: LockedInvitation) -> Result<(), ServiceError> {
        let LockedInvitation { mut organization, invitation } = locked;
        check_pending(&invitation)?;
        tx.revoke_own_access();
        settle(tx, &mut organization, &invitation, InvitationState::Declined, None).await
    }
}
