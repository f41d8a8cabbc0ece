//! Time: the wall clock, and a monotonic clock for ages.
//!
//! No other module reads a clock; a lint forbids it. A test injects a [`Clock`] of its own.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wall clock, for what is compared with times that others wrote down: the expiry of tokens.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn system() -> Self {
        Self(Arc::new(SystemTime::now))
    }

    /// A clock that tells what this function says.
    #[must_use]
    pub fn from_fn(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Seconds since 1970, whole; 0 for a clock before that.
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

/// How long the machine has run, to measure how old something is: never set, and on Linux it goes on while the machine
/// sleeps or is suspended (`CLOCK_BOOTTIME`). Elsewhere the clock that the system has for this.
#[must_use]
pub fn uptime() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    // No system refuses to read these clocks; one that did would be taken to have just started, and nothing would be fresh.
    clock.now().map_or(Duration::ZERO, Duration::from)
}
