//! Users: reads, deactivation, deletion, reinstatement. [`profiles`](super::profiles) writes their profiles.

use super::invitations::erase_user;
use super::members::{ownership_required, remove_deleted_user};
use super::write::queue::QueueKey;
use super::write::unit_of_work::UnitOfWork;
use super::write::{Change, Meta, WriteAnswer, WriteResult, enter_as_caller};
use super::{Roster, ServiceError};
use crate::authn::Caller;
use crate::clock::Clock;
use crate::domain::event::EventType;
use crate::domain::{Organization, OrganizationId, Refusal, User, UserId, UserState};
use crate::service::limits;
use crate::store::row_page::RowPage;
use crate::store::{invitations, memberships, users};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use crate::store::users::UserFilter;

/// The result of a deletion, or the forecast of one with `validate_only`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeletedUser {
    /// The user after the deletion.
    pub user: User,
    /// The organizations that the user owns and that prevent the deletion; only with `validate_only`.
    pub owned: Vec<OrganizationId>,
    /// The number of organizations that the user was, or would be, removed from.
    pub removed_memberships: usize,
}

impl WriteAnswer for DeletedUser {
    fn users(&mut self) -> Vec<&mut User> {
        vec![&mut self.user]
    }
}

impl Roster {
    /// Lists users, ordered by bucket and id.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_users(&self, filter: &UserFilter) -> Result<RowPage<User>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = users::list(&mut connection, filter).await;
        Ok(RowPage { rows: connection.finish(outcome)?, is_cut: false })
    }

    /// Reactivates or deactivates a user.
    ///
    /// # Errors
    /// `USER_NOT_FOUND`, `USER_DELETED`, `OWNERSHIP_REQUIRED` (deactivation), `OPERATOR_REQUIRED` (reactivation).
    pub async fn set_user_active(
        &self,
        caller: Caller,
        meta: Meta,
        id: UserId,
        active: bool,
    ) -> Result<WriteResult<User>, ServiceError> {
        self.write(Some(caller), meta, SetUserActive { id, active }).await
    }

    /// Deletes a user.
    ///
    /// # Errors
    /// `USER_NOT_FOUND`, `OWNERSHIP_REQUIRED` (without `validate_only`; with it, the answer names the owned
    /// organizations).
    pub async fn delete_user(
        &self,
        caller: Caller,
        meta: Meta,
        id: UserId,
    ) -> Result<WriteResult<DeletedUser>, ServiceError> {
        let dry_run = meta.validate_only;
        self.write(Some(caller), meta, Delete { id, dry_run }).await
    }

    /// Reinstates a deleted user: active, without a profile and without memberships. Bearer tokens that were issued before no
    /// longer count. Changes nothing if the user is not deleted.
    ///
    /// # Errors
    /// `USER_NOT_FOUND`.
    pub async fn reinstate_user(
        &self,
        caller: Caller,
        meta: Meta,
        id: UserId,
    ) -> Result<WriteResult<User>, ServiceError> {
        self.write(Some(caller), meta, Reinstate { id, clock: self.clock.clone() }).await
    }

    /// Reads a user.
    ///
    /// # Errors
    /// `USER_NOT_FOUND`, `VALUE_UNKNOWN`; if the datastore does not answer.
    pub async fn get_user(&self, id: &UserId) -> Result<User, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = users::get(&mut connection, id).await;
        let user = connection.finish(outcome)?.ok_or(Refusal::UserNotFound)?;
        user.require_known_state()?;
        Ok(user)
    }
}

/// Locks the user that a write changes.
async fn enter_user(tx: &mut UnitOfWork<'_>, id: &UserId) -> Result<User, ServiceError> {
    enter_as_caller(tx).await?;
    Ok(tx.lock_user(id).await?.ok_or(Refusal::UserNotFound)?)
}

struct SetUserActive {
    id: UserId,
    active: bool,
}

impl Change for SetUserActive {
    type Place = User;
    type Answer = User;

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::User(self.id.clone()))
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<User, ServiceError> {
        enter_user(tx, &self.id).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, mut user: User) -> Result<User, ServiceError> {
        if user.state == UserState::Erased {
            return Err(Refusal::UserDeleted { user_id: user.id }.into());
        }
        let (state, kind) = if self.active {
            if user.deactivated_by_operator && !tx.by_operator() {
                return Err(Refusal::OperatorRequired.into());
            }
            (UserState::Active, EventType::UserReactivated)
        } else {
            // Read after the user is locked: a write that makes a user an owner holds that user first.
            let owned = memberships::owned_by(tx.connection, &user.id, false).await?;
            if !owned.is_empty() {
                return Err(ownership_required(&owned).into());
            }
            (UserState::Inactive, EventType::UserDeactivated)
        };
        let by_operator = !self.active && (tx.by_operator() || user.deactivated_by_operator);
        let state_changed = user.state != state;
        if state_changed || user.deactivated_by_operator != by_operator {
            user.state = state;
            user.deactivated_by_operator = by_operator;
            let new = json!({ "state": state.as_str(), "by_operator": by_operator });
            tx.save_user(&mut user, kind, state_changed, new).await?;
        }
        Ok(user)
    }
}

struct Delete {
    id: UserId,
    dry_run: bool,
}

impl Change for Delete {
    type Place = (User, Vec<Organization>);
    type Answer = DeletedUser;

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::User(self.id.clone()))
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<Self::Place, ServiceError> {
        enter_as_caller(tx).await?;
        // The lock order is organizations before users, so the user's organizations are read before the user is locked,
        // and may have changed by then.
        let address = users::get(tx.connection, &self.id).await?.and_then(|user| user.verified_email().cloned());
        let mut ids = invitations::inviting(tx.connection, &self.id, address.as_ref()).await?;
        ids.extend(memberships::organizations_of(tx.connection, &self.id).await?);
        let mut organizations = Vec::with_capacity(ids.len());
        for id in ids {
            organizations.extend(tx.lock(id).await?);
        }
        let user = tx.lock_user(&self.id).await?.ok_or(Refusal::UserNotFound)?;
        if user.verified_email() != address.as_ref() {
            return Err(Refusal::Conflict.into());
        }
        Ok((user, organizations))
    }

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        (mut user, organizations): Self::Place,
    ) -> Result<DeletedUser, ServiceError> {
        let mut answer = DeletedUser { user: user.clone(), owned: Vec::new(), removed_memberships: 0 };
        if user.state == UserState::Erased {
            // A server of release 0.3 has left the recipients of the invitations that the user accepted.
            for mut organization in organizations {
                erase_user(tx, &mut organization, &user).await?;
            }
            return Ok(answer);
        }
        let owned = memberships::owned_by(tx.connection, &user.id, true).await?;
        if !owned.is_empty() {
            if self.dry_run {
                let memberships = memberships::organizations_of(tx.connection, &user.id).await?;
                answer.removed_memberships = memberships.len().saturating_sub(owned.len());
                answer.owned = owned.into_iter().take(limits::NAMED_ORGANIZATIONS).collect();
                return Ok(answer);
            }
            return Err(ownership_required(&owned).into());
        }
        for mut organization in organizations {
            if remove_deleted_user(tx, &mut organization, &user).await? {
                answer.removed_memberships += 1;
            }
            erase_user(tx, &mut organization, &user).await?;
        }
        // Another write may have added or invited the user in an organization before the user was locked. A new attempt
        // locks that organization too.
        let remaining = memberships::organizations_of(tx.connection, &user.id).await?;
        let inviting = invitations::inviting(tx.connection, &user.id, user.verified_email()).await?;
        if !remaining.is_empty() || !inviting.is_empty() {
            return Err(Refusal::Conflict.into());
        }
        user.state = UserState::Erased;
        user.deactivated_by_operator = false;
        user.email = None;
        user.email_verified = false;
        user.display_name = None;
        let new = json!({ "state": UserState::Erased.as_str() });
        tx.save_user(&mut user, EventType::UserDeleted, true, new).await?;
        answer.user = user;
        Ok(answer)
    }
}

struct Reinstate {
    id: UserId,
    clock: Clock,
}

impl Change for Reinstate {
    type Place = User;
    type Answer = User;

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::User(self.id.clone()))
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<User, ServiceError> {
        enter_user(tx, &self.id).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, mut user: User) -> Result<User, ServiceError> {
        if user.state != UserState::Erased {
            return Ok(user);
        }
        // Read under the lock of the user: tokens that are issued while this call waits for it are older.
        let now = self.clock.unix_seconds();
        user.state = UserState::Active;
        tx.reinstate_user(&mut user, now).await?;
        Ok(user)
    }
}
