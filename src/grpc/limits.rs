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
/// The size of a message, in bytes.
pub const MESSAGE_BYTES: usize = 256 * 1024;
/// The size of a message that carries a list of messages, in bytes.
pub const BULK_MESSAGE_BYTES: usize = 1024 * 1024;
/// How many times its size a message may take when it is decoded. A list of small objects in attributes takes thirty times
/// its size; the worst messages would take more than a hundred times theirs.
pub const DECODED_FACTOR: usize = 40;
/// The memory that a message may take when it is decoded whatever its size, in bytes: attributes of the largest size with
/// nothing but small objects take less, and so do ten thousand empty items.
pub const DECODED_BYTES: usize = 4 * 1024 * 1024;
/// The size up to which a message is decoded without a count of its elements, in bytes: it takes less than
/// [`DECODED_BYTES`] whatever it contains.
pub const UNCOUNTED_BYTES: usize = 8 * 1024;
/// The size of a message from which on its call runs in the main runtime, in bytes. Smaller messages are decoded in less
/// than a millisecond.
pub const HEAVY_MESSAGE_BYTES: u64 = 32 * 1024;
/// The time between two authorization decisions about an open stream, and between two checkpoints of a watch.
pub const CHECKPOINT: Duration = Duration::from_secs(1);
/// Messages that wait for a caller who does not read. With [`CHUNK_BYTES`] this bounds the memory of a stream.
pub const STREAM_MESSAGES: usize = 2;
/// The size at which a message of an export or a watch is sent, in bytes: large enough that the cost per message does not
/// matter, and small enough to be encoded on a serving thread in less than a millisecond.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// Questions of one `StreamChecks` call that are read before their answers are taken.
pub const QUESTIONS_IN_FLIGHT: usize = 1024;
/// Rows that a watch converts before it compares its message with [`CHUNK_BYTES`].
pub const WATCH_ROWS: usize = 256;
