//! Requests that nobody can read before it is decided whether the caller may make them.

use crate::grpc::limits;
use crate::grpc::request::Request;
use crate::grpc::status;
use prost::Message;
use prost::bytes::Buf;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

/// A decoded request, closed. A handler gets no other, and only [`super::Api::admit`] and its like open one.
pub struct Sealed<M>(M);

impl<M> Sealed<M> {
    /// The message. For the module around this one only, which decides first.
    pub(super) fn open(self) -> M {
        self.0
    }
}

impl<M: Request + Default> Sealed<M> {
    /// The one message of a call, from its frame; none if there is anything else to be said of it.
    pub(in crate::grpc) fn of_frame(frame: &[u8]) -> Option<Self> {
        let [0, a, b, c, d, message @ ..] = frame else { return None };
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?;
        (message.len() == length && length <= limit::<M>()).then(|| M::decode(message).ok().map(Self))?
    }
}

/// How large a message may be.
pub(super) fn limit<M: Request>() -> usize {
    if M::METHOD.bulk { limits::BULK_MESSAGE_BYTES } else { limits::MESSAGE_BYTES }
}

/// The servers' codec: protobuf on the wire, `T` out, a sealed `M` in.
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

/// Decodes and closes at once. One for each call.
pub struct SealedDecoder<M> {
    used: bool,
    message: PhantomData<M>,
}

impl<M: Request + Default> Decoder for SealedDecoder<M> {
    type Item = Sealed<M>;
    type Error = Status;

    /// Bytes that are no message are the caller's mistake. (tonic's own codec calls them `INTERNAL`, and repeats what the
    /// decoder said.) So is a second message where the method takes one: tonic would pass over the others in silence.
    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        if std::mem::replace(&mut self.used, !M::METHOD.streaming.client) {
            return Err(status::malformed());
        }
        let limit = limit::<M>();
        if bytes.remaining() > limit {
            return Err(status::too_large(limit));
        }
        M::decode(bytes).map(|message| Some(Sealed(message))).map_err(|_| status::malformed())
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
    async fn messages_arrive_closed() {
        let message = GetOrganizationRequest { organization: "acme".into() };
        let Sealed(arrived) = decode(&message.encode_to_vec()).await.unwrap().unwrap();
        assert_eq!(arrived, message);
    }

    #[tokio::test]
    async fn a_call_has_one_message() {
        let frame: &[u8] = &[0, 0, 0, 0, 0];
        let decoder = SealedCodec::<(), GetOrganizationRequest>::default().decoder();
        let mut stream = Streaming::new_request(decoder, Full::<Bytes>::from(frame.repeat(2)), None, None);
        assert!(matches!(stream.message().await, Ok(Some(_))));
        let Err(status) = stream.message().await else { panic!("took two") };
        assert_eq!(status.code(), Code::InvalidArgument);
    }

    #[tokio::test]
    async fn a_stream_has_many() {
        let frame: &[u8] = &[0, 0, 0, 0, 0];
        let decoder = SealedCodec::<(), StreamChecksRequest>::default().decoder();
        let mut stream = Streaming::new_request(decoder, Full::<Bytes>::from(frame.repeat(3)), None, None);
        for _ in 0..3 {
            assert!(matches!(stream.message().await, Ok(Some(_))));
        }
        assert!(matches!(stream.message().await, Ok(None)));
    }

    #[tokio::test]
    async fn other_bytes_are_the_callers_mistake() {
        // Field 1 is text, and this is not UTF-8.
        let Err(status) = decode(&[0x0a, 0x01, 0xff]).await else { panic!("decoded") };
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "the bytes are not a message of this method")
        );
    }
}
