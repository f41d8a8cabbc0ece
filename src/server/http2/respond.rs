//! Sends responses: as fast as the peer takes them, and never faster.

use super::response_bytes::ResponseBytes;
use crate::grpc::admit::stream::StreamEnd;
use crate::server::limits;
use crate::server::pipeline::{HeldByCall, Response};
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::HeaderMap;
use hyper::body::{Body as _, Bytes, Frame};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;
use tonic::body::Body;

/// The reason why a response cannot be sent.
enum SendError {
    /// The peer has reset the stream, or the connection has ended.
    Gone,
    /// The peer reads too slowly, or the stream has failed: it is reset.
    Reset(Reason),
}

/// Sends a response. What the call holds is returned when the last byte is handed to the socket. Returns false if the peer
/// has cancelled the call.
pub(super) async fn send(mut respond: SendResponse<ResponseBytes>, response: Response) -> bool {
    let Response { response, held } = response;
    let (mut head, body) = response.into_parts();
    let end = head.extensions.remove::<StreamEnd>();
    let head = http::Response::from_parts(head, ());
    let Ok(stream) = respond.send_response(head, body.is_end_stream()) else { return false };
    body.is_end_stream() || send_rest(stream, body, held, end).await
}

/// Sends the body of a response. `end` can end a stream of messages early. Returns false if the peer has cancelled the call.
pub(super) async fn send_rest(
    mut stream: SendStream<ResponseBytes>,
    body: Body,
    held: HeldByCall,
    end: Option<StreamEnd>,
) -> bool {
    let (held, sent) = TrackedHold::new(held);
    let outcome = Sender { stream: &mut stream, end }.send_body(body, Arc::new(held)).await;
    let outcome = match outcome {
        // The peer may have made its window smaller since the library took the last bytes.
        Ok(()) => timeout(limits::PEER_PAUSE, sent).await.map(drop).map_err(|_| SendError::Reset(Reason::CANCEL)),
        Err(error) => Err(error),
    };
    if let Err(SendError::Reset(reason)) = outcome {
        stream.send_reset(reason);
    }
    !matches!(outcome, Err(SendError::Gone))
}

/// What a call holds, with a note of when it is returned.
struct TrackedHold {
    held: HeldByCall,
    _sent: oneshot::Sender<()>,
}

impl TrackedHold {
    fn new(held: HeldByCall) -> (Self, oneshot::Receiver<()>) {
        let (sender, sent) = oneshot::channel();
        (Self { held, _sent: sender }, sent)
    }
}

/// Sends the body of one response.
struct Sender<'s> {
    stream: &'s mut SendStream<ResponseBytes>,
    /// The early end of a stream of messages.
    end: Option<StreamEnd>,
}

impl Sender<'_> {
    async fn send_body(&mut self, mut body: Body, mut held: Arc<TrackedHold>) -> Result<(), SendError> {
        loop {
            let frame = poll_fn(|context| poll_frame(self.stream, &mut body, context)).await?;
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => {
                    // At the first piece, which is the whole message of a unary call, nothing else holds on to it.
                    if let Some(TrackedHold { held, .. }) = Arc::get_mut(&mut held) {
                        held.shrink(data.len());
                    }
                    if let Some(status) = self.send_data(data, &held).await? {
                        return self.end(&status);
                    }
                }
                Some(Err(frame)) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return self.stream.send_trailers(trailers).map_err(|_| SendError::Gone);
                }
                None => {
                    return self.stream.send_data(ResponseBytes::new(Bytes::new()), true).map_err(|_| SendError::Gone);
                }
            }
        }
    }

    /// Sends data in pieces for which the peer has room. Returns the status of a stream that ends before the peer has room
    /// for the first piece. Behind the first piece, the rest has to follow.
    async fn send_data(&mut self, mut data: Bytes, held: &Arc<TrackedHold>) -> Result<Option<Status>, SendError> {
        let (start, mut sent) = (Instant::now(), 0);
        while !data.is_empty() {
            self.stream.reserve_capacity(data.len().min(limits::SEND_BUFFER));
            if self.stream.capacity() == 0 {
                let room = timeout_at(slowest(start, sent), poll_fn(|context| poll_room(self.stream, context)));
                let room = match self.end.clone().filter(|_| sent == 0) {
                    None => room.await,
                    Some(end) => tokio::select! {
                        biased;
                        room = room => room,
                        status = end.ended() => return Ok(Some(status)),
                    },
                };
                room.map_err(|_| SendError::Reset(Reason::CANCEL))??;
            }
            let piece = data.split_to(self.stream.capacity().min(data.len()));
            sent += piece.len();
            self.stream.send_data(ResponseBytes::holding(piece, held.clone()), false).map_err(|_| SendError::Gone)?;
        }
        Ok(None)
    }

    /// Ends a stream of messages with this status.
    fn end(&mut self, status: &Status) -> Result<(), SendError> {
        let mut trailers = HeaderMap::new();
        // A status whose details are no header, which does not exist, is sent as it is.
        let _ = status.add_header(&mut trailers);
        self.stream.send_trailers(trailers).map_err(|_| SendError::Gone)
    }
}

/// The next frame of the body; `Gone` as soon as the peer resets the stream.
fn poll_frame(
    stream: &mut SendStream<ResponseBytes>,
    body: &mut Body,
    context: &mut Context<'_>,
) -> Poll<Result<Option<Frame<Bytes>>, SendError>> {
    if stream.poll_reset(context).is_ready() {
        return Poll::Ready(Err(SendError::Gone));
    }
    let frame = ready!(Pin::new(body).poll_frame(context)).transpose();
    Poll::Ready(frame.map_err(|_| SendError::Reset(Reason::INTERNAL_ERROR)))
}

/// Ready when the peer has room for a part of the data.
fn poll_room(stream: &mut SendStream<ResponseBytes>, context: &mut Context<'_>) -> Poll<Result<(), SendError>> {
    if stream.poll_reset(context).is_ready() {
        return Poll::Ready(Err(SendError::Gone));
    }
    loop {
        match ready!(stream.poll_capacity(context)) {
            Some(Ok(0)) => {}
            Some(Ok(_)) => return Poll::Ready(Ok(())),
            Some(Err(_)) | None => return Poll::Ready(Err(SendError::Gone)),
        }
    }
}

/// The moment at which a peer reads too slowly if it takes nothing else of this data.
fn slowest(start: Instant, sent: usize) -> Instant {
    let seconds = u32::try_from(sent / limits::SLOWEST_READER).unwrap_or(u32::MAX);
    start + limits::PEER_PAUSE + Duration::from_secs(1) * seconds
}
