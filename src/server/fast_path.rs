//! The fast path: a `CheckMembership` of a service, after the [preflight](super::preflight), without what only other calls
//! need: a span, the router, tonic's machinery for streams. That is a third of the cost of the call. When the replica can
//! answer, the response does not even wait.
//!
//! The fast path never rejects a request. Anything unusual (a credential that is not cached, a body that has not arrived, a
//! request that carries `x-request-id`, a message that does not decode) goes to the pipeline with the outcome of the
//! preflight and the body unchanged. Only a failure after admission is answered here, by the pipeline's own last step.

use super::body::ResponseBody;
use super::pipeline::{Pipeline, REQUEST_ID, RequestName, panicked};
use super::preflight::AdmittedCall;
use crate::grpc::{AdmittedCheck, CHECK, status};
use crate::service::CallPermit;
use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

/// The outcome of the fast path.
pub(super) enum FastPathOutcome<'s> {
    /// The response is complete.
    Answered(http::Response<ResponseBody>),
    /// An admitted check that the replica cannot answer.
    Pending(PendingCheck),
    /// The pipeline takes the call, and the frame that was read from its body.
    Declined(AdmittedCall<SemaphorePermit<'s>>, Option<Frame<Bytes>>),
}

/// Whether a call may take the fast path.
pub(super) fn is_eligible<P, B>(call: &AdmittedCall<P>, request: &http::Request<B>) -> bool {
    std::ptr::eq(call.method, CHECK) && call.caller.is_some() && !request.headers().contains_key(REQUEST_ID)
}

/// Tries to answer a call. The whole message has to be there, in one frame.
pub(super) fn attempt<'s>(
    pipeline: &'s Pipeline,
    call: AdmittedCall<SemaphorePermit<'s>>,
    request: &mut http::Request<Incoming>,
    start: Instant,
    context: &mut Context<'_>,
) -> FastPathOutcome<'s> {
    let Poll::Ready(Some(Ok(frame))) = Pin::new(request.body_mut()).poll_frame(context) else {
        return FastPathOutcome::Declined(call, None);
    };
    let message = match frame.into_data() {
        Ok(message) => message,
        Err(trailers) => return FastPathOutcome::Declined(call, Some(trailers)),
    };
    if !request.body().is_end_stream() {
        return FastPathOutcome::Declined(call, Some(Frame::data(message)));
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let check = pipeline.api.admit_check(call.caller.as_ref()?.caller(), &message)?;
        Some(pipeline.api.check_now(&check).ok_or(check))
    }));
    match outcome {
        Ok(Some(Ok(frame))) => {
            pipeline.state.metrics.answered_check(start.elapsed());
            FastPathOutcome::Answered(respond(frame))
        }
        Ok(Some(Err(check))) => {
            let permit = CallPermit::new(call.place, &pipeline.state.calls);
            FastPathOutcome::Pending(PendingCheck { check, deadline: call.deadline, _permit: permit })
        }
        Ok(None) | Err(_) => FastPathOutcome::Declined(call, Some(Frame::data(message))),
    }
}

/// A check that waits for its answer.
pub(super) struct PendingCheck {
    check: AdmittedCheck,
    deadline: Instant,
    _permit: CallPermit,
}

impl PendingCheck {
    /// Waits for the answer, at most until the deadline.
    pub(super) async fn answer(self, pipeline: Pipeline, start: Instant) -> http::Response<ResponseBody> {
        let answer = AssertUnwindSafe(pipeline.api.check(&self.check)).catch_unwind();
        match timeout_at(self.deadline, answer).await {
            Ok(Ok(Ok(frame))) => {
                pipeline.state.metrics.answered_check(start.elapsed());
                respond(frame)
            }
            Ok(Ok(Err(error))) => fail(&pipeline, start, || error.into()),
            Ok(Err(_)) => fail(&pipeline, start, panicked),
            Err(_) => fail(&pipeline, start, status::deadline_exceeded),
        }
    }
}

fn fail(pipeline: &Pipeline, start: Instant, status: impl FnOnce() -> Status) -> http::Response<ResponseBody> {
    let name = RequestName::at_random(CHECK.path);
    pipeline.state.finish(&name, Some(CHECK), start, || Err(Box::new(status()))).map(ResponseBody::Pipeline)
}

fn respond(frame: Bytes) -> http::Response<ResponseBody> {
    let mut response = http::Response::new(ResponseBody::Check(Some(frame)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
