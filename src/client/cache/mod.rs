//! A copy of all memberships in the caller's own process.
//!
//! It is taken in by an export and kept by a watch; [`follow`] does both, and starts again when they break off. Freshness
//! is a lease, as in the server: the moment, on this machine's own clock, at which the newest ping was sent that a
//! checkpoint has brought back. Everything that was acknowledged before that moment is in the copy. What the lease does
//! not cover, the server is asked.

mod apply;
mod follow;
mod replica;
mod statistics;
#[cfg(test)]
mod tests;

pub use statistics::Statistics;

use super::{Answer, Check, Client, Consistency, Error, Source};
use crate::client::limits;
use crate::domain::check::{answer, role_and_revision};
use crate::domain::{Kind, Standing};
use replica::ClientReplica;
use statistics::CacheCounters;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How a copy is kept.
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// How old what an answer reflects may be. A copy that is older does not answer; then the server does, which keeps to
    /// a limit of its own.
    pub max_staleness: Duration,
    /// How often to ask how far the copy is. A quarter of `max_staleness` leaves room for a lost one or two.
    pub ping_every: Duration,
    /// Only organizations of this kind; what is asked about others, the server answers. None: all.
    pub kind: Option<Kind>,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { max_staleness: limits::CACHE_STALENESS, ping_every: limits::CACHE_PING, kind: None }
    }
}

/// The copy. Cheap to clone; clones are one copy, which is followed until the last of them is gone.
#[derive(Debug, Clone)]
pub struct MembershipCache(Arc<CacheOwner>);

#[derive(Debug)]
struct CacheOwner {
    shared: Arc<CacheState>,
    following: JoinHandle<()>,
}

impl Drop for CacheOwner {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// What the owner and who follows have in common.
#[derive(Debug)]
struct CacheState {
    client: Client,
    settings: CacheSettings,
    /// None before the first export has ended.
    copy: RwLock<Option<Arc<ClientReplica>>>,
    counters: CacheCounters,
    /// Told whenever the lease is renewed.
    renewed: watch::Sender<u64>,
}

impl CacheState {
    /// Asks the copy, if it is fresh enough. The lease is looked at first: what is read afterwards can only be newer.
    fn ask<T>(&self, question: impl FnOnce(&ClientReplica) -> Option<T>) -> Option<T> {
        let copy = self.copy.read().unwrap_or_else(PoisonError::into_inner);
        let copy = copy.as_ref()?;
        if copy.age()? <= self.settings.max_staleness { question(copy) } else { None }
    }
}

impl MembershipCache {
    /// Begins to follow. Until it has everything, the server answers. Must be called inside of a tokio runtime, which does
    /// the following.
    #[must_use]
    pub fn start(client: &Client, settings: CacheSettings) -> Self {
        let shared = Arc::new(CacheState {
            client: client.clone(),
            settings,
            copy: RwLock::new(None),
            counters: CacheCounters::default(),
            renewed: watch::Sender::new(0),
        });
        let following = tokio::spawn(follow::run(shared.clone()));
        Self(Arc::new(CacheOwner { shared, following }))
    }

    /// Waits until the copy has everything that is acknowledged now, however long that takes. At the start of a program:
    /// until it can answer.
    pub async fn caught_up(&self) {
        let now = nanoseconds(crate::clock::uptime());
        let mut renewed = self.0.shared.renewed.subscribe();
        // Only the end of the copy ends the channel, and it is in hand here.
        let _ = renewed.wait_for(|lease| *lease > now).await;
    }

    /// Answers from the copy and at once; none if it cannot, or not freshly enough.
    #[must_use]
    pub fn check_now(&self, check: &Check) -> Option<Answer> {
        let shared = &self.0.shared;
        let standing = shared.ask(|copy| copy.standing(check))?;
        shared.counters.memory_answered(1);
        Some(told(check, &standing))
    }

    /// Answers from the copy, or asks the server.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the copy is not fresh enough and the server does not answer; others if the server refuses.
    pub async fn check(&self, check: &Check) -> Result<Answer, Error> {
        self.check_with(check, &Consistency::Recent).await
    }

    /// The same with another freshness: what a token covers, and what must be fully consistent, the server answers.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub async fn check_with(&self, check: &Check, consistency: &Consistency) -> Result<Answer, Error> {
        if *consistency == Consistency::Recent
            && let Some(answer) = self.check_now(check)
        {
            return Ok(answer);
        }
        let asked = self.0.shared.client.check(check, consistency).await;
        self.0.shared.counters.server_asked(asked.is_ok(), 1);
        asked.map_err(Error::or_unavailable)
    }

    /// Answers many questions in their order, all about one organization from one state of it: all from the copy, or all
    /// from the server, in batches of what that takes at once.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub async fn check_batch(&self, checks: &[Check], consistency: &Consistency) -> Result<Vec<Answer>, Error> {
        let shared = &self.0.shared;
        if *consistency == Consistency::Recent
            && let Some(standings) = shared.ask(|copy| copy.standings(checks))
        {
            shared.counters.memory_answered(checks.len());
            return Ok(checks.iter().zip(&standings).map(|(check, standing)| told(check, standing)).collect());
        }
        let mut answers = Vec::with_capacity(checks.len());
        for some in checks.chunks(crate::domain::limits::BATCH_CHECKS) {
            let asked = shared.client.check_batch(some, consistency).await;
            shared.counters.server_asked(asked.is_ok(), some.len());
            answers.extend(asked.map_err(Error::or_unavailable)?.0);
        }
        Ok(answers)
    }

    /// What has been counted so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let shared = &self.0.shared;
        let copy = shared.copy.read().unwrap_or_else(PoisonError::into_inner);
        shared.counters.tell(copy.as_deref())
    }
}

fn told(check: &Check, standing: &Standing) -> Answer {
    let reason = answer(check.question, standing);
    let (role, revision) = role_and_revision(reason, standing);
    Answer { reason, role, revision, source: Source::Cache, consistency_token: String::new() }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
