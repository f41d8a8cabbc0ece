//! Limits of `service`, each with the reason for its value.

use std::time::Duration;

/// Organizations that one error names: enough to act on, and small enough for error metadata.
pub const NAMED_ORGANIZATIONS: usize = 20;
/// Numbered variants of a slug that are tried before a random slug is used.
pub const SLUG_SUFFIXES: u32 = 100;
/// Time after its deadline for which a write may hold its connection. Postgres ends the write at the deadline, so this
/// is for a Postgres that no longer answers.
pub const WRITE_GRACE: Duration = Duration::from_secs(2);
/// Writes that one queue admits at a time: one that works, and one that waits for its row lock and goes on at once.
pub const QUEUE_WRITES: usize = 2;
/// Attempts of a write that loses against another transaction.
pub const WRITE_ATTEMPTS: u32 = 5;
/// Organizations purged in one round: each takes one transaction.
pub const TIDY_ORGANIZATIONS: i64 = 100;
/// Stored answers deleted in one round, and quota windows deleted in one round.
pub const TIDY_REQUESTS: i64 = 10_000;
/// Names of organizations folded in one round: a few seconds of work. Only an interrupted `roster migrate`, or a server
/// of an older release, leaves names to fold.
pub const TIDY_NAMES: usize = 20_000;
/// Candidates that a search reads at once when not all of the first ones match: only names that are not folded yet do
/// not match.
pub const SEARCH_CANDIDATES: i64 = 1_000;
/// Users on whose behalf services have called, which are remembered so that the user is not read at each call. An entry
/// takes the length of the id and about 100 bytes; for a user beyond, a call reads one row more.
pub const KNOWN_USERS: usize = 100_000;
/// Default retention of the change log: a follower that was offline for a weekend continues from its cursor.
pub const LOG_RETENTION: Duration = Duration::from_hours(7 * 24);
/// Allowed retention of the change log, in hours. The minimum is longer than a follower needs to reconnect. The maximum
/// is a year, because each day is a table.
pub const LOG_RETENTION_HOURS: std::ops::RangeInclusive<u64> = 1..=365 * 24;
/// Rows deleted from each default partition of the change log in one round.
pub const TIDY_LOG_ROWS: i64 = 10_000;
/// Default lifetime of an invitation.
pub const INVITATION_LIFE: Duration = Duration::from_hours(7 * 24);
/// Allowed lifetime of an invitation: long enough for the recipient to read it, short enough to still be intended.
pub const INVITATION_LIVES: std::ops::RangeInclusive<Duration> =
    Duration::from_hours(1)..=Duration::from_hours(30 * 24);
/// Characters in an invitation token: 32 bytes in base64url.
pub const INVITATION_TOKEN_CHARACTERS: usize = 43;
/// Time in which a claimed mail must be sent; after it, the mail is due again. Longer than any SMTP conversation may
/// take.
pub const MAIL_LEASE: Duration = Duration::from_mins(2);
/// Maximum time for claiming or settling a mail: a few statements on one row.
pub const OUTBOX_STATEMENTS: Duration = Duration::from_secs(5);
/// Delay before the second attempt to send a mail. It doubles with each further attempt.
pub const MAIL_RETRY: Duration = Duration::from_secs(30);
/// Maximum delay between two attempts to send a mail.
pub const MAIL_RETRY_MOST: Duration = Duration::from_hours(1);
/// Age at which a mail that the mail server does not accept is given up.
pub const MAIL_GIVE_UP: Duration = Duration::from_hours(24);
/// Retention of an invitation after its end and its expire time, whether it was accepted or not: long enough to answer
/// questions about it.
pub const INVITATION_RETENTION: Duration = Duration::from_hours(90 * 24);
/// Retention of a counter of a limit after its window began: the longest window. The counters of mails hold a hash of the
/// mailbox.
pub const COUNTER_RETENTION: Duration = Duration::from_hours(24);
/// Organizations whose expired invitations one round records: each takes one transaction.
pub const TIDY_EXPIRED_ORGANIZATIONS: i64 = 100;
/// Expired invitations of one organization that one transaction records.
pub const TIDY_EXPIRED_INVITATIONS: i64 = 1_000;
/// Invitations deleted in one round.
pub const TIDY_INVITATIONS: i64 = 1_000;
/// Exports that have their turn at the same time: each holds a connection to Postgres and a snapshot.
pub const EXPORTS: usize = 4;
/// Connections of the pool of the exports: one for each turn.
pub const EXPORT_CONNECTIONS: u32 = 4;
/// The turns of one caller at the same time: half, so that another caller always finds a turn soon.
pub const EXPORTS_PER_CALLER: usize = 2;
/// The exports of one caller that wait for a turn: more than the processes of one service that start together. Each takes
/// a place among the streams and hardly any memory.
pub const EXPORTS_WAITING: usize = 256;
/// The time after which a turn ends with its bucket when other exports wait. Long enough for a million memberships, so
/// that most exports have one turn and are complete one after the other.
pub const EXPORT_TURN: Duration = Duration::from_secs(5);
/// The time between two empty messages to a caller whose export waits for a turn: clients treat a stream that is silent
/// for 30 seconds as dead.
pub const EXPORT_HEARTBEAT: Duration = Duration::from_secs(5);
/// Time that an export may spend in one bucket, with its snapshot open. A bucket of 40 000 memberships takes a tenth of
/// a second to read; the rest is for slow readers.
pub const EXPORT_BUCKET: Duration = Duration::from_secs(20);
/// Maximum time for reading a page of the change log, or the ends of its buckets: no deadline of a call limits a watch.
pub const LOG_READ: Duration = Duration::from_secs(5);
/// Rows of the change log that a watch reads at once when it resumes from an older cursor: at most a megabyte. A larger
/// transaction is read in several steps.
pub const REPLAY_ROWS: i64 = 1_000;
/// Roles that one organization defines for itself: a list to choose from, and few enough for the memory of the replica.
pub const ORGANIZATION_ROLES: u32 = 50;
/// Permissions of a role of an organization: as many as an access model declares.
pub const ROLE_PERMISSIONS: usize = 1_000;
/// Members who get another role in one transaction: a second or two, in which their organizations wait.
pub const MOVED_MEMBERS: u32 = 10_000;
/// Members who get another role in one transaction of housekeeping: a tenth of a second or two, in which the writes of their
/// organization wait.
pub const MOVED_MEMBERS_OF_A_PART: u32 = 1_000;
/// Transactions of housekeeping that move members, in one round: a quarter of a minute.
pub const TIDY_MOVED_PARTS: usize = 100;
/// Deleted roles whose members one round moves, a part of each in turn.
pub const TIDY_MOVED_ROLES: i64 = 1_000;
/// Members of one role, or roles with one permission, that the plan of an access model counts. Beyond it, an estimate says
/// as much.
pub const COUNTED_ROWS: i64 = 1_000;
/// The rows that a plan counts in all: they take a tenth of a second, or a second if they are on disk.
pub const COUNTED_ROWS_IN_ALL: i64 = 100_000;
/// The size up to which a plan reads a table in full, and of the sample of a larger one, in bytes: some ten thousand rows,
/// less than a tenth of a second. The transaction of the plan must not be idle while they are counted.
pub const COUNTED_TABLE_BYTES: i64 = 4 * 1024 * 1024;
/// Roles or permissions in use that one error names: it must fit the headers of a response.
pub const NAMED_USES: usize = 10;
/// Warnings of a plan: with them it stays below the size of a message.
pub const PLAN_WARNINGS: usize = 100;
/// Violations of the access model that one error names, as many as for other fields.
pub const NAMED_VIOLATIONS: usize = 20;
/// Attempts of a read that repeats while what it reads changes in between: a change would have to fall between two
/// statements each time.
pub const READ_ATTEMPTS: usize = 5;
