//! The follower: loads the replica bucket by bucket and applies the change log to it.
//!
//! The follower is the only task that changes the replica. A loaded bucket waits in the staging area until a poll has
//! applied the log to it up to the same moment as to all other buckets. Only then is it published, so that the lease
//! holds for it too.

mod apply;

use super::feed::Commits;
use super::loader::{self, BucketLoad, LoadedBucket};
use super::log_diff::{LogDiff, compare};
use super::roles::published;
use super::{BUCKETS, ReplicaState, nanoseconds, user_bucket};
use crate::domain::BucketPosition;
use crate::domain::ids::{MODEL_BUCKET, ORGANIZATION_BUCKETS};
use crate::replica::limits;
use crate::replica_tables::{Bucket, PublishedRoles};
use crate::store::datastore::Datastore;
use crate::store::log::snapshot;
use crate::store::log::tail::{self, LogPosition, LogRow, PollResult};
use crate::store::pool::PooledConnection;
use crate::store::{StoreError, access_model, in_time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// The primary's log differs from the log that was applied: the primary has lost writes.
struct LogDiverged;

/// Why a poll failed.
enum PollError {
    /// The primary does not answer for now.
    Store(StoreError),
    /// The log has diverged from what was applied: see [`LogDiverged`].
    Diverged,
}

impl From<StoreError> for PollError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<LogDiverged> for PollError {
    fn from(_: LogDiverged) -> Self {
        Self::Diverged
    }
}

/// Follows the log. Never returns: the caller drops the future to stop it.
pub(super) async fn run(shared: &Arc<ReplicaState>) {
    let mut diverged = false;
    loop {
        match Follower::start(shared, diverged).await {
            Ok(mut follower) => {
                let LogDiverged = follower.follow().await;
                tracing::error!(
                    "the primary lost writes that this replica had applied (failover?): reloading every bucket"
                );
                shared.counters.lost.fetch_add(1, Ordering::Relaxed);
                shared.reset();
                diverged = true;
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the follower cannot start, retrying");
                sleep(limits::FOLLOW_PAUSE).await;
            }
        }
    }
}

struct Follower<'a> {
    shared: &'a Arc<ReplicaState>,
    connection: Option<PooledConnection>,
    datastore: Datastore,
    /// The position up to which each bucket is applied.
    positions: Vec<LogPosition>,
    /// Buckets that a load has set back to an earlier position, with the position applied before that. The log must
    /// contain that position again.
    rewinds: BTreeMap<i16, LogPosition>,
    /// Buckets that are loaded and not published yet.
    staging: BTreeMap<i16, Bucket>,
    /// Buckets to load.
    load_queue: BTreeSet<i16>,
    /// The number of buckets that one load takes.
    stride: i16,
    loads: JoinSet<BucketLoad>,
    /// The size of each loaded bucket, in bytes.
    bucket_bytes: BTreeMap<i16, usize>,
    /// The size of each bucket that did not fit into memory, in bytes; 0 if a purge has changed it since.
    omitted_bytes: BTreeMap<i16, usize>,
    users: UserLoadState,
    /// Whether the log of the access model has a gap: the model is to be read before the next poll.
    is_model_missing: bool,
    /// The row limit of the next poll, for each bucket.
    rows: i64,
}

/// The state of the inactive and erased users in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UserLoadState {
    /// To be loaded before the next poll.
    Missing,
    /// In memory, but no poll has been applied in full since.
    Loaded,
    /// In memory and covered by the lease.
    Published,
}

impl<'a> Follower<'a> {
    /// Starts at the current end of the log with nothing in memory. After a divergence it begins a new epoch first.
    async fn start(shared: &'a Arc<ReplicaState>, diverged: bool) -> Result<Self, StoreError> {
        let mut connection = shared.replica_pool.acquire().await?;
        let queries = async {
            let mut datastore = crate::store::datastore::datastore(&mut connection).await?;
            if diverged && let Some(before) = shared.datastore().filter(|before| before.id == datastore.id) {
                datastore.epoch = tail::begin_epoch(&mut connection, before.epoch).await?;
            }
            let mut heads = tail::heads(&mut connection).await?;
            if heads.len() != BUCKETS {
                return Err(StoreError::Unreadable(format!("the log has {} buckets", heads.len())));
            }
            // Read after the heads, so that no bucket begins with a newer model.
            let model = access_model::current(&mut connection).await?;
            heads[index(MODEL_BUCKET)] = model.at();
            Ok::<_, StoreError>((datastore, heads, model, snapshot::membership_bytes(&mut connection).await?))
        };
        let (datastore, heads, model, bytes) = in_time(limits::POLL_TIMEOUT, queries).await?;
        shared.set_datastore(datastore);
        shared.restart_roles(published(model.at(), &model.model));
        for (bucket, head) in (0..).zip(&heads) {
            shared.applied.restart(head.in_bucket(bucket));
        }
        let keeps_memberships = shared.settings.memory_bytes > 0;
        Ok(Self {
            shared,
            connection: Some(connection),
            datastore,
            positions: heads,
            rewinds: BTreeMap::new(),
            staging: BTreeMap::new(),
            load_queue: if keeps_memberships { (0..ORGANIZATION_BUCKETS).collect() } else { BTreeSet::new() },
            stride: loader::stride(bytes),
            loads: JoinSet::new(),
            bucket_bytes: BTreeMap::new(),
            omitted_bytes: BTreeMap::new(),
            users: UserLoadState::Missing,
            is_model_missing: false,
            rows: limits::POLL_ROWS,
        })
    }

    /// Polls on every notification and otherwise every [`limits::POLL_EVERY`]. Returns when the log has diverged.
    async fn follow(&mut self) -> LogDiverged {
        let mut next = Instant::now();
        loop {
            let spacing = Instant::now() + limits::POLL_SPACING;
            match self.poll().await {
                Ok(true) => next = Instant::now() + limits::POLL_EVERY,
                // The row limit cut this poll short.
                Ok(false) => next = Instant::now(),
                Err(PollError::Diverged) => return LogDiverged,
                Err(PollError::Store(error)) => {
                    self.shared.last_poll_ok.store(false, Ordering::Release);
                    self.shared.counters.failed_polls.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(error = &error as &dyn std::error::Error, "a poll of the change log failed");
                    // A statement may still run on this connection: no other task may reuse it.
                    if let Some(connection) = self.connection.take() {
                        connection.close();
                    }
                    sleep(limits::FOLLOW_PAUSE).await;
                }
            }
            self.start_loads();
            sleep_until(spacing).await;
            tokio::select! {
                () = self.shared.wake_follower.notified() => {}
                () = sleep_until(next) => {}
                Some(outcome) = self.loads.join_next() => {
                    if let Ok(load) = outcome {
                        self.stage(load);
                    }
                }
            }
        }
    }

    /// Polls the log once and applies the rows. Returns whether they reach the end of the log.
    async fn poll(&mut self) -> Result<bool, PollError> {
        let begin = nanoseconds(crate::clock::uptime());
        if self.users == UserLoadState::Missing {
            self.load_users().await?;
        }
        if self.is_model_missing {
            self.load_model().await?;
        }
        let positions = self.positions.clone();
        // Read before the poll begins: the poll must find every write that was acknowledged until now.
        let written = self.shared.written.positions();
        let (model, _) = self.shared.roles.newest();
        let rows = self.rows;
        let connection = self.connection().await?;
        let poll = in_time(limits::POLL_TIMEOUT, tail::poll(connection, &positions, rows)).await?;
        if poll.datastore.id != self.datastore.id || self.is_missing_writes(&poll, &written, model.at) {
            return Err(LogDiverged.into());
        }
        let (mut complete, mut is_model_partial) = (true, false);
        let mut commits = Vec::new();
        self.rows = limits::POLL_ROWS;
        for delta in poll.moved {
            match compare(self.positions[index(delta.bucket)], delta) {
                LogDiff::Continuation(continuation) => {
                    if continuation.rows.is_empty() {
                        // The row limit did not cover a single transaction.
                        self.rows = rows.saturating_mul(2);
                    }
                    complete &= continuation.reaches_head;
                    let bucket = continuation.bucket;
                    is_model_partial |= bucket == MODEL_BUCKET && !continuation.reaches_head;
                    commits.push(Commits { bucket, after: self.positions[index(bucket)], rows: continuation.rows });
                }
                LogDiff::Gap { bucket: MODEL_BUCKET, .. } => {
                    tracing::warn!("the log of the access model has a gap: reading the model");
                    self.shared.counters.gaps.fetch_add(1, Ordering::Relaxed);
                    (self.is_model_missing, is_model_partial, complete) = (true, true, false);
                }
                LogDiff::Gap { bucket, head } => self.reload(bucket, head),
                LogDiff::Diverged => return Err(PollError::Diverged),
            }
        }
        if is_model_partial {
            // The other rows may be decided by the models that follow.
            commits.retain(|commits| commits.bucket == MODEL_BUCKET);
        }
        if poll.datastore.epoch != self.datastore.epoch {
            // Another process found that writes were lost; this replica had applied none of them. The epoch is adopted
            // only here, because the new epoch's tokens refer to a log that must first be compared with memory.
            self.datastore = poll.datastore;
            self.shared.set_datastore(poll.datastore);
        }
        self.apply_poll(commits);
        let positions = &self.positions;
        self.rewinds.retain(|bucket, at| positions[index(*bucket)].position < at.position);
        if complete && self.users != UserLoadState::Missing {
            self.publish(begin);
        }
        Ok(complete)
    }

    /// Reads the access model, because its log no longer has the rows that follow its position.
    async fn load_model(&mut self) -> Result<(), PollError> {
        let connection = self.connection().await?;
        let model = in_time(limits::POLL_TIMEOUT, access_model::current(connection)).await?;
        let position = &mut self.positions[index(MODEL_BUCKET)];
        if model.revision < position.position {
            return Err(PollError::Diverged);
        }
        *position = model.at();
        self.shared.publish_roles(published(model.at(), &model.model));
        self.shared.tables.adopt_roles();
        self.shared.applied.restart(model.at().in_bucket(MODEL_BUCKET));
        self.is_model_missing = false;
        Ok(())
    }

    /// The follower's connection. It keeps one for as long as its statements succeed.
    async fn connection(&mut self) -> Result<&mut PooledConnection, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.shared.replica_pool.acquire().await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Loads the users who are not active or were reinstated. The next poll applies the log from the snapshot's positions on.
    async fn load_users(&mut self) -> Result<(), StoreError> {
        let connection = self.connection().await?;
        for bucket in in_time(limits::USERS_TIMEOUT, snapshot::exceptional_users(connection)).await? {
            self.shared.tables.put_users(bucket.at.in_bucket(bucket.bucket), &bucket.users);
            self.rewind(user_bucket(bucket.bucket), bucket.at);
        }
        self.users = UserLoadState::Loaded;
        Ok(())
    }

    /// Sets a bucket's position back to the position of a snapshot, if the snapshot is older.
    fn rewind(&mut self, bucket: i16, snapshot: LogPosition) {
        let position = &mut self.positions[index(bucket)];
        if snapshot.position < position.position {
            self.rewinds.entry(bucket).or_insert(*position);
            *position = snapshot;
        }
    }

    /// Whether the log lacks a write that this process has acknowledged, or the access model that it has read, has another
    /// row in its place, or lacks a row that was applied before a rewind.
    fn is_missing_writes(&self, poll: &PollResult, written: &[i64], model: BucketPosition) -> bool {
        let mut heads = self.positions.clone();
        for delta in &poll.moved {
            heads[index(delta.bucket)] = delta.head;
        }
        let rows =
            |bucket: i16| poll.moved.iter().filter(move |delta| delta.bucket == bucket).flat_map(|delta| &delta.rows);
        let row =
            |bucket: i16, position: i64| rows(bucket).find(|row| row.at.position == position).map(|row| row.at.mark());
        let head = heads[index(MODEL_BUCKET)].in_bucket(MODEL_BUCKET);
        let found = if head.position == model.position { Some(head.mark) } else { row(MODEL_BUCKET, model.position) };
        heads.iter().zip(written).any(|(head, written)| head.position < *written)
            || head.position < model.position
            || found.is_some_and(|mark| mark != model.mark)
            || self.shared.written.differ(&self.shared.applied, row)
            || self.rewinds.iter().any(|(bucket, at)| {
                let replaced = |row: &LogRow| row.at.position == at.position && row.at != *at;
                heads[index(*bucket)].position < at.position || rows(*bucket).any(replaced)
            })
    }

    /// Starts as many loads from the queue as [`limits::LOADS`] allows.
    fn start_loads(&mut self) {
        while self.loads.len() < limits::LOADS
            && let Some(first) = self.load_queue.pop_first()
        {
            let mut last = first;
            while last - first + 1 < self.stride && self.load_queue.remove(&(last + 1)) {
                last += 1;
            }
            self.loads.spawn(loader::load(self.shared.clone(), first..=last));
        }
    }

    /// Stages the loaded buckets that fit into memory.
    fn stage(&mut self, load: BucketLoad) {
        match load.result {
            Ok(buckets) => {
                for LoadedBucket { number, bucket, position } in buckets {
                    self.shared.counters.loads.fetch_add(1, Ordering::Relaxed);
                    let others = self.bucket_bytes.iter().filter(|(other, _)| **other != number);
                    let bytes = others.map(|(_, bytes)| bytes).sum::<usize>();
                    if bytes + bucket.bytes() > self.shared.settings.memory_bytes {
                        tracing::warn!(
                            bucket = number,
                            bytes,
                            "the replica's memory is full: checks of this bucket go to the primary"
                        );
                        self.omitted_bytes.insert(number, bucket.bytes());
                        continue;
                    }
                    self.rewind(number, position);
                    self.omitted_bytes.remove(&number);
                    self.bucket_bytes.insert(number, bucket.bytes());
                    self.staging.insert(number, bucket);
                }
            }
            Err(error) => {
                self.shared.counters.failed_loads.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(error = &error as &dyn std::error::Error, buckets = ?load.buckets, "a load failed");
                self.load_queue.extend(load.buckets);
            }
        }
    }

    /// Discards a bucket and queues it for loading, because the log no longer has the rows that follow its position.
    fn reload(&mut self, bucket: i16, head: LogPosition) {
        tracing::warn!(bucket, "the change log has a gap: reloading the bucket");
        self.shared.counters.gaps.fetch_add(1, Ordering::Relaxed);
        if bucket < ORGANIZATION_BUCKETS {
            self.drop_bucket(bucket);
            self.load_queue.insert(bucket);
        } else {
            self.shared.users_loaded.store(false, Ordering::Release);
            self.users = UserLoadState::Missing;
        }
        self.positions[index(bucket)] = head;
        self.shared.applied.restart(head.in_bucket(bucket));
    }

    fn drop_bucket(&mut self, bucket: i16) {
        self.staging.remove(&bucket);
        self.bucket_bytes.remove(&bucket);
        self.shared.tables.take(bucket);
    }

    /// Publishes the staged buckets and renews the lease: every commit that precedes the beginning of this poll is
    /// applied.
    fn publish(&mut self, begin: u64) {
        let shared = self.shared;
        for bucket in std::mem::take(&mut self.staging).into_values() {
            shared.tables.put(bucket);
        }
        self.users = UserLoadState::Published;
        shared.lease.store(begin, Ordering::Release);
        shared.last_poll_ok.store(true, Ordering::Release);
        shared.users_loaded.store(true, Ordering::Release);
        self.measure();
        let loaded = self.load_queue.is_empty() && self.loads.is_empty();
        shared.counters.loaded.store(loaded, Ordering::Release);
        shared.counters.polls.fetch_add(1, Ordering::Relaxed);
        shared.lease_updates.send_replace(begin);
    }

    /// Queues one omitted bucket once there is room for it and for a quarter more.
    fn retry_omitted(&mut self) {
        if !(self.load_queue.is_empty() && self.loads.is_empty() && self.staging.is_empty()) {
            return;
        }
        let room = self.shared.settings.memory_bytes.saturating_sub(self.bucket_bytes.values().sum());
        let candidate = self.omitted_bytes.iter().find(|(_, bytes)| **bytes + **bytes / 4 < room);
        if let Some(number) = candidate.map(|(number, _)| *number) {
            self.omitted_bytes.remove(&number);
            self.load_queue.insert(number);
        }
    }

    /// Measures the buckets, drops those that no longer fit, queues those with much garbage, and sets the gauges.
    fn measure(&mut self) {
        let mut memberships = 0;
        for (number, bytes) in &mut self.bucket_bytes {
            if let Some(bucket) = self.shared.tables.read(*number).as_ref() {
                *bytes = bucket.bytes();
                memberships += bucket.memberships();
                if bucket.is_littered() && self.load_queue.insert(*number) {
                    tracing::debug!(bucket = number, "reloading a bucket to free the memory of purged organizations");
                }
            }
        }
        let limit = self.shared.settings.memory_bytes;
        while self.bucket_bytes.values().sum::<usize>() > limit
            && let Some((number, _)) = self.bucket_bytes.last_key_value()
        {
            let number = *number;
            tracing::warn!(
                bucket = number,
                "the replica has outgrown its memory: checks of this bucket go to the primary"
            );
            self.omitted_bytes.extend(self.bucket_bytes.get_key_value(&number));
            self.drop_bucket(number);
        }
        self.retry_omitted();
        let bytes = self.bucket_bytes.values().sum::<usize>() + self.shared.tables.user_bytes();
        let counters = &self.shared.counters;
        let set = |gauge: &std::sync::atomic::AtomicU64, value: usize| {
            gauge.store(u64::try_from(value).unwrap_or_default(), Ordering::Relaxed);
        };
        set(&counters.buckets, self.bucket_bytes.len());
        set(&counters.memberships, memberships);
        set(&counters.bytes, bytes);
    }
}

impl ReplicaState {
    fn set_datastore(&self, datastore: Datastore) {
        *self.datastore.write().unwrap_or_else(PoisonError::into_inner) = Some(datastore);
    }

    /// Drops the lease and every bucket: from now on the primary answers.
    fn reset(&self) {
        self.lease.store(0, Ordering::Release);
        self.last_poll_ok.store(false, Ordering::Release);
        self.users_loaded.store(false, Ordering::Release);
        self.counters.loaded.store(false, Ordering::Release);
        for bucket in 0..ORGANIZATION_BUCKETS {
            self.tables.take(bucket);
        }
        // Positions of the lost log mean nothing in the current one.
        for bucket in 0..=MODEL_BUCKET {
            self.applied.restart(BucketPosition::start(bucket));
        }
        self.restart_roles(PublishedRoles::built_in());
        self.written.clear();
    }
}

fn index(bucket: i16) -> usize {
    usize::from(bucket.unsigned_abs())
}
