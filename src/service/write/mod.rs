//! The write transaction: the one function that every use case goes through.
//!
//! Always in this order: the request id; the organization's lock, in a statement of its own; the decision, again, on what
//! is locked; the changes with their events; the log, last; the commit. It runs in a task of its own, so that a caller
//! who hangs up leaves no transaction half open, and Postgres ends what outlives its deadline.

pub(super) mod preconditions;
pub(super) mod unit_of_work;

use super::{Roster, ServiceError};
use crate::authn::{Actor, Caller};
use crate::authz::decide::{self, Access, Grant};
use crate::domain::{AuditReason, BucketPosition, Organization, OrganizationHead, Refusal, Standing, UserId};
use crate::service::consistency_token::ConsistencyToken;
use crate::service::limits;
use crate::store::events::Cause;
use crate::store::requests::{self, RequestKey};
use crate::store::{StoreError, memberships, pool, users};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;
use unit_of_work::UnitOfWork;
use uuid::Uuid;

/// What every write request carries beside its content.
#[derive(Debug, Clone)]
pub struct Meta {
    /// Why, for the audit.
    pub reason: Option<AuditReason>,
    /// The request's name, under which it is answered once.
    pub request_id: Option<Uuid>,
    /// A SHA-256 of the method and the message.
    pub fingerprint: [u8; 32],
    /// Check everything and change nothing.
    pub validate_only: bool,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The call's place among those in hand, given back when the write has ended: not when its caller hangs up.
    pub in_hand: Option<Arc<OwnedSemaphorePermit>>,
}

impl Meta {
    /// What a write of roster's own carries.
    #[must_use]
    pub fn own(deadline: Instant) -> Self {
        Self { reason: None, request_id: None, fingerprint: [0; 32], validate_only: false, deadline, in_hand: None }
    }

    fn key(&self, caller: &Caller) -> Option<RequestKey> {
        let request_id = self.request_id.filter(|_| !self.validate_only)?;
        let Actor { kind, id, via } = caller.actor()?;
        let mut hasher = Sha256::new();
        for part in [kind, &id, via.as_deref().unwrap_or_default()] {
            hasher.update(part.len().to_be_bytes());
            hasher.update(part);
        }
        Some(RequestKey { caller: hasher.finalize().into(), request_id, fingerprint: self.fingerprint })
    }

    fn in_time(&self) -> Result<(), StoreError> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(StoreError::Timeout(None)) }
    }

    fn cause(&self, caller: Option<&Caller>) -> Cause {
        let system = || Actor { kind: "system", id: "roster".to_owned(), via: None };
        let Actor { kind, id, via } = caller.and_then(Caller::actor).unwrap_or_else(system);
        let reason = self.reason.as_ref().map(|reason| reason.as_str().to_owned());
        Cause { actor_kind: kind, actor_id: id, actor_via: via, reason, request_id: self.request_id }
    }
}

/// A write's answer, and the token that covers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WriteResult<T> {
    /// The answer.
    pub answer: T,
    /// The consistency token; empty if nothing was to be written.
    pub token: String,
}

/// A change that one transaction makes. Run again from the start when it loses against another transaction.
pub(super) trait Change: Send + Sync + 'static {
    /// What [`Self::enter`] locks and decides.
    type Place: Send;
    /// What is answered.
    type Answer: Serialize + DeserializeOwned + Send + 'static;

    /// Locks what the change is about, and decides whether the caller may.
    fn enter(&self, tx: &mut UnitOfWork<'_>) -> impl Future<Output = Result<Self::Place, ServiceError>> + Send;

    /// Makes the change.
    fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        place: Self::Place,
    ) -> impl Future<Output = Result<Self::Answer, ServiceError>> + Send;
}

/// A change in one organization, with the caller let in.
pub(super) trait OrganizationChange: Send + Sync + 'static {
    /// What is answered.
    type Answer: Serialize + DeserializeOwned + Send + 'static;

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

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<Self::Place, ServiceError> {
        let locked = tx.lock(self.access.organization()).await?;
        let standing = standing(tx.connection, locked.as_ref(), self.access.caller().user()).await?;
        let (_, grant) = decide::decide(self.access.need(), self.access.caller(), &standing)?;
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

/// What the decision looks at, read after the organization's lock and so never older than it.
async fn standing(
    connection: &mut PgConnection,
    locked: Option<&Organization>,
    user: Option<&UserId>,
) -> Result<Standing, StoreError> {
    let (mut role, mut user_state) = (None, None);
    if let (Some(organization), Some(user)) = (locked, user) {
        role = memberships::get(connection, organization.id, user).await?.map(|membership| membership.role);
        // Held: who is switched off while this goes on is switched off after it.
        user_state = users::hold_state(connection, user).await?;
    }
    Ok(Standing {
        organization: locked.map(|organization| OrganizationHead {
            id: organization.id,
            state: organization.state(),
            revision: organization.revision,
        }),
        role,
        user_state,
        // A decision does not look at positions.
        position: None,
        user_position: BucketPosition { bucket: 0, position: 0 },
    })
}

impl Roster {
    /// Runs a change in the organization that the caller has been let into.
    pub(super) async fn write_in<C: OrganizationChange>(
        &self,
        access: Access,
        meta: Meta,
        change: C,
    ) -> Result<WriteResult<C::Answer>, ServiceError> {
        let caller = access.caller().clone();
        self.write(Some(caller), meta, AuthorizedChange { access, change }).await
    }

    /// Runs a change; without a caller, roster's own.
    pub(super) async fn write<C: Change>(
        &self,
        caller: Option<Caller>,
        meta: Meta,
        change: C,
    ) -> Result<WriteResult<C::Answer>, ServiceError> {
        let roster = self.clone();
        // Boxed, because it is large, and would be moved about several times before it runs.
        let run = Box::pin(async move { roster.attempts(caller, meta, change).await });
        let task = self.writes.spawn_on(run.in_current_span(), self.pool.runtime());
        task.await.unwrap_or_else(|join| {
            tracing::error!(error = &join as &dyn std::error::Error, "a write did not end");
            Err(ServiceError::Panicked)
        })
    }

    /// Finds the answer to a request that took from its caller the right to repeat it.
    ///
    /// # Errors
    /// If the datastore does not answer, or the stored answer is not readable.
    pub async fn replayed_answer<T: DeserializeOwned>(
        &self,
        caller: &Caller,
        meta: &Meta,
    ) -> Result<Option<WriteResult<T>>, ServiceError> {
        let Some(key) = meta.key(caller) else { return Ok(None) };
        let stored = requests::find(&mut *self.pool.acquire().await?, &key).await?;
        match stored.filter(|stored| stored.revokes_own_access && !stored.other_message) {
            Some(stored) => Ok(Some(serde_json::from_value(stored.answer)?)),
            None => Ok(None),
        }
    }

    async fn attempts<C: Change>(
        &self,
        caller: Option<Caller>,
        meta: Meta,
        change: C,
    ) -> Result<WriteResult<C::Answer>, ServiceError> {
        let mut attempt = 1;
        loop {
            let outcome = self.attempt(caller.as_ref(), &meta, &change).await;
            match outcome {
                Err(ServiceError::Store(StoreError::Contention(cause))) if attempt < limits::WRITE_ATTEMPTS => {
                    tracing::debug!(attempt, error = &cause as &dyn std::error::Error, "a write lost a race");
                    attempt += 1;
                }
                Err(ServiceError::Refused(Refusal::Conflict)) if attempt < limits::WRITE_ATTEMPTS => attempt += 1,
                Err(ServiceError::Store(StoreError::Contention(_))) => return Err(Refusal::Conflict.into()),
                outcome => return outcome,
            }
        }
    }

    async fn attempt<C: Change>(
        &self,
        caller: Option<&Caller>,
        meta: &Meta,
        change: &C,
    ) -> Result<WriteResult<C::Answer>, ServiceError> {
        // Nobody waits for the answer any more: then nothing is begun.
        meta.in_time()?;
        let mut token = ConsistencyToken::new(self.replica.datastore().await?);
        let mut connection = self.pool.acquire().await?;
        let transaction = transaction(&mut connection, &mut token, caller, meta, change);
        if let Ok(outcome) = timeout_at(meta.deadline + limits::WRITE_GRACE, transaction).await {
            // The token that is handed out: that of a repeated request covers what another process may have written. One
            // that only validates has none.
            if let Some(covered) =
                outcome.as_ref().ok().and_then(|written| ConsistencyToken::decode(&written.token).ok())
            {
                self.replica.record_commit(&covered);
            }
            return connection.finish(outcome);
        }
        // Postgres does not answer. Nobody else shall get this connection with whatever is open in it.
        connection.close_on_drop();
        Err(StoreError::Timeout(None).into())
    }
}

async fn transaction<C: Change>(
    connection: &mut PgConnection,
    token: &mut ConsistencyToken,
    caller: Option<&Caller>,
    meta: &Meta,
    change: &C,
) -> Result<WriteResult<C::Answer>, ServiceError> {
    let mut tx = pool::begin_write(connection, meta.deadline.saturating_duration_since(Instant::now())).await?;
    let stepped = steps(&mut tx, token, caller, meta, change).await;
    // Postgres bounds each statement, not their sum: what has become too late on the way is not committed.
    match stepped.and_then(|written| meta.in_time().map(|()| written).map_err(ServiceError::from)) {
        Ok(mut written) if meta.validate_only => {
            pool::check_constraints(&mut tx).await?;
            tx.rollback().await?;
            written.token.clear();
            Ok(written)
        }
        Ok(written) => {
            tx.commit().await.map_err(|error| match StoreError::from(error) {
                StoreError::Unavailable(cause) | StoreError::Timeout(Some(cause)) => StoreError::CommitUnknown(cause),
                other => other,
            })?;
            Ok(written)
        }
        Err(error) => {
            // What rolling back says does not matter beside why it is done; a broken connection rolls back by itself.
            if let Err(cause) = tx.rollback().await {
                tracing::debug!(error = &cause as &dyn std::error::Error, "a rollback failed");
            }
            Err(error)
        }
    }
}

async fn steps<C: Change>(
    connection: &mut PgConnection,
    token: &mut ConsistencyToken,
    caller: Option<&Caller>,
    meta: &Meta,
    change: &C,
) -> Result<WriteResult<C::Answer>, ServiceError> {
    let key = caller.and_then(|caller| meta.key(caller));
    let given = match &key {
        Some(key) if !requests::claim(connection, key).await? => {
            // The row may have grown too old between the two statements: then the caller may simply try again.
            let stored = requests::find(connection, key).await?.ok_or(Refusal::Conflict)?;
            if stored.other_message {
                return Err(Refusal::RequestIdReused.into());
            }
            Some(stored)
        }
        _ => None,
    };
    let mut tx = UnitOfWork::new(connection, caller.cloned(), meta.cause(caller));
    if let Some(stored) = given {
        // Rights are checked again before an answer is repeated, unless the write itself took them.
        if !stored.revokes_own_access {
            change.enter(&mut tx).await?;
        }
        return Ok(serde_json::from_value(stored.answer)?);
    }
    let place = change.enter(&mut tx).await?;
    let answer = change.apply(&mut tx, place).await?;
    let revokes_own_access = tx.finish(token).await?;
    let written = WriteResult { answer, token: token.encode() };
    if let Some(key) = key {
        requests::keep(connection, &key, &serde_json::to_value(&written)?, revokes_own_access).await?;
    }
    Ok(written)
}

/// A change that needs no organization: decides by a caller's kind and state only.
pub(super) async fn enter_as_caller(tx: &mut UnitOfWork<'_>) -> Result<(), ServiceError> {
    if let Some(user) = tx.user().cloned() {
        decide::require_active(users::state(tx.connection, &user).await?)?;
    }
    Ok(())
}
