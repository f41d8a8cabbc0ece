//! What the one invited does: looks, accepts, declines.
//!
//! Whoever holds a token, or names an invitation, is told nothing before it is clear that it is good and theirs: tokens
//! that are unknown, foreign, used, revoked or expired all take one statement and get one answer.

use super::tokens;
use super::{InvitationKey, InvitationPreview, check_pending, quota, settle};
use crate::authn::{Actor, Caller};
use crate::authz::decide;
use crate::domain::{
    EmailAddress, Invitation, InvitationId, InvitationState, Member, Organization, OrganizationState, Permission,
    Quota, Recipient, Refusal, Role, UserId, UserState,
};
use crate::service::members::{AddMember, AddOutcome, Person, add};
use crate::service::write::unit_of_work::UnitOfWork;
use crate::service::write::{Change, Meta, WriteResult};
use crate::service::{Roster, ServiceError};
use crate::store::{invitation_tokens, invitations, memberships, quotas, users};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::time::Duration;

const MINUTE: Duration = Duration::from_mins(1);

/// How an invitation is named by the one invited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvitationReference {
    /// By its token, as the caller brings it: it may be anything.
    Token(String),
    /// By its id, where it is to an address.
    Id(InvitationId),
}

impl Roster {
    /// Tells whoever holds a token what it is for.
    ///
    /// # Errors
    /// `INVITATION_NOT_FOUND`, `QUOTA_EXCEEDED`.
    pub async fn preview(&self, caller: &Caller, token: &str) -> Result<InvitationPreview, ServiceError> {
        self.good_token(caller, token).await
    }

    /// Lists the pending invitations to the calling user's verified address.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn received_invitations(
        &self,
        user: &UserId,
        after: Option<invitations::InvitationPageKey>,
        limit: i64,
    ) -> Result<Vec<InvitationPreview>, ServiceError> {
        let mut connection = self.pool.acquire().await?;
        match verified_address(users::get(&mut connection, user).await?) {
            Some(address) => Ok(invitation_tokens::received(&mut connection, &address, after, limit).await?),
            None => Ok(Vec::new()),
        }
    }

    /// Accepts: the calling user becomes a member.
    ///
    /// # Errors
    /// `INVITATION_NOT_FOUND`, `NOT_YOUR_INVITATION`, `INVITATION_NOT_PENDING`, `INVITER_NOT_ALLOWED`,
    /// `ORGANIZATION_INACTIVE`, `QUOTA_EXCEEDED`.
    pub async fn accept(
        &self,
        caller: Caller,
        user: UserId,
        meta: Meta,
        named: InvitationReference,
    ) -> Result<WriteResult<Member>, ServiceError> {
        let place = self.find(&caller, &user, &named).await?;
        self.write(Some(caller), meta, Accept { place, user, token: token_hash(&named) }).await
    }

    /// Declines.
    ///
    /// # Errors
    /// `INVITATION_NOT_FOUND`, `NOT_YOUR_INVITATION`, `INVITATION_NOT_PENDING`, `QUOTA_EXCEEDED`.
    pub async fn decline(
        &self,
        caller: Caller,
        user: UserId,
        meta: Meta,
        named: InvitationReference,
    ) -> Result<WriteResult<()>, ServiceError> {
        // Declined, a token is no good any more: who did not hear that they had declined could not ask again. Looked for
        // first, so that it is no try in vain; and once more, for it may have happened in between.
        if let Some(missed) = self.replayed_answer(&caller, &meta).await? {
            return Ok(missed);
        }
        let place = match self.find(&caller, &user, &named).await {
            Err(ServiceError::Refused(Refusal::InvitationNotFound)) => {
                let missed = self.replayed_answer(&caller, &meta).await?;
                return missed.ok_or_else(|| Refusal::InvitationNotFound.into());
            }
            found => found?,
        };
        self.write(Some(caller), meta, Decline { place, user, token: token_hash(&named) }).await
    }

    /// Finds the invitation that a caller names, if they may know of it.
    async fn find(
        &self,
        caller: &Caller,
        user: &UserId,
        named: &InvitationReference,
    ) -> Result<InvitationKey, ServiceError> {
        match named {
            InvitationReference::Token(token) => {
                let found = self.good_token(caller, token).await?.invitation;
                Ok((found.organization, found.id))
            }
            InvitationReference::Id(id) => {
                let mut connection = self.pool.acquire().await?;
                let organization = invitations::organization_of(&mut connection, *id).await?;
                let organization = organization.ok_or(Refusal::InvitationNotFound)?;
                let found = invitations::get(&mut connection, organization, *id).await?;
                let found = found.ok_or(Refusal::InvitationNotFound)?;
                // The id proves nothing; the address does.
                let own = verified_address(users::get(&mut connection, user).await?);
                match (&found.recipient, own) {
                    (Recipient::Email(invited), Some(own)) if invited.normal() == own.normal() => {
                        Ok((organization, *id))
                    }
                    _ => Err(Refusal::InvitationNotFound.into()),
                }
            }
        }
    }

    /// Finds the invitation of a token that is good: pending, or accepted by this very caller. One of the caller's tries
    /// of this minute is taken first and given back if it was not in vain, so that many at once cannot take more.
    async fn good_token(&self, caller: &Caller, token: &str) -> Result<InvitationPreview, ServiceError> {
        let mut connection = self.pool.acquire().await?;
        let subject = caller.actor().map(|actor| try_subject(&actor));
        if let Some(subject) = &subject {
            let most = self.invitations.failed_tokens_per_minute;
            if !quotas::take(&mut connection, subject, i32::try_from(most).unwrap_or(i32::MAX), MINUTE).await? {
                return Err(quota(Quota::FailedTokensPerMinute, most, MINUTE).into());
            }
        }
        let good = invitation_tokens::good(&mut connection, &tokens::hash(token), caller.user()).await?;
        let shown = good.ok_or(Refusal::InvitationNotFound)?;
        if let Some(subject) = &subject {
            quotas::give_back(&mut connection, subject).await?;
        }
        Ok(shown)
    }
}

/// The caller, hashed, for counting tries.
fn try_subject(actor: &Actor) -> [u8; 32] {
    Sha256::digest(format!("token\0{}\0{}\0{}", actor.kind, actor.id, actor.via.as_deref().unwrap_or_default())).into()
}

fn token_hash(named: &InvitationReference) -> Option<[u8; 32]> {
    match named {
        InvitationReference::Token(token) => Some(tokens::hash(token)),
        InvitationReference::Id(_) => None,
    }
}

fn verified_address(user: Option<crate::domain::User>) -> Option<EmailAddress> {
    user.filter(|user| user.email_verified && user.state == UserState::Active).and_then(|user| user.email)
}

/// The organization and its invitation, both locked by the organization's lock.
struct LockedInvitation {
    organization: Organization,
    invitation: Invitation,
}

/// Locks the organization and reads the invitation again; the caller may not have lost their right to it meanwhile.
async fn enter(
    tx: &mut UnitOfWork<'_>,
    place: InvitationKey,
    user: &UserId,
    token: Option<&[u8; 32]>,
) -> Result<LockedInvitation, ServiceError> {
    let (organization_id, id) = place;
    let organization = tx.lock(organization_id).await?.ok_or(Refusal::InvitationNotFound)?;
    decide::require_active(users::hold_state(tx.connection, user).await?)?;
    let invitation = invitations::get(tx.connection, organization.id, id).await?.ok_or(Refusal::InvitationNotFound)?;
    if let Some(hash) = token
        && invitation_tokens::invitation_of(tx.connection, hash).await? != Some(id)
    {
        // Rotated away since.
        return Err(Refusal::InvitationNotFound.into());
    }
    match organization.state() {
        OrganizationState::Deleted => return Err(Refusal::InvitationNotFound.into()),
        OrganizationState::Inactive => return Err(Refusal::OrganizationInactive.into()),
        OrganizationState::Active | OrganizationState::Pending => {}
    }
    check_theirs(tx, &invitation, user).await?;
    Ok(LockedInvitation { organization, invitation })
}

/// Whether an invitation is for this user: for an address, who has verified it; and never for who has made it.
async fn check_theirs(tx: &mut UnitOfWork<'_>, invitation: &Invitation, user: &UserId) -> Result<(), ServiceError> {
    if let Some(address) = invitation.recipient.email() {
        let own = verified_address(users::get(tx.connection, user).await?);
        if own.is_none_or(|own| own.normal() != address.normal()) {
            return Err(Refusal::NotYourInvitation.into());
        }
    }
    if invitation.inviter.user().as_ref() == Some(user) {
        return Err(Refusal::NotYourInvitation.into());
    }
    Ok(())
}

struct Accept {
    place: InvitationKey,
    user: UserId,
    token: Option<[u8; 32]>,
}

impl Change for Accept {
    type Place = LockedInvitation;
    type Answer = Member;

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<LockedInvitation, ServiceError> {
        enter(tx, self.place, &self.user, self.token.as_ref()).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, locked: LockedInvitation) -> Result<Member, ServiceError> {
        let LockedInvitation { mut organization, invitation } = locked;
        let held = tx.hold_users(&BTreeSet::from([self.user.clone()])).await?;
        let user = held.into_values().next().ok_or(Refusal::UserNotFound)?;
        let present = memberships::get(tx.connection, organization.id, &self.user).await?;
        if invitation.accepted_by.as_ref() == Some(&self.user)
            && let Some(membership) = present
        {
            // Once more by the same user: the same answer.
            return Ok(Member { membership, user });
        }
        check_pending(&invitation)?;
        check_inviter(tx, &organization, &invitation).await?;
        settle(tx, &mut organization, &invitation, InvitationState::Accepted, Some(&self.user)).await?;
        let input = AddMember {
            person: Person::Id(self.user.clone()),
            role: invitation.role,
            attributes: invitation.attributes.clone(),
            notify: None,
        };
        match add(tx, &mut organization, &input, &user).await?? {
            AddOutcome::Added(member) | AddOutcome::Present(member) => Ok(member),
        }
    }
}

/// Whether the one who invited may still do so, and still give this role. What services and operators may does not
/// depend on an organization.
async fn check_inviter(
    tx: &mut UnitOfWork<'_>,
    organization: &Organization,
    invitation: &Invitation,
) -> Result<(), ServiceError> {
    let Some(inviter) = invitation.inviter.user() else { return Ok(()) };
    let role: Option<Role> = memberships::get(tx.connection, organization.id, &inviter).await?.map(|found| found.role);
    let active = users::state(tx.connection, &inviter).await? == Some(UserState::Active);
    let may = role.is_some_and(|role| {
        let permissions = role.permissions();
        permissions.contains(Permission::InvitationsCreate) && permissions.includes(invitation.role.permissions())
    });
    if may && active { Ok(()) } else { Err(Refusal::InviterNotAllowed.into()) }
}

struct Decline {
    place: InvitationKey,
    user: UserId,
    token: Option<[u8; 32]>,
}

impl Change for Decline {
    type Place = LockedInvitation;
    type Answer = ();

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<LockedInvitation, ServiceError> {
        enter(tx, self.place, &self.user, self.token.as_ref()).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, locked: LockedInvitation) -> Result<(), ServiceError> {
        let LockedInvitation { mut organization, invitation } = locked;
        check_pending(&invitation)?;
        tx.revoke_own_access();
        settle(tx, &mut organization, &invitation, InvitationState::Declined, None).await
    }
}
