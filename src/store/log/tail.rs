//! Reading the change log: what came after what is known.
//!
//! The buckets of organizations and of users are one row of buckets here: those of users have the numbers after those of
//! organizations, as in consistency tokens.

use super::PURGED;
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::ids::ORGANIZATION_BUCKETS;
use crate::domain::{Kind, OrganizationId, OrganizationState, Role, Slug, UserId, UserState};
use crate::store::StoreError;
use crate::store::pool::Datastore;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// A place in the log of a bucket, and when what stands there was written: together they name one row and no other, also
/// after a failover that lost some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// The position.
    pub position: i64,
    /// When it was written, by the datastore's clock; 1970 for position 0.
    pub write_time: OffsetDateTime,
}

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// Where it stands.
    pub at: LogPosition,
    /// The last position of its transaction in this bucket.
    pub commit_position: i64,
    /// What it says.
    pub change: LogChange,
}

/// What a row of the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChange {
    /// Something in an organization.
    Organization(LogEntry),
    /// The state of a user.
    User {
        /// Who.
        user: UserId,
        /// The user's revision.
        revision: i64,
        /// The state.
        state: UserState,
    },
}

/// A bucket that is not where it was known to be.
#[derive(Debug, Clone)]
pub struct BucketDelta {
    /// The bucket: 0 to 255 of organizations, 256 to 287 of users.
    pub bucket: i16,
    /// Where its log now ends.
    pub head: LogPosition,
    /// Its rows from the known position on, that one included, as far as the limit goes.
    pub rows: Vec<LogRow>,
}

/// What one look at the log found.
#[derive(Debug, Clone)]
pub struct PollResult {
    /// Which datastore it was.
    pub datastore: Datastore,
    /// The buckets that moved.
    pub moved: Vec<BucketDelta>,
}

/// A row as the statements of this room return it, with what they say of its bucket.
pub(super) struct LogQueryRow {
    pub(super) id: Uuid,
    pub(super) epoch: i32,
    pub(super) bucket: Option<i16>,
    pub(super) head: Option<i64>,
    pub(super) head_time: Option<OffsetDateTime>,
    pub(super) position: Option<i64>,
    pub(super) commit_position: Option<i64>,
    pub(super) write_time: Option<OffsetDateTime>,
    pub(super) organization_id: Option<Uuid>,
    pub(super) revision: Option<i64>,
    pub(super) kind: Option<String>,
    pub(super) entry: Option<String>,
    pub(super) user_id: Option<String>,
    pub(super) role: Option<String>,
    pub(super) state: Option<String>,
    pub(super) owner_id: Option<String>,
    pub(super) slug: Option<String>,
}

/// Asks, in one statement and so of one snapshot, which datastore this is, which buckets are not at these places, and for
/// up to `limit` rows of each of those. The places are given for all buckets, in order.
///
/// # Errors
/// If Postgres does not answer, or a row is not readable.
pub async fn poll(connection: &mut PgConnection, known: &[LogPosition], limit: i64) -> Result<PollResult, StoreError> {
    let positions: Vec<i64> = known.iter().map(|at| at.position).collect();
    let times: Vec<OffsetDateTime> = known.iter().map(|at| at.write_time).collect();
    let rows = sqlx::query_as!(
        LogQueryRow,
        r#"WITH known AS (
               SELECT (number - 1)::smallint AS bucket, position, write_time
               FROM unnest($1::bigint[], $2::timestamptz[]) WITH ORDINALITY AS k (position, write_time, number)
           )
           SELECT d.id AS "id!", d.epoch AS "epoch!", m.bucket, m.head, m.head_time, m.position, m.commit_position,
                  m.write_time, m.organization_id, m.revision, m.kind, m.entry, m.user_id, m.role, m.state, m.owner_id,
                  m.slug
           FROM (SELECT id, epoch FROM datastore LIMIT 1) d LEFT JOIN (
               SELECT h.bucket, h.position AS head, h.write_time AS head_time, l.position, l.commit_position, l.write_time,
                      l.organization_id, l.revision, l.kind, l.entry, l.user_id, l.role, l.state, l.owner_id, l.slug
               FROM log_heads h JOIN known k ON k.bucket = h.bucket
               LEFT JOIN LATERAL (
                   SELECT * FROM log WHERE log.bucket = h.bucket AND log.position >= k.position
                   ORDER BY log.position LIMIT $3) l ON true
               WHERE h.position <> k.position OR h.write_time <> k.write_time
               UNION ALL
               SELECT (256 + h.user_bucket)::smallint, h.position, h.write_time, l.position, l.position, l.write_time,
                      NULL, l.revision, NULL, NULL, l.user_id, NULL, l.state, NULL, NULL
               FROM user_log_heads h JOIN known k ON k.bucket = 256 + h.user_bucket
               LEFT JOIN LATERAL (
                   SELECT * FROM user_log WHERE user_log.user_bucket = h.user_bucket AND user_log.position >= k.position
                   ORDER BY user_log.position LIMIT $3) l ON true
               WHERE h.position <> k.position OR h.write_time <> k.write_time
           ) m ON true
           ORDER BY m.bucket, m.position"#,
        &positions,
        &times,
        limit,
    )
    .fetch_all(connection)
    .await?;
    let first = rows.first().ok_or_else(|| StoreError::Unreadable("the datastore has no id".to_owned()))?;
    let mut polled = PollResult { datastore: Datastore { id: first.id, epoch: first.epoch }, moved: Vec::new() };
    for row in rows {
        let (Some(bucket), Some(position), Some(write_time)) = (row.bucket, row.head, row.head_time) else { continue };
        let head = LogPosition { position, write_time };
        if polled.moved.last().is_none_or(|last| last.bucket != bucket) {
            polled.moved.push(BucketDelta { bucket, head, rows: Vec::new() });
        }
        if let (Some(logged), Some(moved)) = (row.read(bucket)?, polled.moved.last_mut()) {
            moved.rows.push(logged);
        }
    }
    Ok(polled)
}

impl LogQueryRow {
    /// The row of the log; none where a bucket has none from the known position on.
    pub(super) fn read(self, bucket: i16) -> Result<Option<LogRow>, StoreError> {
        let (Some(position), Some(commit_position), Some(write_time), Some(revision)) =
            (self.position, self.commit_position, self.write_time, self.revision)
        else {
            return Ok(None);
        };
        let unreadable = || StoreError::Unreadable("a row of the log lacks a column".to_owned());
        let user = self.user_id.as_deref().map(UserId::parse).transpose()?;
        let change = if bucket >= ORGANIZATION_BUCKETS {
            let state = UserState::parse(self.state.as_deref().ok_or_else(unreadable)?)?;
            LogChange::User { user: user.ok_or_else(unreadable)?, revision, state }
        } else {
            let entry = match (self.entry.as_deref(), user) {
                (Some("MEMBERSHIP"), Some(user)) => {
                    ChangeDetail::Membership { user, role: self.role.as_deref().map(Role::parse).transpose()? }
                }
                (Some("ORGANIZATION"), None) => ChangeDetail::Organization {
                    state: match self.state.as_deref().ok_or_else(unreadable)? {
                        PURGED => None,
                        state => Some(OrganizationState::parse(state)?),
                    },
                    owner: self.owner_id.as_deref().map(UserId::parse).transpose()?,
                    slug: Slug::parse(self.slug.as_deref().ok_or_else(unreadable)?)?,
                },
                _ => return Err(unreadable()),
            };
            LogChange::Organization(LogEntry {
                organization: OrganizationId::from_uuid(self.organization_id.ok_or_else(unreadable)?),
                kind: Kind::parse(self.kind.as_deref().ok_or_else(unreadable)?)?,
                revision,
                detail: entry,
            })
        };
        Ok(Some(LogRow { at: LogPosition { position, write_time }, commit_position, change }))
    }
}

/// Where every bucket's log ends, in order, from one snapshot.
///
/// # Errors
/// If Postgres does not answer.
pub async fn heads(connection: &mut PgConnection) -> Result<Vec<LogPosition>, StoreError> {
    Ok(sqlx::query_as!(
        LogPosition,
        r#"SELECT position AS "position!", write_time AS "write_time!" FROM (
               SELECT bucket, position, write_time FROM log_heads
               UNION ALL SELECT 256 + user_bucket, position, write_time FROM user_log_heads
           ) heads ORDER BY bucket"#
    )
    .fetch_all(connection)
    .await?)
}

/// Says that writes were lost, unless another process has said so already: tokens of this epoch and of those before are
/// no longer believed. Tells the epoch that now is.
///
/// # Errors
/// If Postgres does not answer, or takes no writes (yet).
pub async fn begin_epoch(connection: &mut PgConnection, after: i32) -> Result<i32, StoreError> {
    sqlx::query!("UPDATE datastore SET epoch = $1::integer + 1 WHERE epoch <= $1", after)
        .execute(&mut *connection)
        .await?;
    Ok(crate::store::pool::datastore(connection).await?.epoch)
}

/// Wakes those who follow the log. Not part of a write: inside one it costs more than the write.
///
/// # Errors
/// If Postgres does not answer.
pub async fn notify(connection: &mut PgConnection, sender: &str) -> Result<(), StoreError> {
    sqlx::query!("SELECT pg_notify($1, $2) AS done", CHANNEL, sender).fetch_one(connection).await?;
    Ok(())
}

/// The channel of [`notify`].
pub const CHANNEL: &str = "roster_log";
