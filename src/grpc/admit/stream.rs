//! Streams: decided at their start like every call, and again once a second while they are open.
//!
//! An admitted caller's stream gets a [`StreamPermit`], which makes a response in one of two ways: [`StreamPermit::poll`]
//! for a stream that is polled for its next message, [`StreamPermit::push`] for a task that sends messages. Both end the
//! stream, with the reason, when the credential is no longer valid, the rule no longer holds, the deadline has passed or
//! the server stops.

use super::sealed::{self, Sealed};
use super::{Api, CallContext};
use crate::authn::{Caller, StreamCredential};
use crate::authz::decide;
use crate::authz::rules::{self, Method};
use crate::domain::Refusal;
use crate::grpc::request::StreamRequest;
use crate::grpc::{limits, status};
use crate::service::{CallPermit, Roster, ServiceError};
use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Status, Streaming};

/// What a stream needs from the pipeline: a request extension.
#[derive(Clone)]
pub struct StreamContext {
    /// The place among the open streams.
    pub permit: CallPermit,
    /// The caller's credential, to be verified again.
    pub credential: StreamCredential,
    /// The caller's deadline, if the request has one.
    pub until: Option<Instant>,
    /// How long to wait for a caller who does not read.
    pub slow_reader: Duration,
    /// Cancelled when the server stops.
    pub stopping: CancellationToken,
}

/// The right to keep a stream open.
pub(in crate::grpc) struct StreamPermit {
    roster: Roster,
    method: &'static Method,
    context: StreamContext,
}

impl Api {
    /// Opens a request that is answered by a stream.
    pub(in crate::grpc) async fn admit_stream<M: StreamRequest>(
        &self,
        request: Request<Sealed<M>>,
    ) -> Result<(M, StreamPermit), Status> {
        let permit = self.stream_permit::<M, _>(&request).await?;
        Ok((request.into_inner().open(), permit))
    }

    /// Opens a stream of requests that is answered by a stream.
    pub(in crate::grpc) async fn admit_streams<M: StreamRequest>(
        &self,
        request: Request<Streaming<Sealed<M>>>,
    ) -> Result<(RequestStream<M>, StreamPermit), Status> {
        let permit = self.stream_permit::<M, _>(&request).await?;
        Ok((RequestStream(request.into_inner()), permit))
    }

    async fn stream_permit<M: StreamRequest, B>(&self, request: &Request<B>) -> Result<StreamPermit, Status> {
        let caller = CallContext::of(request).caller;
        let context = request.extensions().get::<StreamContext>().cloned();
        let context = context.ok_or_else(|| status::refused(&Refusal::CredentialMissing))?;
        let permit = StreamPermit { roster: self.roster.clone(), method: M::METHOD, context };
        permit.decide(&caller).await?;
        Ok(permit)
    }
}

impl StreamPermit {
    async fn decide(&self, caller: &Caller) -> Result<(), ServiceError> {
        rules::method_gate(&self.method.rule, caller)?;
        if let Some(user) = caller.user() {
            decide::require_active(self.roster.replica().user_state(user).await?)?;
        }
        Ok(())
    }

    async fn decide_again(&self) -> Result<(), ServiceError> {
        let caller = self.context.credential.verify().await?;
        self.decide(&caller).await
    }

    /// Waits until the stream has to end. Returns the status that it ends with.
    async fn ended(&self) -> Status {
        let mut rounds = interval_at(Instant::now() + limits::CHECKPOINT, limits::CHECKPOINT);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let refused = async {
            loop {
                rounds.tick().await;
                if let Err(error) = self.decide_again().await {
                    return Status::from(error);
                }
            }
        };
        let expired = async {
            match self.context.until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.context.stopping.cancelled() => status::server_stopping(),
            () = expired => status::deadline_exceeded(),
            status = refused => status,
        }
    }

    /// A response that is polled for its next message whenever the caller can take one.
    pub(in crate::grpc) fn poll<S: Stream + Unpin>(self, messages: S) -> PollStream<S> {
        let end: EndFuture = Box::pin(async move { self.ended().await });
        PollStream { messages, end: Some(end), unchecked: 0 }
    }

    /// A response whose messages a task sends. The task ends when its work is done, when the stream has to end, and when
    /// the caller hangs up; what the task holds is released then, whether or not the caller reads on.
    pub(in crate::grpc) fn push<T, F>(self, work: impl FnOnce(StreamSender<T>) -> F) -> PushStream<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (sender, messages) = mpsc::channel(limits::STREAM_MESSAGES);
        let (report, end) = oneshot::channel();
        let receiver = sender.clone();
        let work = work(StreamSender { messages: sender, slow_reader: self.context.slow_reader });
        let runtime = self.roster.runtime().clone();
        runtime.spawn(async move {
            let outcome = tokio::select! {
                biased;
                () = receiver.closed() => return,
                status = self.ended() => Err(status),
                outcome = work => outcome,
            };
            // Fails only if the response was dropped.
            let _ = report.send(outcome);
        });
        PushStream { messages, end: Some(end) }
    }
}

type EndFuture = Pin<Box<dyn Future<Output = Status> + Send>>;

/// A response that is polled for its next message.
pub struct PollStream<S> {
    messages: S,
    /// Resolves when the stream has to end; `None` once it has ended.
    end: Option<EndFuture>,
    /// Messages since `end` was last polled.
    unchecked: u32,
}

/// The number of messages in a row after which `end` is polled. While no message is ready, it is polled every time.
const CHECK_EVERY: u32 = 256;

impl<S, T> Stream for PollStream<S>
where
    S: Stream<Item = Result<T, Status>> + Unpin,
{
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { messages, end, unchecked } = &mut *self;
        let Some(ended) = end else { return Poll::Ready(None) };
        *unchecked += 1;
        let check_due = *unchecked >= CHECK_EVERY;
        if !check_due && let Poll::Ready(next) = Pin::new(&mut *messages).poll_next(context) {
            return Poll::Ready(next);
        }
        *unchecked = 0;
        if let Poll::Ready(status) = ended.as_mut().poll(context) {
            *end = None;
            return Poll::Ready(Some(Err(status)));
        }
        if check_due { Pin::new(messages).poll_next(context) } else { Poll::Pending }
    }
}

/// Sends the messages of a stream.
pub(in crate::grpc) struct StreamSender<T> {
    messages: mpsc::Sender<T>,
    slow_reader: Duration,
}

impl<T> StreamSender<T> {
    /// Sends a message. Waits while the caller has not read the messages before it.
    ///
    /// # Errors
    /// The status that the stream ends with, if the caller does not read for too long or has hung up.
    pub(in crate::grpc) async fn send(&self, message: T) -> Result<(), Status> {
        match timeout(self.slow_reader, self.messages.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the caller is gone")),
            Err(_) => Err(status::refused(&Refusal::SlowReader)),
        }
    }
}

/// A response whose messages a task sends.
pub struct PushStream<T> {
    messages: mpsc::Receiver<T>,
    end: Option<oneshot::Receiver<Result<(), Status>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the task of a stream panicked")]
struct StreamTaskPanicked;

impl<T> Stream for PushStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(message) = ready!(self.messages.poll_recv(context)) {
            return Poll::Ready(Some(Ok(message)));
        }
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        let outcome = ready!(Pin::new(end).poll(context));
        self.end = None;
        Poll::Ready(match outcome {
            Ok(Ok(())) => None,
            Ok(Err(status)) => Some(Err(status)),
            Err(_) => Some(Err(status::internal(&StreamTaskPanicked))),
        })
    }
}

/// The caller's messages, opened. After an error there are no more.
pub(in crate::grpc) struct RequestStream<M>(Streaming<Sealed<M>>);

impl<M: StreamRequest> RequestStream<M> {
    /// The next message; `None` when the caller has closed its side.
    pub(in crate::grpc) async fn next(&mut self) -> Result<Option<M>, Status> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await.transpose()
    }
}

impl<M: StreamRequest> Stream for RequestStream<M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(Pin::new(&mut self.0).poll_next(context));
        Poll::Ready(next.map(|next| match next {
            Ok(sealed) => Ok(sealed.open()),
            Err(status) => Err(status::of_message(status, sealed::limit::<M>())),
        }))
    }
}
