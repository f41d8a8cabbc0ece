//! The schema: the migrations of this program and whether a database has them.

use super::log::partitions;
use super::{StoreError, folded_names};
use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

/// The numbered migrations, embedded into the program at build time.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// Brings the schema up to date. Concurrent processes take turns.
///
/// # Errors
/// If Postgres does not answer, or a migration failed or was edited after it was applied.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), MigrateError> {
    // Without the pool's options: a migration may take longer than a request.
    let mut connection = PgConnection::connect_with(options).await?;
    // Without the notices of everything that exists already.
    sqlx::query!("SET client_min_messages = warning").execute(&mut connection).await?;
    require_utf8(&mut connection).await?;
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
    connection.close().await?;
    Ok(())
}

/// Refuses a database whose encoding is not UTF8: it cannot store every text, or compares texts by bytes that mean
/// something else.
///
/// # Errors
/// [`sqlx::Error::Configuration`] with a sentence for another encoding; if Postgres does not answer.
pub async fn require_utf8(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let encoding = sqlx::query_scalar!(r#"SELECT current_setting('server_encoding') AS "encoding!""#)
        .fetch_one(connection)
        .await?;
    if encoding == "UTF8" {
        return Ok(());
    }
    let sentence = format!("the database has the encoding {encoding}: create one with the encoding UTF8");
    Err(sqlx::Error::Configuration(sentence.into()))
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
