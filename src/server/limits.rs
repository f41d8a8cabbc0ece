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
/// The default time that a stream waits for a caller who does not read.
pub const SLOW_READER: Duration = Duration::from_secs(10);
/// The part of `max_connections` that one address may have by default: one in this number.
pub const ADDRESS_SHARE: usize = 4;
/// Peers without a connection that are kept because they have spent a budget. Each takes about 500 bytes.
pub const RETAINED_PEERS: usize = 8192;
/// The time that such a peer is kept: in this time a budget of refused tokens that was spent has refilled.
pub const PEER_RETENTION: Duration = Duration::from_secs(5);
/// The length of a PROXY header in text, in bytes, with its line break. The protocol sets it.
pub const PROXY_TEXT_BYTES: usize = 107;
/// The length of the part of a binary PROXY header that its length field counts: addresses and extensions, such as the
/// names in a TLS certificate, the id of a request, or the id of an endpoint of a cloud.
pub const PROXY_BINARY_BYTES: usize = 4096;
/// The time in which a trusted proxy has to send the PROXY header of a connection.
pub const PROXY_HEADER: Duration = Duration::from_secs(10);
