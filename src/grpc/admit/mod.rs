//! The second half of authorization: it runs where the message is decoded, because the message names the organization.
//!
//! A handler receives its message sealed. [`Api::admit`], [`Api::admit_caller`], their variants for writes and for streams
//! ([`stream`]) are the only ways to open it. They decide by the rule that the build attached to the request's type, and
//! return the message together with the right to continue.
//!
//! A write handler admits the call, reads its input and calls the service:
//!
//! ```text
//! let call = self.admit_write(request).await?;
//! let (input, meta) = call.read(create)?;
//! let result = self.roster().invite(call.access, meta, input).await?;
//! ```

mod deadline;
pub mod sealed;
pub mod shape;
pub mod stream;

use super::convert::Viewer;
use super::decode::{FieldReader, InvalidFields};
use super::request::{CallerRequest, OrganizationRequest, Request as RosterRequest, WriteRequest};
use super::status;
use crate::authn::Caller;
use crate::authz::decide::{self, Access, Requirement};
use crate::authz::rules::{self, AllowedCallers};
use crate::domain::{OrganizationRef, Refusal};
use crate::grpc::limits;
use crate::service::write::{CommitState, Meta, WriteAnswer, WriteResult};
use crate::service::{AnswerSource, CallPermit, Freshness, Roster, ServiceError};
pub use deadline::CallTimes;
use sealed::Sealed;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

/// The gRPC services: they admit each call and pass it on to [`Roster`].
#[derive(Debug, Clone)]
pub struct Api {
    roster: Roster,
}

/// What the pipeline knows about a call. Where the pipeline is missing, the caller is anonymous.
struct CallContext {
    caller: Caller,
    /// The moment at which the statements of a write end.
    deadline: Instant,
    commit: CommitState,
    permit: Option<CallPermit>,
}

impl CallContext {
    fn of<M>(request: &Request<M>) -> Self {
        let caller = request.extensions().get::<Arc<Caller>>();
        let caller = caller.map_or(Caller::Anonymous, |caller| Caller::clone(caller));
        let times = request.extensions().get::<CallTimes>().cloned();
        let times = times.unwrap_or_else(|| CallTimes::new(Instant::now(), Instant::now() + limits::DEADLINE));
        let permit = request.extensions().get::<CallPermit>().cloned();
        Self { caller, deadline: times.statements_end(), commit: times.commit, permit }
    }
}

impl Api {
    /// The gRPC services of this `Roster`.
    #[must_use]
    pub fn new(roster: Roster) -> Self {
        Self { roster }
    }

    /// The service that the handlers call.
    pub(super) fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Opens a request about one organization, for a caller who may make it there.
    pub(super) async fn admit<M: OrganizationRequest>(
        &self,
        request: Request<Sealed<M>>,
    ) -> Result<(M, Access), Status> {
        let context = CallContext::of(&request);
        let message = request.into_inner().open();
        let access = self.decide(&message, &context).await?;
        Ok((message, access))
    }

    /// Opens a request that names no organization, for a caller who may make it.
    pub(super) async fn admit_caller<M: CallerRequest>(
        &self,
        request: Request<Sealed<M>>,
    ) -> Result<(M, Caller), Status> {
        let context = CallContext::of(&request);
        self.decide_caller::<M>(&context).await?;
        Ok((request.into_inner().open(), context.caller))
    }

    async fn decide<M: OrganizationRequest>(&self, message: &M, context: &CallContext) -> Result<Access, ServiceError> {
        let rule = &M::METHOD.rule;
        rules::method_gate(rule, &context.caller)?;
        let AllowedCallers::Permission(permission) = rule.callers else {
            // The build gives this trait only to requests with a permission.
            return Err(Refusal::CallerNotAllowed { caller: "any".to_owned(), advice: String::new() }.into());
        };
        let organization = OrganizationRef::parse(message.organization())
            .map_err(|invalid| Refusal::field("organization", invalid.0))?;
        self.refresh(context).await?;
        let requirement = Requirement { permission, deleted: rule.deleted };
        let (replica, user) = (self.roster.replica(), context.caller.user());
        // The write transaction decides again on locked rows, so the replica may admit a write by id. A slug that has just
        // moved is known to the primary only.
        let by_slug = matches!(organization, OrganizationRef::Slug(_));
        let freshness = if M::METHOD.write && by_slug { Freshness::Full } else { Freshness::Recent };
        let (standing, source) = replica.standing(&organization, user, &freshness).await?;
        match Access::decide(requirement, context.caller.clone(), &standing) {
            // The replica may lag behind a grant of a moment ago: only the primary refuses. A reinstatement stays.
            Err(refusal) if source != AnswerSource::Primary && refusal != Refusal::CredentialExpired => {
                let (standing, _) = replica.standing(&organization, user, &Freshness::Full).await?;
                Ok(Access::decide(requirement, context.caller.clone(), &standing)?)
            }
            decision => Ok(decision?),
        }
    }

    async fn decide_caller<M: CallerRequest>(&self, context: &CallContext) -> Result<(), ServiceError> {
        rules::method_gate(&M::METHOD.rule, &context.caller)?;
        let Some(user) = context.caller.calling_user() else { return Ok(()) };
        self.refresh(context).await?;
        let replica = self.roster.replica();
        let known = replica.user_status_now(&user.id).map(|status| decide::require_admissible(user, status));
        match known {
            // The replica may lag behind a reactivation: only the primary refuses. A reinstatement stays.
            Some(Err(Refusal::CredentialExpired)) => Err(Refusal::CredentialExpired.into()),
            Some(Ok(())) if !M::METHOD.write => Ok(()),
            _ => Ok(decide::require_admissible(user, replica.user_status(&user.id).await?)?),
        }
    }

    /// Updates the stored profile from the caller's bearer token.
    async fn refresh(&self, context: &CallContext) -> Result<(), ServiceError> {
        match &context.caller {
            Caller::User(user) => {
                let meta = || Meta { permit: context.permit.clone(), ..Meta::own(context.deadline) };
                self.roster.refresh_profile(user, meta).await
            }
            Caller::Anonymous | Caller::Service(_) | Caller::Operator(_) => Ok(()),
        }
    }
}

/// Opens a request that names no organization, if the decision needs no lookup: for services and operators. `None` is not
/// a refusal; the pipeline then decides.
pub(super) fn admit_now<M: CallerRequest>(caller: &Caller, message: Sealed<M>) -> Option<M> {
    rules::method_gate(&M::METHOD.rule, caller).ok()?;
    caller.user().is_none().then(|| message.open())
}

/// Reads the fields of a request that changes nothing. The error names every invalid field.
pub(super) fn read<T>(reader: impl FnOnce(&mut FieldReader) -> Result<T, InvalidFields>) -> Result<T, Status> {
    let mut fields = FieldReader::default();
    let input = reader(&mut fields);
    fields.finish(input).map_err(|refusal| status::refused(&refusal))
}

/// Wraps a response message.
#[expect(clippy::unnecessary_wraps, reason = "the shape that every handler returns")]
pub(super) fn respond<T>(message: T) -> Result<Response<T>, Status> {
    Ok(Response::new(message))
}

/// A write in one organization whose caller may make it.
pub(super) struct OrganizationWrite<M> {
    /// The right to make it.
    pub(super) access: Access,
    message: WriteMessage<M>,
}

impl<M: WriteRequest> OrganizationWrite<M> {
    /// Reads the input and what every write carries. The error names every invalid field.
    pub(super) fn read<W>(
        &self,
        reader: impl FnOnce(&M, &mut FieldReader) -> Result<W, InvalidFields>,
    ) -> Result<(W, Meta), Status> {
        self.message.read(reader)
    }

    /// Reads what every write carries, for a write without further input.
    pub(super) fn meta(&self) -> Result<Meta, Status> {
        self.read(|_, _| Ok(())).map(|((), meta)| meta)
    }

    /// The caller as the viewer of the answer.
    pub(super) fn viewer(&self) -> Viewer {
        Viewer::new(self.access.caller(), Some(self.access.grant()))
    }
}

/// A write that names no organization, whose caller may make it.
pub(super) struct CallerWrite<M> {
    /// The caller, who was admitted.
    pub(super) caller: Caller,
    message: WriteMessage<M>,
}

impl<M: WriteRequest> CallerWrite<M> {
    /// Reads the input and what every write carries. The error names every invalid field.
    pub(super) fn read<W>(
        &self,
        reader: impl FnOnce(&M, &mut FieldReader) -> Result<W, InvalidFields>,
    ) -> Result<(W, Meta), Status> {
        self.message.read(reader)
    }
}

/// The outcome of [`Api::admit_or_replay`].
pub(super) enum Admission<M, T> {
    /// The caller may make the write.
    Admitted(OrganizationWrite<M>),
    /// The caller made this very request before, and it took away the caller's right to repeat it: the stored answer.
    Replayed(Caller, WriteResult<T>),
}

impl Api {
    /// Opens a write in one organization, for a caller who may make it there.
    pub(super) async fn admit_write<M: OrganizationRequest + WriteRequest>(
        &self,
        request: Request<Sealed<M>>,
    ) -> Result<OrganizationWrite<M>, Status> {
        let message = WriteMessage::open(request);
        let access = self.decide(&message.message, &message.context).await?;
        Ok(OrganizationWrite { access, message })
    }

    /// Opens a write that names no organization, for a caller who may make it.
    pub(super) async fn admit_caller_write<M: CallerRequest + WriteRequest>(
        &self,
        request: Request<Sealed<M>>,
    ) -> Result<CallerWrite<M>, Status> {
        let context = CallContext::of(&request);
        self.decide_caller::<M>(&context).await?;
        let caller = context.caller.clone();
        Ok(CallerWrite { caller, message: WriteMessage::new(request.into_inner(), context) })
    }

    /// Opens a write that may take away the caller's own right to make it: leaving, a removal, a lower role, a transfer, a
    /// deletion. A refused caller may be repeating such a request whose answer was lost; the stored answer is returned
    /// then.
    pub(super) async fn admit_or_replay<M, T>(&self, request: Request<Sealed<M>>) -> Result<Admission<M, T>, Status>
    where
        M: OrganizationRequest + WriteRequest,
        T: WriteAnswer,
    {
        let message = WriteMessage::open(request);
        match self.decide(&message.message, &message.context).await {
            Ok(access) => Ok(Admission::Admitted(OrganizationWrite { access, message })),
            Err(error) => match self.stored_answer(&message, &error).await? {
                Some(result) => Ok(Admission::Replayed(message.context.caller, result)),
                None => Err(error.into()),
            },
        }
    }

    async fn stored_answer<M, T>(
        &self,
        message: &WriteMessage<M>,
        error: &ServiceError,
    ) -> Result<Option<WriteResult<T>>, Status>
    where
        M: WriteRequest,
        T: WriteAnswer,
    {
        let denied = matches!(
            error,
            ServiceError::Refused(
                Refusal::PermissionDenied { .. } | Refusal::RoleLacksPermission { .. } | Refusal::OrganizationNotFound
            )
        );
        if !denied || message.message.request_id().is_empty() {
            return Ok(None);
        }
        match message.read(|_, _| Ok(())) {
            Ok(((), meta)) => Ok(self.roster.replayed_answer(&message.context.caller, &meta).await?),
            Err(_) => Ok(None),
        }
    }
}

/// The opened message of a write, with what the pipeline knows about the call.
struct WriteMessage<M> {
    message: M,
    context: CallContext,
}

impl<M: WriteRequest> WriteMessage<M> {
    fn open(request: Request<Sealed<M>>) -> Self {
        let context = CallContext::of(&request);
        Self::new(request.into_inner(), context)
    }

    fn new(message: Sealed<M>, context: CallContext) -> Self {
        let mut message = message.open();
        // The id is a UUID: a request with another spelling of it is the same request.
        message.request_id_mut().make_ascii_lowercase();
        Self { message, context }
    }

    fn read<W>(
        &self,
        reader: impl FnOnce(&M, &mut FieldReader) -> Result<W, InvalidFields>,
    ) -> Result<(W, Meta), Status> {
        let Self { message, context } = self;
        let mut fields = FieldReader::default();
        let input = reader(message, &mut fields);
        let common = fields.write(message.reason(), message.request_id());
        let parsed = input.and_then(|input| Ok((input, common?)));
        let (input, (reason, request_id)) = fields.finish(parsed).map_err(|refusal| status::refused(&refusal))?;
        let meta = Meta {
            reason,
            request_id,
            fingerprint: fingerprint(message),
            validate_only: message.validate_only(),
            deadline: context.deadline,
            commit: context.commit.clone(),
            permit: context.permit.clone(),
        };
        Ok((input, meta))
    }
}

/// A SHA-256 of the method and the message. The message is encoded from its decoded form, and maps are ordered, so equal
/// messages have equal bytes.
fn fingerprint<M: RosterRequest>(message: &M) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(M::METHOD.path);
    hasher.update([0]);
    hasher.update(message.encode_to_vec());
    hasher.finalize().into()
}
