//! Refusals: every request that roster turns down by its own rules. Faults, such as an unavailable datastore, are not
//! refusals.
//!
//! The enum is closed. Each variant has the name of its value of `ErrorReason` in `errors.proto`, and its fields supply
//! the metadata that this value lists. The build joins the two by these names: to add a refusal, add the variant here
//! and the value there.

use super::{Permission, Quota, RoleName, Scope, UserId, ValueKind};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One violation of one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The field's path in the request, such as `items[3].user_id`.
    pub field: String,
    /// The violation, as a sentence that never repeats the value.
    pub sentence: String,
}

/// The reason why a request is refused. The message is sent to the caller and says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The method needs a credential and the call carries none.
    #[error("this method needs a credential: send `authorization: Bearer <token>`")]
    CredentialMissing,
    /// The credential is not accepted. Only the log has the cause.
    #[error("the server does not accept this credential; its log has the cause")]
    CredentialInvalid,
    /// The bearer token was valid and has expired, or its user was reinstated since it was issued.
    #[error("the token has expired, or was issued before an operator reinstated its user: get a new one")]
    CredentialExpired,
    /// The credential is longer than the server accepts.
    #[error(
        "the credential is longer than {limit_bytes} bytes: have the identity provider put fewer roles, groups or claims \
         into the token"
    )]
    CredentialTooLarge {
        /// The length of the longest credential that the server accepts, in bytes.
        limit_bytes: usize,
    },
    /// The token is valid and identifies a service, which has no roster scope.
    #[error(
        "the token identifies a service and has no roster scope: grant it one at the identity provider, as roster:check, \
         and list it in the setting `scopes` of the issuer; or use an API key"
    )]
    ServiceWithoutScope,
    /// The caller is not a member, or the organization does not exist: one refusal for both.
    #[error("permission denied, or no such organization")]
    PermissionDenied {
        /// The permission that the method requires.
        permission: Permission,
    },
    /// The role of the member does not hold the permission.
    #[error("this needs the permission {}, which the role {} does not hold", permission.as_str(), role.as_str())]
    RoleLacksPermission {
        /// The permission that the method requires.
        permission: Permission,
        /// The role of the caller.
        role: RoleName,
    },
    /// This kind of caller may not make this call.
    #[error("this method is not for a caller of the kind `{caller}`: {advice}")]
    CallerNotAllowed {
        /// `user`, `service` or `operator`.
        caller: String,
        /// What the caller can do instead.
        advice: String,
    },
    /// The credential of the service lacks a scope.
    #[error("the service's credential needs one of the scopes {}", scope_names(scopes))]
    ScopeMissing {
        /// The scopes, any one of which is enough.
        scopes: Vec<Scope>,
    },
    /// The caller may not act on behalf of a user.
    #[error("acting on behalf of a user needs a service with the scope act-as")]
    OnBehalfOfNotAllowed,
    /// The ceiling rule: a caller can neither grant nor take away a role with permissions that they do not have.
    #[error("the role {} holds permissions that the caller does not have", role.as_str())]
    RoleAboveCaller {
        /// The role that holds more permissions than the caller.
        role: RoleName,
    },
    /// The calling user is deactivated or deleted.
    #[error("the calling user is deactivated or deleted")]
    CallerInactive,
    /// Only operators purge, see deleted organizations, and reactivate what an operator deactivated.
    #[error("only an operator may do this")]
    OperatorRequired,

    /// Fields of the request are invalid: all of them, at most 20.
    // Recorded results of writes, which are replayed for 24 hours, contain the older name.
    #[error("{} of the request's fields {} wrong: the details name them", .0.len(), if .0.len() == 1 { "is" } else { "are" })]
    #[serde(rename = "Invalid")]
    InvalidRequest(Vec<Violation>),

    /// No organization has this id or slug.
    #[error("no such organization")]
    OrganizationNotFound,
    /// The user is not a member of the organization.
    #[error("the user is not a member of the organization")]
    MemberNotFound,
    /// No user has this id, or no active user has verified this address.
    #[error("no such user, or no active user with that verified address")]
    UserNotFound,

    /// The user is already a member of the organization.
    #[error("the user is already a member; EnsureMember treats this as success")]
    AlreadyMember,
    /// The slug belongs to another organization.
    #[error("the slug {slug} is taken")]
    SlugTaken {
        /// The slug that the request asks for.
        slug: String,
    },
    /// The caller used this request id for a different request.
    #[error("this request_id named another request in the last 24 hours: use a fresh UUID for each new request")]
    RequestIdReused,

    /// The user owns organizations that the change would leave without an owner.
    #[error("the user owns {count} organization(s): transfer the ownership first")]
    OwnershipRequired {
        /// The ids of these organizations, at most 20.
        organizations: Vec<String>,
        /// The number of all of them.
        count: u64,
    },
    /// The organization is inactive.
    #[error("the organization is inactive: activate it first")]
    OrganizationInactive,
    /// The organization has no owner yet.
    #[error("the organization has no owner yet: its first member becomes owner and activates it")]
    OrganizationPending,
    /// The organization is deleted.
    #[error("the organization is deleted: undelete it first")]
    OrganizationDeleted,
    /// The new owner is not a member of the organization.
    #[error("the new owner must be a member: add them first")]
    TargetNotMember,
    /// Only others have named the new owner, and the deployment refuses transfers to such an id.
    #[error(
        "the id of the new owner may be a typing mistake, because only memberships that others made have named it: check the \
         id, and have the person sign in once, or call PutUser"
    )]
    NewOwnerUnknown {
        /// The new owner that the request names.
        user_id: UserId,
    },
    /// The user named in the request is deactivated.
    #[error("the user is deactivated: reactivate them first")]
    UserInactive {
        /// The user named in the request.
        user_id: UserId,
    },
    /// The user named in the request was deleted.
    #[error("the user was deleted: only ReinstateUser, by an operator, makes the id usable again")]
    UserDeleted {
        /// The user named in the request.
        user_id: UserId,
    },
    /// Several active users have verified this address.
    #[error("more than one active user has verified this address: name the user by id")]
    EmailAmbiguous,

    /// The organization has no such invitation, or the invitation token is not valid: one refusal for every cause.
    #[error("no such invitation, or its token is not valid (any more)")]
    InvitationNotFound,
    /// The calling user has not verified the invited address, or created the invitation.
    #[error("the invitation is for another user: sign in with the verified address that was invited")]
    NotYourInvitation,
    /// The recipient already has a pending invitation to the organization.
    #[error("there is a pending invitation for this recipient: remind or revoke it")]
    InvitationPending {
        /// The id of the pending invitation.
        invitation_id: String,
    },
    /// The invitation was accepted, declined or revoked, or it has expired.
    #[error("the invitation is not pending: it is {state}")]
    InvitationNotPending {
        /// The present state, such as `ACCEPTED`.
        state: String,
    },
    /// There is no role with this name. An invitation with it stays pending.
    #[error(
        "the role {} does not exist in this organization: ListRoles has its roles; an invitation with the role stays pending",
        role.as_str()
    )]
    RoleNotFound {
        /// The role in question.
        role: RoleName,
    },
    /// The inviter is no longer a member, or may no longer grant this role.
    #[error("the inviter may no longer give this role: ask for a new invitation")]
    InviterNotAllowed,
    /// The request asks for an e-mail, and this deployment sends no mail.
    #[error("this server sends no mail: choose another delivery, or inform the member yourself")]
    MailOff,
    /// The organization has a role of this name.
    #[error("the organization has a role {} already", role.as_str())]
    RoleExists {
        /// The role in question.
        role: RoleName,
    },
    /// The operator has not said yet that every server knows roles that are not built in.
    #[error(
        "this deployment does not accept access models and roles of organizations yet: when every server is of this \
         release, call EnableRoles or run `roster access-model enable`"
    )]
    RolesNotEnabled,
    /// Members hold roles that the change removes or takes from them.
    #[error(
        "members hold roles that the change takes away ({}): name replacements, or give the members other roles \
         first",
        uses(roles, members)
    )]
    RoleInUse {
        /// The first of these roles.
        roles: Vec<RoleName>,
        /// The number of members with each of them.
        members: Vec<u64>,
    },
    /// Roles of organizations hold permissions that the change takes away.
    #[error(
        "roles of organizations hold permissions that the change takes away ({}): remove them from those roles first",
        uses(permissions, roles)
    )]
    PermissionInUse {
        /// The first of these permissions.
        permissions: Vec<String>,
        /// The number of roles that hold each of them.
        roles: Vec<u64>,
    },
    /// A model that changes what `admin` or `member` hold is wrong in clients of older releases.
    #[error(
        "clients of release 0.3 and earlier assume the built-in permissions of the changed roles ({}): update every client \
         first, then confirm it with `older_clients_gone`",
        role_names(roles)
    )]
    OlderClientsGoneRequired {
        /// The roles that change.
        roles: Vec<RoleName>,
    },
    /// A limit is reached.
    #[error("the limit {limit} is reached: at most {most}; try again in {retry_seconds} seconds")]
    QuotaExceeded {
        /// The limit that is reached.
        limit: Quota,
        /// The number that the limit allows.
        most: u64,
        /// The delay before the next attempt, in seconds.
        retry_seconds: u64,
    },

    /// The cursor names a position that the change log no longer holds, or never held.
    #[error("the cursor is from another datastore or too old: export, and watch from there")]
    CursorExpired,

    /// The caller left messages of the stream unread for too long.
    #[error("messages stayed unread for too long: continue from your cursor, or start again, and read faster")]
    SlowReader,
    /// As many calls of this kind are in progress as the server accepts.
    #[error("the server has as many of these calls in progress as it accepts: repeat")]
    Overloaded,
    /// The keys of the token's issuer could not be fetched.
    #[error("the server cannot get the keys of the token's issuer from its identity provider at present: repeat")]
    KeysUnavailable,

    /// The request depends on a stored value that this server does not know, because a newer one wrote it.
    #[error("a newer server stored a value that this server does not know ({value}): repeat, or upgrade this server")]
    ValueUnknown {
        /// What the value is.
        value: ValueKind,
    },

    /// The resource has changed since its etag was read.
    #[error("the resource has changed since this etag was read: read it again, decide, repeat")]
    EtagMismatch,
    /// The change lost several races against concurrent changes.
    #[error("the change lost a race several times: read again and repeat")]
    Conflict,
    /// Another item of the batch failed, and the request demanded all or nothing.
    #[error("another item of the batch failed, and the request demanded all or nothing")]
    BatchAborted,
}

impl Refusal {
    /// A refusal for one field.
    #[must_use]
    pub fn field(field: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self::InvalidRequest(vec![Violation { field: field.into(), sentence: sentence.into() }])
    }

    /// The refusal of an exceeded limit, with the time until the next attempt.
    #[must_use]
    pub fn quota(limit: Quota, most: u32, wait: Duration) -> Self {
        Self::QuotaExceeded { limit, most: most.into(), retry_seconds: wait.as_secs() }
    }
}

fn scope_names(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ")
}

fn role_names(roles: &[RoleName]) -> String {
    roles.iter().map(RoleName::as_str).collect::<Vec<_>>().join(", ")
}

/// The names with their numbers, for a sentence.
fn uses(names: &[impl std::fmt::Display], numbers: &[u64]) -> String {
    let uses = names.iter().zip(numbers).map(|(name, number)| format!("{name}: {number}"));
    uses.collect::<Vec<_>>().join(", ")
}
