//! The wasted calls of a connection: calls that their caller cancels, and calls that are refused before they are read. A
//! caller can make them much faster than it can make calls whose answers it reads. A connection that makes many is read more
//! slowly. It is never closed, because calls that are not cancelled may be on it.

use crate::clock;
use crate::leaky_bucket::LeakyBucket;
use crate::server::limits;
use std::sync::Arc;
use std::time::Duration;

/// The wasted calls of a connection. Those of all connections of a limited peer address count together, but a connection
/// without wasted calls does not wait for the others.
pub(super) struct WastedCalls {
    own: LeakyBucket,
    /// That of the peer address; `None` for a trusted proxy.
    peer: Option<Arc<LeakyBucket>>,
}

impl WastedCalls {
    pub(super) fn new(peer: Option<Arc<LeakyBucket>>) -> Self {
        Self { own: budget(), peer }
    }

    /// Counts a wasted call.
    pub(super) fn count(&self) {
        let now = clock::uptime();
        self.budgets().for_each(|budget| budget.charge(now));
    }

    /// Returns the time for which the connection must not be read, at this uptime.
    pub(super) fn pause(&self, now: Duration) -> Duration {
        if self.own.is_full(now) {
            return Duration::ZERO;
        }
        let pause = self.budgets().map(|budget| budget.time_to_charge(now)).max().unwrap_or_default();
        pause.min(limits::WASTED_CALLS_PAUSE)
    }

    fn budgets(&self) -> impl Iterator<Item = &LeakyBucket> {
        std::iter::once(&self.own).chain(self.peer.as_deref())
    }
}

/// The budget of wasted calls of a connection or a peer address.
pub(super) fn budget() -> LeakyBucket {
    LeakyBucket::new(limits::WASTED_CALL_REFILL, limits::WASTED_CALLS_BURST)
}
