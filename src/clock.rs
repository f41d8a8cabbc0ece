//! Time: the wall clock, and a monotonic clock for ages.
//!
//! No other module reads a clock; a lint forbids it. Tests inject a [`Clock`].

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wall clock, for comparisons with times that other systems have set, such as the expiry of bearer tokens.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The system clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn system() -> Self {
        Self(Arc::new(SystemTime::now))
    }

    /// A clock that returns the time of this function.
    #[must_use]
    pub fn from_fn(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Whole seconds since 1970; 0 for an earlier time.
    #[must_use]
    pub fn unix_seconds(&self) -> i64 {
        let since = (self.0)().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// The time since the machine started, to measure ages. This clock is never set. On Linux it also advances while the
/// machine sleeps or is suspended (`CLOCK_BOOTTIME`); on other systems it is `CLOCK_MONOTONIC`.
#[must_use]
pub fn uptime() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    // No system refuses to read these clocks. On one that did, the uptime would always be zero; a lease of zero is no
    // lease, so nothing would be fresh.
    clock.now().map_or(Duration::ZERO, Duration::from)
}
