//! Rows of invitations and of their tokens.
//!
//! Whether one is still pending is one predicate, here and nowhere else: `state = 'PENDING' AND expire_time >
//! clock_timestamp()`. `clock_timestamp()` and not `now()`: who waited for a lock judges by the clock as it is.

use super::StoreError;
use crate::domain::{
    ActorKind, Attributes, EmailAddress, Invitation, InvitationId, InvitationState, Inviter, MailState, OrganizationId,
    Recipient, Role, UserId,
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
    pub(super) role: String,
    pub(super) makes_owner: bool,
    pub(super) attributes: Json<Attributes>,
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
}

impl TryFrom<InvitationRow> for Invitation {
    type Error = StoreError;
    fn try_from(row: InvitationRow) -> Result<Self, StoreError> {
        Ok(Self {
            organization: OrganizationId::from_uuid(row.organization_id),
            id: InvitationId::from_uuid(row.id),
            recipient: if row.is_email {
                Recipient::Email(EmailAddress::parse(&row.identifier)?)
            } else {
                Recipient::parse_other(&row.identifier)?
            },
            role: Role::parse(&row.role)?,
            makes_owner: row.makes_owner,
            attributes: row.attributes.0,
            state: InvitationState::parse(row.state.as_deref().unwrap_or_default())?,
            inviter: Inviter { kind: ActorKind::parse(&row.inviter_kind)?, id: row.inviter_id },
            accepted_by: row.accepted_by.as_deref().map(UserId::parse).transpose()?,
            expire_time: row.expire_time,
            sends: row.sends,
            mail_state: row.mail_state.as_deref().map(MailState::parse).transpose()?,
            mail_error: row.mail_error,
            create_time: row.create_time,
            update_time: row.update_time,
        })
    }
}

/// A time as Postgres counts it: in microseconds. What is less than one is left out.
pub(super) fn interval(duration: Duration) -> Result<PgInterval, StoreError> {
    PgInterval::try_from(Duration::new(duration.as_secs(), duration.subsec_micros() * 1000))
        .map_err(|error| StoreError::Unreadable(error.to_string()))
}

/// What a new invitation is made of.
#[derive(Debug, Clone)]
pub struct NewInvitation {
    /// Where.
    pub organization: OrganizationId,
    /// The id, random.
    pub id: InvitationId,
    /// Whom.
    pub recipient: Recipient,
    /// As what.
    pub role: Role,
    /// Whether it makes the owner of a pending organization.
    pub makes_owner: bool,
    /// What the deployment will keep about the membership.
    pub attributes: Attributes,
    /// Who invites.
    pub inviter: Inviter,
    /// How long it is good.
    pub life: Duration,
    /// Whether a mail will be sent.
    pub mail: bool,
}

/// Writes a new invitation; none if the recipient has a pending one there.
///
/// # Errors
/// If Postgres does not answer.
pub async fn insert(connection: &mut PgConnection, new: &NewInvitation) -> Result<Option<Invitation>, StoreError> {
    sqlx::query_as!(
        InvitationRow,
        r#"INSERT INTO invitations (bucket, organization_id, id, identifier, identifier_normal, is_email, role, makes_owner,
                                    attributes, state, inviter_kind, inviter_id, expire_time, sends, send_time, mail_state,
                                    create_time, update_time)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'PENDING', $10, $11, clock_timestamp() + $12::interval, 0,
                   clock_timestamp(), CASE WHEN $13 THEN 'WAITING' END, clock_timestamp(), clock_timestamp())
           ON CONFLICT DO NOTHING
           RETURNING organization_id, id, identifier, is_email, role, makes_owner,
                     attributes AS "attributes: Json<Attributes>", state AS "state?", inviter_kind, inviter_id, accepted_by,
                     expire_time, sends, mail_state, mail_error, create_time, update_time"#,
        new.organization.bucket(),
        new.organization.as_uuid(),
        new.id.as_uuid(),
        new.recipient.given(),
        new.recipient.normal(),
        new.recipient.email().is_some(),
        new.role.as_str(),
        new.makes_owner,
        new.attributes.to_value(),
        new.inviter.kind.as_str(),
        new.inviter.id,
        interval(new.life)?,
        new.mail,
    )
    .fetch_optional(connection)
    .await?
    .map(Invitation::try_from)
    .transpose()
}

/// Reads an invitation.
///
/// # Errors
/// If Postgres does not answer.
pub async fn get(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: InvitationId,
) -> Result<Option<Invitation>, StoreError> {
    sqlx::query_as!(
        InvitationRow,
        r#"SELECT organization_id, id, identifier, is_email, role, makes_owner,
                  attributes AS "attributes: Json<Attributes>",
                  CASE WHEN state = 'PENDING' AND expire_time <= clock_timestamp() THEN 'EXPIRED' ELSE state END AS state,
                  inviter_kind, inviter_id, accepted_by, expire_time, sends, mail_state, mail_error, create_time, update_time
           FROM invitations WHERE bucket = $1 AND organization_id = $2 AND id = $3"#,
        organization.bucket(),
        organization.as_uuid(),
        id.as_uuid(),
    )
    .fetch_optional(connection)
    .await?
    .map(Invitation::try_from)
    .transpose()
}

/// Where an invitation is, by its id alone.
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

/// Where a list goes on: behind this time and id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvitationPageKey {
    /// When the last one shown was created.
    pub create_time: OffsetDateTime,
    /// Its id.
    pub id: InvitationId,
}

/// Which invitations to list.
#[derive(Debug, Clone)]
pub struct InvitationFilter {
    /// Only these states.
    pub states: Vec<InvitationState>,
    /// Where to go on.
    pub after: Option<InvitationPageKey>,
    /// How many at most.
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
) -> Result<Vec<Invitation>, StoreError> {
    let states: Vec<String> = filter.states.iter().map(|state| state.as_str().to_owned()).collect();
    let rows = sqlx::query_as!(
        InvitationRow,
        r#"SELECT organization_id, id, identifier, is_email, role, makes_owner,
                  attributes AS "attributes: Json<Attributes>",
                  CASE WHEN state = 'PENDING' AND expire_time <= clock_timestamp() THEN 'EXPIRED' ELSE state END AS state,
                  inviter_kind, inviter_id, accepted_by, expire_time, sends, mail_state, mail_error, create_time, update_time
           FROM invitations
           WHERE bucket = $1 AND organization_id = $2
             AND (create_time, id) > (coalesce($3, '-infinity'::timestamptz),
                                      coalesce($4, '00000000-0000-0000-0000-000000000000'::uuid))
             AND CASE WHEN state = 'PENDING' AND expire_time <= clock_timestamp() THEN 'EXPIRED' ELSE state END
                 = ANY ($5::text[])
           ORDER BY create_time, id
           LIMIT $6"#,
        organization.bucket(),
        organization.as_uuid(),
        filter.after.map(|after| after.create_time),
        filter.after.map(|after| after.id.as_uuid()),
        &states,
        filter.limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Invitation::try_from).collect()
}

/// Moves a pending invitation to another state; false if it is not pending (any more).
///
/// # Errors
/// If Postgres does not answer.
pub async fn settle(
    connection: &mut PgConnection,
    invitation: &Invitation,
    to: InvitationState,
    accepted_by: Option<&UserId>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        r#"UPDATE invitations SET state = $4, accepted_by = $5, update_time = clock_timestamp()
           WHERE bucket = $1 AND organization_id = $2 AND id = $3
             AND state = 'PENDING' AND expire_time > clock_timestamp()"#,
        invitation.organization.bucket(),
        invitation.organization.as_uuid(),
        invitation.id.as_uuid(),
        to.as_str(),
        accepted_by.map(UserId::as_str),
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes EXPIRED where the time of a recipient's invitation is over, so that they can be invited again; tells which.
///
/// # Errors
/// If Postgres does not answer.
pub async fn expire(
    connection: &mut PgConnection,
    organization: OrganizationId,
    recipient: &Recipient,
) -> Result<Vec<InvitationId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"UPDATE invitations SET state = 'EXPIRED', update_time = clock_timestamp()
           WHERE bucket = $1 AND organization_id = $2 AND is_email = $3 AND identifier_normal = $4
             AND state = 'PENDING' AND expire_time <= clock_timestamp()
           RETURNING id"#,
        organization.bucket(),
        organization.as_uuid(),
        recipient.email().is_some(),
        recipient.normal(),
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(InvitationId::from_uuid).collect())
}

/// The recipient's pending invitation, if there is one.
///
/// # Errors
/// If Postgres does not answer.
pub async fn pending(
    connection: &mut PgConnection,
    organization: OrganizationId,
    recipient: &Recipient,
) -> Result<Option<InvitationId>, StoreError> {
    let id = sqlx::query_scalar!(
        r#"SELECT id FROM invitations
           WHERE bucket = $1 AND organization_id = $2 AND is_email = $3 AND identifier_normal = $4 AND state = 'PENDING'"#,
        organization.bucket(),
        organization.as_uuid(),
        recipient.email().is_some(),
        recipient.normal(),
    )
    .fetch_optional(connection)
    .await?;
    Ok(id.map(InvitationId::from_uuid))
}

/// Revokes every pending invitation of an organization, or those to one address; tells which.
///
/// # Errors
/// If Postgres does not answer.
pub async fn revoke_all(
    connection: &mut PgConnection,
    organization: OrganizationId,
    address: Option<&EmailAddress>,
) -> Result<Vec<InvitationId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"UPDATE invitations SET state = 'REVOKED', update_time = clock_timestamp()
           WHERE bucket = $1 AND organization_id = $2 AND state = 'PENDING' AND expire_time > clock_timestamp()
             AND ($3::text IS NULL OR (is_email AND identifier_normal = $3))
           RETURNING id"#,
        organization.bucket(),
        organization.as_uuid(),
        address.map(EmailAddress::normal),
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(InvitationId::from_uuid).collect())
}

/// How many invitations of an organization are pending, and how many were made in the last 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Pending now.
    pub pending: i64,
    /// Made in the last 24 hours, whatever became of them.
    pub today: i64,
}

/// Counts an organization's invitations. Under the organization's lock the counts stay true.
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

/// Counts a sending: by a mail that is waiting, or by a token given out.
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

/// How many whole seconds of a cooldown are left since the last sending; 0 if it is over.
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

/// Forgets invitations that came to their end longer ago than this, with their tokens, at most so many; tells how many.
/// Several processes may do it at once. What happened stays in the events, which hold no address.
///
/// # Errors
/// If Postgres does not answer.
pub async fn forget_old(connection: &mut PgConnection, age: Duration, most: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        r#"WITH old AS (
               SELECT bucket, organization_id, id FROM invitations
               WHERE greatest(expire_time, update_time) < clock_timestamp() - $1::interval
               LIMIT $2 FOR UPDATE SKIP LOCKED
           ), tokens AS (
               DELETE FROM invitation_tokens t USING old
               WHERE t.bucket = old.bucket AND t.organization_id = old.organization_id AND t.invitation_id = old.id
           )
           DELETE FROM invitations i USING old
           WHERE i.bucket = old.bucket AND i.organization_id = old.organization_id AND i.id = old.id"#,
        interval(age)?,
        most,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
