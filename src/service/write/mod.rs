//! The write transaction: one function runs every write.
//!
//! Before a write takes a connection, it waits in the [queues](queue) of what it locks first.
//!
//! The order is always the same: claim the request id; lock the organization, in a separate statement; decide again on the
//! locked rows; make the changes and their events; append to the change log, last; commit. The transaction runs in a
//! separate task, so a caller who hangs up leaves no transaction open. Postgres ends a statement that outlives the deadline.

mod answer;
mod commit_state;
pub(super) mod preconditions;
pub(super) mod queue;
pub(super) mod unit_of_work;

use super::{CallPermit, Roster, ServiceError};
use crate::authn::{Actor, Caller};
use crate::authz::decide::{self, Access, Grant};
use crate::domain::{
    ActorKind, AuditReason, BucketPosition, Organization, OrganizationHead, Refusal, RoleName, RoleTable, Scope,
    Standing, UserStatus,
};
use crate::replica::PublishedRoles;
use crate::service::consistency_token::ConsistencyToken;
use crate::service::limits;
use crate::store::events::Cause;
use crate::store::requests::{self, RequestKey};
use crate::store::{StoreError, transaction, users};
pub use answer::WriteAnswer;
pub use commit_state::CommitState;
use queue::QueueKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use std::future::Future;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;
use unit_of_work::UnitOfWork;
use uuid::Uuid;

/// What every write request carries beside its input.
#[derive(Debug, Clone)]
pub struct Meta {
    /// The reason for the change, for the audit trail.
    pub reason: Option<AuditReason>,
    /// The request id: the write is made once for it, and a repetition gets the stored answer.
    pub request_id: Option<Uuid>,
    /// A SHA-256 of the method and the message.
    pub fingerprint: [u8; 32],
    /// Whether the write is only validated: everything is checked, nothing is changed.
    pub validate_only: bool,
    /// The moment at which the statements of the write end: before the caller stops waiting, so that the answer arrives.
    pub deadline: Instant,
    /// Whether the call has begun to commit.
    pub commit: CommitState,
    /// The call's place among the calls under way. The write keeps it until it has ended, even if its caller hangs up.
    pub permit: Option<CallPermit>,
}

impl Meta {
    /// The meta of a write that roster makes itself.
    #[must_use]
    pub fn own(deadline: Instant) -> Self {
        Self {
            reason: None,
            request_id: None,
            fingerprint: [0; 32],
            validate_only: false,
            deadline,
            commit: CommitState::default(),
            permit: None,
        }
    }

    /// The key of the stored answer. Services of two issuers with one name have one key, so each gets the answer of the
    /// other to the same request id and the same message, if it may make the request. Releases up to 0.3 claim a request
    /// by this key, and a request must not be claimed by two: the issuer becomes part of it with the next format of the
    /// table.
    fn key(&self, caller: &Caller) -> Option<RequestKey> {
        let request_id = self.request_id.filter(|_| !self.validate_only)?;
        let Actor { kind, id, via, issuer: _ } = caller.actor()?;
        let mut hasher = Sha256::new();
        for part in [kind.as_str(), &id, via.as_deref().unwrap_or_default()] {
            hasher.update(part.len().to_be_bytes());
            hasher.update(part);
        }
        Some(RequestKey { caller: hasher.finalize().into(), request_id, fingerprint: self.fingerprint })
    }

    fn in_time(&self) -> Result<(), StoreError> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(StoreError::Timeout(None)) }
    }

    /// Begins the commit, unless the deadline has passed or the call was answered.
    fn begin_commit(&self) -> Result<(), StoreError> {
        self.in_time()?;
        if self.commit.begin() { Ok(()) } else { Err(StoreError::Silent) }
    }

    /// The error of a transaction that Postgres does not answer any more.
    fn unanswered(&self) -> StoreError {
        if self.commit.has_begun() {
            StoreError::CommitUnknown(Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
        } else {
            StoreError::Silent
        }
    }

    fn cause(&self, caller: Option<&Caller>) -> Cause {
        let system = || Actor { kind: ActorKind::System, id: "roster".to_owned(), issuer: None, via: None };
        let actor = caller.and_then(Caller::actor).unwrap_or_else(system);
        Cause {
            actor_kind: actor.kind,
            actor_id: actor.id,
            actor_issuer: actor.issuer,
            actor_via: actor.via,
            reason: self.reason.as_ref().map(|reason| reason.as_str().to_owned()),
            request_id: self.request_id,
        }
    }
}

/// The answer of a write, and the consistency token that covers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WriteResult<T> {
    /// The answer to the caller.
    pub answer: T,
    /// The consistency token; empty if the write was only validated.
    pub token: String,
}

/// A change that one transaction makes. It runs again from the start when the transaction loses against another one.
pub(super) trait Change: Send + Sync + 'static {
    /// What [`Self::enter`] has locked and decided.
    type Place: Send;
    /// The answer to the caller.
    type Answer: WriteAnswer;

    /// Whether the answer reports a change. An answer that does not is a refusal, of one thing or of each item of a batch:
    /// it is not stored for its request id.
    fn is_success(_: &Self::Answer) -> bool {
        true
    }

    /// The row that the change locks first and that other writes may hold; `None` if there is none.
    fn queue(&self) -> Option<QueueKey>;

    /// Locks the rows of the change, and decides whether the caller may make it.
    fn enter(&self, tx: &mut UnitOfWork<'_>) -> impl Future<Output = Result<Self::Place, ServiceError>> + Send;

    /// Makes the change.
    fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        place: Self::Place,
    ) -> impl Future<Output = Result<Self::Answer, ServiceError>> + Send;
}

/// A change in one organization, for a caller who was admitted to it.
pub(super) trait OrganizationChange: Send + Sync + 'static {
    /// The answer to the caller.
    type Answer: WriteAnswer;

    /// Whether the answer reports a change, as in [`Change::is_success`].
    fn is_success(_: &Self::Answer) -> bool {
        true
    }

    /// Makes the change in the locked organization.
    fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: Organization,
        grant: Grant,
    ) -> impl Future<Output = Result<Self::Answer, ServiceError>> + Send;
}

struct AuthorizedChange<C> {
    access: Access,
    change: C,
}

impl<C: OrganizationChange> Change for AuthorizedChange<C> {
    type Place = (Organization, Grant);
    type Answer = C::Answer;

    fn is_success(answer: &C::Answer) -> bool {
        C::is_success(answer)
    }

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::Organization(self.access.organization()))
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<Self::Place, ServiceError> {
        let locked = tx.lock(self.access.organization()).await?;
        let standing = standing(tx, locked.as_ref()).await?;
        let (_, grant) = decide::decide(self.access.requirement(), self.access.caller(), &standing)?;
        let grant = with_roles(grant, self.access.caller(), tx.roles());
        // An organization that is not there has been refused by the decision.
        let organization = locked.ok_or(Refusal::OrganizationNotFound)?;
        Ok((organization, grant))
    }

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        (organization, grant): Self::Place,
    ) -> Result<C::Answer, ServiceError> {
        self.change.apply(tx, organization, grant).await
    }
}

/// The rights of a caller, with what the access model adds: a service that acts as an admin holds what admins hold.
fn with_roles(grant: Grant, caller: &Caller, roles: &RoleTable) -> Grant {
    match (caller, roles.permissions(&RoleName::ADMIN)) {
        (Caller::Service(service), Some(admin)) if service.has(Scope::Manage) => {
            Grant { permissions: grant.permissions.union(admin), ..grant }
        }
        _ => grant,
    }
}

/// The input of the decision, read under the organization's lock.
async fn standing(tx: &mut UnitOfWork<'_>, locked: Option<&Organization>) -> Result<Standing, ServiceError> {
    let (mut role, mut status) = (None, UserStatus::default());
    if let (Some(organization), Some(user)) = (locked, tx.user().cloned()) {
        role = tx.membership(organization.id, &user).await?.map(|membership| membership.role);
        // Locked for share: a deactivation of the user waits until this write has ended.
        status = users::hold_status(tx.connection, &user).await?;
    }
    Ok(Standing {
        organization: locked.map(|organization| OrganizationHead {
            id: organization.id,
            state: organization.state(),
            revision: organization.revision,
        }),
        role,
        user_state: status.state,
        reinstated_at: status.reinstated_at,
        // A decision uses no positions.
        position: None,
        user_position: BucketPosition::start(0),
    })
}

impl Roster {
    /// Runs a change in the organization that the caller was admitted to.
    pub(super) async fn write_in<C: OrganizationChange>(
        &self,
        access: Access,
        meta: Meta,
        change: C,
    ) -> Result<WriteResult<C::Answer>, ServiceError> {
        let caller = access.caller().clone();
        self.write(Some(caller), meta, AuthorizedChange { access, change }).await
    }

    /// Runs a change. Without a caller it is a change that roster makes itself.
    pub(super) async fn write<C: Change>(
        &self,
        caller: Option<Caller>,
        meta: Meta,
        change: C,
    ) -> Result<WriteResult<C::Answer>, ServiceError> {
        let roster = self.clone();
        // Boxed, because the future is large and would be moved several times before it runs.
        let run = Box::pin(async move {
            match roster.attempts(caller, meta, change).await {
                // A write that has waited for others, while Postgres answered none of them.
                Err(ServiceError::Store(StoreError::Timeout(None))) if !roster.replica.is_answered() => {
                    Err(StoreError::Silent.into())
                }
                outcome => outcome,
            }
        });
        let task = self.writes.spawn_on(run.in_current_span(), self.pool.runtime());
        task.await.unwrap_or_else(|join| {
            tracing::error!(error = &join as &dyn std::error::Error, "a write panicked");
            Err(ServiceError::Panicked)
        })
    }

    /// The stored answer to a request that took away its caller's right to repeat it; `None` if there is no such answer.
    ///
    /// # Errors
    /// `VALUE_UNKNOWN` if a newer program stored the answer and this one cannot read it; if the datastore does not answer.
    pub async fn replayed_answer<T: WriteAnswer>(
        &self,
        caller: &Caller,
        meta: &Meta,
    ) -> Result<Option<WriteResult<T>>, ServiceError> {
        let Some(key) = meta.key(caller) else { return Ok(None) };
        let mut connection = self.pool.acquire_read().await?;
        let outcome = find_repeatable(&mut connection, &key).await;
        connection.finish(outcome)
    }

    async fn attempts<C: Change>(
        &self,
        caller: Option<Caller>,
        meta: Meta,
        change: C,
    ) -> Result<WriteResult<C::Answer>, ServiceError> {
        // In the order of the locks in the database. A write that waits here holds no lock there.
        let request = caller.as_ref().and_then(|caller| meta.key(caller));
        let request = request.map(|key| QueueKey::Request(key.caller, key.request_id));
        let mut places = Vec::with_capacity(2);
        for key in request.into_iter().chain(change.queue()) {
            places.push(self.queues.enter(key, meta.deadline).await?);
        }
        let mut attempt = 1;
        let mut roles = self.replica.published_roles();
        loop {
            let outcome = self.attempt(caller.as_ref(), &meta, &change, &roles).await;
            match outcome {
                Err(ServiceError::Store(StoreError::ModelChanged)) if attempt < limits::WRITE_ATTEMPTS => {
                    roles = self.replica.refresh_roles().await?;
                    attempt += 1;
                }
                Err(ServiceError::Store(StoreError::Contention(cause))) if attempt < limits::WRITE_ATTEMPTS => {
                    tracing::debug!(
                        attempt,
                        error = &cause as &dyn std::error::Error,
                        "a write lost against another transaction, retrying"
                    );
                    attempt += 1;
                }
                Err(ServiceError::Refused(Refusal::Conflict)) if attempt < limits::WRITE_ATTEMPTS => attempt += 1,
                // Postgres was restarted, or a standby was promoted: the idle connections of the pool are broken.
                Err(ServiceError::Store(error)) if error.is_session_lost() && attempt < limits::WRITE_ATTEMPTS => {
                    attempt += 1;
                }
                Err(ServiceError::Store(StoreError::Contention(_) | StoreError::ModelChanged)) => {
                    return Err(Refusal::Conflict.into());
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt<C: Change>(
        &self,
        caller: Option<&Caller>,
        meta: &Meta,
        change: &C,
        roles: &PublishedRoles,
    ) -> Result<WriteResult<C::Answer>, ServiceError> {
        // A write whose caller no longer waits does not begin.
        meta.in_time()?;
        let mut token = self.replica.token(self.replica.datastore().await?);
        let mut connection = self.pool.acquire_write().await?;
        let transaction = transaction(&mut connection, &mut token, Author { caller, roles }, meta, change);
        let Ok(outcome) = timeout_at(meta.deadline + limits::WRITE_GRACE, transaction).await else {
            // Postgres does not answer: whatever is open on the connection ends with it.
            connection.close();
            return Err(meta.unanswered().into());
        };
        // A refused write has been rolled back, and its connection is clean.
        let outcome = match outcome {
            Err(ServiceError::Refused(refusal)) => connection.finish(Ok(Err(refusal.into()))),
            Err(ServiceError::Store(error)) if error.is_session_lost() => {
                connection.close();
                return Err(error.into());
            }
            outcome => connection.finish(outcome).map(Ok),
        }?;
        // A write that was only validated has no token. A repeated request covers nothing itself: the token of its stored
        // answer covers what another process may have written.
        if let Some(written) = outcome.as_ref().ok().filter(|written| !written.token.is_empty()) {
            let stored = if token.is_empty() { ConsistencyToken::decode(&written.token).ok() } else { None };
            self.replica.record_commit(stored.as_ref().unwrap_or(&token));
        }
        outcome
    }
}

/// The caller of a write, and the roles by which the write is decided.
struct Author<'a> {
    caller: Option<&'a Caller>,
    roles: &'a PublishedRoles,
}

async fn transaction<C: Change>(
    connection: &mut PgConnection,
    token: &mut ConsistencyToken,
    Author { caller, roles }: Author<'_>,
    meta: &Meta,
    change: &C,
) -> Result<WriteResult<C::Answer>, ServiceError> {
    let mut tx = transaction::begin_write(connection, meta.deadline.saturating_duration_since(Instant::now())).await?;
    let outcome = steps(&mut tx, token, Author { caller, roles }, meta, change).await;
    // Postgres bounds each statement, not their sum: a write that is past its deadline by now is not committed.
    let may_end = if meta.validate_only { Meta::in_time } else { Meta::begin_commit };
    match outcome.and_then(|written| may_end(meta).map(|()| written).map_err(ServiceError::from)) {
        Ok(mut written) if meta.validate_only => {
            transaction::check_constraints(&mut tx).await?;
            tx.rollback().await?;
            written.token.clear();
            Ok(written)
        }
        Ok(written) => {
            tx.commit().await.map_err(StoreError::of_commit)?;
            Ok(written)
        }
        Err(error) => {
            // A broken connection rolls back by itself. It is not clean after a refusal: the error of the connection takes
            // the place of the refusal, and the write is repeated. Any other first error is the one to report.
            if let Err(cause) = tx.rollback().await {
                tracing::debug!(error = &cause as &dyn std::error::Error, "a rollback failed");
                if matches!(error, ServiceError::Refused(_)) {
                    return Err(cause.into());
                }
            }
            Err(error)
        }
    }
}

/// Finds the stored answer to a request that took away its caller's right to repeat it.
async fn find_repeatable<T: WriteAnswer>(
    connection: &mut PgConnection,
    key: &RequestKey,
) -> Result<Option<WriteResult<T>>, ServiceError> {
    match requests::find(connection, key).await? {
        Some(stored) if stored.revokes_own_access && !stored.other_message => {
            Ok(Some(answer::restore(connection, stored).await?))
        }
        _ => Ok(None),
    }
}

async fn steps<C: Change>(
    connection: &mut PgConnection,
    token: &mut ConsistencyToken,
    Author { caller, roles }: Author<'_>,
    meta: &Meta,
    change: &C,
) -> Result<WriteResult<C::Answer>, ServiceError> {
    let key = caller.and_then(|caller| meta.key(caller));
    let stored = match &key {
        Some(key) if !requests::claim(connection, key).await? => {
            // The row may have expired between the two statements: the caller may simply repeat the request.
            let stored = requests::find(connection, key).await?.ok_or(Refusal::Conflict)?;
            if stored.other_message {
                return Err(Refusal::RequestIdReused.into());
            }
            Some(stored)
        }
        _ => None,
    };
    let mut tx = UnitOfWork::new(connection, caller.cloned(), roles.clone(), meta.cause(caller));
    let place = match stored {
        Some(stored) if stored.revokes_own_access => return answer::restore(tx.connection, stored).await,
        // The caller's rights are checked again before an answer is repeated, unless the write itself took them away.
        Some(stored) => {
            let place = change.enter(&mut tx).await?;
            let written: WriteResult<C::Answer> = answer::restore(tx.connection, stored).await?;
            if C::is_success(&written.answer) {
                return Ok(written);
            }
            // Releases up to 0.3 stored refusals too. Such a request runs again; the claim has locked its row.
            place
        }
        None => change.enter(&mut tx).await?,
    };
    let answer = change.apply(&mut tx, place).await?;
    let revokes_own_access = tx.finish(token).await?;
    let written = WriteResult { answer, token: token.encode() };
    match key {
        Some(key) if C::is_success(&written.answer) => {
            requests::keep(connection, &key, &serde_json::to_value(&written)?, revokes_own_access).await?;
        }
        Some(key) => requests::release(connection, &key).await?,
        None => {}
    }
    Ok(written)
}

/// The decision about a change that needs no organization: by the caller's status only.
pub(super) async fn enter_as_caller(tx: &mut UnitOfWork<'_>) -> Result<(), ServiceError> {
    if let Some(user) = tx.calling_user().cloned() {
        decide::require_admissible(&user, users::status(tx.connection, &user.id).await?)?;
    }
    Ok(())
}

/// The same decision under a shared lock of the user: their status does not change until the write has ended.
pub(super) async fn hold_caller(tx: &mut UnitOfWork<'_>) -> Result<(), ServiceError> {
    if let Some(user) = tx.calling_user().cloned() {
        decide::require_admissible(&user, users::hold_status(tx.connection, &user.id).await?)?;
    }
    Ok(())
}
