//! Events of the audit trail.

use super::named_enum::named_enum;
use super::{OrganizationId, UserId};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

named_enum! {
    /// The type of an event, a dotted word on the wire and in Postgres.
    EventType else "each is the type of an event, as member.added";
    /// An organization was created.
    OrganizationCreated = "organization.created",
    /// Its name, slug or attributes changed.
    OrganizationUpdated = "organization.updated",
    /// It was activated.
    OrganizationActivated = "organization.activated",
    /// It was deactivated.
    OrganizationDeactivated = "organization.deactivated",
    /// It was deleted and can be restored until it is purged.
    OrganizationDeleted = "organization.deleted",
    /// It was restored.
    OrganizationUndeleted = "organization.undeleted",
    /// It was removed for good, with its members and invitations.
    OrganizationPurged = "organization.purged",
    /// A member became its owner.
    OwnerChanged = "owner.changed",
    /// A user became a member.
    MemberAdded = "member.added",
    /// A member's role or attributes changed.
    MemberUpdated = "member.updated",
    /// A member was removed or left.
    MemberRemoved = "member.removed",
    /// An invitation was created.
    InvitationCreated = "invitation.created",
    /// A pending invitation was sent again.
    InvitationReminded = "invitation.reminded",
    /// Its recipient accepted it.
    InvitationAccepted = "invitation.accepted",
    /// Its recipient declined it.
    InvitationDeclined = "invitation.declined",
    /// The organization revoked it.
    InvitationRevoked = "invitation.revoked",
    /// It expired before an answer.
    InvitationExpired = "invitation.expired",
    /// The mail server did not take its mail, and delivery was given up.
    InvitationMailFailed = "invitation.mail_failed",
    /// A role of the organization was defined.
    RoleCreated = "role.created",
    /// Its title, description or permissions changed.
    RoleUpdated = "role.updated",
    /// It was deleted.
    RoleDeleted = "role.deleted",
    /// A user was created.
    UserCreated = "user.created",
    /// A user's profile changed.
    UserUpdated = "user.updated",
    /// A user was deactivated.
    UserDeactivated = "user.deactivated",
    /// A user was reactivated.
    UserReactivated = "user.reactivated",
    /// A user was deleted: only the id is left.
    UserDeleted = "user.deleted",
    /// A deleted user was reinstated: active, without a profile and without memberships.
    UserReinstated = "user.reinstated",
    /// The access model of the deployment changed.
    ModelChanged = "model.changed",
}

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRecord {
    /// The organization that the event belongs to; `None` for an event of a user or of the access model.
    pub organization: Option<OrganizationId>,
    /// The revision of the organization, the user or the access model that the change made.
    pub revision: i64,
    /// The type, as stored. Not an [`EventType`]: a newer server may have written a type that this version does not know.
    pub event_type: String,
    /// The kind of the actor that made the change, as stored, for the same reason.
    pub actor_kind: String,
    /// The actor's user id, or the name of the service or operator.
    pub actor_id: String,
    /// The issuer of the token with which the call was made. `None` if it was made with another credential, for roster
    /// itself, and if a release up to 0.3 wrote the event.
    pub actor_issuer: Option<String>,
    /// The service that acted on behalf of the user, if one did.
    pub actor_via: Option<String>,
    /// The user that the event is about, for events about members and users.
    pub user: Option<UserId>,
    /// The changed fields before the change.
    pub old: Option<Value>,
    /// The changed fields after the change.
    pub new: Option<Value>,
    /// The reason in the request, if it had one.
    pub reason: Option<String>,
    /// The request id in the request, if it had one.
    pub request_id: Option<Uuid>,
    /// The time of the change.
    pub create_time: OffsetDateTime,
}
