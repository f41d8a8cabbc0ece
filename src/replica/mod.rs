//! The replica: the lookup behind every check and every authorization decision.
//!
//! Answers come from an in-memory replica of all memberships ([`crate::replica_tables`]), which [`follower`] maintains
//! by tailing the change log, or from the primary, which is queried in batches of the waiting questions ([`primary`]).
//! Correctness never depends on the replica: where a bucket is missing, not fresh enough, or ambiguous, the primary
//! answers.
//!
//! Freshness is a lease: the time, on this machine's boot-time clock, at which the last poll that was applied in full
//! began. Every transaction that committed before that time is in every published bucket. The replica answers a default
//! check only while the lease is at most `max_staleness` old; such an answer therefore includes every write, of any
//! process, that was acknowledged more than `max_staleness` before the question. In addition, a process never answers
//! from a state before its own acknowledged writes.

pub mod consistency_token;
mod evidence;
mod feed;
mod follower;
mod history;
pub mod limits;
mod loader;
mod log_diff;
mod lookup;
mod notify;
mod primary;
mod question;
mod roles;
mod settings;
mod statistics;
mod written;

pub use crate::replica_tables::PublishedRoles;
pub use feed::{Commits, Feed};
pub use question::{Facts, SourcedAnswer, StandingQuestion};
pub use settings::ReplicaSettings;
pub use statistics::ReplicaStatistics;

use crate::domain::ids::{MODEL_BUCKET, ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{BucketPosition, OrganizationId, OrganizationRef, Standing, UserId, UserStatus};
use crate::replica_tables::ReplicaTables;
use crate::store::StoreError;
use crate::store::datastore::{self, Datastore};
use crate::store::pool::Pool;
use crate::store::users;
use consistency_token::ConsistencyToken;
use history::AppliedHistory;
use primary::Primary;
use roles::RoleCache;
use statistics::ReplicaCounters;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use written::WrittenPositions;

/// The number of buckets: organization buckets first, then user buckets, then the bucket of the access model.
const BUCKETS: usize = MODEL_BUCKET.unsigned_abs() as usize + 1;

/// The consistency requirement of a question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Freshness {
    /// The answer includes every write acknowledged longer ago than the setting `max_staleness`.
    #[default]
    Recent,
    /// As [`Self::Recent`], and the answer includes every write that this token covers.
    AtLeast(ConsistencyToken),
    /// The answer includes every write acknowledged before the question.
    Full,
}

/// The source of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSource {
    /// The replica, as fresh as required.
    Memory,
    /// The primary, asked for this question.
    Primary,
    /// The replica beyond the maximum staleness: the primary did not answer, and the setting `serve_stale` allows it.
    StaleMemory,
}

/// The answers to a batch of questions.
#[derive(Debug, Clone)]
pub struct AnswerBatch<A> {
    /// One answer for each question, in the same order.
    pub answers: Vec<A>,
    /// The source of each answer.
    pub sources: Vec<AnswerSource>,
    /// A token that covers every state that the answers came from.
    pub token: ConsistencyToken,
}

/// A handle to the replica. Cheap to clone; all clones share one replica.
#[derive(Debug, Clone)]
pub struct Replica(Arc<ReplicaState>);

struct ReplicaState {
    pool: Pool,
    /// A separate pool, so that the replica never waits behind the writes that it follows.
    replica_pool: Pool,
    settings: ReplicaSettings,
    /// A random name for this process, by which it recognizes and ignores its own notifications.
    name: String,
    tables: ReplicaTables,
    primary: Primary,
    /// The lease: a [`crate::clock::uptime`] in nanoseconds, or 0 for no lease.
    lease: AtomicU64,
    /// Whether the last poll succeeded. After a failure, the next connection may reach another datastore.
    last_poll_ok: AtomicBool,
    /// Whether the users who are not active or were reinstated are in memory.
    users_loaded: AtomicBool,
    /// The follower's position in each bucket's log, with the marks up to it; a published bucket is at least as new.
    applied: Arc<AppliedHistory>,
    /// This process's last acknowledged write to each bucket.
    written: Arc<WrittenPositions>,
    datastore: RwLock<Option<Datastore>>,
    /// The newest roles of the deployment that this process knows. Those of the tables may be older.
    roles: Arc<RoleCache>,
    /// The lease, sent after each poll that was applied in full.
    lease_updates: watch::Sender<u64>,
    feed: broadcast::Sender<Arc<Commits>>,
    wake_follower: Notify,
    /// Wakes the task that notifies other processes of a write.
    wake_announcer: Notify,
    counters: ReplicaCounters,
}

impl std::fmt::Debug for ReplicaState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The number of a user bucket among all buckets.
fn user_bucket(bucket: i16) -> i16 {
    ORGANIZATION_BUCKETS + bucket
}

impl Replica {
    /// A replica of this datastore. The primary answers until [`Self::follow`] runs and has loaded the buckets.
    #[must_use]
    pub fn new(pool: Pool, settings: ReplicaSettings) -> Self {
        let replica_pool = pool.for_replica(limits::REPLICA_CONNECTIONS);
        let mut key = [0; 16];
        key.copy_from_slice(&crate::random::secret()[..16]);
        let (applied, written) = (Arc::new(AppliedHistory::new()), Arc::new(WrittenPositions::new()));
        let roles = Arc::new(RoleCache::new());
        Self(Arc::new(ReplicaState {
            primary: Primary::new(replica_pool.clone(), applied.clone(), written.clone(), roles.clone()),
            pool,
            replica_pool,
            settings,
            name: crate::random::uuid().to_string(),
            tables: ReplicaTables::new(key),
            lease: AtomicU64::new(0),
            last_poll_ok: AtomicBool::new(false),
            users_loaded: AtomicBool::new(false),
            applied,
            written,
            datastore: RwLock::new(None),
            roles,
            lease_updates: watch::Sender::new(0),
            feed: broadcast::Sender::new(limits::FEED_COMMITS),
            wake_follower: Notify::new(),
            wake_announcer: Notify::new(),
            counters: ReplicaCounters::default(),
        }))
    }

    /// Maintains the replica until `stop` is cancelled: loads the buckets, follows the log, and exchanges notifications
    /// of writes with other processes.
    pub fn follow(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.0.clone();
        async move {
            let tasks = async {
                tokio::join!(follower::run(&shared), notify::listen(&shared), notify::announce(&shared));
            };
            tokio::select! {
                () = tasks => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// The identity of the datastore, as of the last poll; without a poll, it is read from the datastore.
    ///
    /// # Errors
    /// If there was no poll yet and the datastore does not answer.
    pub async fn datastore(&self) -> Result<Datastore, StoreError> {
        if let Some(datastore) = self.0.datastore() {
            return Ok(datastore);
        }
        let mut connection = self.0.pool.acquire_read().await?;
        let outcome = timeout(limits::POLL_TIMEOUT, datastore::datastore(&mut connection)).await;
        let datastore = connection.finish(outcome.unwrap_or(Err(StoreError::Silent)))?;
        let mut known = self.0.datastore.write().unwrap_or_else(PoisonError::into_inner);
        Ok(*known.get_or_insert(datastore))
    }

    /// Returns whether the datastore has answered the follower within the maximum staleness.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.0.age().is_some_and(|age| age <= self.0.settings.max_staleness)
    }

    /// The identity of the datastore, if it is known yet.
    #[must_use]
    pub fn datastore_now(&self) -> Option<Datastore> {
        self.0.datastore()
    }

    /// Records a committed write of this process by the token that covers it. From now on no answer of this process
    /// precedes the write. Wakes the follower, here and in other processes.
    pub fn record_commit(&self, token: &ConsistencyToken) {
        // Positions of a log that has been lost in the meantime mean nothing.
        let current = self.0.datastore().is_none_or(|datastore| token.is_of(datastore));
        if current {
            self.0.written.record(token);
        }
        self.0.wake_follower.notify_one();
        self.0.wake_announcer.notify_one();
    }

    /// The answer to a question, from memory without waiting. `None` if memory cannot answer or is not fresh enough.
    #[must_use]
    pub fn answer_now<Q: StandingQuestion>(
        &self,
        question: &Q,
        freshness: &Freshness,
    ) -> Option<SourcedAnswer<Q::Answer>> {
        let answered = self.0.is_fresh(freshness).then(|| self.0.lookup(question, AnswerSource::Memory))?;
        if answered.is_some() {
            self.0.counters.count_answers(AnswerSource::Memory, 1);
        }
        answered
    }

    /// The answer to a question.
    ///
    /// # Errors
    /// If memory cannot answer and the datastore does not answer.
    pub async fn answer<Q: StandingQuestion + Sync>(
        &self,
        question: &Q,
        freshness: &Freshness,
    ) -> Result<SourcedAnswer<Q::Answer>, StoreError> {
        if let Some(answered) = self.answer_now(question, freshness) {
            return Ok(answered);
        }
        if self.0.catch_up(freshness).await
            && let Some(answered) = self.answer_now(question, freshness)
        {
            return Ok(answered);
        }
        match self.0.query_one(question, freshness).await {
            Ok(answered) => Ok(answered),
            Err(error) => {
                let is_stale = self.0.allows_stale(freshness, &error);
                let stale = is_stale.then(|| self.0.lookup(question, AnswerSource::StaleMemory));
                let answered = stale.flatten().ok_or(error)?;
                self.0.counters.count_answers(AnswerSource::StaleMemory, 1);
                Ok(answered)
            }
        }
    }

    /// The standing of a user in an organization, from memory without waiting; without a user, the organization alone.
    /// `None` if memory cannot answer or is not fresh enough.
    #[must_use]
    pub fn standing_now(
        &self,
        organization: &OrganizationRef,
        user: Option<&UserId>,
        freshness: &Freshness,
    ) -> Option<Standing> {
        self.answer_now(&(organization, user), freshness).map(|answered| answered.answer)
    }

    /// The standing of a user in an organization; without a user, the organization alone.
    ///
    /// # Errors
    /// If memory cannot answer and the datastore does not answer.
    pub async fn standing(
        &self,
        organization: &OrganizationRef,
        user: Option<&UserId>,
        freshness: &Freshness,
    ) -> Result<(Standing, AnswerSource), StoreError> {
        let SourcedAnswer { answer, source, .. } = self.answer(&(organization, user), freshness).await?;
        Ok((answer, source))
    }

    /// The answer to a question from the primary, whatever memory knows. Without a consistency requirement it includes every
    /// write acknowledged before.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn answer_on_primary<Q: StandingQuestion + Sync>(
        &self,
        question: &Q,
        freshness: &Freshness,
    ) -> Result<SourcedAnswer<Q::Answer>, StoreError> {
        // No stale answer may take the place of this one, so the primary has the whole time.
        let freshness = if *freshness == Freshness::Recent { &Freshness::Full } else { freshness };
        self.0.query_one(question, freshness).await
    }

    /// The answers to many questions about many organizations, in the order of the questions. All answers about one
    /// organization come from one state of it, and all answers from one access model.
    ///
    /// # Errors
    /// If memory cannot answer and the datastore does not answer.
    pub async fn answers<Q>(&self, questions: &[Q], freshness: &Freshness) -> Result<AnswerBatch<Q::Answer>, StoreError>
    where
        Q: StandingQuestion + Sync,
    {
        let datastore = self.datastore().await?;
        let fresh = self.0.is_fresh(freshness) || self.0.catch_up(freshness).await;
        self.0.answer_many(questions, freshness, fresh, self.token(datastore)).await
    }

    /// The status of a user, from the primary.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn user_status(&self, user: &UserId) -> Result<UserStatus, StoreError> {
        let mut connection = self.0.pool.acquire_read().await?;
        let outcome = users::status(&mut connection, user).await;
        connection.finish(outcome)
    }

    /// The status of a user, from memory without waiting. `None` if memory is not fresh enough to answer.
    #[must_use]
    pub fn user_status_now(&self, user: &UserId) -> Option<UserStatus> {
        let known = self.0.is_fresh(&Freshness::Recent) && !self.0.is_behind(user_bucket(user.bucket()));
        known.then(|| self.0.tables.user(user).0)
    }

    /// Whether a user may have been a member of an organization that its bucket's log purged at this position. `false` only
    /// if memory knows that the user was not.
    #[must_use]
    pub fn may_have_been_member(&self, organization: OrganizationId, user: &UserId, position: i64) -> bool {
        let bucket = self.0.tables.read(organization.bucket());
        let known = bucket.as_ref().and_then(|bucket| bucket.was_member_at_purge(organization, user, position));
        known.unwrap_or(true)
    }

    /// The counters and gauges at this moment.
    #[must_use]
    pub fn statistics(&self) -> ReplicaStatistics {
        self.0.statistics()
    }

    /// Subscribes to the changes that the follower applies from now on. When the follower reloads a bucket, the feed
    /// may have gaps and repetitions; the positions show them.
    #[must_use]
    pub fn feed(&self) -> Feed {
        self.0.feed.subscribe()
    }

    /// The follower's position in each bucket's log. User buckets have the numbers after the organization buckets.
    #[must_use]
    pub fn positions(&self) -> BTreeMap<i16, i64> {
        (0..ORGANIZATION_BUCKETS + USER_BUCKETS).map(|bucket| (bucket, self.0.applied.position(bucket))).collect()
    }

    /// Whether memory knows that a log whose bucket ends with `head` has the row `at`. `false` if it does not know.
    #[must_use]
    pub fn confirms(&self, head: BucketPosition, at: BucketPosition) -> bool {
        self.0.applied.confirms(head, at)
    }

    /// A consistency token of this datastore that covers nothing yet, in the form that the settings choose.
    #[must_use]
    pub fn token(&self, datastore: Datastore) -> ConsistencyToken {
        ConsistencyToken::new(datastore, self.0.settings.token_form)
    }

    /// Waits, without a time limit, until every write acknowledged before this call is in the replica and in the feed.
    pub async fn caught_up(&self) {
        let now = nanoseconds(crate::clock::uptime());
        let mut leases = self.0.lease_updates.subscribe();
        self.0.wake_follower.notify_one();
        // Cannot fail: the sender is in `self`.
        let _ = leases.wait_for(|lease| *lease > now).await;
    }

    /// Waits until every bucket that fits into memory is loaded and published.
    pub async fn loaded(&self) {
        let mut leases = self.0.lease_updates.subscribe();
        let _ = leases.wait_for(|_| self.0.users_loaded.load(Ordering::Acquire) && self.0.counters.is_loaded()).await;
    }
}
