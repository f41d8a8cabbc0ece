//! The outbox: mails that wait to be sent. A row contains no token and no address: the mail worker creates the token
//! and reads the address when it sends the mail.

use super::StoreError;
use super::invitations::interval;
use crate::domain::{ActorKind, InvitationId, Inviter, Locale, OrganizationId, StoredValue, UserId};
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// The subject of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The first mail of an invitation.
    Invitation(InvitationId),
    /// A further mail of an invitation.
    Reminder(InvitationId),
    /// The invitation of the future owner of a pending organization.
    OwnerActivation(InvitationId),
    /// The notification of a user who was added as a member, in this locale or in that of the deployment.
    Added(UserId, Option<Locale>),
}

impl Subject {
    /// The occasions that this program knows.
    const OCCASIONS: [&str; 4] = ["INVITATION", "REMINDER", "OWNER_ACTIVATION", "ADDED"];

    /// The columns of the occasion, the invitation, the user and the locale. A mail about an invitation has the locale of
    /// the invitation, which is stored there.
    fn columns(&self) -> (&'static str, Option<Uuid>, Option<&str>, Option<&str>) {
        match self {
            Self::Invitation(id) => ("INVITATION", Some(id.as_uuid()), None, None),
            Self::Reminder(id) => ("REMINDER", Some(id.as_uuid()), None, None),
            Self::OwnerActivation(id) => ("OWNER_ACTIVATION", Some(id.as_uuid()), None, None),
            Self::Added(user, locale) => ("ADDED", None, Some(user.as_str()), locale.as_ref().map(Locale::as_str)),
        }
    }

    fn read(
        occasion: &str,
        invitation: Option<Uuid>,
        user: Option<String>,
        locale: Option<String>,
    ) -> Result<Self, StoreError> {
        match (occasion, invitation.map(InvitationId::from_uuid), user) {
            ("INVITATION", Some(id), None) => Ok(Self::Invitation(id)),
            ("REMINDER", Some(id), None) => Ok(Self::Reminder(id)),
            ("OWNER_ACTIVATION", Some(id), None) => Ok(Self::OwnerActivation(id)),
            ("ADDED", None, Some(user)) => Ok(Self::Added(UserId::from_stored(user), locale.map(Locale::from_stored))),
            _ => Err(StoreError::Unreadable("a mail in the outbox has no valid subject".to_owned())),
        }
    }

    /// The invitation, if the mail is about one.
    #[must_use]
    pub fn invitation(&self) -> Option<InvitationId> {
        match self {
            Self::Invitation(id) | Self::Reminder(id) | Self::OwnerActivation(id) => Some(*id),
            Self::Added(..) => None,
        }
    }
}

/// A mail in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedMail {
    /// The id, from which the Message-ID is built.
    pub id: Uuid,
    /// The organization that the mail is about.
    pub organization: OrganizationId,
    /// The subject of the mail.
    pub subject: Subject,
    /// The caller that invited or added the recipient.
    pub sender: Inviter,
    /// Number of delivery attempts: those before the claim in the result of [`claim`], all of them in that of [`lock`].
    pub attempts: i32,
    /// Time since the mail was put into the outbox, in seconds.
    pub age_seconds: i64,
}

struct QueuedMailRow {
    id: Uuid,
    organization_id: Uuid,
    occasion: String,
    invitation_id: Option<Uuid>,
    user_id: Option<String>,
    locale: Option<String>,
    sender_kind: String,
    sender_id: String,
    attempts: i32,
    age_seconds: i64,
}

/// A statement that returns [`QueuedMailRow`]s: the text before the column list, the text after it, the arguments. The
/// table has the alias `o`.
macro_rules! outbox_query {
    ($before:literal, $after:literal, $($argument:tt)*) => {
        sqlx::query_as!(
            QueuedMailRow,
            $before
                + r#" o.id, o.organization_id, o.occasion, o.invitation_id, o.user_id, o.locale, o.sender_kind,
                      o.sender_id, o.attempts, extract(epoch FROM clock_timestamp() - o.create_time)::bigint AS "age_seconds!" "#
                + $after,
            $($argument)*
        )
    };
}

impl TryFrom<QueuedMailRow> for QueuedMail {
    type Error = StoreError;
    fn try_from(row: QueuedMailRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            organization: OrganizationId::from_uuid(row.organization_id),
            subject: Subject::read(&row.occasion, row.invitation_id, row.user_id, row.locale)?,
            sender: Inviter { kind: StoredValue::read(&row.sender_kind, ActorKind::parse), id: row.sender_id },
            attempts: row.attempts,
            age_seconds: row.age_seconds,
        })
    }
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
    let (occasion, invitation, user, locale) = subject.columns();
    sqlx::query!(
        r#"INSERT INTO outbox (bucket, id, organization_id, occasion, invitation_id, user_id, sender_kind, sender_id, attempts,
                               next_attempt_time, create_time, locale)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, clock_timestamp(), clock_timestamp(), $9)"#,
        organization.bucket(),
        id,
        organization.as_uuid(),
        occasion,
        invitation,
        user,
        sender.kind.as_str(),
        sender.id,
        locale,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Claims the mail that is longest due for the time `lease`, and counts an attempt. If the mail is not removed or
/// delayed by then, it is due again. Concurrent calls claim different mails. Mails of an occasion that this program does
/// not know are left to newer programs.
///
/// # Errors
/// If Postgres does not answer.
pub async fn claim(connection: &mut PgConnection, lease: Duration) -> Result<Option<QueuedMail>, StoreError> {
    let row = outbox_query!(
        "UPDATE outbox o SET attempts = attempts + 1, next_attempt_time = clock_timestamp() + $1::interval
         FROM (SELECT bucket, id FROM outbox WHERE next_attempt_time <= clock_timestamp() AND occasion = ANY ($2::text[])
               ORDER BY next_attempt_time LIMIT 1 FOR UPDATE SKIP LOCKED) due
         WHERE o.bucket = due.bucket AND o.id = due.id
         RETURNING",
        "",
        interval(lease)?,
        &Subject::OCCASIONS.map(str::to_owned),
    );
    let Some(row) = row.fetch_optional(connection).await? else { return Ok(None) };
    let mail = QueuedMail::try_from(row)?;
    // The returned row counts the current attempt.
    Ok(Some(QueuedMail { attempts: mail.attempts - 1, ..mail }))
}

/// Reads a mail of the outbox under a lock, whether it is due or not.
///
/// # Errors
/// If Postgres does not answer.
pub async fn lock(connection: &mut PgConnection, id: Uuid) -> Result<Option<QueuedMail>, StoreError> {
    outbox_query!("SELECT", "FROM outbox o WHERE o.id = $1 FOR UPDATE", id)
        .fetch_optional(connection)
        .await?
        .map(QueuedMail::try_from)
        .transpose()
}

/// Removes a mail from the outbox.
///
/// # Errors
/// If Postgres does not answer.
pub async fn remove(connection: &mut PgConnection, organization: OrganizationId, id: Uuid) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM outbox WHERE bucket = $1 AND id = $2", organization.bucket(), id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Removes the mails about invitations of an organization from the outbox.
///
/// # Errors
/// If Postgres does not answer.
pub async fn remove_about(
    connection: &mut PgConnection,
    organization: OrganizationId,
    invitations: &[InvitationId],
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = invitations.iter().map(|id| id.as_uuid()).collect();
    sqlx::query!(
        "DELETE FROM outbox WHERE bucket = $1 AND organization_id = $2 AND invitation_id = ANY ($3)",
        organization.bucket(),
        organization.as_uuid(),
        &ids,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes the mails to a user who was added as a member of an organization.
///
/// # Errors
/// If Postgres does not answer.
pub async fn remove_to(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: &UserId,
) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM outbox WHERE bucket = $1 AND organization_id = $2 AND user_id = $3",
        organization.bucket(),
        organization.as_uuid(),
        user.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes a mail due again after the time `wait`.
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

/// Sets the mail state of an invitation, with the error of the last attempt.
///
/// # Errors
/// If Postgres does not answer.
pub async fn set_mail_state(
    connection: &mut PgConnection,
    organization: OrganizationId,
    invitation: InvitationId,
    state: crate::domain::MailState,
    error: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"UPDATE invitations SET mail_state = $4, mail_error = $5,
               update_time = greatest(update_time, statement_timestamp())
           WHERE bucket = $1 AND organization_id = $2 AND id = $3 AND (mail_state, mail_error) IS DISTINCT FROM ($4, $5)"#,
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

/// The size and age of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Number of mails.
    pub waiting: i64,
    /// Age of the oldest mail in seconds; 0 if there is none.
    pub oldest_seconds: i64,
}

/// Measures the outbox.
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
