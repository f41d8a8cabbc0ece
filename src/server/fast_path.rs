//! The fast path: a `CheckMembership`, after the [preflight](super::preflight), without what only other calls
//! need: a span, the router, tonic's machinery for streams. That is a third of the cost of the call. When the replica can
//! answer, the response does not even wait.
//!
//! The fast path never rejects a request because of its content. Anything unusual (a token that is not cached, a message
//! that does not decode, an invalid field) goes to the pipeline with the outcome of the preflight and the body unchanged.
//! Only a message that does not arrive, and a failure after admission, are answered here, by the pipeline's own last step.

use super::connection_state::ConnectionState;
use super::message;
use super::pipeline::{HeldByCall, HeldFromStart, Pipeline, REQUEST_ID, RequestName, Response, panicked, request_id};
use super::preflight::AdmittedCall;
use super::request_body::RequestBody;
use super::shares::CallClass;
use super::stream_record::GRPC_STATUS;
use crate::grpc::admit::CallTimes;
use crate::grpc::{AdmittedCheck, CHECK, limits, status};
use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tracing::Instrument;

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
pub(super) fn is_eligible(call: &AdmittedCall) -> bool {
    std::ptr::eq(call.method, CHECK) && call.caller.is_some()
}

/// The name of a request in its response, if the request has one.
pub(super) fn response_name(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.contains_key(REQUEST_ID).then(|| request_id(headers))
}

/// Tries to answer a call with this body.
pub(super) fn attempt(pipeline: &Pipeline, call: &AdmittedCall, body: &[u8], start: Instant) -> FastPathOutcome {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let check = pipeline.api.admit_check(call.caller.as_ref()?, body)?;
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

/// Waits for the message of a check, and answers the check as [`attempt`] does.
pub(super) async fn await_message(
    pipeline: Pipeline,
    connection: Arc<ConnectionState>,
    request: http::Request<RequestBody>,
    call: AdmittedCall,
    mut from_start: HeldFromStart,
    start: Instant,
) -> Response {
    let (head, mut body) = request.into_parts();
    let read = message::read(&mut body, limits::MESSAGE_BYTES, &mut from_start.bytes, &connection.shares);
    let message = match timeout_at(call.deadline, read).await {
        Ok(Ok(message)) => message,
        Ok(Err(status)) => return fail(&pipeline, &RequestName::of(&head.headers, CHECK.path), start, || status),
        Err(_) => {
            let name = RequestName::of(&head.headers, CHECK.path);
            return fail(&pipeline, &name, start, || Box::new(status::deadline_exceeded()));
        }
    };
    match attempt(&pipeline, &call, &message, start) {
        FastPathOutcome::Answered(frame) => answered(frame, response_name(&head.headers)),
        FastPathOutcome::Pending(check) => {
            PendingCheck::new(check, &head.headers, &call, start).answer(pipeline, connection).await
        }
        FastPathOutcome::Declined => {
            let request = http::Request::from_parts(head, body.again(message));
            pipeline.run(connection, request, call, from_start, start).await
        }
    }
}

/// A check that waits for the primary.
pub(super) struct PendingCheck {
    check: AdmittedCheck,
    name: RequestName,
    /// The name in the response.
    response_name: Option<HeaderValue>,
    deadline: Instant,
    start: Instant,
}

impl PendingCheck {
    pub(super) fn new(check: AdmittedCheck, headers: &HeaderMap, call: &AdmittedCall, start: Instant) -> Self {
        let name = RequestName::of(headers, CHECK.path);
        let response_name = headers.contains_key(REQUEST_ID).then(|| name.id().clone());
        Self { check, name, response_name, deadline: call.deadline, start }
    }

    /// Waits for the answer, at most until the deadline.
    pub(super) async fn answer(self, pipeline: Pipeline, connection: Arc<ConnectionState>) -> Response {
        let Self { check, name, response_name, deadline, start } = self;
        let state = &pipeline.state;
        let answer = async {
            let place = connection.shares.place(CallClass::Check);
            let _place = place.map_err(|_| state.overloaded("places", CallClass::Check))?;
            pipeline.api.check(&check).await.map_err(|error| Box::new(error.into()))
        };
        let answer = AssertUnwindSafe(answer).catch_unwind().instrument(name.span().clone());
        // The message may have come long after the headers.
        let (times, begin) = (CallTimes::new(start, deadline), Instant::now());
        match timeout_at(times.last_answer(CHECK, begin), answer).await {
            Ok(Ok(Ok(frame))) => {
                state.metrics.answered_check(start.elapsed());
                answered(frame, response_name)
            }
            Ok(Ok(Err(status))) => fail(&pipeline, &name, start, || status),
            Ok(Err(_)) => fail(&pipeline, &name, start, || Box::new(panicked())),
            Err(_) => fail(&pipeline, &name, start, || Box::new(times.unanswered(CHECK, begin))),
        }
    }
}

fn answered(frame: Bytes, name: Option<HeaderValue>) -> Response {
    Response { response: response(frame, name).map(body), held: HeldByCall::default() }
}

fn fail(pipeline: &Pipeline, name: &RequestName, start: Instant, status: impl FnOnce() -> Box<Status>) -> Response {
    let response = pipeline.state.finish(name, Some(CHECK), start, || Err(status()));
    Response { response, held: HeldByCall::default() }
}

/// The response with this frame, and with the name of the request if it has one.
pub(super) fn response(frame: Bytes, name: Option<HeaderValue>) -> http::Response<Bytes> {
    let mut response = http::Response::new(frame);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(name) = name {
        response.headers_mut().insert(REQUEST_ID, name);
    }
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
