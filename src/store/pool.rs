//! Connections to Postgres, and whether the schema is there.

use super::StoreError;
use crate::domain::limits;
use sqlx::migrate::{Migrate, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Postgres, Transaction};
use std::str::FromStr;
use std::time::Duration;
use tokio::runtime::Handle;
use uuid::Uuid;

/// The numbered migrations, built into the program.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// Reads a `postgres://` URL.
///
/// # Errors
/// If it is not one. The error does not repeat it: it may hold a password.
pub fn parse_url(url: &str) -> Result<PgConnectOptions, crate::domain::Invalid> {
    // The library takes any scheme.
    let ours = url.starts_with("postgres://") || url.starts_with("postgresql://");
    let options = PgConnectOptions::from_str(url).ok().filter(|_| ours);
    let invalid = || crate::domain::Invalid::new("a URL of the form postgres://user:password@host:port/database");
    options.map(|options| options.application_name("roster")).ok_or_else(invalid)
}

/// A pool of at most this many connections. Connects when first used, so that a datastore that is away does not stop
/// the start.
#[must_use]
pub fn lazy(options: PgConnectOptions, connections: u32) -> PgPool {
    // What outlives its request (a client that hung up, a process that was stopped) must not hold locks for ever.
    let options = options.options([
        ("statement_timeout", millis(limits::STATEMENT)),
        // No statement here is worth compiling, and an estimate gone wrong would make one wait for it.
        ("jit", "off".to_owned()),
        ("idle_in_transaction_session_timeout", millis(limits::IDLE_IN_TRANSACTION)),
        // The warning below, after every use of a connection.
        ("client_min_messages", "error".to_owned()),
    ]);
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(limits::ACQUIRE)
        // A ping before each use would cost a fifth of all throughput; a broken connection shows itself when used.
        .test_before_acquire(false)
        // A future dropped while BEGIN was under way leaves an open transaction behind (sqlx 0.9): never hand it on.
        .after_release(|connection, _| Box::pin(async move { roll_back_leftovers(connection).await }))
        .connect_lazy_with(options)
}

/// A pool whose connections live in one runtime, whoever borrows them.
///
/// A socket belongs to the runtime that opened it and dies with it, and a server's calls run on several: so connections
/// are opened at home only. Borrowing one that is open takes no detour.
#[derive(Debug, Clone)]
pub struct Pool {
    connections: PgPool,
    home: Handle,
}

impl Pool {
    /// At home in the runtime that this is called in, which has to be one.
    #[must_use]
    pub fn new(connections: PgPool) -> Self {
        Self { connections, home: Handle::current() }
    }

    /// Borrows a connection; opens one if none is idle and there may be more.
    ///
    /// # Errors
    /// If Postgres is away, or none becomes free in time.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        if let Some(idle) = self.connections.try_acquire() {
            return Ok(idle);
        }
        let opened = self.home.spawn(self.connections.acquire()).await;
        // It cannot be given up while it runs, unless the runtime ends, and the pool with it.
        opened.unwrap_or(Err(sqlx::Error::PoolClosed))
    }

    /// The pool itself, for what runs at home.
    #[must_use]
    pub fn connections(&self) -> &PgPool {
        &self.connections
    }

    /// The runtime in which it lives.
    #[must_use]
    pub fn home(&self) -> &Handle {
        &self.home
    }
}

async fn roll_back_leftovers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // Outside a transaction ROLLBACK is a warning and nothing else.
    sqlx::query("ROLLBACK").execute(connection).await?;
    Ok(true)
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// Brings the schema up to date. Several processes at once take turns.
///
/// # Errors
/// As a sentence with its cause: Postgres is away, or a migration failed or was changed after it was applied.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), sqlx::migrate::MigrateError> {
    // Not the pool's options: a migration may take longer than a request.
    let mut connection = PgConnection::connect_with(options).await?;
    MIGRATIONS.run(&mut connection).await?;
    // Housekeeping does it again: without it, the default partition takes what is written.
    if let Err(error) = super::partitions::make_ahead(&mut connection).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the log's next days have no partitions yet");
    }
    connection.close().await?;
    Ok(())
}

/// Whether every migration of this program is in.
///
/// # Errors
/// If Postgres does not answer.
pub async fn is_migrated(pool: &PgPool) -> Result<bool, StoreError> {
    let mut connection = pool.acquire().await?;
    let exists = sqlx::query_scalar!(r#"SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS "exists!""#)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(false);
    }
    let applied = connection.list_applied_migrations("_sqlx_migrations").await.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(error) => StoreError::from(error),
        other => StoreError::Unreadable(other.to_string()),
    })?;
    Ok(MIGRATIONS
        .iter()
        .all(|ours| applied.iter().any(|theirs| theirs.version == ours.version && theirs.checksum == ours.checksum)))
}

/// Which datastore this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datastore {
    /// Its id, made by the first migration.
    pub id: Uuid,
    /// How often it has lost writes: tokens of an older epoch are not believed.
    pub epoch: i32,
}

/// Asks which datastore this is.
///
/// # Errors
/// If Postgres does not answer.
pub async fn datastore(connection: &mut PgConnection) -> Result<Datastore, StoreError> {
    Ok(sqlx::query_as!(Datastore, "SELECT id, epoch FROM datastore").fetch_one(connection).await?)
}

/// Asks whether Postgres answers.
///
/// # Errors
/// If it does not.
pub async fn ping(pool: &PgPool) -> Result<(), StoreError> {
    sqlx::query_scalar!(r#"SELECT 1 AS "one!""#).fetch_one(pool).await?;
    Ok(())
}

/// Begins a write. Each of its statements is bounded in Postgres too: a dropped future does not stop one there.
///
/// All of them look rows up by their keys, so they are planned once and not for each call's parameters (which takes as
/// long as to run them), and never as if a table would stay as small as it was when that was done.
///
/// # Errors
/// If Postgres does not answer.
pub async fn begin_write(
    connection: &mut PgConnection,
    left: Duration,
) -> Result<Transaction<'_, Postgres>, StoreError> {
    let left = millis(left.max(Duration::from_millis(1)));
    // One trip for all of it. Nothing but a number goes in.
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED;
         SET LOCAL statement_timeout = {left}; SET LOCAL lock_timeout = {left};
         SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off"
    );
    Ok(connection.begin_with(AssertSqlSafe(begin)).await?)
}

/// Makes deferred constraints speak now, for a transaction that will not be committed.
///
/// # Errors
/// If one of them is broken, or Postgres does not answer.
pub async fn check_constraints(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!("SET CONSTRAINTS ALL IMMEDIATE").execute(connection).await?;
    Ok(())
}
