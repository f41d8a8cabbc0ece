//! Limits of `service`: name, value and the reason for the value.

use std::time::Duration;

/// Organizations that an error names at most, for the same reason.
pub const NAMED_ORGANIZATIONS: usize = 20;
/// How often a slug made from a name is tried with a further number before a random one is taken.
pub const SLUG_SUFFIXES: u32 = 100;
/// How much longer than its deadline a write may hold a connection: Postgres itself ends it at the deadline, so this is
/// for a Postgres that no longer answers.
pub const WRITE_GRACE: Duration = Duration::from_secs(2);
/// How often a write is tried again after losing against another one.
pub const WRITE_ATTEMPTS: u32 = 5;
/// Organizations purged in one round: each is a transaction of its own.
pub const TIDY_ORGANIZATIONS: i64 = 100;
/// Answers forgotten in one round.
pub const TIDY_REQUESTS: i64 = 10_000;
/// For how long the change log is kept, unless told otherwise: a follower that was away for a weekend goes on from its
/// cursor.
pub const LOG_RETENTION: Duration = Duration::from_hours(7 * 24);
/// For how long it may be kept, in hours: longer than any follower needs to come back after it was cut off, and no longer
/// than a year, because each day is a table.
pub const LOG_RETENTION_HOURS: std::ops::RangeInclusive<u64> = 1..=365 * 24;
/// Rows that no day's partition took, forgotten in one round.
pub const TIDY_LOG_ROWS: i64 = 10_000;
/// How long an invitation is good when nobody says.
pub const INVITATION_LIFE: Duration = Duration::from_hours(7 * 24);
/// How long it may be good: long enough to be read, short enough to be meant.
pub const INVITATION_LIVES: std::ops::RangeInclusive<Duration> =
    Duration::from_hours(1)..=Duration::from_hours(30 * 24);
/// A token in text: 32 bytes in base64url.
pub const INVITATION_TOKEN_CHARACTERS: usize = 43;
/// How long a claimed mail may take to be sent; then it is due again. Longer than any SMTP conversation may take.
pub const MAIL_LEASE: Duration = Duration::from_mins(2);
/// How long a mail waits after it was not taken, the first time.
pub const MAIL_RETRY: Duration = Duration::from_secs(30);
/// And at most.
pub const MAIL_RETRY_MOST: Duration = Duration::from_hours(1);
/// After how long a mail that is not taken is given up.
pub const MAIL_GIVE_UP: Duration = Duration::from_hours(24);
/// For how long an invitation is kept after it came to its end: long enough to be asked about, and no address longer.
pub const INVITATION_RETENTION: Duration = Duration::from_hours(90 * 24);
/// Invitations forgotten in one round.
pub const TIDY_INVITATIONS: i64 = 1_000;
/// Exports at once: each holds a connection to Postgres and a snapshot.
pub const EXPORTS: usize = 4;
/// How long an export may stay in one bucket, and hold its snapshot open. A bucket of 40 000 memberships takes a tenth
/// of a second to read; the rest is for who reads slowly.
pub const EXPORT_BUCKET: Duration = Duration::from_secs(20);
/// Rows of the log read at once for a watch that goes on from an older cursor.
pub const REPLAY_ROWS: i64 = 1_000;
