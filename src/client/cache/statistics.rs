//! What a copy counts.

use super::replica::ClientReplica;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a copy has done, and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Questions answered from the copy.
    pub from_memory: u64,
    /// Questions that the server answered.
    pub from_server: u64,
    /// Questions that nobody answered.
    pub unanswered: u64,
    /// Exports taken in whole.
    pub exports: u64,
    /// Watches begun.
    pub watches: u64,
    /// Watches and exports that broke off.
    pub interruptions: u64,
    /// Changes applied.
    pub changes: u64,
    /// Changes passed over because the copy had them.
    pub repetitions: u64,
    /// Times that a change was missing: the copy was thrown away.
    pub gaps: u64,
    /// How old the lease is; none without one.
    pub age: Option<Duration>,
    /// Memberships in the copy.
    pub memberships: usize,
    /// The memory that the copy takes, in bytes.
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

/// Counts one thing.
#[derive(Debug, Default)]
pub(super) struct EventCounter(AtomicU64);

impl EventCounter {
    pub(super) fn one_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl CacheCounters {
    pub(super) fn memory_answered(&self, count: usize) {
        add(&self.from_memory, count);
    }

    pub(super) fn server_asked(&self, answered: bool, count: usize) {
        add(if answered { &self.from_server } else { &self.unanswered }, count);
    }

    pub(super) fn applied(&self, changes: usize, repetitions: usize) {
        add(&self.changes, changes);
        add(&self.repetitions, repetitions);
    }

    pub(super) fn tell(&self, copy: Option<&ClientReplica>) -> Statistics {
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
            age: copy.and_then(ClientReplica::age),
            memberships: copy.map_or(0, ClientReplica::memberships),
            bytes: copy.map_or(0, ClientReplica::bytes),
        }
    }
}
