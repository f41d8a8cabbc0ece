//! What the index counts.

use super::{AnswerSource, ReplicaState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Counters, written by whoever does what they count.
#[derive(Default)]
pub(super) struct ReplicaCounters {
    tables: AtomicU64,
    primary: AtomicU64,
    stale: AtomicU64,
    pub(super) polls: AtomicU64,
    pub(super) failed_polls: AtomicU64,
    pub(super) lines: AtomicU64,
    pub(super) loads: AtomicU64,
    pub(super) failed_loads: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) listens: AtomicU64,
    /// Gauges, set by the follower after each poll.
    pub(super) buckets: AtomicU64,
    pub(super) memberships: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Whether nothing is being loaded.
    pub(super) settled: AtomicBool,
}

impl ReplicaCounters {
    pub(super) fn answered(&self, source: AnswerSource, count: usize) {
        let counter = match source {
            AnswerSource::Memory => &self.tables,
            AnswerSource::Primary => &self.primary,
            AnswerSource::StaleMemory => &self.stale,
        };
        counter.fetch_add(u64::try_from(count).unwrap_or_default(), Ordering::Relaxed);
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }
}

/// What the index has counted so far, and how it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaStatistics {
    /// Questions that memory answered.
    pub memory_answers: u64,
    /// Questions that the primary answered.
    pub primary_answers: u64,
    /// Questions that memory answered although it was too old, because the primary did not.
    pub stale_answers: u64,
    /// Looks at the log that were applied in full.
    pub polls: u64,
    /// Looks at the log that failed.
    pub failed_polls: u64,
    /// Rows of the log that were applied.
    pub lines: u64,
    /// Buckets that were loaded.
    pub loads: u64,
    /// Loads that failed.
    pub failed_loads: u64,
    /// Buckets that were loaded anew because the log had a hole.
    pub gaps: u64,
    /// How often everything was loaded anew because the datastore had lost writes.
    pub lost: u64,
    /// How often listening for writes began anew.
    pub listens: u64,
    /// Buckets in memory, of 256.
    pub buckets: u64,
    /// Memberships in memory.
    pub memberships: u64,
    /// The bytes that they take, organizations and users included.
    pub bytes: u64,
    /// How old the lease is; none without one.
    pub age: Option<Duration>,
}

impl ReplicaState {
    pub(super) fn statistics(&self) -> ReplicaStatistics {
        let counters = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ReplicaStatistics {
            memory_answers: read(&counters.tables),
            primary_answers: read(&counters.primary),
            stale_answers: read(&counters.stale),
            polls: read(&counters.polls),
            failed_polls: read(&counters.failed_polls),
            lines: read(&counters.lines),
            loads: read(&counters.loads),
            failed_loads: read(&counters.failed_loads),
            gaps: read(&counters.gaps),
            lost: read(&counters.lost),
            listens: read(&counters.listens),
            buckets: read(&counters.buckets),
            memberships: read(&counters.memberships),
            bytes: read(&counters.bytes),
            age: self.age(),
        }
    }
}
