//! The reflection service: `grpc.reflection.v1.ServerReflection`, and `v1alpha` for older tools.
//!
//! A request of a few bytes has an answer of many KiB, so the answers are bounded: an answer is the file that the
//! request asks for and never its imports, a stream sends at most [`limits::REFLECTION_STREAM_BYTES`], and all
//! streams together at most [`limits::REFLECTION_BYTES_PER_SECOND`].

use super::descriptors::{DescriptorError, DescriptorIndex};
use super::servers::former_reflection::server_reflection_server as former;
use super::servers::reflection::server_reflection_server as current;
use crate::grpc::admit::stream::StreamContext;
use crate::grpc::{FILE_DESCRIPTOR_SET, limits, status};
use futures_util::future::OptionFuture;
use futures_util::stream::unfold;
use prost::Message;
use prost::bytes::Bytes;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tonic::codegen::tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse,
};
use tonic_reflection::pb::{v1, v1alpha};

/// The reflection service of a server. Clones share one state.
#[derive(Debug, Clone)]
pub struct Reflection(Arc<ReflectionService>);

#[derive(Debug)]
struct ReflectionService {
    index: DescriptorIndex,
    /// The time at which the answers that were sent so far are paid for, at [`limits::REFLECTION_BYTES_PER_SECOND`].
    paid: Mutex<Instant>,
}

impl Reflection {
    /// A reflection of the protos of roster and of the standard services.
    ///
    /// # Errors
    /// If a descriptor cannot be read: a fault in the build.
    pub fn new() -> Result<Self, DescriptorError> {
        let index = DescriptorIndex::read(&[
            FILE_DESCRIPTOR_SET,
            super::messages::FILE_DESCRIPTOR_SET,
            v1::FILE_DESCRIPTOR_SET,
            v1alpha::FILE_DESCRIPTOR_SET,
        ])?;
        Ok(Self(Arc::new(ReflectionService { index, paid: Mutex::new(Instant::now()) })))
    }

    /// The gRPC service.
    #[must_use]
    pub fn server(&self) -> current::ServerReflectionServer<Self> {
        let server = current::ServerReflectionServer::new(self.clone());
        server.max_decoding_message_size(limits::STANDARD_MESSAGE_BYTES)
    }

    /// The gRPC service under its former name.
    #[must_use]
    pub fn former_server(&self) -> former::ServerReflectionServer<Self> {
        let server = former::ServerReflectionServer::new(self.clone());
        server.max_decoding_message_size(limits::STANDARD_MESSAGE_BYTES)
    }

    fn stream(&self, request: Request<Streaming<ServerReflectionRequest>>) -> ResponseStream {
        let context = request.extensions().get::<StreamContext>().cloned();
        let (reflection, requests) = (self.clone(), request.into_inner());
        let ends = Instant::now() + limits::REFLECTION_STREAM_TIME;
        Box::pin(unfold(ReflectionStream { reflection, requests, context, ends, bytes: 0, ended: false }, next))
    }
}

type ResponseStream = Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

#[async_trait]
impl current::ServerReflection for Reflection {
    type ServerReflectionInfoStream = ResponseStream;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<ResponseStream>, Status> {
        Ok(Response::new(self.stream(request)))
    }
}

#[async_trait]
impl former::ServerReflection for Reflection {
    type ServerReflectionInfoStream = ResponseStream;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<ResponseStream>, Status> {
        Ok(Response::new(self.stream(request)))
    }
}

/// An open stream. It reads a request when the answer to the one before has been taken.
struct ReflectionStream {
    reflection: Reflection,
    requests: Streaming<ServerReflectionRequest>,
    /// The place among the open streams, the deadline of the caller, and the stop of the server.
    context: Option<StreamContext>,
    /// The time at which the stream ends.
    ends: Instant,
    /// The bytes of the answers that were sent.
    bytes: usize,
    /// Whether the last item of the stream was sent.
    ended: bool,
}

/// Waits for the next item of a stream: the answer to a request, or the reason for the end. A stream that was idle or
/// open for too long, or has sent too much, ends without an error between two answers: its client opens another one.
async fn next(mut stream: ReflectionStream) -> Option<(Result<ServerReflectionResponse, Status>, ReflectionStream)> {
    let spent = stream.bytes >= limits::REFLECTION_STREAM_BYTES || Instant::now() >= stream.ends;
    if stream.ended || spent {
        return None;
    }
    let item = match stream.read().await {
        Ok(Some(request)) => {
            let answer = answer(&stream.reflection.0.index, request);
            let bytes = answer.encoded_len();
            stream.bytes += bytes;
            stream.wait_for_turn(bytes).await.map(|()| Some(answer))
        }
        Ok(None) => Ok(None),
        Err(status) => Err(status),
    };
    stream.ended = item.is_err();
    item.transpose().map(|item| (item, stream))
}

impl ReflectionStream {
    /// The next request; `None` if the stream ends without an error.
    async fn read(&mut self) -> Result<Option<ServerReflectionRequest>, Status> {
        let idle = Instant::now() + limits::REFLECTION_IDLE;
        let end = end(self.context.as_ref());
        tokio::select! {
            biased;
            status = end => Err(status),
            () = sleep_until(idle.min(self.ends)) => Ok(None),
            request = self.requests.message() => {
                request.map_err(|status| status::of_message(status, limits::STANDARD_MESSAGE_BYTES))
            }
        }
    }

    /// Waits until all streams together may send these bytes.
    async fn wait_for_turn(&self, bytes: usize) -> Result<(), Status> {
        let turn = self.reflection.turn(bytes);
        tokio::select! {
            biased;
            () = sleep_until(turn) => Ok(()),
            status = end(self.context.as_ref()) => Err(status),
        }
    }
}

impl Reflection {
    /// The time at which these bytes may be sent. Up to one second of bytes may be sent at once.
    fn turn(&self, bytes: usize) -> Instant {
        let cost =
            Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / limits::REFLECTION_BYTES_PER_SECOND;
        let now = Instant::now();
        let mut paid = self.0.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid = (*paid).max(now) + cost;
        paid.checked_sub(Duration::from_secs(1)).unwrap_or(now)
    }
}

/// Waits until a stream has to end, because of the server's stop or of the caller's deadline. Returns the status that
/// it ends with.
async fn end(context: Option<&StreamContext>) -> Status {
    let until = OptionFuture::from(context.and_then(|context| context.until).map(sleep_until));
    let stop = OptionFuture::from(context.map(|context| context.stopping.cancelled()));
    tokio::select! {
        biased;
        Some(()) = stop => status::server_stopping(),
        Some(()) = until => status::deadline_exceeded(),
        else => std::future::pending().await,
    }
}

/// The answer to a request.
fn answer(index: &DescriptorIndex, request: ServerReflectionRequest) -> ServerReflectionResponse {
    let file = |bytes: Option<&Bytes>| match bytes {
        Some(bytes) => MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
            file_descriptor_proto: vec![bytes.to_vec()],
        }),
        None => error(Code::NotFound, "no file with this name, symbol or extension is served here"),
    };
    let response = match &request.message_request {
        Some(MessageRequest::FileByFilename(name)) => file(index.file(name)),
        Some(MessageRequest::FileContainingSymbol(name)) => file(index.file_of_symbol(name)),
        Some(MessageRequest::FileContainingExtension(extension)) => {
            file(index.file_of_extension(&extension.containing_type, extension.extension_number))
        }
        Some(MessageRequest::AllExtensionNumbersOfType(message)) => match index.extensions(message) {
            Some(numbers) => MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                base_type_name: message.clone(),
                extension_number: numbers,
            }),
            None => error(Code::NotFound, "no message of this name is served here"),
        },
        Some(MessageRequest::ListServices(_)) => MessageResponse::ListServicesResponse(ListServiceResponse {
            service: index.services().map(|name| ServiceResponse { name: name.to_owned() }).collect(),
        }),
        None => error(Code::InvalidArgument, "the request asks for nothing: set one of its fields"),
    };
    let valid_host = request.host.clone();
    ServerReflectionResponse { valid_host, original_request: Some(request), message_response: Some(response) }
}

fn error(code: Code, message: &str) -> MessageResponse {
    MessageResponse::ErrorResponse(ErrorResponse { error_code: code.into(), error_message: message.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::StandardCodec;
    use super::*;
    use futures_util::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tonic::codec::Codec;

    /// A stream that stays open for this time, and whose caller sends this request again and again.
    fn stream(request: &ServerReflectionRequest, time: Duration) -> ResponseStream {
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
        let frame = Bytes::from([&[0], &length[..], &message].concat());
        let frames = stream::repeat_with(move || Ok::<_, Status>(Frame::data(frame.clone())));
        let decoder = StandardCodec::<ServerReflectionResponse, ServerReflectionRequest>::default().decoder();
        let requests = Streaming::new_request(decoder, StreamBody::new(frames), None, None);
        let (reflection, ends) = (Reflection::new().unwrap(), Instant::now() + time);
        Box::pin(unfold(ReflectionStream { reflection, requests, context: None, ends, bytes: 0, ended: false }, next))
    }

    #[tokio::test]
    async fn a_stream_ends_at_its_time_although_requests_arrive() {
        let (begin, time) = (Instant::now(), Duration::from_millis(50));
        let mut stream = stream(&ServerReflectionRequest::default(), time);
        let mut answers = 0;
        while let Some(answer) = stream.next().await {
            assert!(answer.is_ok());
            answers += 1;
        }
        assert!(answers > 0 && begin.elapsed() >= time);
    }

    #[tokio::test]
    async fn all_streams_together_send_a_bounded_number_of_bytes_in_a_second() {
        let (reflection, begin) = (Reflection::new().unwrap(), Instant::now());
        let second = usize::try_from(limits::REFLECTION_BYTES_PER_SECOND).unwrap();
        // What may be sent in one second may be sent at once, and then half of it in half a second.
        assert!(reflection.turn(second) <= Instant::now());
        let wait = reflection.turn(second / 2).duration_since(begin);
        assert!((Duration::from_millis(450)..Duration::from_secs(5)).contains(&wait), "{wait:?}");
    }
}
