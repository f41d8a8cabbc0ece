//! Limits of `store`: name, value and the reason for the value.

use std::time::Duration;

/// Maximum time of any statement in Postgres, whatever the deadline of its request: the longest deadline of a request.
pub const STATEMENT: Duration = Duration::from_secs(30);
/// Maximum pause between two statements of a transaction. roster never pauses there, so this ends only the transactions
/// of a process that was stopped or cut off by the network, whose locks delay other writes until then.
pub const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(2);
/// The same for a snapshot, which holds no lock. An export pauses for a caller that reads slowly.
pub const IDLE_IN_SNAPSHOT: Duration = Duration::from_secs(20);
/// Maximum wait of a request for a connection to Postgres.
pub const ACQUIRE: Duration = Duration::from_secs(3);
/// Connections that the reads of all calls may hold together, and that the writes may: three quarters of the pool. The
/// rest stays for the other kind, whatever holds or waits for the first.
#[must_use]
pub fn share_of_pool(connections: usize) -> usize {
    connections.saturating_sub((connections / 4).max(1)).max(1)
}
/// Maximum time for opening a session on one host and checking it.
pub const CONNECT: Duration = Duration::from_secs(2);
/// Maximum time for checking an idle session before it is lent: many times what a loaded Postgres takes.
pub const SESSION_CHECK: Duration = Duration::from_millis(500);
/// Maximum time for rolling back and checking a connection that was dropped in the middle of its work.
pub const RECLAIM: Duration = Duration::from_millis(500);
/// Maximum idle time after which a connection is lent unchecked. A connection in constant use is never checked.
pub const CONNECTION_TRUSTED: Duration = Duration::from_secs(1);
/// Maximum idle time of a connection.
pub const CONNECTION_IDLE: Duration = Duration::from_mins(10);
/// Maximum age of a connection: after a change of roles or of the network, every connection is renewed.
pub const CONNECTION_AGE: Duration = Duration::from_mins(30);
/// Time between two checks of Postgres whether the client of a running statement is still connected.
pub const CLIENT_CHECK: Duration = Duration::from_secs(1);
/// Number of transactions, each with two questions for the name of another session, that detect a pooler in transaction
/// mode: it may answer from the same session several times by chance. They take twenty round trips, four seconds of
/// [`POOLER_CHECK`] on a link with 200 ms.
pub const POOLER_ROUNDS: u32 = 5;
/// Maximum time for one of these answers.
pub const POOLER_PATIENCE: Duration = Duration::from_secs(1);
/// Maximum time for the whole detection, two connections included.
pub const POOLER_CHECK: Duration = Duration::from_secs(6);
/// Time for which a detected pooler is not looked for again.
pub const POOLER_MEMORY: Duration = Duration::from_secs(5);
/// Maximum wait for the next rows of a copy: Postgres sends them as it reads the table.
pub const COPY_SILENCE: Duration = Duration::from_secs(5);
/// Size of the large columns of a page as Postgres stores them, in bytes. A page of 3 MiB on the wire stores about as much.
pub const PAGE_STORED_BYTES: i64 = 4 * 1024 * 1024;
/// Size of the large columns of a page as text, in bytes: more than a page of 3 MiB on the wire has, but for numbers with
/// hundreds of digits.
pub const PAGE_TEXT_BYTES: i64 = 4 * 1024 * 1024;
/// Size of the values in the events that are found at once by their keys, as text, in bytes: what a watch holds beyond its
/// message. A list of small numbers takes four times its text in the message.
pub const EVENTS_TEXT_BYTES: i64 = 512 * 1024;
/// Time in which a deleted organization can be restored, and after which a registration is purged whose owner did not
/// accept.
pub const PURGE_AFTER: Duration = Duration::from_hours(30 * 24);
/// Time for which the answer to a request id is stored.
pub const REQUEST_MEMORY: Duration = Duration::from_hours(24);
/// Days of the change log whose partitions are created ahead of time, today included: housekeeping may fail for a day.
pub const LOG_DAYS_AHEAD: usize = 3;
/// Maximum wait of a partition change for the lock on the log: readers that arrive after it queue behind it.
pub const LOG_LOCK_WAIT: Duration = Duration::from_secs(1);
/// The advisory lock for creating and dropping partitions: `roster` in ASCII, and a number.
pub const LOG_PARTITIONS_LOCK: i64 = 0x0072_6f73_7465_7201;
/// Rows of the access model's log in one poll, with the row at the known position: a model has up to a few megabytes, and
/// a follower is nearly always one revision behind.
pub const MODEL_ROWS: i64 = 4;
/// Organizations whose names are folded in one transaction: it keeps their writers waiting for a few milliseconds.
pub const FOLD_NAMES: usize = 100;
/// Maximum wait of that transaction for an organization, because the writers of the others wait too.
pub const FOLD_LOCK_WAIT: Duration = Duration::from_secs(1);
/// Valid tokens of one invitation; a further token ends the oldest.
pub const INVITATION_TOKENS: i64 = 5;
/// Maximum size of the file with the password, in bytes. Tokens that stand in for a password take about 2 KiB.
pub const PASSWORD_FILE_BYTES: u64 = 4 * 1024;
