//! Connections to Postgres.

use super::datastore_url::DatastoreUrl;
use super::session::{self, SessionUse, UnusableDatastore};
use super::{StoreError, limits};
use crate::error_causes::with_causes;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Connection, PgConnection};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{AcquireError, OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// A pool whose connections all live in one runtime, usable from any runtime.
///
/// A socket belongs to the runtime that opened it and dies with it, and the workers of a server have a runtime each. So
/// the pool opens connections in its own runtime only. Borrowing an open connection needs no switch of runtimes.
///
/// [`PooledConnection::finish`] returns a connection that is ready for the next statement: the pool lends it again
/// unchecked, because a check costs a tenth of a write. A connection that is dropped instead, or whose statement failed,
/// is rolled back and checked in the background, for a bounded time, or else closed.
///
/// This is not the pool of sqlx, which rolls back and pings without a time limit: behind a network that swallows
/// packets, it lends dead connections again and again.
#[derive(Clone)]
pub struct Pool(Arc<PoolState>);

struct PoolState {
    url: DatastoreUrl,
    purpose: SessionUse,
    /// One permit for each connection that may be open.
    permits: Arc<Semaphore>,
    /// One permit for each connection that reads may hold together.
    reads: Arc<Semaphore>,
    /// One permit for each connection that writes may hold together.
    writes: Arc<Semaphore>,
    idle: Mutex<IdleConnections>,
    link: Arc<DatastoreLink>,
    runtime: Handle,
}

#[derive(Default)]
struct IdleConnections {
    /// The connection that was used most recently is the last.
    connections: VecDeque<TrackedConnection>,
    /// The time when a connection was last found dead: the network may have dropped others silently at that time.
    distrusted: Option<Instant>,
}

#[derive(Debug)]
struct TrackedConnection {
    connection: PgConnection,
    /// The time when the session was opened.
    opened: Instant,
    /// The time when the last borrower returned it.
    used: Instant,
}

/// The permits of a lent connection: that of the connection, and that of its share.
struct PoolPermits {
    _connection: OwnedSemaphorePermit,
    _share: Option<OwnedSemaphorePermit>,
}

/// What the pools of one datastore know about it.
#[derive(Default)]
struct DatastoreLink {
    /// Set once each connection is known to be one session of Postgres.
    own_sessions: OnceCell<()>,
    /// The time when a pooler in transaction mode was last detected.
    pooler_detected: Mutex<Option<Instant>>,
    /// The error of the last connection that could not be opened. It is logged once, not for each attempt.
    failure: Mutex<Option<String>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pool")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DatastoreLink {
    /// Checks, once, that each connection is one session of Postgres.
    async fn require_own_sessions(&self, url: &DatastoreUrl) -> Result<(), StoreError> {
        let check = async || {
            let pooling = UnusableDatastore::TransactionPooling;
            if lock(&self.pooler_detected).is_some_and(|detected| detected.elapsed() < limits::POOLER_MEMORY) {
                return Err(StoreError::Unusable(pooling));
            }
            let outcome = session::require_own_session(url).await;
            if matches!(&outcome, Err(StoreError::Unusable(fault)) if *fault == pooling) {
                *lock(&self.pooler_detected) = Some(Instant::now());
            }
            outcome
        };
        self.own_sessions.get_or_try_init(check).await.copied()
    }

    /// Logs the outcome of opening a connection if it differs from the previous one.
    fn record<T>(&self, outcome: &Result<T, StoreError>) {
        let mut failure = lock(&self.failure);
        match outcome {
            Ok(_) => {
                if failure.take().is_some() {
                    tracing::info!("connected to the database again");
                }
            }
            Err(error) => {
                let cause = with_causes(error);
                if failure.as_ref() != Some(&cause) {
                    tracing::warn!(error = error as &dyn std::error::Error, "cannot connect to the database");
                    *failure = Some(cause);
                }
            }
        }
    }
}

impl PoolState {
    /// Takes the most recently used idle connection, and whether it may be lent unchecked. Closes the connections that
    /// are too old or were idle for too long.
    fn take(&self) -> Option<(TrackedConnection, bool)> {
        let mut idle = lock(&self.idle);
        idle.connections.retain(|tracked| {
            tracked.used.elapsed() < limits::CONNECTION_IDLE && tracked.opened.elapsed() < limits::CONNECTION_AGE
        });
        let tracked = idle.connections.pop_back()?;
        let trusted = tracked.used.elapsed() < limits::CONNECTION_TRUSTED
            && idle.distrusted.is_none_or(|distrusted| tracked.used > distrusted);
        Some((tracked, trusted))
    }

    fn keep(&self, tracked: TrackedConnection) {
        if !self.permits.is_closed() {
            lock(&self.idle).connections.push_back(TrackedConnection { used: Instant::now(), ..tracked });
        }
    }

    /// Records that a connection was found dead: the idle connections are checked before they are lent again.
    fn distrust(&self) {
        lock(&self.idle).distrusted = Some(Instant::now());
    }

    /// Closes the idle connections that were last used before a connection was found dead.
    fn close_distrusted(&self) {
        let mut idle = lock(&self.idle);
        let distrusted = idle.distrusted;
        idle.connections.retain(|tracked| distrusted.is_none_or(|distrusted| tracked.used > distrusted));
    }

    async fn open(&self) -> Result<TrackedConnection, StoreError> {
        let outcome = async {
            let connection = session::open(&self.url, self.purpose).await?;
            self.link.require_own_sessions(&self.url).await?;
            Ok(connection)
        }
        .await;
        self.link.record(&outcome);
        let now = Instant::now();
        Ok(TrackedConnection { connection: outcome?, opened: now, used: now })
    }
}

impl Pool {
    /// Creates a pool of at most this number of connections, which live in the current runtime. It connects on first
    /// use, so that the server starts without Postgres. Panics outside of a runtime.
    #[must_use]
    pub fn new(url: DatastoreUrl, connections: u32) -> Self {
        Self::with_link(url, connections, SessionUse::Requests, Arc::default())
    }

    /// Creates a pool of the same datastore for the statements of the replica. Panics outside of a runtime.
    #[must_use]
    pub fn for_replica(&self, connections: u32) -> Self {
        Self::with_link(self.0.url.clone(), connections, SessionUse::Replica, self.0.link.clone())
    }

    /// Creates a pool of the same datastore beside that of the calls, such as for health: its statements wait for no call,
    /// and take no connection from the calls. Panics outside of a runtime.
    #[must_use]
    pub fn beside(&self, connections: u32) -> Self {
        Self::with_link(self.0.url.clone(), connections, SessionUse::Requests, self.0.link.clone())
    }

    fn with_link(url: DatastoreUrl, connections: u32, purpose: SessionUse, link: Arc<DatastoreLink>) -> Self {
        let permits = usize::try_from(connections).unwrap_or(Semaphore::MAX_PERMITS);
        let share = || Arc::new(Semaphore::new(limits::share_of_pool(permits)));
        let (reads, writes) = (share(), share());
        let permits = Arc::new(Semaphore::new(permits));
        let (idle, runtime) = (Mutex::default(), Handle::current());
        Self(Arc::new(PoolState { url, purpose, permits, reads, writes, idle, link, runtime }))
    }

    /// Borrows a connection for the work of roster itself. Calls use [`Self::acquire_read`] and [`Self::acquire_write`].
    ///
    /// # Errors
    /// If Postgres does not answer or cannot be used, the pool is closed, or no connection becomes free within
    /// [`limits::ACQUIRE`].
    pub async fn acquire(&self) -> Result<PooledConnection, StoreError> {
        self.acquire_from(None).await
    }

    /// Borrows a connection to read for a call. Reads together leave connections to writes.
    ///
    /// # Errors
    /// The errors of [`Self::acquire`].
    pub async fn acquire_read(&self) -> Result<PooledConnection, StoreError> {
        self.acquire_from(Some(&self.0.reads)).await
    }

    /// Borrows a connection for a write. Writes together leave connections to reads.
    ///
    /// # Errors
    /// The errors of [`Self::acquire`].
    pub async fn acquire_write(&self) -> Result<PooledConnection, StoreError> {
        self.acquire_from(Some(&self.0.writes)).await
    }

    /// Borrows a connection within a share of the pool. Opens one if none is idle and the maximum is not reached.
    async fn acquire_from(&self, share: Option<&Arc<Semaphore>>) -> Result<PooledConnection, StoreError> {
        let permits = async {
            let share = match share {
                Some(share) => Some(share.clone().acquire_owned().await?),
                None => None,
            };
            let connection = self.0.permits.clone().acquire_owned().await?;
            Ok::<_, AcquireError>(PoolPermits { _connection: connection, _share: share })
        };
        let permit = timeout(limits::ACQUIRE, permits).await;
        let mut permit = permit.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        if let Some((tracked, trusted)) = self.0.take() {
            let mut lent = self.lend(tracked, permit);
            if trusted {
                return Ok(lent);
            }
            let checked = timeout(limits::SESSION_CHECK, session::check(&mut *lent)).await;
            if matches!(checked, Ok(Ok(()))) {
                return Ok(lent);
            }
            self.0.distrust();
            self.0.close_distrusted();
            permit = match lent.parts.take() {
                Some((_, permit)) => permit,
                None => return Err(sqlx::Error::PoolClosed.into()),
            };
        }
        let pool = self.clone();
        // The task outlives a caller that stops waiting. Then the connection is dropped, and thereby returned.
        let open = async move { Ok(pool.lend(pool.0.open().await?, permit)) };
        // The task fails only if the runtime of the pool has ended, and the pool with it.
        self.0.runtime.spawn(open).await.unwrap_or_else(|_| Err(sqlx::Error::PoolClosed.into()))
    }

    fn lend(&self, tracked: TrackedConnection, permit: PoolPermits) -> PooledConnection {
        PooledConnection { parts: Some((tracked, permit)), pool: self.clone() }
    }

    /// Opens a connection that listens on a channel. It counts as none of the pool's connections.
    ///
    /// # Errors
    /// If no host of the datastore is a primary that answers.
    pub async fn listen(&self, channel: &str) -> Result<PgListener, StoreError> {
        let mut outcome = Err(StoreError::Silent);
        for host in session::hosts(&self.0.url)? {
            let listener = async {
                let one = PgPoolOptions::new().max_connections(1).acquire_timeout(limits::CONNECT);
                let one = one.connect_lazy_with(host);
                let mut listener = PgListener::connect_with(&one).await.map_err(session::not_connected)?;
                listener.eager_reconnect(false);
                session::check(&mut listener).await?;
                listener.listen(channel).await?;
                Ok(listener)
            };
            outcome = timeout(limits::CONNECT, listener).await.unwrap_or(Err(StoreError::Silent));
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// The runtime in which the connections live.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Rolls back and checks a connection that was not finished, and keeps it if that succeeds in time.
    async fn reclaim(self, mut tracked: TrackedConnection, permit: PoolPermits) {
        let connection = &mut tracked.connection;
        let checked = async {
            // A future dropped during BEGIN leaves an open transaction behind (sqlx 0.9), which the next borrower must
            // not get. The statement cache may name statements that the session no longer has.
            sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
            connection.clear_cached_statements().await?;
            session::check(connection).await
        };
        if matches!(timeout(limits::RECLAIM, checked).await, Ok(Ok(()))) {
            self.0.keep(tracked);
        } else {
            self.0.distrust();
        }
        drop(permit);
    }
}

/// Checks that the connection of a listener is alive, in at most [`limits::SESSION_CHECK`].
///
/// # Errors
/// If Postgres does not answer in time, or is no longer a primary that can write.
pub async fn check_listener(listener: &mut PgListener) -> Result<(), StoreError> {
    timeout(limits::SESSION_CHECK, session::check(listener)).await.unwrap_or(Err(StoreError::Silent))
}

/// A borrowed connection, returned to the pool by [`PooledConnection::finish`] or by dropping it.
///
/// After a drop the pool rolls back and checks the connection before it lends it again. That is always safe. If Postgres
/// does not answer within [`limits::RECLAIM`], the pool closes the connection; Postgres then ends the statement that may
/// still run there, within [`limits::CLIENT_CHECK`].
pub struct PooledConnection {
    /// `None` once the connection has been returned.
    parts: Option<(TrackedConnection, PoolPermits)>,
    pool: Pool,
}

impl std::fmt::Debug for PooledConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PooledConnection")
    }
}

impl PooledConnection {
    /// The time since the session was opened.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.parts.as_ref().map_or(Duration::ZERO, |(tracked, _)| tracked.opened.elapsed())
    }

    /// Returns the connection to the pool after its last statement, and passes the outcome through.
    ///
    /// After `Ok` the next borrower gets the connection as it is. The caller guarantees that the response of every
    /// statement was read and that every transaction was ended by an awaited `commit` or `rollback`. To drop a
    /// `Transaction` is not enough: sqlx then only queues its ROLLBACK, and until the next statement of the connection
    /// sends it, the transaction keeps its locks and its snapshot.
    ///
    /// After `Err` the pool rolls back and checks the connection first, as for one that is dropped.
    ///
    /// # Errors
    /// The error of the outcome.
    pub fn finish<T, E>(mut self, outcome: Result<T, E>) -> Result<T, E> {
        if outcome.is_ok()
            && let Some((tracked, permit)) = self.parts.take()
        {
            self.pool.0.keep(tracked);
            drop(permit);
        }
        outcome
    }

    /// Closes the connection: for one on which Postgres stopped answering. The pool then checks its idle connections
    /// before it lends them.
    pub fn close(mut self) {
        self.parts = None;
        self.pool.0.distrust();
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if let Some((tracked, permit)) = self.parts.take() {
            self.pool.0.runtime.spawn(self.pool.clone().reclaim(tracked, permit));
        }
    }
}

impl Deref for PooledConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        let Some((tracked, _)) = &self.parts else { unreachable!("the connection has been returned") };
        &tracked.connection
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        let Some((tracked, _)) = &mut self.parts else { unreachable!("the connection has been returned") };
        &mut tracked.connection
    }
}
