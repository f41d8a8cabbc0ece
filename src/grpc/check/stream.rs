//! `StreamChecks`: questions in, answers out, in their order.
//!
//! The way of a question that memory can answer is short, because it is gone half a million times a second: it is read,
//! answered and handed on without a task, a channel or a future of its own; the encoder puts the answers that are ready
//! together into one frame. What memory cannot answer waits, with whatever was asked behind it, and goes to the datastore
//! as one batch; what is asked meanwhile becomes the next. More than a bounded number is not read: the caller's own flow
//! control holds the rest back.

use super::freshness;
use crate::grpc::admit::read;
use crate::grpc::admit::stream::RequestStream;
use crate::grpc::decode::{FieldReader, InvalidFields, QuestionText};
use crate::grpc::limits;
use crate::grpc::{convert, pb, status};
use crate::service::checks::{Check, CheckAnswer};
use crate::service::consistency_token::ConsistencyToken;
use crate::service::{Freshness, Roster};
use futures_util::future::join_all;
use pb::stream_checks_response::Outcome;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;

/// The answers to a stream of questions.
pub struct CheckStream {
    roster: Roster,
    asked: RequestStream<pb::StreamChecksRequest>,
    /// What was taken in and cannot be answered yet, in order.
    waiting: Vec<QueuedCheck>,
    /// The batch before, under way, and how many there are in it.
    asking: Option<(BatchFuture, usize)>,
    /// Answers that the caller has not taken yet.
    answers: std::vec::IntoIter<pb::StreamChecksResponse>,
    /// How the questions ended, once they have.
    end: Option<Result<(), Status>>,
}

/// A question in its place.
enum QueuedCheck {
    /// It is for the datastore.
    Question(Check, Freshness),
    /// It is answered, but not before those ahead of it.
    Answered(pb::StreamChecksResponse),
}

type BatchFuture = Pin<Box<dyn Future<Output = Vec<pb::StreamChecksResponse>> + Send>>;

impl CheckStream {
    pub(super) fn new(roster: Roster, asked: RequestStream<pb::StreamChecksRequest>) -> Self {
        let answers = Vec::new().into_iter();
        Self { roster, asked, waiting: Vec::new(), asking: None, answers, end: None }
    }

    /// Takes a question in: its answer, if that can be had at once.
    fn take(&self, question: &pb::StreamChecksRequest) -> QueuedCheck {
        let (check, freshness) = match read(|fields| read_question(question, fields)) {
            Ok(asked) => asked,
            Err(status) => return QueuedCheck::Answered(failed(&status)),
        };
        match self.roster.check_now(&check, &freshness) {
            Some((told, token)) => QueuedCheck::Answered(answered(&told, &token)),
            None => QueuedCheck::Question(check, freshness),
        }
    }

    /// Takes questions in while there are any and there is room: the first answer that need not wait, or none.
    fn take_in(&mut self, context: &mut Context<'_>) -> Option<pb::StreamChecksResponse> {
        let room = limits::QUESTIONS_IN_FLIGHT - self.asking.as_ref().map_or(0, |(_, count)| *count);
        while self.end.is_none() && self.waiting.len() < room {
            match Pin::new(&mut self.asked).poll_next(context) {
                Poll::Ready(Some(Ok(question))) => match self.take(&question) {
                    QueuedCheck::Answered(answer) if self.waiting.is_empty() && self.asking.is_none() => {
                        return Some(answer);
                    }
                    waiting => self.waiting.push(waiting),
                },
                Poll::Ready(Some(Err(status))) => self.end = Some(Err(status)),
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Pending => break,
            }
        }
        None
    }
}

impl Stream for CheckStream {
    type Item = Result<pb::StreamChecksResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(answer) = self.answers.next() {
                return Poll::Ready(Some(Ok(answer)));
            }
            if let Some(answer) = self.take_in(context) {
                return Poll::Ready(Some(Ok(answer)));
            }
            if let Some((asking, _)) = &mut self.asking {
                self.answers = ready!(asking.as_mut().poll(context)).into_iter();
                self.asking = None;
                continue;
            }
            if self.waiting.is_empty() {
                let Some(end) = &mut self.end else { return Poll::Pending };
                return Poll::Ready(std::mem::replace(end, Ok(())).err().map(Err));
            }
            let waiting = std::mem::take(&mut self.waiting);
            let count = waiting.len();
            self.asking = Some((Box::pin(ask(self.roster.clone(), waiting)), count));
        }
    }
}

/// Answers what waits, all of it at once: what goes to the datastore goes there together.
async fn ask(roster: Roster, waiting: Vec<QueuedCheck>) -> Vec<pb::StreamChecksResponse> {
    let ask = |waiting| async {
        match waiting {
            QueuedCheck::Answered(answer) => answer,
            QueuedCheck::Question(check, freshness) => match roster.check(&check, &freshness).await {
                Ok((told, token)) => answered(&told, &token),
                Err(error) => failed(&Status::from(error)),
            },
        }
    };
    join_all(waiting.into_iter().map(ask)).await
}

fn read_question(
    message: &pb::StreamChecksRequest,
    fields: &mut FieldReader,
) -> Result<(Check, Freshness), InvalidFields> {
    use pb::stream_checks_request::Question;
    let question = message.question.as_ref().map(|question| match question {
        Question::Role(role) => QuestionText::Role(role),
        Question::Permission(word) => QuestionText::Permission(word),
    });
    let check = fields.check(&message.organization, &message.user_id, question);
    let freshness = freshness(fields, message.consistency.as_ref());
    Ok((check?, freshness?))
}

fn answered(told: &CheckAnswer, token: &ConsistencyToken) -> pb::StreamChecksResponse {
    pb::StreamChecksResponse { outcome: Some(Outcome::Result(convert::check_result(told, token.encode()))) }
}

fn failed(status: &Status) -> pb::StreamChecksResponse {
    pb::StreamChecksResponse { outcome: Some(Outcome::Error(status::beside(status))) }
}
