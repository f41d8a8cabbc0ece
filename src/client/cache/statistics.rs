//! Counters and gauges of the cache.

use super::replica::ClientReplica;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The cache's counters since its start, and the state of its replica.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Checks answered from the replica.
    pub from_memory: u64,
    /// Checks answered by the server.
    pub from_server: u64,
    /// Checks that the server did not answer either.
    pub unanswered: u64,
    /// Exports that were loaded completely.
    pub exports: u64,
    /// Watches that were opened.
    pub watches: u64,
    /// Watches and exports that ended with an error.
    pub interruptions: u64,
    /// Changes applied to the replica.
    pub changes: u64,
    /// Changes skipped because the replica had applied them already.
    pub repetitions: u64,
    /// Gaps: a change was missing, and the replica was replaced by a new export.
    pub gaps: u64,
    /// The age of the lease; `None` without a lease.
    pub age: Option<Duration>,
    /// Memberships in the replica.
    pub memberships: usize,
    /// The memory of the replica, in bytes.
    pub bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct CacheCounters {
    from_memory: AtomicU64,
    from_server: AtomicU64,
    unanswered: AtomicU64,
    pub(super) exports: EventCounter,
    pub(super) watches: EventCounter,
    pub(super) interruptions: EventCounter,
    pub(super) gaps: EventCounter,
    changes: AtomicU64,
    repetitions: AtomicU64,
}

/// A counter of single events.
#[derive(Debug, Default)]
pub(super) struct EventCounter(AtomicU64);

impl EventCounter {
    pub(super) fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl CacheCounters {
    pub(super) fn count_cache_answers(&self, count: usize) {
        add(&self.from_memory, count);
    }

    pub(super) fn count_server_answers(&self, answered: bool, count: usize) {
        add(if answered { &self.from_server } else { &self.unanswered }, count);
    }

    pub(super) fn count_changes(&self, changes: usize, repetitions: usize) {
        add(&self.changes, changes);
        add(&self.repetitions, repetitions);
    }

    pub(super) fn statistics(&self, replica: Option<&ClientReplica>) -> Statistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            from_memory: read(&self.from_memory),
            from_server: read(&self.from_server),
            unanswered: read(&self.unanswered),
            exports: read(&self.exports.0),
            watches: read(&self.watches.0),
            interruptions: read(&self.interruptions.0),
            gaps: read(&self.gaps.0),
            changes: read(&self.changes),
            repetitions: read(&self.repetitions),
            age: replica.and_then(ClientReplica::age),
            memberships: replica.map_or(0, ClientReplica::memberships),
            bytes: replica.map_or(0, ClientReplica::bytes),
        }
    }
}
