//! Requests that nobody can read before it is decided whether the caller may make them.

use prost::Message;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

/// A decoded request, closed. A handler gets no other, and only `admit` opens one.
pub struct Sealed<M>(M);

impl<M> Sealed<M> {
    /// The message. For `admit` only, which decides first; a test over the sources holds everybody else to that.
    pub(in crate::grpc) fn open(self) -> M {
        self.0
    }
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
    M: Message + Default + 'static,
{
    type Encode = T;
    type Decode = Sealed<M>;
    type Encoder = ProstEncoder<T>;
    type Decoder = SealedDecoder<M>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        SealedDecoder(PhantomData)
    }
}

/// Decodes and closes at once.
pub struct SealedDecoder<M>(PhantomData<M>);

impl<M: Message + Default> Decoder for SealedDecoder<M> {
    type Item = Sealed<M>;
    type Error = Status;

    /// Bytes that are no message are the caller's mistake. (tonic's own codec calls them `INTERNAL`, and repeats what the
    /// decoder said.)
    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        M::decode(bytes)
            .map(|message| Some(Sealed(message)))
            .map_err(|_| Status::invalid_argument("the bytes are not a message of this method"))
    }
}
