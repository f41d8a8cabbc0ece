//! The second half of the interceptor: it stands where the message is decoded, because the organization is inside.
//!
//! A handler gets its message sealed; [`Api::admit`], [`Api::admit_caller`] and their like for streams ([`stream`]) are
//! the only ways to open it. They decide, from the rule that the build attached to the request's type, and give the
//! message together with the right to go on.

pub mod sealed;
pub mod stream;

use super::decode::{FieldReader, InvalidFields};
use super::request::{CallerRequest, OrganizationRequest, Request as RosterRequest, WriteRequest};
use super::status;
use crate::authn::Caller;
use crate::authz::decide::{self, Access, Requirement};
use crate::authz::rules::{self, AllowedCallers};
use crate::domain::{OrganizationRef, Refusal};
use crate::grpc::limits;
use crate::service::write::{Meta, WriteResult};
use crate::service::{AnswerSource, Freshness, Roster, ServiceError};
use sealed::Sealed;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::future::Future;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

/// When the caller stops waiting: put beside the request by the layer that reads `grpc-timeout`.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(pub Instant);

/// The call's place among those in hand: put beside the request by the layer that sheds load.
#[derive(Debug, Clone)]
pub struct CallPermit(pub Arc<OwnedSemaphorePermit>);

/// What answers the calls: the service, and the way in.
#[derive(Debug, Clone)]
pub struct Api {
    roster: Roster,
}

/// Who asks and until when, from the layers; nobody where they are missing.
struct CallContext {
    caller: Caller,
    deadline: Instant,
    in_hand: Option<Arc<OwnedSemaphorePermit>>,
}

impl CallContext {
    fn of<M>(request: &Request<M>) -> Self {
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Anonymous);
        let deadline = request.extensions().get::<Deadline>().map(|deadline| deadline.0);
        let deadline = deadline.unwrap_or_else(|| Instant::now() + limits::DEADLINE);
        let in_hand = request.extensions().get::<CallPermit>().map(|in_hand| in_hand.0.clone());
        Self { caller, deadline, in_hand }
    }
}

impl Api {
    /// The calls of this service.
    #[must_use]
    pub fn new(roster: Roster) -> Self {
        Self { roster }
    }

    /// The service itself.
    pub(super) fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Opens a request about one organization, for a caller who may make it there.
    pub(super) async fn admit<M: OrganizationRequest>(
        &self,
        request: Request<Sealed<M>>,
    ) -> Result<(M, Access), Status> {
        let envelope = CallContext::of(&request);
        let message = request.into_inner().open();
        let access = self.decide(&message, &envelope).await?;
        Ok((message, access))
    }

    /// Opens a request about no organization in particular.
    pub(super) async fn admit_caller<M: CallerRequest>(
        &self,
        request: Request<Sealed<M>>,
    ) -> Result<(M, Caller), Status> {
        let envelope = CallContext::of(&request);
        self.decide_caller::<M>(&envelope).await?;
        Ok((request.into_inner().open(), envelope.caller))
    }

    async fn decide<M: OrganizationRequest>(
        &self,
        message: &M,
        envelope: &CallContext,
    ) -> Result<Access, ServiceError> {
        let rule = &M::METHOD.rule;
        rules::method_gate(rule, &envelope.caller)?;
        let AllowedCallers::Permission(permission) = rule.callers else {
            // The build gives this trait to requests with a permission only.
            return Err(Refusal::CallerNotAllowed { caller: "any".to_owned(), advice: String::new() }.into());
        };
        let organization = OrganizationRef::parse(message.organization())
            .map_err(|invalid| Refusal::field("organization", invalid.0))?;
        self.refresh(envelope).await?;
        let need = Requirement { permission, deleted: rule.deleted };
        let (replica, user) = (self.roster.replica(), envelope.caller.user());
        // Whether they may write is decided once more where they write, on locked rows. But where a slug leads that has
        // just moved, only the primary knows.
        let by_slug = matches!(organization, OrganizationRef::Slug(_));
        let freshness = if M::METHOD.write && by_slug { Freshness::Full } else { Freshness::Recent };
        let (standing, source) = replica.standing(&organization, user, &freshness).await?;
        match Access::decide(need, envelope.caller.clone(), &standing) {
            // Memory may not have heard yet: nobody is refused what was granted a moment ago.
            Err(_) if source != AnswerSource::Primary => {
                let (standing, _) = replica.standing(&organization, user, &Freshness::Full).await?;
                Ok(Access::decide(need, envelope.caller.clone(), &standing)?)
            }
            decided => Ok(decided?),
        }
    }

    async fn decide_caller<M: CallerRequest>(&self, envelope: &CallContext) -> Result<(), ServiceError> {
        rules::method_gate(&M::METHOD.rule, &envelope.caller)?;
        if let Some(user) = envelope.caller.user() {
            self.refresh(envelope).await?;
            let replica = self.roster.replica();
            let known = replica.user_state_now(user).filter(|_| !M::METHOD.write);
            // Memory may not have heard yet of one who was switched on again.
            if known.is_none_or(|state| decide::require_active(state).is_err()) {
                decide::require_active(replica.user_state(user).await?)?;
            }
        }
        Ok(())
    }

    /// Brings the stored profile up to date with the caller's token.
    async fn refresh(&self, envelope: &CallContext) -> Result<(), ServiceError> {
        match &envelope.caller {
            Caller::User(user) => {
                let meta = || Meta { in_hand: envelope.in_hand.clone(), ..Meta::own(envelope.deadline) };
                self.roster.refresh_profile(user, meta).await
            }
            Caller::Anonymous | Caller::Service(_) | Caller::Operator(_) => Ok(()),
        }
    }

    /// Runs a write in one organization: admit, read the rest of the message, write, answer.
    ///
    /// Who is refused may only be repeating the very request that took them the right to it (they left, and did not hear
    /// that they had): then they get the answer they missed.
    pub(super) async fn write_in<M, W, T, F>(
        &self,
        request: Request<Sealed<M>>,
        read: impl FnOnce(&M, &mut FieldReader) -> Result<W, InvalidFields> + Send,
        run: impl FnOnce(Roster, Access, Meta, W) -> F + Send,
    ) -> Result<(Option<Access>, Caller, WriteResult<T>), Status>
    where
        M: OrganizationRequest + WriteRequest,
        T: DeserializeOwned + Send,
        F: Future<Output = Result<WriteResult<T>, ServiceError>> + Send,
    {
        let envelope = CallContext::of(&request);
        let message = request.into_inner().open();
        let access = match self.decide(&message, &envelope).await {
            Ok(access) => access,
            Err(error) => {
                let answer = self.missed(&message, &envelope, &error).await?;
                return answer.map(|written| (None, envelope.caller, written)).ok_or_else(|| error.into());
            }
        };
        let (input, meta) = read_write(&message, &envelope, read)?;
        let written = run(self.roster.clone(), access.clone(), meta, input).await?;
        Ok((Some(access), envelope.caller, written))
    }

    async fn missed<M, T>(
        &self,
        message: &M,
        envelope: &CallContext,
        error: &ServiceError,
    ) -> Result<Option<WriteResult<T>>, Status>
    where
        M: OrganizationRequest + WriteRequest,
        T: DeserializeOwned,
    {
        let denied = matches!(
            error,
            ServiceError::Refused(
                Refusal::PermissionDenied { .. } | Refusal::RoleLacksPermission { .. } | Refusal::OrganizationNotFound
            )
        );
        if !denied || message.request_id().is_empty() {
            return Ok(None);
        }
        match read_write(message, envelope, |_, _| Ok(())) {
            Ok(((), meta)) => Ok(self.roster.replayed_answer(&envelope.caller, &meta).await?),
            Err(_) => Ok(None),
        }
    }

    /// Runs a write that is about no organization in particular.
    pub(super) async fn write_as<M, W, T, F>(
        &self,
        request: Request<Sealed<M>>,
        read: impl FnOnce(&M, &mut FieldReader) -> Result<W, InvalidFields> + Send,
        run: impl FnOnce(Roster, Caller, Meta, W) -> F + Send,
    ) -> Result<WriteResult<T>, Status>
    where
        M: CallerRequest + WriteRequest,
        F: Future<Output = Result<WriteResult<T>, ServiceError>> + Send,
    {
        let envelope = CallContext::of(&request);
        self.decide_caller::<M>(&envelope).await?;
        let message = request.into_inner().open();
        let (input, meta) = read_write(&message, &envelope, read)?;
        Ok(run(self.roster.clone(), envelope.caller, meta, input).await?)
    }
}

/// Opens a request about no organization in particular, if that can be decided without asking anything of anybody: for
/// services and operators. None is no refusal.
pub(super) fn admit_now<M: CallerRequest>(caller: &Caller, message: Sealed<M>) -> Option<M> {
    rules::method_gate(&M::METHOD.rule, caller).ok()?;
    caller.user().is_none().then(|| message.open())
}

/// Reads a write's content and what every write carries; says at once all that is wrong.
fn read_write<M: WriteRequest, W>(
    message: &M,
    envelope: &CallContext,
    read: impl FnOnce(&M, &mut FieldReader) -> Result<W, InvalidFields>,
) -> Result<(W, Meta), Status> {
    let mut fields = FieldReader::default();
    let input = read(message, &mut fields);
    let meta = fields.write(message.reason(), message.request_id());
    let read = input.and_then(|input| Ok((input, meta?)));
    let (input, (reason, request_id)) = fields.finish(read).map_err(|refusal| status::refused(&refusal))?;
    let meta = Meta {
        reason,
        request_id,
        fingerprint: fingerprint(message),
        validate_only: message.validate_only(),
        deadline: envelope.deadline,
        in_hand: envelope.in_hand.clone(),
    };
    Ok((input, meta))
}

/// A SHA-256 of the method and the message. Decoded and encoded again, equal messages are equal bytes: maps are ordered.
fn fingerprint<M: RosterRequest>(message: &M) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(M::METHOD.path);
    hasher.update([0]);
    hasher.update(message.encode_to_vec());
    hasher.finalize().into()
}

/// Reads a request that changes nothing; says at once all that is wrong.
pub(super) fn read<T>(read: impl FnOnce(&mut FieldReader) -> Result<T, InvalidFields>) -> Result<T, Status> {
    let mut fields = FieldReader::default();
    let done = read(&mut fields);
    fields.finish(done).map_err(|refusal| status::refused(&refusal))
}

/// Wraps an answer.
#[expect(clippy::unnecessary_wraps, reason = "the shape that every handler returns")]
pub(super) fn answer<T>(message: T) -> Result<Response<T>, Status> {
    Ok(Response::new(message))
}
