//! The daily partitions of the change log: created ahead of time, and dropped after the retention time.
//!
//! Postgres accepts no parameters in these statements, so their text is built here: from the names of two tables and
//! from dates, never from input.

use crate::store::StoreError;
use crate::store::limits;
use sqlx::postgres::types::PgInterval;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::ops::Range;
use std::time::Duration;
use time::{Date, Month, OffsetDateTime};

/// A table with one partition for each day (UTC), and a default partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionedTable {
    /// The log of the buckets of organizations.
    Organizations,
    /// The log of the buckets of users.
    Users,
}

impl PartitionedTable {
    /// Every partitioned table.
    pub const ALL: [Self; 2] = [Self::Organizations, Self::Users];

    /// The name of the table.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::Organizations => "log",
            Self::Users => "user_log",
        }
    }

    /// The name of the partition of a day: the name of the table, `_` and `YYYYMMDD`.
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

/// The time by the clock of Postgres, which sets the write times of the rows.
///
/// # Errors
/// If Postgres does not answer.
pub async fn now(connection: &mut PgConnection) -> Result<OffsetDateTime, StoreError> {
    Ok(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(connection).await?)
}

/// The days that have a partition, the oldest first. A partition that an operator attached under another name is
/// ignored: roster does not manage it.
///
/// # Errors
/// If Postgres does not answer.
pub async fn days(connection: &mut PgConnection, table: PartitionedTable) -> Result<Vec<Date>, StoreError> {
    let names = sqlx::query_scalar!(
        r#"SELECT c.relname::text AS "name!" FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = to_regclass($1) ORDER BY c.relname"#,
        table.table(),
    )
    .fetch_all(connection)
    .await?;
    Ok(names.iter().filter_map(|name| table.day(name)).collect())
}

/// Creates the missing partitions of today and the following days, [`limits::LOG_DAYS_AHEAD`] in all. Returns the
/// number created. Several processes may run this at the same time.
///
/// # Errors
/// If Postgres does not answer.
pub async fn make_ahead(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let mut created = 0;
    for table in PartitionedTable::ALL {
        let existing = days(connection, table).await?;
        let mut next = Some(now(connection).await?.date());
        for _ in 0..limits::LOG_DAYS_AHEAD {
            let Some(day) = next else { break };
            next = day.next_day();
            if !existing.contains(&day) && make(connection, table, day).await? {
                created += 1;
            }
        }
    }
    Ok(created)
}

/// Creates the partition of a day. Returns false if it exists, if another process is changing partitions, if a reader
/// blocks the lock on the log for longer than [`limits::LOG_LOCK_WAIT`], or if the default partition already contains
/// rows of that day; then the default partition keeps that day.
///
/// # Errors
/// If Postgres does not answer.
pub async fn make(connection: &mut PgConnection, table: PartitionedTable, day: Date) -> Result<bool, StoreError> {
    let Some(end) = day.next_day() else { return Ok(false) };
    let (table, partition) = (table.table(), table.partition(day));
    // CREATE and ATTACH instead of CREATE … PARTITION OF, whose lock would block writers.
    let statements = format!(
        "CREATE TABLE {partition} (LIKE {table} INCLUDING CONSTRAINTS INCLUDING INDEXES);
         ALTER TABLE {table} ATTACH PARTITION {partition}
             FOR VALUES FROM ('{day} 00:00:00+00') TO ('{end} 00:00:00+00')"
    );
    change(connection, &partition, Precondition::Missing, statements).await
}

/// Drops the partition of a day. Returns false if it does not exist, if another process is changing partitions, or if a
/// reader blocks the lock on the log for longer than [`limits::LOG_LOCK_WAIT`].
///
/// # Errors
/// If Postgres does not answer.
pub async fn drop(connection: &mut PgConnection, table: PartitionedTable, day: Date) -> Result<bool, StoreError> {
    let partition = table.partition(day);
    change(connection, &partition, Precondition::Exists, format!("DROP TABLE {partition}")).await
}

#[derive(PartialEq, Eq)]
enum Precondition {
    Exists,
    Missing,
}

/// Runs statements about a partition in one transaction. Returns false, without running them, if the precondition does
/// not hold.
async fn change(
    connection: &mut PgConnection,
    partition: &str,
    precondition: Precondition,
    statements: String,
) -> Result<bool, StoreError> {
    let mut transaction = connection.begin().await?;
    // The advisory lock admits one process at a time: two that create the same partition would wait for each other, and
    // one would fail. The lock timeout is short, because every later reader and writer of the log queues behind a
    // transaction that waits for a lock on the whole log.
    let ready = sqlx::query!(
        r#"SELECT pg_try_advisory_xact_lock($1) AS "locked!", set_config('lock_timeout', $2, true) AS timeout"#,
        limits::LOG_PARTITIONS_LOCK,
        limits::LOG_LOCK_WAIT.as_millis().to_string(),
    )
    .fetch_one(&mut *transaction)
    .await?;
    if !ready.locked {
        transaction.rollback().await?;
        return Ok(false);
    }
    let exists = sqlx::query_scalar!(r#"SELECT to_regclass($1) IS NOT NULL AS "exists!""#, partition)
        .fetch_one(&mut *transaction)
        .await?;
    if exists != (precondition == Precondition::Exists) {
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
            // lock_not_available; check_violation: the default partition contains rows of that day.
            let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
            if matches!(code.as_deref(), Some("55P03" | "23514")) { Ok(false) } else { Err(error.into()) }
        }
    }
}

/// Deletes at most `most` rows older than `age` from the default partition. Returns the number deleted. Several
/// processes may run this at the same time.
///
/// # Errors
/// If Postgres does not answer.
pub async fn forget(
    connection: &mut PgConnection,
    table: PartitionedTable,
    age: Duration,
    most: i64,
) -> Result<u64, StoreError> {
    let age = PgInterval::try_from(age).map_err(|error| StoreError::Unreadable(error.to_string()))?;
    let result = match table {
        PartitionedTable::Organizations => {
            sqlx::query!(
                r#"DELETE FROM log_default WHERE ctid = ANY (ARRAY(
                       SELECT ctid FROM log_default WHERE write_time < clock_timestamp() - $1::interval
                       LIMIT $2 FOR UPDATE SKIP LOCKED))"#,
                age,
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
                age,
                most,
            )
            .execute(connection)
            .await?
        }
    };
    Ok(result.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_a_partition_has_a_day() {
        let day = Date::from_calendar_date(2026, Month::March, 7);
        for table in PartitionedTable::ALL {
            assert_eq!(day.map(|day| table.day(&table.partition(day))), day.map(Some));
        }
        for other in ["log_default", "log", "log_20261301", "log_2026030", "log_x0260307", "user_log_20260307"] {
            assert_eq!(PartitionedTable::Organizations.day(other), None, "{other}");
        }
    }
}
