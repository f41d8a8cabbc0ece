//! Connections to Postgres, and whether the schema is there.

use super::StoreError;
use crate::store::limits;
use sqlx::migrate::{Migrate, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Postgres, Transaction};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
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
///
/// The library's pool doubts every connection that comes back: it is rolled back and pinged before anybody else gets it,
/// two trips for each use, and a tenth of what a write costs. So whoever knows that nothing is left open on a connection says
/// so ([`PooledConnection::done`]), and the next one gets it as it is. Of the others, and of all now and then, the library takes care.
#[derive(Debug, Clone)]
pub struct Pool(Arc<PoolState>);

#[derive(Debug)]
struct PoolState {
    connections: PgPool,
    /// One for each connection that there may be.
    places: Arc<Semaphore>,
    /// Those on which nothing is open, the one that was used last at the end. The library takes them for lent.
    kept: Mutex<VecDeque<IdleConnection>>,
    runtime: Handle,
}

/// A connection, when the library last had it in hand, and when it was last of use.
#[derive(Debug)]
struct IdleConnection {
    connection: PoolConnection<Postgres>,
    since: Instant,
    used: Instant,
}

impl PoolState {
    fn kept(&self) -> MutexGuard<'_, VecDeque<IdleConnection>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that was used last. What nobody has wanted for long is for the library to try, and to close in time.
    fn take(&self) -> Option<IdleConnection> {
        let mut kept = self.kept();
        while kept.front().is_some_and(|kept| kept.used.elapsed() >= limits::CONNECTION_TRUSTED) {
            kept.pop_front();
        }
        kept.pop_back()
    }

    /// Keeps one, if it need not be tried, and the pool is not being closed.
    fn keep(&self, one: IdleConnection) {
        let mut kept = self.kept();
        if one.since.elapsed() < limits::CONNECTION_TRUSTED && !self.places.is_closed() {
            kept.push_back(IdleConnection { used: Instant::now(), ..one });
        }
    }
}

impl Drop for PoolState {
    fn drop(&mut self) {
        // The library takes each back in a task.
        let _home = self.runtime.enter();
        self.kept().clear();
    }
}

impl Pool {
    /// At home in the runtime that this is called in, which has to be one.
    #[must_use]
    pub fn new(connections: PgPool) -> Self {
        let most = usize::try_from(connections.options().get_max_connections()).unwrap_or(Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(most));
        Self(Arc::new(PoolState { connections, places, kept: Mutex::default(), runtime: Handle::current() }))
    }

    /// Borrows a connection; opens one if none is idle and there may be more.
    ///
    /// # Errors
    /// If Postgres is away, or none becomes free in time.
    pub async fn acquire(&self) -> Result<PooledConnection, sqlx::Error> {
        let inner = &self.0;
        let place = timeout(limits::ACQUIRE, inner.places.clone().acquire_owned()).await;
        let place = place.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        let lent = |kept| PooledConnection { kept, pool: self.clone(), place };
        if let Some(kept) = inner.take() {
            return Ok(lent(kept));
        }
        let connection = match inner.connections.try_acquire() {
            Some(idle) => idle,
            // It cannot be given up while it runs, unless the runtime ends, and the pool with it.
            None => inner.runtime.spawn(inner.connections.acquire()).await.unwrap_or(Err(sqlx::Error::PoolClosed))?,
        };
        let now = Instant::now();
        Ok(lent(IdleConnection { connection, since: now, used: now }))
    }

    /// The library's pool. What it lends is not counted here.
    pub(crate) fn connections(&self) -> &PgPool {
        &self.0.connections
    }

    /// The runtime in which it lives.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Closes all connections, once they are given back, and opens no more.
    pub async fn close(&self) {
        self.0.places.close();
        self.0.kept().clear();
        self.0.connections.close().await;
    }
}

/// A connection on loan. Dropped, it is doubted: rolled back and pinged before anybody else gets it.
#[derive(Debug)]
pub struct PooledConnection {
    kept: IdleConnection,
    pool: Pool,
    /// Given back last.
    place: OwnedSemaphorePermit,
}

impl PooledConnection {
    /// Returns the connection to the pool after its last statement, and passes the outcome through.
    ///
    /// A success means that every statement was answered and every transaction has ended: the pool hands the connection
    /// on as it is. After an error the library rolls back and pings it first, as for a connection that is only dropped.
    ///
    /// # Errors
    /// The outcome's own error.
    pub fn finish<T, E>(self, outcome: Result<T, E>) -> Result<T, E> {
        if outcome.is_ok() {
            let Self { kept, pool, place } = self;
            pool.0.keep(kept);
            drop(place);
        }
        outcome
    }

    /// Has the connection closed when it is given back.
    pub fn close_on_drop(&mut self) {
        self.kept.connection.close_on_drop();
    }
}

impl Deref for PooledConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.kept.connection
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.kept.connection
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
    if let Err(error) = super::log::partitions::make_ahead(&mut connection).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the log's next days have no partitions yet");
    }
    connection.close().await?;
    Ok(())
}

/// Whether every migration of this program is in.
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
pub async fn ping(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query_scalar!(r#"SELECT 1 AS "one!""#).fetch_one(connection).await?;
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
    // One trip for all of it. Nothing but a number goes in. A bound on waiting for locks beside the one on the whole
    // statement would never be the first to be reached.
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED;
         SET LOCAL statement_timeout = {left};
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
