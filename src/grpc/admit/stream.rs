//! Streams: decided at their start as every call is, and again once a second for as long as they live.
//!
//! Who is let in gets a [`StreamPermit`], and can make an answer of it only in one of two ways: [`StreamPermit::pull`] for a stream that
//! is asked for its next message, [`StreamPermit::push`] for a task that sends messages. Both end it, with its reason, when the
//! credential is no longer good, the rule no longer holds, its time is over or the server stops.

use super::sealed::{self, Sealed};
use super::{Api, CallContext};
use crate::authn::{Caller, StreamCredential};
use crate::authz::decide;
use crate::authz::rules::{self, Method};
use crate::domain::Refusal;
use crate::grpc::limits;
use crate::grpc::request::StreamRequest;
use crate::grpc::status;
use crate::service::{Roster, ServiceError};
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Status, Streaming};

/// What a stream lives on: put beside its request by the door.
#[derive(Clone)]
pub struct StreamContext {
    /// Its place among the streams.
    pub place: Arc<OwnedSemaphorePermit>,
    /// What its caller has shown.
    pub credential: StreamCredential,
    /// When its caller stops waiting, if they have said so.
    pub until: Option<Instant>,
    /// How long to wait for a caller who does not read.
    pub patience: Duration,
    /// Cancelled when the server stops.
    pub stopping: CancellationToken,
}

/// The right to stream on.
pub(in crate::grpc) struct StreamPermit {
    roster: Roster,
    method: &'static Method,
    stream: StreamContext,
}

impl Api {
    /// Opens a request that is answered by a stream.
    pub(in crate::grpc) async fn admit_stream<M: StreamRequest>(
        &self,
        request: Request<Sealed<M>>,
    ) -> Result<(M, StreamPermit), Status> {
        let leave = self.leave::<M, _>(&request).await?;
        Ok((request.into_inner().open(), leave))
    }

    /// Opens a stream of requests that is answered by a stream.
    pub(in crate::grpc) async fn admit_streams<M: StreamRequest>(
        &self,
        request: Request<Streaming<Sealed<M>>>,
    ) -> Result<(RequestStream<M>, StreamPermit), Status> {
        let leave = self.leave::<M, _>(&request).await?;
        Ok((RequestStream(request.into_inner()), leave))
    }

    async fn leave<M: StreamRequest, B>(&self, request: &Request<B>) -> Result<StreamPermit, Status> {
        let caller = CallContext::of(request).caller;
        let stream = request.extensions().get::<StreamContext>().cloned();
        let stream = stream.ok_or_else(|| status::refused(&Refusal::CredentialMissing))?;
        let leave = StreamPermit { roster: self.roster.clone(), method: M::METHOD, stream };
        leave.decide(&caller).await?;
        Ok(leave)
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
        let caller = self.stream.credential.verify().await?;
        self.decide(&caller).await
    }

    /// Waits until the stream has to end, and says why.
    async fn over(&self) -> Status {
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
        let time_is_over = async {
            match self.stream.until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stream.stopping.cancelled() => status::server_stopping(),
            () = time_is_over => status::deadline_exceeded(),
            status = refused => status,
        }
    }

    /// An answer that is asked for its next message whenever the caller can take one.
    pub(in crate::grpc) fn pull<S: Stream + Unpin>(self, messages: S) -> PollStream<S> {
        let over: EndFuture = Box::pin(async move { self.over().await });
        PollStream { messages, over: Some(over), unlooked: 0 }
    }

    /// An answer that a task of its own makes. The task ends when it is done, when the stream has to end, and when the
    /// caller hangs up; what it holds then goes, whether the caller reads on or not.
    pub(in crate::grpc) fn push<T, F>(self, work: impl FnOnce(StreamSender<T>) -> F) -> PushStream<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (items, received) = mpsc::channel(limits::STREAM_MESSAGES);
        let (tell, end) = oneshot::channel();
        let watched = items.clone();
        let work = work(StreamSender { items, patience: self.stream.patience });
        let home = self.roster.runtime().clone();
        home.spawn(async move {
            let ended = tokio::select! {
                biased;
                () = watched.closed() => return,
                status = self.over() => Err(status),
                ended = work => ended,
            };
            // If nobody hears it any more, nobody needs to.
            let _ = tell.send(ended);
        });
        PushStream { received, end: Some(end) }
    }
}

type EndFuture = Pin<Box<dyn Future<Output = Status> + Send>>;

/// An answer that is asked for its next message.
pub struct PollStream<S> {
    messages: S,
    /// Says when and why it has to end; none once it has ended.
    over: Option<EndFuture>,
    /// Messages since that was last asked.
    unlooked: u32,
}

/// After how many messages in a row it is looked whether the stream has to end. While there is nothing to send, that is
/// looked at all the time.
const LOOK_EVERY: u32 = 256;

impl<S, T> Stream for PollStream<S>
where
    S: Stream<Item = Result<T, Status>> + Unpin,
{
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { messages, over, unlooked } = &mut *self;
        let Some(waits) = over else { return Poll::Ready(None) };
        *unlooked += 1;
        let look = *unlooked >= LOOK_EVERY;
        if !look && let Poll::Ready(next) = Pin::new(&mut *messages).poll_next(context) {
            return Poll::Ready(next);
        }
        *unlooked = 0;
        if let Poll::Ready(status) = waits.as_mut().poll(context) {
            *over = None;
            return Poll::Ready(Some(Err(status)));
        }
        if look { Pin::new(messages).poll_next(context) } else { Poll::Pending }
    }
}

/// Where a task sends the messages of its stream.
pub(in crate::grpc) struct StreamSender<T> {
    items: mpsc::Sender<T>,
    patience: Duration,
}

impl<T> StreamSender<T> {
    /// Sends, and waits for a caller who has not read what was sent before.
    ///
    /// # Errors
    /// What the stream has to end with, if the caller does not read for too long, or is gone.
    pub(in crate::grpc) async fn send(&self, item: T) -> Result<(), Status> {
        match timeout(self.patience, self.items.send(item)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the caller is gone")),
            Err(_) => Err(status::refused(&Refusal::SlowReader)),
        }
    }
}

/// An answer that a task makes.
pub struct PushStream<T> {
    received: mpsc::Receiver<T>,
    end: Option<oneshot::Receiver<Result<(), Status>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("a stream's task panicked")]
struct StreamTaskPanicked;

impl<T> Stream for PushStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(item) = ready!(self.received.poll_recv(context)) {
            return Poll::Ready(Some(Ok(item)));
        }
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        let told = ready!(Pin::new(end).poll(context));
        self.end = None;
        Poll::Ready(match told {
            Ok(Ok(())) => None,
            Ok(Err(status)) => Some(Err(status)),
            Err(_) => Some(Err(status::internal(&StreamTaskPanicked))),
        })
    }
}

/// A caller's messages, opened. After an error there are no more.
pub(in crate::grpc) struct RequestStream<M>(Streaming<Sealed<M>>);

impl<M: StreamRequest> RequestStream<M> {
    /// The next one; none when the caller has sent all.
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
