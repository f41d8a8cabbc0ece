//! Limits of the server: name, value and the reason for the value.

use std::time::Duration;

/// The time between two rounds of housekeeping.
pub const TIDY_EVERY: Duration = Duration::from_mins(1);
/// The maximum time of one round of housekeeping. The next round continues what this one leaves.
pub const TIDY_TIMEOUT: Duration = Duration::from_mins(2);
/// The length of a caller's `x-request-id`, in bytes. It is logged and returned.
pub const REQUEST_ID_BYTES: usize = 64;
/// Calls and streams under way at once on one connection. The client knows the number, and holds further ones back without
/// an answer. So streams, which may last for days, take a part of it: [`STREAM_CALLS_PER_CONNECTION`].
pub const STREAMS_PER_CONNECTION: u32 = 256;
/// Streams of roster's methods under way at once on one connection: half, so that calls are never held back behind them. A
/// further one is refused at once.
pub const STREAM_CALLS_PER_CONNECTION: usize = 128;
/// Bytes that a caller may send on one HTTP/2 stream before the server reads them: the default of HTTP/2.
pub const STREAM_WINDOW: u32 = 64 * 1024 - 1;
/// Bytes that a caller may send on one connection before the server reads them: the windows of all its streams, 8.5 MiB,
/// whose questions can wait for the caller to read, and 4 MiB for the messages of calls, which the server reads at once. So
/// streams keep no message of a call back.
pub const CONNECTION_WINDOW: u32 = (128 + 8) * (STREAM_WINDOW + 1) + 4 * 1024 * 1024;
/// The sum, in bytes, of what small frames (under 256 bytes) lack on one connection. The HTTP/2 library closes the
/// connection when more pile up. The questions of a `StreamChecks` call are such frames when they are sent one by one and
/// wait for the datastore.
pub const SMALL_FRAMES: usize = 8 * 1024 * 1024;
/// The size of all headers of a request together, in bytes, with 32 bytes for each header. A credential may take 24 KiB of
/// it. The rest is for other headers, and for a credential that is too large: up to here roster refuses it with a reason,
/// and beyond it the HTTP/2 library refuses the call.
pub const HEADER_LIST_BYTES: u32 = 40 * 1024;
/// The time after which the server pings a silent peer, and the time that the peer has to answer.
pub const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// The longest pause of a peer from the first byte of a connection to its SETTINGS, inside a frame, a header block or a
/// message that has begun, and while data waits for it to read. A pause of the network that is repaired by TCP is shorter.
pub const PEER_PAUSE: Duration = Duration::from_secs(10);
/// The pause that the message of a unary call may make at its start. Clients send it together with the headers.
pub const MESSAGE_PAUSE: Duration = Duration::from_secs(5);
/// The slowest pace of a message after that pause, in bytes a second: a twentieth of a poor mobile network.
pub const SLOWEST_MESSAGE: usize = 16 * 1024;
/// The slowest pace at which a peer may read a response after a pause of [`PEER_PAUSE`], in bytes a second.
pub const SLOWEST_READER: usize = 64 * 1024;
/// Bytes that one connection may send before the other connections of its worker, and its own calls, get their turn. The
/// bytes of a turn are the only ones that no budget has counted yet.
pub const TURN_BYTES: usize = 16 * 1024;
/// The first turn of a connection, and the one after a pause for wasted calls. Each turn that was used up is followed by one
/// of twice the length. It holds at most some thirty calls to refuse, so connections that begin together cost that much
/// each before they have to wait.
pub const FIRST_TURN_BYTES: usize = 512;
/// The turn after a pause that has paid for all wasted calls of the address: some twenty calls of ordinary size, whose pause
/// is longer than the millisecond in which timers count.
pub const PAID_TURN_BYTES: usize = 4 * 1024;
/// Calls in a row that the callers of one peer address may cancel, or that are refused before they are read. Four full
/// connections whose callers time out together.
pub const WASTED_CALLS_BURST: u32 = 1024;
/// The time in which one more call may be wasted: 10 000 a second. They take a tenth to a third of a core.
pub const WASTED_CALL_REFILL: Duration = Duration::from_micros(100);
/// The longest time for which a connection is not read because of its wasted calls.
pub const WASTED_CALLS_PAUSE: Duration = Duration::from_secs(2);
/// Calls that their callers reset before the server has seen them, on one connection. As many as fit into one turn, so that
/// the HTTP/2 library never ends a connection because of them: a call and its reset take more than 24 bytes.
pub const RESET_CALLS: usize = TURN_BYTES / 24;
/// Bytes of one response that the HTTP/2 library holds. The rest stays in roster until the peer takes more.
pub const SEND_BUFFER: usize = 16 * 1024;
/// The time between the announcement that a connection ends and its end, if it has no open call: a round trip, in which
/// calls that the peer has just sent arrive.
pub const GOAWAY_TIME: Duration = Duration::from_millis(500);
/// The default maximum age of a connection. A server that was added to others gets its part of the calls within this time,
/// a client certificate that was withdrawn is used no longer, and 4096 connections are opened again at the pace of seven a
/// second.
pub const CONNECTION_AGE: Duration = Duration::from_mins(10);
/// The part of its maximum age by which the age of a connection varies at most, one in this number.
pub const AGE_JITTER_PART: u32 = 10;
/// The number of different ages: with the default age one in each 30 ms.
pub const AGE_JITTER_STEPS: u32 = 4096;
/// The default time between the age of a connection and the end of its streams: the longest deadline of a call.
pub const CONNECTION_AGE_GRACE: Duration = crate::store::limits::STATEMENT;
/// The tenths of the open connections, of all or of a peer address, above which idle connections are closed.
pub const FULL_TENTHS: usize = 9;
/// The part of the limit that is closed beyond that, one in this number.
pub const ROOM_PART: usize = 64;
/// Connections beyond the limit, for those that are ending.
pub const ENDING_CONNECTIONS: usize = 64;
/// Checks under way on one worker, at least: what one connection may have open.
pub const CHECKS_PER_WORKER: usize = 256;
/// The part of `max_concurrent_requests` that calls without a credential may be, one in this number.
pub const ANONYMOUS_PART: usize = 8;
/// Calls of health and reflection under way at once. They do not wait for anything.
pub const STANDARD_CALLS: usize = 64;
/// Streams of health and reflection under way at once on one connection: a client library opens one health watch on each.
/// In all, there may be as many of them as connections.
pub const STANDARD_STREAMS_PER_CONNECTION: usize = 8;
/// The number of peer addresses that can together hold every place: one holds at most half.
pub const PEERS_FOR_ALL_PLACES: usize = 2;
/// The number of peer addresses that can together hold every byte of a budget.
pub const PEERS_FOR_ALL_BYTES: usize = 4;
/// The number of connections that can together hold every byte of a budget.
pub const CONNECTIONS_FOR_ALL_BYTES: usize = 16;
/// The default of the bytes of requests: sixteen of the largest messages at once.
pub const REQUEST_BYTES: usize = 128 * 1024 * 1024;
/// What a call takes beside its message, in bytes: its task, its headers as they are decoded, its entry in the tables of
/// the connection.
pub const CALL_BYTES: usize = 8 * 1024;
/// What a byte of a message counts among the bytes of requests: messages take a few times their size when they are decoded.
/// The worst ones take up to sixteen times what is counted.
pub const DECODED_PART: usize = 8;
/// The default of the bytes of responses that wait to be sent: 85 of the largest pages.
pub const RESPONSE_BYTES: usize = 256 * 1024 * 1024;
/// The memory of one connection, in bytes: one turn of bytes, a frame and a header block that are incomplete (six frames of
/// 16 KiB, and the [`HEADER_LIST_BYTES`] that are decoded), the tables of header compression with recent credentials, and
/// for each of its 256 streams an entry and an answer of 2 KiB together.
pub const CONNECTION_BYTES: usize = TURN_BYTES + 160 * 1024 + 256 * 2 * 1024;
/// What TLS adds to it, in bytes: records that were received and not read, at most one that is incomplete (18 KiB) and the
/// content of one read, or a handshake message of 64 KiB that is incomplete; [`TLS_SEND_BUFFER`] with a record beyond it; the
/// session with the certificates of the client.
pub const TLS_BYTES: usize = 128 * 1024;
/// Bytes that TLS holds for a peer that does not read: one full record.
pub const TLS_SEND_BUFFER: usize = 16 * 1024;
/// Tickets that a client gets to resume its session. It opens one connection at a time.
pub const TLS_TICKETS: usize = 1;
/// Steps of handshakes of one address that are computed or wait for a thread of the server, as for tokens. Further ones wait
/// in turn.
pub const PEER_HANDSHAKES: usize = 2;
/// Handshakes in a row of one address: half of the connections that it may have by default, which come back together when a
/// server restarts. They take 0.1 to 0.5 s of a core.
pub const HANDSHAKE_BURST: u32 = 512;
/// The time in which one address may make one more handshake: 500 a second, a tenth to a half of a core. More wait.
pub const HANDSHAKE_REFILL: Duration = Duration::from_millis(2);
/// The time before the expiry of a client certificate at which its connection is announced to end: several round trips.
pub const EXPIRY_LEAD: Duration = Duration::from_secs(5);
/// How many times its content a peer may send in TLS records. The smallest frame of HTTP/2, of 9 bytes, in a record of its
/// own takes four times its content.
pub const TLS_OVERHEAD: u64 = 16;
/// What a peer may send beyond that, in bytes: the records of a read whose content was not counted yet.
pub const TLS_OVERHEAD_BYTES: u64 = 256 * 1024;
/// The time before the expiry of a certificate in which a warning is logged once a day. Certificates of ACME authorities are
/// renewed a month before.
pub const EXPIRY_WARNING: Duration = Duration::from_hours(14 * 24);
/// The time between two looks at the expiry of the certificate.
pub const EXPIRY_EVERY: Duration = Duration::from_hours(24);
/// How many times what is counted for requests they can take.
pub const DECODED_EXCESS: usize = 16;
/// How many times what is counted for responses they can take, while a page is made of its rows.
pub const RESPONSE_EXCESS: usize = 3;
/// The memory of one stream that is not read, in bytes: its messages, and one of its caller that has begun.
pub const STREAM_MEMORY: usize = (1024 + 256) * 1024;
/// The time that a call waits for room among the responses that wait to be sent: as long as for a connection to Postgres.
pub const RESPONSE_WAIT: Duration = Duration::from_secs(3);
/// The size of a response that is neither a page nor the answer to a message that carries a list, in bytes: an
/// organization with the longest texts is a third of it.
pub const SMALL_RESPONSE: usize = 64 * 1024;
/// The pause after a connection could not be accepted. File descriptors do not come back at once.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// The time between two looks at the revision of the access model in memory, for the comparison with its file.
pub const MODEL_LOOK: Duration = Duration::from_secs(1);
/// The time after which the stored access model is compared with its file in any case: a server without a replica does not
/// see the revision in memory change.
pub const MODEL_EVERY: Duration = Duration::from_secs(30);
/// The maximum time of a read of the stored access model for the comparison.
pub const MODEL_TIMEOUT: Duration = Duration::from_secs(10);
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
/// Bytes of large messages that wait in the streams of one connection: what a message has beyond
/// [`CHUNK_BYTES`](crate::grpc::limits::CHUNK_BYTES). A transaction of a hundred writes takes a small part of it.
pub const CONNECTION_STREAM_BYTES: usize = 16 * 1024 * 1024;
/// The same for all connections together.
pub const STREAM_BYTES: usize = 64 * 1024 * 1024;
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
/// The time in which a connection that does not begin with HTTP/2 is answered and closed: a round trip to read its request,
/// and one for the peer to read the answer.
pub const OTHER_PROTOCOL: Duration = Duration::from_secs(2);
/// The part of a request of HTTP/1 that is read for its content type, in bytes. Browsers send some hundred bytes of headers,
/// and cookies.
pub const OTHER_PROTOCOL_HEAD: u64 = 8 * 1024;
/// What is read and dropped behind it, so that the peer can read the answer: as much as the largest message.
pub const OTHER_PROTOCOL_BYTES: u64 = 1024 * 1024;
/// The length of the cause of a reset in a log line, in characters: an address list of four servers, and the fault.
pub const RESET_CAUSE: usize = 160;
