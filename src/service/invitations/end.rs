//! The end of invitations: every way in which a pending one becomes final.

use crate::domain::event::EventType;
use crate::domain::{
    Invitation, InvitationId, InvitationState, Organization, OrganizationId, Recipient, Refusal, User, UserId,
    ValueKind,
};
use crate::random;
use crate::service::write::Change;
use crate::service::write::queue::QueueKey;
use crate::service::write::unit_of_work::UnitOfWork;
use crate::service::{ServiceError, limits};
use crate::store::invitations::{self, PendingInvitations};
use crate::store::outbox;
use serde_json::json;

/// Refuses an invitation that is not pending; the refusal names its state.
pub(super) fn check_pending(invitation: &Invitation) -> Result<(), Refusal> {
    match invitation.state {
        InvitationState::Pending => Ok(()),
        InvitationState::Unknown => Err(Refusal::ValueUnknown { value: ValueKind::InvitationState }),
        other => Err(Refusal::InvitationNotPending { state: other.as_str().to_owned() }),
    }
}

/// Refuses an invitation to own an organization that has an owner.
pub(super) fn check_not_void(invitation: &Invitation, organization: &Organization) -> Result<(), Refusal> {
    if invitation.is_void_in(organization) {
        return Err(Refusal::InvitationNotPending { state: InvitationState::Revoked.as_str().to_owned() });
    }
    Ok(())
}

/// Moves a pending invitation to its final state, with the event, and removes its queued mails.
pub(super) async fn settle(
    tx: &mut UnitOfWork<'_>,
    organization: &mut Organization,
    invitation: &Invitation,
    to: InvitationState,
    accepted_by: Option<&UserId>,
) -> Result<(), ServiceError> {
    // The lock order is mails before invitations, in every use case and in the outbox.
    outbox::remove_about(tx.connection, organization.id, &[invitation.id]).await?;
    if !invitations::settle(tx.connection, invitation, to, accepted_by).await? {
        // The organization is locked, so the invitation can only have expired.
        return Err(Refusal::InvitationNotPending { state: InvitationState::Expired.as_str().to_owned() }.into());
    }
    let kind = match to {
        InvitationState::Accepted => EventType::InvitationAccepted,
        InvitationState::Declined => EventType::InvitationDeclined,
        InvitationState::Revoked => EventType::InvitationRevoked,
        InvitationState::Pending | InvitationState::Expired | InvitationState::Unknown => EventType::InvitationExpired,
    };
    tx.record_invitation(organization, kind, json!({ "invitation": invitation.id }));
    Ok(())
}

/// Revokes pending invitations of the locked organization.
pub(in crate::service) async fn revoke_all(
    tx: &mut UnitOfWork<'_>,
    organization: &mut Organization,
    selection: PendingInvitations<'_>,
) -> Result<(), ServiceError> {
    let ids = invitations::unexpired(tx.connection, organization.id, selection).await?;
    end(tx, organization, &ids, InvitationState::Revoked, EventType::InvitationRevoked).await
}

/// Records the expiry of these invitations of the locked organization.
pub(super) async fn expire(
    tx: &mut UnitOfWork<'_>,
    organization: &mut Organization,
    ids: &[InvitationId],
) -> Result<(), ServiceError> {
    end(tx, organization, ids, InvitationState::Expired, EventType::InvitationExpired).await
}

async fn end(
    tx: &mut UnitOfWork<'_>,
    organization: &mut Organization,
    ids: &[InvitationId],
    to: InvitationState,
    kind: EventType,
) -> Result<(), ServiceError> {
    if ids.is_empty() {
        return Ok(());
    }
    // Mails before invitations, as in `settle`.
    outbox::remove_about(tx.connection, organization.id, ids).await?;
    invitations::end(tx.connection, organization.id, ids, to).await?;
    for id in ids {
        tx.record_invitation(organization, kind, json!({ "invitation": id }));
    }
    Ok(())
}

/// Erases a user who is being deleted from the invitations of the locked organization: revokes the pending invitation to
/// the user's verified address, and erases the recipients of those to this address and of those that the user accepted.
/// Removes the mails to the user. An invitation to an unverified address may be another person's.
pub(in crate::service) async fn erase_user(
    tx: &mut UnitOfWork<'_>,
    organization: &mut Organization,
    user: &User,
) -> Result<(), ServiceError> {
    outbox::remove_to(tx.connection, organization.id, &user.id).await?;
    let address = user.verified_email();
    if let Some(address) = address {
        let recipient = Recipient::Email(address.clone());
        match invitations::pending(tx.connection, organization.id, &recipient).await? {
            Some((id, true)) => expire(tx, organization, &[id]).await?,
            Some((id, false)) => {
                end(tx, organization, &[id], InvitationState::Revoked, EventType::InvitationRevoked).await?;
            }
            None => {}
        }
    }
    let salt = random::secret();
    Ok(invitations::erase_recipients(tx.connection, organization.id, &user.id, address, &salt).await?)
}

/// Records the expiry of an organization's invitations, for housekeeping. The answer is their number.
pub(in crate::service) struct ExpireInvitations(pub(in crate::service) OrganizationId);

impl Change for ExpireInvitations {
    type Place = Option<Organization>;
    type Answer = usize;

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::Organization(self.0))
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<Self::Place, ServiceError> {
        tx.lock(self.0).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, organization: Self::Place) -> Result<usize, ServiceError> {
        match organization {
            Some(mut organization) => {
                let most = limits::TIDY_EXPIRED_INVITATIONS;
                let ids = invitations::expired(tx.connection, organization.id, most).await?;
                expire(tx, &mut organization, &ids).await?;
                Ok(ids.len())
            }
            None => Ok(0),
        }
    }
}
