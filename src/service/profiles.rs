//! Profiles of users: `PutUser`, and the claims of bearer tokens.
//!
//! The address with its verification, and the display name, are two claims with a time of issue each. A newer claim
//! replaces an older one, and a claim that a token does not have changes nothing.
//!
//! `PutUser`, a token and a call on behalf of a user are signs that the user is known. The first one is stored.

mod known_users;

use super::write::queue::QueueKey;
use super::write::unit_of_work::UnitOfWork;
use super::write::{Change, Meta, WriteResult, enter_as_caller};
use super::{Roster, ServiceError};
use crate::authn::settings::ProfileSource;
use crate::authn::{Caller, ProfileClaims, UserCaller};
use crate::domain::event::EventType;
use crate::domain::{DisplayName, EmailAddress, Refusal, User, UserId, UserState};
use crate::store::users;
pub(super) use known_users::KnownUsers;
use serde_json::json;
use std::sync::atomic::Ordering;

/// The whole profile of a user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// The email address; `None` if the user has none.
    pub email: Option<EmailAddress>,
    /// Whether the identity provider has verified the address.
    pub email_verified: bool,
    /// The display name; `None` if the user has none.
    pub display_name: Option<DisplayName>,
}

impl Roster {
    /// Replaces a user's profile; creates the user if the id is unknown.
    ///
    /// # Errors
    /// `USER_DELETED`; `CALLER_NOT_ALLOWED` for a service, if the profiles of the user's issuer come from tokens only.
    pub async fn put_user(
        &self,
        caller: Caller,
        meta: Meta,
        id: UserId,
        profile: Profile,
    ) -> Result<WriteResult<User>, ServiceError> {
        if self.profile_sources.of(&id) == ProfileSource::Tokens && !caller.is_operator() {
            let advice =
                "the profiles of this user's issuer come from its tokens (profile_source = \"tokens\")".to_owned();
            return Err(Refusal::CallerNotAllowed { caller: "service".to_owned(), advice }.into());
        }
        let issued_at = self.clock.unix_seconds();
        self.write(Some(caller), meta, Put { id, profile, issued_at }).await
    }

    /// Updates the stored profile from the claims of the calling user's bearer token, and stores that the user is known.
    /// Reads the user once for each token and process, and for calls on behalf of the user once for each process.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn refresh_profile(&self, caller: &UserCaller, meta: impl FnOnce() -> Meta) -> Result<(), ServiceError> {
        let is_done = match &caller.claims {
            Some(claims) => claims.applied.load(Ordering::Acquire),
            None => self.known_users.contains(&caller.id),
        };
        if is_done {
            return Ok(());
        }
        let mut connection = self.pool.acquire_read().await?;
        let outcome = users::get(&mut connection, &caller.id).await;
        let stored = connection.finish(outcome)?;
        if stored.as_ref().is_some_and(|stored| stored.state == UserState::Erased) {
            // Nothing is applied to a deleted user. After a reinstatement, this token may count.
            return Ok(());
        }
        let refresh = Refresh::new(caller);
        let is_new = |stored: &User| stored.state != UserState::Unknown && refresh.applied_to(stored) != *stored;
        if stored.as_ref().is_none_or(is_new) {
            self.write(Some(Caller::User(caller.clone())), meta(), refresh).await?;
        }
        match &caller.claims {
            Some(claims) => claims.applied.store(true, Ordering::Release),
            None if stored.is_none_or(|stored| matches!(stored.state, UserState::Active | UserState::Inactive)) => {
                self.known_users.add(&caller.id);
            }
            // Nothing was stored about a user who is deleted, or in a state that this program does not know.
            None => {}
        }
        Ok(())
    }
}

/// Saves a changed profile, with an event that names the changed fields. The event does not hold their values: those are
/// erased with the user, and events are kept.
async fn save_profile(tx: &mut UnitOfWork<'_>, old: &User, mut new: User) -> Result<User, ServiceError> {
    new.profile_issued_at = new.email_issued_at.max(new.display_name_issued_at);
    let fields = [
        ("email", old.email != new.email),
        ("email_verified", old.email_verified != new.email_verified),
        ("display_name", old.display_name != new.display_name),
    ];
    let changed: Vec<&str> = fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect();
    if !changed.is_empty() {
        tx.save_user(&mut new, EventType::UserUpdated, false, json!({ "changed": changed })).await?;
    } else if new != *old {
        // Clients see no change, so there is no event.
        users::update_unseen(tx.connection, &new).await?;
    }
    Ok(new)
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
    issued_at: i64,
}

impl Change for Put {
    type Place = ();
    type Answer = User;

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::User(self.id.clone()))
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<(), ServiceError> {
        enter_as_caller(tx).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, (): ()) -> Result<User, ServiceError> {
        let user = lock_or_create(tx, &self.id).await?;
        if user.state == UserState::Erased {
            return Err(Refusal::UserDeleted { user_id: user.id }.into());
        }
        let Profile { email, email_verified, display_name } = self.profile.clone();
        let new = User {
            email,
            email_verified,
            display_name,
            email_issued_at: self.issued_at.max(user.email_issued_at),
            display_name_issued_at: self.issued_at.max(user.display_name_issued_at),
            is_known: true,
            ..user.clone()
        };
        save_profile(tx, &user, new).await
    }
}

/// Applies the claims of the calling user's own bearer token, if there is one, and marks the user as known.
struct Refresh {
    id: UserId,
    claims: ProfileClaims,
    /// When the token was issued, in seconds since 1970.
    issued_at: i64,
}

impl Refresh {
    fn new(caller: &UserCaller) -> Self {
        let claims = caller.claims.as_ref().map(|claims| (claims.profile.clone(), claims.issued_at));
        let (claims, issued_at) = claims.unwrap_or_default();
        Self { id: caller.id.clone(), claims, issued_at }
    }

    /// Returns the user with those claims of the token that are not older than the stored ones, as a known user.
    fn applied_to(&self, user: &User) -> User {
        let mut new = user.clone();
        if user.state == UserState::Erased {
            return new;
        }
        new.is_known = true;
        if let Some(email) = &self.claims.email
            && user.email_issued_at <= self.issued_at
        {
            // A token that does not say whether the address is verified leaves what was said about the same address.
            let is_same = user.email.as_ref().is_some_and(|own| own.normal() == email.normal());
            new.email_verified = self.claims.email_verified.unwrap_or(is_same && user.email_verified);
            new.email = Some(email.clone());
            new.email_issued_at = self.issued_at;
        }
        if let Some(name) = &self.claims.display_name
            && user.display_name_issued_at <= self.issued_at
        {
            new.display_name = Some(name.clone());
            new.display_name_issued_at = self.issued_at;
        }
        new
    }
}

impl Change for Refresh {
    type Place = ();
    type Answer = ();

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::User(self.id.clone()))
    }

    async fn enter(&self, _: &mut UnitOfWork<'_>) -> Result<(), ServiceError> {
        Ok(())
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, (): ()) -> Result<(), ServiceError> {
        let user = lock_or_create(tx, &self.id).await?;
        save_profile(tx, &user, self.applied_to(&user)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
