//! The fast path: a `CheckMembership` of a service, after the [preflight](super::preflight), without what only other calls
//! need: a span, the router, tonic's machinery for streams. That is a third of the cost of the call. When the replica can
//! answer, the response does not even wait.
//!
//! The fast path never rejects a request. Anything unusual (a credential that is not cached, a body that has not arrived, a
//! request that carries `x-request-id`, a message that does not decode) goes to the pipeline with the outcome of the
//! preflight and the body unchanged. Only a failure after admission is answered here, by the pipeline's own last step.

use super::connection_state::ConnectionState;
use super::pipeline::{HeldByCall, Pipeline, REQUEST_ID, RequestName, Response, panicked};
use super::preflight::AdmittedCall;
use super::shares::CallClass;
use crate::grpc::admit::CallTimes;
use crate::grpc::{AdmittedCheck, CHECK, status};
use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The outcome of the fast path.
pub(super) enum FastPathOutcome {
    /// The frame of the answer.
    Answered(Bytes),
    /// An admitted check that the replica cannot answer.
    Pending(AdmittedCheck),
    /// The pipeline takes the call.
    Declined,
}

/// Whether a call may take the fast path.
pub(super) fn is_eligible<B>(call: &AdmittedCall, request: &http::Request<B>) -> bool {
    std::ptr::eq(call.method, CHECK) && call.caller.is_some() && !request.headers().contains_key(REQUEST_ID)
}

/// Tries to answer a call with this body.
pub(super) fn attempt(pipeline: &Pipeline, call: &AdmittedCall, body: &[u8], start: Instant) -> FastPathOutcome {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let check = pipeline.api.admit_check(call.caller.as_ref()?.caller(), body)?;
        Some(pipeline.api.check_now(&check).ok_or(check))
    }));
    match outcome {
        Ok(Some(Ok(frame))) => {
            pipeline.state.metrics.answered_check(start.elapsed());
            FastPathOutcome::Answered(frame)
        }
        Ok(Some(Err(check))) => FastPathOutcome::Pending(check),
        Ok(None) | Err(_) => FastPathOutcome::Declined,
    }
}

/// Waits for the answer to a check, at most until the deadline.
pub(super) async fn await_answer(
    pipeline: Pipeline,
    connection: Arc<ConnectionState>,
    check: AdmittedCheck,
    deadline: Instant,
    start: Instant,
) -> Response {
    let _place = match connection.shares.place(CallClass::Check) {
        Ok(place) => place,
        Err(refusal) => return fail(&pipeline, start, || status::refused(&refusal)),
    };
    let answer = AssertUnwindSafe(pipeline.api.check(&check)).catch_unwind();
    let times = CallTimes::new(start, deadline);
    match timeout_at(times.last_answer(CHECK, start), answer).await {
        Ok(Ok(Ok(frame))) => {
            pipeline.state.metrics.answered_check(start.elapsed());
            Response { response: response(frame).map(body), held: HeldByCall::default() }
        }
        Ok(Ok(Err(error))) => fail(&pipeline, start, || error.into()),
        Ok(Err(_)) => fail(&pipeline, start, panicked),
        Err(_) => fail(&pipeline, start, || times.unanswered(CHECK, start)),
    }
}

fn fail(pipeline: &Pipeline, start: Instant, status: impl FnOnce() -> Status) -> Response {
    let name = RequestName::at_random(CHECK.path);
    let response = pipeline.state.finish(&name, Some(CHECK), start, || Err(Box::new(status())));
    Response { response, held: HeldByCall::default() }
}

/// The response with this frame.
pub(super) fn response(frame: Bytes) -> http::Response<Bytes> {
    let mut response = http::Response::new(frame);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The body of a response: its frame, then the trailers.
pub(super) fn body(frame: Bytes) -> Body {
    Body::new(Full::new(frame).with_trailers(std::future::ready(Some(Ok(trailers())))))
}

/// The trailers of a success.
pub(super) fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))])
}
