//! The bytes of responses on their way to the socket.

use hyper::body::{Buf, Bytes};
use std::sync::Arc;

/// Bytes of a response, with what is held until they are handed to the socket. The HTTP/2 library drops them then, or
/// when the stream is reset.
pub(super) struct ResponseBytes {
    bytes: Bytes,
    _held: Option<Arc<dyn Send + Sync>>,
}

impl ResponseBytes {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, _held: None }
    }

    /// Bytes that hold on to this value.
    pub(super) fn holding(bytes: Bytes, held: Arc<dyn Send + Sync>) -> Self {
        Self { bytes, _held: Some(held) }
    }
}

impl Buf for ResponseBytes {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
