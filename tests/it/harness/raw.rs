//! Requests as they are on the wire, for what no generated client would send, and answers with all that is in them.

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

/// A request.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// An answer. What gRPC says of it may stand in the headers or in the trailers.
#[derive(Debug, Clone)]
pub struct Answer {
    pub http_status: u16,
    pub grpc_status: Option<i32>,
    pub reason: Option<String>,
    pub headers: HeaderMap,
    pub trailers: HeaderMap,
    pub body: Vec<u8>,
}

impl Call {
    /// A call with this message, as any gRPC client makes it.
    pub fn grpc(path: &str, message: &[u8]) -> Self {
        let call =
            Self { method: Method::POST, path: path.to_owned(), headers: HeaderMap::new(), body: frame(message) };
        call.with("content-type", "application/grpc").with("te", "trailers")
    }

    /// One more header. A header that is there already is there twice then.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    /// A header in place of the one that is there.
    pub fn instead(mut self, name: &'static str, value: &str) -> Self {
        self.headers.remove(name);
        self.with(name, value)
    }

    /// Without this header.
    pub fn without(mut self, name: &'static str) -> Self {
        self.headers.remove(name);
        self
    }

    /// A credential.
    pub fn bearer(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }
}

impl Answer {
    /// What gRPC says of it, if it does.
    pub fn status(&self) -> Option<Status> {
        Status::from_header_map(&self.headers).or_else(|| Status::from_header_map(&self.trailers))
    }

    /// The message in the body: one frame, not compressed.
    pub fn message(&self) -> &[u8] {
        self.body.get(5..).unwrap_or_default()
    }
}

/// A message in the frame in which gRPC sends it.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// How long any answer may take. Longer than every deadline that a test sets.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends a request over a connection of its own, and waits for the whole answer; of a stream, for its first message, which
/// counts as a success.
pub async fn send(address: SocketAddr, call: Call) -> Answer {
    let first = rules::method(&call.path).is_some_and(|method| method.streaming.server);
    within_patience(exchange(address, call, Ends::AtOnce, first)).await
}

/// Sends a request to a stream that ends by itself, and waits for that.
pub async fn send_whole(address: SocketAddr, call: Call) -> Answer {
    within_patience(exchange(address, call, Ends::AtOnce, false)).await
}

/// Sends a request whose body never ends, and waits for the whole answer.
pub async fn send_unfinished(address: SocketAddr, call: Call) -> Answer {
    within_patience(exchange(address, call, Ends::Never, false)).await
}

/// Sends a request whose body is cut at these places, each piece once the one before has been read, and its end by itself;
/// waits for the whole answer.
pub async fn send_in_pieces(address: SocketAddr, call: Call, cuts: &[usize]) -> Answer {
    within_patience(exchange(address, call, Ends::InPieces(cuts), false)).await
}

/// How a body ends.
#[derive(Clone, Copy)]
enum Ends<'a> {
    AtOnce,
    Never,
    InPieces(&'a [usize]),
}

/// Waits until the peer has seen everything that was sent so far.
async fn seen(ping: &mut h2::PingPong) {
    ping.ping(h2::Ping::opaque()).await.unwrap();
}

async fn within_patience(answer: impl Future<Output = Answer>) -> Answer {
    tokio::time::timeout(PATIENCE, answer).await.expect("no answer came")
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

async fn exchange(address: SocketAddr, call: Call, ends: Ends<'_>, first: bool) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, mut connection) = h2::client::handshake(stream).await.unwrap();
    let mut ping = connection.ping_pong().unwrap();
    let driver = tokio::spawn(connection);
    let uri = format!("http://roster.test{}", call.path);
    let mut request = Request::builder().method(call.method).uri(uri).body(()).unwrap();
    *request.headers_mut() = call.headers;
    let no_body = matches!(ends, Ends::AtOnce) && call.body.is_empty();
    let (response, mut sending) = client.ready().await.unwrap().send_request(request, no_body).unwrap();
    if !no_body {
        let mut body = Bytes::from(call.body);
        if let Ends::InPieces(cuts) = ends {
            seen(&mut ping).await;
            let mut before = 0;
            for cut in cuts {
                sending.send_data(body.split_to(cut - before), false).unwrap();
                seen(&mut ping).await;
                before = *cut;
            }
        }
        // Who is refused by the headers is answered, and the stream closed, before the body is through.
        let _ = sending.send_data(body, !matches!(ends, Ends::Never));
    }
    let (head, mut incoming) = response.await.unwrap().into_parts();
    let mut body = Vec::new();
    let mut begun = false;
    while !begun && let Some(chunk) = incoming.data().await {
        let chunk = chunk.unwrap();
        incoming.flow_control().release_capacity(chunk.len()).unwrap();
        body.extend_from_slice(&chunk);
        begun = first && body.len() >= 5;
    }
    let trailers = if begun { HeaderMap::new() } else { incoming.trailers().await.unwrap().unwrap_or_default() };
    driver.abort();
    let (http_status, headers) = (head.status.as_u16(), head.headers);
    let mut answer = Answer { http_status, grpc_status: None, reason: None, headers, trailers, body };
    if begun {
        answer.grpc_status = Some(0);
    } else if let Some(status) = answer.status() {
        answer.grpc_status = Some(status.code().into());
        answer.reason = status.get_details_error_info().map(|info| info.reason);
    }
    answer
}
