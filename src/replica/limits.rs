//! Limits of `replica`: name, value and the reason for the value.

use std::time::Duration;

/// Connections of the replica's pool: one each to follow, to listen and to notify, two to load, two to query the
/// primary.
pub const REPLICA_CONNECTIONS: u32 = 7;
/// Time between polls of the log when no notification of a write arrives.
pub const POLL_EVERY: Duration = Duration::from_millis(250);
/// Range of the setting `max_staleness_ms`, in milliseconds. Below two poll intervals the replica could hardly ever
/// answer; above a minute the bound would mean little.
pub const MAX_STALENESS_MS: std::ops::RangeInclusive<u64> = 500..=60_000;
/// Range of the setting `serve_stale_ms`, in milliseconds: at most a day.
pub const SERVE_STALE_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
/// Minimum time from the start of one poll to the start of the next: under many writes, one poll applies several. A
/// poll costs the primary about half a millisecond, so one process takes at most a tenth of one of its cores.
pub const POLL_SPACING: Duration = Duration::from_millis(5);
/// Timeout of one poll. On a connection that the network drops silently the lease is lost for this long, and the calls
/// that wait for the primary should not outlast their deadlines.
pub const POLL_TIMEOUT: Duration = Duration::from_secs(3);
/// Time without a notification after which the listener checks its connection.
pub const LISTEN_SILENCE: Duration = Duration::from_secs(3);
/// Rows of one bucket that one poll reads. For a larger transaction the follower polls again with twice the limit.
pub const POLL_ROWS: i64 = 2_048;
/// Pause of the follower and the listener after an error.
pub const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// Concurrent loads: one reads while the other builds its buckets.
pub const LOADS: usize = 2;
/// Bytes of the membership table that one load reads; this determines the number of its buckets. Large enough that a
/// small table is one load, small enough that loaded buckets are in use soon.
pub const LOAD_BYTES: i64 = 16 * 1024 * 1024;
/// Timeout of one load.
pub const LOAD_TIMEOUT: Duration = Duration::from_mins(1);
/// Timeout of loading the users who are not active or were reinstated with one statement: a million of them take some
/// seconds. Polls wait for it.
pub const USERS_TIMEOUT: Duration = Duration::from_secs(20);
/// Minimum time between two notifications to other processes. Each is a commit, and one inside every write would cost
/// more than the write; in return, a change right behind another is announced this much later.
pub const NOTIFY_SPACING: Duration = Duration::from_millis(3);
/// Time that a check waits for the positions in its consistency token before it queries the primary: several polls.
pub const CATCH_UP: Duration = Duration::from_millis(20);
/// Timeout of the primary where a stale answer may replace its answer.
pub const STALE_PATIENCE: Duration = Duration::from_millis(500);
/// Concurrent statements of the primary lookup: one, and a second one beside a large one. While Postgres answers one
/// batch the next one fills; two batches of half the size would each cost a tenth more.
pub const PRIMARY_STATEMENTS: usize = 2;
/// Maximum number of questions in a statement that later questions wait for: it takes a millisecond or two.
pub const PRIMARY_SMALL: usize = 256;
/// Questions in one statement, unless a single lookup has more.
pub const PRIMARY_QUESTIONS: usize = 2_048;
/// Capacity of the feed, in messages, for each process. A subscriber that falls further behind reads the log instead.
pub const FEED_COMMITS: usize = 8_192;
/// Timeout of one statement of the primary lookup. A statement takes milliseconds. Behind a connection that the network
/// drops silently, all questions wait this long, and calls with the default deadline must outlast it.
pub const PRIMARY_TIMEOUT: Duration = Duration::from_secs(3);
/// Marks that memory keeps of each bucket, for its newest positions: 4.7 MB in all. A token is mostly sent back within
/// seconds, and few buckets have a thousand changes in that time. The primary compares older positions.
pub const MARKS: usize = 4_096;
/// Times that a batch is looked up in memory while the access model is replaced, before the primary answers it. The buckets
/// adopt a model within some microseconds, unless one of them applies many rows at the same time.
pub const LOOKUP_ATTEMPTS: usize = 3;
/// Access models of other revisions than the newest that memory keeps: two statements of the primary lookup may be answered
/// by different revisions, and a model changes some times a day.
pub const RECENT_MODELS: usize = 4;
/// Maximum length of the consistency tokens and cursors that the server issues, in characters. The protos state it:
/// callers store them. A token of one check or write has about 60. A cursor has a position for every bucket, that of
/// the access model included, whatever the history, because each bucket has a log of its own: 3 871 characters in form
/// 1, and 5 412 in form 2. The rest is for later forms.
pub const TOKEN_CHARACTERS: usize = 8 * 1024;
/// Maximum length of the text of a consistency token or cursor that the server reads: beyond what any release issues.
pub const TOKEN_TEXT_BYTES: usize = 2 * TOKEN_CHARACTERS;
/// Timeout of the comparison of a consistency token with the log of the primary. It takes less than a millisecond, unless
/// the log is locked.
pub const HISTORY_TIMEOUT: Duration = Duration::from_secs(1);
