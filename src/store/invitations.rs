//! Rows of invitations.
//!
//! A pending invitation has the stored state `PENDING` and an expire time later than `clock_timestamp()`, or than
//! `statement_timestamp()` where the statement needs a stable time: in an UPDATE, and for the range of an index. `now()` is
//! the start of the transaction, which may have waited for a lock since.

use super::row_page::RowPage;
use super::{StoreError, limits};
use crate::domain::{
    ActorKind, Attributes, Invitation, InvitationId, InvitationState, Inviter, Locale, MailState, OrganizationId,
    Recipient, Role, StoredValue, UserId,
};
use sqlx::PgConnection;
use sqlx::postgres::types::PgInterval;
use sqlx::types::Json;
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

pub(super) struct InvitationRow {
    pub(super) organization_id: Uuid,
    pub(super) id: Uuid,
    pub(super) identifier: String,
    pub(super) is_email: bool,
    pub(super) recipient_erased: bool,
    pub(super) role: String,
    pub(super) makes_owner: bool,
    pub(super) attributes: Json<Attributes>,
    pub(super) locale: Option<String>,
    pub(super) state: Option<String>,
    pub(super) inviter_kind: String,
    pub(super) inviter_id: String,
    pub(super) accepted_by: Option<String>,
    pub(super) expire_time: OffsetDateTime,
    pub(super) sends: i32,
    pub(super) mail_state: Option<String>,
    pub(super) mail_error: Option<String>,
    pub(super) create_time: OffsetDateTime,
    pub(super) update_time: OffsetDateTime,
    /// Whether the list has another row after this one; only in lists.
    pub(super) has_next: Option<bool>,
}

/// A statement that returns rows with the columns of [`InvitationRow`]: the row type, the text before the column list,
/// the texts after it, the arguments. The table has the alias `i`.
///
/// `stored` returns the state as stored; `effective` returns `EXPIRED` for a pending invitation that has expired, and
/// `listed` does so for rows that say whether another one follows.
macro_rules! invitation_query {
    (stored $row:ident, $before:literal, $($after:literal)+, $($argument:tt)*) => {
        invitation_query!(@ $row, $before, r#"i.state AS "state?", NULL::boolean AS has_next "# $($after)+, $($argument)*)
    };
    (effective $row:ident, $before:literal, $($after:literal)+, $($argument:tt)*) => {
        invitation_query!(
            @ $row,
            $before,
            "CASE WHEN i.state = 'PENDING' AND i.expire_time <= clock_timestamp() THEN 'EXPIRED' ELSE i.state END
             AS state, NULL::boolean AS has_next "
                $($after)+,
            $($argument)*
        )
    };
    (listed $row:ident, $before:literal, $($after:literal)+, $($argument:tt)*) => {
        invitation_query!(
            @ $row,
            $before,
            "CASE WHEN i.state = 'PENDING' AND i.expire_time <= clock_timestamp() THEN 'EXPIRED' ELSE i.state END
             AS state, i.has_next "
                $($after)+,
            $($argument)*
        )
    };
    (@ $row:ident, $before:literal, $($after:literal)+, $($argument:tt)*) => {
        sqlx::query_as!(
            $row,
            $before
                + r#" i.organization_id, i.id, i.identifier, i.is_email, i.recipient_erased, i.role, i.makes_owner,
                      i.attributes AS "attributes: Json<Attributes>", i.locale, i.inviter_kind, i.inviter_id,
                      i.accepted_by, i.expire_time, i.sends, i.mail_state, i.mail_error, i.create_time, i.update_time, "#
                $(+ $after)+,
            $($argument)*
        )
    };
}
pub(super) use invitation_query;

mod end;
mod erase;
pub use end::{PendingInvitations, cancel_mail, end, expired, forget_old, settle, unexpired, with_expired};
pub use erase::{erase_recipients, inviting, recipients};

impl From<InvitationRow> for Invitation {
    fn from(row: InvitationRow) -> Self {
        let state = InvitationState::read(row.state.as_deref().unwrap_or_default());
        // Servers of release 0.3 leave WAITING on an invitation that ended before its mail was sent.
        let is_over = !matches!(state, InvitationState::Pending | InvitationState::Unknown);
        let mail_state = row.mail_state.as_deref().map(MailState::read);
        let mail_state =
            if is_over && mail_state == Some(MailState::Waiting) { Some(MailState::NotSent) } else { mail_state };
        // An invitation that has expired changed at its expire time, whether that is recorded yet or not.
        let update_time =
            if state == InvitationState::Expired { row.update_time.max(row.expire_time) } else { row.update_time };
        Self {
            organization: OrganizationId::from_uuid(row.organization_id),
            id: InvitationId::from_uuid(row.id),
            recipient: (!row.recipient_erased).then(|| Recipient::from_stored(row.identifier, row.is_email)),
            role: Role::read(&row.role),
            makes_owner: row.makes_owner,
            attributes: row.attributes.0,
            locale: row.locale.map(Locale::from_stored),
            state,
            inviter: Inviter { kind: StoredValue::read(&row.inviter_kind, ActorKind::parse), id: row.inviter_id },
            accepted_by: row.accepted_by.map(UserId::from_stored),
            expire_time: row.expire_time,
            sends: row.sends,
            mail_state,
            mail_error: row.mail_error,
            create_time: row.create_time,
            update_time,
        }
    }
}

/// Converts a duration to the interval type of Postgres, rounded down to microseconds.
pub(super) fn interval(duration: Duration) -> Result<PgInterval, StoreError> {
    PgInterval::try_from(Duration::new(duration.as_secs(), duration.subsec_micros() * 1000))
        .map_err(|error| StoreError::Unreadable(error.to_string()))
}

/// The columns of a new invitation.
#[derive(Debug, Clone)]
pub struct NewInvitation {
    /// The organization that the recipient is invited to.
    pub organization: OrganizationId,
    /// A random id.
    pub id: InvitationId,
    /// The e-mail address or other identifier of the recipient.
    pub recipient: Recipient,
    /// The role of the future member.
    pub role: Role,
    /// Whether acceptance makes the recipient the owner of a pending organization.
    pub makes_owner: bool,
    /// The attributes of the future membership.
    pub attributes: Attributes,
    /// The locale of the mails; `None` for that of the deployment.
    pub locale: Option<Locale>,
    /// The caller that invites.
    pub inviter: Inviter,
    /// Time until it expires.
    pub life: Duration,
    /// Whether a mail will be sent; then its state is `WAITING`.
    pub mail: bool,
}

/// Inserts an invitation; `None` if the organization has a pending invitation for the recipient.
///
/// # Errors
/// If Postgres does not answer.
pub async fn insert(connection: &mut PgConnection, new: &NewInvitation) -> Result<Option<Invitation>, StoreError> {
    Ok(invitation_query!(
        stored InvitationRow,
        "INSERT INTO invitations AS i (bucket, organization_id, id, identifier, identifier_normal, is_email, role,
                                       makes_owner, attributes, state, inviter_kind, inviter_id, expire_time, sends,
                                       send_time, mail_state, create_time, update_time, locale)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'PENDING', $10, $11, clock_timestamp() + $12::interval, 0,
                 clock_timestamp(), CASE WHEN $13 THEN 'WAITING' END, clock_timestamp(), clock_timestamp(), $14)
         ON CONFLICT DO NOTHING
         RETURNING",
        "",
        new.organization.bucket(),
        new.organization.as_uuid(),
        new.id.as_uuid(),
        new.recipient.given(),
        new.recipient.normal(),
        new.recipient.email().is_some(),
        new.role.name.as_str(),
        new.makes_owner,
        new.attributes.to_value(),
        new.inviter.kind.as_str(),
        new.inviter.id,
        interval(new.life)?,
        new.mail,
        new.locale.as_ref().map(Locale::as_str),
    )
    .fetch_optional(connection)
    .await?
    .map(Invitation::from))
}

/// Reads an invitation, with its effective state.
///
/// # Errors
/// If Postgres does not answer.
pub async fn get(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: InvitationId,
) -> Result<Option<Invitation>, StoreError> {
    Ok(invitation_query!(
        effective InvitationRow,
        "SELECT",
        "FROM invitations i WHERE i.bucket = $1 AND i.organization_id = $2 AND i.id = $3",
        organization.bucket(),
        organization.as_uuid(),
        id.as_uuid(),
    )
    .fetch_optional(connection)
    .await?
    .map(Invitation::from))
}

/// Finds the organization of an invitation by the invitation's id alone.
///
/// # Errors
/// If Postgres does not answer.
pub async fn organization_of(
    connection: &mut PgConnection,
    id: InvitationId,
) -> Result<Option<OrganizationId>, StoreError> {
    let id = sqlx::query_scalar!("SELECT organization_id FROM invitations WHERE id = $1", id.as_uuid())
        .fetch_optional(connection)
        .await?;
    Ok(id.map(OrganizationId::from_uuid))
}

/// The last invitation of the previous page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvitationPageKey {
    /// The creation time of the invitation.
    pub create_time: OffsetDateTime,
    /// The id of the invitation.
    pub id: InvitationId,
}

/// A page of an organization's invitations.
#[derive(Debug, Clone)]
pub struct InvitationFilter {
    /// Only invitations whose effective state is one of these, or one that this program does not know.
    pub states: Vec<InvitationState>,
    /// Only invitations after this one.
    pub after: Option<InvitationPageKey>,
    /// Maximum number of invitations.
    pub limit: i64,
}

/// Lists an organization's invitations, the oldest first.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list(
    connection: &mut PgConnection,
    organization: OrganizationId,
    filter: &InvitationFilter,
) -> Result<RowPage<Invitation>, StoreError> {
    let excluded = InvitationState::names_except(&filter.states);
    let rows = invitation_query!(
        listed InvitationRow,
        "SELECT",
        "FROM (
             SELECT * FROM (
                 SELECT s.*, sum(octet_length(s.attributes::text)) OVER before AS text_before
                 FROM (
                     SELECT p.*, sum(pg_column_size(p.attributes || '{}')) OVER before AS stored_before,
                            lead(true) OVER (ORDER BY p.create_time, p.id) AS has_next
                     FROM (
                         SELECT * FROM invitations
                         WHERE bucket = $1 AND organization_id = $2
                           AND (create_time, id) > (coalesce($3, '-infinity'::timestamptz),
                                                    coalesce($4, '00000000-0000-0000-0000-000000000000'::uuid))
                           AND CASE WHEN state = 'PENDING' AND expire_time <= clock_timestamp() THEN 'EXPIRED'
                                    ELSE state END <> ALL ($5::text[])
                         ORDER BY create_time, id
                         LIMIT $6) p
                     WINDOW before AS (ORDER BY p.create_time, p.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) s
                 WHERE coalesce(s.stored_before, 0) < $7
                 WINDOW before AS (ORDER BY s.create_time, s.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) t
             WHERE coalesce(t.text_before, 0) < $8) i
         ORDER BY i.create_time, i.id",
        organization.bucket(),
        organization.as_uuid(),
        filter.after.map(|after| after.create_time),
        filter.after.map(|after| after.id.as_uuid()),
        &excluded,
        filter.limit,
        limits::PAGE_STORED_BYTES,
        limits::PAGE_TEXT_BYTES,
    )
    .fetch_all(connection)
    .await?;
    Ok(RowPage::new(rows, |row| row.has_next, Invitation::from))
}

/// Finds the recipient's invitation whose stored state is `PENDING`, and whether it has expired.
///
/// # Errors
/// If Postgres does not answer.
pub async fn pending(
    connection: &mut PgConnection,
    organization: OrganizationId,
    recipient: &Recipient,
) -> Result<Option<(InvitationId, bool)>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT id, expire_time <= clock_timestamp() AS "is_expired!" FROM invitations
           WHERE bucket = $1 AND organization_id = $2 AND is_email = $3 AND identifier_normal = $4 AND state = 'PENDING'"#,
        organization.bucket(),
        organization.as_uuid(),
        recipient.email().is_some(),
        recipient.normal(),
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (InvitationId::from_uuid(row.id), row.is_expired)))
}

/// The numbers of an organization's invitations that its limits apply to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// The number of pending invitations.
    pub pending: i64,
    /// Invitations created in the last 24 hours, in any state.
    pub today: i64,
}

/// Counts the invitations of an organization. Under the lock of the organization the counts do not grow until the
/// transaction ends.
///
/// # Errors
/// If Postgres does not answer.
pub async fn counts(connection: &mut PgConnection, organization: OrganizationId) -> Result<Counts, StoreError> {
    Ok(sqlx::query_as!(
        Counts,
        r#"SELECT (SELECT count(*) FROM invitations WHERE bucket = $1 AND organization_id = $2 AND state = 'PENDING'
                    AND expire_time > clock_timestamp()) AS "pending!",
                  (SELECT count(*) FROM invitations WHERE bucket = $1 AND organization_id = $2
                    AND create_time > clock_timestamp() - interval '24 hours') AS "today!""#,
        organization.bucket(),
        organization.as_uuid(),
    )
    .fetch_one(connection)
    .await?)
}

/// Counts one delivery of an invitation and restarts its cooldown. With `mail`, the delivery is a mail in the outbox,
/// and the mail state becomes `WAITING`; without, the token was returned to the caller.
///
/// # Errors
/// If Postgres does not answer.
pub async fn count_send(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: InvitationId,
    mail: bool,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"UPDATE invitations SET sends = sends + 1, send_time = clock_timestamp(), update_time = clock_timestamp(),
               mail_state = CASE WHEN $4 THEN 'WAITING' ELSE mail_state END,
               mail_error = CASE WHEN $4 THEN NULL ELSE mail_error END
           WHERE bucket = $1 AND organization_id = $2 AND id = $3"#,
        organization.bucket(),
        organization.as_uuid(),
        id.as_uuid(),
        mail,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The rest of the cooldown since the last delivery, in seconds, rounded up; 0 if it is over.
///
/// # Errors
/// If Postgres does not answer.
pub async fn cooldown_left(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: InvitationId,
    cooldown: Duration,
) -> Result<u64, StoreError> {
    let left = sqlx::query_scalar!(
        r#"SELECT ceil(greatest(0, extract(epoch FROM send_time + $4::interval - clock_timestamp())))::bigint AS "left!"
           FROM invitations WHERE bucket = $1 AND organization_id = $2 AND id = $3"#,
        organization.bucket(),
        organization.as_uuid(),
        id.as_uuid(),
        interval(cooldown)?,
    )
    .fetch_one(connection)
    .await?;
    Ok(u64::try_from(left).unwrap_or(0))
}
