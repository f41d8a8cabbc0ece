//! Counters of the rate limits that span organizations.
//!
//! They are stored in Postgres, so that all processes share them. Each use is one statement, so that concurrent calls
//! cannot exceed a limit.

use super::StoreError;
use super::invitations::interval;
use sqlx::PgConnection;
use std::time::Duration;

/// Counts uses by a subject; false, and no use is counted, if the current window has less than these uses left of `most`. A
/// window starts with its first use. The counter is locked until the transaction ends, in both cases.
///
/// # Errors
/// If Postgres does not answer.
pub async fn take(
    connection: &mut PgConnection,
    subject: &[u8; 32],
    uses: u32,
    most: u32,
    window: Duration,
) -> Result<bool, StoreError> {
    if uses > most {
        return Ok(false);
    }
    let result = sqlx::query!(
        r#"INSERT INTO quotas AS q (subject, used, window_start) VALUES ($1, $2, clock_timestamp())
           ON CONFLICT (subject) DO UPDATE
           SET used = CASE WHEN q.window_start <= clock_timestamp() - $4::interval THEN $2 ELSE q.used + $2 END,
               window_start = CASE WHEN q.window_start <= clock_timestamp() - $4::interval THEN clock_timestamp()
                                   ELSE q.window_start END
           WHERE q.used <= $3::integer - $2 OR q.window_start <= clock_timestamp() - $4::interval"#,
        subject,
        number(uses),
        number(most),
        interval(window)?,
    )
    .execute(connection)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Counts up to `wanted` uses by a subject, as many as the current window has left of `most`. Returns their number. The
/// counter is locked until the transaction ends, unless its limit is 0.
///
/// # Errors
/// If Postgres does not answer.
pub async fn take_up_to(
    connection: &mut PgConnection,
    subject: &[u8; 32],
    wanted: u32,
    most: u32,
    window: Duration,
) -> Result<u32, StoreError> {
    let wanted = wanted.min(most);
    if wanted == 0 || take(connection, subject, wanted, most, window).await? {
        return Ok(wanted);
    }
    let used = sqlx::query_scalar!("SELECT used FROM quotas WHERE subject = $1", subject);
    // The failed statement has locked the counter.
    let used = used.fetch_optional(&mut *connection).await?.unwrap_or(0);
    let left = most.saturating_sub(u32::try_from(used).unwrap_or(0)).min(wanted);
    let is_taken = left > 0 && take(connection, subject, left, most, window).await?;
    Ok(if is_taken { left } else { 0 })
}

fn number(uses: u32) -> i32 {
    i32::try_from(uses).unwrap_or(i32::MAX)
}

/// Takes back counted uses that turned out not to count. Deletes the counter when it reaches 0.
///
/// # Errors
/// If Postgres does not answer.
pub async fn give_back(connection: &mut PgConnection, subject: &[u8; 32], uses: u32) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE quotas SET used = greatest(used - $2, 0) WHERE subject = $1 AND used > 0",
        subject,
        number(uses)
    )
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
