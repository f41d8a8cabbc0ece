//! `StreamChecks`: questions in, answers out, in the order of the questions.
//!
//! A question that the replica can answer takes a short path, because half a million of them come in a second: the stream
//! reads it, answers it and hands the answer on without a task, a channel or a future of its own; the encoder puts the
//! answers that are ready together into one frame. A question that the replica cannot answer waits, with the questions
//! behind it, and goes to the datastore as one batch; questions that arrive while the batch is under way become the next
//! one. The number of unanswered questions is bounded: HTTP/2 flow control holds the rest back at the caller.

use crate::grpc::admit::stream::{MessageSource, RequestStream};
use crate::grpc::admit::{CallTimes, read};
use crate::grpc::decode::check as decode;
use crate::grpc::{CHECK, convert, limits, pb, status};
use crate::service::checks::{Check, CheckAnswer};
use crate::service::consistency_token::ConsistencyToken;
use crate::service::{Freshness, Roster};
use futures_util::future::join_all;
use pb::stream_checks_response::Outcome;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;

/// The answers to a stream of questions.
pub struct CheckStream {
    roster: Roster,
    requests: RequestStream<pb::StreamChecksRequest>,
    /// The deadline of the caller, if the request has one.
    until: Option<Instant>,
    /// Questions that were read and cannot be answered yet, in order.
    queue: Vec<QueuedCheck>,
    /// The batch under way, and its number of questions.
    batch: Option<(BatchFuture, usize)>,
    /// Answers of the last batch that the caller has not taken yet.
    answers: std::vec::IntoIter<pb::StreamChecksResponse>,
    /// How the questions ended; `None` while more may come.
    end: Option<Result<(), Status>>,
}

/// A question in the queue.
enum QueuedCheck {
    /// The datastore has to answer it.
    Question(Check, Freshness),
    /// It is answered; the answers to the questions before it go out first.
    Answered(pb::StreamChecksResponse),
}

type BatchFuture = Pin<Box<dyn Future<Output = Vec<pb::StreamChecksResponse>> + Send>>;

impl CheckStream {
    pub(super) fn new(
        roster: Roster,
        requests: RequestStream<pb::StreamChecksRequest>,
        until: Option<Instant>,
    ) -> Self {
        let answers = Vec::new().into_iter();
        Self { roster, requests, until, queue: Vec::new(), batch: None, answers, end: None }
    }

    /// Answers a question from the replica where that is possible.
    fn answer(&self, request: pb::StreamChecksRequest) -> QueuedCheck {
        let (check, freshness) = match read(|fields| decode::stream(request, fields)) {
            Ok(input) => input,
            Err(status) => return QueuedCheck::Answered(error_response(&status)),
        };
        match self.roster.check_now(&check, &freshness) {
            Some((answer, token)) => QueuedCheck::Answered(response(answer, &token)),
            None => QueuedCheck::Question(check, freshness),
        }
    }

    /// Reads questions while there is room. Returns the first answer that does not wait for an earlier one.
    fn poll_requests(&mut self, context: &mut Context<'_>) -> Option<pb::StreamChecksResponse> {
        let room = limits::QUESTIONS_IN_FLIGHT - self.batch.as_ref().map_or(0, |(_, count)| *count);
        while self.end.is_none() && self.queue.len() < room {
            match Pin::new(&mut self.requests).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => match self.answer(request) {
                    QueuedCheck::Answered(answer) if self.queue.is_empty() && self.batch.is_none() => {
                        return Some(answer);
                    }
                    check => self.queue.push(check),
                },
                Poll::Ready(Some(Err(status))) => self.end = Some(Err(status)),
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Pending => break,
            }
        }
        None
    }
}

impl MessageSource for CheckStream {
    fn has_message(&self) -> bool {
        !self.answers.as_slice().is_empty()
    }
}

impl Stream for CheckStream {
    type Item = Result<pb::StreamChecksResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(answer) = self.answers.next() {
                return Poll::Ready(Some(Ok(answer)));
            }
            if let Some(answer) = self.poll_requests(context) {
                return Poll::Ready(Some(Ok(answer)));
            }
            if let Some((batch, _)) = &mut self.batch {
                self.answers = ready!(batch.as_mut().poll(context)).into_iter();
                self.batch = None;
                continue;
            }
            if self.queue.is_empty() {
                let Some(end) = &mut self.end else { return Poll::Pending };
                return Poll::Ready(std::mem::replace(end, Ok(())).err().map(Err));
            }
            let queue = std::mem::take(&mut self.queue);
            let count = queue.len();
            self.batch = Some((Box::pin(answer_batch(self.roster.clone(), queue, self.until)), count));
        }
    }
}

/// Answers the queue at once: the questions for the datastore go there together. They wait as single checks do.
async fn answer_batch(
    roster: Roster,
    queue: Vec<QueuedCheck>,
    until: Option<Instant>,
) -> Vec<pb::StreamChecksResponse> {
    let now = Instant::now();
    let times = CallTimes::new(now, until.unwrap_or(now + limits::DEADLINE));
    let end = times.last_answer(CHECK, now);
    let answer = |check| async {
        match check {
            QueuedCheck::Answered(answer) => answer,
            QueuedCheck::Question(check, freshness) => match timeout_at(end, roster.check(&check, &freshness)).await {
                Ok(Ok((answer, token))) => response(answer, &token),
                Ok(Err(error)) => error_response(&Status::from(error)),
                Err(_) => error_response(&times.unanswered(CHECK, now)),
            },
        }
    };
    join_all(queue.into_iter().map(answer)).await
}

fn response(answer: CheckAnswer, token: &ConsistencyToken) -> pb::StreamChecksResponse {
    pb::StreamChecksResponse { outcome: Some(Outcome::Result(convert::check_result(answer, token.encode()))) }
}

fn error_response(status: &Status) -> pb::StreamChecksResponse {
    pb::StreamChecksResponse { outcome: Some(Outcome::Error(status::beside(status))) }
}
