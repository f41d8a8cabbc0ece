//! Connections to Postgres.

use crate::domain::Invalid;
use crate::store::limits;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection, PgPool, Postgres};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Parses a `postgres://` or `postgresql://` URL.
///
/// # Errors
/// If it is anything else. The error does not repeat the text, which may hold a password.
pub fn parse_url(url: &str) -> Result<PgConnectOptions, Invalid> {
    // sqlx accepts any scheme.
    let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
    let options = PgConnectOptions::from_str(url).ok().filter(|_| is_postgres);
    let invalid = || Invalid::new("a URL of the form postgres://user:password@host:port/database");
    options.map(|options| options.application_name("roster")).ok_or_else(invalid)
}

/// Builds a sqlx pool of at most `connections` connections. It connects on first use, so that the server starts
/// without Postgres.
#[must_use]
pub fn lazy(options: PgConnectOptions, connections: u32) -> PgPool {
    // A statement can outlive its request (the client hung up, the process was stopped) and must not keep its locks.
    let options = options.options([
        ("statement_timeout", millis(limits::STATEMENT)),
        // No statement is worth compiling, and after a wrong estimate Postgres would compile before it answers.
        ("jit", "off".to_owned()),
        ("idle_in_transaction_session_timeout", millis(limits::IDLE_IN_TRANSACTION)),
        // Suppresses the warning of `roll_back_leftovers`, which every release of a connection would cause.
        ("client_min_messages", "error".to_owned()),
    ]);
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(limits::ACQUIRE)
        // A ping before each use would cost a fifth of the throughput; the first statement detects a broken connection.
        .test_before_acquire(false)
        // A future dropped during BEGIN leaves an open transaction behind (sqlx 0.9), which the next borrower must not
        // get.
        .after_release(|connection, _| Box::pin(async move { roll_back_leftovers(connection).await }))
        .connect_lazy_with(options)
}

/// A pool whose connections all live in one runtime, usable from any runtime.
///
/// A socket belongs to the runtime that opened it and dies with it, and the workers of a server have a runtime each. So
/// the pool opens connections in its own runtime only. Borrowing an open connection needs no switch of runtimes.
///
/// sqlx rolls back and pings every connection that is returned to its pool: two round trips for each use, a tenth of
/// the cost of a write. [`PooledConnection::finish`] avoids them: this pool keeps the connection in its own idle list
/// and lends it again unchecked. sqlx checks the connections that are dropped without `finish`, and every connection
/// that went unchecked for [`limits::CONNECTION_TRUSTED`].
#[derive(Debug, Clone)]
pub struct Pool(Arc<PoolState>);

#[derive(Debug)]
struct PoolState {
    connections: PgPool,
    /// One permit for each connection that may be open.
    permits: Arc<Semaphore>,
    /// Finished connections, the most recently used last. sqlx counts them as lent.
    idle: Mutex<VecDeque<TrackedConnection>>,
    runtime: Handle,
}

#[derive(Debug)]
struct TrackedConnection {
    connection: PoolConnection<Postgres>,
    /// The time when sqlx's pool lent the connection.
    checked: Instant,
    /// The time when the last borrower returned it.
    used: Instant,
}

impl PoolState {
    fn idle(&self) -> MutexGuard<'_, VecDeque<TrackedConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the most recently used idle connection. Connections that were idle for too long go back to sqlx's pool,
    /// which checks them and closes them when they are too old.
    fn take(&self) -> Option<TrackedConnection> {
        let mut idle = self.idle();
        while idle.front().is_some_and(|oldest| oldest.used.elapsed() >= limits::CONNECTION_TRUSTED) {
            idle.pop_front();
        }
        idle.pop_back()
    }

    /// Keeps a finished connection, unless it is due for a check or the pool is closed; then sqlx's pool gets it back.
    fn keep(&self, tracked: TrackedConnection) {
        let mut idle = self.idle();
        if tracked.checked.elapsed() < limits::CONNECTION_TRUSTED && !self.permits.is_closed() {
            idle.push_back(TrackedConnection { used: Instant::now(), ..tracked });
        }
    }
}

impl Drop for PoolState {
    fn drop(&mut self) {
        // sqlx returns each connection to its pool in a task, which it spawns in the current runtime.
        let _entered = self.runtime.enter();
        self.idle().clear();
    }
}

impl Pool {
    /// Creates a pool whose connections live in the current runtime. Panics outside of a runtime.
    #[must_use]
    pub fn new(connections: PgPool) -> Self {
        let most = usize::try_from(connections.options().get_max_connections()).unwrap_or(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(most));
        Self(Arc::new(PoolState { connections, permits, idle: Mutex::default(), runtime: Handle::current() }))
    }

    /// Borrows a connection. Opens one if none is idle and the maximum is not reached.
    ///
    /// # Errors
    /// If Postgres does not answer, the pool is closed, or no connection becomes free within [`limits::ACQUIRE`].
    pub async fn acquire(&self) -> Result<PooledConnection, sqlx::Error> {
        let state = &self.0;
        let permit = timeout(limits::ACQUIRE, state.permits.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        let lend = |tracked| PooledConnection { tracked, pool: self.clone(), permit };
        if let Some(tracked) = state.take() {
            return Ok(lend(tracked));
        }
        let connection = match state.connections.try_acquire() {
            Some(connection) => connection,
            // The task fails only if the runtime of the pool has ended, and the pool with it.
            None => state.runtime.spawn(state.connections.acquire()).await.unwrap_or(Err(sqlx::Error::PoolClosed))?,
        };
        let now = Instant::now();
        Ok(lend(TrackedConnection { connection, checked: now, used: now }))
    }

    /// The pool of sqlx. Connections borrowed from it directly take no permit of this pool.
    pub(crate) fn connections(&self) -> &PgPool {
        &self.0.connections
    }

    /// The runtime in which the connections live.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Closes the pool: no more connections are lent, and the call returns when all of them are returned and closed.
    pub async fn close(&self) {
        self.0.permits.close();
        self.0.idle().clear();
        self.0.connections.close().await;
    }
}

/// A borrowed connection, returned to the pool by [`PooledConnection::finish`] or by dropping it.
///
/// After a drop sqlx rolls back and pings the connection before it lends it again. That is always safe, and needs two
/// round trips.
#[derive(Debug)]
pub struct PooledConnection {
    tracked: TrackedConnection,
    pool: Pool,
    /// Declared last, so that it is released after the connection was returned.
    permit: OwnedSemaphorePermit,
}

impl PooledConnection {
    /// Returns the connection to the pool after its last statement, and passes the outcome through.
    ///
    /// After `Ok` the next borrower gets the connection as it is. The caller guarantees that the response of every
    /// statement was read and that every transaction was ended by an awaited `commit` or `rollback`. To drop a
    /// `Transaction` is not enough: sqlx then only queues its ROLLBACK, and until the next statement of the connection
    /// sends it, the transaction keeps its locks and its snapshot.
    ///
    /// After `Err` sqlx rolls back and pings the connection first, as for one that is dropped.
    ///
    /// # Errors
    /// The error of the outcome.
    pub fn finish<T, E>(self, outcome: Result<T, E>) -> Result<T, E> {
        if outcome.is_ok() {
            let Self { tracked, pool, permit } = self;
            pool.0.keep(tracked);
            drop(permit);
        }
        outcome
    }

    /// Has the connection closed when it is dropped: for one on which Postgres stopped answering. Do not `finish` it.
    pub fn close_on_drop(&mut self) {
        self.tracked.connection.close_on_drop();
    }
}

impl Deref for PooledConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.tracked.connection
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tracked.connection
    }
}

async fn roll_back_leftovers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // Outside a transaction ROLLBACK only causes a warning.
    sqlx::query("ROLLBACK").execute(connection).await?;
    Ok(true)
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}
