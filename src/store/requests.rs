//! Stored answers of writes, by caller and request id.

use super::StoreError;
use crate::store::limits;
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::postgres::types::PgInterval;
use uuid::Uuid;

/// The key of a write that its caller may repeat, and the fingerprint of its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// SHA-256 of the caller.
    pub caller: [u8; 32],
    /// The request id that the caller chose.
    pub request_id: Uuid,
    /// SHA-256 of the method and the message.
    pub fingerprint: [u8; 32],
}

/// The stored answer of an earlier write.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredAnswer {
    /// The answer as JSON.
    pub answer: Value,
    /// Whether the earlier write had another message: the caller reused the request id.
    pub other_message: bool,
    /// Whether the write removed the right that the caller needed for it.
    pub revokes_own_access: bool,
}

fn memory() -> Result<PgInterval, StoreError> {
    PgInterval::try_from(limits::REQUEST_MEMORY).map_err(|error| StoreError::Unreadable(error.to_string()))
}

/// Claims a request id; false if the caller used it in the last 24 hours. Waits while another open transaction has
/// claimed it.
///
/// # Errors
/// If Postgres does not answer, or the other transaction does not end in time.
pub async fn claim(connection: &mut PgConnection, key: &RequestKey) -> Result<bool, StoreError> {
    let result = sqlx::query!(
        r#"INSERT INTO requests (caller, request_id, fingerprint, forfeits, create_time)
           VALUES ($1, $2, $3, false, clock_timestamp())
           ON CONFLICT (caller, request_id) DO UPDATE
           SET fingerprint = excluded.fingerprint, answer = NULL, forfeits = false, create_time = excluded.create_time
           WHERE requests.create_time < clock_timestamp() - $4::interval"#,
        &key.caller,
        key.request_id,
        &key.fingerprint,
        memory()?,
    )
    .execute(connection)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Finds the answer stored for a request id in the last 24 hours.
///
/// # Errors
/// If Postgres does not answer.
pub async fn find(connection: &mut PgConnection, key: &RequestKey) -> Result<Option<StoredAnswer>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT fingerprint, answer, forfeits FROM requests
           WHERE caller = $1 AND request_id = $2 AND create_time >= clock_timestamp() - $3::interval"#,
        &key.caller,
        key.request_id,
        memory()?,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.and_then(|row| {
        let other_message = row.fingerprint != key.fingerprint;
        row.answer.map(|answer| StoredAnswer { answer, other_message, revokes_own_access: row.forfeits })
    }))
}

/// Stores the answer for a request id that this transaction has claimed.
///
/// # Errors
/// If Postgres does not answer.
pub async fn keep(
    connection: &mut PgConnection,
    key: &RequestKey,
    answer: &Value,
    revokes_own_access: bool,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE requests SET answer = $3, forfeits = $4 WHERE caller = $1 AND request_id = $2",
        &key.caller,
        key.request_id,
        answer,
        revokes_own_access,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Frees a request id that this transaction has claimed.
///
/// # Errors
/// If Postgres does not answer.
pub async fn release(connection: &mut PgConnection, key: &RequestKey) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM requests WHERE caller = $1 AND request_id = $2", &key.caller, key.request_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes at most `most` answers older than 24 hours. Returns the number deleted. Several processes may run this at
/// the same time.
///
/// # Errors
/// If Postgres does not answer.
pub async fn forget_old(connection: &mut PgConnection, most: i64) -> Result<u64, StoreError> {
    let result = sqlx::query!(
        r#"DELETE FROM requests WHERE (caller, request_id) IN (
               SELECT caller, request_id FROM requests WHERE create_time < clock_timestamp() - $1::interval
               ORDER BY create_time LIMIT $2 FOR UPDATE SKIP LOCKED)"#,
        memory()?,
        most,
    )
    .execute(connection)
    .await?;
    Ok(result.rows_affected())
}
