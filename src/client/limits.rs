//! Limits of `client`: name, value and the reason for the value.

use std::time::Duration;

/// How long a call of a client of roster may take, unless told otherwise: short of what its own callers wait.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client waits for a connection.
pub const CLIENT_CONNECT: Duration = Duration::from_secs(1);
/// After how long without a word a client asks whether the connection is still there, and how long it waits for that.
pub const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How old what a client's copy of the memberships knows may be, unless told otherwise: what servers promise too.
pub const CACHE_STALENESS: Duration = Duration::from_secs(1);
/// How often a client's copy asks how far it is: four times in the second it may be old.
pub const CACHE_PING: Duration = Duration::from_millis(250);
/// Pings without an answer that are remembered: a minute's, after which they are all too old.
pub const CACHE_PINGS: usize = 256;
/// How long a watch may be silent before it is taken for dead. It tells how far it is once a second.
pub const CACHE_SILENCE: Duration = Duration::from_secs(3);
/// How long an export may be silent: the server may stay in one bucket for [`EXPORT_BUCKET`].
pub const CACHE_EXPORT_SILENCE: Duration = Duration::from_secs(30);
/// The least and the most time before a client's copy tries to follow again. The least leaves most of the second for it.
pub const CACHE_PAUSE: Duration = Duration::from_millis(25);
/// See [`CACHE_PAUSE`].
pub const CACHE_PAUSE_MAX: Duration = Duration::from_secs(3);
/// How often a client's copy is exported again at most only to be rid of what purged organizations leave in memory.
pub const CACHE_SWEEP: Duration = Duration::from_hours(1);
