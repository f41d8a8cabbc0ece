//! One call on a connection: its path, and its end if the peer resets it.

use super::respond;
use super::response_bytes::ResponseBytes;
use crate::authz::rules;
use crate::clock;
use crate::server::connection_state::ConnectionState;
use crate::server::fast_path::{self, FastPathOutcome, PendingCheck};
use crate::server::pipeline::{HeldByCall, Pipeline, RequestName, Response, panicked};
use crate::server::preflight::preflight;
use crate::server::request_body::{RequestBody, release};
use crate::server::state::PipelineResponse;
use futures_util::FutureExt;
use h2::RecvStream;
use h2::server::SendResponse;
use http::HeaderValue;
use hyper::body::{Body as _, Bytes};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tonic::Status;

/// Starts a call: answers it at once if it is refused or the fast path can answer it, else in a task.
pub(super) fn begin(
    pipeline: &Pipeline,
    connection: &Arc<ConnectionState>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<ResponseBytes>,
    context: &mut Context<'_>,
) {
    let start = Instant::now();
    let (head, mut stream) = request.into_parts();
    let head = http::Request::from_parts(head, ());
    // The panic guard stands before the gate, as in the pipeline: a panic costs its request, not the connection.
    let passed = catch_unwind(AssertUnwindSafe(|| preflight(&pipeline.state, connection, &head, start)));
    let call = match passed {
        Ok(Ok(call)) => call,
        Ok(Err(rejection)) => return refuse(pipeline, connection, &head, respond, start, || Ok(*rejection)),
        Err(_) => return refuse(pipeline, connection, &head, respond, start, || Err(Box::new(panicked()))),
    };
    let first = match stream.poll_data(context) {
        Poll::Ready(Some(Ok(message))) => message,
        // The peer has cancelled the call before the server has seen it.
        Poll::Ready(Some(Err(_))) => return connection.wasted.count(clock::uptime()),
        Poll::Ready(None) | Poll::Pending => Bytes::new(),
    };
    release(&mut stream, first.len());
    let (eligible, has_ended) = (fast_path::is_eligible(&call), stream.is_end_stream());
    if eligible && has_ended {
        match fast_path::attempt(pipeline, &call, &first, start) {
            FastPathOutcome::Answered(frame) => {
                return answer(connection, &mut respond, frame, fast_path::response_name(head.headers()));
            }
            FastPathOutcome::Pending(check) => {
                let check = PendingCheck::new(check, head.headers(), &call, start);
                let response = check.answer(pipeline.clone(), connection.clone());
                return spawn(connection, until_reset(connection.clone(), respond, response));
            }
            FastPathOutcome::Declined => {}
        }
    }
    let from_start = match pipeline.hold(connection, head.headers(), &call) {
        Ok(from_start) => from_start,
        Err(status) => return refuse(pipeline, connection, &head, respond, start, || Err(status)),
    };
    let request = head.map(|()| RequestBody::new(first, stream));
    let (pipeline, state) = (pipeline.clone(), connection.clone());
    if eligible && !has_ended {
        let response = fast_path::await_message(pipeline, state.clone(), request, call, from_start, start);
        spawn(connection, until_reset(state, respond, response));
    } else {
        let response = pipeline.run(state.clone(), request, call, from_start, start);
        spawn(connection, until_reset(state, respond, response));
    }
}

/// Answers a call that is refused before anything else is done for it.
fn refuse(
    pipeline: &Pipeline,
    connection: &Arc<ConnectionState>,
    head: &http::Request<()>,
    mut respond: SendResponse<ResponseBytes>,
    start: Instant,
    outcome: impl FnOnce() -> Result<PipelineResponse, Box<Status>>,
) {
    connection.wasted.count(clock::uptime());
    let path = head.uri().path();
    let (name, method) = (RequestName::of(head.headers(), path), rules::method(path));
    let response = pipeline.state.finish(&name, method, start, outcome);
    if response.body().is_end_stream() {
        // This fails only if the peer has reset the stream.
        let _ = respond.send_response(response.map(drop), true);
    } else {
        let response = Response { response, held: HeldByCall::default() };
        spawn(connection, async {
            let _ = respond::send(respond, response).await;
        });
    }
}

/// Runs a call in a task of the worker. The connection counts as used until the call has ended.
fn spawn(connection: &Arc<ConnectionState>, call: impl Future<Output = ()> + Send + 'static) {
    let open = connection.usage.open_call();
    tokio::spawn(async move {
        call.await;
        drop(open);
    });
}

/// Waits for a response and sends it. A call that the peer resets is dropped.
async fn until_reset(
    connection: Arc<ConnectionState>,
    mut respond: SendResponse<ResponseBytes>,
    response: impl Future<Output = Response>,
) {
    let mut response = Box::pin(response);
    let response = std::future::poll_fn(|context| match respond.poll_reset(context) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => response.poll_unpin(context).map(Some),
    });
    let is_sent = match response.await {
        Some(response) => respond::send(respond, response).await,
        None => false,
    };
    if !is_sent {
        connection.wasted.count(clock::uptime());
    }
}

/// Sends the answer to a check: at once, if the peer has room for all of it.
fn answer(
    connection: &Arc<ConnectionState>,
    respond: &mut SendResponse<ResponseBytes>,
    frame: Bytes,
    name: Option<HeaderValue>,
) {
    let (head, frame) = fast_path::response(frame, name).into_parts();
    let Ok(mut stream) = respond.send_response(http::Response::from_parts(head, ()), false) else {
        // The peer has cancelled the call behind its message.
        return connection.wasted.count(clock::uptime());
    };
    stream.reserve_capacity(frame.len());
    if stream.capacity() < frame.len() {
        let rest = respond::send_rest(stream, fast_path::body(frame), HeldByCall::default(), None);
        return spawn(connection, async {
            let _ = rest.await;
        });
    }
    let _ = stream.send_data(ResponseBytes::new(frame), false);
    let _ = stream.send_trailers(fast_path::trailers());
}
