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
/// The time that a health query may take. The second half of it is for a query on another connection.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// The time after which a health query is repeated on another connection: one session that the network or an
/// administrator ended does not make a server unhealthy.
pub const HEALTH_RETRY: Duration = Duration::from_secs(1);
/// Connections of health to Postgres: one, and another one while the first is closed.
pub const HEALTH_CONNECTIONS: u32 = 2;
/// Connections to the metrics endpoint at once; a further one is closed. Two scrapers with retries need four.
pub const METRICS_CONNECTIONS: usize = 16;
/// The time that a connection to the metrics endpoint has for its request.
pub const METRICS_REQUEST: Duration = Duration::from_secs(2);
/// The time after which a connection to the metrics endpoint is closed, in the middle of a response too. Prometheus
/// waits for 10 seconds by default.
pub const METRICS_CONNECTION: Duration = Duration::from_secs(8);
/// The size of a request to the metrics endpoint, in bytes: the least that the HTTP library takes.
pub const METRICS_REQUEST_BYTES: usize = 8 * 1024;
/// The time for which the size of the outbox is reported again: several scrapers cause one query.
pub const METRICS_BACKLOG: Duration = Duration::from_secs(1);
/// The time that the query for the size of the outbox may take.
pub const METRICS_BACKLOG_TIMEOUT: Duration = Duration::from_secs(1);
/// The default number of streams open at once. Most are idle, so there may be many; each holds buffers.
pub const STREAMS: usize = 1024;
/// The default time that a stream waits for a caller who does not read.
pub const SLOW_READER: Duration = Duration::from_secs(10);
