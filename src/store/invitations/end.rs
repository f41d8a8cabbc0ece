//! The end of invitations: answered, revoked or expired, and forgotten later.

use super::interval;
use crate::domain::{EmailAddress, Invitation, InvitationId, InvitationState, OrganizationId, UserId};
use crate::store::StoreError;
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// Moves a pending invitation to its final state; false if it is not pending, or no longer. Remove its mails from the outbox
/// before: one that is waiting is not sent.
///
/// # Errors
/// If Postgres does not answer.
pub async fn settle(
    connection: &mut PgConnection,
    invitation: &Invitation,
    to: InvitationState,
    accepted_by: Option<&UserId>,
) -> Result<bool, StoreError> {
    let result = sqlx::query!(
        r#"UPDATE invitations SET state = $4, accepted_by = $5, update_time = statement_timestamp(),
               mail_state = CASE WHEN mail_state = 'WAITING' THEN 'NOT_SENT' ELSE mail_state END
           WHERE bucket = $1 AND organization_id = $2 AND id = $3
             AND state = 'PENDING' AND expire_time > statement_timestamp()"#,
        invitation.organization.bucket(),
        invitation.organization.as_uuid(),
        invitation.id.as_uuid(),
        to.as_str(),
        accepted_by.map(UserId::as_str),
    )
    .execute(connection)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// A selection of the pending invitations of an organization.
#[derive(Debug, Clone, Copy)]
pub enum PendingInvitations<'a> {
    /// All of them.
    All,
    /// Those to one address.
    To(&'a EmailAddress),
    /// Those of its future owner.
    OfOwner,
}

impl PendingInvitations<'_> {
    /// The address, and whether only invitations of the future owner are selected.
    pub(in crate::store) fn columns(&self) -> (Option<&str>, bool) {
        match self {
            Self::All => (None, false),
            Self::To(address) => (Some(address.normal()), false),
            Self::OfOwner => (None, true),
        }
    }
}

/// Finds pending invitations of an organization that have not expired.
///
/// # Errors
/// If Postgres does not answer.
pub async fn unexpired(
    connection: &mut PgConnection,
    organization: OrganizationId,
    selection: PendingInvitations<'_>,
) -> Result<Vec<InvitationId>, StoreError> {
    let (address, only_of_owner) = selection.columns();
    let ids = sqlx::query_scalar!(
        r#"SELECT id FROM invitations
           WHERE bucket = $1 AND organization_id = $2 AND state = 'PENDING' AND expire_time > clock_timestamp()
             AND ($3::text IS NULL OR (is_email AND identifier_normal = $3)) AND (makes_owner OR NOT $4)
           ORDER BY create_time, id"#,
        organization.bucket(),
        organization.as_uuid(),
        address,
        only_of_owner,
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(InvitationId::from_uuid).collect())
}

/// Finds at most `most` invitations of an organization that have expired and whose stored state is still `PENDING`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn expired(
    connection: &mut PgConnection,
    organization: OrganizationId,
    most: i64,
) -> Result<Vec<InvitationId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id FROM invitations
           WHERE bucket = $1 AND organization_id = $2 AND state = 'PENDING' AND expire_time <= statement_timestamp()
           ORDER BY expire_time, id LIMIT $3"#,
        organization.bucket(),
        organization.as_uuid(),
        most,
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(InvitationId::from_uuid).collect())
}

/// Finds at most `most` organizations with [`expired`] invitations: those that expired first, of ten times as many.
///
/// # Errors
/// If Postgres does not answer.
pub async fn with_expired(connection: &mut PgConnection, most: i64) -> Result<Vec<OrganizationId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"SELECT DISTINCT organization_id FROM (
               SELECT organization_id FROM invitations
               WHERE state = 'PENDING' AND expire_time <= statement_timestamp()
               ORDER BY expire_time LIMIT 10 * $1::bigint
           ) first LIMIT $1"#,
        most,
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(OrganizationId::from_uuid).collect())
}

/// Ends invitations of a locked organization that are pending. An invitation that has expired ended at its expire time,
/// whenever this is called. Remove their mails from the outbox before.
///
/// # Errors
/// If Postgres does not answer.
pub async fn end(
    connection: &mut PgConnection,
    organization: OrganizationId,
    ids: &[InvitationId],
    to: InvitationState,
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
    sqlx::query!(
        r#"UPDATE invitations SET state = $4,
               update_time = greatest(update_time, least(expire_time, statement_timestamp())),
               mail_state = CASE WHEN mail_state = 'WAITING' THEN 'NOT_SENT' ELSE mail_state END
           WHERE bucket = $1 AND organization_id = $2 AND id = ANY ($3) AND state = 'PENDING'"#,
        organization.bucket(),
        organization.as_uuid(),
        &ids,
        to.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Records that the waiting mail of an invitation was removed from the outbox. A mail that servers of release 0.3 left
/// waiting at the end of its invitation shows as not sent anyhow.
///
/// # Errors
/// If Postgres does not answer.
pub async fn cancel_mail(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: InvitationId,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"UPDATE invitations SET mail_state = 'NOT_SENT',
               update_time = greatest(update_time, least(expire_time, statement_timestamp()))
           WHERE bucket = $1 AND organization_id = $2 AND id = $3 AND mail_state = 'WAITING' AND state = 'PENDING'"#,
        organization.bucket(),
        organization.as_uuid(),
        id.as_uuid(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes at most `most` invitations whose end and whose expire time are longer than `age` ago, accepted ones included,
/// and their tokens. Returns the number of invitations deleted. Several processes may run this at the same time. The events stay;
/// they contain no address.
///
/// # Errors
/// If Postgres does not answer.
pub async fn forget_old(connection: &mut PgConnection, age: Duration, most: i64) -> Result<u64, StoreError> {
    let result = sqlx::query!(
        r#"WITH old AS (
               SELECT bucket, organization_id, id FROM invitations
               WHERE greatest(expire_time, update_time) < clock_timestamp() - $1::interval AND state <> 'PENDING'
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
    Ok(result.rows_affected())
}
