//! Every limit of the domain, in one place: its name, its value and why it is this one.

use std::time::Duration;

/// User ids: what an identity provider calls a subject. OpenID Connect Core §2 allows 255 ASCII characters; roster
/// counts bytes, so that any text of that size fits.
pub const USER_ID_BYTES: usize = 255;
/// Organization names, in characters after trimming (the seed's `max_length`).
pub const NAME_CHARACTERS: usize = 200;
/// Organization slugs, in characters (the seed's `max_length`).
pub const SLUG_CHARACTERS: usize = 200;
/// The shortest slug: one character is too easily a typing mistake to name an account.
pub const SLUG_CHARACTERS_MIN: usize = 2;
/// Kinds are labels that a deployment picks a few of.
pub const KIND_CHARACTERS: usize = 64;
/// What people are called, in characters.
pub const DISPLAY_NAME_CHARACTERS: usize = 200;
/// The reason given for a change, in characters: a sentence or a ticket, not a document.
pub const REASON_CHARACTERS: usize = 500;
/// An e-mail address: RFC 5321 §4.5.3.1.3 allows a path of 256 with its brackets.
pub const EMAIL_BYTES: usize = 254;
/// The local part of an address: RFC 5321 §4.5.3.1.1.
pub const EMAIL_LOCAL_BYTES: usize = 64;
/// Attributes as compact JSON. A label store, not a document store: a page of 100 members stays under 1 MiB.
pub const ATTRIBUTES_BYTES: usize = 8 * 1024;
/// Attributes: how deep objects and lists may nest.
pub const ATTRIBUTES_DEPTH: usize = 8;
/// Items in one batch of writes: one organization's lock is held for all of them.
pub const BATCH_WRITES: usize = 100;
/// Items in one batch of checks.
pub const BATCH_CHECKS: usize = 10_000;
/// Types that a filter of events names at most: nearly all there are.
pub const EVENT_TYPES: usize = 20;
/// Items in a page when the caller names no size.
pub const PAGE_SIZE_DEFAULT: u32 = 50;
/// Items in a page at most; a larger wish is served with this (AIP-158).
pub const PAGE_SIZE_MAX: u32 = 1_000;
/// A page, in bytes as encoded: it ends early rather than be larger. Most clients take 4 MiB and no more.
pub const PAGE_BYTES: usize = 3 * 1024 * 1024;
/// Violations in one answer. More than 150 no longer fit the HTTP/2 header list of common clients; nobody reads more
/// than twenty.
pub const VIOLATIONS: usize = 20;
/// Organizations that an error names at most, for the same reason.
pub const NAMED_ORGANIZATIONS: usize = 20;
/// How often a slug made from a name is tried with a further number before a random one is taken.
pub const SLUG_SUFFIXES: u32 = 100;
/// What any statement may take in Postgres, whatever its request says: the longest deadline a request may have.
pub const STATEMENT: Duration = Duration::from_secs(30);
/// How long a transaction may wait for its program between two statements: none waits at all, so this ends only those
/// whose program was stopped.
pub const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(10);
/// How long a request waits for a connection to Postgres.
pub const ACQUIRE: Duration = Duration::from_secs(3);
/// For how long a connection goes from hand to hand, or lies idle, before it is tried, and closed if it is too old.
pub const CONNECTION_TRUSTED: Duration = Duration::from_mins(1);
/// How much longer than its deadline a write may hold a connection: Postgres itself ends it at the deadline, so this is
/// for a Postgres that no longer answers.
pub const WRITE_GRACE: Duration = Duration::from_secs(2);
/// How often a write is tried again after losing against another one.
pub const WRITE_ATTEMPTS: u32 = 5;
/// For how long a deleted organization can be restored.
pub const PURGE_AFTER: Duration = Duration::from_hours(30 * 24);
/// For how long the answer to a request id is kept.
pub const REQUEST_MEMORY: Duration = Duration::from_hours(24);
/// How often old things are tidied away.
pub const TIDY_EVERY: Duration = Duration::from_mins(1);
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
/// Days of the log that have their partitions ahead of time, today's included: housekeeping may fail for a day.
pub const LOG_DAYS_AHEAD: usize = 3;
/// Rows that no day's partition took, forgotten in one round.
pub const TIDY_LOG_ROWS: i64 = 10_000;
/// How long dropping a day may wait for those who read the log: whoever comes to the log meanwhile waits behind it.
pub const LOG_LOCK_WAIT: Duration = Duration::from_secs(1);
/// The advisory lock of those who make and drop partitions: `roster` in ASCII, and a number.
pub const LOG_PARTITIONS_LOCK: i64 = 0x0072_6f73_7465_7201;
/// How long a request may take that names no deadline.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Messages of methods that take one thing. Protobuf can grow forty-fold when decoded.
pub const MESSAGE_BYTES: usize = 256 * 1024;
/// Messages of methods that take many things at once.
pub const BULK_MESSAGE_BYTES: usize = 1024 * 1024;
/// A request's id as its caller gives it, in the log and in the answer.
pub const REQUEST_ID_BYTES: usize = 64;
/// Calls under way at once on one connection; more wait for the client's own flow control.
pub const STREAMS_PER_CONNECTION: u32 = 256;
/// What a caller may send on one stream before it is read. Small, because what is held back of a stream of checks may be
/// many small frames: see the next one.
pub const STREAM_WINDOW: u32 = 128 * 1024;
/// What a caller may send on one connection before it is read. Not more memory than the streams make of it, but the HTTP/2
/// library closes a connection on which small frames (under 256 bytes) pile up whose shortness adds up to half of this: as
/// questions do that are sent one by one and wait for the datastore. So it is large, and a stream's share of it small.
pub const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// All headers of a request together. A token may have 8 KiB.
pub const HEADER_LIST_BYTES: u32 = 16 * 1024;
/// How often a silent peer is asked whether it is there, and how long it may take to say so.
pub const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long to wait after a connection could not be accepted: file descriptors do not come back at once.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How often Postgres is asked whether it answers.
pub const HEALTH_EVERY: Duration = Duration::from_millis(500);
/// How long it may take to say so.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// An identifier that is not an address, in characters (the seed's `max_length`).
pub const IDENTIFIER_CHARACTERS: usize = 1_000;
/// How long an invitation is good when nobody says.
pub const INVITATION_LIFE: Duration = Duration::from_hours(7 * 24);
/// How long it may be good: long enough to be read, short enough to be meant.
pub const INVITATION_LIVES: std::ops::RangeInclusive<Duration> =
    Duration::from_hours(1)..=Duration::from_hours(30 * 24);
/// Tokens of one invitation that are good at once; a further one ends the oldest.
pub const INVITATION_TOKENS: i64 = 5;
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
/// How often whoever keeps a stream open is decided about again, and a watch tells how far it has come.
pub const CHECKPOINT: Duration = Duration::from_secs(1);
/// Streams open at once, unless told otherwise. They are idle mostly, so they may be many; each holds buffers.
pub const STREAMS: usize = 1024;
/// How long a stream waits for a caller who does not read, unless told otherwise.
pub const SLOW_READER: Duration = Duration::from_secs(10);
/// Messages that wait for a caller who does not read. With [`CHUNK_BYTES`] this bounds what a stream holds.
pub const STREAM_MESSAGES: usize = 2;
/// One message of an export or a watch, in bytes or a little more: large enough that messages do not count.
pub const CHUNK_BYTES: usize = 1024 * 1024;
/// Questions of a stream of checks taken in before their answers are read.
pub const QUESTIONS_IN_FLIGHT: usize = 1024;
/// Exports at once: each holds a connection to Postgres and a snapshot.
pub const EXPORTS: usize = 4;
/// How long an export may stay in one bucket, and hold its snapshot open. A bucket of 40 000 memberships takes a tenth
/// of a second to read; the rest is for who reads slowly.
pub const EXPORT_BUCKET: Duration = Duration::from_secs(20);
/// Rows of the log read at once for a watch that goes on from an older cursor.
pub const REPLAY_ROWS: i64 = 1_000;
/// Rows that a watch looks at before it sees whether its message is full.
pub const WATCH_ROWS: usize = 256;
/// Connections of the index's own: one each to follow, to listen and to tell, two to load, two to ask the primary.
pub const INDEX_CONNECTIONS: u32 = 7;
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
