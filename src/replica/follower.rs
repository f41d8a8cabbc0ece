//! The follower: loads the copy bucket by bucket, and applies what the log says since.
//!
//! One task changes the copy, and nothing else does. A bucket that was loaded stands aside until a poll has brought it as
//! far as all the others; only then is it published, so that the lease speaks for it too.

use super::feed::Commits;
use super::loader::{self, BucketLoad, LoadedBucket};
use super::log_diff::{LogDiff, sort};
use super::{BUCKETS, ReplicaState, nanoseconds, of_users};
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::ids::ORGANIZATION_BUCKETS;
use crate::domain::{UserId, UserState};
use crate::replica::limits;
use crate::replica_tables::Bucket;
use crate::store::StoreError;
use crate::store::datastore::Datastore;
use crate::store::log::snapshot;
use crate::store::log::tail::{self, LogChange, LogPosition, LogRow, PollResult};
use crate::store::pool::PooledConnection;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// The log that is there is not the log that was applied: writes were lost.
struct LogDiverged;

/// Why a round came to nothing.
enum PollError {
    /// The datastore does not answer, for now.
    Store(StoreError),
    LogDiverged,
}

impl From<StoreError> for PollError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<LogDiverged> for PollError {
    fn from(_: LogDiverged) -> Self {
        Self::LogDiverged
    }
}

/// Follows, for ever.
pub(super) async fn run(shared: &Arc<ReplicaState>) {
    let mut lost = false;
    loop {
        match Follower::begin(shared, lost).await {
            Ok(mut follower) => {
                let LogDiverged = follower.follow().await;
                tracing::error!("the datastore has lost writes that were applied here: everything is loaded anew");
                shared.counters.lost.fetch_add(1, Ordering::Relaxed);
                shared.forget();
                lost = true;
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "following cannot begin");
                sleep(limits::FOLLOW_PAUSE).await;
            }
        }
    }
}

struct Follower<'a> {
    shared: &'a Arc<ReplicaState>,
    connection: Option<PooledConnection>,
    datastore: Datastore,
    /// How far each bucket is applied.
    known: Vec<LogPosition>,
    /// How far buckets had been applied that are followed once more from an earlier place: the log must come by here.
    rewound: BTreeMap<i16, LogPosition>,
    /// Loaded, and not published yet.
    staged: BTreeMap<i16, Bucket>,
    /// To be loaded.
    wanted: BTreeSet<i16>,
    /// How many buckets one load takes.
    stride: i16,
    loading: JoinSet<BucketLoad>,
    /// Bytes of each bucket that is in memory.
    held: BTreeMap<i16, usize>,
    /// Those for which there was no room, and how much they would have taken.
    left_out: BTreeMap<i16, usize>,
    users: UserLoadState,
    rows: i64,
}

/// Where the users who are not active are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UserLoadState {
    Wanted,
    /// In memory, but no poll has been applied in full since.
    LoadedBucket,
    Held,
}

impl<'a> Follower<'a> {
    /// Begins where the log now ends, with nothing in memory.
    async fn begin(shared: &'a Arc<ReplicaState>, lost: bool) -> Result<Self, StoreError> {
        let mut connection = shared.own.acquire().await?;
        let begun = async {
            let mut datastore = crate::store::datastore::datastore(&mut connection).await?;
            if lost && let Some(before) = shared.datastore().filter(|before| before.id == datastore.id) {
                datastore.epoch = tail::begin_epoch(&mut connection, before.epoch).await?;
            }
            let known = tail::heads(&mut connection).await?;
            Ok::<_, StoreError>((datastore, known, snapshot::membership_bytes(&mut connection).await?))
        };
        let (datastore, known, bytes) =
            timeout(limits::POLL_TIMEOUT, begun).await.unwrap_or(Err(StoreError::Timeout(None)))?;
        if known.len() != BUCKETS {
            return Err(StoreError::Unreadable(format!("the log has {} buckets", known.len())));
        }
        *shared.datastore.write().unwrap_or_else(PoisonError::into_inner) = Some(datastore);
        for (followed, at) in shared.followed.iter().zip(&known) {
            followed.store(at.position, Ordering::Release);
        }
        let copy = shared.settings.memory_bytes > 0;
        Ok(Self {
            shared,
            connection: Some(connection),
            datastore,
            known,
            rewound: BTreeMap::new(),
            staged: BTreeMap::new(),
            wanted: if copy { (0..ORGANIZATION_BUCKETS).collect() } else { BTreeSet::new() },
            stride: stride(bytes),
            loading: JoinSet::new(),
            held: BTreeMap::new(),
            left_out: BTreeMap::new(),
            users: UserLoadState::Wanted,
            rows: limits::POLL_ROWS,
        })
    }

    /// Polls on a nudge, and now and then without one, for as long as the log is the one that was applied.
    async fn follow(&mut self) -> LogDiverged {
        let mut next = Instant::now();
        loop {
            let spacing = Instant::now() + limits::POLL_SPACING;
            match self.round().await {
                Ok(true) => next = Instant::now() + limits::POLL_EVERY,
                // There is more to be had at once.
                Ok(false) => next = Instant::now(),
                Err(PollError::LogDiverged) => return LogDiverged,
                Err(PollError::Store(error)) => {
                    self.shared.steady.store(false, Ordering::Release);
                    self.shared.counters.failed_polls.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(error = &error as &dyn std::error::Error, "the log was not read");
                    // Whatever is open on it, nobody shall use it again.
                    if let Some(mut connection) = self.connection.take() {
                        connection.close_on_drop();
                    }
                    sleep(limits::FOLLOW_PAUSE).await;
                }
            }
            self.load_more();
            sleep_until(spacing).await;
            tokio::select! {
                () = self.shared.notify.notified() => {}
                () = sleep_until(next) => {}
                Some(loaded) = self.loading.join_next() => {
                    if let Ok(load) = loaded {
                        self.stage(load);
                    }
                }
            }
        }
    }

    /// Looks at the log once and applies what it says. Tells whether that was all.
    async fn round(&mut self) -> Result<bool, PollError> {
        let begin = nanoseconds(crate::clock::uptime());
        if self.users == UserLoadState::Wanted {
            self.load_users().await?;
        }
        let known = self.known.clone();
        // Before the poll begins: it must find what was acknowledged.
        let written: Vec<i64> = self.shared.written.iter().map(|written| written.load(Ordering::Acquire)).collect();
        let rows = self.rows;
        let connection = self.connection().await?;
        let polled = timeout(limits::POLL_TIMEOUT, tail::poll(connection, &known, rows)).await;
        let polled = polled.unwrap_or(Err(StoreError::Timeout(None)))?;
        if polled.datastore.id != self.datastore.id {
            return Err(LogDiverged.into());
        }
        if self.lacks(&polled, &written) {
            return Err(LogDiverged.into());
        }
        let mut complete = true;
        let mut commits = Vec::new();
        self.rows = limits::POLL_ROWS;
        for moved in polled.moved {
            match sort(self.known[place(moved.bucket)], moved) {
                LogDiff::LogContinuation(next) => {
                    if next.rows.is_empty() {
                        // Not even one transaction in so many rows.
                        self.rows = rows.saturating_mul(2);
                    }
                    complete &= next.whole;
                    commits.push(Commits { bucket: next.bucket, rows: next.rows });
                }
                LogDiff::Gap { bucket, head } => self.reload(bucket, head),
                LogDiff::LogDiverged => return Err(PollError::LogDiverged),
            }
        }
        if polled.datastore.epoch != self.datastore.epoch {
            // Another process found that writes were lost, none of which were applied here. Not sooner: its tokens speak of
            // a log that had to be compared with what is in memory first.
            self.datastore = polled.datastore;
            *self.shared.datastore.write().unwrap_or_else(PoisonError::into_inner) = Some(polled.datastore);
        }
        for commits in commits {
            self.apply(commits);
        }
        let known = &self.known;
        self.rewound.retain(|bucket, at| known[place(*bucket)].position < at.position);
        if complete && self.users != UserLoadState::Wanted {
            self.publish(begin);
        }
        Ok(complete)
    }

    async fn connection(&mut self) -> Result<&mut PooledConnection, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.shared.own.acquire().await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Reads who is not active. What the log says since then is applied by the poll that follows.
    async fn load_users(&mut self) -> Result<(), StoreError> {
        let connection = self.connection().await?;
        let read = timeout(limits::LOAD_TIMEOUT, snapshot::inactive_users(connection)).await;
        for absent in read.unwrap_or(Err(StoreError::Timeout(None)))? {
            self.shared.tables.put_users(absent.bucket, absent.at.position, &absent.states);
            self.rewind(of_users(absent.bucket), absent.at);
        }
        self.users = UserLoadState::LoadedBucket;
        Ok(())
    }

    /// Follows a bucket from where a snapshot of it stands, if that is before what is applied elsewhere.
    fn rewind(&mut self, bucket: i16, to: LogPosition) {
        let known = &mut self.known[place(bucket)];
        if to.position < known.position {
            self.rewound.entry(bucket).or_insert(*known);
            *known = to;
        }
    }

    /// Whether the log lacks what this process has acknowledged, or had applied before it went back to an earlier place.
    fn lacks(&self, polled: &PollResult, written: &[i64]) -> bool {
        let mut heads = self.known.clone();
        for moved in &polled.moved {
            heads[place(moved.bucket)] = moved.head;
        }
        let rows =
            |bucket: i16| polled.moved.iter().filter(move |moved| moved.bucket == bucket).flat_map(|moved| &moved.rows);
        heads.iter().zip(written).any(|(head, written)| head.position < *written)
            || self.rewound.iter().any(|(bucket, at)| {
                let other = |row: &LogRow| row.at.position == at.position && row.at != *at;
                heads[place(*bucket)].position < at.position || rows(*bucket).any(other)
            })
    }

    /// Begins to load, as much at once as may be.
    fn load_more(&mut self) {
        while self.loading.len() < limits::LOADS
            && let Some(first) = self.wanted.pop_first()
        {
            let mut last = first;
            while last - first + 1 < self.stride && self.wanted.remove(&(last + 1)) {
                last += 1;
            }
            self.loading.spawn(loader::load(self.shared.clone(), first..=last));
        }
    }

    /// Takes in what was loaded, as far as there is room for it.
    fn stage(&mut self, load: BucketLoad) {
        match load.loaded {
            Ok(loaded) => {
                for LoadedBucket { number, bucket, at } in loaded {
                    self.shared.counters.loads.fetch_add(1, Ordering::Relaxed);
                    let others = self.held.iter().filter(|(held, _)| **held != number);
                    let bytes = others.map(|(_, bytes)| bytes).sum::<usize>();
                    if bytes + bucket.bytes() > self.shared.settings.memory_bytes {
                        tracing::warn!(bucket = number, bytes, "the copy is full: the primary answers for this bucket");
                        self.left_out.insert(number, bucket.bytes());
                        continue;
                    }
                    self.rewind(number, at);
                    self.left_out.remove(&number);
                    self.held.insert(number, bucket.bytes());
                    self.staged.insert(number, bucket);
                }
            }
            Err(error) => {
                self.shared.counters.failed_loads.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(error = &error as &dyn std::error::Error, buckets = ?load.buckets, "a load failed");
                self.wanted.extend(load.buckets);
            }
        }
    }

    /// No longer trusts what is in memory of a bucket, because the log does not say how it went on.
    fn reload(&mut self, bucket: i16, head: LogPosition) {
        tracing::warn!(bucket, "the log has a hole: the bucket is loaded anew");
        self.shared.counters.gaps.fetch_add(1, Ordering::Relaxed);
        if bucket < ORGANIZATION_BUCKETS {
            self.drop_bucket(bucket);
            self.wanted.insert(bucket);
        } else {
            self.shared.users_held.store(false, Ordering::Release);
            self.users = UserLoadState::Wanted;
        }
        self.known[place(bucket)] = head;
        self.shared.followed[place(bucket)].store(head.position, Ordering::Release);
    }

    fn drop_bucket(&mut self, bucket: i16) {
        self.staged.remove(&bucket);
        self.held.remove(&bucket);
        self.shared.tables.take(bucket);
    }

    /// Applies transactions to what is in memory, and tells those who watch.
    fn apply(&mut self, commits: Commits) {
        let Some(last) = commits.rows.last().map(|row| row.at) else { return };
        let count = u64::try_from(commits.rows.len()).unwrap_or_default();
        self.shared.counters.lines.fetch_add(count, Ordering::Relaxed);
        let bucket = commits.bucket;
        let tables = &self.shared.tables;
        if bucket < ORGANIZATION_BUCKETS {
            tables.apply(bucket, lines(&commits.rows), last.position);
            if let Some(staged) = self.staged.get_mut(&bucket) {
                tables.apply_to(staged, lines(&commits.rows), last.position);
            }
        } else {
            tables.apply_users(bucket - ORGANIZATION_BUCKETS, users(&commits.rows), last.position);
        }
        if commits.rows.iter().any(is_purge)
            && let Some(bytes) = self.left_out.get_mut(&bucket)
        {
            // It takes less now, nobody knows how much: it is tried again.
            *bytes = 0;
        }
        self.known[place(bucket)] = last;
        self.shared.followed[place(bucket)].fetch_max(last.position, Ordering::AcqRel);
        // Without an audience there is nobody to tell.
        let _ = self.shared.feed.send(Arc::new(commits));
    }

    /// Everything up to the beginning of this poll is applied: publishes what was loaded, and renews the lease.
    fn publish(&mut self, begin: u64) {
        let shared = self.shared;
        for (number, bucket) in std::mem::take(&mut self.staged) {
            shared.tables.put(number, bucket);
        }
        self.users = UserLoadState::Held;
        shared.lease.store(begin, Ordering::Release);
        shared.steady.store(true, Ordering::Release);
        shared.users_held.store(true, Ordering::Release);
        self.weigh();
        let settled = self.wanted.is_empty() && self.loading.is_empty();
        shared.counters.settled.store(settled, Ordering::Release);
        shared.counters.polls.fetch_add(1, Ordering::Relaxed);
        shared.polled.send_replace(begin);
    }

    /// Loads one more of those that were left out, once there is room for it and for some growth.
    fn let_in(&mut self) {
        if !(self.wanted.is_empty() && self.loading.is_empty() && self.staged.is_empty()) {
            return;
        }
        let room = self.shared.settings.memory_bytes.saturating_sub(self.held.values().sum());
        let fits = self.left_out.iter().find(|(_, bytes)| **bytes + **bytes / 4 < room);
        if let Some(number) = fits.map(|(number, _)| *number) {
            self.left_out.remove(&number);
            self.wanted.insert(number);
        }
    }

    /// Counts what is in memory, lets go of what no longer fits, and loads anew what holds too much garbage.
    fn weigh(&mut self) {
        let mut memberships = 0;
        for (number, bytes) in &mut self.held {
            if let Some(bucket) = self.shared.tables.read(*number).as_ref() {
                *bytes = bucket.bytes();
                memberships += bucket.memberships();
                if bucket.is_littered() && self.wanted.insert(*number) {
                    tracing::debug!(bucket = number, "a bucket holds much that is purged: it is loaded anew");
                }
            }
        }
        let limit = self.shared.settings.memory_bytes;
        while self.held.values().sum::<usize>() > limit
            && let Some((number, _)) = self.held.last_key_value()
        {
            let number = *number;
            tracing::warn!(bucket = number, "the copy has grown too large: the primary answers for this bucket");
            self.left_out.extend(self.held.get_key_value(&number));
            self.drop_bucket(number);
        }
        self.let_in();
        let bytes = self.held.values().sum::<usize>() + self.shared.tables.user_bytes();
        let counters = &self.shared.counters;
        let set = |gauge: &std::sync::atomic::AtomicU64, value: usize| {
            gauge.store(u64::try_from(value).unwrap_or_default(), Ordering::Relaxed);
        };
        set(&counters.buckets, self.held.len());
        set(&counters.memberships, memberships);
        set(&counters.bytes, bytes);
    }
}

impl ReplicaState {
    /// Forgets everything: the primary answers.
    fn forget(&self) {
        self.lease.store(0, Ordering::Release);
        self.steady.store(false, Ordering::Release);
        self.users_held.store(false, Ordering::Release);
        self.counters.settled.store(false, Ordering::Release);
        for bucket in 0..ORGANIZATION_BUCKETS {
            self.tables.take(bucket);
        }
        // Positions of the log that was lost mean nothing in the one that is there.
        for written in &self.written {
            written.store(0, Ordering::Release);
        }
    }
}

/// How many buckets to load at once, of a table of so many bytes.
fn stride(bytes: i64) -> i16 {
    let buckets = limits::LOAD_BYTES.saturating_mul(ORGANIZATION_BUCKETS.into()) / bytes.max(1);
    i16::try_from(buckets).unwrap_or(ORGANIZATION_BUCKETS).clamp(1, ORGANIZATION_BUCKETS)
}

fn place(bucket: i16) -> usize {
    usize::from(bucket.unsigned_abs())
}

fn lines(rows: &[LogRow]) -> impl Iterator<Item = (i64, &LogEntry)> {
    rows.iter().filter_map(|row| match &row.change {
        LogChange::Organization(line) => Some((row.at.position, line)),
        LogChange::User { .. } => None,
    })
}

fn is_purge(row: &LogRow) -> bool {
    matches!(
        &row.change,
        LogChange::Organization(LogEntry { entry: ChangeDetail::Organization { state: None, .. }, .. })
    )
}

fn users(rows: &[LogRow]) -> impl Iterator<Item = (&UserId, UserState)> {
    rows.iter().filter_map(|row| match &row.change {
        LogChange::User { user, state, .. } => Some((user, *state)),
        LogChange::Organization(_) => None,
    })
}
