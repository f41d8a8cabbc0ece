//! One HTTP/2 connection, from its first byte to its end.

use super::call;
use super::guarded_io::{GuardedIo, SocketActivity};
use super::response_bytes::ResponseBytes;
use crate::clock;
use crate::reset_causes;
use crate::server::connection_state::ConnectionState;
use crate::server::connections::ConnectionEnd;
use crate::server::limits;
use crate::server::pipeline::Pipeline;
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};

/// Serves a connection until it ends.
///
/// # Errors
/// If the peer breaks the protocol, stops in the middle of a frame, does not read, or is gone.
pub(in crate::server) async fn serve<T>(
    socket: T,
    pipeline: Pipeline,
    connection: Arc<ConnectionState>,
) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let activity = Arc::new(SocketActivity::default());
    activity.begin_turn(limits::FIRST_TURN_BYTES);
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .data_frame_budget(limits::SMALL_FRAMES)
        .max_send_buffer_size(limits::SEND_BUFFER)
        .max_pending_accept_reset_streams(limits::RESET_CALLS)
        .handshake(GuardedIo::new(socket, activity.clone()));
    let mut http2 = tokio::select! {
        biased;
        // Nothing was promised to this peer.
        _ = connection.usage.clone().ended_by_server() => return Ok(()),
        http2 = handshake => http2?,
    };
    let keep_alive = KeepAlive::new(http2.ping_pong(), activity.clone());
    let ended: EndFuture = Box::pin(connection.usage.clone().ended());
    let mut served = ServedConnection {
        http2,
        pipeline,
        connection,
        arrived: Vec::new(),
        keep_alive,
        closing: ClosePhase::Open(ended),
        turn: limits::FIRST_TURN_BYTES,
        pause: None,
        activity,
    };
    std::future::poll_fn(|context| served.poll(context)).await
}

type ArrivedCall = (http::Request<RecvStream>, SendResponse<ResponseBytes>);

struct ServedConnection<T> {
    http2: Connection<GuardedIo<T>, ResponseBytes>,
    pipeline: Pipeline,
    connection: Arc<ConnectionState>,
    /// The calls that arrived with one wake-up.
    arrived: Vec<ArrivedCall>,
    keep_alive: KeepAlive,
    closing: ClosePhase,
    /// The bytes of the current turn.
    turn: usize,
    /// The end of a pause, in which the connection is not read.
    pause: Option<Pin<Box<Sleep>>>,
    activity: Arc<SocketActivity>,
}

type EndFuture = Pin<Box<dyn Future<Output = ConnectionEnd> + Send>>;

/// The end of a connection that the server wants.
enum ClosePhase {
    /// Resolves when the connection has to end.
    Open(EndFuture),
    /// The peer knows that the connection has reached its maximum age. It ends with its last call. The first future
    /// resolves when it has to end before; at the end of the second one its streams end.
    Aged(EndFuture, Pin<Box<Sleep>>),
    /// Its streams have ended. At the end of this time it is closed.
    StreamsEnded(Pin<Box<Sleep>>),
    /// The peer knows that the connection ends. At the end of this time it is closed if no call is open. From a moment on,
    /// if there is one, its streams end.
    Announced(Pin<Box<Sleep>>, Option<Instant>),
}

impl<T: AsyncRead + AsyncWrite + Unpin> ServedConnection<T> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if self.poll_closing(context).is_ready() {
            self.http2.abrupt_shutdown(Reason::NO_ERROR);
            // One attempt to send what is left, GOAWAY included.
            let _ = self.http2.poll_closed(context);
            // The next connection of this thread has nothing to do with a cause from here.
            drop(reset_causes::take());
            return Poll::Ready(Ok(()));
        }
        if self.keep_alive.poll(context).is_ready() {
            return Poll::Ready(Err(Reason::NO_ERROR.into()));
        }
        self.begin_turn(context);
        // The second round sends the answers of the first. Then the other connections of the worker get their turn.
        for _ in 0..2 {
            // All calls that have arrived first: their answers then leave in one write.
            let accepted = self.accept(context);
            if let Some(cause) = reset_causes::take() {
                self.pipeline.state.log_reset(self.connection.peer.key, &cause);
            }
            if accepted.is_ready() {
                return accepted;
            }
            if self.arrived.is_empty() {
                return Poll::Pending;
            }
            for (request, respond) in self.arrived.drain(..) {
                call::begin(&self.pipeline, &self.connection, request, respond, context);
            }
            self.connection.usage.used();
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Decides how much may be read until the next poll. A connection with many wasted calls is read more slowly.
    fn begin_turn(&mut self, context: &mut Context<'_>) {
        let longer = limits::TURN_BYTES.min(self.turn * 2);
        let mut turn = if self.activity.is_turn_over() { longer } else { self.turn };
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(context).is_pending() {
                    return self.activity.pause();
                }
                self.pause = None;
                turn = limits::FIRST_TURN_BYTES;
                if self.connection.wasted.is_paid(clock::uptime()) {
                    turn = limits::PAID_TURN_BYTES;
                }
            }
            let pause = self.connection.wasted.pause(clock::uptime());
            if pause.is_zero() {
                self.turn = turn;
                return self.activity.begin_turn(turn);
            }
            self.pause = Some(Box::pin(sleep(pause)));
        }
    }

    /// Takes all calls that have arrived. Ready when the connection has ended.
    fn accept(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            match ready!(self.http2.poll_accept(context)) {
                Some(Ok(call)) => self.arrived.push(call),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    fn aged(&self) -> ClosePhase {
        let state = &self.pipeline.state;
        let ended = self.connection.usage.clone().ended_by_server();
        ClosePhase::Aged(Box::pin(ended), Box::pin(sleep(state.settings.connection_age_grace)))
    }

    /// Ready when the connection has to be closed now.
    fn poll_closing(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.closing {
                ClosePhase::Open(ended) => {
                    let end = ready!(ended.as_mut().poll(context));
                    if end == ConnectionEnd::Evicted || !self.activity.has_begun() {
                        return Poll::Ready(());
                    }
                    // The library announces the last call after a round trip, and ends the connection with it.
                    self.http2.graceful_shutdown();
                    self.closing = match end {
                        ConnectionEnd::Aged => {
                            self.pipeline.state.metrics.connection_closed("age");
                            self.aged()
                        }
                        ConnectionEnd::Expired => {
                            let grace = self.pipeline.state.settings.connection_age_grace;
                            ClosePhase::announced(Instant::now().checked_add(grace))
                        }
                        ConnectionEnd::Evicted | ConnectionEnd::Stopping => ClosePhase::announced(None),
                    };
                }
                ClosePhase::Aged(ended, grace) => match ended.as_mut().poll(context) {
                    Poll::Ready(ConnectionEnd::Evicted) => return Poll::Ready(()),
                    Poll::Ready(ConnectionEnd::Aged | ConnectionEnd::Stopping | ConnectionEnd::Expired) => {
                        self.closing = ClosePhase::announced(None);
                    }
                    Poll::Pending => {
                        ready!(grace.as_mut().poll(context));
                        self.connection.usage.streams_end().cancel();
                        self.closing = ClosePhase::StreamsEnded(Box::pin(sleep(limits::GOAWAY_TIME)));
                    }
                },
                ClosePhase::StreamsEnded(end) => return end.as_mut().poll(context),
                ClosePhase::Announced(end, streams_end) => {
                    ready!(end.as_mut().poll(context));
                    if self.connection.usage.open_calls() == 0 {
                        return Poll::Ready(());
                    }
                    *end = Box::pin(sleep(limits::GOAWAY_TIME));
                    if streams_end.is_some_and(|time| time <= Instant::now()) {
                        self.connection.usage.streams_end().cancel();
                        self.closing = ClosePhase::StreamsEnded(Box::pin(sleep(limits::GOAWAY_TIME)));
                    }
                }
            }
        }
    }
}

impl ClosePhase {
    fn announced(streams_end: Option<Instant>) -> Self {
        Self::Announced(Box::pin(sleep(limits::GOAWAY_TIME)), streams_end)
    }
}

/// Detects a peer that vanished without closing: it pings a peer that was silent for [`limits::KEEP_ALIVE`], and gives it
/// the same time to answer.
struct KeepAlive {
    pings: Option<PingPong>,
    activity: Arc<SocketActivity>,
    /// The number of reads when the timer was last set.
    reads: u32,
    timer: Pin<Box<Sleep>>,
    pinged: bool,
}

impl KeepAlive {
    fn new(pings: Option<PingPong>, activity: Arc<SocketActivity>) -> Self {
        let reads = activity.reads();
        Self { pings, activity, reads, timer: Box::pin(sleep(limits::KEEP_ALIVE)), pinged: false }
    }

    /// Ready when the peer has not answered.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(context).is_ready() {
            let reads = self.activity.reads();
            let silent = reads == self.reads;
            if silent && self.pinged {
                return Poll::Ready(());
            }
            self.reads = reads;
            self.pinged = silent;
            if let Some(pings) = &mut self.pings {
                // Takes the answer to the former ping: the library sends no ping before that.
                let _ = pings.poll_pong(context);
                if silent {
                    let _ = pings.send_ping(Ping::opaque());
                }
            }
            self.timer = Box::pin(sleep(limits::KEEP_ALIVE));
        }
        Poll::Pending
    }
}
