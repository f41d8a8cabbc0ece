//! Who stands where: the look-up behind every check and every decision.
//!
//! Answers come from a copy of all memberships in this process ([`crate::replica_tables`]), which [`follower`] keeps by tailing the
//! change log, or from the primary, in batches of whatever has piled up ([`primary`]). Nothing depends on the copy for
//! being right: where it is not there, not fresh enough, or not sure, the primary answers.
//!
//! Freshness is a lease: the moment, on this machine's own clock, at which the last poll began that was applied in full.
//! What was acknowledged before it is in the copy. A process moreover never answers from before its own writes.

pub mod consistency_token;
mod feed;
mod follower;
pub mod limits;
mod loader;
mod log_diff;
mod lookup;
mod notify;
mod primary;
mod settings;
mod statistics;

pub use feed::{Commits, Feed};
pub use settings::ReplicaSettings;
pub use statistics::ReplicaStatistics;

use crate::domain::ids::{ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{OrganizationRef, Standing, UserId, UserState};
use crate::replica_tables::ReplicaTables;
use crate::store::StoreError;
use crate::store::datastore::{self, Datastore};
use crate::store::pool::{self, Pool};
use crate::store::users;
use consistency_token::ConsistencyToken;
use primary::Primary;
use statistics::ReplicaCounters;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Buckets of organizations and of users, in one row.
const BUCKETS: usize = (ORGANIZATION_BUCKETS + USER_BUCKETS).unsigned_abs() as usize;

/// How fresh an answer must be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Freshness {
    /// Everything acknowledged longer ago than the settings' `max_staleness`.
    #[default]
    Recent,
    /// That, and everything that this token covers.
    AtLeast(ConsistencyToken),
    /// Everything acknowledged before the question was asked.
    Full,
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSource {
    /// The copy in memory, as fresh as was asked.
    Memory,
    /// The primary.
    Primary,
    /// The copy in memory, older than was asked: the primary did not answer, and the settings allow it.
    StaleMemory,
}

/// Answers to many questions.
#[derive(Debug, Clone)]
pub struct StandingBatch {
    /// One for each question, in their order; each organization's from one state of it.
    pub standings: Vec<Standing>,
    /// Who answered each.
    pub sources: Vec<AnswerSource>,
    /// Covers every state that an answer came from.
    pub token: ConsistencyToken,
}

/// The look-up. Cheap to clone; clones are one index.
#[derive(Debug, Clone)]
pub struct Replica(Arc<ReplicaState>);

struct ReplicaState {
    pool: Pool,
    /// Connections of the index's own: it must not wait behind the writes that it follows.
    own: Pool,
    settings: ReplicaSettings,
    /// A random name for this process, so that it does not take its own notifications for others'.
    name: String,
    tables: ReplicaTables,
    primary: Primary,
    /// The lease: [`crate::clock::uptime`] in nanoseconds; 0 for none.
    lease: AtomicU64,
    /// Whether the last poll came to something. After one that did not, the datastore may be another one by now.
    steady: AtomicBool,
    /// Whether the users who are not active are in memory.
    users_held: AtomicBool,
    /// How far the follower has come in each bucket: what is in the copy is at least as new.
    followed: Box<[AtomicI64]>,
    /// How far this process itself has written in each bucket, as far as it has acknowledged.
    written: Box<[AtomicI64]>,
    datastore: RwLock<Option<Datastore>>,
    /// Told after each poll that was applied in full: the lease.
    polled: watch::Sender<u64>,
    feed: broadcast::Sender<Arc<Commits>>,
    /// Wakes the follower.
    notify: Notify,
    /// Wakes who tells other processes.
    wrote: Notify,
    counters: ReplicaCounters,
}

impl std::fmt::Debug for ReplicaState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn slots() -> Box<[AtomicI64]> {
    (0..BUCKETS).map(|_| AtomicI64::new(0)).collect()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The place of a bucket of users behind those of organizations.
fn of_users(bucket: i16) -> i16 {
    ORGANIZATION_BUCKETS + bucket
}

impl Replica {
    /// A look-up over this datastore. Until [`Self::follow`] runs, and while it loads, the primary answers.
    #[must_use]
    pub fn new(pool: Pool, settings: ReplicaSettings) -> Self {
        // To plan its few statements for each call's parameters would take longer than to run them.
        let options = pool.connections().connect_options().as_ref().clone();
        let options = options.options([("plan_cache_mode", "force_generic_plan")]);
        let own = Pool::new(pool::lazy(options, limits::REPLICA_CONNECTIONS));
        let mut key = [0; 16];
        key.copy_from_slice(&crate::random::secret()[..16]);
        Self(Arc::new(ReplicaState {
            primary: Primary::new(own.clone()),
            pool,
            own,
            settings,
            name: crate::random::uuid().to_string(),
            tables: ReplicaTables::new(key),
            lease: AtomicU64::new(0),
            steady: AtomicBool::new(false),
            users_held: AtomicBool::new(false),
            followed: slots(),
            written: slots(),
            datastore: RwLock::new(None),
            polled: watch::Sender::new(0),
            feed: broadcast::Sender::new(limits::FEED_COMMITS),
            notify: Notify::new(),
            wrote: Notify::new(),
            counters: ReplicaCounters::default(),
        }))
    }

    /// Keeps the copy: loads it, follows the log, tells and hears of writes, until told to stop.
    pub fn follow(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.0.clone();
        async move {
            let work = async {
                tokio::join!(follower::run(&shared), notify::listen(&shared), notify::announce(&shared));
            };
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Which datastore this is, as last heard.
    ///
    /// # Errors
    /// If it was not heard yet, and the datastore does not answer.
    pub async fn datastore(&self) -> Result<Datastore, StoreError> {
        if let Some(datastore) = self.0.datastore() {
            return Ok(datastore);
        }
        let asked = datastore::datastore(&mut *self.0.pool.acquire().await?).await?;
        let mut known = self.0.datastore.write().unwrap_or_else(PoisonError::into_inner);
        Ok(*known.get_or_insert(asked))
    }

    /// Which datastore this is, if that was heard.
    #[must_use]
    pub fn datastore_now(&self) -> Option<Datastore> {
        self.0.datastore()
    }

    /// Says that this process has committed a write that this token covers: from now on no answer is from before it, and
    /// who follows the log is woken, here and elsewhere.
    pub fn committed(&self, token: &ConsistencyToken) {
        // Positions of a log that was lost meanwhile mean nothing.
        let present = self.0.datastore().is_none_or(|datastore| token.is_of(datastore));
        for at in token.positions().filter(|_| present) {
            if let Some(written) = self.0.written.get(usize::from(at.bucket.unsigned_abs())) {
                written.fetch_max(at.position, Ordering::AcqRel);
            }
        }
        self.0.notify.notify_one();
        self.0.wrote.notify_one();
    }

    /// One user in one organization, from memory and at once; without a user, the organization alone. None if memory
    /// cannot say, or not freshly enough.
    #[must_use]
    pub fn now(
        &self,
        organization: &OrganizationRef,
        user: Option<&UserId>,
        freshness: &Freshness,
    ) -> Option<Standing> {
        let standing = self.0.is_fresh(freshness).then(|| self.0.look_up(organization, user))?;
        if standing.is_some() {
            self.0.counters.answered(AnswerSource::Memory, 1);
        }
        standing
    }

    /// One user in one organization; without a user, the organization alone.
    ///
    /// # Errors
    /// If memory cannot say and the datastore does not answer.
    pub async fn standing(
        &self,
        organization: &OrganizationRef,
        user: Option<&UserId>,
        freshness: &Freshness,
    ) -> Result<(Standing, AnswerSource), StoreError> {
        if let Some(standing) = self.now(organization, user, freshness) {
            return Ok((standing, AnswerSource::Memory));
        }
        if self.0.catch_up(freshness).await
            && let Some(standing) = self.now(organization, user, freshness)
        {
            return Ok((standing, AnswerSource::Memory));
        }
        let question = (organization.clone(), user.cloned());
        let asked = self.0.ask_primary(vec![question], freshness).await;
        match asked.map(|standings| standings.into_iter().next()) {
            Ok(Some(standing)) => Ok((standing, AnswerSource::Primary)),
            Ok(None) => Err(StoreError::Unreadable("a question was not answered".to_owned())),
            Err(error) => {
                let stale = self.0.may_be_stale(freshness, &error).then(|| self.0.look_up(organization, user));
                let standing = stale.flatten().ok_or(error)?;
                self.0.counters.answered(AnswerSource::StaleMemory, 1);
                Ok((standing, AnswerSource::StaleMemory))
            }
        }
    }

    /// Many users in many organizations, in the order asked; all that is asked of one organization is answered from one
    /// state of it.
    ///
    /// # Errors
    /// If memory cannot say and the datastore does not answer.
    pub async fn standings<Q>(&self, questions: &[Q], freshness: &Freshness) -> Result<StandingBatch, StoreError>
    where
        Q: CheckQuestion + Sync,
    {
        let datastore = self.datastore().await?;
        let fresh = self.0.is_fresh(freshness) || self.0.catch_up(freshness).await;
        self.0.answer_many(questions, freshness, fresh, ConsistencyToken::new(datastore)).await
    }

    /// Where a user is in their life; none for one not heard of. From the primary.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn user_state(&self, user: &UserId) -> Result<Option<UserState>, StoreError> {
        users::state(&mut *self.0.pool.acquire().await?, user).await
    }

    /// Where a user is in their life, from memory and at once; none within for one who is active or not heard of, none
    /// at all if memory cannot say freshly enough.
    #[must_use]
    pub fn user_state_now(&self, user: &UserId) -> Option<Option<UserState>> {
        let known = self.0.is_fresh(&Freshness::Recent) && !self.0.is_behind(of_users(user.bucket()));
        known.then(|| self.0.tables.user(user, user.bucket()).0)
    }

    /// What has been counted so far.
    #[must_use]
    pub fn statistics(&self) -> ReplicaStatistics {
        self.0.statistics()
    }

    /// The changes as they are followed from now on. Where the follower loads a bucket anew there may be gaps and
    /// repetitions: positions tell.
    #[must_use]
    pub fn feed(&self) -> Feed {
        self.0.feed.subscribe()
    }

    /// How far the log is followed in each bucket; those of users stand behind those of organizations.
    #[must_use]
    pub fn positions(&self) -> BTreeMap<i16, i64> {
        (0..).zip(&self.0.followed).map(|(bucket, position)| (bucket, position.load(Ordering::Acquire))).collect()
    }

    /// Waits until everything that is acknowledged now is in the copy and in the feed. Returns only once that is so.
    pub async fn caught_up(&self) {
        let now = nanoseconds(crate::clock::uptime());
        let mut polled = self.0.polled.subscribe();
        self.0.notify.notify_one();
        // Only the end of this index ends the channel, and it is in hand here.
        let _ = polled.wait_for(|lease| *lease > now).await;
    }

    /// Waits until every bucket that is to be in memory is there.
    pub async fn loaded(&self) {
        let mut polled = self.0.polled.subscribe();
        let _ = polled.wait_for(|_| self.0.users_held.load(Ordering::Acquire) && self.0.counters.is_loaded()).await;
    }
}

/// A question about a user in an organization.
pub trait CheckQuestion {
    /// Where, and who.
    fn asks(&self) -> (&OrganizationRef, &UserId);
}

impl CheckQuestion for (&OrganizationRef, &UserId) {
    fn asks(&self) -> (&OrganizationRef, &UserId) {
        *self
    }
}
