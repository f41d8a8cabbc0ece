//! The organizations that are due to be purged.

use crate::domain::OrganizationId;
use crate::store::{StoreError, invitations, limits};
use sqlx::PgConnection;

/// A query with the condition that an organization `o` is an abandoned registration: pending, with an invitation of its
/// owner, the last of which ended longer than `$2` ago. An invitation that expired ended at its expire time. The
/// arguments: the text before the condition, the text after it, the arguments of the query.
macro_rules! abandoned_query {
    ($before:literal, $after:literal, $($argument:tt)*) => {
        sqlx::query_scalar!(
            $before
                + r#" o.state = 'PENDING' AND o.purge_time IS NULL
                      AND EXISTS (
                          SELECT FROM invitations i
                          WHERE i.bucket = o.bucket AND i.organization_id = o.id AND i.makes_owner)
                      AND NOT EXISTS (
                          SELECT FROM invitations i
                          WHERE i.bucket = o.bucket AND i.organization_id = o.id AND i.makes_owner
                            AND CASE WHEN i.state IN ('PENDING', 'EXPIRED') THEN i.expire_time ELSE i.update_time END
                                > clock_timestamp() - $2::interval) "#
                + $after,
            $($argument)*
        )
    };
}

/// The organizations that are due to be purged, at most `most` of each sort: deleted organizations past their purge
/// time, the longest overdue first, and pending organizations that a registration made, [`limits::PURGE_AFTER`] after the
/// last invitation of their owner ended. Other pending organizations wait for their first member as long as it takes.
///
/// # Errors
/// If Postgres does not answer.
pub async fn due_for_purge(connection: &mut PgConnection, most: i64) -> Result<Vec<OrganizationId>, StoreError> {
    let ids = abandoned_query!(
        r#"(SELECT id AS "id!" FROM organizations WHERE purge_time <= clock_timestamp() ORDER BY purge_time LIMIT $1)
           UNION ALL
           (SELECT o.id FROM organizations o WHERE"#,
        "LIMIT $1)",
        most,
        invitations::interval(limits::PURGE_AFTER)?,
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(OrganizationId::from_uuid).collect())
}

/// Whether an organization is due to be purged, as in [`due_for_purge`]; false if it has no row.
///
/// # Errors
/// If Postgres does not answer.
pub async fn is_due(connection: &mut PgConnection, id: OrganizationId) -> Result<bool, StoreError> {
    let due = abandoned_query!(
        "SELECT coalesce(o.purge_time <= clock_timestamp(),",
        ") AS due FROM organizations o WHERE o.bucket = $1 AND o.id = $3",
        id.bucket(),
        invitations::interval(limits::PURGE_AFTER)?,
        id.as_uuid(),
    )
    .fetch_optional(connection)
    .await?;
    Ok(due.flatten() == Some(true))
}
