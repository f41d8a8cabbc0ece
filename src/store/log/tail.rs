//! Polling the change log for rows after known positions.
//!
//! The buckets are numbered in one sequence, as in consistency tokens: 0 to 255 are of organizations, 256 to 287 of
//! users, and 288 is of the access model.

use super::PURGED;
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::ids::{MODEL_BUCKET, ORGANIZATION_BUCKETS};
use crate::domain::{
    BucketPosition, Kind, LogMark, OrganizationId, OrganizationState, Role, RoleName, Slug, UserId, UserState,
};
use crate::store::datastore::Datastore;
use crate::store::session::UnusableDatastore;
use crate::store::{StoreError, limits};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// A position in the log of a bucket, with its write time. Together they identify one row, even after a failover that
/// lost rows and reassigned their positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// The number of rows up to and including this one; 0 before the first row.
    pub position: i64,
    /// The write time by the clock of Postgres; 1970 for position 0.
    pub write_time: OffsetDateTime,
}

impl LogPosition {
    /// The mark of the row at this position.
    #[must_use]
    pub fn mark(&self) -> LogMark {
        LogMark::new(self.write_time)
    }

    /// This position in the log of a bucket.
    #[must_use]
    pub fn in_bucket(&self, bucket: i16) -> BucketPosition {
        BucketPosition { bucket, position: self.position, mark: self.mark() }
    }
}

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// The position of the row.
    pub at: LogPosition,
    /// The last position of the row's transaction in this bucket.
    pub commit_position: i64,
    /// The change that the row records.
    pub change: LogChange,
}

/// The change in a row of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChange {
    /// A change of an organization or of one of its memberships.
    Organization(LogEntry),
    /// A change of a user's state, or a reinstatement.
    User {
        /// The user whose state changed.
        user: UserId,
        /// The revision of the user that the change made.
        revision: i64,
        /// The new state.
        state: UserState,
        /// If the change reinstated the user: when, in whole seconds since 1970.
        reinstated_at: Option<i64>,
    },
    /// The access model was replaced.
    Model {
        /// The revision of the new model: the position of the row.
        revision: i64,
        /// The document, as stored.
        model: Value,
    },
    /// A change that this program does not know, because a newer one recorded it, and that names neither an
    /// organization nor a user.
    Unknown,
}

/// The new rows of a bucket.
#[derive(Debug, Clone)]
pub struct BucketDelta {
    /// The bucket: 0 to 255 of organizations, 256 to 287 of users, 288 of the access model.
    pub bucket: i16,
    /// The end of its log.
    pub head: LogPosition,
    /// Its rows from the known position on, including the row at that position, up to the limit.
    pub rows: Vec<LogRow>,
}

/// The result of a poll.
#[derive(Debug, Clone)]
pub struct PollResult {
    /// The database that was polled.
    pub datastore: Datastore,
    /// The buckets whose head differs from the known position.
    pub moved: Vec<BucketDelta>,
}

/// A row of the log as the statements return it, with the database and the head of its bucket.
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
    pub(super) permissions: Option<Vec<String>>,
    pub(super) replaced_by: Option<String>,
    pub(super) reinstated_at: Option<i64>,
    pub(super) model: Option<Value>,
}

/// Reads the identity of the database, the buckets whose head differs from its known position, and up to `limit` rows
/// of each of these buckets, of the access model at most [`limits::MODEL_ROWS`]: with one statement and therefore from one
/// snapshot. `known` has the positions of all buckets, in order. Without the last one, the poll leaves out the access model.
///
/// # Errors
/// [`StoreError::Unusable`] if the session cannot write; if Postgres does not answer, or a row is not readable.
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
                  m.slug, m.permissions, m.replaced_by, m.reinstated_at, m.model
           FROM (SELECT id, epoch FROM datastore
                 WHERE NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off' LIMIT 1) d LEFT JOIN (
               SELECT h.bucket, h.position AS head, h.write_time AS head_time, l.position, l.commit_position, l.write_time,
                      l.organization_id, l.revision, l.kind, l.entry, l.user_id, l.role, l.state, l.owner_id, l.slug,
                      l.permissions, l.replaced_by, NULL::bigint AS reinstated_at, NULL::jsonb AS model
               FROM log_heads h JOIN known k ON k.bucket = h.bucket
               LEFT JOIN LATERAL (
                   SELECT * FROM log WHERE log.bucket = h.bucket AND log.position >= k.position
                   ORDER BY log.position LIMIT $3) l ON true
               WHERE h.position <> k.position OR h.write_time <> k.write_time
               UNION ALL
               SELECT (256 + h.user_bucket)::smallint, h.position, h.write_time, l.position, l.position, l.write_time,
                      NULL, l.revision, NULL, NULL, l.user_id, NULL, l.state, NULL, NULL, NULL, NULL,
                      l.reinstated_at, NULL
               FROM user_log_heads h JOIN known k ON k.bucket = 256 + h.user_bucket
               LEFT JOIN LATERAL (
                   SELECT * FROM user_log WHERE user_log.user_bucket = h.user_bucket AND user_log.position >= k.position
                   ORDER BY user_log.position LIMIT $3) l ON true
               WHERE h.position <> k.position OR h.write_time <> k.write_time
               UNION ALL
               SELECT 288::smallint, h.revision, h.write_time, l.revision, l.revision, l.create_time, NULL, l.revision, NULL,
                      NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, l.model
               FROM access_model h JOIN known k ON k.bucket = 288
               LEFT JOIN LATERAL (
                   SELECT * FROM access_model_revisions r WHERE r.revision >= k.position
                   ORDER BY r.revision LIMIT least($3, $4)) l ON true
               WHERE h.revision <> k.position OR h.write_time <> k.write_time
           ) m ON true
           ORDER BY m.bucket, m.position"#,
        &positions,
        &times,
        limit,
        limits::MODEL_ROWS,
    )
    .fetch_all(connection)
    .await?;
    // A session that cannot write yields no row.
    let first = rows.first().ok_or(StoreError::Unusable(UnusableDatastore::ReadOnly))?;
    let mut result = PollResult { datastore: Datastore { id: first.id, epoch: first.epoch }, moved: Vec::new() };
    for row in rows {
        let (Some(bucket), Some(position), Some(write_time)) = (row.bucket, row.head, row.head_time) else { continue };
        let head = LogPosition { position, write_time };
        if result.moved.last().is_none_or(|last| last.bucket != bucket) {
            result.moved.push(BucketDelta { bucket, head, rows: Vec::new() });
        }
        if let (Some(log_row), Some(delta)) = (row.read(bucket), result.moved.last_mut()) {
            delta.rows.push(log_row);
        }
    }
    Ok(result)
}

impl LogQueryRow {
    /// Converts the row; `None` for a bucket that has no row from the known position on. Whatever a newer program wrote
    /// into the row, it is a row of the log: its position is applied.
    pub(super) fn read(self, bucket: i16) -> Option<LogRow> {
        let (position, write_time) = self.position.zip(self.write_time)?;
        let commit_position = self.commit_position.unwrap_or(position);
        let user = self.user_id.clone().map(UserId::from_stored);
        let revision = self.revision.unwrap_or_default();
        let change = match (self.organization_id, user) {
            _ if bucket == MODEL_BUCKET => {
                LogChange::Model { revision: position, model: self.model.unwrap_or_default() }
            }
            (_, Some(user)) if bucket >= ORGANIZATION_BUCKETS => {
                let state = self.state.as_deref().map_or(UserState::Unknown, UserState::read);
                LogChange::User { user, revision, state, reinstated_at: self.reinstated_at }
            }
            (Some(organization), user) if bucket < ORGANIZATION_BUCKETS => LogChange::Organization(LogEntry {
                organization: OrganizationId::from_uuid(organization),
                revision,
                detail: self.detail(user),
                kind: Kind::from_stored(self.kind.unwrap_or_default()),
            }),
            (Some(_) | None, Some(_) | None) => LogChange::Unknown,
        };
        Some(LogRow { at: LogPosition { position, write_time }, commit_position, change })
    }

    /// The change of an organization. A row of an unknown entry type, and one whose columns do not fit its type, is an
    /// unknown change.
    fn detail(&self, user: Option<UserId>) -> ChangeDetail {
        match (self.entry.as_deref(), user, self.state.as_deref(), self.slug.as_deref()) {
            (Some("MEMBERSHIP"), Some(user), None, None) => {
                ChangeDetail::Membership { user, role: self.role.as_deref().map(Role::read) }
            }
            (Some("ORGANIZATION"), None, Some(state), Some(slug)) => ChangeDetail::Organization {
                state: (state != PURGED).then(|| OrganizationState::read(state)),
                owner: self.owner_id.clone().map(UserId::from_stored),
                slug: Slug::from_stored(slug.to_owned()),
            },
            (Some("ROLE"), None, None, None) => match self.role.as_deref().map(RoleName::from_stored) {
                Some(name) => ChangeDetail::Role {
                    name,
                    permissions: self.permissions.clone(),
                    replaced_by: self.replaced_by.as_deref().map(RoleName::from_stored),
                },
                None => ChangeDetail::Unknown,
            },
            _ => ChangeDetail::Unknown,
        }
    }
}

/// The ends of the logs of all buckets, in order, from one snapshot.
///
/// # Errors
/// If Postgres does not answer.
pub async fn heads(connection: &mut PgConnection) -> Result<Vec<LogPosition>, StoreError> {
    Ok(sqlx::query_as!(
        LogPosition,
        r#"SELECT position AS "position!", write_time AS "write_time!" FROM (
               SELECT bucket, position, write_time FROM log_heads
               UNION ALL SELECT 256 + user_bucket, position, write_time FROM user_log_heads
               UNION ALL SELECT 288, revision, write_time FROM access_model
           ) heads ORDER BY bucket"#
    )
    .fetch_all(connection)
    .await?)
}

/// Begins the epoch that follows `after`, because the database has lost writes: consistency tokens of `after` and of
/// earlier epochs are no longer valid. Does nothing if another process has begun one already. Returns the current
/// epoch.
///
/// # Errors
/// If Postgres does not answer, or does not accept writes (yet).
pub async fn begin_epoch(connection: &mut PgConnection, after: i32) -> Result<i32, StoreError> {
    sqlx::query!("UPDATE datastore SET epoch = $1::integer + 1 WHERE epoch <= $1", after)
        .execute(&mut *connection)
        .await?;
    Ok(crate::store::datastore::datastore(connection).await?.epoch)
}

/// Notifies the followers of the log, in all processes, of new rows. Call it outside of a write: inside one it costs
/// more than the write itself.
///
/// # Errors
/// If Postgres does not answer.
pub async fn notify(connection: &mut PgConnection, sender: &str) -> Result<(), StoreError> {
    sqlx::query!("SELECT pg_notify($1, $2) AS done", CHANNEL, sender).fetch_one(connection).await?;
    Ok(())
}

/// The Postgres channel of [`notify`]. The payload is the name of the sender.
pub const CHANNEL: &str = "roster_log";
