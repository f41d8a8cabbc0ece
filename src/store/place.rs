//! The place of the database, by which `roster migrate` recognizes one that was restored.
//!
//! A dump carries the id and the epoch of the database that it was made of, and lacks the writes that followed. The
//! database that it is restored into has another oid, or its cluster another system identifier. A point-in-time restore
//! keeps both, so the operator has to report it.

use super::StoreError;
use sqlx::PgConnection;
use sqlx::error::DatabaseError;

/// A Postgres cluster and a database in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DatabasePlace {
    /// The random number that `initdb` gives a cluster, and its physical copies have too.
    system_identifier: i64,
    /// The oid of the database.
    database_oid: i64,
}

/// What was done about the place of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceCheck {
    /// The database is where it was, or its place was stored for the first time.
    Unchanged,
    /// The database is in another place than before: its epoch was raised to this one.
    Moved(i32),
    /// The operator reported a restore: the epoch was raised to this one.
    Restored(i32),
    /// This role may not read the identity of the cluster: a restored database cannot be recognized.
    Unknown,
}

/// Compares the place of the database with the stored one, stores it, and raises the epoch if they differ. The epoch is
/// raised once, whatever the number of concurrent calls.
///
/// # Errors
/// If Postgres does not answer.
pub async fn check(connection: &mut PgConnection) -> Result<PlaceCheck, StoreError> {
    let Some(place) = read(connection).await? else { return Ok(PlaceCheck::Unknown) };
    let DatabasePlace { system_identifier, database_oid } = place;
    sqlx::query!(
        "UPDATE datastore SET system_identifier = coalesce(system_identifier, $1), database_oid = coalesce(database_oid, $2)",
        system_identifier,
        database_oid
    )
    .execute(&mut *connection)
    .await?;
    let epoch = sqlx::query_scalar!(
        "UPDATE datastore SET epoch = epoch + 1, system_identifier = $1, database_oid = $2
         WHERE (system_identifier, database_oid) <> ($1, $2) RETURNING epoch",
        system_identifier,
        database_oid
    );
    Ok(epoch.fetch_optional(connection).await?.map_or(PlaceCheck::Unchanged, PlaceCheck::Moved))
}

/// Raises the epoch after a restore that the operator reports, and stores the place of the database.
///
/// # Errors
/// If Postgres does not answer.
pub async fn raise_after_restore(connection: &mut PgConnection) -> Result<PlaceCheck, StoreError> {
    let place = read(connection).await?;
    let epoch = sqlx::query_scalar!(
        "UPDATE datastore SET epoch = epoch + 1, system_identifier = $1, database_oid = $2 RETURNING epoch",
        place.map(|place| place.system_identifier),
        place.map(|place| place.database_oid)
    );
    Ok(PlaceCheck::Restored(epoch.fetch_one(connection).await?))
}

/// Reads the place of the database; `None` if the role may not.
async fn read(connection: &mut PgConnection) -> Result<Option<DatabasePlace>, StoreError> {
    let place = sqlx::query_as!(
        DatabasePlace,
        r#"SELECT system_identifier AS "system_identifier!",
                  (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS "database_oid!"
           FROM pg_control_system()"#
    );
    match place.fetch_one(connection).await {
        Ok(place) => Ok(Some(place)),
        Err(error) => match error.as_database_error().and_then(DatabaseError::code).as_deref() {
            // insufficient_privilege, undefined_function, feature_not_supported
            Some("42501" | "42883" | "0A000") => Ok(None),
            _ => Err(error.into()),
        },
    }
}
