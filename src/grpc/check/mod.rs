//! `CheckService`: decode, call, encode.

mod export;
mod stream;

use super::admit::sealed::Sealed;
use super::admit::stream::{PollStream, PushStream};
use super::admit::{Api, admit_now, answer, read};
use super::decode::{FieldReader, InvalidFields, QuestionText};
use super::pb::check_service_server::CheckService;
use super::{convert, pb};
use crate::authn::Caller;
use crate::authz::rules::Method;
use crate::domain::Invalid;
use crate::service::checks::{Check, CheckAnswer};
use crate::service::consistency_token::ConsistencyToken;
use crate::service::{Freshness, ServiceError};
use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use stream::CheckStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// How fresh the answer is to be.
fn freshness(fields: &mut FieldReader, asked: Option<&pb::Consistency>) -> Result<Freshness, InvalidFields> {
    use pb::consistency::Requirement;
    match asked.and_then(|asked| asked.requirement.as_ref()) {
        Some(Requirement::AtLeastAsFresh(token)) => {
            fields.take("consistency.at_least_as_fresh", ConsistencyToken::decode(token)).map(Freshness::AtLeast)
        }
        Some(Requirement::FullyConsistent(true)) => Ok(Freshness::Full),
        Some(Requirement::FullyConsistent(false)) | None => Ok(Freshness::Recent),
    }
}

fn check(message: &pb::CheckMembershipRequest, fields: &mut FieldReader) -> Result<(Check, Freshness), InvalidFields> {
    use pb::check_membership_request::Question;
    let question = message.question.as_ref().map(|question| match question {
        Question::Role(role) => QuestionText::Role(role),
        Question::Permission(word) => QuestionText::Permission(word),
    });
    let check = fields.check(&message.organization, &message.user_id, question);
    let freshness = freshness(fields, message.consistency.as_ref());
    Ok((check?, freshness?))
}

fn batch(
    message: &pb::BatchCheckMembershipRequest,
    fields: &mut FieldReader,
) -> Result<(Vec<Check>, Freshness), InvalidFields> {
    use pb::check_item::Question;
    let within = (1..=crate::domain::limits::BATCH_CHECKS).contains(&message.items.len());
    let counted = if within { Ok(()) } else { Err(fields.wrong("items", Invalid::new("1 to 10 000 items"))) };
    let freshness = freshness(fields, message.consistency.as_ref());
    counted?;
    let checks = fields.items(&message.items, |fields, item| {
        let question = item.question.as_ref().map(|question| match question {
            Question::Role(role) => QuestionText::Role(role),
            Question::Permission(word) => QuestionText::Permission(word),
        });
        fields.check(&item.organization, &item.user_id, question)
    });
    Ok((checks?, freshness?))
}

/// The method that is answered at once where it can be.
pub const CHECK: &Method = <pb::CheckMembershipRequest as super::request::Request>::METHOD;

/// What stands before a message: whether it is compressed, and how long it is.
const PREFIX_BYTES: usize = 5;

/// A `CheckMembership` that was let in and read.
pub struct AdmittedCheck(Check, Freshness);

impl Api {
    /// Lets a `CheckMembership` in and reads it, from its frame. None says nothing but that it has to go the ordinary way,
    /// for whatever reason.
    #[must_use]
    pub fn read_check(&self, caller: &Caller, frame: &[u8]) -> Option<AdmittedCheck> {
        let message = Sealed::<pb::CheckMembershipRequest>::of_frame(frame)?;
        let message = admit_now(caller, message)?;
        read(|fields| check(&message, fields)).ok().map(|(check, freshness)| AdmittedCheck(check, freshness))
    }

    /// The answer in its frame, from memory and at once; none if memory cannot say.
    #[must_use]
    pub fn check_now(&self, AdmittedCheck(check, freshness): &AdmittedCheck) -> Option<Bytes> {
        self.roster().check_now(check, freshness).map(|(told, token)| frame(&told, &token))
    }

    /// The answer in its frame.
    ///
    /// # Errors
    /// If memory cannot say and the datastore does not answer.
    pub async fn check_soon(&self, AdmittedCheck(check, freshness): &AdmittedCheck) -> Result<Bytes, ServiceError> {
        self.roster().check(check, freshness).await.map(|(told, token)| frame(&told, &token))
    }
}

fn frame(told: &CheckAnswer, token: &ConsistencyToken) -> Bytes {
    let answer = pb::CheckMembershipResponse { result: Some(convert::check_result(told, token.encode())) };
    let length = answer.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    // It is some dozens of bytes.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room for it, so it cannot fail.
    let _ = answer.encode(&mut frame);
    frame.freeze()
}

#[async_trait]
impl CheckService for Api {
    async fn check_membership(
        &self,
        request: Request<Sealed<pb::CheckMembershipRequest>>,
    ) -> Result<Response<pb::CheckMembershipResponse>, Status> {
        let (message, _) = self.admit_caller(request).await?;
        let (check, freshness) = read(|fields| check(&message, fields))?;
        let (told, token) = self.roster().check(&check, &freshness).await?;
        answer(pb::CheckMembershipResponse { result: Some(convert::check_result(&told, token.encode())) })
    }

    async fn batch_check_membership(
        &self,
        request: Request<Sealed<pb::BatchCheckMembershipRequest>>,
    ) -> Result<Response<pb::BatchCheckMembershipResponse>, Status> {
        let (message, _) = self.admit_caller(request).await?;
        let (checks, freshness) = read(|fields| batch(&message, fields))?;
        let (told, token) = self.roster().check_batch(&checks, &freshness).await?;
        let results = told.iter().map(|told| convert::check_result(told, String::new())).collect();
        answer(pb::BatchCheckMembershipResponse { results, consistency_token: token.encode() })
    }

    type StreamChecksStream = PollStream<CheckStream>;

    async fn stream_checks(
        &self,
        request: Request<Streaming<Sealed<pb::StreamChecksRequest>>>,
    ) -> Result<Response<Self::StreamChecksStream>, Status> {
        let (questions, leave) = self.admit_streams(request).await?;
        answer(leave.pull(CheckStream::new(self.roster().clone(), questions)))
    }

    type WatchMembershipsStream = PushStream<pb::WatchMembershipsResponse>;

    async fn watch_memberships(
        &self,
        request: Request<Streaming<Sealed<pb::WatchMembershipsRequest>>>,
    ) -> Result<Response<Self::WatchMembershipsStream>, Status> {
        let (requests, leave) = self.admit_streams(request).await?;
        let roster = self.roster().clone();
        answer(leave.push(|out| crate::grpc::watch::memberships::watch(roster, requests, out)))
    }

    type ExportMembershipsStream = PushStream<pb::ExportMembershipsResponse>;

    async fn export_memberships(
        &self,
        request: Request<Sealed<pb::ExportMembershipsRequest>>,
    ) -> Result<Response<Self::ExportMembershipsStream>, Status> {
        let (message, leave) = self.admit_stream(request).await?;
        let kind = read(|fields| fields.kind(&message.kind))?;
        let roster = self.roster().clone();
        answer(leave.push(|out| export::export(roster, kind, out)))
    }
}
