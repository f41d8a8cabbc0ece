//! Limits of the gRPC services: name, value and the reason for the value.

use std::time::Duration;

/// Items in a batch of writes. One organization's lock is held for all of them.
pub const BATCH_WRITES: usize = 100;
/// Event types in one filter: nearly all types that exist.
pub const EVENT_TYPES: usize = 20;
/// Items on a page when the request names no size.
pub const PAGE_SIZE_DEFAULT: u32 = 50;
/// Items on a page at most; a request for more gets this many (AIP-158).
pub const PAGE_SIZE_MAX: u32 = 1_000;
/// The encoded size of a page, in bytes. A page ends early rather than exceed it: most clients receive at most 4 MiB.
pub const PAGE_BYTES: usize = 3 * 1024 * 1024;
/// Violations in one error. More than 150 no longer fit the HTTP/2 header list of common clients; a reader needs no more
/// than twenty.
pub const VIOLATIONS: usize = 20;
/// The time that a request without a deadline may take.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// The size of a message, in bytes. A protobuf message can take forty times its size when decoded.
pub const MESSAGE_BYTES: usize = 256 * 1024;
/// The size of a message that carries a list of messages, in bytes.
pub const BULK_MESSAGE_BYTES: usize = 1024 * 1024;
/// The time between two authorization decisions about an open stream, and between two checkpoints of a watch.
pub const CHECKPOINT: Duration = Duration::from_secs(1);
/// Messages that wait for a caller who does not read. With [`CHUNK_BYTES`] this bounds the memory of a stream.
pub const STREAM_MESSAGES: usize = 1;
/// The size at which a message of an export or a watch is sent, in bytes: large enough that the cost per message does not
/// matter, and small because each stream holds up to four of them while its caller does not read: one that is made, one
/// that waits, one in the buffer of its encoder, one in the queue of the connection.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// The time for which an export waits for its caller to take a message, with a snapshot open.
pub const EXPORT_STALL: Duration = Duration::from_secs(2);
/// Questions of one `StreamChecks` call that are read before their answers are taken.
pub const QUESTIONS_IN_FLIGHT: usize = 1024;
/// Rows that a watch converts before it compares its message with [`CHUNK_BYTES`].
pub const WATCH_ROWS: usize = 64;
