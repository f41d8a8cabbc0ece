//! The fast lane: a `CheckMembership` of a service goes through the steps of the [door](super::door) here, in the same
//! order and by the same functions, but without what only other calls need: a span, the router, tonic's machinery for
//! streams. That is a third of what the call costs. If memory answers, it does not even wait.
//!
//! Nobody is turned away here: whatever is out of the ordinary (a fault, a caller not met before, a body that is not
//! there yet, a name for the request) is not decided. The request goes the ordinary way from its first step, with its
//! body as it was. Only what goes wrong after it was let in is told from here, by the door's own last step.

use super::door::{Door, Gate, Named, REQUEST_ID, deadline, gate, panicked};
use crate::auth::{Shown, rules};
use crate::grpc::{CHECK, LetIn, status};
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
pub(super) struct Connection {
    door: Door,
    shown: Shown,
}

impl Connection {
    pub(super) fn new(door: Door) -> Self {
        Self { door, shown: Shown::default() }
    }
}

/// A request on its way to its answer. A future made by hand, because it is moved about before it is looked at, and an
/// `async fn` would be several times as large.
pub(super) struct Answering {
    connection: Arc<Connection>,
    state: State,
}

#[expect(clippy::large_enum_variant, reason = "a box for every request is what this saves")]
enum State {
    /// Not looked at yet.
    New(http::Request<Incoming>),
    Waiting(Pin<Box<dyn Future<Output = http::Response<Answer>> + Send>>),
    Over,
}

impl Answering {
    pub(super) fn new(connection: Arc<Connection>, request: http::Request<Incoming>) -> Self {
        Self { connection, state: State::New(request) }
    }
}

impl Future for Answering {
    type Output = Result<http::Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let State::New(request) = &mut this.state {
            let begin = Instant::now();
            let entered = enter(&this.connection, request, begin, context);
            let State::New(request) = std::mem::replace(&mut this.state, State::Over) else { return Poll::Pending };
            this.state = match entered {
                Entered::Answered(response) => return Poll::Ready(Ok(response)),
                Entered::Asks(asks) => State::Waiting(Box::pin(asks.answer(this.connection.clone(), begin))),
                Entered::Not(piece) => {
                    let door = this.connection.door.clone();
                    let request = request.map(|rest| Body::new(Begun { first: piece, rest }));
                    State::Waiting(Box::pin(door.enter(request, begin).map(|response| response.map(Answer::Other))))
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
enum Entered {
    Answered(http::Response<Answer>),
    /// It is let in, and memory cannot answer.
    Asks(Asks),
    /// It goes the ordinary way; this piece of its body was read.
    Not(Option<Frame<Bytes>>),
}

fn enter(
    connection: &Connection,
    request: &mut http::Request<Incoming>,
    begin: Instant,
    context: &mut Context<'_>,
) -> Entered {
    let door = &connection.door;
    let shared = &door.shared;
    let Some(deadline) = may_enter(door, request, begin) else { return Entered::Not(None) };
    // Held while it is answered; what is too much is shed by the ordinary way.
    let Ok(in_hand) = shared.in_hand.try_acquire() else { return Entered::Not(None) };
    let Some(caller) = shared.authenticator.recall(request.headers(), &connection.shown) else {
        return Entered::Not(None);
    };
    if rules::method_gate(&CHECK.rule, caller.caller()).is_err() {
        return Entered::Not(None);
    }
    // The whole message in one piece, or not here.
    let Poll::Ready(Some(Ok(frame))) = Pin::new(request.body_mut()).poll_frame(context) else {
        return Entered::Not(None);
    };
    let message = match frame.into_data() {
        Ok(message) => message,
        Err(trailers) => return Entered::Not(Some(trailers)),
    };
    if !request.body().is_end_stream() {
        return Entered::Not(Some(Frame::data(message)));
    }
    let answered = catch_unwind(AssertUnwindSafe(|| {
        let asked = door.api.read_check(caller.caller(), &message)?;
        Some(door.api.check_now(&asked).ok_or(asked))
    }));
    match answered {
        Ok(Some(Ok(frame))) => {
            shared.metrics.answered_check(begin.elapsed());
            Entered::Answered(respond(frame))
        }
        Ok(Some(Err(asked))) => {
            // Now for longer than this look.
            drop(in_hand);
            match shared.in_hand.clone().try_acquire_owned() {
                Ok(in_hand) => Entered::Asks(Asks { asked, deadline, _in_hand: in_hand }),
                Err(_) => Entered::Not(Some(Frame::data(message))),
            }
        }
        Ok(None) | Err(_) => Entered::Not(Some(Frame::data(message))),
    }
}

/// The gate and the deadline; and nobody asked for the request to be named.
fn may_enter<B>(door: &Door, request: &http::Request<B>, begin: Instant) -> Option<Instant> {
    let check = matches!(gate(request), Gate::Roster(method) if std::ptr::eq(method, CHECK));
    let unnamed = check && !request.headers().contains_key(REQUEST_ID);
    unnamed.then(|| deadline(request.headers(), &door.shared.settings, begin).ok())?
}

/// A check that waits for its answer.
struct Asks {
    asked: LetIn,
    deadline: Instant,
    _in_hand: OwnedSemaphorePermit,
}

impl Asks {
    async fn answer(self, connection: Arc<Connection>, begin: Instant) -> http::Response<Answer> {
        let door = &connection.door;
        let asked = AssertUnwindSafe(door.api.check_soon(&self.asked)).catch_unwind();
        let answered = timeout_at(self.deadline, asked).await;
        match answered {
            Ok(Ok(Ok(frame))) => {
                door.shared.metrics.answered_check(begin.elapsed());
                respond(frame)
            }
            Ok(Ok(Err(error))) => failed(door, begin, || error.into()),
            Ok(Err(_)) => failed(door, begin, panicked),
            Err(_) => failed(door, begin, status::deadline_exceeded),
        }
    }
}

fn failed(door: &Door, begin: Instant, what: impl FnOnce() -> Status) -> http::Response<Answer> {
    let named = Named::at_random(CHECK.path);
    door.shared.finish(&named, Some(CHECK), begin, || Err(Box::new(what()))).map(Answer::Other)
}

fn respond(frame: Bytes) -> http::Response<Answer> {
    let mut response = http::Response::new(Answer::Check(Some(frame)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The body of an answer.
pub(super) enum Answer {
    /// One message, in its frame, and that all is well.
    Check(Option<Bytes>),
    /// Whatever the ordinary way answers.
    Other(Body),
}

impl hyper::body::Body for Answer {
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
struct Begun {
    first: Option<Frame<Bytes>>,
    rest: Incoming,
}

impl hyper::body::Body for Begun {
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
