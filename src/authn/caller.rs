//! Who is calling.

use crate::domain::{ActorKind, DisplayName, EmailAddress, PermissionSet, Scope, UserId};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The one who asks, as their credential shows it.
#[derive(Debug, Clone)]
pub enum Caller {
    /// No credential at all. (A bad one is refused, never taken for none.)
    Anonymous,
    /// A signed-in person, or a service acting for one.
    User(UserCaller),
    /// A backend.
    Service(ServiceCaller),
    /// The superuser: passes every rule, and is a member of nothing by that.
    Operator(OperatorCaller),
}

/// A person.
#[derive(Debug, Clone)]
pub struct UserCaller {
    /// Who.
    pub id: UserId,
    /// The service that acts for this person, if one does.
    pub via: Option<String>,
    /// What the person's own credential says of them; none when a service acts for them.
    pub claims: Option<Arc<UserClaims>>,
}

/// What an identity provider's token says of its user.
#[derive(Debug)]
pub struct UserClaims {
    /// The profile.
    pub profile: Profile,
    /// When the token was issued, in seconds since 1970: an older token never overwrites what a newer one said.
    pub issued_at: i64,
    /// Whether the stored profile has been brought up to date with this token by this process.
    pub applied: AtomicBool,
}

/// A profile as an identity provider tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// The address, if there is a well-formed one.
    pub email: Option<EmailAddress>,
    /// Whether the provider has verified that address.
    pub email_verified: bool,
    /// The name.
    pub display_name: Option<DisplayName>,
}

/// A backend.
#[derive(Debug, Clone)]
pub struct ServiceCaller {
    /// Its name: the subject of its token, or the name on its key.
    pub name: String,
    /// What it may do. Never holds [`Scope::Operator`]: who has that is an [`OperatorCaller`].
    pub scopes: Arc<[Scope]>,
}

impl ServiceCaller {
    /// Whether it has this scope.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// What its scopes allow in any organization.
    #[must_use]
    pub fn permissions(&self) -> PermissionSet {
        self.scopes.iter().fold(PermissionSet::NONE, |set, scope| set.union(scope.permissions()))
    }
}

/// The superuser.
#[derive(Debug, Clone)]
pub struct OperatorCaller {
    /// Its name: the subject of its token, or the name on its key.
    pub name: String,
}

/// What kind of caller, and which one, for the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The kind of the caller.
    pub kind: ActorKind,
    /// The user's id, or the service's or operator's name.
    pub id: String,
    /// The service that acted for the user, if one did.
    pub via: Option<String>,
}

impl Caller {
    /// The caller for the audit trail; none for nobody.
    #[must_use]
    pub fn actor(&self) -> Option<Actor> {
        match self {
            Self::Anonymous => None,
            Self::User(user) => Some(Actor { kind: ActorKind::User, id: user.id.to_string(), via: user.via.clone() }),
            Self::Service(service) => Some(Actor { kind: ActorKind::Service, id: service.name.clone(), via: None }),
            Self::Operator(operator) => Some(Actor { kind: ActorKind::Operator, id: operator.name.clone(), via: None }),
        }
    }

    /// The user who asks, if a user does.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::User(user) => Some(&user.id),
            Self::Anonymous | Self::Service(_) | Self::Operator(_) => None,
        }
    }

    /// Whether the superuser asks.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        matches!(self, Self::Operator(_))
    }
}
