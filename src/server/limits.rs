//! Limits of the server: name, value and the reason for the value.

use std::time::Duration;

/// The time between two rounds of housekeeping.
pub const TIDY_EVERY: Duration = Duration::from_mins(1);
/// The maximum time of one round of housekeeping. The next round continues what this one leaves.
pub const TIDY_TIMEOUT: Duration = Duration::from_mins(2);
/// The length of a caller's `x-request-id`, in bytes. It is logged and returned.
pub const REQUEST_ID_BYTES: usize = 64;
/// Calls under way at once on one connection; HTTP/2 flow control holds more back at the client.
pub const STREAMS_PER_CONNECTION: u32 = 256;
/// Bytes that a caller may send on one HTTP/2 stream before the server reads them. Small, because the unread part of a
/// `StreamChecks` call may be many small frames: see [`CONNECTION_WINDOW`].
pub const STREAM_WINDOW: u32 = 128 * 1024;
/// Bytes that a caller may send on one connection before the server reads them. A large window takes no more memory than
/// the windows of its streams. But the HTTP/2 library closes a connection on which small frames (under 256 bytes) pile up
/// when the sum of what they lack reaches half of this window, and the questions of a `StreamChecks` call are such frames
/// when they are sent one by one and wait for the datastore. So this window is large, and a stream's share of it small.
pub const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// The size of all headers of a request together, in bytes. A bearer token may take 8 KiB of it.
pub const HEADER_LIST_BYTES: u32 = 16 * 1024;
/// The time after which the server pings a silent peer, and the time that the peer has to answer.
pub const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// The pause after a connection could not be accepted. File descriptors do not come back at once.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// The time between two health queries to Postgres.
pub const HEALTH_EVERY: Duration = Duration::from_millis(500);
/// The time that a health query may take.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// The default number of streams open at once. Most are idle, so there may be many; each holds buffers.
pub const STREAMS: usize = 1024;
/// Bytes of large messages that wait in the streams of one connection: what a message has beyond
/// [`CHUNK_BYTES`](crate::grpc::limits::CHUNK_BYTES). A transaction of a hundred writes takes a small part of it.
pub const CONNECTION_STREAM_BYTES: usize = 16 * 1024 * 1024;
/// The same for all connections together.
pub const STREAM_BYTES: usize = 64 * 1024 * 1024;
/// The default time that a stream waits for a caller who does not read.
pub const SLOW_READER: Duration = Duration::from_secs(10);
