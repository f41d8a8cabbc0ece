//! The response of a stream, and the end that a task of the stream gives it.
//!
//! A transport polls a response only while its peer can take something. So the task [`guard`] and not the response decides
//! when a stream has to end: it drops the messages and whatever else the stream holds at that moment, and announces the
//! status by [`StreamEnd`]. A transport that waits for its peer waits for the `StreamEnd` too.

use super::StreamPermit;
use super::budget::BudgetCharge;
use crate::domain::Refusal;
use crate::grpc::{limits, status};
use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::sync::{SetOnce, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;

/// The end of a stream before its last message: an extension of the response. Clones wait for the same end.
///
/// When it comes, the stream has dropped its messages. The transport drops what it has not sent, and sends the status; if
/// a message was sent in part, it resets the stream.
#[derive(Debug, Clone, Default)]
pub struct StreamEnd(Arc<SetOnce<Status>>);

impl StreamEnd {
    /// Waits until the stream has to end. Returns the status that it ends with. Never returns for a stream that ends with
    /// its last message. Cancel safe.
    pub async fn ended(&self) -> Status {
        self.0.wait().await.clone()
    }

    /// The status that the stream ends with, once it has to end before its last message.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        self.0.get()
    }
}

/// The messages of a stream.
pub trait MessageSource: Stream + Unpin + Send + 'static {
    /// Whether a message waits to be taken.
    fn has_message(&self) -> bool;
}

/// What the response of a stream and its task share.
struct StreamState<S> {
    progress: Mutex<StreamProgress<S>>,
    end: StreamEnd,
    /// Cancelled when the transport has dropped the response.
    closed: CancellationToken,
}

struct StreamProgress<S> {
    /// `None` once the stream has ended.
    messages: Option<S>,
    /// The number of times that the transport has asked for a message.
    polls: u64,
    /// Whether the transport holds something that it has not passed on: the head of the response, or messages. It asks
    /// for the next message again when it has passed them on.
    unread: bool,
    /// Whether the last poll returned a message.
    returned: bool,
    /// Whether the transport knows the end.
    ended: bool,
    waker: Option<Waker>,
}

impl<S: MessageSource> StreamState<S> {
    fn progress(&self) -> MutexGuard<'_, StreamProgress<S>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the stream with this status. Drops its messages.
    fn end(&self, status: Status) {
        // Fails only if it was set before: this is called once.
        let _ = self.end.0.set(status);
        let mut progress = self.progress();
        let (messages, waker) = (progress.messages.take(), progress.waker.take());
        drop(progress);
        drop(messages);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until messages were left unread for this long. A caller without unread messages may be silent.
    async fn unread_for(&self, patience: Duration) {
        let every = (patience / 4).clamp(Duration::from_millis(1), limits::CHECKPOINT);
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut polls, mut unread) = (0, Duration::ZERO);
        // The ticks are counted, and no clock is read: a process that stood still blames no caller.
        while unread < patience {
            ticks.tick().await;
            let progress = self.progress();
            let has_message = progress.messages.as_ref().is_some_and(MessageSource::has_message);
            if progress.polls == polls && (progress.unread || has_message) {
                unread += every;
            } else {
                (polls, unread) = (progress.polls, Duration::ZERO);
            }
        }
    }
}

/// Waits until the stream is over. If it has to end before its last message, ends it. `work` makes its messages; it is
/// dropped with the stream.
async fn guard<S: MessageSource>(permit: StreamPermit, state: Arc<StreamState<S>>, work: impl Future<Output = ()>) {
    let mut work = pin!(async {
        work.await;
        pending::<Infallible>().await
    });
    let status = tokio::select! {
        biased;
        () = state.closed.cancelled() => return,
        status = permit.ended() => status,
        () = state.unread_for(permit.context.slow_reader) => status::refused(&Refusal::SlowReader),
        never = &mut work => match never {},
    };
    // Before the work is dropped: its messages would end without a status.
    state.end(status);
}

/// A response that is polled for its next message. Dropping it ends its task.
pub struct MessageStream<S> {
    state: Arc<StreamState<S>>,
}

impl<S: MessageSource> MessageStream<S> {
    /// The response with these messages, and the task that ends it. `work` makes the messages.
    pub(super) fn open(
        permit: StreamPermit,
        messages: S,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> (Self, StreamEnd) {
        let progress = StreamProgress {
            messages: Some(messages),
            polls: 0,
            unread: true,
            returned: false,
            ended: false,
            waker: None,
        };
        let (end, closed) = (StreamEnd::default(), CancellationToken::new());
        let state = Arc::new(StreamState { progress: Mutex::new(progress), end: end.clone(), closed });
        let runtime = permit.roster.runtime().clone();
        runtime.spawn(guard(permit, state.clone(), work));
        (Self { state }, end)
    }
}

impl<S, T> Stream for MessageStream<S>
where
    S: MessageSource + Stream<Item = Result<T, Status>>,
{
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let progress = &mut *self.state.progress();
        progress.polls = progress.polls.wrapping_add(1);
        let Some(messages) = &mut progress.messages else {
            let end = if progress.ended { None } else { self.state.end.0.get() };
            progress.ended = true;
            return Poll::Ready(end.map(|status| Err(status.clone())));
        };
        let next = Pin::new(messages).poll_next(context);
        match &next {
            Poll::Ready(Some(Ok(_))) => (progress.unread, progress.returned) = (true, true),
            // tonic passes on what it has when no more is ready. It asks again when the transport has sent it.
            Poll::Pending => {
                progress.unread = std::mem::take(&mut progress.returned);
                progress.waker = Some(context.waker().clone());
            }
            Poll::Ready(Some(Err(_)) | None) => {
                (progress.unread, progress.ended) = (true, true);
                progress.messages = None;
            }
        }
        next
    }
}

impl<S> Drop for MessageStream<S> {
    fn drop(&mut self) {
        self.state.closed.cancel();
    }
}

/// Messages that a task sends, each with its charge.
pub struct SentMessages<T> {
    messages: mpsc::Receiver<(T, BudgetCharge)>,
    /// How the work ended; `None` once that is known.
    outcome: Option<oneshot::Receiver<Result<(), Status>>>,
    /// The charge of the message that the transport has.
    taken: BudgetCharge,
}

impl<T> SentMessages<T> {
    pub(super) fn new(
        messages: mpsc::Receiver<(T, BudgetCharge)>,
        outcome: oneshot::Receiver<Result<(), Status>>,
    ) -> Self {
        Self { messages, outcome: Some(outcome), taken: BudgetCharge::default() }
    }
}

impl<T: Send + Unpin + 'static> MessageSource for SentMessages<T> {
    fn has_message(&self) -> bool {
        !self.messages.is_empty()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the task of a stream panicked")]
struct StreamTaskPanicked;

impl<T: Unpin> Stream for SentMessages<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // The transport has passed on the message before.
        self.taken = BudgetCharge::default();
        if let Some((message, charge)) = ready!(self.messages.poll_recv(context)) {
            self.taken = charge;
            return Poll::Ready(Some(Ok(message)));
        }
        let Some(outcome) = &mut self.outcome else { return Poll::Ready(None) };
        let outcome = ready!(Pin::new(outcome).poll(context));
        self.outcome = None;
        Poll::Ready(match outcome {
            Ok(Ok(())) => None,
            Ok(Err(status)) => Some(Err(status)),
            Err(_) => Some(Err(status::internal(&StreamTaskPanicked))),
        })
    }
}
