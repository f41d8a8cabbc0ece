//! Comparing positions with the change log: whether the log still contains the rows that a caller's consistency token or
//! cursor names.

use super::tail::LogPosition;
use crate::domain::ids::{MODEL_BUCKET, ORGANIZATION_BUCKETS};
use crate::domain::{BucketPosition, LogMark};
use crate::store::StoreError;
use sqlx::PgConnection;
use std::collections::HashMap;
use std::ops::Range;
use time::OffsetDateTime;

/// What the log has at one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogEvidence {
    /// The row at the position has this mark.
    Row(LogMark),
    /// The log ends before the position.
    Beyond,
    /// The log is longer, and its row at the position was dropped after the retention time.
    Dropped,
}

/// What the log has at some positions, all from one session.
#[derive(Debug, Clone, Default)]
pub struct LogHistory(HashMap<(i16, i64), LogEvidence>);

impl LogHistory {
    /// What the log has at a position that was asked for.
    #[must_use]
    pub fn at(&self, bucket: i16, position: i64) -> Option<LogEvidence> {
        self.0.get(&(bucket, position)).copied()
    }
}

struct HistoryRow {
    bucket: i16,
    position: i64,
    head: i64,
    head_time: OffsetDateTime,
    write_time: Option<OffsetDateTime>,
}

impl HistoryRow {
    fn evidence(&self) -> LogEvidence {
        // The head keeps the time of its row, also after the row was dropped.
        let head = LogPosition { position: self.head, write_time: self.head_time };
        match self.write_time {
            _ if self.position > self.head => LogEvidence::Beyond,
            _ if self.position == self.head => LogEvidence::Row(head.mark()),
            _ if self.position == 0 => LogEvidence::Row(LogMark::START),
            Some(write_time) => LogEvidence::Row(LogMark::new(write_time)),
            None => LogEvidence::Dropped,
        }
    }
}

/// Reads what the log has at these positions, with one statement for the buckets of organizations, one for those of users
/// and one for the access model. Buckets 0 to 255 are of organizations, 256 to 287 of users, and 288 is of the access
/// model; the marks of the positions are not read.
///
/// # Errors
/// If Postgres does not answer.
pub async fn read(connection: &mut PgConnection, positions: &[BucketPosition]) -> Result<LogHistory, StoreError> {
    let of = |buckets: Range<i16>| -> (Vec<i16>, Vec<i64>) {
        let wanted = positions.iter().filter(|at| buckets.contains(&at.bucket));
        wanted.map(|at| (at.bucket - buckets.start, at.position)).unzip()
    };
    let mut history = LogHistory::default();
    let (buckets, wanted) = of(0..ORGANIZATION_BUCKETS);
    if !buckets.is_empty() {
        let rows = sqlx::query_as!(
            HistoryRow,
            r#"SELECT q.bucket AS "bucket!", q.position AS "position!", h.position AS head, h.write_time AS head_time,
                      l.write_time AS "write_time?"
               FROM unnest($1::smallint[], $2::bigint[]) AS q (bucket, position)
               JOIN log_heads h ON h.bucket = q.bucket
               LEFT JOIN LATERAL (
                   SELECT write_time FROM log WHERE log.bucket = q.bucket AND log.position = q.position LIMIT 1) l ON true"#,
            &buckets,
            &wanted,
        );
        history.add(rows.fetch_all(&mut *connection).await?, 0);
    }
    let (buckets, wanted) = of(ORGANIZATION_BUCKETS..MODEL_BUCKET);
    if !buckets.is_empty() {
        let rows = sqlx::query_as!(
            HistoryRow,
            r#"SELECT q.bucket AS "bucket!", q.position AS "position!", h.position AS head, h.write_time AS head_time,
                      l.write_time AS "write_time?"
               FROM unnest($1::smallint[], $2::bigint[]) AS q (bucket, position)
               JOIN user_log_heads h ON h.user_bucket = q.bucket
               LEFT JOIN LATERAL (
                   SELECT write_time FROM user_log
                   WHERE user_log.user_bucket = q.bucket AND user_log.position = q.position LIMIT 1) l ON true"#,
            &buckets,
            &wanted,
        );
        history.add(rows.fetch_all(&mut *connection).await?, ORGANIZATION_BUCKETS);
    }
    let (buckets, wanted) = of(MODEL_BUCKET..MODEL_BUCKET + 1);
    if !buckets.is_empty() {
        let rows = sqlx::query_as!(
            HistoryRow,
            r#"SELECT 0::smallint AS "bucket!", q.position AS "position!", h.revision AS head, h.write_time AS head_time,
                      r.create_time AS "write_time?"
               FROM unnest($1::bigint[]) AS q (position)
               CROSS JOIN access_model h
               LEFT JOIN access_model_revisions r ON r.revision = q.position"#,
            &wanted,
        );
        history.add(rows.fetch_all(connection).await?, MODEL_BUCKET);
    }
    Ok(history)
}

impl LogHistory {
    fn add(&mut self, rows: Vec<HistoryRow>, first_bucket: i16) {
        for row in rows {
            self.0.insert((first_bucket + row.bucket, row.position), row.evidence());
        }
    }
}
