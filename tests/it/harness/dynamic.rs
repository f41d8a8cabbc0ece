//! Calls by descriptor: for tests that walk every method and every field, those of later services too.

use super::server::Credential;
use prost::bytes::{Buf, BufMut};
use prost_reflect::{DescriptorPool, EnumDescriptor, FileDescriptor, MessageDescriptor, MethodDescriptor};
use roster::grpc::FILE_DESCRIPTOR_SET;
use std::sync::OnceLock;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// What roster's protos say, comments and all.
pub fn descriptors() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap())
}

/// Every method of roster's own.
pub fn methods() -> Vec<MethodDescriptor> {
    let own = descriptors().services().filter(|service| service.package_name() == "roster.v1");
    own.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// A message type of roster's own.
pub fn message(name: &str) -> MessageDescriptor {
    descriptors().get_message_by_name(&format!("roster.v1.{name}")).unwrap()
}

/// An enum of roster's own.
pub fn enumeration(name: &str) -> EnumDescriptor {
    descriptors().get_enum_by_name(&format!("roster.v1.{name}")).unwrap()
}

/// The path that a method is called by.
pub fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// The comment that stands before what the path leads to, on one line.
pub fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref().unwrap();
    let location = info.location.iter().find(|location| location.path == path).unwrap();
    location.leading_comments().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A caller who sends bytes.
#[derive(Debug, Clone)]
pub struct Caller(Grpc<InterceptedService<Channel, Credential>>);

impl Caller {
    /// A caller over this connection who shows this.
    pub fn new(channel: &Channel, credential: Credential) -> Self {
        Self(Grpc::new(InterceptedService::new(channel.clone(), credential)))
    }

    /// A caller with this token.
    pub fn with_token(channel: &Channel, token: String) -> Self {
        Self::new(channel, Credential { token: Some(token), on_behalf_of: None })
    }

    /// Calls a method with the bytes of a message, and gives those of the answer.
    pub async fn call(&mut self, method: &MethodDescriptor, message: Vec<u8>) -> Result<Vec<u8>, Status> {
        self.0.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let path = path(method).parse().unwrap();
        Ok(self.0.unary(Request::new(message), path, Bytes).await?.into_inner())
    }
}

/// Messages as they are on the wire.
#[derive(Debug, Clone, Copy)]
struct Bytes;

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
