//! The handlers of `CheckService`: admit, decode, call, encode.

mod export;
mod permissions;
mod stream;

use super::admit::sealed::Sealed;
use super::admit::stream::{MessageStream, PushStream};
use super::admit::{Api, admit_now, read, respond};
use super::decode::{check as decode, permissions as decode_permissions};
use super::pb::check_service_server::CheckService;
use super::{convert, pb, watch};
use crate::authn::Caller;
use crate::authz::rules::Method;
use crate::service::checks::{Check, CheckAnswer};
use crate::service::consistency_token::ConsistencyToken;
use crate::service::{Freshness, ServiceError};
use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use stream::CheckStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// `CheckMembership`, the method that the fast path serves.
pub const CHECK: &Method = <pb::CheckMembershipRequest as super::request::Request>::METHOD;

/// The prefix of a gRPC message: a byte for compression, four for the length.
const PREFIX_BYTES: usize = 5;

/// An admitted and decoded `CheckMembership`.
pub struct AdmittedCheck(Check, Freshness);

impl Api {
    /// Admits and decodes a `CheckMembership` from its gRPC frame. `None` is not a refusal: the pipeline decides then.
    #[must_use]
    pub fn admit_check(&self, caller: &Caller, frame: &[u8]) -> Option<AdmittedCheck> {
        let message = Sealed::<pb::CheckMembershipRequest>::of_frame(frame)?;
        let message = admit_now(caller, message)?;
        read(|fields| decode::check(message, fields)).ok().map(|(check, freshness)| AdmittedCheck(check, freshness))
    }

    /// The response frame, from the replica and without waiting; `None` if the replica cannot answer.
    #[must_use]
    pub fn check_now(&self, AdmittedCheck(check, freshness): &AdmittedCheck) -> Option<Bytes> {
        self.roster().check_now(check, freshness).map(|(answer, token)| frame(answer, &token))
    }

    /// The response frame, from the replica or the primary.
    ///
    /// # Errors
    /// If the replica cannot answer and the datastore does not respond.
    pub async fn check(&self, AdmittedCheck(check, freshness): &AdmittedCheck) -> Result<Bytes, ServiceError> {
        self.roster().check(check, freshness).await.map(|(answer, token)| frame(answer, &token))
    }
}

fn frame(answer: CheckAnswer, token: &ConsistencyToken) -> Bytes {
    let response = pb::CheckMembershipResponse { result: Some(convert::check_result(answer, token.encode())) };
    let length = response.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    // The length is some dozens of bytes.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // Cannot fail: the buffer has room for the message.
    let _ = response.encode(&mut frame);
    frame.freeze()
}

#[async_trait]
impl CheckService for Api {
    async fn check_membership(
        &self,
        request: Request<Sealed<pb::CheckMembershipRequest>>,
    ) -> Result<Response<pb::CheckMembershipResponse>, Status> {
        let (message, _) = self.admit_caller(request).await?;
        let (check, freshness) = read(|fields| decode::check(message, fields))?;
        let (answer, token) = self.roster().check(&check, &freshness).await?;
        respond(pb::CheckMembershipResponse { result: Some(convert::check_result(answer, token.encode())) })
    }

    async fn batch_check_membership(
        &self,
        request: Request<Sealed<pb::BatchCheckMembershipRequest>>,
    ) -> Result<Response<pb::BatchCheckMembershipResponse>, Status> {
        let (message, _) = self.admit_caller(request).await?;
        let (checks, freshness) = read(|fields| decode::batch(message, fields))?;
        let (answers, token) = self.roster().check_batch(&checks, &freshness).await?;
        let results = read(|fields| {
            fields.items(answers, |fields, answer| {
                let answer = answer.map_err(|undeclared| fields.wrong(undeclared.field(), undeclared.invalid()))?;
                Ok(convert::check_result(answer, String::new()))
            })
        })?;
        respond(pb::BatchCheckMembershipResponse { results, consistency_token: token.encode() })
    }

    async fn get_effective_permissions(
        &self,
        request: Request<Sealed<pb::GetEffectivePermissionsRequest>>,
    ) -> Result<Response<pb::GetEffectivePermissionsResponse>, Status> {
        let (message, _) = self.admit_caller(request).await?;
        let (check, freshness) = read(|fields| decode_permissions::effective(message, fields))?;
        let (answer, token) = self.roster().effective_permissions(&check, &freshness).await?;
        respond(permissions::effective(&answer, token.encode()))
    }

    async fn batch_get_effective_permissions(
        &self,
        request: Request<Sealed<pb::BatchGetEffectivePermissionsRequest>>,
    ) -> Result<Response<pb::BatchGetEffectivePermissionsResponse>, Status> {
        let (message, _) = self.admit_caller(request).await?;
        let (checks, freshness) = read(|fields| decode_permissions::effective_of_batch(message, fields))?;
        let (answers, token) = self.roster().effective_permissions_of_batch(&checks, &freshness).await?;
        respond(permissions::effective_of_batch(&answers, token.encode()))
    }

    async fn explain_check(
        &self,
        request: Request<Sealed<pb::ExplainCheckRequest>>,
    ) -> Result<Response<pb::ExplainCheckResponse>, Status> {
        let (message, caller) = self.admit_caller(request).await?;
        let (check, freshness) = read(|fields| decode_permissions::explain(message, fields))?;
        let (explanation, token) = self.roster().explain_check(&check, &freshness).await?;
        respond(permissions::explained(explanation, caller.is_operator(), token.encode()))
    }

    type StreamChecksStream = MessageStream<CheckStream>;

    async fn stream_checks(
        &self,
        request: Request<Streaming<Sealed<pb::StreamChecksRequest>>>,
    ) -> Result<Response<Self::StreamChecksStream>, Status> {
        let (requests, permit) = self.admit_streams(request).await?;
        let checks = CheckStream::new(self.roster().clone(), requests, permit.until());
        Ok(permit.poll(checks))
    }

    type WatchMembershipsStream = PushStream<pb::WatchMembershipsResponse>;

    async fn watch_memberships(
        &self,
        request: Request<Streaming<Sealed<pb::WatchMembershipsRequest>>>,
    ) -> Result<Response<Self::WatchMembershipsStream>, Status> {
        let (requests, permit) = self.admit_streams(request).await?;
        let roster = self.roster().clone();
        Ok(permit.push(|sender| watch::memberships::watch(roster, requests, sender)))
    }

    type ExportMembershipsStream = PushStream<pb::ExportMembershipsResponse>;

    async fn export_memberships(
        &self,
        request: Request<Sealed<pb::ExportMembershipsRequest>>,
    ) -> Result<Response<Self::ExportMembershipsStream>, Status> {
        let (message, permit) = self.admit_stream(request).await?;
        let kind = read(|fields| fields.kind(&message.kind))?;
        let (roster, origin) = (self.roster().clone(), permit.export_origin());
        Ok(permit.push(|sender| export::export(roster, origin, kind, sender)))
    }
}
