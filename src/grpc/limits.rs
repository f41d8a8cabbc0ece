//! Limits of `grpc`: name, value and the reason for the value.

use std::time::Duration;

/// Items in one batch of writes: one organization's lock is held for all of them.
pub const BATCH_WRITES: usize = 100;
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
/// How long a request may take that names no deadline.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Messages of methods that take one thing. Protobuf can grow forty-fold when decoded.
pub const MESSAGE_BYTES: usize = 256 * 1024;
/// Messages of methods that take many things at once.
pub const BULK_MESSAGE_BYTES: usize = 1024 * 1024;
/// How often whoever keeps a stream open is decided about again, and a watch tells how far it has come.
pub const CHECKPOINT: Duration = Duration::from_secs(1);
/// Messages that wait for a caller who does not read. With [`CHUNK_BYTES`] this bounds what a stream holds.
pub const STREAM_MESSAGES: usize = 2;
/// One message of an export or a watch, in bytes or a little more: large enough that messages do not count.
pub const CHUNK_BYTES: usize = 1024 * 1024;
/// Questions of a stream of checks taken in before their answers are read.
pub const QUESTIONS_IN_FLIGHT: usize = 1024;
/// Rows that a watch looks at before it sees whether its message is full.
pub const WATCH_ROWS: usize = 256;
