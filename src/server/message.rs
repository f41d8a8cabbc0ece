//! The message of a unary call: it is read as a whole before the call takes its place among the calls under way.

use super::request_body::{COMPRESSED, PREFIX_BYTES, RequestBody};
use super::shares::{ConnectionShares, RequestCharge};
use crate::grpc::status;
use crate::server::limits;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame};
use prost::bytes::BytesMut;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

/// Reads the body of a unary call to its end: one message of at most `most` bytes, in its frame. A body whose frame
/// is incomplete, or not the last, is returned as it came, and the decoder refuses it.
///
/// # Errors
/// `METHOD_UNKNOWN` if the message is compressed; `MESSAGE_TOO_LARGE`; `OVERLOADED` if the requests of the connection, the
/// peer address or the server hold too many bytes; `DEADLINE_EXCEEDED` if the message arrives too slowly;
/// `MALFORMED_MESSAGE` if the body breaks off.
pub(super) async fn read(
    body: &mut RequestBody,
    most: usize,
    charge: &mut RequestCharge,
    shares: &ConnectionShares,
) -> Result<Bytes, Box<Status>> {
    let mut pace = MinimumPace::new();
    let mut message = Message::Nothing;
    loop {
        let frame = timeout_at(pace.deadline(), body.frame()).await;
        let frame = frame.map_err(|_| Box::new(status::message_too_slow()))?;
        let Some(frame) = frame.transpose().map_err(|_| Box::new(status::malformed()))? else { break };
        // A request has no trailers of any meaning.
        let Ok(data) = Frame::into_data(frame) else { continue };
        charge.add(shares, data.len()).map_err(|refusal| Box::new(status::refused(&refusal)))?;
        pace.received(data.len());
        message.push(data);
        match message.bytes() {
            [COMPRESSED, ..] => return Err(Box::new(status::compressed(None))),
            [0, a, b, c, d, ..] if length([*a, *b, *c, *d]) > most => return Err(Box::new(status::too_large(most))),
            [0, ..] | [] if message.bytes().len() <= PREFIX_BYTES + most => {}
            _ => return Err(Box::new(status::malformed())),
        }
    }
    Ok(message.finish())
}

/// The length that the prefix of a gRPC message names.
fn length(bytes: [u8; 4]) -> usize {
    usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX)
}

/// The bytes that have arrived. A message in one piece is not copied.
enum Message {
    Nothing,
    Whole(Bytes),
    Pieces(BytesMut),
}

impl Message {
    fn push(&mut self, data: Bytes) {
        *self = match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => Self::Whole(data),
            Self::Whole(first) => {
                let mut pieces = BytesMut::from(&first[..]);
                pieces.extend_from_slice(&data);
                Self::Pieces(pieces)
            }
            Self::Pieces(mut pieces) => {
                pieces.extend_from_slice(&data);
                Self::Pieces(pieces)
            }
        };
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::Whole(bytes) => bytes,
            Self::Pieces(bytes) => bytes,
        }
    }

    fn finish(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::Whole(bytes) => bytes,
            Self::Pieces(bytes) => bytes.freeze(),
        }
    }
}

/// The pace at which a message has to arrive.
struct MinimumPace {
    start: Instant,
    received: usize,
}

impl MinimumPace {
    fn new() -> Self {
        Self { start: Instant::now(), received: 0 }
    }

    fn received(&mut self, bytes: usize) {
        self.received += bytes;
    }

    /// The moment at which the message is too slow if nothing else arrives.
    fn deadline(&self) -> Instant {
        let earned =
            Duration::from_secs(1) * u32::try_from(self.received / limits::SLOWEST_MESSAGE).unwrap_or(u32::MAX);
        self.start + (limits::MESSAGE_PAUSE + earned).min(limits::PEER_PAUSE)
    }
}
