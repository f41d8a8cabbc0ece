//! Invitations. `manage` creates, resends and revokes them for the organization; `respond` accepts and declines them
//! for the recipient; `end` makes pending ones final; `tokens` mints invitation tokens; `mail_shares` counts the mails to
//! each mailbox. This module has the settings, the inputs and the reads.

mod end;
mod mail_shares;
mod manage;
pub mod respond;
pub(super) mod tokens;

pub(super) use end::{ExpireInvitations, erase_user, revoke_all};
pub(super) use mail_shares::MailReservation;
pub(super) use manage::{InviteAll, check_delivery, inviter};

use crate::authn::Secret;
use crate::authz::decide::Access;
use crate::domain::{
    Attributes, Delivery, Invalid, Invitation, InvitationId, InvitationState, Locale, OrganizationId, Recipient,
    Refusal, RoleName, ValueKind,
};
use crate::service::write::WriteAnswer;
use crate::service::{Roster, ServiceError, limits};
use crate::store::invitations;
use crate::store::row_page::RowPage;
use serde::{Deserialize, Serialize};
use std::time::Duration;

pub use crate::store::invitation_tokens::InvitationPreview;
pub use crate::store::invitations::{InvitationFilter, InvitationPageKey};

/// The quotas of a deployment, and whether it sends mail. `QUOTA_EXCEEDED` reports a quota by the name of its setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvitationSettings {
    /// Whether roster sends mail.
    pub mail: bool,
    /// Maximum pending invitations of one organization.
    pub pending_per_organization: u32,
    /// Maximum invitations that one organization creates in 24 hours.
    pub per_organization_and_day: u32,
    /// Maximum deliveries of one invitation: mails queued and invitation tokens returned.
    pub sends_per_invitation: u32,
    /// Minimum time between two deliveries of one invitation.
    pub cooldown: Duration,
    /// Maximum mails of all senders but operators to one recipient in 24 hours, over all organizations: invitations,
    /// reminders, and mails to new members. Plus-addresses of one mailbox count together.
    pub mails_per_recipient_and_day: u32,
    /// Maximum mails of one user to one recipient in 24 hours, over all organizations.
    pub mails_per_sender_to_recipient_and_day: u32,
    /// Maximum invalid invitation tokens from one caller in one minute.
    pub failed_tokens_per_minute: u32,
}

impl Default for InvitationSettings {
    fn default() -> Self {
        Self {
            mail: false,
            pending_per_organization: 100,
            per_organization_and_day: 50,
            sends_per_invitation: 10,
            cooldown: Duration::from_mins(1),
            mails_per_recipient_and_day: 10,
            mails_per_sender_to_recipient_and_day: 3,
            failed_tokens_per_minute: 20,
        }
    }
}

/// The invitation to create.
#[derive(Debug, Clone)]
pub struct Invite {
    /// The recipient: an e-mail address, or another identifier.
    pub recipient: Recipient,
    /// The role of the future member.
    pub role: RoleName,
    /// The attributes of the future membership.
    pub attributes: Attributes,
    /// The locale of the mails; `None` for that of the deployment.
    pub locale: Option<Locale>,
}

/// The options that apply to every invitation of one call.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The delivery of the invitation token. `None`: by e-mail to an address, no delivery to another identifier.
    pub delivery: Option<Delivery>,
    /// The lifetime of the invitations.
    pub life: Duration,
    /// Whether nothing is committed: then no invitation token is returned, because it would be invalid.
    pub dry_run: bool,
}

/// An invitation, and its token if the caller requested it. The token is returned once: it is not part of the stored
/// answer.
#[derive(Serialize, Deserialize)]
pub struct IssuedInvitation {
    /// The invitation as it was created or reminded of.
    pub invitation: Invitation,
    /// The invitation token; always `None` in a repeated answer.
    #[serde(skip)]
    pub token: Option<Secret>,
}

impl WriteAnswer for IssuedInvitation {
    fn invitations(&mut self) -> Vec<&mut Invitation> {
        vec![&mut self.invitation]
    }
}

impl Roster {
    /// Reads an invitation of the organization.
    ///
    /// # Errors
    /// `INVITATION_NOT_FOUND`, `VALUE_UNKNOWN`; if the datastore does not answer.
    pub async fn get_invitation(&self, access: &Access, id: InvitationId) -> Result<Invitation, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = invitations::get(&mut connection, access.organization(), id).await;
        let invitation = connection.finish(outcome)?.ok_or(Refusal::InvitationNotFound)?;
        match invitation.state {
            InvitationState::Unknown => Err(Refusal::ValueUnknown { value: ValueKind::InvitationState }.into()),
            _ => Ok(invitation),
        }
    }

    /// Lists the organization's invitations.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_invitations(
        &self,
        access: &Access,
        filter: &InvitationFilter,
    ) -> Result<RowPage<Invitation>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = invitations::list(&mut connection, access.organization(), filter).await;
        Ok(connection.finish(outcome)?)
    }
}

/// The lifetime of an invitation, given the requested one.
///
/// # Errors
/// If the requested lifetime is outside [`limits::INVITATION_LIVES`].
pub fn life(requested: Option<Duration>) -> Result<Duration, Invalid> {
    match requested {
        None => Ok(limits::INVITATION_LIFE),
        Some(life) if limits::INVITATION_LIVES.contains(&life) => Ok(life),
        Some(_) => Err(Invalid::new("an invitation is good for an hour to 30 days")),
    }
}

/// The key of an invitation: its organization and its id.
pub(super) type InvitationKey = (OrganizationId, InvitationId);
