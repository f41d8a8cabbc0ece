//! From a refusal or a fault to the status that the caller sees: one exhaustive match. Every error carries an
//! `ErrorInfo`; what is roster's own fault carries only an incident id, which joins the log.

use super::pb::ErrorReason;
use crate::domain::Refusal;
use crate::random;
use crate::service::ServiceError;
use crate::service::error::StoreError;
use prost::Message;
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "roster";
/// After how long an `UNAVAILABLE` is worth repeating: longer than a Postgres restart under load was seen to fail calls.
const RETRY: Duration = Duration::from_millis(200);

/// A reason's name on the wire: without the prefix that protobuf wants.
#[must_use]
pub fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

fn details(reason: ErrorReason, metadata: HashMap<String, String>) -> ErrorDetails {
    ErrorDetails::with_error_info(reason_name(reason), DOMAIN, metadata)
}

/// A status with its reason and nothing else to say.
#[must_use]
pub fn plain(code: Code, reason: ErrorReason, message: &str) -> Status {
    Status::with_error_details(code, message, details(reason, HashMap::new()))
}

/// A status that is worth repeating.
#[must_use]
pub fn unavailable(reason: ErrorReason, message: &str) -> Status {
    let mut details = details(reason, HashMap::new());
    details.set_retry_info(Some(RETRY));
    Status::with_error_details(Code::Unavailable, message, details)
}

/// The time has run out.
#[must_use]
pub fn deadline_exceeded() -> Status {
    plain(
        Code::DeadlineExceeded,
        ErrorReason::DeadlineExceeded,
        "time ran out; whether a write happened is not known: repeat it with the same request_id",
    )
}

/// The server stops, and its streams with it.
#[must_use]
pub fn server_stopping() -> Status {
    unavailable(ErrorReason::ServerStopping, "the server is about to stop: go on elsewhere, from your cursor")
}

/// What tonic itself says of a message in a stream has no details: it gets the reason that it stands for.
#[must_use]
pub fn of_message(status: Status, limit: usize) -> Status {
    match status.code() {
        _ if !status.details().is_empty() => status,
        Code::OutOfRange | Code::ResourceExhausted => too_large(limit),
        // A body that breaks off or is no gRPC frame.
        _ => malformed(),
    }
}

/// A message larger than the method takes.
#[must_use]
pub fn too_large(limit: usize) -> Status {
    let metadata = HashMap::from([("limit_bytes".to_owned(), limit.to_string())]);
    let details = details(ErrorReason::MessageTooLarge, metadata);
    Status::with_error_details(Code::ResourceExhausted, format!("the message is larger than {limit} bytes"), details)
}

/// Bytes that are not a message of the method.
#[must_use]
pub fn malformed() -> Status {
    plain(Code::InvalidArgument, ErrorReason::MalformedMessage, "the bytes are not a message of this method")
}

/// No such method, or a compression that is not known.
#[must_use]
pub fn unknown_method() -> Status {
    let message = "no such method here; server reflection lists the ones there are";
    plain(Code::Unimplemented, ErrorReason::MethodUnknown, message)
}

/// A fault in roster: logged here, once, with its causes; the caller gets the incident's id.
#[must_use]
pub fn internal(fault: &(dyn std::error::Error + 'static)) -> Status {
    let incident = random::uuid().to_string();
    tracing::error!(incident, error = fault, "a fault in roster");
    let details = details(ErrorReason::Internal, HashMap::from([("incident".to_owned(), incident.clone())]));
    Status::with_error_details(
        Code::Internal,
        format!("a fault in roster; its log names the incident {incident}"),
        details,
    )
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        match &error {
            ServiceError::Refused(refusal) => refused(refusal),
            ServiceError::Store(StoreError::Unavailable(_)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the datastore does not answer");
                unavailable(
                    ErrorReason::DatastoreUnavailable,
                    "the datastore does not answer; nothing was changed: repeat",
                )
            }
            ServiceError::Store(StoreError::Unmigrated(_)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "migrations are missing; run `roster migrate`"
                );
                unavailable(
                    ErrorReason::DatastoreUnavailable,
                    "the datastore is not ready, its migrations are missing; nothing was changed: repeat",
                )
            }
            ServiceError::Store(StoreError::Timeout(_)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the datastore took too long");
                deadline_exceeded()
            }
            ServiceError::Store(StoreError::CommitUnknown(_)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the outcome of a commit is unknown");
                deadline_exceeded()
            }
            // Writes retry and then say so themselves: here it is a read that lost.
            ServiceError::Store(StoreError::Contention(_)) => refused(&Refusal::Conflict),
            ServiceError::Store(StoreError::Unexpected(_) | StoreError::Unreadable(_))
            | ServiceError::Panicked
            | ServiceError::Answer(_) => internal(&error),
        }
    }
}

/// The status of a refusal.
#[must_use]
pub fn refused(refusal: &Refusal) -> Status {
    let (code, reason) = code_and_reason(refusal);
    let mut details = details(reason, metadata(refusal));
    if let Refusal::Invalid(violations) = refusal {
        for violation in violations {
            details.add_bad_request_violation(&violation.field, &violation.sentence);
        }
    }
    if let Refusal::QuotaExceeded { limit, most, retry_seconds } = refusal {
        details.add_quota_failure_violation(limit.as_str(), format!("at most {most}"));
        details.set_retry_info(Some(Duration::from_secs(*retry_seconds)));
    }
    if code == Code::Unavailable {
        details.set_retry_info(Some(RETRY));
    }
    Status::with_error_details(code, refusal.to_string(), details)
}

fn code_and_reason(refusal: &Refusal) -> (Code, ErrorReason) {
    match refusal {
        Refusal::CredentialMissing => (Code::Unauthenticated, ErrorReason::CredentialMissing),
        Refusal::CredentialInvalid => (Code::Unauthenticated, ErrorReason::CredentialInvalid),
        Refusal::CredentialExpired => (Code::Unauthenticated, ErrorReason::CredentialExpired),
        Refusal::PermissionDenied { .. } => (Code::PermissionDenied, ErrorReason::PermissionDenied),
        Refusal::RoleLacksPermission { .. } => (Code::PermissionDenied, ErrorReason::RoleLacksPermission),
        Refusal::CallerNotAllowed { .. } => (Code::PermissionDenied, ErrorReason::CallerNotAllowed),
        Refusal::ScopeMissing { .. } => (Code::PermissionDenied, ErrorReason::ScopeMissing),
        Refusal::OnBehalfOfNotAllowed => (Code::PermissionDenied, ErrorReason::OnBehalfOfNotAllowed),
        Refusal::RoleAboveCaller { .. } => (Code::PermissionDenied, ErrorReason::RoleAboveCaller),
        Refusal::CallerInactive => (Code::PermissionDenied, ErrorReason::CallerInactive),
        Refusal::OperatorRequired => (Code::PermissionDenied, ErrorReason::OperatorRequired),
        Refusal::NotYourInvitation => (Code::PermissionDenied, ErrorReason::NotYourInvitation),
        Refusal::InvitationNotFound => (Code::NotFound, ErrorReason::InvitationNotFound),
        Refusal::InvitationPending { .. } => (Code::AlreadyExists, ErrorReason::InvitationPending),
        Refusal::InvitationNotPending { .. } => (Code::FailedPrecondition, ErrorReason::InvitationNotPending),
        Refusal::InviterNotAllowed => (Code::FailedPrecondition, ErrorReason::InviterNotAllowed),
        Refusal::MailOff => (Code::FailedPrecondition, ErrorReason::MailOff),
        Refusal::QuotaExceeded { .. } => (Code::ResourceExhausted, ErrorReason::QuotaExceeded),
        Refusal::Invalid(_) => (Code::InvalidArgument, ErrorReason::InvalidRequest),
        Refusal::OrganizationNotFound => (Code::NotFound, ErrorReason::OrganizationNotFound),
        Refusal::MemberNotFound => (Code::NotFound, ErrorReason::MemberNotFound),
        Refusal::UserNotFound => (Code::NotFound, ErrorReason::UserNotFound),
        Refusal::AlreadyMember => (Code::AlreadyExists, ErrorReason::AlreadyMember),
        Refusal::SlugTaken { .. } => (Code::AlreadyExists, ErrorReason::SlugTaken),
        Refusal::RequestIdReused => (Code::AlreadyExists, ErrorReason::RequestIdReused),
        Refusal::OwnershipRequired { .. } => (Code::FailedPrecondition, ErrorReason::OwnershipRequired),
        Refusal::OrganizationInactive => (Code::FailedPrecondition, ErrorReason::OrganizationInactive),
        Refusal::OrganizationPending => (Code::FailedPrecondition, ErrorReason::OrganizationPending),
        Refusal::OrganizationDeleted => (Code::FailedPrecondition, ErrorReason::OrganizationDeleted),
        Refusal::TargetNotMember => (Code::FailedPrecondition, ErrorReason::TargetNotMember),
        Refusal::UserInactive { .. } => (Code::FailedPrecondition, ErrorReason::UserInactive),
        Refusal::UserDeleted { .. } => (Code::FailedPrecondition, ErrorReason::UserDeleted),
        Refusal::EmailAmbiguous => (Code::FailedPrecondition, ErrorReason::EmailAmbiguous),
        Refusal::SlowReader => (Code::ResourceExhausted, ErrorReason::SlowReader),
        Refusal::Overloaded => (Code::Unavailable, ErrorReason::Overloaded),
        Refusal::CursorExpired => (Code::OutOfRange, ErrorReason::CursorExpired),
        Refusal::EtagMismatch => (Code::Aborted, ErrorReason::EtagMismatch),
        Refusal::Conflict => (Code::Aborted, ErrorReason::Conflict),
        Refusal::BatchAborted => (Code::Aborted, ErrorReason::BatchAborted),
    }
}

fn metadata(refusal: &Refusal) -> HashMap<String, String> {
    let pairs: Vec<(&str, String)> = match refusal {
        Refusal::PermissionDenied { permission } => vec![("permission", permission.as_str().to_owned())],
        Refusal::RoleLacksPermission { permission, role } => {
            vec![("permission", permission.as_str().to_owned()), ("role", role.as_str().to_owned())]
        }
        Refusal::CallerNotAllowed { caller, .. } => vec![("caller", caller.clone())],
        Refusal::ScopeMissing { scopes } => {
            vec![("scopes", scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(","))]
        }
        Refusal::RoleAboveCaller { role } => vec![("role", role.as_str().to_owned())],
        Refusal::SlugTaken { slug } => vec![("slug", slug.clone())],
        Refusal::OwnershipRequired { organizations, count } => {
            vec![("organizations", organizations.join(",")), ("count", count.to_string())]
        }
        Refusal::InvitationPending { invitation_id } => vec![("invitation_id", invitation_id.clone())],
        Refusal::InvitationNotPending { state } => vec![("state", state.clone())],
        Refusal::QuotaExceeded { limit, .. } => vec![("limit", limit.as_str().to_owned())],
        Refusal::UserInactive { user_id } | Refusal::UserDeleted { user_id } => vec![("user_id", user_id.to_string())],
        Refusal::CredentialMissing
        | Refusal::CredentialInvalid
        | Refusal::CredentialExpired
        | Refusal::OnBehalfOfNotAllowed
        | Refusal::CallerInactive
        | Refusal::OperatorRequired
        | Refusal::NotYourInvitation
        | Refusal::InvitationNotFound
        | Refusal::InviterNotAllowed
        | Refusal::MailOff
        | Refusal::Invalid(_)
        | Refusal::OrganizationNotFound
        | Refusal::MemberNotFound
        | Refusal::UserNotFound
        | Refusal::AlreadyMember
        | Refusal::RequestIdReused
        | Refusal::OrganizationInactive
        | Refusal::OrganizationPending
        | Refusal::OrganizationDeleted
        | Refusal::TargetNotMember
        | Refusal::EmailAmbiguous
        | Refusal::CursorExpired
        | Refusal::SlowReader
        | Refusal::Overloaded
        | Refusal::EtagMismatch
        | Refusal::Conflict
        | Refusal::BatchAborted => Vec::new(),
    };
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A refusal as it stands beside one item of a batch: the details are those that the error alone would carry.
#[must_use]
pub fn item(refusal: &Refusal) -> tonic_types::pb::Status {
    beside(&refused(refusal))
}

/// The status of one item of a batch: OK, or the refusal.
#[must_use]
pub fn of_item<T>(item: &Result<T, Refusal>) -> tonic_types::pb::Status {
    item.as_ref().err().map_or_else(tonic_types::pb::Status::default, self::item)
}

/// An error as it stands in the place of one answer of many.
#[must_use]
pub fn beside(status: &Status) -> tonic_types::pb::Status {
    // The details of a tonic status are an encoded google.rpc.Status.
    tonic_types::pb::Status::decode(status.details()).unwrap_or_default()
}
