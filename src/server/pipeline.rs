//! The pipeline: every step from a request that passed the [preflight](super::preflight) to its response.
//!
//! A test holds the order of the steps: nothing is authenticated before the gate, no body is read before the caller is
//! known. A check may take the [fast path](super::fast_path) instead, after the same preflight. A response of the fast path
//! has an `x-request-id` only if the request has one, because no log line belongs to it; every other response, errors
//! included, has one.

use super::connection_state::ConnectionState;
use super::message;
use super::preflight::{AdmittedCall, requested_timeout};
use super::request_body::RequestBody;
use super::shares::{CallClass, Charge, ConnectionShares, ConnectionStream, Place, RequestCharge};
use super::state::{PipelineResponse, ServerState};
use super::stream_record::{RecordedBody, StreamRecord, grpc_code, log_answer};
use crate::authn::{Caller, StreamCredential};
use crate::authz::rules::{self, Method};
use crate::clock;
use crate::domain::Refusal;
use crate::grpc::admit::stream::{StreamContext, StreamEnd};
use crate::grpc::admit::{Api, CallTimes};
use crate::grpc::status;
use crate::random;
use crate::server::limits;
use crate::service::CallPermit;
use futures_util::FutureExt;
use http::header::{ALLOW, HeaderMap, HeaderName, HeaderValue};
use http_body_util::Full;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;
use tracing::{Instrument, Span};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// A response, with what its call holds until it is sent.
pub(super) struct Response {
    pub(super) response: PipelineResponse,
    pub(super) held: HeldByCall,
}

/// What a call holds from its start: taken without waiting, so that a call that cannot have it costs nothing else.
pub(super) struct HeldFromStart {
    pub(super) bytes: RequestCharge,
    stream: Option<ConnectionStream>,
    /// The place of a stream of health or reflection. Other calls take theirs when their message has been read.
    place: Option<Place>,
}

/// What a call holds until its response is sent.
#[derive(Default)]
pub(super) struct HeldByCall {
    place: Option<CallPermit>,
    /// For a stream, which returns its place when it ends: a peer that does not read keeps it on the connection.
    stream: Option<ConnectionStream>,
    response: Charge,
}

impl HeldByCall {
    /// Returns what was reserved beyond the real size of the response, in bytes.
    pub(super) fn shrink(&mut self, bytes: usize) {
        self.response.shrink(bytes);
    }
}

/// The steps of every request, and the handlers behind them.
#[derive(Clone)]
pub(super) struct Pipeline {
    pub(super) routes: Routes,
    /// The handlers, for the fast path.
    pub(super) api: Api,
    pub(super) state: Arc<ServerState>,
}

impl Pipeline {
    /// Takes what a call holds from its start.
    pub(super) fn hold(
        &self,
        connection: &ConnectionState,
        headers: &HeaderMap,
        call: &AdmittedCall,
    ) -> Result<HeldFromStart, Box<Status>> {
        let class = CallClass::of(call.method, call.caller.as_deref().unwrap_or(&Caller::Anonymous));
        let stream = connection.shares.stream(class).map_err(|most| {
            self.state.metrics.call_refused("connection_streams", class.as_str());
            Box::new(status::connection_full(most))
        })?;
        let bytes = connection.shares.request(size(headers));
        let bytes = bytes.map_err(|_| self.state.overloaded("request_bytes", class))?;
        let place = (class == CallClass::StandardStream).then(|| connection.shares.place(class)).transpose();
        let place = place.map_err(|_| self.state.overloaded("places", class))?;
        Ok(HeldFromStart { bytes, stream, place })
    }

    /// Responds to a request that passed the preflight.
    pub(super) async fn run(
        self,
        connection: Arc<ConnectionState>,
        request: http::Request<RequestBody>,
        call: AdmittedCall,
        from_start: HeldFromStart,
        start: Instant,
    ) -> Response {
        let method = call.method;
        let name = RequestName::of(request.headers(), method.path);
        let (state, mut held) = (self.state.clone(), HeldByCall::default());
        // The panic guard: a panic is answered like any other fault.
        let outcome = self.dispatch(&connection, request, call, from_start, start, &mut held);
        let outcome = AssertUnwindSafe(outcome).catch_unwind().instrument(name.span.clone()).await;
        // Metrics, the log line, the request's name.
        let outcome = || outcome.unwrap_or_else(|_| Err(Box::new(panicked())));
        let response = state.finish(&name, Some(method), start, outcome);
        Response { response, held }
    }

    async fn dispatch(
        self,
        connection: &ConnectionState,
        request: http::Request<RequestBody>,
        AdmittedCall { method, deadline, caller }: AdmittedCall,
        HeldFromStart { mut bytes, stream, place }: HeldFromStart,
        start: Instant,
        held: &mut HeldByCall,
    ) -> Result<PipelineResponse, Box<Status>> {
        let times = CallTimes::new(start, deadline);
        let commit = times.commit.clone();
        held.stream = stream;
        let rest = async {
            let caller = match caller {
                Some(caller) => caller,
                // Authentication, from the headers alone; then the method gate.
                None => self.verify(connection, request.headers(), method).await?,
            };
            let class = CallClass::of(method, &caller);
            let overloaded = |reason: &'static str| self.state.overloaded(reason, class);
            // The message, then a place among the calls under way.
            let mut request = read_message(request, method, &connection.shares, &mut bytes).await?;
            if !method.streaming.server {
                let room = connection.shares.response(largest_response(method));
                let room = timeout(limits::RESPONSE_WAIT, room).await;
                held.response = room.map_err(|_| overloaded("response_bytes"))?;
            }
            let place = match place {
                Some(place) => place,
                None => connection.shares.place(class).map_err(|_| overloaded("places"))?,
            };
            let place = CallPermit::new(place);
            // The handler. It starts with the other half of authorization: the role in the organization that the message
            // names.
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(times.clone());
            if method.streaming.any() {
                // A stream returns its place when it ends, whether or not its caller has read everything.
                let context = self.state.stream_context(connection, request.headers(), place, start)?;
                request.extensions_mut().insert(context);
            } else {
                request.extensions_mut().insert(place.clone());
                held.place = Some(place);
            }
            answer(self.routes, request, method, &times).await
        };
        let late = |_| if commit.forbid() { status::deadline_exceeded() } else { status::commit_unknown() };
        timeout_at(deadline, rest).await.unwrap_or_else(|elapsed| Err(Box::new(late(elapsed))))
    }

    /// Identifies a caller whose token is not cached, and applies the method gate.
    async fn verify(
        &self,
        connection: &ConnectionState,
        headers: &HeaderMap,
        method: &Method,
    ) -> Result<Arc<Caller>, Box<Status>> {
        let caller = self.state.authenticator.authenticate(headers, &connection.peer.authn).await;
        let caller = caller.map_err(|refusal| {
            connection.wasted.count(clock::uptime());
            refuse(&refusal)
        })?;
        rules::method_gate(&method.rule, &caller).map_err(|refusal| refuse(&refusal))?;
        Ok(caller)
    }
}

/// Calls the handler. A handler waits for nothing but the datastore: if it has not answered in time and has committed
/// nothing, the datastore is silent.
async fn answer(
    mut routes: Routes,
    request: http::Request<Body>,
    method: &Method,
    times: &CallTimes,
) -> Result<PipelineResponse, Box<Status>> {
    let begin = Instant::now();
    let mut response = pin!(routes.call(request));
    let Ok(response) = match timeout_at(times.last_answer(method, begin), &mut response).await {
        Ok(response) => response,
        Err(_) if times.commit.forbid() => return Err(Box::new(times.unanswered(method, begin))),
        // A write is committed at this moment: the deadline bounds it.
        Err(_) => response.await,
    };
    Ok(response)
}

/// Reads the message of a unary call. A stream of messages is read by its handler.
async fn read_message(
    request: http::Request<RequestBody>,
    method: &Method,
    shares: &ConnectionShares,
    bytes: &mut RequestCharge,
) -> Result<http::Request<Body>, Box<Status>> {
    let most = message_limit(Some(method));
    let (head, mut body) = request.into_parts();
    let body = if method.streaming.client {
        Body::new(body.of_messages(most))
    } else {
        Body::new(Full::new(message::read(&mut body, most, bytes, shares).await?))
    };
    Ok(http::Request::from_parts(head, body))
}

#[expect(clippy::unnecessary_box_returns, reason = "the error of a result that has to stay small")]
fn refuse(refusal: &Refusal) -> Box<Status> {
    Box::new(status::refused(refusal))
}

/// The size of the headers of a request in memory, in bytes, by the measure of HTTP/2 (RFC 9113 §10.5.1).
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// The size of the largest response to a method, in bytes.
fn largest_response(method: &Method) -> usize {
    if method.pages {
        crate::grpc::limits::PAGE_BYTES
    } else if method.bulk {
        crate::grpc::limits::BULK_MESSAGE_BYTES
    } else {
        limits::SMALL_RESPONSE
    }
}

/// The name of a request: on every line that is logged about it, and on its response.
pub(super) struct RequestName {
    id: HeaderValue,
    span: Span,
}

impl RequestName {
    /// The name of a request with these headers and this path.
    pub(super) fn of(headers: &HeaderMap, path: &str) -> Self {
        let id = request_id(headers);
        let span = tracing::info_span!("rpc", request_id = id.to_str().unwrap_or_default(), path);
        Self { id, span }
    }

    pub(super) fn id(&self) -> &HeaderValue {
        &self.id
    }

    pub(super) fn span(&self) -> &Span {
        &self.span
    }
}

impl ServerState {
    /// The last step of every request outside the fast path: completes the response, counts it and logs it. A stream is
    /// counted and logged when it ends.
    pub(super) fn finish(
        &self,
        name: &RequestName,
        method: Option<&'static Method>,
        start: Instant,
        outcome: impl FnOnce() -> Result<PipelineResponse, Box<Status>>,
    ) -> PipelineResponse {
        let mut response = name.span.in_scope(|| {
            let response = outcome().map(|response| complete(response, message_limit(method)));
            response.unwrap_or_else(|status| status.into_http())
        });
        // The answer to another protocol has no status of gRPC. Only such an answer names the methods of HTTP.
        let other_protocol = response.headers().contains_key(ALLOW).then_some(Code::Unimplemented);
        let code = grpc_code(response.headers()).or(other_protocol);
        if code.is_none() && method.is_some_and(|method| method.streaming.server) {
            // Its code comes in the trailers, perhaps after days.
            let (metrics, span) = (self.metrics.clone(), name.span.clone());
            let end = response.extensions().get::<StreamEnd>().cloned();
            let record = StreamRecord { metrics, method, start, span, end, code: None };
            response = response.map(|body| RecordedBody::with_record(body, record));
        } else {
            // A success has its code in the trailers, which come later.
            let code = code.unwrap_or(Code::Ok);
            self.metrics.count(method, code, start.elapsed());
            log_answer(&name.span, code, start);
        }
        response.headers_mut().insert(REQUEST_ID, name.id.clone());
        response
    }

    /// What a stream with these headers needs while it is open.
    fn stream_context(
        &self,
        connection: &ConnectionState,
        headers: &HeaderMap,
        permit: CallPermit,
        start: Instant,
    ) -> Result<StreamContext, Box<Status>> {
        Ok(StreamContext {
            permit,
            credential: StreamCredential::new(
                self.authenticator.clone(),
                headers,
                connection.recent_credentials.certificate().cloned(),
                connection.peer.authn.clone(),
            ),
            until: requested_timeout(headers)?.and_then(|timeout| start.checked_add(timeout)),
            shares: self.stream_shares.clone(),
            budget: connection.stream_budget.clone(),
            slow_reader: self.settings.slow_reader,
            stopping: connection.usage.streams_end().clone(),
        })
    }

    /// Counts a call that is refused because something that it needs is used up. `reason` is a label of the metric.
    #[expect(clippy::unnecessary_box_returns, reason = "the error of a result that has to stay small")]
    pub(super) fn overloaded(&self, reason: &'static str, class: CallClass) -> Box<Status> {
        self.metrics.call_refused(reason, class.as_str());
        refuse(&Refusal::Overloaded)
    }
}

/// The status of a panic. Logs it, with the request's name.
pub(super) fn panicked() -> Status {
    #[derive(Debug, thiserror::Error)]
    #[error("a handler panicked")]
    struct HandlerPanic;
    status::internal(&HandlerPanic)
}

/// The caller's own id for the request, if it is short and plain; else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |id: &&HeaderValue| {
        (1..=limits::REQUEST_ID_BYTES).contains(&id.len())
            && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    let id = headers.get(REQUEST_ID).filter(plain).cloned();
    id.or_else(|| HeaderValue::try_from(random::log_id().to_string()).ok())
        .unwrap_or(HeaderValue::from_static("unnamed"))
}

/// The largest message that a method takes, in bytes.
fn message_limit(method: Option<&Method>) -> usize {
    match method {
        Some(method) if method.standard => crate::grpc::limits::STANDARD_MESSAGE_BYTES,
        Some(method) if !method.bulk => crate::grpc::limits::MESSAGE_BYTES,
        Some(_) | None => crate::grpc::limits::BULK_MESSAGE_BYTES,
    }
}

/// Adds the reason to an error that tonic made itself, before a handler was called: such an error has no details.
fn complete(response: PipelineResponse, limit: usize) -> PipelineResponse {
    let Some(code) = grpc_code(response.headers()).filter(|code| *code != Code::Ok) else { return response };
    if response.headers().contains_key(GRPC_DETAILS) {
        return response;
    }
    let status = match code {
        Code::OutOfRange | Code::ResourceExhausted => status::too_large(limit),
        Code::Unimplemented => status::unknown_method(),
        Code::Cancelled | Code::DeadlineExceeded => status::deadline_exceeded(),
        // Health, about an unknown service: the health protocol defines this error, so it stays as it is.
        Code::NotFound => return response,
        // tonic answers INTERNAL to a body that breaks off or is no gRPC frame.
        _ => status::malformed(),
    };
    status.into_http()
}
