//! The identity of the database that the pool is connected to.

use super::{StoreError, session};
use sqlx::PgConnection;
use uuid::Uuid;

/// The identity of a database, carried by every consistency token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datastore {
    /// A random id, created by the first migration.
    pub id: Uuid,
    /// The number of times that the database has lost writes; consistency tokens of an older epoch are rejected.
    pub epoch: i32,
}

/// Reads the identity of the database.
///
/// # Errors
/// If Postgres does not answer.
pub async fn datastore(connection: &mut PgConnection) -> Result<Datastore, StoreError> {
    Ok(sqlx::query_as!(Datastore, "SELECT id, epoch FROM datastore").fetch_one(connection).await?)
}

/// Checks that Postgres answers and that the session is still one on a primary that can write.
///
/// # Errors
/// [`StoreError::Unusable`] if it is not; if Postgres does not answer.
pub async fn ping(connection: &mut PgConnection) -> Result<(), StoreError> {
    session::check(connection).await
}
