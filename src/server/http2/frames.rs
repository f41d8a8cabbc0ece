//! The boundaries of HTTP/2 frames in the bytes that a peer sends.
//!
//! The HTTP/2 library does not report whether a peer has stopped in the middle of a frame or of a header block. This
//! module reads the headers of the frames (RFC 9113 §4.1), and nothing of their content, to know it.

/// The connection preface of a client (RFC 9113 §3.4), in bytes.
const PREFACE_BYTES: u32 = 24;
const FRAME_HEADER_BYTES: usize = 9;
/// Types of frames that carry a part of a header block.
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
/// The flag of the last part of a header block.
const END_HEADERS: u8 = 4;

/// The position in the bytes that a peer sends.
#[derive(Debug)]
pub(super) struct FrameTracker {
    /// Bytes that are missing from the preface or from the payload of the current frame.
    missing: u32,
    /// The bytes of the next frame header that have arrived, and their number.
    header: [u8; FRAME_HEADER_BYTES],
    arrived: usize,
    /// Whether the header block needs a CONTINUATION frame.
    block_open: bool,
    /// Whether the peer has sent its preface and its SETTINGS frame.
    begun: bool,
    /// Whether the preface has arrived.
    preface: bool,
}

impl FrameTracker {
    pub(super) fn new() -> Self {
        Self {
            missing: PREFACE_BYTES,
            header: [0; FRAME_HEADER_BYTES],
            arrived: 0,
            block_open: false,
            begun: false,
            preface: false,
        }
    }

    /// Follows these bytes. Returns whether a frame, or a whole header block, ended in them.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> bool {
        let mut ended = false;
        while !bytes.is_empty() {
            if self.missing > 0 {
                let skipped = bytes.len().min(usize::try_from(self.missing).unwrap_or(usize::MAX));
                bytes = &bytes[skipped..];
                self.missing -= u32::try_from(skipped).unwrap_or(self.missing);
            } else {
                let taken = bytes.len().min(FRAME_HEADER_BYTES - self.arrived);
                self.header[self.arrived..][..taken].copy_from_slice(&bytes[..taken]);
                self.arrived += taken;
                bytes = &bytes[taken..];
                if self.arrived < FRAME_HEADER_BYTES {
                    break;
                }
                self.arrived = 0;
                self.begin_frame();
            }
            if self.missing == 0 {
                ended |= self.end();
            }
        }
        ended
    }

    /// Whether the peer has to send more: the rest of a frame or of a header block, or its first SETTINGS frame.
    pub(super) fn is_incomplete(&self) -> bool {
        !self.begun || self.missing > 0 || self.arrived > 0 || self.block_open
    }

    /// Whether the peer has sent its preface and its first frame.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    fn begin_frame(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.missing = u32::from_be_bytes([0, a, b, c]);
        if matches!(kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
            self.block_open = flags & END_HEADERS == 0;
        }
    }

    /// Ends the preface or a frame.
    fn end(&mut self) -> bool {
        if self.preface {
            self.begun = true;
        }
        self.preface = true;
        self.begun && !self.block_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn a_connection_begins_with_the_first_frame_after_the_preface() {
        let mut tracker = FrameTracker::new();
        assert!(!tracker.push(PREFACE) && !tracker.has_begun() && tracker.is_incomplete());
        assert!(tracker.push(&frame(4, 0, &[])) && tracker.has_begun() && !tracker.is_incomplete());
    }

    #[test]
    fn a_header_block_ends_with_its_last_continuation() {
        let mut tracker = FrameTracker::new();
        tracker.push(&[PREFACE, &frame(4, 0, &[0; 6])].concat());
        assert!(!tracker.push(&frame(HEADERS, 0, b"abc")) && tracker.is_incomplete());
        assert!(!tracker.push(&frame(CONTINUATION, 0, &[])) && tracker.is_incomplete());
        assert!(tracker.push(&frame(CONTINUATION, END_HEADERS, b"d")) && !tracker.is_incomplete());
        assert!(!tracker.push(&frame(0, 0, b"message")[..12]) && tracker.is_incomplete());
    }

    proptest! {
        /// The position does not depend on the pieces in which the bytes arrive.
        #[test]
        fn pieces_do_not_matter(
            frames in prop::collection::vec((0_u8..12, 0_u8..8, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            cut in 0_usize..30,
            piece in 1_usize..50,
        ) {
            let mut bytes = PREFACE.to_vec();
            for (kind, flags, payload) in frames {
                bytes.extend(frame(kind, flags, &payload));
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            let (mut whole, mut pieces) = (FrameTracker::new(), FrameTracker::new());
            let ended = whole.push(&bytes);
            let ends = bytes.chunks(piece).filter(|piece| pieces.push(piece)).count();
            prop_assert_eq!(ended, ends > 0);
            prop_assert_eq!(whole.is_incomplete(), pieces.is_incomplete());
            prop_assert_eq!(whole.has_begun(), pieces.has_begun());
        }
    }
}
