//! The requests of one connection: each passes the preflight, then takes the fast path or the pipeline.

use super::fast_path::{self, FastPathOutcome, PendingCheck};
use super::pipeline::Pipeline;
use super::preflight::{Preflight, PreflightRejection, preflight};
use crate::authn::LastCredential;
use crate::service::CallPermit;
use futures_util::FutureExt;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tonic::body::Body;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The state that the requests of one connection share.
pub(super) struct ConnectionState {
    pipeline: Pipeline,
    last_credential: LastCredential,
}

impl ConnectionState {
    pub(super) fn new(pipeline: Pipeline) -> Self {
        Self { pipeline, last_credential: LastCredential::default() }
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
                    let request = request.map(|rest| Body::new(PrefixedBody { first, rest }));
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
    let ConnectionState { pipeline, last_credential } = connection;
    let (preflight, frame) = match preflight(&pipeline.state, request, last_credential, start) {
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

/// The body of a response.
pub(super) enum ResponseBody {
    /// One message in its frame, then the trailers of a success.
    Check(Option<Bytes>),
    /// The body of a response of the pipeline.
    Pipeline(Body),
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            // The trailers end the body: hyper does not poll after them.
            Self::Check(message) => Poll::Ready(Some(Ok(match message.take() {
                Some(message) => Frame::data(message),
                None => Frame::trailers(HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))])),
            }))),
            Self::Pipeline(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Check(_) => false,
            Self::Pipeline(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Check(_) => SizeHint::default(),
            Self::Pipeline(body) => body.size_hint(),
        }
    }
}

/// A request body of which a frame was read: the frame, then the rest.
struct PrefixedBody {
    first: Option<Frame<Bytes>>,
    rest: Incoming,
}

impl hyper::body::Body for PrefixedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}
