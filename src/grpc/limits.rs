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
/// The encoded size of the largest message that the server sends, a page of a list or a message of a watch, in bytes: most
/// clients receive at most 4 MiB. A page ends early rather than exceed it.
pub const PAGE_BYTES: usize = 3 * 1024 * 1024;
/// The encoded size of the items in such a message, in bytes. The rest is for its page token or cursor, which has at most
/// half of it.
pub const ITEMS_BYTES: usize = PAGE_BYTES - 16 * 1024;
/// Maximum length of a page token, in characters. The protos state it.
pub const PAGE_TOKEN_CHARACTERS: usize = 2 * 1024;
/// Violations in one error. More than 150 no longer fit the HTTP/2 header list of common clients; a reader needs no more
/// than twenty.
pub const VIOLATIONS: usize = 20;
/// The time that a request without a deadline may take.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// The time that a check waits for the datastore, whatever its deadline: the user of the caller waits for it, and many times
/// what the datastore takes.
pub const CHECK_WAIT: Duration = Duration::from_secs(2);
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
pub const STREAM_MESSAGES: usize = 1;
/// The size at which a message of an export or a watch is sent, in bytes: large enough that the cost per message does not
/// matter, and small because each stream holds up to four of them while its caller does not read: one that is made, one
/// that waits, one in the buffer of its encoder, one in the queue of the connection.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// The time for which an export waits for its caller to take a message, with a snapshot open.
pub const EXPORT_STALL: Duration = Duration::from_secs(2);
/// Questions of one `StreamChecks` call that are read before their answers are taken.
pub const QUESTIONS_IN_FLIGHT: usize = 1024;
/// Rows of the change log whose events a watch finds at once. Beside the values in them, which have their own limit, events
/// have at most 3 kB: an id, a reason, names.
pub const WATCH_ROWS: usize = 64;
/// The size of a request message of health and reflection, in bytes. The longest name in the protos has under 100.
pub const STANDARD_MESSAGE_BYTES: usize = 4 * 1024;
/// The size of the buffers of a call of health or reflection, in bytes. A stream keeps them while it is idle; a message
/// of a health watch has 7 bytes, and a larger answer of reflection makes the buffer grow.
pub const STANDARD_BUFFER_BYTES: usize = 64;
/// The bytes of answers that one reflection stream sends. All files together have 190 KiB, and the largest one 43 KiB. A
/// tool that asks for each message by its name, without keeping files, gets by with this.
pub const REFLECTION_STREAM_BYTES: usize = 4 * 1024 * 1024;
/// The bytes of answers that all reflection streams together send in a second. A flood of requests, with answers a
/// thousand times their size, then takes a few percent of a core; a tool that reads all files waits for 25 ms.
pub const REFLECTION_BYTES_PER_SECOND: u32 = 8 * 1024 * 1024;
/// The time after which a reflection stream without a request ends. A tool sends its requests one after the other.
pub const REFLECTION_IDLE: Duration = Duration::from_secs(5);
/// The time after which a reflection stream ends.
pub const REFLECTION_STREAM_TIME: Duration = Duration::from_mins(1);
