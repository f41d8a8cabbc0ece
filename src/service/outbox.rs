//! The outbox: queued mails, which mail workers claim one at a time.
//!
//! One transaction claims a mail and mints its invitation token, and commits before the mail is sent. If the process
//! dies after that, the lease runs out and the mail is sent again under the same Message-ID. No mail is lost; some are
//! sent twice.

use super::invitations::tokens;
use super::write::queue::QueueKey;
use super::write::unit_of_work::UnitOfWork;
use super::write::{Change, Meta};
use super::{Roster, ServiceError};
use crate::authn::Secret;
use crate::domain::event::EventType;
use crate::domain::{
    DisplayName, EmailAddress, InvitationId, InvitationState, Locale, MailState, Name, Organization, OrganizationState,
    Recipient, RoleName, User, UserId, UserState, ValueKind,
};
use crate::service::limits;
pub use crate::store::outbox::Backlog;
use crate::store::outbox::{self, QueuedMail, Subject};
use crate::store::{StoreError, in_time, invitation_tokens, invitations, memberships, organizations, users};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

/// The purpose of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// The recipient is invited.
    Invitation,
    /// The recipient is reminded of an invitation.
    Reminder,
    /// The recipient was added as a member.
    Added,
    /// The recipient is invited to become the owner of a pending organization.
    OwnerActivation,
}

/// A mail to send, claimed from the outbox. It holds an invitation token, so it has no `Debug`.
pub struct Letter {
    /// The id of the outbox row. The Message-ID is derived from it and is the same in every attempt.
    pub id: Uuid,
    /// The purpose of the letter.
    pub occasion: Occasion,
    /// The locale of the letter; `None` for that of the deployment.
    pub locale: Option<Locale>,
    /// The recipient's address.
    pub to: EmailAddress,
    /// The organization's name.
    pub organization: Name,
    /// The display name of the user who invites or adds, if known.
    pub sender: Option<DisplayName>,
    /// The sender's verified address, if the sender is an active user with one.
    pub reply_to: Option<EmailAddress>,
    /// The role of the member, or of the future member.
    pub role: RoleName,
    /// The invitation token; `None` for [`Occasion::Added`].
    pub token: Option<Secret>,
    /// The invitation's expire time; `None` for [`Occasion::Added`].
    pub expire_time: Option<OffsetDateTime>,
}

/// The outcome of an attempt to send a letter. The text is a sentence for operators, without addresses or tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The mail server accepted the letter.
    Delivered,
    /// The attempt failed, and a later one may succeed.
    Transient(String),
    /// The mail server rejected the letter for good.
    Final(String),
}

impl DeliveryOutcome {
    fn error(&self) -> Option<&str> {
        match self {
            Self::Delivered => None,
            Self::Transient(error) | Self::Final(error) => Some(error),
        }
    }
}

impl Roster {
    /// Claims the letter that has been due for longest; `None` if no letter is due. Removes mails on the way whose
    /// invitation is no longer pending, or whose organization is not active: the mail of an invitation that is still
    /// pending has failed then.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn claim_letter(&self) -> Result<Option<Letter>, ServiceError> {
        loop {
            let mut connection = self.pool.acquire().await?;
            let outcome = in_time(limits::OUTBOX_STATEMENTS, claim(&mut connection)).await;
            match connection.finish(outcome)? {
                Claim::Letter(letter) => return Ok(Some(*letter)),
                Claim::Failed(mail) => self.record_abandoned(mail, UNDELIVERABLE).await?,
                Claim::Nothing => return Ok(None),
            }
        }
    }

    async fn record_abandoned(&self, mail: QueuedMail, error: &str) -> Result<(), ServiceError> {
        tracing::warn!(mail = %mail.id, error, "a mail was given up");
        let deadline = Instant::now() + crate::store::limits::STATEMENT;
        self.write(None, Meta::own(deadline), RecordAbandonedMail(mail)).await?;
        Ok(())
    }

    /// Reports the size and the age of the outbox. Waits for no call: it has another connection, so only one
    /// statement runs at once.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn outbox_backlog(&self) -> Result<Backlog, ServiceError> {
        let mut connection = self.backlog_pool.acquire().await?;
        let outcome = in_time(limits::OUTBOX_STATEMENTS, outbox::backlog(&mut connection)).await;
        Ok(connection.finish(outcome)?)
    }

    /// Records the outcome of a letter: sent, to be retried later, or given up.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn settle_letter(&self, id: Uuid, outcome: DeliveryOutcome) -> Result<(), ServiceError> {
        let mut connection = self.pool.acquire().await?;
        let settled = in_time(limits::OUTBOX_STATEMENTS, settle(&mut connection, id, &outcome)).await;
        if let Some(mail) = connection.finish(settled)? {
            self.record_abandoned(mail, outcome.error().unwrap_or_default()).await?;
        }
        Ok(())
    }
}

/// The mail error of an invitation whose mail was due while the organization was inactive.
const UNDELIVERABLE: &str = "the organization was inactive when the mail was due";

/// The outcome of a claim.
enum Claim {
    /// A letter to send.
    Letter(Box<Letter>),
    /// The mail of a pending invitation that can never be sent. It was removed.
    Failed(QueuedMail),
    /// No mail is due.
    Nothing,
}

/// The content of a queued mail.
enum Composition {
    /// A letter to send.
    Letter(Box<Letter>),
    /// No letter is needed any more.
    Obsolete,
    /// The letter is needed, and can never be sent.
    Undeliverable,
}

async fn claim(connection: &mut PgConnection) -> Result<Claim, StoreError> {
    loop {
        let mut tx = connection.begin().await?;
        let Some(mail) = outbox::claim(&mut tx, limits::MAIL_LEASE).await? else {
            tx.rollback().await?;
            return Ok(Claim::Nothing);
        };
        let composition = match compose(&mut tx, &mail).await {
            // A newer program can send it; the other mails go on.
            Err(StoreError::ValueUnknown(value)) => {
                tracing::warn!(mail = %mail.id, %value, "a mail waits for a newer version of roster");
                outbox::delay(&mut tx, mail.organization, mail.id, retry_delay(mail.attempts + 1)).await?;
                tx.commit().await?;
                continue;
            }
            composition => composition?,
        };
        if !matches!(composition, Composition::Letter(_)) {
            outbox::remove(&mut tx, mail.organization, mail.id).await?;
        }
        let (organization, invitation) = (mail.organization, mail.subject.invitation());
        let claim = match (composition, invitation) {
            (Composition::Letter(letter), _) => Some(Claim::Letter(letter)),
            (Composition::Undeliverable, Some(id)) => {
                outbox::set_mail_state(&mut tx, organization, id, MailState::Failed, Some(UNDELIVERABLE)).await?;
                Some(Claim::Failed(mail))
            }
            (Composition::Obsolete, Some(id)) => {
                invitations::cancel_mail(&mut tx, organization, id).await?;
                None
            }
            (Composition::Obsolete | Composition::Undeliverable, None) => None,
        };
        tx.commit().await?;
        if let Some(claim) = claim {
            return Ok(claim);
        }
    }
}

/// Records the outcome of a mail. Returns the mail if it was given up.
async fn settle(
    connection: &mut PgConnection,
    id: Uuid,
    outcome: &DeliveryOutcome,
) -> Result<Option<QueuedMail>, StoreError> {
    let mut tx = connection.begin().await?;
    let Some(mail) = outbox::lock(&mut tx, id).await? else {
        // The invitation was answered or revoked, and its mails were removed.
        tx.rollback().await?;
        return Ok(None);
    };
    let is_too_old = mail.age_seconds >= i64::try_from(limits::MAIL_GIVE_UP.as_secs()).unwrap_or(i64::MAX);
    let state = match outcome {
        DeliveryOutcome::Delivered => MailState::Sent,
        DeliveryOutcome::Transient(_) if !is_too_old => MailState::Waiting,
        DeliveryOutcome::Transient(_) | DeliveryOutcome::Final(_) => MailState::Failed,
    };
    if state == MailState::Waiting {
        outbox::delay(&mut tx, mail.organization, id, retry_delay(mail.attempts)).await?;
    } else {
        outbox::remove(&mut tx, mail.organization, id).await?;
    }
    if let Some(invitation) = mail.subject.invitation() {
        outbox::set_mail_state(&mut tx, mail.organization, invitation, state, outcome.error()).await?;
    }
    tx.commit().await?;
    Ok((state == MailState::Failed).then_some(mail))
}

/// The delay before the next attempt: half a minute, doubled with each attempt, and at most an hour.
fn retry_delay(attempts: i32) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(7);
    limits::MAIL_RETRY.saturating_mul(2_u32.pow(doublings)).min(limits::MAIL_RETRY_MOST)
}

/// Composes the letter of a queued mail.
async fn compose(connection: &mut PgConnection, mail: &QueuedMail) -> Result<Composition, StoreError> {
    let Some(organization) = organizations::get(connection, mail.organization).await? else {
        return Ok(Composition::Obsolete);
    };
    let sender = match mail.sender.user() {
        Some(user) => users::get(connection, &user).await?,
        None => None,
    };
    let letter = match &mail.subject {
        Subject::Added(user, locale) => {
            let letter = compose_added(connection, mail.id, &organization, sender, user).await?;
            letter.map(|letter| Letter { locale: locale.clone(), ..letter })
        }
        Subject::Invitation(id) => {
            compose_invitation(connection, mail.id, &organization, sender, *id, Occasion::Invitation).await?
        }
        Subject::Reminder(id) => {
            compose_invitation(connection, mail.id, &organization, sender, *id, Occasion::Reminder).await?
        }
        Subject::OwnerActivation(id) => {
            compose_invitation(connection, mail.id, &organization, sender, *id, Occasion::OwnerActivation).await?
        }
    };
    let Some(mut letter) = letter else { return Ok(Composition::Obsolete) };
    if !matches!(organization.state(), OrganizationState::Active | OrganizationState::Pending) {
        return Ok(Composition::Undeliverable);
    }
    if let Some(invitation) = mail.subject.invitation() {
        let (token, hash) = tokens::mint();
        invitation_tokens::add_token(connection, organization.id, invitation, &hash).await?;
        letter.token = Some(token);
    }
    Ok(Composition::Letter(Box::new(letter)))
}

/// Composes a letter about a pending invitation, without its invitation token; `None` if the letter is obsolete.
async fn compose_invitation(
    connection: &mut PgConnection,
    mail: Uuid,
    organization: &Organization,
    sender: Option<User>,
    id: InvitationId,
    occasion: Occasion,
) -> Result<Option<Letter>, StoreError> {
    let Some(invitation) = invitations::get(connection, organization.id, id).await? else { return Ok(None) };
    match invitation.state {
        InvitationState::Pending if invitation.is_void_in(organization) => return Ok(None),
        InvitationState::Pending => {}
        InvitationState::Unknown => return Err(StoreError::ValueUnknown(ValueKind::InvitationState)),
        InvitationState::Accepted | InvitationState::Declined | InvitationState::Revoked | InvitationState::Expired => {
            return Ok(None);
        }
    }
    let role = invitation.granted_role().clone();
    let Some(Recipient::Email(to)) = invitation.recipient else { return Ok(None) };
    Ok(Some(Letter {
        id: mail,
        occasion,
        locale: invitation.locale,
        to,
        organization: organization.name.clone(),
        reply_to: sender.as_ref().and_then(reply_to),
        sender: sender.and_then(|sender| sender.display_name),
        role,
        token: None,
        expire_time: Some(invitation.expire_time),
    }))
}

/// Composes a letter to a user who was added as a member; `None` if the letter is obsolete.
async fn compose_added(
    connection: &mut PgConnection,
    mail: Uuid,
    organization: &Organization,
    sender: Option<User>,
    user: &UserId,
) -> Result<Option<Letter>, StoreError> {
    let membership = memberships::get(connection, organization.id, user).await?;
    let user = users::get(connection, user).await?;
    if user.as_ref().is_some_and(|user| user.state == UserState::Unknown) {
        return Err(StoreError::ValueUnknown(ValueKind::UserState));
    }
    let user = user.filter(|user| user.state == UserState::Active);
    let to = user.as_ref().and_then(User::verified_email).cloned();
    let (Some(membership), Some(to)) = (membership, to) else { return Ok(None) };
    Ok(Some(Letter {
        id: mail,
        occasion: Occasion::Added,
        locale: None,
        to,
        organization: organization.name.clone(),
        reply_to: sender.as_ref().and_then(reply_to),
        sender: sender.and_then(|sender| sender.display_name),
        role: membership.role.name,
        token: None,
        expire_time: None,
    }))
}

fn reply_to(sender: &User) -> Option<EmailAddress> {
    sender.verified_email().filter(|_| sender.state == UserState::Active).cloned()
}

/// Records in the organization's history that a mail was given up.
struct RecordAbandonedMail(QueuedMail);

impl Change for RecordAbandonedMail {
    type Place = Option<Organization>;
    type Answer = ();

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::Organization(self.0.organization))
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<Self::Place, ServiceError> {
        tx.lock(self.0.organization).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, organization: Self::Place) -> Result<(), ServiceError> {
        if let Some(mut organization) = organization {
            let details = json!({ "invitation": self.0.subject.invitation(), "mail": self.0.id });
            tx.record_invitation(&mut organization, EventType::InvitationMailFailed, details);
        }
        Ok(())
    }
}
