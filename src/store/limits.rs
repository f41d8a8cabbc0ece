//! Limits of `store`: name, value and the reason for the value.

use std::time::Duration;

/// What any statement may take in Postgres, whatever its request says: the longest deadline a request may have.
pub const STATEMENT: Duration = Duration::from_secs(30);
/// How long a transaction may wait for its program between two statements: none waits at all, so this ends only those
/// whose program was stopped.
pub const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(10);
/// How long a request waits for a connection to Postgres.
pub const ACQUIRE: Duration = Duration::from_secs(3);
/// For how long a connection goes from hand to hand, or lies idle, before it is tried, and closed if it is too old.
pub const CONNECTION_TRUSTED: Duration = Duration::from_mins(1);
/// For how long a deleted organization can be restored.
pub const PURGE_AFTER: Duration = Duration::from_hours(30 * 24);
/// For how long the answer to a request id is kept.
pub const REQUEST_MEMORY: Duration = Duration::from_hours(24);
/// Days of the log that have their partitions ahead of time, today's included: housekeeping may fail for a day.
pub const LOG_DAYS_AHEAD: usize = 3;
/// How long dropping a day may wait for those who read the log: whoever comes to the log meanwhile waits behind it.
pub const LOG_LOCK_WAIT: Duration = Duration::from_secs(1);
/// The advisory lock of those who make and drop partitions: `roster` in ASCII, and a number.
pub const LOG_PARTITIONS_LOCK: i64 = 0x0072_6f73_7465_7201;
/// Tokens of one invitation that are good at once; a further one ends the oldest.
pub const INVITATION_TOKENS: i64 = 5;
