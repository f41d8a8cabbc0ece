//! Mails that wait to be sent. A row never holds a token or an address: both are looked up when it is sent.

use super::StoreError;
use super::invitations::interval;
use crate::domain::{ActorKind, EmailAddress, InvitationId, Inviter, OrganizationId, UserId};
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// What a mail is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// An invitation, for the first time.
    Invitation(InvitationId),
    /// An invitation, once more.
    Reminder(InvitationId),
    /// An invitation to become the owner of a pending organization.
    OwnerActivation(InvitationId),
    /// A user was added.
    Added(UserId),
}

impl Subject {
    fn columns(&self) -> (&'static str, Option<Uuid>, Option<&str>) {
        match self {
            Self::Invitation(id) => ("INVITATION", Some(id.as_uuid()), None),
            Self::Reminder(id) => ("REMINDER", Some(id.as_uuid()), None),
            Self::OwnerActivation(id) => ("OWNER_ACTIVATION", Some(id.as_uuid()), None),
            Self::Added(user) => ("ADDED", None, Some(user.as_str())),
        }
    }

    fn read(occasion: &str, invitation: Option<Uuid>, user: Option<&str>) -> Result<Self, StoreError> {
        match (occasion, invitation.map(InvitationId::from_uuid), user) {
            ("INVITATION", Some(id), None) => Ok(Self::Invitation(id)),
            ("REMINDER", Some(id), None) => Ok(Self::Reminder(id)),
            ("OWNER_ACTIVATION", Some(id), None) => Ok(Self::OwnerActivation(id)),
            ("ADDED", None, Some(user)) => Ok(Self::Added(UserId::parse(user)?)),
            _ => Err(StoreError::Unreadable("a mail about nothing".to_owned())),
        }
    }

    /// The invitation that it is about, if it is about one.
    #[must_use]
    pub fn invitation(&self) -> Option<InvitationId> {
        match self {
            Self::Invitation(id) | Self::Reminder(id) | Self::OwnerActivation(id) => Some(*id),
            Self::Added(_) => None,
        }
    }
}

/// A mail that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedMail {
    /// Its id: the Message-ID is made from it.
    pub id: Uuid,
    /// Where.
    pub organization: OrganizationId,
    /// About what.
    pub subject: Subject,
    /// Who invites or adds.
    pub sender: Inviter,
    /// How often it was tried before.
    pub attempts: i32,
    /// How long it has waited, in seconds.
    pub age_seconds: i64,
}

/// Puts a mail into the outbox.
///
/// # Errors
/// If Postgres does not answer.
pub async fn put(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: Uuid,
    subject: &Subject,
    sender: &Inviter,
) -> Result<(), StoreError> {
    let (occasion, invitation, user) = subject.columns();
    sqlx::query!(
        r#"INSERT INTO outbox (bucket, id, organization_id, occasion, invitation_id, user_id, sender_kind, sender_id, attempts,
                               next_attempt_time, create_time)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, clock_timestamp(), clock_timestamp())"#,
        organization.bucket(),
        id,
        organization.as_uuid(),
        occasion,
        invitation,
        user,
        sender.kind.as_str(),
        sender.id,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Claims the mail that is longest due, for as long as `lease`: if nobody says what became of it until then, it is due
/// again. Others claim other ones meanwhile.
///
/// # Errors
/// If Postgres does not answer.
pub async fn claim(connection: &mut PgConnection, lease: Duration) -> Result<Option<QueuedMail>, StoreError> {
    let row = sqlx::query!(
        r#"UPDATE outbox o SET attempts = attempts + 1, next_attempt_time = clock_timestamp() + $1::interval
           FROM (SELECT bucket, id FROM outbox WHERE next_attempt_time <= clock_timestamp()
                 ORDER BY next_attempt_time LIMIT 1 FOR UPDATE SKIP LOCKED) due
           WHERE o.bucket = due.bucket AND o.id = due.id
           RETURNING o.id, o.organization_id, o.occasion, o.invitation_id, o.user_id, o.sender_kind, o.sender_id, o.attempts,
                     extract(epoch FROM clock_timestamp() - o.create_time)::bigint AS "age_seconds!""#,
        interval(lease)?,
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(QueuedMail {
            id: row.id,
            organization: OrganizationId::from_uuid(row.organization_id),
            subject: Subject::read(&row.occasion, row.invitation_id, row.user_id.as_deref())?,
            sender: Inviter { kind: ActorKind::parse(&row.sender_kind)?, id: row.sender_id },
            attempts: row.attempts - 1,
            age_seconds: row.age_seconds,
        })
    })
    .transpose()
}

/// Reads a mail that waits, and locks it.
///
/// # Errors
/// If Postgres does not answer.
pub async fn lock(connection: &mut PgConnection, id: Uuid) -> Result<Option<QueuedMail>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT id, organization_id, occasion, invitation_id, user_id, sender_kind, sender_id, attempts,
                  extract(epoch FROM clock_timestamp() - create_time)::bigint AS "age_seconds!"
           FROM outbox WHERE id = $1 FOR UPDATE"#,
        id
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(QueuedMail {
            id: row.id,
            organization: OrganizationId::from_uuid(row.organization_id),
            subject: Subject::read(&row.occasion, row.invitation_id, row.user_id.as_deref())?,
            sender: Inviter { kind: ActorKind::parse(&row.sender_kind)?, id: row.sender_id },
            attempts: row.attempts,
            age_seconds: row.age_seconds,
        })
    })
    .transpose()
}

/// Takes a mail out of the outbox.
///
/// # Errors
/// If Postgres does not answer.
pub async fn remove(connection: &mut PgConnection, organization: OrganizationId, id: Uuid) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM outbox WHERE bucket = $1 AND id = $2", organization.bucket(), id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes the mails about an invitation out of the outbox.
///
/// # Errors
/// If Postgres does not answer.
pub async fn remove_about(
    connection: &mut PgConnection,
    organization: OrganizationId,
    invitation: InvitationId,
) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM outbox WHERE bucket = $1 AND organization_id = $2 AND invitation_id = $3",
        organization.bucket(),
        organization.as_uuid(),
        invitation.as_uuid()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes the mails about an organization's pending invitations out of the outbox: about all of them, or about those to
/// one address.
///
/// # Errors
/// If Postgres does not answer.
pub async fn remove_pending(
    connection: &mut PgConnection,
    organization: OrganizationId,
    address: Option<&EmailAddress>,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"DELETE FROM outbox o USING invitations i
           WHERE o.bucket = $1 AND o.organization_id = $2
             AND i.bucket = o.bucket AND i.organization_id = o.organization_id AND i.id = o.invitation_id
             AND i.state = 'PENDING' AND ($3::text IS NULL OR (i.is_email AND i.identifier_normal = $3))"#,
        organization.bucket(),
        organization.as_uuid(),
        address.map(EmailAddress::normal),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lets a mail wait for this long before it is due again.
///
/// # Errors
/// If Postgres does not answer.
pub async fn delay(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: Uuid,
    wait: Duration,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE outbox SET next_attempt_time = clock_timestamp() + $3::interval WHERE bucket = $1 AND id = $2",
        organization.bucket(),
        id,
        interval(wait)?,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes on an invitation where its mail is.
///
/// # Errors
/// If Postgres does not answer.
pub async fn note_on_invitation(
    connection: &mut PgConnection,
    organization: OrganizationId,
    invitation: InvitationId,
    state: crate::domain::MailState,
    error: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"UPDATE invitations SET mail_state = $4, mail_error = $5
           WHERE bucket = $1 AND organization_id = $2 AND id = $3"#,
        organization.bucket(),
        organization.as_uuid(),
        invitation.as_uuid(),
        state.as_str(),
        error,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// How much waits in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Mails.
    pub waiting: i64,
    /// How long the oldest has waited, in seconds; 0 if there is none.
    pub oldest_seconds: i64,
}

/// Tells how much waits.
///
/// # Errors
/// If Postgres does not answer.
pub async fn backlog(connection: &mut PgConnection) -> Result<Backlog, StoreError> {
    Ok(sqlx::query_as!(
        Backlog,
        r#"SELECT count(*) AS "waiting!",
                  coalesce(extract(epoch FROM clock_timestamp() - min(create_time)), 0)::bigint AS "oldest_seconds!"
           FROM outbox"#
    )
    .fetch_one(connection)
    .await?)
}
