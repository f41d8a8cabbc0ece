//! Actors: the callers and the program itself, as the audit trail and invitations record them.

use super::named_enum::named_enum;

named_enum! {
    /// The kind of an actor.
    ActorKind else "unknown kind of actor: one of user, service, operator, system";
    /// A user, or a service that acts for one.
    User = "user",
    /// A service with its own credential.
    Service = "service",
    /// An operator: passes every rule.
    Operator = "operator",
    /// roster itself: housekeeping and mail delivery. No caller has this kind.
    System = "system",
}
