//! The schema: the migrations of this program and whether a database has them.

use super::datastore_url::DatastoreUrl;
use super::log::partitions;
use super::place::{self, PlaceCheck};
use super::session::{self, SessionUse};
use super::{StoreError, access_model, folded_names, postgres_error};
use sqlx::error::DatabaseError;
use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migrator};
use sqlx::{Connection, PgConnection, Row};

/// The numbered migrations, embedded into the program at build time.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// What [`migrate_and_check`] found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationReport {
    /// What was done about the place of the database.
    pub place: PlaceCheck,
    /// The migrations of a newer release, by number. If there are some, nothing was migrated.
    pub newer: Vec<i64>,
}

/// Brings the schema up to date. Concurrent processes take turns. In a datastore that was made from nothing, roles and
/// permissions that are not built in are enabled. Then raises the epoch if the database was restored: if
/// it is in another place than before, or if the operator reports it (`after_restore`).
///
/// A schema with every migration of this program and with those of a newer release stays as it is: servers of this
/// release work with it.
///
/// # Errors
/// If Postgres does not answer, the role lacks a right, or a migration failed or was edited after it was applied.
pub async fn migrate_and_check(url: &DatastoreUrl, after_restore: bool) -> Result<MigrationReport, MigrationError> {
    session::require_own_session(url).await?;
    // A migration may take longer than a request.
    let mut connection = session::open(url, SessionUse::Migrations).await?;
    // A failure is that of the migrations too, which report it.
    let newer = newer_migrations(&mut connection).await.unwrap_or_default();
    if newer.is_empty() {
        match run_migrations(&mut connection).await {
            // No server of an earlier release has used it. If this process ends here, the operator enables them.
            Ok(true) => _ = access_model::enable(&mut connection).await?,
            Ok(false) => {}
            Err(error) => return Err(describe(error, &mut connection).await),
        }
    }
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
    Ok(MigrationReport { place: check, newer })
}

/// Runs the pending migrations. Returns whether the first one was among them: this release has made the datastore.
async fn run_migrations(connection: &mut PgConnection) -> Result<bool, MigrateError> {
    // The lock of the migrations, which `run` takes once more: no other process runs the first one in between.
    connection.lock().await?;
    let is_begun = is_begun(connection).await?;
    MIGRATIONS.run(&mut *connection).await?;
    connection.unlock().await?;
    Ok(!is_begun)
}

/// Whether the database has a migration.
async fn is_begun(connection: &mut PgConnection) -> Result<bool, MigrateError> {
    connection.ensure_migrations_table("_sqlx_migrations").await?;
    Ok(!connection.list_applied_migrations("_sqlx_migrations").await?.is_empty())
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
    /// The database does not answer or cannot be used, or it rejected a statement.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The role lacks a right.
    #[error("{0}")]
    MissingRight(String, #[source] sqlx::Error),
    /// A migration was edited after it was applied, or the migrations of the database are those of another program.
    #[error(transparent)]
    Migrate(MigrateError),
}

/// What may be missing when Postgres denies a migration: the role, the database, the schema in which tables are
/// created, whether the role may create some there, and the owner of the tables. Names are quoted where SQL needs it.
const RIGHTS: &str = "SELECT quote_ident(current_user), quote_ident(current_database()), \
    quote_ident(current_schema()), coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), \
    (SELECT quote_ident(tableowner) FROM pg_tables WHERE tablename = '_sqlx_migrations' \
        AND schemaname = ANY (current_schemas(false)) LIMIT 1)";

/// The error of the migrations, in terms of what an operator can do.
async fn describe(error: MigrateError, connection: &mut PgConnection) -> MigrationError {
    let error = match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error,
        other => return MigrationError::Migrate(other),
    };
    let code = error.as_database_error().and_then(DatabaseError::code);
    // insufficient_privilege, invalid_schema_name
    let is_denied = matches!(code.as_deref(), Some("42501" | "3F000"));
    if is_denied && let Ok(Some(sentence)) = missing_right(connection).await {
        return MigrationError::MissingRight(sentence, postgres_error::readable(error));
    }
    MigrationError::Store(error.into())
}

/// What to do about a right that the role lacks; `None` if it seems to have all.
async fn missing_right(connection: &mut PgConnection) -> Result<Option<String>, StoreError> {
    let rights = sqlx::raw_sql(RIGHTS).fetch_one(connection).await?;
    let (role, database): (String, String) = (rights.try_get(0)?, rights.try_get(1)?);
    let (schema, owner): (Option<String>, Option<String>) = (rights.try_get(2)?, rights.try_get(4)?);
    let may_create: bool = rights.try_get(3)?;
    Ok(match (schema, owner) {
        (None, _) => Some(format!(
            "the role {role} has no schema to create tables in: as the owner of the database {database}, run \
             GRANT USAGE, CREATE ON SCHEMA public TO {role}, or set its search_path to a schema that exists"
        )),
        (Some(_), Some(owner)) if owner != role => Some(format!(
            "the role {role} does not own the tables of roster: run `roster migrate` as their owner, {owner}"
        )),
        (Some(schema), _) if !may_create => Some(format!(
            "the role {role} may not create tables in the schema {schema} of the database {database}: as the owner of \
             the database, run GRANT CREATE ON SCHEMA {schema} TO {role}"
        )),
        (Some(_), _) => None,
    })
}

/// The migrations of a newer release in the database, by number; none unless it has every one of this program.
async fn newer_migrations(connection: &mut PgConnection) -> Result<Vec<i64>, StoreError> {
    if !is_migrated(connection).await? {
        return Ok(Vec::new());
    }
    let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
    let applied = applied_migrations(connection).await?;
    Ok(applied.iter().map(|row| row.version).filter(|version| *version > newest).collect())
}

async fn applied_migrations(connection: &mut PgConnection) -> Result<Vec<AppliedMigration>, StoreError> {
    connection.list_applied_migrations("_sqlx_migrations").await.map_err(|error| match error {
        MigrateError::Execute(error) => StoreError::from(error),
        other => StoreError::Unreadable(other.to_string()),
    })
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
    let applied = applied_migrations(connection).await?;
    Ok(MIGRATIONS.iter().all(|migration| {
        applied.iter().any(|row| row.version == migration.version && row.checksum == migration.checksum)
    }))
}
