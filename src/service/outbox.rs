//! The outbox: mails that wait, claimed one by one by whoever sends them.
//!
//! A letter is claimed, and its token minted, in one transaction that is committed before anything is sent: a process
//! that dies after that leaves a lease that runs out, and the letter is sent again under the same Message-ID. None is
//! lost; some are sent twice.

use super::invitations::tokens;
use super::write::unit_of_work::UnitOfWork;
use super::write::{Change, Meta};
use super::{Roster, ServiceError};
use crate::authn::Secret;
use crate::domain::event::EventType;
use crate::domain::{
    DisplayName, EmailAddress, InvitationState, Inviter, MailState, Name, Organization, OrganizationState, Recipient,
    Role, User, UserState,
};
use crate::service::limits;
pub use crate::store::outbox::Backlog;
use crate::store::outbox::{self, QueuedMail, Subject};
use crate::store::{invitation_tokens, invitations, memberships, organizations, users};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

/// What a mail is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// Somebody is invited.
    Invitation,
    /// Once more.
    Reminder,
    /// Somebody was added.
    Added,
    /// Somebody is to become the owner of an organization that waits for them.
    OwnerActivation,
}

/// A mail to be sent, claimed from the outbox. It holds a token, so it cannot be printed.
pub struct Letter {
    /// The id of the outbox's row: the Message-ID is made from it, and stays the same over all tries.
    pub id: Uuid,
    /// What it is for.
    pub occasion: Occasion,
    /// To whom.
    pub to: EmailAddress,
    /// What the organization is called.
    pub organization: Name,
    /// Who invites or adds, by name.
    pub sender: Option<DisplayName>,
    /// The sender's verified address.
    pub reply_to: Option<EmailAddress>,
    /// The role.
    pub role: Role,
    /// The token; none for [`Occasion::Added`].
    pub token: Option<Secret>,
    /// When the invitation's time is over; none for [`Occasion::Added`].
    pub expire_time: Option<OffsetDateTime>,
}

/// What became of a letter. The text is a sentence for operators: no addresses, no tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The mail server took it.
    Delivered,
    /// It did not, and may the next time.
    Transient(String),
    /// It never will.
    Final(String),
}

impl Roster {
    /// Claims the letter that is longest due; none if none is due. What is not worth sending any more is dropped on the
    /// way: an invitation that is no longer pending, an organization that is gone.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn claim_letter(&self) -> Result<Option<Letter>, ServiceError> {
        let mut connection = self.pool.acquire().await?;
        loop {
            let mut tx = connection.begin().await?;
            let Some(waiting) = outbox::claim(&mut tx, limits::MAIL_LEASE).await? else { return Ok(None) };
            let letter = letter(&mut tx, &waiting).await?;
            if letter.is_none() {
                outbox::remove(&mut tx, waiting.organization, waiting.id).await?;
            }
            tx.commit().await?;
            if letter.is_some() {
                return connection.finish(Ok(letter));
            }
        }
    }

    /// Tells how much waits.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn outbox_backlog(&self) -> Result<Backlog, ServiceError> {
        Ok(outbox::backlog(&mut *self.pool.acquire().await?).await?)
    }

    /// Writes down what became of a letter: sent, or to be tried again later, or given up.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn settle_letter(&self, id: Uuid, sent: DeliveryOutcome) -> Result<(), ServiceError> {
        let mut connection = self.pool.acquire().await?;
        let mut tx = connection.begin().await?;
        // Gone: the invitation was answered or taken back meanwhile.
        let Some(waiting) = outbox::lock(&mut tx, id).await? else { return Ok(()) };
        let too_old = waiting.age_seconds >= i64::try_from(limits::MAIL_GIVE_UP.as_secs()).unwrap_or(i64::MAX);
        let (state, error) = match &sent {
            DeliveryOutcome::Delivered => (MailState::Sent, None),
            DeliveryOutcome::Transient(why) if too_old => (MailState::Failed, Some(why.as_str())),
            DeliveryOutcome::Transient(why) => (MailState::Waiting, Some(why.as_str())),
            DeliveryOutcome::Final(why) => (MailState::Failed, Some(why.as_str())),
        };
        if state == MailState::Waiting {
            outbox::delay(&mut tx, waiting.organization, id, pause(waiting.attempts)).await?;
        } else {
            outbox::remove(&mut tx, waiting.organization, id).await?;
        }
        if let Some(invitation) = waiting.subject.invitation() {
            outbox::note_on_invitation(&mut tx, waiting.organization, invitation, state, error).await?;
        }
        let committed = tx.commit().await;
        connection.finish(committed)?;
        if state == MailState::Failed {
            tracing::warn!(mail = %id, error, "a mail was given up");
            let deadline = Instant::now() + crate::store::limits::STATEMENT;
            self.write(None, Meta::own(deadline), RecordAbandonedMail(waiting)).await?;
        }
        Ok(())
    }
}

/// How long to wait before the next try: half a minute, then twice as long each time, an hour at most.
fn pause(attempts: i32) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(7);
    limits::MAIL_RETRY.saturating_mul(2_u32.pow(doublings)).min(limits::MAIL_RETRY_MOST)
}

/// Writes a letter; none if it is not worth sending any more.
async fn letter(connection: &mut PgConnection, waiting: &QueuedMail) -> Result<Option<Letter>, ServiceError> {
    let Some(organization) = organizations::get(connection, waiting.organization).await? else { return Ok(None) };
    if !matches!(organization.state(), OrganizationState::Active | OrganizationState::Pending) {
        return Ok(None);
    }
    let sender = sender(connection, &waiting.sender).await?;
    match &waiting.subject {
        Subject::Added(user) => added(connection, waiting, &organization, sender, user).await,
        Subject::Invitation(id) | Subject::Reminder(id) | Subject::OwnerActivation(id) => {
            let Some(invitation) = invitations::get(connection, organization.id, *id).await? else { return Ok(None) };
            let Recipient::Email(to) = invitation.recipient else { return Ok(None) };
            if invitation.state != InvitationState::Pending {
                return Ok(None);
            }
            let (token, hash) = tokens::mint();
            invitation_tokens::add_token(connection, organization.id, *id, &hash).await?;
            Ok(Some(Letter {
                id: waiting.id,
                occasion: match waiting.subject {
                    Subject::Reminder(_) => Occasion::Reminder,
                    Subject::OwnerActivation(_) => Occasion::OwnerActivation,
                    Subject::Invitation(_) | Subject::Added(_) => Occasion::Invitation,
                },
                to,
                organization: organization.name,
                reply_to: sender.as_ref().and_then(reply_to),
                sender: sender.and_then(|sender| sender.display_name),
                role: if invitation.makes_owner { Role::OWNER } else { invitation.role },
                token: Some(token),
                expire_time: Some(invitation.expire_time),
            }))
        }
    }
}

async fn added(
    connection: &mut PgConnection,
    waiting: &QueuedMail,
    organization: &Organization,
    sender: Option<User>,
    user: &crate::domain::UserId,
) -> Result<Option<Letter>, ServiceError> {
    let membership = memberships::get(connection, organization.id, user).await?;
    let user =
        users::get(connection, user).await?.filter(|user| user.state == UserState::Active && user.email_verified);
    let (Some(membership), Some(to)) = (membership, user.and_then(|user| user.email)) else { return Ok(None) };
    Ok(Some(Letter {
        id: waiting.id,
        occasion: Occasion::Added,
        to,
        organization: organization.name.clone(),
        reply_to: sender.as_ref().and_then(reply_to),
        sender: sender.and_then(|sender| sender.display_name),
        role: membership.role,
        token: None,
        expire_time: None,
    }))
}

async fn sender(connection: &mut PgConnection, sender: &Inviter) -> Result<Option<User>, ServiceError> {
    match sender.user() {
        Some(user) => Ok(users::get(connection, &user).await?),
        None => Ok(None),
    }
}

fn reply_to(sender: &User) -> Option<EmailAddress> {
    sender.email.clone().filter(|_| sender.email_verified && sender.state == UserState::Active)
}

/// Says in the organization's history that a mail was given up.
struct RecordAbandonedMail(QueuedMail);

impl Change for RecordAbandonedMail {
    type Place = Option<Organization>;
    type Answer = ();

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<Self::Place, ServiceError> {
        tx.lock(self.0.organization).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, organization: Self::Place) -> Result<(), ServiceError> {
        if let Some(mut organization) = organization {
            let told = json!({ "invitation": self.0.subject.invitation(), "mail": self.0.id });
            tx.note_invitation(&mut organization, EventType::InvitationMailFailed, told);
        }
        Ok(())
    }
}
