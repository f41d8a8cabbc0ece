//! One call on a connection: its path, and its end if the peer resets it.

use super::respond;
use super::response_bytes::ResponseBytes;
use crate::server::connection_state::ConnectionState;
use crate::server::fast_path::{self, FastPathOutcome};
use crate::server::pipeline::{HeldByCall, Pipeline, Response, panicked};
use crate::server::preflight::preflight;
use crate::server::request_body::{RequestBody, release};
use futures_util::FutureExt;
use h2::RecvStream;
use h2::server::SendResponse;
use hyper::body::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Starts a call: answers it at once if the fast path can, else in a task.
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
    let passed =
        catch_unwind(AssertUnwindSafe(|| preflight(&pipeline.state, &head, &connection.last_credential, start)));
    let passed = passed.unwrap_or_else(|_| Err(Box::new(panicked().into_http())));
    let mut first = None;
    if let Ok(call) = &passed
        && fast_path::is_eligible(call, &head)
        && let Poll::Ready(Some(Ok(message))) = stream.poll_data(context)
    {
        release(&mut stream, message.len());
        if stream.is_end_stream() {
            match fast_path::attempt(pipeline, call, &message, start) {
                FastPathOutcome::Answered(frame) => return answer(connection, &mut respond, frame),
                FastPathOutcome::Pending(check) => {
                    let response =
                        fast_path::await_answer(pipeline.clone(), connection.clone(), check, call.deadline, start);
                    return spawn(connection, until_reset(respond, response));
                }
                FastPathOutcome::Declined => {}
            }
        }
        first = Some(message);
    }
    let request = head.map(|()| RequestBody::new(first, stream));
    let response = pipeline.clone().run(connection.clone(), request, passed, start);
    spawn(connection, until_reset(respond, response));
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
async fn until_reset(mut respond: SendResponse<ResponseBytes>, response: impl Future<Output = Response>) {
    let mut response = Box::pin(response);
    let response = std::future::poll_fn(|context| match response.poll_unpin(context) {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending => respond.poll_reset(context).map(|_| None),
    });
    if let Some(response) = response.await {
        respond::send(respond, response).await;
    }
}

/// Sends the answer to a check: at once, if the peer has room for all of it.
fn answer(connection: &Arc<ConnectionState>, respond: &mut SendResponse<ResponseBytes>, frame: Bytes) {
    let (head, frame) = fast_path::response(frame).into_parts();
    // This fails only if the peer has reset the stream, and so does everything below.
    let Ok(mut stream) = respond.send_response(http::Response::from_parts(head, ()), false) else { return };
    stream.reserve_capacity(frame.len());
    if stream.capacity() < frame.len() {
        return spawn(connection, respond::send_rest(stream, fast_path::body(frame), HeldByCall::default(), None));
    }
    let _ = stream.send_data(ResponseBytes::new(frame), false);
    let _ = stream.send_trailers(fast_path::trailers());
}
