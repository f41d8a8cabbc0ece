//! The wasted calls of a connection: calls that their caller cancels, and calls that are refused before they are read. A
//! caller can make them much faster than it can make calls whose answers it reads. A connection that makes many is read more
//! slowly. It is never closed, because calls that are not cancelled may be on it.

use crate::leaky_bucket::LeakyBucket;
use crate::server::limits;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The wasted calls of a connection. Those of all connections of a limited peer address share a budget. A connection that
/// has wasted no call lately does not wait for it.
pub(super) struct WastedCalls {
    budget: Arc<LeakyBucket>,
    /// The uptime of the latest one.
    latest: Mutex<Option<Duration>>,
}

impl WastedCalls {
    /// The wasted calls of a connection from an address with this budget; `None` for a trusted proxy, whose connections
    /// have a budget each.
    pub(super) fn new(peer: Option<Arc<LeakyBucket>>) -> Self {
        Self { budget: peer.unwrap_or_else(|| Arc::new(budget())), latest: Mutex::default() }
    }

    /// Counts a wasted call, at this uptime.
    pub(super) fn count(&self, now: Duration) {
        self.budget.charge(now);
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Returns the time for which the connection must not be read, at this uptime.
    pub(super) fn pause(&self, now: Duration) -> Duration {
        let latest = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.is_none_or(|latest| now.saturating_sub(latest) >= limits::WASTED_CALLS_PAUSE) {
            return Duration::ZERO;
        }
        self.budget.time_to_charge(now).min(limits::WASTED_CALLS_PAUSE)
    }

    /// Returns whether the budget allows a further wasted call, at this uptime.
    pub(super) fn is_paid(&self, now: Duration) -> bool {
        self.budget.time_to_charge(now).is_zero()
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
        other.count(now);
        assert_eq!(other.pause(now), limits::WASTED_CALL_REFILL * 2);
        // Many connections of one address wait together, however seldom each is read.
        (0..1_000_000).for_each(|_| flood.count(now));
        assert_eq!((flood.pause(now), other.pause(now)), (limits::WASTED_CALLS_PAUSE, limits::WASTED_CALLS_PAUSE));
        // The end of such a pause has not paid for the address.
        assert!(!flood.is_paid(now + limits::WASTED_CALLS_PAUSE));
        assert_eq!(other.pause(now + limits::WASTED_CALLS_PAUSE), Duration::ZERO);
        assert_eq!(honest.pause(now), Duration::ZERO);
        let [proxied, neighbour] = [(); 2].map(|()| WastedCalls::new(None));
        (0..limits::WASTED_CALLS_BURST).for_each(|_| proxied.count(now));
        neighbour.count(now);
        assert_eq!((proxied.pause(now), neighbour.pause(now)), (limits::WASTED_CALL_REFILL, Duration::ZERO));
    }
}
