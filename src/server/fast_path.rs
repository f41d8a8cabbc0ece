//! The fast lane: a `CheckMembership` of a service goes through the steps of the [door](super::pipeline) here, in the same
//! order and by the same functions, but without what only other calls need: a span, the router, tonic's machinery for
//! streams. That is a third of what the call costs. If memory answers, it does not even wait.
//!
//! Nobody is turned away here: whatever is out of the ordinary (a fault, a caller not met before, a body that is not
//! there yet, a name for the request) is not decided. The request goes the ordinary way from its first step, with its
//! body as it was. Only what goes wrong after it was let in is told from here, by the door's own last step.

use super::pipeline::{GateOutcome, Pipeline, REQUEST_ID, RequestName, deadline, gate, panicked};
use crate::authn::LastCredential;
use crate::authz::rules;
use crate::grpc::{AdmittedCheck, CHECK, status};
use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What the requests of one connection share.
pub(super) struct ConnectionState {
    pipeline: Pipeline,
    shown: LastCredential,
}

impl ConnectionState {
    pub(super) fn new(pipeline: Pipeline) -> Self {
        Self { pipeline, shown: LastCredential::default() }
    }
}

/// A request on its way to its answer. A future made by hand, because it is moved about before it is looked at, and an
/// `async fn` would be several times as large.
pub(super) struct ResponseFuture {
    connection: Arc<ConnectionState>,
    state: State,
}

#[expect(clippy::large_enum_variant, reason = "a box for every request is what this saves")]
enum State {
    /// Not looked at yet.
    New(http::Request<Incoming>),
    Waiting(Pin<Box<dyn Future<Output = http::Response<ResponseBody>> + Send>>),
    Over,
}

impl ResponseFuture {
    pub(super) fn new(connection: Arc<ConnectionState>, request: http::Request<Incoming>) -> Self {
        Self { connection, state: State::New(request) }
    }
}

impl Future for ResponseFuture {
    type Output = Result<http::Response<ResponseBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let State::New(request) = &mut this.state {
            let begin = Instant::now();
            let entered = enter(&this.connection, request, begin, context);
            let State::New(request) = std::mem::replace(&mut this.state, State::Over) else { return Poll::Pending };
            this.state = match entered {
                FastPathOutcome::Answered(response) => return Poll::Ready(Ok(response)),
                FastPathOutcome::PendingCheck(asks) => {
                    State::Waiting(Box::pin(asks.answer(this.connection.clone(), begin)))
                }
                FastPathOutcome::Not(piece) => {
                    let pipeline = this.connection.pipeline.clone();
                    let request = request.map(|rest| Body::new(PrefixedBody { first: piece, rest }));
                    State::Waiting(Box::pin(
                        pipeline.enter(request, begin).map(|response| response.map(ResponseBody::Other)),
                    ))
                }
            };
        }
        match &mut this.state {
            State::Waiting(answer) => answer.as_mut().poll(context).map(Ok),
            State::New(_) | State::Over => Poll::Pending,
        }
    }
}

/// What came of a request's entering the lane.
enum FastPathOutcome {
    Answered(http::Response<ResponseBody>),
    /// It is let in, and memory cannot answer.
    PendingCheck(PendingCheck),
    /// It goes the ordinary way; this piece of its body was read.
    Not(Option<Frame<Bytes>>),
}

fn enter(
    connection: &ConnectionState,
    request: &mut http::Request<Incoming>,
    begin: Instant,
    context: &mut Context<'_>,
) -> FastPathOutcome {
    let pipeline = &connection.pipeline;
    let shared = &pipeline.shared;
    let Some(deadline) = may_enter(pipeline, request, begin) else { return FastPathOutcome::Not(None) };
    // Held while it is answered; what is too much is shed by the ordinary way.
    let Ok(in_hand) = shared.in_hand.try_acquire() else { return FastPathOutcome::Not(None) };
    let Some(caller) = shared.authenticator.recall(request.headers(), &connection.shown) else {
        return FastPathOutcome::Not(None);
    };
    if rules::method_gate(&CHECK.rule, caller.caller()).is_err() {
        return FastPathOutcome::Not(None);
    }
    // The whole message in one piece, or not here.
    let Poll::Ready(Some(Ok(frame))) = Pin::new(request.body_mut()).poll_frame(context) else {
        return FastPathOutcome::Not(None);
    };
    let message = match frame.into_data() {
        Ok(message) => message,
        Err(trailers) => return FastPathOutcome::Not(Some(trailers)),
    };
    if !request.body().is_end_stream() {
        return FastPathOutcome::Not(Some(Frame::data(message)));
    }
    let answered = catch_unwind(AssertUnwindSafe(|| {
        let asked = pipeline.api.read_check(caller.caller(), &message)?;
        Some(pipeline.api.check_now(&asked).ok_or(asked))
    }));
    match answered {
        Ok(Some(Ok(frame))) => {
            shared.metrics.answered_check(begin.elapsed());
            FastPathOutcome::Answered(respond(frame))
        }
        Ok(Some(Err(asked))) => {
            // Now for longer than this look.
            drop(in_hand);
            match shared.in_hand.clone().try_acquire_owned() {
                Ok(in_hand) => FastPathOutcome::PendingCheck(PendingCheck { asked, deadline, _in_hand: in_hand }),
                Err(_) => FastPathOutcome::Not(Some(Frame::data(message))),
            }
        }
        Ok(None) | Err(_) => FastPathOutcome::Not(Some(Frame::data(message))),
    }
}

/// The gate and the deadline; and nobody asked for the request to be named.
fn may_enter<B>(pipeline: &Pipeline, request: &http::Request<B>, begin: Instant) -> Option<Instant> {
    let check = matches!(gate(request), GateOutcome::Roster(method) if std::ptr::eq(method, CHECK));
    let unnamed = check && !request.headers().contains_key(REQUEST_ID);
    unnamed.then(|| deadline(request.headers(), &pipeline.shared.settings, begin).ok())?
}

/// A check that waits for its answer.
struct PendingCheck {
    asked: AdmittedCheck,
    deadline: Instant,
    _in_hand: OwnedSemaphorePermit,
}

impl PendingCheck {
    async fn answer(self, connection: Arc<ConnectionState>, begin: Instant) -> http::Response<ResponseBody> {
        let pipeline = &connection.pipeline;
        let asked = AssertUnwindSafe(pipeline.api.check_soon(&self.asked)).catch_unwind();
        let answered = timeout_at(self.deadline, asked).await;
        match answered {
            Ok(Ok(Ok(frame))) => {
                pipeline.shared.metrics.answered_check(begin.elapsed());
                respond(frame)
            }
            Ok(Ok(Err(error))) => failed(pipeline, begin, || error.into()),
            Ok(Err(_)) => failed(pipeline, begin, panicked),
            Err(_) => failed(pipeline, begin, status::deadline_exceeded),
        }
    }
}

fn failed(pipeline: &Pipeline, begin: Instant, what: impl FnOnce() -> Status) -> http::Response<ResponseBody> {
    let named = RequestName::at_random(CHECK.path);
    pipeline.shared.finish(&named, Some(CHECK), begin, || Err(Box::new(what()))).map(ResponseBody::Other)
}

fn respond(frame: Bytes) -> http::Response<ResponseBody> {
    let mut response = http::Response::new(ResponseBody::Check(Some(frame)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The body of an answer.
pub(super) enum ResponseBody {
    /// One message, in its frame, and that all is well.
    Check(Option<Bytes>),
    /// Whatever the ordinary way answers.
    Other(Body),
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            // Its end is said by the trailers, and nobody asks behind them.
            Self::Check(message) => Poll::Ready(Some(Ok(match message.take() {
                Some(message) => Frame::data(message),
                None => Frame::trailers(HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))])),
            }))),
            Self::Other(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Check(_) => false,
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Check(_) => SizeHint::default(),
            Self::Other(body) => body.size_hint(),
        }
    }
}

/// A body of which a piece has been read, and is put back.
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
