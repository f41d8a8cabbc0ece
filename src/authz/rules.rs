//! The access rules of the methods: a table that the build generates from the protos, and the first of the two
//! decisions that use it. The first decision needs only the caller; the second one ([`super::decide`]) also needs the
//! organization.

use crate::authn::{Caller, ServiceCaller};
use crate::domain::{Permission, Refusal, Scope};

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// The methods of the standard services, health and reflection, ordered by path. They are public: they report whether
/// roster runs and what its protos define.
pub static STANDARD_METHODS: [Method; 5] = [
    standard("/grpc.health.v1.Health/Check", "grpc.health.v1.Health", "Check", StreamSides::NONE),
    standard("/grpc.health.v1.Health/List", "grpc.health.v1.Health", "List", StreamSides::NONE),
    standard("/grpc.health.v1.Health/Watch", "grpc.health.v1.Health", "Watch", StreamSides::SERVER),
    standard(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1.ServerReflection",
        "ServerReflectionInfo",
        StreamSides::BOTH,
    ),
    standard(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection",
        "ServerReflectionInfo",
        StreamSides::BOTH,
    ),
];

const fn standard(path: &'static str, service: &'static str, name: &'static str, streaming: StreamSides) -> Method {
    let rule = Rule { callers: AllowedCallers::Public, scopes: &[], deleted: false };
    Method { path, service, name, rule, write: false, bulk: false, pages: false, streaming, standard: true }
}

/// A method that the server serves: one of roster's own ([`METHODS`]) or a standard one ([`STANDARD_METHODS`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property of the method that the others do not imply")]
pub struct Method {
    /// The request path, such as `/roster.v1.OrganizationService/AddMember`.
    pub path: &'static str,
    /// The full name of its service, such as `roster.v1.OrganizationService`.
    pub service: &'static str,
    /// The name of the method, such as `AddMember`.
    pub name: &'static str,
    /// The access rule.
    pub rule: Rule,
    /// Whether the method can change data.
    pub write: bool,
    /// Whether the method takes many items in one request, and therefore accepts larger messages.
    pub bulk: bool,
    /// Whether the method answers with a page of a list.
    pub pages: bool,
    /// The sides that are streams.
    pub streaming: StreamSides,
    /// Whether it is a method of health or reflection. Their answers depend on no caller, so a credential that is sent
    /// with such a call is not verified.
    pub standard: bool,
}

/// The sides of a method that are streams of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSides {
    /// Whether the caller sends a stream.
    pub client: bool,
    /// Whether the server sends a stream.
    pub server: bool,
}

impl StreamSides {
    const NONE: Self = Self { client: false, server: false };
    const SERVER: Self = Self { client: false, server: true };
    const BOTH: Self = Self { client: true, server: true };

    /// Returns whether either side is a stream: the call then continues after the start of its response, or its request
    /// after the first message.
    #[must_use]
    pub fn any(self) -> bool {
        self.client || self.server
    }
}

/// The access rule of a method: the `AccessRule` of the proto, checked by the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The callers that may call the method. Operators always may.
    pub callers: AllowedCallers,
    /// The scopes of which a service needs one, if `callers` is [`AllowedCallers::SignedIn`] or
    /// [`AllowedCallers::Services`].
    pub scopes: &'static [Scope],
    /// Whether the method also accepts deleted organizations. Other methods show deleted organizations only to
    /// operators.
    pub deleted: bool,
}

/// The callers that a rule accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedCallers {
    /// Any caller, including anonymous callers.
    Public,
    /// Any user, and services with one of the rule's scopes.
    SignedIn,
    /// Users who hold this permission in the organization of the request, and services with a scope that includes the
    /// permission.
    Permission(Permission),
    /// Services with one of the rule's scopes.
    Services,
}

/// Returns the method with a request path, roster's own or a standard one.
#[must_use]
pub fn method(path: &str) -> Option<&'static Method> {
    let own = METHODS.binary_search_by(|method| method.path.cmp(path)).ok().map(|index| &METHODS[index]);
    own.or_else(|| STANDARD_METHODS.iter().find(|method| method.path == path))
}

/// Checks whether this kind of caller may call the method at all, before the server reads the request. Whether a user
/// holds a permission depends on the organization, so [`super::decide`] checks it when the organization is known.
///
/// # Errors
/// [`Refusal::CredentialMissing`], [`Refusal::CallerNotAllowed`] or [`Refusal::ScopeMissing`].
pub fn method_gate(rule: &Rule, caller: &Caller) -> Result<(), Refusal> {
    match (rule.callers, caller) {
        (AllowedCallers::Public, _)
        | (AllowedCallers::SignedIn | AllowedCallers::Permission(_) | AllowedCallers::Services, Caller::Operator(_))
        | (AllowedCallers::SignedIn | AllowedCallers::Permission(_), Caller::User(_)) => Ok(()),
        (AllowedCallers::SignedIn | AllowedCallers::Permission(_) | AllowedCallers::Services, Caller::Anonymous) => {
            Err(Refusal::CredentialMissing)
        }
        (AllowedCallers::Services, Caller::User(_)) => Err(Refusal::CallerNotAllowed {
            caller: "user".to_owned(),
            advice: "it is for services and operators".to_owned(),
        }),
        (AllowedCallers::SignedIn | AllowedCallers::Services, Caller::Service(service)) => {
            require_any_scope(rule.scopes.iter().copied(), |scope| service.has(scope))
        }
        (AllowedCallers::Permission(permission), Caller::Service(service)) => service_gate(permission, service),
    }
}

/// Checks whether the scopes of a service include a permission, in any organization.
///
/// # Errors
/// [`Refusal::ScopeMissing`], with the scopes that include the permission.
pub fn service_gate(permission: Permission, service: &ServiceCaller) -> Result<(), Refusal> {
    let scopes = Scope::ALL.into_iter().filter(|scope| scope.permissions().contains(permission));
    require_any_scope(scopes, |scope| service.has(scope))
}

/// Checks that the caller has at least one of the scopes. The refusal lists them, and `operator`, which always
/// suffices.
fn require_any_scope(scopes: impl Iterator<Item = Scope> + Clone, has: impl Fn(Scope) -> bool) -> Result<(), Refusal> {
    if scopes.clone().any(&has) {
        return Ok(());
    }
    let mut scopes: Vec<Scope> = scopes.collect();
    if !scopes.contains(&Scope::Operator) {
        scopes.push(Scope::Operator);
    }
    Err(Refusal::ScopeMissing { scopes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::{Namespace, ServiceIdentity, UserCaller};
    use crate::domain::UserId;

    fn identity(name: &str) -> ServiceIdentity {
        ServiceIdentity { name: name.to_owned(), namespace: Namespace::ApiKeys }
    }

    fn user() -> Caller {
        Caller::User(UserCaller { id: UserId::parse("ada").unwrap(), via: None, claims: None })
    }

    fn service(scopes: &[Scope]) -> Caller {
        Caller::Service(ServiceCaller { identity: identity("billing"), scopes: scopes.into() })
    }

    fn operator() -> Caller {
        Caller::Operator(identity("root"))
    }

    fn gate(callers: AllowedCallers, caller: &Caller) -> Result<(), Refusal> {
        method_gate(&Rule { callers, scopes: &[Scope::Check, Scope::Manage], deleted: false }, caller)
    }

    fn missing(scopes: &[Scope]) -> Result<(), Refusal> {
        Err(Refusal::ScopeMissing { scopes: scopes.to_vec() })
    }

    const RESTRICTED: [AllowedCallers; 3] =
        [AllowedCallers::SignedIn, AllowedCallers::Permission(Permission::MEMBERS_ADD), AllowedCallers::Services];

    #[test]
    fn public_methods_accept_every_caller() {
        for caller in [Caller::Anonymous, user(), service(&[]), operator()] {
            assert_eq!(gate(AllowedCallers::Public, &caller), Ok(()));
        }
    }

    #[test]
    fn restricted_methods_reject_anonymous_callers_and_accept_operators() {
        for callers in RESTRICTED {
            assert_eq!(gate(callers, &Caller::Anonymous), Err(Refusal::CredentialMissing));
            assert_eq!(gate(callers, &operator()), Ok(()));
        }
    }

    #[test]
    fn users_are_rejected_only_by_methods_for_services() {
        assert_eq!(gate(AllowedCallers::SignedIn, &user()), Ok(()));
        assert_eq!(gate(AllowedCallers::Permission(Permission::ORGANIZATION_DELETE), &user()), Ok(()));
        let refusal = gate(AllowedCallers::Services, &user());
        assert!(matches!(refusal, Err(Refusal::CallerNotAllowed { caller, .. }) if caller == "user"));
    }

    #[test]
    fn services_need_one_of_the_scopes() {
        for callers in [AllowedCallers::SignedIn, AllowedCallers::Services] {
            assert_eq!(gate(callers, &service(&[Scope::ActAs, Scope::Check])), Ok(()));
            let refusal = missing(&[Scope::Check, Scope::Manage, Scope::Operator]);
            assert_eq!(gate(callers, &service(&[Scope::ActAs])), refusal);
            assert_eq!(gate(callers, &service(&[])), refusal);
        }
    }

    #[test]
    fn services_need_a_scope_that_includes_the_permission() {
        let read = AllowedCallers::Permission(Permission::MEMBERS_READ);
        let add = AllowedCallers::Permission(Permission::MEMBERS_ADD);
        let transfer = AllowedCallers::Permission(Permission::OWNERSHIP_TRANSFER);
        assert_eq!(gate(read, &service(&[Scope::Check])), Ok(()));
        assert_eq!(gate(add, &service(&[Scope::Check])), missing(&[Scope::Manage, Scope::Operator]));
        assert_eq!(gate(add, &service(&[Scope::Manage])), Ok(()));
        assert_eq!(gate(transfer, &service(&[Scope::Check, Scope::Manage])), missing(&[Scope::Operator]));
    }

    #[test]
    fn paths_find_their_methods() {
        assert!(METHODS.is_sorted_by(|a, b| a.path < b.path));
        for entry in METHODS.iter().chain(&STANDARD_METHODS) {
            assert_eq!(entry.path, format!("/{}/{}", entry.service, entry.name));
            assert_eq!(method(entry.path), Some(entry));
        }
        for entry in &STANDARD_METHODS {
            assert_eq!((gate(entry.rule.callers, &Caller::Anonymous), entry.standard), (Ok(()), true));
        }
        assert!(!METHODS.iter().any(|method| method.standard));
        for path in ["", "/", "/roster.v1.OrganizationService", "/roster.v1.OrganizationService/AddMember?x=1"] {
            assert_eq!(method(path), None);
        }
    }

    #[test]
    fn add_member_has_the_rule_of_its_proto() {
        let rule = Rule { callers: AllowedCallers::Permission(Permission::MEMBERS_ADD), scopes: &[], deleted: false };
        let add = method("/roster.v1.OrganizationService/AddMember").unwrap();
        assert_eq!((add.rule, add.write), (rule, true));
    }
}
