//! Reading the change log of one bucket from a position on: for a change feed that resumes at a consistency token.

use super::tail::{LogQueryRow, LogRow};
use crate::domain::ids::{MODEL_BUCKET, ORGANIZATION_BUCKETS};
use crate::store::datastore::Datastore;
use crate::store::{StoreError, limits};
use sqlx::PgConnection;

/// A page of the log of one bucket.
#[derive(Debug, Clone)]
pub struct ReplayPage {
    /// The database that the page was read from.
    pub datastore: Datastore,
    /// The rows from the position on, with the row at the position if the log still has it, up to the limit. The last
    /// transaction may be incomplete.
    pub rows: Vec<LogRow>,
}

/// Reads up to `limit` rows of a bucket from a position on. Buckets 0 to 255 are of organizations, 256 to 287 of users, and
/// 288 is of the access model, whose pages have at most [`limits::MODEL_ROWS`] rows. A page ends early by the bytes of the
/// permissions in it, after two rows at least.
///
/// # Errors
/// If Postgres does not answer, or a row is not readable.
pub async fn from(
    connection: &mut PgConnection,
    bucket: i16,
    position: i64,
    limit: i64,
) -> Result<ReplayPage, StoreError> {
    let rows = if bucket < ORGANIZATION_BUCKETS {
        organizations(connection, bucket, position, limit).await?
    } else if bucket == MODEL_BUCKET {
        models(connection, position, limit.min(limits::MODEL_ROWS)).await?
    } else {
        users(connection, bucket - ORGANIZATION_BUCKETS, position, limit).await?
    };
    let unreadable = || StoreError::Unreadable(format!("bucket {bucket} of the log has no head"));
    let first = rows.first().ok_or_else(unreadable)?;
    let datastore = Datastore { id: first.id, epoch: first.epoch };
    let rows = rows.into_iter().filter_map(|row| row.read(bucket)).collect();
    Ok(ReplayPage { datastore, rows })
}

async fn organizations(
    connection: &mut PgConnection,
    bucket: i16,
    position: i64,
    limit: i64,
) -> Result<Vec<LogQueryRow>, StoreError> {
    let rows = sqlx::query_as!(
        LogQueryRow,
        r#"SELECT d.id, d.epoch, h.bucket AS "bucket?", h.position AS "head?", h.write_time AS "head_time?",
                  l.position AS "position?", l.commit_position AS "commit_position?", l.write_time AS "write_time?",
                  l.organization_id AS "organization_id?", l.revision AS "revision?", l.kind AS "kind?",
                  l.entry AS "entry?", l.user_id, l.role, l.state, l.owner_id, l.slug, l.permissions, l.replaced_by,
                  NULL::bigint AS reinstated_at, NULL::jsonb AS model
           FROM datastore d JOIN log_heads h ON h.bucket = $1
           LEFT JOIN LATERAL (
               SELECT * FROM (
                   SELECT p.*, sum(octet_length(array_to_string(p.permissions, ''))) OVER (
                                   ORDER BY p.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS text_before
                   FROM (
                       SELECT * FROM log WHERE log.bucket = $1 AND log.position >= $2
                       ORDER BY log.position LIMIT $3) p) s
               WHERE coalesce(s.text_before, 0) < $4) l ON true
           ORDER BY l.position"#,
        bucket,
        position,
        limit,
        limits::PAGE_TEXT_BYTES,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

async fn users(
    connection: &mut PgConnection,
    bucket: i16,
    position: i64,
    limit: i64,
) -> Result<Vec<LogQueryRow>, StoreError> {
    let rows = sqlx::query_as!(
        LogQueryRow,
        r#"SELECT d.id, d.epoch, h.user_bucket AS "bucket?", h.position AS "head?", h.write_time AS "head_time?",
                  l.position AS "position?", l.position AS "commit_position?", l.write_time AS "write_time?",
                  NULL::uuid AS organization_id, l.revision AS "revision?", NULL::text AS kind, NULL::text AS entry,
                  l.user_id AS "user_id?", NULL::text AS role, l.state AS "state?", NULL::text AS owner_id,
                  NULL::text AS slug, NULL::text[] AS permissions, NULL::text AS replaced_by,
                  l.reinstated_at, NULL::jsonb AS model
           FROM datastore d JOIN user_log_heads h ON h.user_bucket = $1
           LEFT JOIN LATERAL (
               SELECT * FROM user_log WHERE user_log.user_bucket = $1 AND user_log.position >= $2
               ORDER BY user_log.position LIMIT $3) l ON true
           ORDER BY l.position"#,
        bucket,
        position,
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

async fn models(connection: &mut PgConnection, position: i64, limit: i64) -> Result<Vec<LogQueryRow>, StoreError> {
    let rows = sqlx::query_as!(
        LogQueryRow,
        r#"SELECT d.id, d.epoch, 288::smallint AS bucket, h.revision AS "head?", h.write_time AS "head_time?",
                  l.revision AS "position?", l.revision AS "commit_position?", l.create_time AS "write_time?",
                  NULL::uuid AS organization_id, l.revision AS "revision?", NULL::text AS kind, NULL::text AS entry,
                  NULL::text AS user_id, NULL::text AS role, NULL::text AS state, NULL::text AS owner_id,
                  NULL::text AS slug, NULL::text[] AS permissions, NULL::text AS replaced_by,
                  NULL::bigint AS reinstated_at, l.model AS "model?"
           FROM datastore d CROSS JOIN access_model h
           LEFT JOIN LATERAL (
               SELECT * FROM access_model_revisions r WHERE r.revision >= $1 ORDER BY r.revision LIMIT $2) l ON true
           ORDER BY l.revision"#,
        position,
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
