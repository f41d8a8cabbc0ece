//! Counters of the rate limits that span organizations.
//!
//! They are stored in Postgres, so that all processes share them. Each use is one statement, so that concurrent calls
//! cannot exceed a limit.

use super::StoreError;
use super::invitations::interval;
use sqlx::PgConnection;
use std::time::Duration;

/// Counts one use by a subject; false if the subject has used `most` in the current window. A window starts with its
/// first use.
///
/// # Errors
/// If Postgres does not answer.
pub async fn take(
    connection: &mut PgConnection,
    subject: &[u8; 32],
    most: i32,
    window: Duration,
) -> Result<bool, StoreError> {
    let result = sqlx::query!(
        r#"INSERT INTO quotas AS q (subject, used, window_start) VALUES ($1, 1, clock_timestamp())
           ON CONFLICT (subject) DO UPDATE
           SET used = CASE WHEN q.window_start <= clock_timestamp() - $3::interval THEN 1 ELSE q.used + 1 END,
               window_start = CASE WHEN q.window_start <= clock_timestamp() - $3::interval THEN clock_timestamp()
                                   ELSE q.window_start END
           WHERE q.used < $2 OR q.window_start <= clock_timestamp() - $3::interval"#,
        subject,
        most,
        interval(window)?,
    )
    .execute(connection)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Takes back one counted use that turned out not to count. Deletes the counter when it reaches 0.
///
/// # Errors
/// If Postgres does not answer.
pub async fn give_back(connection: &mut PgConnection, subject: &[u8; 32]) -> Result<(), StoreError> {
    sqlx::query!("UPDATE quotas SET used = used - 1 WHERE subject = $1 AND used > 0", subject)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("DELETE FROM quotas WHERE subject = $1 AND used = 0", subject).execute(connection).await?;
    Ok(())
}

/// Deletes at most `most` counters whose window started longer than `age` ago. Returns the number deleted. Several
/// processes may run this at the same time.
///
/// # Errors
/// If Postgres does not answer.
pub async fn forget_old(connection: &mut PgConnection, age: Duration, most: i64) -> Result<u64, StoreError> {
    let result = sqlx::query!(
        r#"DELETE FROM quotas WHERE subject IN (
               SELECT subject FROM quotas WHERE window_start < clock_timestamp() - $1::interval
               ORDER BY window_start LIMIT $2 FOR UPDATE SKIP LOCKED)"#,
        interval(age)?,
        most,
    )
    .execute(connection)
    .await?;
    Ok(result.rows_affected())
}
