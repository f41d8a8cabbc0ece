//! The preflight: the steps of every request that need neither its body nor a wait, in one order.
//!
//! The [pipeline](super::pipeline) and the [fast path](super::fast_path) start from the same [`preflight`], so a new step
//! stands in one place. The order: gate, deadline, load shedding, cached credential, method gate. A caller whose credential
//! is not cached is authenticated by the pipeline, which then applies the method gate.

use super::ServerSettings;
use super::state::{PipelineResponse, ServerState};
use crate::authn::{CachedCaller, LastCredential};
use crate::authz::rules::{self, Method};
use crate::domain::Refusal;
use crate::grpc::status;
use crate::service::CallPermit;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method as Verb, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Services that are not roster's own. They are public: they report whether roster runs and what its protos define.
const STANDARD: [&str; 3] =
    ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

/// A request that passed the preflight. `P` is its place among the calls under way.
pub(super) enum Preflight<P> {
    /// A method of health or reflection. These are outside the limits on calls.
    Standard,
    /// A method of roster.
    Call(AdmittedCall<P>),
}

/// A call of one of roster's methods that passed the preflight.
pub(super) struct AdmittedCall<P> {
    pub(super) method: &'static Method,
    /// The moment at which the caller stops waiting. For a stream: to begin.
    pub(super) deadline: Instant,
    pub(super) place: P,
    /// The caller, if the credential is cached and the method gate has admitted it; `None` if the credential has to be
    /// verified.
    pub(super) caller: Option<CachedCaller>,
}

/// The response to a request that did not pass.
pub(super) type PreflightRejection = Box<PipelineResponse>;

/// Runs the preflight of a request that arrived at `start`.
pub(super) fn preflight<'s, B>(
    state: &'s ServerState,
    request: &http::Request<B>,
    last_credential: &LastCredential,
    start: Instant,
) -> Result<Preflight<SemaphorePermit<'s>>, PreflightRejection> {
    // The gate: gRPC, a path that is served, nothing behind it.
    let Some(method) = gate(request)? else { return Ok(Preflight::Standard) };
    // The deadline.
    let deadline = deadline(request.headers(), &state.settings, start).map_err(|status| reject(*status))?;
    // Load shedding: a place among the calls under way.
    let place = state.places(method).try_acquire().map_err(|_| refuse(&Refusal::Overloaded))?;
    // The caller, if the credential is cached.
    let caller = state.authenticator.recall(request.headers(), last_credential);
    // Whether this kind of caller may call this method at all.
    if let Some(caller) = &caller {
        rules::method_gate(&method.rule, caller.caller()).map_err(|refusal| refuse(&refusal))?;
    }
    Ok(Preflight::Call(AdmittedCall { method, deadline, place, caller }))
}

impl ServerState {
    /// The places of the calls, or of the streams.
    fn places(&self, method: &Method) -> &Arc<Semaphore> {
        if method.streaming.any() { &self.streams } else { &self.calls }
    }
}

impl Preflight<SemaphorePermit<'_>> {
    /// Detaches the place from the borrow of the semaphore.
    pub(super) fn into_owned(self, state: &ServerState) -> Preflight<CallPermit> {
        match self {
            Self::Standard => Preflight::Standard,
            Self::Call(AdmittedCall { method, deadline, place, caller }) => {
                let place = CallPermit::new(place, state.places(method));
                Preflight::Call(AdmittedCall { method, deadline, place, caller })
            }
        }
    }
}

#[expect(clippy::unnecessary_box_returns, reason = "the error of a result that has to stay small")]
fn reject(status: Status) -> PreflightRejection {
    Box::new(status.into_http())
}

#[expect(clippy::unnecessary_box_returns, reason = "the error of a result that has to stay small")]
fn refuse(refusal: &Refusal) -> PreflightRejection {
    reject(status::refused(refusal))
}

/// The method that a request calls; `None` for health and reflection.
fn gate<B>(request: &http::Request<B>) -> Result<Option<&'static Method>, PreflightRejection> {
    let refuse = |code: StatusCode| {
        let mut response = http::Response::new(Body::default());
        *response.status_mut() = code;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        Err(Box::new(response))
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
        _ if request.uri().query().is_some() => Err(reject(status::unknown_method())),
        Some(method) => Ok(Some(method)),
        None if STANDARD.iter().any(|service| path.starts_with(service)) => Ok(None),
        None => Err(reject(status::unknown_method())),
    }
}

/// The moment at which the caller stops waiting: `grpc-timeout`, within the server's settings.
fn deadline(headers: &HeaderMap, settings: &ServerSettings, start: Instant) -> Result<Instant, Box<Status>> {
    let timeout = requested_timeout(headers)?.unwrap_or(settings.default_deadline);
    Ok(start + timeout.min(settings.max_deadline))
}

/// The caller's `grpc-timeout`, if the request has one.
pub(super) fn requested_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Box<Status>> {
    let mut values = headers.get_all(GRPC_TIMEOUT).iter();
    match (values.next(), values.next()) {
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
