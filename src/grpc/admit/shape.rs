//! The count that goes before the decoding of a message.
//!
//! Two bytes of a message can be an empty element that takes a hundred bytes when it is decoded, so the size of a message
//! does not bound its memory. [`count`] walks over the bytes with the shape of the message, which the build generates from
//! the protos, and adds up what the decoder will allocate. It allocates nothing itself. A message with too many items, or
//! that would take too much memory, is refused before it is decoded.

use crate::grpc::limits;

/// The shape of a request. The build implements it for each request type.
pub trait RequestShape {
    /// The shape of the message.
    const SHAPE: &'static MessageShape;
}

/// The fields of a message type whose decoding allocates more than the bytes of their values.
#[derive(Debug)]
pub struct MessageShape {
    /// The fields, in no particular order.
    pub fields: &'static [FieldShape],
}

/// A field of a message type.
#[derive(Debug)]
pub struct FieldShape {
    /// The number of the field on the wire.
    pub number: u32,
    /// The name in the proto.
    pub name: &'static str,
    /// What the field contains.
    pub content: FieldContent,
}

/// What a field contains.
#[derive(Debug)]
pub enum FieldContent {
    /// One message, at most.
    Message(&'static MessageShape),
    /// A list of messages.
    Messages {
        /// The shape of each.
        shape: &'static MessageShape,
        /// The size of a decoded element, without what it points to.
        bytes: usize,
    },
    /// A map with strings as keys.
    Map {
        /// The shape of an entry as a message.
        entry: &'static MessageShape,
        /// The size of a decoded key with its value, without what they point to.
        bytes: usize,
    },
    /// A list of strings.
    Texts,
    /// A list of numbers or of values of an enum, packed or not.
    Scalars,
}

/// Why a message is not decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// A list in the request has more items than the method accepts.
    Items {
        /// The name of the list.
        field: &'static str,
    },
    /// The decoded message would take more memory than [`memory_limit`].
    Memory,
}

/// The most memory that a decoded message of this size may take, in bytes.
pub(super) fn memory_limit(encoded: usize) -> usize {
    encoded.saturating_mul(limits::DECODED_FACTOR).max(limits::DECODED_BYTES)
}

/// Adds up the memory that the decoding of a message allocates at most, in bytes. Where the bytes are no message of this
/// shape, the count ends: the decoder ends there too, and refuses them.
///
/// # Errors
/// The first excess.
pub(super) fn count(shape: &MessageShape, bytes: &[u8], most_items: usize) -> Result<usize, Excess> {
    // Strings take their own bytes.
    let mut tally = Tally { memory: bytes.len(), limit: memory_limit(bytes.len()) };
    match walk(shape, bytes, 0, most_items, &mut tally) {
        Ok(()) | Err(WalkEnd::Malformed) => Ok(tally.memory),
        Err(WalkEnd::Excess(excess)) => Err(excess),
    }
}

/// Elements for which a vector has room from the first one on.
const VECTOR_START: usize = 4;
/// Memory of a vector for each further element, in elements: while its capacity doubles, it exists twice.
const VECTOR_ELEMENTS: usize = 3;
/// Entries for which a node of a map has room, from the first one on.
const NODE_ENTRIES: usize = 11;
/// Bytes of a node beside its entries.
const NODE_BYTES: usize = 16;
/// Entries that a node has at least, on average, in a map of several nodes. The nodes above the leaves are included.
const NODE_ENTRIES_MIN: usize = 4;
/// Bytes of a number in a list: no message has a list of 64-bit numbers.
const SCALAR_BYTES: usize = 4;
/// The decoder refuses messages that nest deeper than 100 levels.
const DEPTH: usize = 110;

struct Tally {
    memory: usize,
    limit: usize,
}

impl Tally {
    fn add(&mut self, bytes: usize) -> Result<(), WalkEnd> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory <= self.limit { Ok(()) } else { Err(WalkEnd::Excess(Excess::Memory)) }
    }
}

/// The memory for element number `count` of a list, in elements.
fn vector_elements(count: usize) -> usize {
    if count == 1 { VECTOR_START } else { VECTOR_ELEMENTS }
}

/// Why a walk ends early.
enum WalkEnd {
    Malformed,
    Excess(Excess),
}

fn walk(
    shape: &MessageShape,
    mut bytes: &[u8],
    depth: usize,
    most_items: usize,
    tally: &mut Tally,
) -> Result<(), WalkEnd> {
    if depth > DEPTH {
        return Err(WalkEnd::Malformed);
    }
    let (mut items, mut entries) = (0, 0);
    while !bytes.is_empty() {
        let (number, value) = field(&mut bytes)?;
        let Some(field) = shape.fields.iter().find(|field| u64::from(field.number) == number) else { continue };
        let content = value.unwrap_or_default();
        match field.content {
            FieldContent::Message(shape) => walk(shape, content, depth + 1, most_items, tally)?,
            FieldContent::Messages { shape, bytes } => {
                items += 1;
                if depth == 0 && items > most_items {
                    return Err(WalkEnd::Excess(Excess::Items { field: field.name }));
                }
                tally.add(vector_elements(items) * bytes)?;
                walk(shape, content, depth + 1, most_items, tally)?;
            }
            FieldContent::Map { entry, bytes } => {
                entries += 1;
                let node = NODE_ENTRIES * bytes + NODE_BYTES;
                tally.add(if entries == 1 { node } else { node / NODE_ENTRIES_MIN })?;
                walk(entry, content, depth + 1, most_items, tally)?;
            }
            FieldContent::Texts => tally.add(VECTOR_START * size_of::<String>())?,
            // Each byte of a packed list is a number at most.
            FieldContent::Scalars => tally.add(VECTOR_START * SCALAR_BYTES * content.len().max(1))?,
        }
    }
    Ok(())
}

/// Reads a field: its number, and the bytes of a value that has a length. A group has none: no field is a group, so the
/// decoder skips them all.
fn field<'b>(bytes: &mut &'b [u8]) -> Result<(u64, Option<&'b [u8]>), WalkEnd> {
    let key = varint(bytes)?;
    let value = match key & 7 {
        0 => {
            varint(bytes)?;
            None
        }
        1 => {
            take(bytes, 8)?;
            None
        }
        2 => {
            let length = usize::try_from(varint(bytes)?).map_err(|_| WalkEnd::Malformed)?;
            Some(take(bytes, length)?)
        }
        // The fields of a group are skipped one by one, and its end like a field without a value.
        3 | 4 => None,
        5 => {
            take(bytes, 4)?;
            None
        }
        _ => return Err(WalkEnd::Malformed),
    };
    // The fields inside a group belong to no message: to count them as fields of the message around it counts too much.
    Ok((key >> 3, value))
}

fn take<'b>(bytes: &mut &'b [u8], length: usize) -> Result<&'b [u8], WalkEnd> {
    let (value, rest) = bytes.split_at_checked(length).ok_or(WalkEnd::Malformed)?;
    *bytes = rest;
    Ok(value)
}

/// Reads a number of up to ten bytes.
fn varint(bytes: &mut &[u8]) -> Result<u64, WalkEnd> {
    let mut number = 0;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(WalkEnd::Malformed)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or_default();
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(WalkEnd::Malformed)
}

#[cfg(test)]
mod tests;
