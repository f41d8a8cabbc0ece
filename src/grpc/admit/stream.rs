//! Streams: decided at their start like every call, and again once a second while they are open.
//!
//! An admitted caller's stream counts towards the share of its caller ([`shares`]) and gets a [`StreamPermit`], which makes
//! a response in one of two ways: [`StreamPermit::poll`] for a stream that is polled for its next message,
//! [`StreamPermit::push`] for a task that sends messages. A task of each stream ends it, with the reason, when the
//! credential is no longer valid, the rule no longer holds, the deadline has passed, the server stops or the caller leaves
//! messages unread for too long ([`body`]). Large messages are charged to a budget while they wait ([`budget`]).

mod body;
mod budget;
mod shares;

pub use body::{MessageSource, MessageStream, StreamEnd};
pub(in crate::grpc) use budget::BudgetCharge;
pub use budget::StreamBudget;
pub use shares::StreamShares;

use super::sealed::{self, Sealed};
use super::{Api, CallContext};
use crate::authn::{Caller, CallerKey, StreamCredential};
use crate::authz::decide;
use crate::authz::rules::{self, Method};
use crate::domain::Refusal;
use crate::grpc::request::StreamRequest;
use crate::grpc::{limits, status};
use crate::service::export_queue::ExportOrigin;
use crate::service::{CallPermit, Roster, ServiceError};
use body::SentMessages;
use prost::Message;
use shares::StreamShare;
use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// What a stream needs from the pipeline: a request extension.
#[derive(Clone)]
pub struct StreamContext {
    /// The place among the open streams.
    pub permit: CallPermit,
    /// The caller's credential, to be verified again.
    pub credential: StreamCredential,
    /// The caller's deadline, if the request has one.
    pub until: Option<Instant>,
    /// The streams of each caller.
    pub shares: StreamShares,
    /// The bytes of large messages that may wait on the connection of the stream, and in the server.
    pub budget: StreamBudget,
    /// How long to wait for a caller who does not read.
    pub slow_reader: Duration,
    /// Cancelled when the server stops, and when the connection ends because of its age.
    pub stopping: CancellationToken,
}

/// The right to keep a stream open.
pub(in crate::grpc) struct StreamPermit {
    roster: Roster,
    method: &'static Method,
    context: StreamContext,
    caller: CallerKey,
    _share: StreamShare,
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
        let share = context.shares.take(caller.key()).ok_or_else(|| status::refused(&Refusal::Overloaded))?;
        let (roster, key) = (self.roster.clone(), caller.key());
        let permit = StreamPermit { roster, method: M::METHOD, context, caller: key, _share: share };
        permit.decide(&caller).await?;
        Ok(permit)
    }
}

impl StreamPermit {
    async fn decide(&self, caller: &Caller) -> Result<(), ServiceError> {
        rules::method_gate(&self.method.rule, caller)?;
        if let Some(user) = caller.calling_user() {
            decide::require_admissible(user, self.roster.replica().user_status(&user.id).await?)?;
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

    /// The deadline of the caller, if the request has one.
    pub(in crate::grpc) fn until(&self) -> Option<Instant> {
        self.context.until
    }

    /// The caller and the connection, for the turns of exports.
    pub(in crate::grpc) fn export_origin(&self) -> ExportOrigin {
        ExportOrigin { caller: self.caller.clone(), connection: self.context.budget.number() }
    }

    /// A response that is polled for its next message whenever the caller can take one.
    pub(in crate::grpc) fn poll<S: MessageSource>(self, messages: S) -> Response<MessageStream<S>> {
        respond(MessageStream::open(self, messages, std::future::ready(())))
    }

    /// A response whose messages a task sends. The task ends when its work is done, when the stream has to end, and when
    /// the caller hangs up; what the task holds is released then, whether or not the caller reads on.
    pub(in crate::grpc) fn push<T, F>(self, work: impl FnOnce(StreamSender<T>) -> F) -> Response<PushStream<T>>
    where
        T: Send + Unpin + 'static,
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (messages, receiver) = mpsc::channel(limits::STREAM_MESSAGES);
        let (report, outcome) = oneshot::channel();
        let StreamContext { slow_reader, budget, .. } = &self.context;
        let work = work(StreamSender { messages, slow_reader: *slow_reader, budget: budget.clone() });
        let work = async move {
            // Fails only if the stream has ended.
            let _ = report.send(work.await);
        };
        respond(MessageStream::open(self, SentMessages::new(receiver, outcome), work))
    }
}

/// A response whose messages a task sends.
pub type PushStream<T> = MessageStream<SentMessages<T>>;

/// Adds the end of the stream to the response, for the transport.
fn respond<S>((stream, end): (MessageStream<S>, StreamEnd)) -> Response<MessageStream<S>> {
    let mut response = Response::new(stream);
    response.extensions_mut().insert(end);
    response
}

/// Sends the messages of a stream.
pub(in crate::grpc) struct StreamSender<T> {
    messages: mpsc::Sender<(T, BudgetCharge)>,
    slow_reader: Duration,
    budget: StreamBudget,
}

impl<T: Message> StreamSender<T> {
    /// Sends a message. Waits while the caller has not read the messages before it; the task of the stream bounds that.
    ///
    /// # Errors
    /// The status that the stream ends with, if the caller has hung up, or if too many bytes of large messages wait to be
    /// sent to other callers.
    pub(in crate::grpc) async fn send(&self, message: T) -> Result<(), Status> {
        let place = self.place().await?;
        let charge = self.charge(message.encoded_len()).await?;
        place.send((message, charge));
        Ok(())
    }

    /// Sends a message that was charged before it was made.
    ///
    /// # Errors
    /// The status that the stream ends with, if the caller has hung up.
    pub(in crate::grpc) async fn send_charged(&self, mut charge: BudgetCharge, message: T) -> Result<(), Status> {
        charge.shrink(message.encoded_len());
        self.place().await?.send((message, charge));
        Ok(())
    }

    /// Charges a message of at most this many bytes, before it is made. Waits while too many bytes of large messages wait
    /// to be sent. A stream charges one message at a time, so streams do not wait for each other in a circle.
    ///
    /// # Errors
    /// The status that the stream ends with, if too many bytes of large messages wait to be sent to other callers.
    pub(in crate::grpc) async fn charge(&self, bytes: usize) -> Result<BudgetCharge, Status> {
        let charge = timeout(self.slow_reader, self.budget.charge(bytes)).await;
        charge.map_err(|_| status::refused(&Refusal::Overloaded))
    }

    async fn place(&self) -> Result<mpsc::Permit<'_, (T, BudgetCharge)>, Status> {
        self.messages.reserve().await.map_err(|_| Status::cancelled("the caller is gone"))
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
