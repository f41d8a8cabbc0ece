//! Limits of `client`: name, value and the reason for the value.

use std::time::Duration;

/// Default timeout of a call to roster: shorter than the time that the backend's own callers wait.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout for opening a connection.
pub const CLIENT_CONNECT: Duration = Duration::from_secs(1);
/// Interval of the keep-alive pings on a silent connection, and the timeout of their answer.
pub const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Default maximum staleness of the client's replica: the same as a server's default.
pub const CACHE_STALENESS: Duration = Duration::from_secs(1);
/// Default interval of the pings on a watch: four in the second of [`CACHE_STALENESS`].
pub const CACHE_PING: Duration = Duration::from_millis(250);
/// Unanswered pings that the client remembers: those of a minute. Older ones could no longer renew the lease.
pub const CACHE_PINGS: usize = 256;
/// Changes of one write that the client collects before it applies them together; for a larger write it exports again. They
/// take about 100 MB, and the largest writes have some thousands.
pub const CACHE_WRITE_CHANGES: usize = 200_000;
/// Silence after which the client treats a watch as dead. The server sends a checkpoint every second.
pub const CACHE_SILENCE: Duration = Duration::from_secs(3);
/// Silence after which the client treats an export as dead: the server may spend `EXPORT_BUCKET` on one bucket.
pub const CACHE_EXPORT_SILENCE: Duration = Duration::from_secs(30);
/// Minimum pause before the cache's follower reconnects. It leaves most of the second of [`CACHE_STALENESS`] for the
/// reconnection itself.
pub const CACHE_PAUSE: Duration = Duration::from_millis(25);
/// Maximum pause before the cache's follower reconnects, after repeated failures.
pub const CACHE_PAUSE_MAX: Duration = Duration::from_secs(3);
/// Minimum age of the client's replica before it is exported again only to free the memory of purged organizations.
pub const CACHE_SWEEP: Duration = Duration::from_hours(1);
/// Pauses before a check is made again whose connection ended under it. A load balancer leaves out a server that stops within
/// about a second.
pub const REPEAT_PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];
