//! The schema: the migrations of this program and whether a database has them.

use super::datastore_url::DatastoreUrl;
use super::log::partitions;
use super::place::{self, PlaceCheck};
use super::session::{self, SessionUse};
use super::{StoreError, folded_names};
use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{Connection, PgConnection};

/// The numbered migrations, embedded into the program at build time.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// Brings the schema up to date. Concurrent processes take turns. Then raises the epoch if the database was restored: if
/// it is in another place than before, or if the operator reports it (`after_restore`).
///
/// # Errors
/// If Postgres does not answer, or a migration failed or was edited after it was applied.
pub async fn migrate_and_check(url: &DatastoreUrl, after_restore: bool) -> Result<PlaceCheck, MigrationError> {
    session::require_own_session(url).await?;
    // A migration may take longer than a request.
    let mut connection = session::open(url, SessionUse::Migrations).await?;
    MIGRATIONS.run(&mut connection).await?;
    // Housekeeping retries this. Until then the default partition takes the rows.
    if let Err(error) = partitions::make_ahead(&mut connection).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot create the change log's next partitions yet");
    }
    if let Err(error) = folded_names::create_trigram_index(&mut connection).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "cannot create the index for the search of organizations, which reads every name without it: have a role \
             that may do so run CREATE EXTENSION pg_trgm in this database, then run `roster migrate` again"
        );
    }
    fold_names(&mut connection).await;
    let check = if after_restore {
        place::raise_after_restore(&mut connection).await?
    } else {
        place::check(&mut connection).await?
    };
    connection.close().await.map_err(StoreError::from)?;
    Ok(check)
}

/// [`migrate_and_check`] without a reported restore.
///
/// # Errors
/// Those of [`migrate_and_check`].
pub async fn migrate(url: &DatastoreUrl) -> Result<(), MigrationError> {
    migrate_and_check(url, false).await.map(|_| ())
}

/// Why the schema cannot be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The database does not answer or cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A migration failed, or was edited after it was applied.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
}

/// Folds the names of organizations that are not folded yet, in small transactions. Names that it leaves are found by
/// the search too, only more slowly.
async fn fold_names(connection: &mut PgConnection) {
    let (mut folded, mut failure) = (0, None);
    for bucket in 0..=255 {
        match folded_names::fold_bucket(connection, bucket, usize::MAX).await {
            Ok(0) => {}
            Ok(names) => {
                folded += names;
                if bucket % 16 == 15 {
                    tracing::info!(names = folded, buckets = bucket + 1, "folding the names of the organizations");
                }
            }
            Err(error) => failure = Some(error),
        }
    }
    if folded > 0 {
        tracing::info!(names = folded, "folded the names of the organizations");
        failure = folded_names::vacuum(connection).await.err().or(failure);
    }
    if let Some(error) = failure {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "cannot fold the names of all organizations yet: housekeeping will, or run `roster migrate` again"
        );
    }
}

/// Whether the database has every migration of this program, unedited.
///
/// # Errors
/// If Postgres does not answer.
pub async fn is_migrated(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let exists = sqlx::query_scalar!(r#"SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS "exists!""#)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(false);
    }
    let applied = connection.list_applied_migrations("_sqlx_migrations").await.map_err(|error| match error {
        MigrateError::Execute(error) => StoreError::from(error),
        other => StoreError::Unreadable(other.to_string()),
    })?;
    Ok(MIGRATIONS.iter().all(|migration| {
        applied.iter().any(|row| row.version == migration.version && row.checksum == migration.checksum)
    }))
}
