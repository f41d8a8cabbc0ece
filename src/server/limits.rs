//! Limits of `server`: name, value and the reason for the value.

use std::time::Duration;

/// How often old things are tidied away.
pub const TIDY_EVERY: Duration = Duration::from_mins(1);
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
/// Streams open at once, unless told otherwise. They are idle mostly, so they may be many; each holds buffers.
pub const STREAMS: usize = 1024;
/// How long a stream waits for a caller who does not read, unless told otherwise.
pub const SLOW_READER: Duration = Duration::from_secs(10);
