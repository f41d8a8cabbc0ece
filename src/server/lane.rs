//! The fast lane: a `CheckMembership` that can be answered at once goes through the steps of the [door](super::door) here,
//! in the same order and by the same functions, but without what only slower calls need: a span, a timer, a future that
//! may wait, the router, and tonic's machinery for streams. That is a third of what the call costs.
//!
//! It only ever says yes, so to speak: whatever is out of the ordinary (a fault, a caller not met before, a body that is
//! not there yet, a name for the request, a question that memory cannot answer) is not decided here. The request goes
//! the ordinary way from its first step, with its body as it was.

use super::door::{Door, Gate, deadline, gate};
use crate::auth::rules;
use crate::grpc::CHECK;
use futures_util::future::poll_immediate;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tonic::body::Body;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Answers the request, or gives it back for the ordinary way.
pub(super) async fn answer(
    door: &Door,
    mut request: http::Request<Incoming>,
    begin: Instant,
) -> Result<http::Response<Answer>, http::Request<Body>> {
    if !may_enter(door, &request, begin) {
        return Err(request.map(Body::new));
    }
    let shared = &door.shared;
    // Held while it is answered; what is too much is shed by the ordinary way.
    let Ok(_in_hand) = shared.in_hand.try_acquire() else { return Err(request.map(Body::new)) };
    let Some(caller) = shared.authenticator.recall(request.headers()) else { return Err(request.map(Body::new)) };
    if rules::method_gate(&CHECK.rule, caller.caller()).is_err() {
        return Err(request.map(Body::new));
    }
    // The whole message in one piece, or not here.
    let Some(Some(Ok(frame))) = poll_immediate(request.body_mut().frame()).await else {
        return Err(request.map(Body::new));
    };
    let message = match frame.into_data() {
        Ok(message) => message,
        Err(trailers) => return Err(request.map(|rest| Body::new(Begun { first: Some(trailers), rest }))),
    };
    let whole = hyper::body::Body::is_end_stream(request.body());
    let answered = catch_unwind(AssertUnwindSafe(|| whole.then(|| door.api.check_now(caller.caller(), &message))?));
    if let Ok(Some(frame)) = answered {
        shared.metrics.answered_check(begin.elapsed());
        return Ok(respond(frame));
    }
    Err(request.map(|rest| Body::new(Begun { first: Some(Frame::data(message)), rest })))
}

/// The gate and the deadline; and nobody asked for the request to be named.
fn may_enter(door: &Door, request: &http::Request<Incoming>, begin: Instant) -> bool {
    matches!(gate(request), Gate::Roster(method) if std::ptr::eq(method, CHECK))
        && !request.headers().contains_key(super::door::REQUEST_ID)
        && deadline(request.headers(), &door.shared.settings, begin).is_ok()
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
