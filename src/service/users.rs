//! Users, as far as roster knows them.

use super::members::{ownership_required, remove_deleted_user};
use super::write::unit_of_work::UnitOfWork;
use super::write::{Change, Meta, WriteResult, enter_as_caller};
use super::{Roster, ServiceError};
use crate::authn::{Caller, Profile, UserCaller};
use crate::domain::event::EventType;
use crate::domain::{Organization, OrganizationId, Refusal, User, UserId, UserState};
use crate::service::limits;
use crate::store::{memberships, users};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::atomic::Ordering;

/// What became of a deletion, or would.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeletedUser {
    /// The user as they are now.
    pub user: User,
    /// What they own and what stands in the way: only when asked what would happen.
    pub owned: Vec<OrganizationId>,
    /// How many organizations they were removed from, or would be.
    pub removed_memberships: usize,
}

impl Roster {
    /// Writes down a whole profile, making the user if there is none.
    ///
    /// # Errors
    /// `USER_DELETED`.
    pub async fn put_user(
        &self,
        caller: Caller,
        meta: Meta,
        id: UserId,
        profile: Profile,
    ) -> Result<WriteResult<User>, ServiceError> {
        let said_at = self.clock.unix_seconds();
        self.write(Some(caller), meta, Put { id, profile, said_at }).await
    }

    /// Switches a user on or off.
    ///
    /// # Errors
    /// `USER_NOT_FOUND`, `USER_DELETED`, `OWNERSHIP_REQUIRED` (off), `OPERATOR_REQUIRED` (on).
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
    /// `USER_NOT_FOUND`, `OWNERSHIP_REQUIRED` (not with `validate_only`: then the answer names what stands in the way).
    pub async fn delete_user(
        &self,
        caller: Caller,
        meta: Meta,
        id: UserId,
    ) -> Result<WriteResult<DeletedUser>, ServiceError> {
        let dry_run = meta.validate_only;
        self.write(Some(caller), meta, Delete { id, dry_run }).await
    }

    /// Reads a user.
    ///
    /// # Errors
    /// `USER_NOT_FOUND`.
    pub async fn get_user(&self, id: &UserId) -> Result<User, ServiceError> {
        Ok(users::get(&mut *self.pool.acquire().await?, id).await?.ok_or(Refusal::UserNotFound)?)
    }

    /// Brings the stored profile up to date with what the calling user's token says. Once for each token and process;
    /// an older token never overwrites what a newer one said.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn refresh_profile(&self, caller: &UserCaller, meta: impl FnOnce() -> Meta) -> Result<(), ServiceError> {
        let Some(claims) = &caller.claims else { return Ok(()) };
        if claims.applied.load(Ordering::Acquire) {
            return Ok(());
        }
        let stored = users::get(&mut *self.pool.acquire().await?, &caller.id).await?;
        let news = stored.is_none_or(|stored| {
            stored.state != UserState::Erased
                && stored.profile_issued_at <= claims.issued_at
                && (profile(&stored) != claims.profile || stored.profile_issued_at < claims.issued_at)
        });
        if news {
            let change = Refresh { id: caller.id.clone(), profile: claims.profile.clone(), said_at: claims.issued_at };
            self.write(Some(Caller::User(caller.clone())), meta(), change).await?;
        }
        claims.applied.store(true, Ordering::Release);
        Ok(())
    }
}

fn profile(user: &User) -> Profile {
    Profile { email: user.email.clone(), email_verified: user.email_verified, display_name: user.display_name.clone() }
}

/// Writes a profile, and the event that names the fields that changed: not their contents, which are erased with the
/// user while events stay.
async fn save_profile(
    tx: &mut UnitOfWork<'_>,
    user: &mut User,
    new: &Profile,
    said_at: i64,
) -> Result<(), ServiceError> {
    let old = profile(user);
    let mut changed = Vec::new();
    if old.email != new.email {
        changed.push("email");
    }
    if old.email_verified != new.email_verified {
        changed.push("email_verified");
    }
    if old.display_name != new.display_name {
        changed.push("display_name");
    }
    user.email.clone_from(&new.email);
    user.email_verified = new.email_verified;
    user.display_name.clone_from(&new.display_name);
    user.profile_issued_at = said_at.max(user.profile_issued_at);
    if changed.is_empty() {
        // Only when it was said is news: written down, but no change that anybody could see.
        *user = users::update(tx.connection, user).await?;
        return Ok(());
    }
    tx.save_user(user, EventType::UserUpdated, false, json!({ "changed": changed })).await
}

async fn lock_or_create(tx: &mut UnitOfWork<'_>, id: &UserId) -> Result<User, ServiceError> {
    if let Some(user) = tx.lock_user(id).await? {
        return Ok(user);
    }
    tx.create_user(id).await?;
    Ok(tx.lock_user(id).await?.ok_or(Refusal::Conflict)?)
}

struct Put {
    id: UserId,
    profile: Profile,
    said_at: i64,
}

impl Change for Put {
    type Place = ();
    type Answer = User;

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<(), ServiceError> {
        enter_as_caller(tx).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, (): ()) -> Result<User, ServiceError> {
        let mut user = lock_or_create(tx, &self.id).await?;
        if user.state == UserState::Erased {
            return Err(Refusal::UserDeleted { user_id: user.id }.into());
        }
        if profile(&user) != self.profile || user.profile_issued_at < self.said_at {
            save_profile(tx, &mut user, &self.profile, self.said_at).await?;
        }
        Ok(user)
    }
}

/// The calling user's own token says something new.
struct Refresh {
    id: UserId,
    profile: Profile,
    said_at: i64,
}

impl Change for Refresh {
    type Place = ();
    type Answer = ();

    async fn enter(&self, _: &mut UnitOfWork<'_>) -> Result<(), ServiceError> {
        Ok(())
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, (): ()) -> Result<(), ServiceError> {
        let mut user = lock_or_create(tx, &self.id).await?;
        if user.state != UserState::Erased && user.profile_issued_at <= self.said_at {
            save_profile(tx, &mut user, &self.profile, self.said_at).await?;
        }
        Ok(())
    }
}

struct SetUserActive {
    id: UserId,
    active: bool,
}

impl Change for SetUserActive {
    type Place = User;
    type Answer = User;

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<User, ServiceError> {
        enter_as_caller(tx).await?;
        Ok(tx.lock_user(&self.id).await?.ok_or(Refusal::UserNotFound)?)
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
            // Asked after the user's lock: who makes somebody an owner holds the user first.
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

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<Self::Place, ServiceError> {
        enter_as_caller(tx).await?;
        // Organizations before users, as everywhere; so which ones must be guessed before the user is locked.
        let mut organizations = Vec::new();
        for id in memberships::organizations_of(tx.connection, &self.id).await? {
            organizations.extend(tx.lock(id).await?);
        }
        let user = tx.lock_user(&self.id).await?.ok_or(Refusal::UserNotFound)?;
        Ok((user, organizations))
    }

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        (mut user, organizations): Self::Place,
    ) -> Result<DeletedUser, ServiceError> {
        let mut answer = DeletedUser { user: user.clone(), owned: Vec::new(), removed_memberships: 0 };
        if user.state == UserState::Erased {
            return Ok(answer);
        }
        let owned = memberships::owned_by(tx.connection, &user.id, true).await?;
        if !owned.is_empty() {
            if self.dry_run {
                answer.removed_memberships = organizations.len().saturating_sub(owned.len());
                answer.owned = owned.into_iter().take(limits::NAMED_ORGANIZATIONS).collect();
                return Ok(answer);
            }
            return Err(ownership_required(&owned).into());
        }
        for mut organization in organizations {
            if remove_deleted_user(tx, &mut organization, &user).await? {
                answer.removed_memberships += 1;
            }
        }
        // Whoever added the user between the guess and the lock has won; nobody can now. Once more, then.
        if !memberships::organizations_of(tx.connection, &user.id).await?.is_empty() {
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
