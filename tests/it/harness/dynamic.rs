//! Calls by descriptor, for the tests that walk every method and every field of every service.

use super::server::Credential;
use http::uri::PathAndQuery;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use prost_reflect::{DescriptorPool, EnumDescriptor, FileDescriptor, MessageDescriptor, MethodDescriptor};
use roster::grpc::FILE_DESCRIPTOR_SET;
use roster::grpc::pb::{self, stream_checks_response::Outcome};
use std::sync::OnceLock;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// The descriptors of roster's protos, with their comments.
pub fn descriptors() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap())
}

/// Every method of the package `roster.v1`.
pub fn methods() -> Vec<MethodDescriptor> {
    let services = descriptors().services().filter(|service| service.package_name() == "roster.v1");
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// A message type of the package `roster.v1`, by its short name.
pub fn message(name: &str) -> MessageDescriptor {
    descriptors().get_message_by_name(&format!("roster.v1.{name}")).unwrap()
}

/// An enum of the package `roster.v1`, by its short name.
pub fn enumeration(name: &str) -> EnumDescriptor {
    descriptors().get_enum_by_name(&format!("roster.v1.{name}")).unwrap()
}

/// The request path of a method.
pub fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// The leading comment of the element at a descriptor path, on one line.
pub fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref().unwrap();
    let location = info.location.iter().find(|location| location.path == path).unwrap();
    location.leading_comments().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A client that sends and receives encoded messages.
#[derive(Debug, Clone)]
pub struct Caller(Grpc<InterceptedService<Channel, Credential>>);

impl Caller {
    /// A client over this connection with this credential.
    pub fn new(channel: &Channel, credential: Credential) -> Self {
        Self(Grpc::new(InterceptedService::new(channel.clone(), credential)))
    }

    /// A client with this bearer token.
    pub fn with_token(channel: &Channel, token: String) -> Self {
        Self::new(channel, Credential { token: Some(token), on_behalf_of: None })
    }

    /// Calls a method with an encoded message and returns the encoded answer, the first one of a stream.
    pub async fn call(&mut self, method: &MethodDescriptor, message: Vec<u8>) -> Result<Vec<u8>, Status> {
        self.0.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let path = path(method).parse().unwrap();
        first(&mut self.0, path, message, method.is_server_streaming()).await
    }
}

/// Calls with one message and returns the first answer. An error that a stream of checks sends in place of an answer is
/// returned as an error.
pub async fn first<T>(
    client: &mut Grpc<T>,
    path: PathAndQuery,
    message: Vec<u8>,
    is_stream: bool,
) -> Result<Vec<u8>, Status>
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::ResponseBody: tonic::codegen::Body + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError>,
{
    if !is_stream {
        return Ok(client.unary(Request::new(message), path, Bytes).await?.into_inner());
    }
    let is_checks = path.path().ends_with("/StreamChecks");
    let messages = tonic::codegen::tokio_stream::once(message);
    let mut answers = client.streaming(Request::new(messages), path, Bytes).await?.into_inner();
    let answer = answers.message().await?.unwrap_or_default();
    if is_checks && let Some(Outcome::Error(error)) = pb::StreamChecksResponse::decode(&*answer).unwrap().outcome {
        return Err(status(&error));
    }
    Ok(answer)
}

/// The status of an error that a stream of checks sends in place of an answer.
pub fn status(error: &tonic_types::pb::Status) -> Status {
    Status::with_details(Code::from(error.code), error.message.clone(), error.encode_to_vec().into())
}

/// A codec that passes encoded messages through.
#[derive(Debug, Clone, Copy)]
pub struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}
