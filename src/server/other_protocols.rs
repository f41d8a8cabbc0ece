//! The answers to requests that are not gRPC over HTTP/2: one line that names the protocol and what to do, in the form
//! that the clients of this protocol show to their users. Each client takes it as final and does not repeat the request.

use super::state::PipelineResponse;
use crate::grpc::status;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use tonic::body::Body;

/// The flag of the last frame of a stream of Connect.
const END_OF_CONNECT_STREAM: u8 = 2;

/// What is known of a request.
pub(super) struct RequestHead<'r> {
    pub(super) method: &'r str,
    pub(super) content_type: &'r str,
    /// What follows the `?` of the path; empty if nothing does.
    pub(super) query: &'r str,
    pub(super) is_http2: bool,
    pub(super) transport: RequestTransport,
}

/// How a request arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestTransport {
    Plaintext,
    Tls,
    /// In plaintext, on a port with TLS.
    WithoutTls,
}

/// The answer to a peer that does not speak TLS on a port with TLS.
pub(super) const WITHOUT_TLS: &str = "roster serves gRPC over TLS here: connect with TLS, as https://";

/// The way in which the clients of a protocol read an error.
#[derive(Clone, Copy)]
enum ErrorForm {
    /// A status of gRPC in the headers, with the content type of the request. Without a body: a client of gRPC-Web would
    /// report a second error for a status in it.
    Status,
    /// An object of Connect, which other callers of JSON can read as well.
    Json,
    /// The same object in the last frame of a stream of Connect, with the content type of the request.
    JsonFrame,
    Text,
}

/// Returns whether a request is one of gRPC with messages of protobuf.
pub(super) fn is_grpc(method: &Method, content_type: &str) -> bool {
    method == Method::POST && matches!(content_type, "application/grpc" | "application/grpc+proto")
}

/// Returns the answer to a request that is not gRPC over HTTP/2. The body is empty if the method is HEAD.
pub(super) fn answer(request: &RequestHead<'_>) -> Response<Bytes> {
    let content_type = request.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let (form, sentence) = form_and_sentence(request, &content_type);
    let mut response = match form {
        ErrorForm::Status => in_status(&content_type, sentence),
        ErrorForm::Json => with_body("application/json", json(sentence)),
        ErrorForm::JsonFrame => {
            let end = format!("{{\"error\":{}}}", json(sentence));
            let length = u32::try_from(end.len()).unwrap_or(u32::MAX).to_be_bytes();
            with_body(&content_type, [&[END_OF_CONNECT_STREAM], &length[..], end.as_bytes()].concat())
        }
        ErrorForm::Text => with_body("text/plain; charset=utf-8", format!("{sentence}\n")),
    };
    *response.status_mut() = match form {
        // The clients read the error in a successful response only.
        ErrorForm::Status | ErrorForm::JsonFrame => StatusCode::OK,
        ErrorForm::Json | ErrorForm::Text if request.transport == RequestTransport::WithoutTls => {
            StatusCode::BAD_REQUEST
        }
        ErrorForm::Json | ErrorForm::Text if !request.is_http2 => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        ErrorForm::Json | ErrorForm::Text if request.method != "POST" => StatusCode::METHOD_NOT_ALLOWED,
        ErrorForm::Json | ErrorForm::Text => StatusCode::UNSUPPORTED_MEDIA_TYPE,
    };
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    if request.method == "HEAD" {
        *response.body_mut() = Bytes::new();
    }
    response
}

/// The answer to a request over HTTP/2.
pub(super) fn response<B>(request: &http::Request<B>, content_type: &str) -> PipelineResponse {
    let query = request.uri().query().unwrap_or_default();
    let method = request.method().as_str();
    let head = RequestHead { method, content_type, query, is_http2: true, transport: RequestTransport::Plaintext };
    answer(&head).map(|body| Body::new(Full::new(body)))
}

fn form_and_sentence(request: &RequestHead<'_>, content_type: &str) -> (ErrorForm, &'static str) {
    const WEB: &str = "roster serves gRPC over HTTP/2, not gRPC-Web: put a proxy that translates gRPC-Web, such as Envoy, \
                       between them";
    const CONNECT: &str = "roster serves gRPC over HTTP/2, not the Connect protocol: switch the client to gRPC, as \
                           connect.WithGRPC() does in Go";
    const JSON: &str = "roster serves gRPC over HTTP/2, not JSON: use a client of gRPC, grpcurl, or the gRPC option of a \
                        client of Connect";
    const CODEC: &str = "roster serves gRPC with messages of protobuf: send the content-type application/grpc";
    const HTTP_1: &str = "roster serves gRPC over HTTP/2 without TLS here, not HTTP/1: use a client of gRPC, for health \
                          probes as well";
    const HTTP_1_TLS: &str =
        "roster serves gRPC over HTTP/2, not HTTP/1: use a client of gRPC, for health probes as well";
    const OTHER: &str = "roster serves gRPC over HTTP/2: a call is a POST with the content-type application/grpc";

    let is_connect_get = request.query.split('&').any(|pair| pair == "connect=v1");
    if request.transport == RequestTransport::WithoutTls {
        return (ErrorForm::Text, WITHOUT_TLS);
    }
    match content_type {
        _ if content_type.starts_with("application/grpc-web") => (ErrorForm::Status, WEB),
        _ if content_type.starts_with("application/connect+") => (ErrorForm::JsonFrame, CONNECT),
        "application/proto" => (ErrorForm::Json, CONNECT),
        "application/json" => (ErrorForm::Json, JSON),
        _ if is_connect_get => (ErrorForm::Json, CONNECT),
        _ if !request.is_http2 && request.transport == RequestTransport::Tls => (ErrorForm::Text, HTTP_1_TLS),
        _ if !request.is_http2 => (ErrorForm::Text, HTTP_1),
        _ if request.method == "POST" && is_other_grpc(content_type) => (ErrorForm::Status, CODEC),
        _ => (ErrorForm::Text, OTHER),
    }
}

/// Returns whether a content type names gRPC, with another form of messages or with parameters.
fn is_other_grpc(content_type: &str) -> bool {
    content_type.strip_prefix("application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
}

fn with_body(content_type: &str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    // A content type that is no header value, which does not exist, is left out.
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response
}

/// A response with a status of gRPC in its headers.
fn in_status(content_type: &str, sentence: &str) -> Response<Bytes> {
    let mut response = with_body(content_type, Bytes::new());
    let mut headers = HeaderMap::new();
    // A status whose details are no header, which does not exist, is left out.
    let _ = status::unserved_protocol(sentence).add_header(&mut headers);
    response.headers_mut().extend(headers);
    response
}

/// An error in the JSON of Connect. The sentences need no escape.
fn json(sentence: &str) -> String {
    format!("{{\"code\":\"unimplemented\",\"message\":\"{sentence}\"}}")
}
