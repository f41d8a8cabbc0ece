//! The requests of one connection: each passes the preflight, then takes the fast path or the pipeline.

use super::body::{PrefixedBody, ResponseBody};
use super::fast_path::{self, FastPathOutcome, PendingCheck};
use super::pipeline::{Pipeline, panicked};
use super::preflight::{Preflight, PreflightRejection, preflight};
use crate::authn::LastCredential;
use crate::grpc::admit::stream::StreamBudget;
use crate::server::limits;
use crate::service::CallPermit;
use futures_util::FutureExt;
use hyper::body::{Bytes, Frame, Incoming};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tonic::body::Body;

/// The state that the requests of one connection share.
pub(super) struct ConnectionState {
    pipeline: Pipeline,
    last_credential: LastCredential,
    /// The connection's part of the budget of its streams.
    stream_budget: StreamBudget,
}

impl ConnectionState {
    pub(super) fn new(pipeline: Pipeline) -> Self {
        let stream_budget = pipeline.state.stream_budget.connection(limits::CONNECTION_STREAM_BYTES);
        Self { pipeline, last_credential: LastCredential::default(), stream_budget }
    }
}

/// The response to one request. A hand-written future: it is moved several times before its first poll, and an `async fn`
/// would be several times as large.
pub(super) struct ResponseFuture {
    connection: Arc<ConnectionState>,
    state: State,
}

#[expect(clippy::large_enum_variant, reason = "this saves a box for every request")]
enum State {
    /// Not polled yet.
    Received(http::Request<Incoming>),
    Responding(Pin<Box<dyn Future<Output = http::Response<ResponseBody>> + Send>>),
    Done,
}

impl ResponseFuture {
    pub(super) fn new(connection: Arc<ConnectionState>, request: http::Request<Incoming>) -> Self {
        Self { connection, state: State::Received(request) }
    }
}

impl Future for ResponseFuture {
    type Output = Result<http::Response<ResponseBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let State::Received(request) = &mut this.state {
            let start = Instant::now();
            let outcome = choose_path(&this.connection, request, start, context);
            let State::Received(request) = std::mem::replace(&mut this.state, State::Done) else {
                return Poll::Pending;
            };
            let pipeline = || this.connection.pipeline.clone();
            this.state = match outcome {
                RequestPath::Answered(response) => return Poll::Ready(Ok(response)),
                RequestPath::Check(check) => State::Responding(Box::pin(check.answer(pipeline(), start))),
                RequestPath::Pipeline(preflight, first) => {
                    let mut request = request;
                    request.extensions_mut().insert(this.connection.stream_budget.clone());
                    let request = request.map(|rest| Body::new(PrefixedBody::new(first, rest)));
                    let response = pipeline().run(request, preflight, start);
                    State::Responding(Box::pin(response.map(|response| response.map(ResponseBody::Pipeline))))
                }
            };
        }
        match &mut this.state {
            State::Responding(response) => response.as_mut().poll(context).map(Ok),
            State::Received(_) | State::Done => Poll::Pending,
        }
    }
}

/// The path of a request behind the preflight.
enum RequestPath {
    /// The fast path has answered the request.
    Answered(http::Response<ResponseBody>),
    /// The fast path, which waits for an answer.
    Check(PendingCheck),
    /// The pipeline, with the outcome of the preflight and the frame that the fast path read from the body.
    Pipeline(Result<Preflight<CallPermit>, PreflightRejection>, Option<Frame<Bytes>>),
}

fn choose_path(
    connection: &ConnectionState,
    request: &mut http::Request<Incoming>,
    start: Instant,
    context: &mut Context<'_>,
) -> RequestPath {
    let ConnectionState { pipeline, last_credential, .. } = connection;
    // The panic guard stands before the gate, as in the pipeline: a panic costs its request, not the connection.
    let preflight = catch_unwind(AssertUnwindSafe(|| preflight(&pipeline.state, request, last_credential, start)));
    let (preflight, frame) = match preflight.unwrap_or_else(|_| Err(Box::new(panicked().into_http()))) {
        Ok(Preflight::Call(call)) if fast_path::is_eligible(&call, request) => {
            match fast_path::attempt(pipeline, call, request, start, context) {
                FastPathOutcome::Answered(response) => return RequestPath::Answered(response),
                FastPathOutcome::Pending(check) => return RequestPath::Check(check),
                FastPathOutcome::Declined(call, frame) => (Ok(Preflight::Call(call)), frame),
            }
        }
        outcome => (outcome, None),
    };
    RequestPath::Pipeline(preflight.map(|passed| passed.into_owned(&pipeline.state)), frame)
}
