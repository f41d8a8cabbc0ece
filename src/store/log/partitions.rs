//! The days of the change log: partitions made ahead of time, and dropped when nobody follows that far back.
//!
//! Postgres takes no parameters in these statements, so they are put together here: from the names of two tables and
//! from dates, never from anything that was sent.

use crate::store::StoreError;
use crate::store::limits;
use sqlx::postgres::types::PgInterval;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::ops::Range;
use std::time::Duration;
use time::{Date, Month, OffsetDateTime};

/// A table that is parted by days of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionedTable {
    /// What happened in organizations.
    Organizations,
    /// What happened to users.
    Users,
}

impl PartitionedTable {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Organizations, Self::Users];

    /// The table.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::Organizations => "log",
            Self::Users => "user_log",
        }
    }

    /// The partition of a day.
    #[must_use]
    pub fn partition(self, day: Date) -> String {
        format!("{}_{:04}{:02}{:02}", self.table(), day.year(), u8::from(day.month()), day.day())
    }

    fn day(self, partition: &str) -> Option<Date> {
        let digits = partition.strip_prefix(self.table())?.strip_prefix('_').filter(|digits| digits.len() == 8)?;
        let number = |range: Range<usize>| digits.get(range)?.parse::<u8>().ok();
        let month = Month::try_from(number(4..6)?).ok()?;
        Date::from_calendar_date(digits.get(..4)?.parse().ok()?, month, number(6..8)?).ok()
    }
}

/// What time it is for Postgres, which stamps the rows.
///
/// # Errors
/// If Postgres does not answer.
pub async fn now(connection: &mut PgConnection) -> Result<OffsetDateTime, StoreError> {
    Ok(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(connection).await?)
}

/// The days that have a partition, the oldest first. One that somebody attached under a name of their own is not ours to look after.
///
/// # Errors
/// If Postgres does not answer.
pub async fn days(connection: &mut PgConnection, log: PartitionedTable) -> Result<Vec<Date>, StoreError> {
    let names = sqlx::query_scalar!(
        r#"SELECT c.relname::text AS "name!" FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = to_regclass($1) ORDER BY c.relname"#,
        log.table(),
    )
    .fetch_all(connection)
    .await?;
    Ok(names.iter().filter_map(|name| log.day(name)).collect())
}

/// Makes the partitions of today and of the days after it, where there are none; tells how many. Several processes may do
/// it at once.
///
/// # Errors
/// If Postgres does not answer.
pub async fn make_ahead(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let mut made = 0;
    for log in PartitionedTable::ALL {
        let there = days(connection, log).await?;
        let mut next = Some(now(connection).await?.date());
        for _ in 0..limits::LOG_DAYS_AHEAD {
            let Some(day) = next else { break };
            next = day.next_day();
            if !there.contains(&day) && make(connection, log, day).await? {
                made += 1;
            }
        }
    }
    Ok(made)
}

/// Makes the partition of a day; false if it is there, if another process is at it, if somebody reads the log for too
/// long, or if rows of that day are in the default partition already, which then goes on to serve that day.
///
/// # Errors
/// If Postgres does not answer.
pub async fn make(connection: &mut PgConnection, log: PartitionedTable, day: Date) -> Result<bool, StoreError> {
    let Some(end) = day.next_day() else { return Ok(false) };
    let (table, partition) = (log.table(), log.partition(day));
    // Attached instead of made in place: that leaves those who write undisturbed.
    let statements = format!(
        "CREATE TABLE {partition} (LIKE {table} INCLUDING CONSTRAINTS INCLUDING INDEXES);
         ALTER TABLE {table} ATTACH PARTITION {partition}
             FOR VALUES FROM ('{day} 00:00:00+00') TO ('{end} 00:00:00+00')"
    );
    change(connection, &partition, false, statements).await
}

/// Drops the partition of a day; false if it is gone, if another process is at it, or if somebody reads the log for too
/// long.
///
/// # Errors
/// If Postgres does not answer.
pub async fn drop(connection: &mut PgConnection, log: PartitionedTable, day: Date) -> Result<bool, StoreError> {
    let partition = log.partition(day);
    change(connection, &partition, true, format!("DROP TABLE {partition}")).await
}

/// Runs statements about a partition that must (not) be there, in a transaction of their own.
async fn change(
    connection: &mut PgConnection,
    partition: &str,
    must_be_there: bool,
    statements: String,
) -> Result<bool, StoreError> {
    let mut transaction = connection.begin().await?;
    // One process at a time: two that make one partition would wait for each other and one of them fail. And whoever
    // waits for a lock on the whole log keeps everybody waiting who comes after: not for long.
    let ready = sqlx::query!(
        r#"SELECT pg_try_advisory_xact_lock($1) AS "ours!", set_config('lock_timeout', $2, true) AS timeout"#,
        limits::LOG_PARTITIONS_LOCK,
        limits::LOG_LOCK_WAIT.as_millis().to_string(),
    )
    .fetch_one(&mut *transaction)
    .await?;
    if !ready.ours {
        transaction.rollback().await?;
        return Ok(false);
    }
    let there = sqlx::query_scalar!(r#"SELECT to_regclass($1) IS NOT NULL AS "there!""#, partition)
        .fetch_one(&mut *transaction)
        .await?;
    if there != must_be_there {
        transaction.rollback().await?;
        return Ok(false);
    }
    match sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *transaction).await {
        Ok(_) => {
            transaction.commit().await?;
            Ok(true)
        }
        Err(error) => {
            transaction.rollback().await?;
            // lock_not_available; check_violation: the default partition has rows of that day.
            let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
            if matches!(code.as_deref(), Some("55P03" | "23514")) { Ok(false) } else { Err(error.into()) }
        }
    }
}

/// Deletes from the default partition what is older than this, at most so many rows; tells how many. Several processes
/// may do it at once.
///
/// # Errors
/// If Postgres does not answer.
pub async fn forget(
    connection: &mut PgConnection,
    log: PartitionedTable,
    older_than: Duration,
    most: i64,
) -> Result<u64, StoreError> {
    let older_than = PgInterval::try_from(older_than).map_err(|error| StoreError::Unreadable(error.to_string()))?;
    let done = match log {
        PartitionedTable::Organizations => {
            sqlx::query!(
                r#"DELETE FROM log_default WHERE ctid = ANY (ARRAY(
                       SELECT ctid FROM log_default WHERE write_time < clock_timestamp() - $1::interval
                       LIMIT $2 FOR UPDATE SKIP LOCKED))"#,
                older_than,
                most,
            )
            .execute(connection)
            .await?
        }
        PartitionedTable::Users => {
            sqlx::query!(
                r#"DELETE FROM user_log_default WHERE ctid = ANY (ARRAY(
                       SELECT ctid FROM user_log_default WHERE write_time < clock_timestamp() - $1::interval
                       LIMIT $2 FOR UPDATE SKIP LOCKED))"#,
                older_than,
                most,
            )
            .execute(connection)
            .await?
        }
    };
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_tells_its_day_and_no_other_table_does() {
        let day = Date::from_calendar_date(2026, Month::March, 7);
        for log in PartitionedTable::ALL {
            assert_eq!(day.map(|day| log.day(&log.partition(day))), day.map(Some));
        }
        for other in ["log_default", "log", "log_20261301", "log_2026030", "log_x0260307", "user_log_20260307"] {
            assert_eq!(PartitionedTable::Organizations.day(other), None, "{other}");
        }
    }
}
