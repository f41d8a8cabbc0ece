//! The caller of a request.

use super::profile_claims::ProfileClaims;
use crate::domain::{ActorKind, PermissionSet, Scope, UserId};
use std::fmt;
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
    Operator(ServiceIdentity),
}

/// A calling user.
#[derive(Debug, Clone)]
pub struct UserCaller {
    /// The user's id.
    pub id: UserId,
    /// The service or operator that acts on the user's behalf; `None` if the user calls directly.
    pub via: Option<ServiceIdentity>,
    /// The claims of the user's own token; `None` if a service or operator acts on the user's behalf.
    pub claims: Option<Arc<UserClaims>>,
}

impl UserCaller {
    fn actor(&self) -> Actor {
        let issuer = match &self.via {
            Some(via) => via.namespace.issuer(),
            None => self.claims.as_ref().map(|claims| &*claims.issuer),
        };
        let via = self.via.as_ref().map(|via| via.name.clone());
        Actor { kind: ActorKind::User, id: self.id.to_string(), issuer: issuer.map(str::to_owned), via }
    }

    /// Returns whether the user's own token was issued later than this time, in whole seconds since 1970. A token of the
    /// same second and one without `iat` were not. True if a service or operator acts on the user's behalf: then there is
    /// no token of the user.
    #[must_use]
    pub fn is_issued_after(&self, time: i64) -> bool {
        self.claims.as_ref().is_none_or(|claims| claims.issued_at > time)
    }
}

/// The claims about the user in an identity provider's token.
#[derive(Debug)]
pub struct UserClaims {
    /// The `iss` of the token.
    pub issuer: Arc<str>,
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
    /// The identity of the service.
    pub identity: ServiceIdentity,
    /// The granted scopes, sorted and unique. They never contain [`Scope::Operator`]: a credential with that scope
    /// identifies an operator.
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

/// What a service or an operator is known by: its name, and the namespace in which that name is unique.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceIdentity {
    /// The name: the subject of the token, or the configured name of the API key or the client certificate.
    pub name: String,
    /// The namespace of the name.
    pub namespace: Namespace,
}

impl ServiceIdentity {
    fn actor(&self, kind: ActorKind) -> Actor {
        Actor { kind, id: self.name.clone(), issuer: self.namespace.issuer().map(str::to_owned), via: None }
    }
}

/// A namespace of the names of services and operators. Equal names in two namespaces are two callers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// The subjects in the tokens of the issuer with this `iss`.
    Issuer(Arc<str>),
    /// The names of the configured API keys.
    ApiKeys,
    /// The names of the configured client certificates.
    ClientCertificates,
    /// The commands of this program.
    Commands,
}

impl Namespace {
    /// Returns the issuer; `None` for a namespace that no issuer has.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        match self {
            Self::Issuer(issuer) => Some(issuer),
            Self::ApiKeys | Self::ClientCertificates | Self::Commands => None,
        }
    }
}

/// A text that differs from that of every other namespace.
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issuer(issuer) => write!(f, "issuer {issuer}"),
            Self::ApiKeys => f.write_str("api keys"),
            Self::ClientCertificates => f.write_str("client certificates"),
            Self::Commands => f.write_str("commands"),
        }
    }
}

/// The caller as far as limits per caller distinguish callers. A service that acts on behalf of users is one caller,
/// whatever users it names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CallerKey {
    /// All callers without a credential.
    Anonymous,
    /// A user with a token of their own.
    User(UserId),
    /// A service or an operator.
    Service(ServiceIdentity),
}

/// The caller as recorded in the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The kind of caller.
    pub kind: ActorKind,
    /// The id of the user, or the name of the service or operator.
    pub id: String,
    /// The `iss` of the token with which the call was made, by the actor or by the service or operator that acted on the
    /// user's behalf. `None` if the call was made with an API key or a client certificate, and for roster itself.
    pub issuer: Option<String>,
    /// The name of the service or operator that acted on the user's behalf, if any.
    pub via: Option<String>,
}

impl Caller {
    /// Returns the caller for the audit trail; `None` for an anonymous caller.
    #[must_use]
    pub fn actor(&self) -> Option<Actor> {
        match self {
            Self::Anonymous => None,
            Self::User(user) => Some(user.actor()),
            Self::Service(service) => Some(service.identity.actor(ActorKind::Service)),
            Self::Operator(identity) => Some(identity.actor(ActorKind::Operator)),
        }
    }

    /// Returns the caller for limits per caller.
    #[must_use]
    pub fn key(&self) -> CallerKey {
        match self {
            Self::Anonymous => CallerKey::Anonymous,
            Self::User(UserCaller { via: Some(identity), .. })
            | Self::Service(ServiceCaller { identity, .. })
            | Self::Operator(identity) => CallerKey::Service(identity.clone()),
            Self::User(user) => CallerKey::User(user.id.clone()),
        }
    }

    /// Returns the id of the calling user; `None` if the caller is not a user.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        self.calling_user().map(|user| &user.id)
    }

    /// Returns the calling user; `None` if the caller is not a user.
    #[must_use]
    pub fn calling_user(&self) -> Option<&UserCaller> {
        match self {
            Self::User(user) => Some(user),
            Self::Anonymous | Self::Service(_) | Self::Operator(_) => None,
        }
    }

    /// Returns whether the caller is an operator.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        matches!(self, Self::Operator(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name that an issuer may have, and the text of another namespace.
    const ISSUERS: [&str; 4] = ["https://a.example", "https://b.example", "api keys", ""];

    fn namespaces() -> Vec<Namespace> {
        let others = [Namespace::ApiKeys, Namespace::ClientCertificates, Namespace::Commands];
        ISSUERS.iter().map(|issuer| Namespace::Issuer((*issuer).into())).chain(others).collect()
    }

    /// A service, an operator, and a user on whose behalf each acts.
    fn callers(identity: &ServiceIdentity) -> [Caller; 4] {
        let user = |id| UserCaller { id: UserId::from_stored(id), via: Some(identity.clone()), claims: None };
        [
            Caller::Service(ServiceCaller { identity: identity.clone(), scopes: [].into() }),
            Caller::Operator(identity.clone()),
            Caller::User(user("ada".to_owned())),
            Caller::User(user("grace".to_owned())),
        ]
    }

    #[test]
    fn a_service_is_one_caller_by_its_namespace_and_its_name() {
        let mut keys = Vec::new();
        for namespace in namespaces() {
            for name in ["billing", "search"] {
                let identity = ServiceIdentity { name: name.to_owned(), namespace: namespace.clone() };
                let [key, rest @ ..] = callers(&identity).map(|caller| caller.key());
                assert!(rest.iter().all(|other| *other == key), "{identity:?}");
                assert!(!keys.contains(&key), "{identity:?}");
                keys.push(key);
            }
        }
        let texts: Vec<_> = namespaces().iter().map(ToString::to_string).collect();
        assert!((1..texts.len()).all(|index| !texts[..index].contains(&texts[index])), "{texts:?}");
    }

    #[test]
    fn an_actor_has_the_issuer_of_the_token_and_the_id_that_it_always_had() {
        for namespace in namespaces() {
            let identity = ServiceIdentity { name: "billing".to_owned(), namespace: namespace.clone() };
            let issuer = match &namespace {
                Namespace::Issuer(issuer) => Some(issuer.to_string()),
                Namespace::ApiKeys | Namespace::ClientCertificates | Namespace::Commands => None,
            };
            for (caller, (kind, id, via)) in callers(&identity).iter().zip([
                (ActorKind::Service, "billing", None),
                (ActorKind::Operator, "billing", None),
                (ActorKind::User, "ada", Some("billing".to_owned())),
                (ActorKind::User, "grace", Some("billing".to_owned())),
            ]) {
                let expected = Actor { kind, id: id.to_owned(), issuer: issuer.clone(), via };
                assert_eq!(caller.actor(), Some(expected));
            }
        }
        assert_eq!(Caller::Anonymous.actor(), None);
    }
}
