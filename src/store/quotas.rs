//! What has been used of limits that span organizations. They live in Postgres, so that processes agree, and each use is
//! one statement, so that concurrent calls cannot overshoot.

use super::StoreError;
use super::invitations::interval;
use sqlx::PgConnection;
use std::time::Duration;

/// Takes one of `most` in a window that begins with the first use; false if all are taken.
///
/// # Errors
/// If Postgres does not answer.
pub async fn take(
    connection: &mut PgConnection,
    subject: &[u8; 32],
    most: i32,
    window: Duration,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
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
    Ok(done.rows_affected() == 1)
}

/// Gives one back that was taken in vain. Of what is given back altogether nothing stays.
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

/// Forgets windows that began longer ago than this, at most so many. Several processes may do it at once.
///
/// # Errors
/// If Postgres does not answer.
pub async fn forget_old(connection: &mut PgConnection, age: Duration, most: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        r#"DELETE FROM quotas WHERE subject IN (
               SELECT subject FROM quotas WHERE window_start < clock_timestamp() - $1::interval
               ORDER BY window_start LIMIT $2 FOR UPDATE SKIP LOCKED)"#,
        interval(age)?,
        most,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
