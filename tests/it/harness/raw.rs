//! Raw HTTP/2 requests, for calls that no generated client sends, and answers with their headers and trailers.

use super::Server;
use http::{HeaderMap, HeaderValue, Method, Request};
use prost::bytes::Bytes;
use roster::authz::rules;
use roster::grpc::pb;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::Status;
use tonic_types::StatusExt;

/// A raw request.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A raw answer. The gRPC status is in the headers or in the trailers.
#[derive(Debug, Clone)]
pub struct Answer {
    pub http_status: u16,
    pub grpc_status: Option<i32>,
    pub reason: Option<String>,
    pub headers: HeaderMap,
    pub trailers: HeaderMap,
    pub body: Vec<u8>,
    /// Whether the head ended the answer.
    pub is_head_only: bool,
}

impl Call {
    /// A call with this message and the headers of a gRPC client.
    pub fn grpc(path: &str, message: &[u8]) -> Self {
        let call =
            Self { method: Method::POST, path: path.to_owned(), headers: HeaderMap::new(), body: frame(message) };
        call.with("content-type", "application/grpc").with("te", "trailers")
    }

    /// Adds a header. A header of the same name stays, so the request then has both.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    /// Replaces a header.
    pub fn instead(mut self, name: &'static str, value: &str) -> Self {
        self.headers.remove(name);
        self.with(name, value)
    }

    /// Removes a header.
    pub fn without(mut self, name: &'static str) -> Self {
        self.headers.remove(name);
        self
    }

    /// Adds a bearer token.
    pub fn bearer(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }
}

impl Answer {
    /// The gRPC status, if the answer has one.
    pub fn status(&self) -> Option<Status> {
        Status::from_header_map(&self.headers).or_else(|| Status::from_header_map(&self.trailers))
    }

    /// The message in the body, which is one uncompressed frame.
    pub fn message(&self) -> &[u8] {
        self.body.get(5..).unwrap_or_default()
    }
}

/// A message in an uncompressed gRPC frame.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// Maximum time of an answer. Longer than every deadline that a test sets.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends a request over a new connection and waits for the whole answer. Of a server stream it reads the first message
/// only, and reports the call as successful.
pub async fn send(address: SocketAddr, call: Call) -> Answer {
    let first = rules::method(&call.path).is_some_and(|method| method.streaming.server);
    within_patience(exchange(address, call, Body::Whole, first)).await
}

/// Sends a request to a stream that ends by itself, and waits for its end.
pub async fn send_whole(address: SocketAddr, call: Call) -> Answer {
    within_patience(exchange(address, call, Body::Whole, false)).await
}

/// Sends a request whose body never ends, and waits for the whole answer.
pub async fn send_unfinished(address: SocketAddr, call: Call) -> Answer {
    within_patience(exchange(address, call, Body::Unfinished, false)).await
}

/// Sends a request whose body is cut at these offsets, and waits for the whole answer. Each piece follows after the
/// server has read the one before; the end of the stream is sent separately.
pub async fn send_in_pieces(address: SocketAddr, call: Call, cuts: &[usize]) -> Answer {
    within_patience(exchange(address, call, Body::InPieces(cuts), false)).await
}

/// Sends a request whose body follows this time after its headers, and waits for the whole answer.
pub async fn send_late(address: SocketAddr, call: Call, pause: Duration) -> Answer {
    within_patience(exchange(address, call, Body::After(pause), false)).await
}

/// The way in which a request body is sent.
#[derive(Clone, Copy)]
enum Body<'a> {
    Whole,
    After(Duration),
    Unfinished,
    InPieces(&'a [usize]),
}

/// Waits until the peer has received all frames that were sent before.
async fn flush(ping: &mut h2::PingPong) {
    ping.ping(h2::Ping::opaque()).await.unwrap();
}

async fn within_patience(answer: impl Future<Output = Answer>) -> Answer {
    tokio::time::timeout(PATIENCE, answer).await.expect("no answer arrived in time")
}

impl Server {
    /// Sends a raw request to this server.
    pub async fn send(&self, call: Call) -> Answer {
        send(self.address, call).await
    }
}

/// The path of a method by its short name, `OrganizationService/AddMember`.
pub fn path(name: &str) -> String {
    format!("/roster.v1.{name}")
}

/// A request that adds a user: its path and its encoded message.
pub fn add(organization: &str, user: &str, request_id: &str) -> (String, Vec<u8>) {
    let request =
        pb::AddMemberRequest { request_id: request_id.to_owned(), ..super::add(organization, user, "member") };
    (path("OrganizationService/AddMember"), prost::Message::encode_to_vec(&request))
}

async fn exchange(address: SocketAddr, call: Call, sent: Body<'_>, first: bool) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, mut connection) = h2::client::handshake(stream).await.unwrap();
    let mut ping = connection.ping_pong().unwrap();
    let driver = tokio::spawn(connection);
    let uri = format!("http://roster.test{}", call.path);
    let mut request = Request::builder().method(call.method).uri(uri).body(()).unwrap();
    *request.headers_mut() = call.headers;
    let no_body = matches!(sent, Body::Whole) && call.body.is_empty();
    let (response, mut sending) = client.ready().await.unwrap().send_request(request, no_body).unwrap();
    if !no_body {
        let mut body = Bytes::from(call.body);
        if let Body::After(pause) = sent {
            flush(&mut ping).await;
            tokio::time::sleep(pause).await;
        }
        if let Body::InPieces(cuts) = sent {
            flush(&mut ping).await;
            let mut before = 0;
            for cut in cuts {
                sending.send_data(body.split_to(cut - before), false).unwrap();
                flush(&mut ping).await;
                before = *cut;
            }
        }
        // A call that the server refuses by its headers is answered, and the stream closed, before the body is sent.
        let _ = sending.send_data(body, !matches!(sent, Body::Unfinished));
    }
    let (head, mut incoming) = response.await.unwrap().into_parts();
    let is_head_only = incoming.is_end_stream();
    let mut body = Vec::new();
    let mut started = false;
    while !started && let Some(chunk) = incoming.data().await {
        let chunk = chunk.unwrap();
        incoming.flow_control().release_capacity(chunk.len()).unwrap();
        body.extend_from_slice(&chunk);
        started = first && body.len() >= 5;
    }
    let trailers = if started { HeaderMap::new() } else { incoming.trailers().await.unwrap().unwrap_or_default() };
    driver.abort();
    let (http_status, headers) = (head.status.as_u16(), head.headers);
    let mut answer = Answer { http_status, grpc_status: None, reason: None, headers, trailers, body, is_head_only };
    if started {
        answer.grpc_status = Some(0);
    } else if let Some(status) = answer.status() {
        answer.grpc_status = Some(status.code().into());
        answer.reason = status.get_details_error_info().map(|info| info.reason);
    }
    answer
}
