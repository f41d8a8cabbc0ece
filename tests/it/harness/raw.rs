//! HTTP/2 by hand: what no gRPC client would send, and what the server answers, before a client has made it nice.

use super::Server;
use h2::client;
use http::{HeaderMap, Method, Request, Uri};
use roster::grpc::pb;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::Status;
use tonic::codegen::Bytes;
use tonic_types::StatusExt;

/// How long any answer may take. Longer than every deadline that a test sets.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request, as it goes over the wire.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    /// With the query string, if there is to be one.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Call {
    /// A good gRPC call of one message, with this token.
    pub fn grpc(path: &str, token: &str, message: &[u8]) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/grpc".parse().unwrap());
        headers.insert("te", "trailers".parse().unwrap());
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        Self { method: Method::POST, path: path.to_owned(), headers, body: frame(message) }
    }

    /// With this header, instead of the one that it has.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    /// Without this header.
    #[must_use]
    pub fn without(mut self, name: &'static str) -> Self {
        self.headers.remove(name);
        self
    }
}

/// An answer, as it came over the wire.
#[derive(Debug, Clone)]
pub struct Answer {
    pub http_status: u16,
    /// From the trailers, or from the headers where there is nothing but headers.
    pub grpc_status: Option<i32>,
    /// Of the error's details.
    pub reason: Option<String>,
    pub headers: HeaderMap,
    pub trailers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// The status that a gRPC client would make of it.
    pub fn status(&self) -> Option<Status> {
        Status::from_header_map(&self.trailers).or_else(|| Status::from_header_map(&self.headers))
    }
}

/// A message in its gRPC frame.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), message].concat()
}

/// Sends a call over a connection of its own, and waits for the whole answer.
pub async fn send(address: SocketAddr, call: Call) -> Answer {
    let path = call.path.clone();
    let answered = tokio::time::timeout(PATIENCE, exchange(address, call)).await;
    match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => panic!("{path}: no answer: {error}"),
        Err(elapsed) => panic!("{path}: no answer: {elapsed}"),
    }
}

async fn exchange(address: SocketAddr, call: Call) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (client, connection) = client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await?;
    let uri = Uri::builder().scheme("http").authority(address.to_string()).path_and_query(call.path).build().unwrap();
    let mut request = Request::new(());
    *request.method_mut() = call.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = call.headers;
    let (response, mut body) = client.send_request(request, call.body.is_empty())?;
    if !call.body.is_empty() {
        // Who is refused before the body is read may have the stream closed while still sending.
        let _ = body.send_data(Bytes::from(call.body), true);
    }
    let (head, mut body) = response.await?.into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    connection.abort();
    let mut answer = Answer {
        http_status: head.status.as_u16(),
        grpc_status: None,
        reason: None,
        headers: head.headers,
        trailers,
        body: bytes,
    };
    if let Some(status) = answer.status() {
        answer.grpc_status = Some(i32::from(status.code()));
        answer.reason = status.get_details_error_info().map(|info| info.reason);
    }
    Ok(answer)
}

impl Server {
    /// Sends a call to this server.
    pub async fn send(&self, call: Call) -> Answer {
        send(self.address, call).await
    }
}

/// The path of a method by its short name, `OrganizationService/AddMember`.
pub fn path(name: &str) -> String {
    format!("/roster.v1.{name}")
}

/// A request to add a user: its path and its bytes.
pub fn add(organization: &str, user: &str, request_id: &str) -> (String, Vec<u8>) {
    let request =
        pb::AddMemberRequest { request_id: request_id.to_owned(), ..super::add(organization, user, "member") };
    (path("OrganizationService/AddMember"), prost::Message::encode_to_vec(&request))
}
