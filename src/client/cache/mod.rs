//! The membership cache: a replica of all memberships in the backend's own process.
//!
//! An export loads the replica and a watch keeps it up to date; [`follow`] runs both and restarts them after errors.
//! Freshness is a lease, as in the server: the time, on this machine's boot-time clock, at which the newest ping that a
//! checkpoint has returned was sent. The replica includes every write acknowledged before that time. When the lease is
//! older than the maximum staleness, the cache asks the server.
//!
//! The replica has the access model and the roles of organizations too, so it knows what every role holds. The server
//! answers about a permission that the model does not declare, and about a role that the replica does not know or of
//! which it does not know every permission. Servers of releases up to 0.3 send no model: the replica then knows the
//! built-in permissions of `admin` and `member` only.

mod apply;
mod follow;
mod model;
mod replica;
mod statistics;
#[cfg(test)]
mod tests;

pub use statistics::Statistics;

use super::{Answer, Check, Client, Consistency, Error};
use crate::client::limits;
use crate::domain::Kind;
use replica::ClientReplica;
use statistics::CacheCounters;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Settings of a [`MembershipCache`].
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// Maximum staleness of an answer from the replica: the answer includes every write acknowledged longer ago than
    /// this. When the replica is older, the server answers, within its own `max_staleness`. Default: one second.
    pub max_staleness: Duration,
    /// Interval of the pings that renew the lease. A quarter of `max_staleness` tolerates one or two lost pings.
    /// Default: 250 milliseconds.
    pub ping_every: Duration,
    /// Limits the replica to organizations of this kind; the server answers checks in others. `None`: all kinds.
    pub kind: Option<Kind>,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { max_staleness: limits::CACHE_STALENESS, ping_every: limits::CACHE_PING, kind: None }
    }
}

/// A cache of all memberships. Cheap to clone; all clones share one replica, which is kept up to date until the last
/// clone is dropped.
#[derive(Debug, Clone)]
pub struct MembershipCache(Arc<CacheOwner>);

#[derive(Debug)]
struct CacheOwner {
    shared: Arc<CacheState>,
    follower: JoinHandle<()>,
}

impl Drop for CacheOwner {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// The state that the cache and its follower share.
#[derive(Debug)]
struct CacheState {
    client: Client,
    settings: CacheSettings,
    /// `None` until the first export has been loaded.
    replica: RwLock<Option<Arc<ClientReplica>>>,
    counters: CacheCounters,
    /// The lease, sent whenever it is renewed.
    lease_updates: watch::Sender<u64>,
}

impl CacheState {
    /// Queries the replica if it is fresh enough. The lease is checked first: the data read afterwards can only be
    /// newer.
    fn query<T>(&self, lookup: impl FnOnce(&ClientReplica) -> Option<T>) -> Option<T> {
        let replica = self.replica.read().unwrap_or_else(PoisonError::into_inner);
        let replica = replica.as_ref()?;
        if replica.age()? <= self.settings.max_staleness { lookup(replica) } else { None }
    }
}

impl MembershipCache {
    /// Starts the cache: loads the replica and keeps it up to date in a background task. Until the replica is loaded,
    /// the server answers. Must be called within a tokio runtime, which runs the task.
    #[must_use]
    pub fn start(client: &Client, settings: CacheSettings) -> Self {
        let shared = Arc::new(CacheState {
            client: client.clone(),
            settings,
            replica: RwLock::new(None),
            counters: CacheCounters::default(),
            lease_updates: watch::Sender::new(0),
        });
        let follower = tokio::spawn(follow::run(shared.clone()));
        Self(Arc::new(CacheOwner { shared, follower }))
    }

    /// Waits, without a time limit, until the replica includes every write acknowledged before this call. At the start
    /// of a program, this waits until the replica can answer.
    pub async fn caught_up(&self) {
        let now = nanoseconds(crate::clock::uptime());
        let mut leases = self.0.shared.lease_updates.subscribe();
        // Cannot fail: the sender is in `self`.
        let _ = leases.wait_for(|lease| *lease > now).await;
    }

    /// Answers from the replica, without waiting. `None` if the replica is not fresh enough, or does not know the
    /// permission or a role that the answer depends on: it never denies for that reason.
    #[must_use]
    pub fn check_now(&self, check: &Check) -> Option<Answer> {
        let shared = &self.0.shared;
        let answer = shared.query(|replica| replica.answer(check))?;
        shared.counters.count_cache_answers(1);
        Some(answer)
    }

    /// Answers from the replica if it is fresh enough, otherwise from the server.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the replica cannot answer and the server does not; other errors if the server refuses the
    /// call. With the reason `INVALID_REQUEST`, the access model has no such permission or role. Treat every error as a
    /// denial or as a failure of the request, never as permission.
    pub async fn check(&self, check: &Check) -> Result<Answer, Error> {
        self.check_with(check, &Consistency::Recent).await
    }

    /// As [`Self::check`], with a consistency requirement. The server answers checks with a consistency token and fully
    /// consistent checks.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub async fn check_with(&self, check: &Check, consistency: &Consistency) -> Result<Answer, Error> {
        if *consistency == Consistency::Recent
            && let Some(answer) = self.check_now(check)
        {
            return Ok(answer);
        }
        let outcome = self.0.shared.client.check(check, consistency).await;
        self.0.shared.counters.count_server_answers(outcome.is_ok(), 1);
        outcome.map_err(Error::or_unavailable)
    }

    /// Answers a batch of any size, in the order of the checks. All answers come from the replica, or all from the
    /// server. The server receives batches of at most [`crate::domain::limits::BATCH_CHECKS`]; within one such batch,
    /// and in answers from the replica, all answers about one organization come from one state of it, and all answers
    /// from one access model.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub async fn check_batch(&self, checks: &[Check], consistency: &Consistency) -> Result<Vec<Answer>, Error> {
        let shared = &self.0.shared;
        if *consistency == Consistency::Recent
            && let Some(answers) = shared.query(|replica| replica.answers(checks))
        {
            shared.counters.count_cache_answers(checks.len());
            return Ok(answers);
        }
        let mut answers = Vec::with_capacity(checks.len());
        for batch in checks.chunks(crate::domain::limits::BATCH_CHECKS) {
            let outcome = shared.client.check_batch(batch, consistency).await;
            shared.counters.count_server_answers(outcome.is_ok(), batch.len());
            answers.extend(outcome.map_err(Error::or_unavailable)?.0);
        }
        Ok(answers)
    }

    /// The counters, and the state of the replica, at this moment.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let shared = &self.0.shared;
        let replica = shared.replica.read().unwrap_or_else(PoisonError::into_inner);
        shared.counters.statistics(replica.as_deref())
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
