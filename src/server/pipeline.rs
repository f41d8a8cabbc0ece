//! The pipeline: what every request goes through before a handler sees it.
//!
//! A request goes through `Pipeline::enter` from top to bottom. The order is the point, so it is one function: nothing is
//! authenticated before the gate, no body is read before the caller is known. A test holds each step to its place.
//!
//! A check takes the same steps in a [lane](super::fast_path) of its own, where it can. Its answer has no `x-request-id` then,
//! unless it is an error: there is no log line to join it with. Every other answer has one.

use super::ServerSettings;
use super::metrics::Metrics;
use crate::authn::{Authenticator, Caller, StreamCredential};
use crate::authz::rules::{self, Method};
use crate::domain::Refusal;
use crate::grpc::admit::stream::StreamContext;
use crate::grpc::admit::{Api, CallPermit, Deadline};
use crate::grpc::status;
use crate::random;
use crate::server::limits;
use futures_util::FutureExt;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method as Verb, StatusCode};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;
use tracing::{Instrument, Span};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Services that are not roster's own. They are public: they tell whether roster runs and what its protos say.
const STANDARD: [&str; 3] =
    ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

pub(super) type PipelineResponse = http::Response<Body>;

/// What every request goes through before a handler sees it.
#[derive(Clone)]
pub(super) struct Pipeline {
    pub(super) routes: Routes,
    /// The calls themselves, for the lane.
    pub(super) api: Api,
    pub(super) shared: Arc<ServerState>,
}

/// What all requests share.
pub(super) struct ServerState {
    pub(super) authenticator: Authenticator,
    pub(super) settings: ServerSettings,
    pub(super) in_hand: Arc<Semaphore>,
    pub(super) streams: Arc<Semaphore>,
    /// Cancelled when the server stops: streams end then.
    pub(super) stopping: CancellationToken,
    pub(super) metrics: Arc<Metrics>,
}

impl Pipeline {
    /// Answers a request: the steps, in order.
    pub(super) async fn enter(self, request: http::Request<Body>, begin: Instant) -> PipelineResponse {
        // 1. A name for the request.
        let named = RequestName::new(request_id(request.headers()), request.uri().path());
        // 2. What became of it, and how long it took.
        let called = rules::method(request.uri().path());
        let shared = self.shared.clone();
        // 3. A panic is a fault like any other.
        let answered = AssertUnwindSafe(self.admit(request, begin)).catch_unwind().instrument(named.span.clone()).await;
        shared.finish(&named, called, begin, || answered.unwrap_or_else(|_| Err(Box::new(panicked()))))
    }

    async fn admit(
        mut self,
        mut request: http::Request<Body>,
        begin: Instant,
    ) -> Result<PipelineResponse, Box<Status>> {
        // 4. The gate: gRPC, a path that we serve, nothing behind it.
        let method = match gate(&request) {
            GateOutcome::Roster(method) => method,
            GateOutcome::Standard => {
                self.shared.authenticate(request.headers()).await?;
                return Ok(self.handle(request).await);
            }
            GateOutcome::Answered(response) => return Ok(response),
        };
        // 5. The deadline: from here on, nothing takes longer. (Of a stream, its beginning.)
        let deadline = deadline(request.headers(), &self.shared.settings, begin)?;
        // 6. More than this many at once are shed.
        let places = if method.streaming.any() { &self.shared.streams } else { &self.shared.in_hand };
        let Ok(permit) = places.clone().try_acquire_owned() else {
            return Err(Box::new(status::refused(&Refusal::Overloaded)));
        };
        let place = Arc::new(permit);
        let rest = async {
            // 7. Who is calling, from the headers alone.
            let caller = self.shared.authenticate(request.headers()).await?;
            // 8. Whether this kind of caller may call this method at all.
            rules::method_gate(&method.rule, &caller).map_err(|refusal| Box::new(status::refused(&refusal)))?;
            // 9. The handler, whose first act is the other half: the role in the organization that the message names.
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(Deadline(deadline));
            if method.streaming.any() {
                let stream = self.shared.stream(request.headers(), place, begin)?;
                request.extensions_mut().insert(stream);
            } else {
                request.extensions_mut().insert(CallPermit(place));
            }
            Ok(self.handle(request).await)
        };
        timeout_at(deadline, rest).await.unwrap_or_else(|_| Err(Box::new(status::deadline_exceeded())))
    }

    async fn handle(&mut self, request: http::Request<Body>) -> PipelineResponse {
        let Ok(response) = self.routes.call(request).await;
        response
    }
}

/// What a request is called, on every line that is logged about it and on its answer.
pub(super) struct RequestName {
    id: String,
    span: Span,
}

impl RequestName {
    fn new(id: String, path: &str) -> Self {
        let span = tracing::info_span!("rpc", request_id = id, path);
        Self { id, span }
    }

    /// A request that its caller has not named.
    pub(super) fn at_random(path: &str) -> Self {
        Self::new(random::uuid().to_string(), path)
    }
}

impl ServerState {
    /// The end of every request that took the steps: its answer, counted and logged.
    pub(super) fn finish(
        &self,
        named: &RequestName,
        called: Option<&'static Method>,
        begin: Instant,
        answered: impl FnOnce() -> Result<PipelineResponse, Box<Status>>,
    ) -> PipelineResponse {
        let mut response = named.span.in_scope(|| {
            let response = answered().map(|response| complete(response, message_limit(called)));
            response.unwrap_or_else(|status| status.into_http())
        });
        let code = grpc_code(response.headers());
        self.metrics.count(called, code, begin.elapsed());
        named.span.in_scope(|| tracing::debug!(?code, micros = begin.elapsed().as_micros(), "answered"));
        if let Ok(value) = HeaderValue::from_str(&named.id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }

    /// What a stream with these headers lives on.
    fn stream(
        &self,
        headers: &HeaderMap,
        place: Arc<OwnedSemaphorePermit>,
        begin: Instant,
    ) -> Result<StreamContext, Box<Status>> {
        Ok(StreamContext {
            place,
            credential: StreamCredential::new(self.authenticator.clone(), headers),
            until: given_timeout(headers)?.and_then(|timeout| begin.checked_add(timeout)),
            patience: self.settings.slow_reader,
            stopping: self.stopping.clone(),
        })
    }

    async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Box<Status>> {
        let refused = |refusal| Box::new(status::refused(&refusal));
        self.authenticator.authenticate(headers).await.map_err(refused)
    }
}

/// What is told of a panic. Says it in the log, with the request's name.
pub(super) fn panicked() -> Status {
    #[derive(Debug, thiserror::Error)]
    #[error("a handler panicked")]
    struct Panicked;
    status::internal(&Panicked)
}

/// The caller's own id for the request, if it is short and plain; else a random one.
fn request_id(headers: &HeaderMap) -> String {
    let plain = |id: &&str| {
        (1..=limits::REQUEST_ID_BYTES).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(plain);
    given.map_or_else(|| random::uuid().to_string(), str::to_owned)
}

pub(super) enum GateOutcome {
    Roster(&'static Method),
    Standard,
    Answered(PipelineResponse),
}

pub(super) fn gate<B>(request: &http::Request<B>) -> GateOutcome {
    let refuse = |code: StatusCode| {
        let mut response = http::Response::new(Body::default());
        *response.status_mut() = code;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        GateOutcome::Answered(response)
    };
    if request.method() != Verb::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED);
    }
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !matches!(content_type, "application/grpc" | "application/grpc+proto") {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let path = request.uri().path();
    match rules::method(path) {
        _ if request.uri().query().is_some() => GateOutcome::Answered(status::unknown_method().into_http()),
        Some(method) => GateOutcome::Roster(method),
        None if STANDARD.iter().any(|service| path.starts_with(service)) => GateOutcome::Standard,
        None => GateOutcome::Answered(status::unknown_method().into_http()),
    }
}

/// When the caller stops waiting: `grpc-timeout`, within what the settings allow.
pub(super) fn deadline(headers: &HeaderMap, settings: &ServerSettings, begin: Instant) -> Result<Instant, Box<Status>> {
    let timeout = given_timeout(headers)?.unwrap_or(settings.default_deadline);
    Ok(begin + timeout.min(settings.max_deadline))
}

fn given_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Box<Status>> {
    let mut given = headers.get_all(GRPC_TIMEOUT).iter();
    match (given.next(), given.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => Ok(Some(value.to_str().ok().and_then(parse_timeout).ok_or_else(bad_timeout)?)),
        (Some(_), Some(_)) => Err(Box::new(bad_timeout())),
    }
}

fn bad_timeout() -> Status {
    let sentence = "at most 8 digits and one of H, M, S, m, u, n, as in 500m";
    status::refused(&Refusal::field("grpc-timeout", sentence))
}

/// A `TimeoutValue TimeoutUnit` of the gRPC protocol over HTTP/2.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn grpc_code(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// How large a message a method takes.
fn message_limit(method: Option<&Method>) -> usize {
    match method {
        Some(method) if !method.bulk => crate::grpc::limits::MESSAGE_BYTES,
        Some(_) | None => crate::grpc::limits::BULK_MESSAGE_BYTES,
    }
}

/// Errors that tonic makes itself, before a handler is called, have no details: they get the reason that they stand for.
fn complete(response: PipelineResponse, limit: usize) -> PipelineResponse {
    let Some(code) = grpc_code(response.headers()).filter(|code| *code != Code::Ok) else { return response };
    if response.headers().contains_key(GRPC_DETAILS) {
        return response;
    }
    let status = match code {
        Code::OutOfRange | Code::ResourceExhausted => status::too_large(limit),
        Code::Unimplemented => status::unknown_method(),
        Code::Cancelled | Code::DeadlineExceeded => status::deadline_exceeded(),
        // Health, of a service that it does not know: its protocol says so, and roster's own errors are not meant.
        Code::NotFound => return response,
        // What tonic calls internal here is a body that breaks off or is no gRPC frame.
        _ => status::malformed(),
    };
    status.into_http()
}
