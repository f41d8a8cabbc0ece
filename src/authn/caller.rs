//! The caller of a request.

use super::profile_claims::ProfileClaims;
use crate::domain::{ActorKind, PermissionSet, Scope, UserId};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The caller, as identified by its credential.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A caller without a credential. An invalid credential is rejected and never treated as absent.
    Anonymous,
    /// A user, signed in directly or represented by a service that acts on the user's behalf.
    User(UserCaller),
    /// A backend service.
    Service(ServiceCaller),
    /// An operator: passes every rule. This makes the operator a member of no organization.
    Operator(OperatorCaller),
}

/// A calling user.
#[derive(Debug, Clone)]
pub struct UserCaller {
    /// The user's id.
    pub id: UserId,
    /// The name of the service or operator that acts on the user's behalf; `None` if the user calls directly.
    pub via: Option<String>,
    /// The claims of the user's own token; `None` if a service or operator acts on the user's behalf.
    pub claims: Option<Arc<UserClaims>>,
}

/// The claims about the user in an identity provider's token.
#[derive(Debug)]
pub struct UserClaims {
    /// The claims about the user's profile.
    pub profile: ProfileClaims,
    /// When the token was issued, in seconds since 1970; 0 if the token has no `iat`. A claim of an older token never
    /// overwrites one of a newer token.
    pub issued_at: i64,
    /// Whether this process has already updated the stored profile from this token.
    pub applied: AtomicBool,
}

/// A backend service that calls.
#[derive(Debug, Clone)]
pub struct ServiceCaller {
    /// The name: the subject of the token, or the configured name of the API key.
    pub name: String,
    /// The issuer of the token; `None` for an API key.
    pub issuer: Option<Arc<str>>,
    /// The granted scopes, sorted and unique. They never contain [`Scope::Operator`]: a credential with that scope
    /// identifies an [`OperatorCaller`].
    pub scopes: Arc<[Scope]>,
}

impl ServiceCaller {
    /// Returns whether the service has a scope.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Returns the permissions that the scopes include, in any organization.
    #[must_use]
    pub fn permissions(&self) -> PermissionSet {
        self.scopes.iter().fold(PermissionSet::NONE, |set, scope| set.union(&scope.permissions()))
    }
}

/// A calling operator.
#[derive(Debug, Clone)]
pub struct OperatorCaller {
    /// The name: the subject of the token, or the configured name of the API key.
    pub name: String,
    /// The issuer of the token; `None` for an API key.
    pub issuer: Option<Arc<str>>,
}

/// The caller as far as limits per caller distinguish callers. A service that acts on behalf of users is one caller,
/// whatever users it names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CallerKey {
    /// All callers without a credential.
    Anonymous,
    /// A user with a token of their own.
    User(UserId),
    /// A service or an operator: its name, and the issuer of its token. The issuer is `None` for an API key, and for a
    /// caller that acts on behalf of a user.
    Service(Option<Arc<str>>, String),
}

/// The caller as recorded in the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The kind of caller.
    pub kind: ActorKind,
    /// The id of the user, or the name of the service or operator.
    pub id: String,
    /// The name of the service or operator that acted on the user's behalf, if any.
    pub via: Option<String>,
}

impl Caller {
    /// Returns the caller for the audit trail; `None` for an anonymous caller.
    #[must_use]
    pub fn actor(&self) -> Option<Actor> {
        match self {
            Self::Anonymous => None,
            Self::User(user) => Some(Actor { kind: ActorKind::User, id: user.id.to_string(), via: user.via.clone() }),
            Self::Service(service) => Some(Actor { kind: ActorKind::Service, id: service.name.clone(), via: None }),
            Self::Operator(operator) => Some(Actor { kind: ActorKind::Operator, id: operator.name.clone(), via: None }),
        }
    }

    /// Returns the caller for limits per caller.
    #[must_use]
    pub fn key(&self) -> CallerKey {
        match self {
            Self::Anonymous => CallerKey::Anonymous,
            Self::User(UserCaller { via: Some(via), .. }) => CallerKey::Service(None, via.clone()),
            Self::User(user) => CallerKey::User(user.id.clone()),
            Self::Service(ServiceCaller { name, issuer, .. }) | Self::Operator(OperatorCaller { name, issuer }) => {
                CallerKey::Service(issuer.clone(), name.clone())
            }
        }
    }

    /// Returns the id of the calling user; `None` if the caller is not a user.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::User(user) => Some(&user.id),
            Self::Anonymous | Self::Service(_) | Self::Operator(_) => None,
        }
    }

    /// Returns whether the caller is an operator.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        matches!(self, Self::Operator(_))
    }
}
