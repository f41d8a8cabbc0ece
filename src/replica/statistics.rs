//! Counters and gauges of the replica.

use super::{AnswerSource, ReplicaState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Counters, updated by the follower, the loader and the lookup paths.
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
    /// A gauge, as the next two: set by the follower after each poll.
    pub(super) buckets: AtomicU64,
    pub(super) memberships: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Whether every bucket that fits into memory is loaded: no load is queued or running.
    pub(super) loaded: AtomicBool,
}

impl ReplicaCounters {
    pub(super) fn count_answers(&self, source: AnswerSource, count: usize) {
        let counter = match source {
            AnswerSource::Memory => &self.tables,
            AnswerSource::Primary => &self.primary,
            AnswerSource::StaleMemory => &self.stale,
        };
        counter.fetch_add(u64::try_from(count).unwrap_or_default(), Ordering::Relaxed);
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }
}

/// The replica's counters since the process started, and its gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaStatistics {
    /// Questions answered from memory.
    pub memory_answers: u64,
    /// Questions answered by the primary.
    pub primary_answers: u64,
    /// Questions answered from memory beyond the maximum staleness, because the primary did not answer.
    pub stale_answers: u64,
    /// Polls of the change log that were applied in full.
    pub polls: u64,
    /// Polls that failed.
    pub failed_polls: u64,
    /// Rows of the change log that were applied.
    pub lines: u64,
    /// Loads of a bucket.
    pub loads: u64,
    /// Loads that failed.
    pub failed_loads: u64,
    /// Reloads of a bucket because the log had a gap.
    pub gaps: u64,
    /// Reloads of every bucket because the primary had lost writes.
    pub lost: u64,
    /// Interruptions of the connection that listens for writes.
    pub listens: u64,
    /// Buckets in memory, of 256.
    pub buckets: u64,
    /// Memberships in memory.
    pub memberships: u64,
    /// The size of the replica in bytes: memberships, organizations and users.
    pub bytes: u64,
    /// The age of the lease; `None` without a lease.
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
