//! Sealed requests: a handler cannot read a message before the caller is admitted.

use super::shape::{self, Excess};
use crate::domain::Refusal;
use crate::domain::limits::BATCH_CHECKS;
use crate::grpc::decode::item_count;
use crate::grpc::request::Request;
use crate::grpc::{limits, status};
use prost::Message;
use prost::bytes::Buf;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

/// A decoded request that only the [`admit`](super) module can open. Handlers receive no other.
pub struct Sealed<M>(M);

impl<M> Sealed<M> {
    /// The message. Visible to the `admit` module only, which decides first.
    pub(super) fn open(self) -> M {
        self.0
    }
}

impl<M: Request + Default> Sealed<M> {
    /// The message of a unary call, from its gRPC frame; `None` if the frame is compressed, incomplete, too large or does
    /// not decode.
    pub(in crate::grpc) fn of_frame(frame: &[u8]) -> Option<Self> {
        let [0, a, b, c, d, message @ ..] = frame else { return None };
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?;
        if message.len() != length || length > limit::<M>() || check_contents::<M>(message).is_err() {
            return None;
        }
        M::decode(message).ok().map(Self)
    }
}

/// Refuses a message with too many items, or that would take too much memory, before it is decoded.
fn check_contents<M: Request>(message: &[u8]) -> Result<(), Status> {
    if message.len() <= limits::UNCOUNTED_BYTES {
        return Ok(());
    }
    let most_items = if M::METHOD.write { limits::BATCH_WRITES } else { BATCH_CHECKS };
    shape::count(M::SHAPE, message, most_items).map(drop).map_err(|excess| match excess {
        Excess::Items { field } => status::refused(&Refusal::field(field, item_count(most_items))),
        Excess::Memory => status::too_complex(limit::<M>(), shape::memory_limit(message.len())),
    })
}

/// The largest message that a method takes, in bytes.
pub(super) fn limit<M: Request>() -> usize {
    if M::METHOD.bulk { limits::BULK_MESSAGE_BYTES } else { limits::MESSAGE_BYTES }
}

/// The codec of the servers: it encodes responses `T`, and decodes requests `M` into sealed ones.
pub struct SealedCodec<T, M>(PhantomData<(T, M)>);

impl<T, M> Default for SealedCodec<T, M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, M> Codec for SealedCodec<T, M>
where
    T: Message + 'static,
    M: Request + Default + 'static,
{
    type Encode = T;
    type Decode = Sealed<M>;
    type Encoder = ProstEncoder<T>;
    type Decoder = SealedDecoder<M>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        SealedDecoder { used: false, message: PhantomData }
    }
}

/// Decodes and seals the requests of one call.
pub struct SealedDecoder<M> {
    used: bool,
    message: PhantomData<M>,
}

impl<M: Request + Default> Decoder for SealedDecoder<M> {
    type Item = Sealed<M>;
    type Error = Status;

    /// Bytes that do not decode are an error of the caller. (tonic's codec answers `INTERNAL` and repeats the decoder's
    /// message.) So is a second message of a unary call, which tonic would ignore.
    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        if std::mem::replace(&mut self.used, !M::METHOD.streaming.client) {
            return Err(status::malformed());
        }
        let limit = limit::<M>();
        if bytes.remaining() > limit {
            return Err(status::too_large(limit));
        }
        let message = if bytes.remaining() <= limits::UNCOUNTED_BYTES {
            M::decode(bytes)
        } else {
            let bytes = bytes.copy_to_bytes(bytes.remaining());
            check_contents::<M>(&bytes)?;
            M::decode(bytes)
        };
        message.map(|message| Some(Sealed(message))).map_err(|_| status::malformed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb::{GetOrganizationRequest, StreamChecksRequest};
    use http_body_util::Full;
    use tonic::Code;
    use tonic::codec::Streaming;
    use tonic::codegen::Bytes;

    /// Decodes one gRPC frame that holds these bytes.
    async fn decode(bytes: &[u8]) -> Result<Option<Sealed<GetOrganizationRequest>>, Status> {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let body = Full::<Bytes>::from([&[0], length.as_slice(), bytes].concat());
        let decoder = SealedCodec::<(), GetOrganizationRequest>::default().decoder();
        Streaming::new_request(decoder, body, None, None).message().await
    }

    #[tokio::test]
    async fn a_message_arrives_sealed() {
        let message = GetOrganizationRequest { organization: "acme".into() };
        let Sealed(received) = decode(&message.encode_to_vec()).await.unwrap().unwrap();
        assert_eq!(received, message);
    }

    #[tokio::test]
    async fn a_second_message_of_a_unary_call_is_refused() {
        let frame: &[u8] = &[0, 0, 0, 0, 0];
        let decoder = SealedCodec::<(), GetOrganizationRequest>::default().decoder();
        let mut stream = Streaming::new_request(decoder, Full::<Bytes>::from(frame.repeat(2)), None, None);
        assert!(matches!(stream.message().await, Ok(Some(_))));
        let Err(status) = stream.message().await else { panic!("the second message was accepted") };
        assert_eq!(status.code(), Code::InvalidArgument);
    }

    #[tokio::test]
    async fn a_stream_takes_many_messages() {
        let frame: &[u8] = &[0, 0, 0, 0, 0];
        let decoder = SealedCodec::<(), StreamChecksRequest>::default().decoder();
        let mut stream = Streaming::new_request(decoder, Full::<Bytes>::from(frame.repeat(3)), None, None);
        for _ in 0..3 {
            assert!(matches!(stream.message().await, Ok(Some(_))));
        }
        assert!(matches!(stream.message().await, Ok(None)));
    }

    #[tokio::test]
    async fn undecodable_bytes_are_an_error_of_the_caller() {
        // Field 1 is a string, and these bytes are not UTF-8.
        let Err(status) = decode(&[0x0a, 0x01, 0xff]).await else { panic!("decoded") };
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "the bytes are not a message of this method")
        );
    }
}
