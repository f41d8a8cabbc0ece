//! Every "no" that roster says for a reason of its own. Closed: the wire's `ErrorReason` has a name for each, and one
//! exhaustive match (`grpc/status.rs`) joins the two. What goes wrong underneath (a datastore that is away) is not here.

use super::{Permission, Quota, Role, Scope, UserId};
use serde::{Deserialize, Serialize};

/// One thing wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The field's path in the request, such as `items[3].user_id`.
    pub field: String,
    /// What is wrong, as a sentence that never repeats the value.
    pub sentence: String,
}

/// Why a request is refused. The text of each says what to do about it, and is shown to the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No credential where one is needed.
    #[error("this method needs a credential: send `authorization: Bearer <token>`")]
    CredentialMissing,
    /// A credential that is not accepted. Why is for the log only.
    #[error("the credential is not one that this server accepts; its log says why")]
    CredentialInvalid,
    /// A credential that was good once.
    #[error("the token has expired: get a new one")]
    CredentialExpired,
    /// Strangers, and organizations that are not there: one answer for both.
    #[error("permission denied, or no such organization")]
    PermissionDenied {
        /// What the method needs.
        permission: Permission,
    },
    /// A member whose role is not enough.
    #[error("this needs the permission {}, which the role {} does not hold", permission.as_str(), role.as_str())]
    RoleLacksPermission {
        /// What the method needs.
        permission: Permission,
        /// What the caller is.
        role: Role,
    },
    /// A method that is not for this kind of caller.
    #[error("this method is not for a caller of the kind `{caller}`: {advice}")]
    CallerNotAllowed {
        /// `user`, `service` or `operator`.
        caller: String,
        /// What to do instead.
        advice: String,
    },
    /// A service whose credential does not reach this far.
    #[error("the service's credential needs one of the scopes {}", scope_names(scopes))]
    ScopeMissing {
        /// The scopes of which one is needed.
        scopes: Vec<Scope>,
    },
    /// Acting for a user without the right to.
    #[error("acting on behalf of a user needs a service with the scope act-as")]
    OnBehalfOfNotAllowed,
    /// The ceiling rule: nobody grants or takes what they do not have.
    #[error("the role {} holds permissions that the caller does not have", role.as_str())]
    RoleAboveCaller {
        /// The role that is too high.
        role: Role,
    },
    /// The calling user is switched off or deleted.
    #[error("the calling user is deactivated or deleted")]
    CallerInactive,
    /// What an operator switched off only an operator switches on; purging is theirs too.
    #[error("only an operator may do this")]
    OperatorRequired,

    /// Wrong fields, all of them (20 at most).
    #[error("{} of the request's fields {} wrong: the details name them", .0.len(), if .0.len() == 1 { "is" } else { "are" })]
    Invalid(Vec<Violation>),

    /// No such organization.
    #[error("no such organization")]
    OrganizationNotFound,
    /// Not in the organization.
    #[error("the user is not a member of the organization")]
    MemberNotFound,
    /// Nobody of that id, or with that verified address.
    #[error("no such user, or no active user with that verified address")]
    UserNotFound,

    /// In the organization already.
    #[error("the user is a member already; EnsureMember takes that for success")]
    AlreadyMember,
    /// The slug belongs to another organization.
    #[error("the slug {slug} is taken")]
    SlugTaken {
        /// The slug.
        slug: String,
    },
    /// The request id named another request.
    #[error("this request_id named another request in the last 24 hours: use a fresh UUID for each new request")]
    RequestIdReused,

    /// The user owns what they would lose.
    #[error("the user owns {count} organization(s): transfer the ownership first")]
    OwnershipRequired {
        /// Their ids, 20 at most.
        organizations: Vec<String>,
        /// How many there are.
        count: u64,
    },
    /// The organization is switched off.
    #[error("the organization is inactive: activate it first")]
    OrganizationInactive,
    /// The organization has no owner yet.
    #[error("the organization has no owner yet: its first member becomes owner and activates it")]
    OrganizationPending,
    /// The organization is deleted.
    #[error("the organization is deleted: undelete it first")]
    OrganizationDeleted,
    /// A new owner who is not in the organization.
    #[error("the new owner must be a member: add them first")]
    TargetNotMember,
    /// The user named in the request is switched off.
    #[error("the user is deactivated: reactivate them first")]
    UserInactive {
        /// Who.
        user_id: UserId,
    },
    /// The user named in the request was deleted.
    #[error("the user was deleted, and an id is never taken again")]
    UserDeleted {
        /// Who.
        user_id: UserId,
    },
    /// One address, several users.
    #[error("more than one active user has verified this address: name the user by id")]
    EmailAmbiguous,

    /// No such invitation here, or a token that is not good. One answer for all of them.
    #[error("no such invitation, or its token is not good (any more)")]
    InvitationNotFound,
    /// Somebody else's.
    #[error("the invitation is for somebody else: sign in with the verified address that was invited")]
    NotYourInvitation,
    /// The address has a pending one here.
    #[error("there is a pending invitation for this recipient: remind or revoke it")]
    InvitationPending {
        /// Which.
        invitation_id: String,
    },
    /// It has become something else.
    #[error("the invitation is not pending: it is {state}")]
    InvitationNotPending {
        /// What.
        state: String,
    },
    /// Who invited may not give that role any more.
    #[error("the one who invited may not give this role any more: ask for a new invitation")]
    InviterNotAllowed,
    /// Mail was asked for where none is sent.
    #[error("mail is switched off here: ask for another delivery")]
    MailOff,
    /// More than is allowed.
    #[error("the limit {limit} is reached: at most {most}; try again in {retry_seconds} seconds")]
    QuotaExceeded {
        /// Its name.
        limit: Quota,
        /// What it allows.
        most: u64,
        /// When it is worth trying again, in seconds.
        retry_seconds: u64,
    },

    /// A place in the log that the log no longer holds, or never held.
    #[error("the cursor is of another datastore or too old: export, and watch from there")]
    CursorExpired,

    /// Nobody reads what is sent.
    #[error("what was sent was not read for too long: go on from your cursor, or begin again, and read faster")]
    SlowReader,
    /// More at once than the server takes.
    #[error("the server has more of these in hand than it takes: repeat")]
    Overloaded,

    /// Somebody was faster.
    #[error("the etag is not the present one: read again, decide, repeat")]
    EtagMismatch,
    /// Lost races several times over.
    #[error("the change lost a race several times: read again and repeat")]
    Conflict,
    /// Another item spoiled the batch.
    #[error("another item of the batch failed, and all or nothing was asked for")]
    BatchAborted,
}

impl Refusal {
    /// A refusal for one field.
    #[must_use]
    pub fn field(field: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation { field: field.into(), sentence: sentence.into() }])
    }
}

fn scope_names(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ")
}
