//! Cutting the items of a watch into messages: pure, without I/O.
//!
//! A message has whole writes, [`CHUNK_BYTES`](limits::CHUNK_BYTES) of them. A larger write has a message of its own. One
//! that is larger than [`ITEMS_BYTES`](limits::ITEMS_BYTES) has several, because most clients receive no larger message.

use crate::grpc::convert::field_bytes;
use crate::grpc::limits;
use prost::Message;

/// The items of one message.
#[derive(Debug, PartialEq)]
pub(super) struct MessageItems<T> {
    pub(super) items: Vec<T>,
    /// Whether the last write of the message goes on in the next one.
    pub(super) continued: bool,
}

/// The items of the next message.
#[derive(Debug)]
pub(super) struct MessagePacker<T> {
    items: Vec<T>,
    /// The encoded size of the items.
    bytes: usize,
    /// How many of the items belong to writes that have ended, and their size. The others begin a write.
    whole: usize,
    whole_bytes: usize,
}

impl<T: Message> MessagePacker<T> {
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), bytes: 0, whole: 0, whole_bytes: 0 }
    }

    /// The encoded size of the items of the next message.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an item of the present write. Returns the message that has to be sent first, if the item does not fit.
    pub(super) fn push(&mut self, item: T) -> Option<MessageItems<T>> {
        let bytes = field_bytes(&item);
        let most = if self.whole > 0 { limits::CHUNK_BYTES } else { limits::ITEMS_BYTES };
        let full = (!self.items.is_empty() && self.bytes + bytes > most).then(|| self.cut());
        self.items.push(item);
        self.bytes += bytes;
        full
    }

    /// Cuts before the present write. If nothing is before it, cuts the write.
    fn cut(&mut self) -> MessageItems<T> {
        if self.whole == 0 {
            return MessageItems { continued: true, ..self.take() };
        }
        let rest = self.items.split_off(self.whole);
        let items = std::mem::replace(&mut self.items, rest);
        self.bytes -= self.whole_bytes;
        (self.whole, self.whole_bytes) = (0, 0);
        MessageItems { items, continued: false }
    }

    /// Ends the present write. Returns the message, if it is large enough to be sent.
    pub(super) fn end_write(&mut self) -> Option<MessageItems<T>> {
        (self.whole, self.whole_bytes) = (self.items.len(), self.bytes);
        (self.bytes >= limits::CHUNK_BYTES).then(|| self.take())
    }

    /// Takes the message. Call it between two writes.
    pub(super) fn take(&mut self) -> MessageItems<T> {
        let items = std::mem::replace(self, Self::new()).items;
        MessageItems { items, continued: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb;
    use proptest::prelude::*;

    const CHUNK: usize = limits::CHUNK_BYTES;
    const MOST: usize = limits::ITEMS_BYTES;

    /// An item whose field has about this many bytes, with its number.
    fn item(number: i64, bytes: usize) -> pb::Event {
        pb::Event { revision: number, reason: "x".repeat(bytes), ..Default::default() }
    }

    /// The messages of writes, each with the sizes of its items.
    fn pack(writes: &[Vec<usize>]) -> Vec<MessageItems<pb::Event>> {
        let (mut packer, mut messages, mut number) = (MessagePacker::new(), Vec::new(), 0);
        for write in writes {
            for bytes in write {
                number += 1;
                messages.extend(packer.push(item(number, *bytes)));
            }
            messages.extend(packer.end_write());
        }
        messages.push(packer.take());
        messages
    }

    fn size(items: &[pb::Event]) -> usize {
        items.iter().map(field_bytes).sum()
    }

    fn any_write() -> impl Strategy<Value = Vec<usize>> {
        prop_oneof![
            prop::collection::vec(0..2_000_usize, 0..20),
            prop::collection::vec(0..100_000_usize, 0..4),
            prop::collection::vec(90_000..100_000_usize, 60..120),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn messages_have_every_item_and_are_cut_between_writes_unless_one_is_too_large(
            writes in prop::collection::vec(any_write(), 0..8),
        ) {
            let messages = pack(&writes);
            let numbers: Vec<i64> =
                messages.iter().flat_map(|message| &message.items).map(|event| event.revision).collect();
            let count = writes.iter().map(Vec::len).sum::<usize>();
            prop_assert_eq!(numbers, (1..).take(count).collect::<Vec<i64>>());
            let mut ends = Vec::new();
            for write in &writes {
                ends.push(ends.last().copied().unwrap_or_default() + write.len());
            }
            let mut sent = 0;
            for message in &messages {
                let begin = sent;
                sent += message.items.len();
                let bytes = size(&message.items);
                prop_assert!(bytes <= MOST);
                prop_assert!(ends.contains(&sent) || message.continued || sent == 0);
                prop_assert!(!message.continued || !message.items.is_empty());
                // More than one chunk only for one write, or for the last of its parts.
                let whole = (begin + 1..=sent).filter(|end| ends.contains(end)).count();
                prop_assert!(bytes < CHUNK + 100_100 || whole <= 1, "{bytes} bytes of {whole} writes");
            }
            // Only a write that is too large comes in parts.
            let large = ends.iter().zip(&writes).map(|(end, write)| (end - write.len()..*end, write.iter().sum::<usize>()));
            let mut sent = 0;
            let large: Vec<_> = large.collect();
            for message in &messages {
                sent += message.items.len();
                if message.continued {
                    let (_, bytes) = large.iter().find(|(range, _)| range.contains(&sent)).unwrap();
                    prop_assert!(*bytes + 100_000 > MOST);
                }
            }
        }
    }

    #[test]
    fn a_write_of_just_the_largest_size_is_one_message_and_one_byte_more_is_two() {
        for (more, parts) in [(0, 1), (1, 2)] {
            let head = size(&[item(1, 1_000_000)]);
            let rest = MOST - 2 * head;
            let fitting = rest - (size(&[item(3, rest)]) - rest);
            let messages = pack(&[vec![10], vec![1_000_000, 1_000_000, fitting + more], vec![10]]);
            let counts: Vec<(usize, bool)> =
                messages.iter().map(|message| (message.items.len(), message.continued)).collect();
            let expected = if parts == 1 {
                vec![(1, false), (3, false), (1, false)]
            } else {
                vec![(1, false), (2, true), (1, false), (1, false)]
            };
            assert_eq!(counts, expected, "{more}");
        }
    }
}
