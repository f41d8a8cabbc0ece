//! Who may call which method: the rules that stand in the protos, as a table, and the first of the two decisions made
//! with them, the one that needs only the caller.

use crate::authn::{Caller, ServiceCaller};
use crate::domain::{Permission, Refusal, Scope};

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// A method that roster serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// The path of its calls, such as `/roster.v1.OrganizationService/AddMember`.
    pub path: &'static str,
    /// The full name of its service, such as `roster.v1.OrganizationService`.
    pub service: &'static str,
    /// Its own name, such as `AddMember`.
    pub name: &'static str,
    /// Who may call it.
    pub rule: Rule,
    /// Whether it may change something.
    pub write: bool,
    /// Whether it takes many things at once, and so larger messages.
    pub bulk: bool,
    /// Which sides of it are streams.
    pub streaming: StreamSides,
}

/// Which sides of a method are streams of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSides {
    /// The caller's.
    pub client: bool,
    /// The server's.
    pub server: bool,
}

impl StreamSides {
    /// Whether the call lives on after it has begun to be answered, or its request after it has begun to be read.
    #[must_use]
    pub fn any(self) -> bool {
        self.client || self.server
    }
}

/// Who may call a method. The proto's `AccessRule`, which the build has checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The callers that are let in. Operators always are.
    pub callers: AllowedCallers,
    /// The scopes of which a service needs one, where `callers` is [`AllowedCallers::SignedIn`] or [`AllowedCallers::Services`].
    pub scopes: &'static [Scope],
    /// Whether the method is for deleted organizations too, which are otherwise out of everybody's sight but the
    /// operators'.
    pub deleted: bool,
}

/// The callers that a rule lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedCallers {
    /// Anybody, with no credential too.
    Public,
    /// Any user, and services with one of the rule's scopes.
    SignedIn,
    /// Users who hold this permission in the organization that the request names, and services with a scope that
    /// includes it.
    Permission(Permission),
    /// Services with one of the rule's scopes.
    Services,
}

/// Finds the method that a path calls.
#[must_use]
pub fn method(path: &str) -> Option<&'static Method> {
    METHODS.binary_search_by(|method| method.path.cmp(path)).ok().map(|index| &METHODS[index])
}

/// Whether this kind of caller may call the method at all. Said before the request is read: whether a user holds a
/// permission depends on the organization, and is decided when that is known.
///
/// # Errors
/// Why not.
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
            need_one(rule.scopes.iter().copied(), |scope| service.has(scope))
        }
        (AllowedCallers::Permission(permission), Caller::Service(service)) => service_gate(permission, service),
    }
}

/// Whether a service may do, in any organization, what needs this permission.
///
/// # Errors
/// [`Refusal::ScopeMissing`], naming the scopes that would do.
pub fn service_gate(permission: Permission, service: &ServiceCaller) -> Result<(), Refusal> {
    let scopes = Scope::ALL.into_iter().filter(|scope| scope.permissions().contains(permission));
    need_one(scopes, |scope| service.has(scope))
}

/// Refuses whoever has none of these scopes, and names those that would do. `operator` always would.
fn need_one(scopes: impl Iterator<Item = Scope> + Clone, has: impl Fn(Scope) -> bool) -> Result<(), Refusal> {
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
    use crate::authn::{OperatorCaller, UserCaller};
    use crate::domain::UserId;

    fn user() -> Caller {
        Caller::User(UserCaller { id: UserId::parse("ada").unwrap(), via: None, claims: None })
    }

    fn service(scopes: &[Scope]) -> Caller {
        Caller::Service(ServiceCaller { name: "billing".into(), scopes: scopes.into() })
    }

    fn operator() -> Caller {
        Caller::Operator(OperatorCaller { name: "root".into() })
    }

    fn gate(callers: AllowedCallers, caller: &Caller) -> Result<(), Refusal> {
        method_gate(&Rule { callers, scopes: &[Scope::Check, Scope::Manage], deleted: false }, caller)
    }

    fn missing(scopes: &[Scope]) -> Result<(), Refusal> {
        Err(Refusal::ScopeMissing { scopes: scopes.to_vec() })
    }

    const RESTRICTED: [AllowedCallers; 3] =
        [AllowedCallers::SignedIn, AllowedCallers::Permission(Permission::MembersAdd), AllowedCallers::Services];

    #[test]
    fn public_is_for_everybody() {
        for caller in [Caller::Anonymous, user(), service(&[]), operator()] {
            assert_eq!(gate(AllowedCallers::Public, &caller), Ok(()));
        }
    }

    #[test]
    fn nothing_else_is_for_nobody_and_everything_is_for_operators() {
        for callers in RESTRICTED {
            assert_eq!(gate(callers, &Caller::Anonymous), Err(Refusal::CredentialMissing));
            assert_eq!(gate(callers, &operator()), Ok(()));
        }
    }

    #[test]
    fn users_are_stopped_only_by_methods_for_services() {
        assert_eq!(gate(AllowedCallers::SignedIn, &user()), Ok(()));
        assert_eq!(gate(AllowedCallers::Permission(Permission::OrganizationDelete), &user()), Ok(()));
        let refusal = gate(AllowedCallers::Services, &user());
        assert!(matches!(refusal, Err(Refusal::CallerNotAllowed { caller, .. }) if caller == "user"));
    }

    #[test]
    fn services_need_one_of_the_scopes() {
        for callers in [AllowedCallers::SignedIn, AllowedCallers::Services] {
            assert_eq!(gate(callers, &service(&[Scope::ActAs, Scope::Check])), Ok(()));
            let refused = missing(&[Scope::Check, Scope::Manage, Scope::Operator]);
            assert_eq!(gate(callers, &service(&[Scope::ActAs])), refused);
            assert_eq!(gate(callers, &service(&[])), refused);
        }
    }

    #[test]
    fn services_need_a_scope_that_includes_the_permission() {
        let read = AllowedCallers::Permission(Permission::MembersRead);
        let add = AllowedCallers::Permission(Permission::MembersAdd);
        let transfer = AllowedCallers::Permission(Permission::OwnershipTransfer);
        assert_eq!(gate(read, &service(&[Scope::Check])), Ok(()));
        assert_eq!(gate(add, &service(&[Scope::Check])), missing(&[Scope::Manage, Scope::Operator]));
        assert_eq!(gate(add, &service(&[Scope::Manage])), Ok(()));
        assert_eq!(gate(transfer, &service(&[Scope::Check, Scope::Manage])), missing(&[Scope::Operator]));
    }

    #[test]
    fn paths_find_their_methods() {
        assert!(METHODS.is_sorted_by(|a, b| a.path < b.path));
        for served in &METHODS {
            assert_eq!(served.path, format!("/{}/{}", served.service, served.name));
            assert_eq!(method(served.path), Some(served));
        }
        for path in ["", "/", "/roster.v1.OrganizationService", "/roster.v1.OrganizationService/AddMember?x=1"] {
            assert_eq!(method(path), None);
        }
    }

    #[test]
    fn the_protos_say_who_adds_members() {
        let rule = Rule { callers: AllowedCallers::Permission(Permission::MembersAdd), scopes: &[], deleted: false };
        let add = method("/roster.v1.OrganizationService/AddMember").unwrap();
        assert_eq!((add.rule, add.write), (rule, true));
    }
}
