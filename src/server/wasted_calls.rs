//! The wasted calls of a connection: calls that their caller cancels, and calls that are refused before they are read. A
//! caller can make them much faster than it can make calls whose answers it reads. A connection that makes many is read more
//! slowly. It is never closed, because calls that are not cancelled may be on it.

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

    /// Counts a wasted call, at this uptime.
    pub(super) fn count(&self, now: Duration) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_with_wasted_calls_wait() {
        let now = Duration::from_hours(1);
        let address = Arc::new(budget());
        let [flood, other, honest] = [(); 3].map(|()| WastedCalls::new(Some(address.clone())));
        (0..limits::WASTED_CALLS_BURST).for_each(|_| flood.count(now));
        assert_eq!(flood.pause(now), limits::WASTED_CALL_REFILL);
        assert_eq!((honest.pause(now), other.pause(now)), (Duration::ZERO, Duration::ZERO));
        // One wasted call makes a connection wait with its address, until that call has refilled.
        other.count(now);
        assert_eq!(other.pause(now), limits::WASTED_CALL_REFILL * 2);
        assert_eq!(other.pause(now + limits::WASTED_CALL_REFILL), Duration::ZERO);
        (0..1_000_000).for_each(|_| flood.count(now));
        assert_eq!((flood.pause(now), honest.pause(now)), (limits::WASTED_CALLS_PAUSE, Duration::ZERO));
        let proxied = WastedCalls::new(None);
        proxied.count(now);
        assert_eq!(proxied.pause(now), Duration::ZERO);
    }
}
