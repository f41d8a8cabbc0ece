//! Limits of `replica`: name, value and the reason for the value.

use std::time::Duration;

/// Connections of the index's own: one each to follow, to listen and to tell, two to load, two to ask the primary.
pub const REPLICA_CONNECTIONS: u32 = 7;
/// How often the log is looked at when nobody says that something was written.
pub const POLL_EVERY: Duration = Duration::from_millis(250);
/// How old an answer may be that asks for nothing better, in milliseconds: a shorter bound than two looks at the log would
/// hardly ever be kept from memory, and beyond a minute nobody would call it a bound.
pub const MAX_STALENESS_MS: std::ops::RangeInclusive<u64> = 500..=60_000;
/// How old an answer may be at most while the datastore is away, in milliseconds: a day.
pub const SERVE_STALE_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
/// The least time from one look to the next: under many writes one look takes in several. Each costs the datastore about
/// half a millisecond, so that a process takes a tenth of one of its cores at most.
pub const POLL_SPACING: Duration = Duration::from_millis(5);
/// How long one look may take before it is given up.
pub const POLL_TIMEOUT: Duration = Duration::from_secs(5);
/// Rows of one bucket that one look takes; a larger transaction is asked for again with twice as many.
pub const POLL_ROWS: i64 = 2_048;
/// How long to wait after the datastore did not answer the one who follows it.
pub const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// Loads at once: one reads while the other is built.
pub const LOADS: usize = 2;
/// Bytes of the table of memberships that one load takes, as many buckets as that makes: large enough that a small table
/// is one load, small enough that what was loaded is in use soon.
pub const LOAD_BYTES: i64 = 16 * 1024 * 1024;
/// How long one load may take.
pub const LOAD_TIMEOUT: Duration = Duration::from_mins(1);
/// The least time between two notifications of other processes. Each is a commit, and one inside every write would cost
/// more than the write; but a change that comes right behind another waits for this long to be told.
pub const NOTIFY_SPACING: Duration = Duration::from_millis(3);
/// How long a check waits for what its token covers before it asks the primary: several looks at the log.
pub const CATCH_UP: Duration = Duration::from_millis(20);
/// How long the primary gets where a stale answer may be given in its place.
pub const STALE_PATIENCE: Duration = Duration::from_millis(500);
/// Statements that ask the primary at once: one, and another beside a large one. While Postgres answers one batch the
/// next piles up; two of half the size each cost a tenth more.
pub const PRIMARY_STATEMENTS: usize = 2;
/// Questions up to which a statement is worth waiting for: a millisecond or two.
pub const PRIMARY_SMALL: usize = 256;
/// Questions in one such statement, unless a single batch has more.
pub const PRIMARY_QUESTIONS: usize = 2_048;
/// Transactions that wait for the slowest of those who watch, in each process: who falls further behind reads the log.
pub const FEED_COMMITS: usize = 8_192;
/// The time that one statement of the primary lookup may take: the default deadline of the calls that wait for it.
pub const PRIMARY_TIMEOUT: Duration = Duration::from_secs(5);
