//! The body of a request.

use crate::grpc::status;
use crate::server::limits;
use h2::RecvStream;
use hyper::body::{Body, Bytes, Frame};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::time::{Sleep, sleep};
use tonic::Status;

/// The body of a request. In a stream of messages, a message that has begun must arrive within [`limits::PEER_PAUSE`]
/// and may not exceed the method's limit.
pub(super) struct RequestBody {
    /// A piece that was read already.
    first: Option<Bytes>,
    stream: RecvStream,
    messages: Option<MessageLimits>,
    /// The fault of a message. The messages before it are read first.
    fault: Option<Status>,
}

impl RequestBody {
    /// The body that begins with this piece, which may be empty.
    pub(super) fn new(first: Bytes, stream: RecvStream) -> Self {
        Self { first: Some(first).filter(|first| !first.is_empty()), stream, messages: None, fault: None }
    }

    /// The same body, read until its end, with this data again.
    pub(super) fn again(self, data: Bytes) -> Self {
        Self { first: Some(data).filter(|data| !data.is_empty()), ..self }
    }

    /// The body of a stream of messages of at most `most` bytes each.
    pub(super) fn of_messages(self, most: usize) -> Self {
        Self {
            messages: Some(MessageLimits { most, prefix: [0; PREFIX_BYTES], arrived: 0, missing: 0, timer: None }),
            ..self
        }
    }

    /// Reads the next piece of data. `None` at the end of the data.
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let data = ready!(self.stream.poll_data(context));
        Poll::Ready(data.map(|data| {
            let data = data.map_err(|_| status::malformed())?;
            release(&mut self.stream, data.len());
            Ok(data)
        }))
    }
}

/// Lets the peer send this number of bytes again.
pub(super) fn release(stream: &mut RecvStream, bytes: usize) {
    // Fails only for more bytes than have arrived.
    let _ = stream.flow_control().release_capacity(bytes);
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        if let Some(fault) = this.fault.take() {
            return Poll::Ready(Some(Err(fault)));
        }
        match this.poll_data(context) {
            Poll::Ready(Some(Ok(mut data))) => {
                if let Some(Err((sound, fault))) = this.messages.as_mut().map(|messages| messages.push(&data)) {
                    data.truncate(sound);
                    this.fault = Some(fault);
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(Some(Err(status))) => Poll::Ready(Some(Err(status))),
            // Trailers of a request mean nothing, but the stream ends behind them.
            Poll::Ready(None) => this.stream.poll_trailers(context).map(|trailers| match trailers {
                Ok(_) => None,
                Err(_) => Some(Err(status::malformed())),
            }),
            Poll::Pending => match this.messages.as_mut().map(|messages| messages.poll_pause(context)) {
                Some(Poll::Ready(())) => Poll::Ready(Some(Err(status::message_too_slow()))),
                Some(Poll::Pending) | None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.fault.is_none() && self.stream.is_end_stream()
    }
}

/// The prefix of a gRPC message: a byte for compression, four for the length.
pub(super) const PREFIX_BYTES: usize = 5;
/// The first byte of the prefix of a compressed message.
pub(super) const COMPRESSED: u8 = 1;

/// Limits each message of a stream.
struct MessageLimits {
    /// The largest message, in bytes.
    most: usize,
    /// The bytes of the next prefix that have arrived, and their number.
    prefix: [u8; PREFIX_BYTES],
    arrived: usize,
    /// Bytes that are missing from the current message.
    missing: usize,
    /// Runs while a message is incomplete.
    timer: Option<Pin<Box<Sleep>>>,
}

impl MessageLimits {
    /// Follows the bytes of the stream. A fault comes with the number of these bytes that are before its message.
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), (usize, Status)> {
        let length = bytes.len();
        while !bytes.is_empty() {
            if self.missing > 0 {
                let skipped = bytes.len().min(self.missing);
                bytes = &bytes[skipped..];
                self.missing -= skipped;
            } else {
                let taken = bytes.len().min(PREFIX_BYTES - self.arrived);
                self.prefix[self.arrived..][..taken].copy_from_slice(&bytes[..taken]);
                self.arrived += taken;
                bytes = &bytes[taken..];
                if self.arrived == PREFIX_BYTES {
                    let [flag, a, b, c, d] = self.prefix;
                    self.arrived = 0;
                    if flag == COMPRESSED {
                        return Err(((length - bytes.len()).saturating_sub(PREFIX_BYTES), status::compressed(None)));
                    }
                    self.missing = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                }
            }
            if self.missing > self.most {
                return Err((length, status::too_large(self.most)));
            }
            if self.missing == 0 {
                self.timer = None;
            }
        }
        Ok(())
    }

    /// Ready when the rest of a message has not arrived in time.
    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.missing == 0 && self.arrived == 0 {
            return Poll::Pending;
        }
        self.timer.get_or_insert_with(|| Box::pin(sleep(limits::PEER_PAUSE))).as_mut().poll(context)
    }
}
