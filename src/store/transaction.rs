//! The transaction of a write.

use super::{StoreError, in_time, limits};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};
use std::time::Duration;

/// Begins the transaction of a write that has `left` until its deadline.
///
/// Postgres cancels each statement that runs longer than `left` (at least 1 ms): dropping the future does not stop a
/// statement there.
///
/// Every statement of a write finds its rows by key. So Postgres uses one generic plan for each: to plan for the
/// parameters of each call takes as long as to run the statement. Sequential scans are off, so that a plan made while
/// a table was small stays right when the table grows.
///
/// # Errors
/// If Postgres does not answer.
pub async fn begin_write(
    connection: &mut PgConnection,
    left: Duration,
) -> Result<Transaction<'_, Postgres>, StoreError> {
    let left = left.max(Duration::from_millis(1)).as_millis();
    // One round trip for all settings. The text contains no input except this number. A lock_timeout would never
    // be reached first, since statement_timeout bounds the whole statement.
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED;
         SET LOCAL statement_timeout = {left};
         SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off"
    );
    Ok(connection.begin_with(AssertSqlSafe(begin)).await?)
}

/// Checks the deferred constraints now, for a transaction that will be rolled back (`validate_only`).
///
/// # Errors
/// If a constraint is violated, or Postgres does not answer.
pub async fn check_constraints(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!("SET CONSTRAINTS ALL IMMEDIATE").execute(connection).await?;
    Ok(())
}

/// Begins a read-only snapshot of the database.
///
/// # Errors
/// If Postgres does not answer within [`limits::COPY_SILENCE`].
pub async fn begin_snapshot(connection: &mut PgConnection) -> Result<Transaction<'_, Postgres>, StoreError> {
    let idle = limits::IDLE_IN_SNAPSHOT.as_millis();
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = {idle}"
    );
    let begin = connection.begin_with(AssertSqlSafe(begin));
    in_time(limits::COPY_SILENCE, begin).await
}
