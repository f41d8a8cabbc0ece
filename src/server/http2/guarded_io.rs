//! The socket of a connection, with a limit for each wait on the peer.

use super::frames::FrameTracker;
use crate::server::limits;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// What the connection needs to know about its socket, which the HTTP/2 library owns.
#[derive(Debug, Default)]
pub(super) struct SocketActivity {
    /// The number of reads that returned bytes.
    reads: AtomicU32,
    /// Whether the peer has sent its preface and its SETTINGS frame.
    begun: AtomicBool,
    /// Bytes that may still be read in this turn of the connection.
    turn: AtomicUsize,
    /// Whether the connection waits by its own decision.
    paused: AtomicBool,
}

impl SocketActivity {
    pub(super) fn reads(&self) -> u32 {
        self.reads.load(Ordering::Relaxed)
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Starts a turn of the connection, in which this number of bytes may be read.
    pub(super) fn begin_turn(&self, bytes: usize) {
        self.turn.store(bytes, Ordering::Relaxed);
        self.paused.store(false, Ordering::Relaxed);
    }

    /// Returns whether everything was read that this turn allows.
    pub(super) fn is_turn_over(&self) -> bool {
        self.turn.load(Ordering::Relaxed) == 0
    }

    /// Lets nothing be read until the next turn.
    pub(super) fn pause(&self) {
        self.turn.store(0, Ordering::Relaxed);
        self.paused.store(true, Ordering::Relaxed);
    }
}

/// A socket that fails with `TimedOut` if its peer stops in the middle of the preface, a frame or a header block, or does
/// not read, for [`limits::PEER_PAUSE`].
pub(super) struct GuardedIo<T> {
    socket: T,
    activity: Arc<SocketActivity>,
    frames: FrameTracker,
    read_limit: PauseLimit,
    write_limit: PauseLimit,
}

impl<T> GuardedIo<T> {
    pub(super) fn new(socket: T, activity: Arc<SocketActivity>) -> Self {
        let (read_limit, write_limit) = (PauseLimit::default(), PauseLimit::default());
        Self { socket, activity, frames: FrameTracker::new(), read_limit, write_limit }
    }

    fn received(&mut self, bytes: &[u8]) {
        self.activity.reads.fetch_add(1, Ordering::Relaxed);
        if self.frames.push(bytes) {
            self.read_limit.clear();
            self.activity.begun.store(self.frames.has_begun(), Ordering::Relaxed);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for GuardedIo<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.activity.turn.load(Ordering::Relaxed);
        if left == 0 {
            this.read_limit.clear();
            if !this.activity.paused.load(Ordering::Relaxed) {
                // The other connections of the worker, and the calls that these bytes belong to, come first.
                context.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        match poll_read_up_to(left, Pin::new(&mut this.socket), context, buffer) {
            Poll::Ready(outcome) => {
                let received = &buffer.filled()[before..];
                this.activity.turn.store(left - received.len(), Ordering::Relaxed);
                this.received(received);
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                if this.frames.is_incomplete() {
                    ready!(this.read_limit.poll(context));
                    return Poll::Ready(Err(timed_out("the peer stopped in the middle of a frame")));
                }
                Poll::Pending
            }
        }
    }
}

/// Reads at most this number of bytes.
fn poll_read_up_to<T: AsyncRead>(
    bytes: usize,
    socket: Pin<&mut T>,
    context: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    if buffer.remaining() <= bytes {
        return socket.poll_read(context, buffer);
    }
    let mut part = ReadBuf::new(buffer.initialize_unfilled_to(bytes));
    let outcome = ready!(socket.poll_read(context, &mut part));
    let read = part.filled().len();
    buffer.advance(read);
    Poll::Ready(outcome)
}

impl<T: AsyncWrite + Unpin> GuardedIo<T> {
    /// Limits the time in which the socket takes no bytes.
    fn limit_write<R>(&mut self, outcome: Poll<io::Result<R>>, context: &mut Context<'_>) -> Poll<io::Result<R>> {
        if outcome.is_pending() {
            ready!(self.write_limit.poll(context));
            return Poll::Ready(Err(timed_out("the peer does not read")));
        }
        self.write_limit.clear();
        outcome
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for GuardedIo<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.socket).poll_write(context, bytes);
        this.limit_write(outcome, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.socket).poll_write_vectored(context, parts);
        this.limit_write(outcome, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.socket).poll_flush(context);
        this.limit_write(outcome, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.socket).poll_shutdown(context);
        this.limit_write(outcome, context)
    }
}

fn timed_out(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, message)
}

/// The limit of a pause of the peer. It starts with the first poll.
#[derive(Default)]
struct PauseLimit {
    timer: Option<Pin<Box<Sleep>>>,
}

impl PauseLimit {
    const PAUSE: Duration = limits::PEER_PAUSE;

    fn clear(&mut self) {
        self.timer = None;
    }

    /// Ready when the pause has lasted too long.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.timer.get_or_insert_with(|| Box::pin(sleep(Self::PAUSE))).as_mut().poll(context)
    }
}
