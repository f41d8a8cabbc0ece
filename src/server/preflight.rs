//! The preflight: the steps of every request that need neither its body nor a wait, in one order.
//!
//! The [pipeline](super::pipeline) and the [fast path](super::fast_path) start from the same [`preflight`], so a new step
//! stands in one place. The order: gate, deadline, credential, method gate. A caller with a token that is not cached is
//! authenticated by the pipeline, which then applies the method gate.

use super::ServerSettings;
use super::connection_state::ConnectionState;
use super::other_protocols;
use super::state::{PipelineResponse, ServerState};
use crate::authn::Caller;
use crate::authz::rules::{self, Method};
use crate::domain::Refusal;
use crate::grpc::status;
use crate::limited_log::excerpt;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A call that passed the preflight.
pub(super) struct AdmittedCall {
    pub(super) method: &'static Method,
    /// The moment at which the caller stops waiting. For a stream: to begin.
    pub(super) deadline: Instant,
    /// The caller, if the method gate has admitted it; `None` if its token has to be verified first.
    pub(super) caller: Option<Arc<Caller>>,
}

/// The response to a request that did not pass.
pub(super) type PreflightRejection = Box<PipelineResponse>;

/// Runs the preflight of a request that arrived at `start`.
pub(super) fn preflight<B>(
    state: &ServerState,
    connection: &ConnectionState,
    request: &http::Request<B>,
    start: Instant,
) -> Result<AdmittedCall, PreflightRejection> {
    // The gate: gRPC, a path that is served, nothing behind it.
    let method = gate(request)?;
    // The deadline.
    let deadline = deadline(request.headers(), &state.settings, start).map_err(|status| reject(*status))?;
    let refuse = |refusal| reject(status::refused(&refusal));
    // The caller, if that needs no signature. Health and reflection are for every peer and look at no credential.
    let caller = if method.standard {
        Some(state.authenticator.anonymous())
    } else {
        let ConnectionState { recent_credentials, peer, .. } = connection;
        state.authenticator.recognize(request.headers(), recent_credentials, &peer.authn).map_err(refuse)?
    };
    // Whether this kind of caller may call this method at all.
    if let Some(caller) = &caller {
        rules::method_gate(&method.rule, caller).map_err(refuse)?;
    }
    Ok(AdmittedCall { method, deadline, caller })
}

#[expect(clippy::unnecessary_box_returns, reason = "the error of a result that has to stay small")]
fn reject(status: Status) -> PreflightRejection {
    Box::new(status.into_http())
}

/// The method that a request calls.
fn gate<B>(request: &http::Request<B>) -> Result<&'static Method, PreflightRejection> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !other_protocols::is_grpc(request.method(), content_type) {
        return Err(Box::new(other_protocols::response(request, content_type)));
    }
    let path = request.uri().path();
    let method = rules::method(path).filter(|_| request.uri().query().is_none());
    let method = method.ok_or_else(|| reject(status::unknown_method()))?;
    uncompressed(request.headers()).map_err(|status| reject(*status))?;
    Ok(method)
}

/// Refuses a request that names an encoding of its messages.
fn uncompressed(headers: &HeaderMap) -> Result<(), Box<Status>> {
    match headers.get_all(GRPC_ENCODING).iter().find(|value| *value != "identity") {
        None => Ok(()),
        Some(encoding) => {
            Err(Box::new(status::compressed(Some(&excerpt(&String::from_utf8_lossy(encoding.as_bytes()))))))
        }
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
