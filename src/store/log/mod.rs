//! The change log: one dense sequence of positions for each bucket, in commit order. This module appends to it.
//!
//! Appending is the last step of a write. It locks the row of the bucket's head until the commit. So positions are
//! assigned in the order of commits, a rollback leaves no gap, and every snapshot contains a prefix of the log.

mod copy;
pub mod history;
pub mod partitions;
pub mod replay;
pub mod snapshot;
pub mod tail;

use super::StoreError;
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::ids::MODEL_BUCKET;
use crate::domain::{BucketPosition, OrganizationState, UserId, UserState};
use sqlx::PgConnection;
use tail::LogPosition;

/// The state of a purged organization in the log.
pub(super) const PURGED: &str = "PURGED";

/// The outcome of an [`append`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendedRows {
    /// The new end of the bucket's log.
    pub at: BucketPosition,
    /// The position of the access model in its log while the head of the bucket is locked. A write that resolved roles by
    /// another model must be rolled back and repeated.
    pub model: BucketPosition,
}

/// Appends the changes of a transaction to the log of one bucket. Returns the new end of that log, and the position of the
/// access model by which the transaction must have been decided.
///
/// Locks the head of the bucket. A transaction that appends to several buckets does so in ascending order, which
/// prevents deadlocks.
///
/// All rows and the head get the same write time. It is later than that of every earlier row, even if the clock of
/// Postgres was set back.
///
/// # Errors
/// If Postgres does not answer, or the lock is not granted in time.
pub async fn append(
    connection: &mut PgConnection,
    bucket: i16,
    entries: &[LogEntry],
) -> Result<AppendedRows, StoreError> {
    let mut organizations = Vec::with_capacity(entries.len());
    let mut revisions = Vec::with_capacity(entries.len());
    let mut kinds = Vec::with_capacity(entries.len());
    let mut columns: [Vec<Option<String>>; 8] = Default::default();
    for entry in entries {
        organizations.push(entry.organization.as_uuid());
        revisions.push(entry.revision);
        kinds.push(entry.kind.as_str().to_owned());
        for (column, text) in columns.iter_mut().zip(texts(&entry.detail)) {
            column.push(text);
        }
    }
    let [entry_types, users, roles, states, owners, slugs, permissions, replacements] = &columns;
    let head = sqlx::query!(
        r#"WITH head AS (
               UPDATE log_heads
               SET position = position + cardinality($2::uuid[]),
                   write_time = greatest(clock_timestamp(), write_time + interval '1 microsecond')
               WHERE bucket = $1 RETURNING position, write_time, model_revision, model_time
           ), written AS (
               INSERT INTO log (bucket, position, commit_position, organization_id, revision, kind, entry, user_id, role,
                                state, owner_id, slug, permissions, replaced_by, write_time)
               SELECT $1, head.position - cardinality($2::uuid[]) + q.number, head.position, q.organization_id, q.revision,
                      q.kind, q.entry, q.user_id, q.role, q.state, q.owner_id, q.slug,
                      string_to_array(q.permissions, ' '), q.replaced_by, head.write_time
               FROM head, unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                                 $9::text[], $10::text[], $11::text[], $12::text[])
                    WITH ORDINALITY
                    AS q (organization_id, revision, kind, entry, user_id, role, state, owner_id, slug, permissions,
                          replaced_by, number)
           )
           SELECT position AS "position!", write_time AS "write_time!", model_revision AS "model_revision!",
                  model_time AS "model_time!"
           FROM head"#,
        bucket,
        &organizations,
        &revisions,
        &kinds,
        entry_types as &[Option<String>],
        users as &[Option<String>],
        roles as &[Option<String>],
        states as &[Option<String>],
        owners as &[Option<String>],
        slugs as &[Option<String>],
        permissions as &[Option<String>],
        replacements as &[Option<String>],
    )
    .fetch_one(connection)
    .await?;
    let at = LogPosition { position: head.position, write_time: head.write_time };
    let model = LogPosition { position: head.model_revision, write_time: head.model_time };
    Ok(AppendedRows { at: at.in_bucket(bucket), model: model.in_bucket(MODEL_BUCKET) })
}

/// The columns of a change: the entry, the user, the role, the state, the owner, the slug, the permissions with spaces
/// between them, because an array of lists has lists of one length only, and the role that replaces the role.
fn texts(detail: &ChangeDetail) -> [Option<String>; 8] {
    match detail {
        ChangeDetail::Membership { user, role } => [
            Some("MEMBERSHIP".to_owned()),
            Some(user.to_string()),
            role.as_ref().map(|role| role.name.to_string()),
            None,
            None,
            None,
            None,
            None,
        ],
        ChangeDetail::Organization { state, owner, slug } => [
            Some("ORGANIZATION".to_owned()),
            None,
            None,
            Some(state.map_or(PURGED, OrganizationState::as_str).to_owned()),
            owner.as_ref().map(ToString::to_string),
            Some(slug.to_string()),
            None,
            None,
        ],
        ChangeDetail::Role { name, permissions, replaced_by } => [
            Some("ROLE".to_owned()),
            None,
            Some(name.to_string()),
            None,
            None,
            None,
            permissions.as_ref().map(|permissions| permissions.join(" ")),
            replaced_by.as_ref().map(ToString::to_string),
        ],
        // A write of this program makes no such change; the constraints reject the row.
        ChangeDetail::Unknown => Default::default(),
    }
}

/// A change of a user for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserEntry {
    /// The revision of the user that the change made.
    pub revision: i64,
    /// The new state.
    pub state: UserState,
    /// If the change reinstated the user: when, in whole seconds since 1970.
    pub reinstated_at: Option<i64>,
}

/// Appends a change of a user to the log of the user's bucket. Returns the new end of that log.
///
/// # Errors
/// If Postgres does not answer, or the lock is not granted in time.
pub async fn append_user(
    connection: &mut PgConnection,
    user: &UserId,
    entry: UserEntry,
) -> Result<BucketPosition, StoreError> {
    let bucket = user.bucket();
    let head = sqlx::query_as!(
        LogPosition,
        r#"WITH head AS (
               UPDATE user_log_heads
               SET position = position + 1,
                   write_time = greatest(clock_timestamp(), write_time + interval '1 microsecond')
               WHERE user_bucket = $1 RETURNING position, write_time
           ), written AS (
               INSERT INTO user_log (user_bucket, position, user_id, revision, state, reinstated_at, write_time)
               SELECT $1, head.position, $2, $3, $4, $5, head.write_time FROM head
           )
           SELECT position AS "position!", write_time AS "write_time!" FROM head"#,
        bucket,
        user.as_str(),
        entry.revision,
        entry.state.as_str(),
        entry.reinstated_at,
    )
    .fetch_one(connection)
    .await?;
    Ok(head.in_bucket(bucket))
}

/// The last position in the log of a bucket of organizations.
///
/// # Errors
/// If Postgres does not answer.
pub async fn position(connection: &mut PgConnection, bucket: i16) -> Result<BucketPosition, StoreError> {
    let head = sqlx::query_as!(LogPosition, "SELECT position, write_time FROM log_heads WHERE bucket = $1", bucket);
    Ok(head.fetch_one(connection).await?.in_bucket(bucket))
}

/// The last positions in the logs of all buckets of organizations, in their order.
///
/// # Errors
/// If Postgres does not answer.
pub async fn positions(connection: &mut PgConnection) -> Result<Vec<LogPosition>, StoreError> {
    let heads = sqlx::query_as!(LogPosition, "SELECT position, write_time FROM log_heads ORDER BY bucket");
    Ok(heads.fetch_all(connection).await?)
}

/// The last position in the log of a bucket of users.
///
/// # Errors
/// If Postgres does not answer.
pub async fn user_position(connection: &mut PgConnection, bucket: i16) -> Result<BucketPosition, StoreError> {
    let head =
        sqlx::query_as!(LogPosition, "SELECT position, write_time FROM user_log_heads WHERE user_bucket = $1", bucket);
    Ok(head.fetch_one(connection).await?.in_bucket(bucket))
}
