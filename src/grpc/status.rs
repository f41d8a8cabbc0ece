//! Maps refusals and faults to the gRPC status that the caller receives. Every error carries an `ErrorInfo`. A fault in
//! roster itself carries only an incident id, which finds the cause in the log.
//!
//! A delay before the next attempt stands in the status twice: as `RetryInfo` for programs, and as
//! `grpc-retry-pushback-ms` (gRFC A6) for client libraries, which wait by themselves if their service config has a retry
//! policy for the code.

use super::pb::ErrorReason;
use super::reason::{self, Reason};
use crate::domain::Refusal;
use crate::random;
use crate::service::ServiceError;
use crate::service::error::StoreError;
use prost::Message;
use std::time::Duration;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "roster";
/// The delay before a caller repeats an `UNAVAILABLE` call: longer than a Postgres restart under load was seen to fail
/// calls.
const RETRY: Duration = Duration::from_millis(200);
/// The trailer with the delay before the next attempt, in milliseconds.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The name of a reason on the wire: without the prefix that protobuf requires.
#[must_use]
pub fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

/// The code and the details that every error with this reason has; `UNAVAILABLE` always comes with a delay.
fn code_and_details(reason: Reason) -> (Code, ErrorDetails) {
    let code = reason::status_code(reason.reason);
    let mut details = ErrorDetails::with_error_info(reason_name(reason.reason), DOMAIN, reason.metadata);
    if code == Code::Unavailable {
        details.set_retry_info(Some(RETRY));
    }
    (code, details)
}

fn status(reason: Reason, message: impl Into<String>) -> Status {
    let (code, details) = code_and_details(reason);
    of_details(code, message, details)
}

/// A status with these details. All statuses are made here, so that the trailer agrees with the `RetryInfo`.
fn of_details(code: Code, message: impl Into<String>, details: ErrorDetails) -> Status {
    let mut metadata = MetadataMap::new();
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        // Signed, with 32 bits: 24 days at most.
        let milliseconds = i32::try_from(delay.as_millis()).unwrap_or(i32::MAX);
        metadata.insert(RETRY_PUSHBACK, milliseconds.into());
    }
    Status::with_error_details_and_metadata(code, message, details, metadata)
}

/// `DEADLINE_EXCEEDED`: the time for a call ran out that has committed nothing.
#[must_use]
pub fn deadline_exceeded() -> Status {
    status(reason::deadline_exceeded(), "time ran out; nothing was changed: repeat it, with a longer deadline")
}

/// `DEADLINE_EXCEEDED`: the time for a write ran out while it was committed.
#[must_use]
pub fn commit_unknown() -> Status {
    let message = "time ran out while the write was committed; whether it happened is not known: repeat it with the \
                   same request_id";
    status(reason::deadline_exceeded(), message)
}

/// `DATASTORE_UNAVAILABLE`: a call has waited for the datastore for this long, and nothing was committed.
#[must_use]
pub fn datastore_silent(waited: Duration) -> Status {
    let waited = waited.as_millis();
    let message = format!("the datastore did not answer within {waited} ms; nothing was changed: repeat");
    status(reason::datastore_unavailable(), message)
}

/// `OVERLOADED`: the connection has as many streams of this kind as it may have.
#[must_use]
pub fn connection_full(most: usize) -> Status {
    let message = format!(
        "the connection has {most} of these streams, as many as it may have: open another connection, or end a stream"
    );
    status(reason::of_refusal(&Refusal::Overloaded), message)
}

/// `INVALID_REQUEST`: the caller has ended its side of a stream before the first message.
#[must_use]
pub fn no_first_message() -> Status {
    let (code, mut details) = code_and_details(reason::of_refusal(&Refusal::InvalidRequest(Vec::new())));
    let message = "the stream was ended before its first message: send one, which may be empty";
    details.add_bad_request_violation("", message);
    of_details(code, message, details)
}

/// `DEADLINE_EXCEEDED`: the message of the call, or a message of a stream, arrived too slowly.
#[must_use]
pub fn message_too_slow() -> Status {
    let message = "the message arrived too slowly; nothing was changed: send it at once, within ten seconds at most";
    status(reason::deadline_exceeded(), message)
}

/// `SERVER_STOPPING`: the server ends the streams of a connection, because it stops or because of the connection's age.
#[must_use]
pub fn server_stopping() -> Status {
    let message =
        "the server ends this connection, to stop or because of its age: go on over another one, from your cursor";
    status(reason::server_stopping(), message)
}

/// The status of a message that could not be read from a stream. tonic's own errors carry no details: they get the
/// reason that fits their code.
#[must_use]
pub fn of_message(status: Status, limit: usize) -> Status {
    match status.code() {
        _ if !status.details().is_empty() => status,
        Code::OutOfRange | Code::ResourceExhausted => too_large(limit),
        // A body that breaks off or is no gRPC frame.
        _ => malformed(),
    }
}

/// `MESSAGE_TOO_LARGE`: the message has more bytes than the method accepts.
#[must_use]
pub fn too_large(limit: usize) -> Status {
    status(reason::message_too_large(&limit), format!("the message is larger than {limit} bytes"))
}

/// `MESSAGE_TOO_LARGE`: the message has more elements than its size allows. `limit` is the largest size that the method
/// accepts, `memory` what the decoded message may take; both in bytes.
#[must_use]
pub fn too_complex(limit: usize, memory: usize) -> Status {
    let message = format!("the message would take more than {memory} bytes when decoded: send fewer elements at once");
    status(reason::message_too_large(&limit), message)
}

/// `MALFORMED_MESSAGE`: the bytes do not decode as a message of the method.
#[must_use]
pub fn malformed() -> Status {
    status(reason::malformed_message(), "the bytes are not a message of this method")
}

/// `METHOD_UNKNOWN`: the server has no such method.
#[must_use]
pub fn unknown_method() -> Status {
    status(reason::method_unknown(), "no such method here; server reflection lists the ones there are")
}

/// `METHOD_UNKNOWN`: the request is one of a protocol that the server does not serve. `sentence` says which one.
#[must_use]
pub fn unserved_protocol(sentence: &str) -> Status {
    status(reason::method_unknown(), sentence)
}

/// `METHOD_UNKNOWN`: the request is compressed. `encoding` is a short text: the value of its `grpc-encoding`; `None` if
/// only the flag of a message marks it. The metadata lists what the server accepts.
#[must_use]
pub fn compressed(encoding: Option<&str>) -> Status {
    let encoding = encoding.map(|encoding| format!(" with `{encoding}`")).unwrap_or_default();
    let message =
        format!("the request is compressed{encoding}: roster accepts no compression, switch it off in the client");
    let mut status = status(reason::method_unknown(), message);
    status.metadata_mut().insert("grpc-accept-encoding", AsciiMetadataValue::from_static("identity"));
    status
}

/// `INTERNAL`: a fault in roster. Logs it, once, with its causes; the caller receives the id of the incident.
#[must_use]
pub fn internal(fault: &(dyn std::error::Error + 'static)) -> Status {
    let incident = random::uuid().to_string();
    tracing::error!(incident, error = fault, "a fault in roster");
    status(reason::internal(&incident), format!("a fault in roster; its log names the incident {incident}"))
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        match &error {
            ServiceError::Refused(refusal) => refused(refusal),
            ServiceError::Store(StoreError::Unavailable(_)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the datastore does not answer");
                let message = "the datastore does not answer; nothing was changed: repeat";
                status(reason::datastore_unavailable(), message)
            }
            // The pool has logged the cause, once.
            ServiceError::Store(StoreError::NotConnected(_)) => {
                status(reason::datastore_unavailable(), "the datastore cannot be reached; nothing was changed: repeat")
            }
            ServiceError::Store(StoreError::Unusable(fault)) => {
                status(reason::datastore_unavailable(), format!("{fault}; nothing was changed"))
            }
            ServiceError::Store(StoreError::Unmigrated(_)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "migrations are missing; run `roster migrate`"
                );
                let message = "the datastore is not ready, its migrations are missing; nothing was changed: repeat";
                status(reason::datastore_unavailable(), message)
            }
            ServiceError::Store(StoreError::Behind) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the datastore lacks a write");
                let message = "the consistency token, or this server, names a write that the datastore does not have \
                    (yet): repeat; if the database was restored, its operator runs `roster migrate --after-restore`";
                status(reason::datastore_unavailable(), message)
            }
            ServiceError::Store(StoreError::Timeout(_)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the datastore took too long");
                let message = "the datastore took too long; nothing was changed: repeat it, with a longer deadline";
                status(reason::deadline_exceeded(), message)
            }
            ServiceError::Store(StoreError::Silent) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the datastore does not answer");
                let message = "the datastore did not answer in time; nothing was changed: repeat";
                status(reason::datastore_unavailable(), message)
            }
            ServiceError::Store(StoreError::CommitUnknown(_)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the outcome of a commit is unknown");
                let message = "the datastore did not confirm the commit; whether the write happened is not known: \
                               repeat it with the same request_id";
                status(reason::deadline_exceeded(), message)
            }
            // Writes retry and return this refusal themselves: only a read gets here.
            ServiceError::Store(StoreError::Contention(_) | StoreError::ModelChanged) => refused(&Refusal::Conflict),
            ServiceError::Store(StoreError::ValueUnknown(value)) => refused(&Refusal::ValueUnknown { value: *value }),
            ServiceError::Store(StoreError::Unexpected(_) | StoreError::Unreadable(_))
            | ServiceError::Panicked
            | ServiceError::Answer(_) => internal(&error),
        }
    }
}

/// The status of a refusal.
#[must_use]
pub fn refused(refusal: &Refusal) -> Status {
    let (code, mut details) = code_and_details(reason::of_refusal(refusal));
    if let Refusal::InvalidRequest(violations) = refusal {
        for violation in violations {
            details.add_bad_request_violation(&violation.field, &violation.sentence);
        }
    }
    if let Refusal::QuotaExceeded { limit, most, retry_seconds } = refusal {
        details.add_quota_failure_violation(limit.as_str(), format!("at most {most}"));
        details.set_retry_info(Some(Duration::from_secs(*retry_seconds)));
    }
    of_details(code, refusal.to_string(), details)
}

/// The `google.rpc.Status` of a refusal of one item of a batch, with the details that the error alone would carry.
#[must_use]
pub fn item(refusal: &Refusal) -> tonic_types::pb::Status {
    beside(&refused(refusal))
}

/// The `google.rpc.Status` of one item of a batch: OK, or the refusal.
#[must_use]
pub fn of_item<T>(item: &Result<T, Refusal>) -> tonic_types::pb::Status {
    item.as_ref().err().map_or_else(tonic_types::pb::Status::default, self::item)
}

/// The `google.rpc.Status` of an error that takes the place of one answer among several.
#[must_use]
pub fn beside(status: &Status) -> tonic_types::pb::Status {
    // The details of a tonic status are an encoded google.rpc.Status.
    tonic_types::pb::Status::decode(status.details()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Permission, Quota, RoleName, Scope, UserId, ValueKind};
    use std::collections::BTreeSet;

    /// Every refusal, with the different delays that it can have.
    fn refusals() -> Vec<Refusal> {
        let user_id = || UserId::parse("ada").unwrap();
        let text = || "x".to_owned();
        let quota = |retry_seconds| Refusal::QuotaExceeded { limit: Quota::ALL[0], most: 3, retry_seconds };
        vec![
            Refusal::CredentialMissing,
            Refusal::CredentialInvalid,
            Refusal::CredentialExpired,
            Refusal::CredentialTooLarge { limit_bytes: 1 },
            Refusal::ServiceWithoutScope,
            Refusal::PermissionDenied { permission: Permission::MEMBERS_ADD },
            Refusal::RoleLacksPermission { permission: Permission::MEMBERS_ADD, role: RoleName::MEMBER },
            Refusal::CallerNotAllowed { caller: text(), advice: text() },
            Refusal::ScopeMissing { scopes: vec![Scope::Check] },
            Refusal::OnBehalfOfNotAllowed,
            Refusal::RoleAboveCaller { role: RoleName::OWNER },
            Refusal::CallerInactive,
            Refusal::OperatorRequired,
            Refusal::field("name", "too long"),
            Refusal::OrganizationNotFound,
            Refusal::MemberNotFound,
            Refusal::UserNotFound,
            Refusal::AlreadyMember,
            Refusal::SlugTaken { slug: text() },
            Refusal::RequestIdReused,
            Refusal::OwnershipRequired { organizations: vec![text()], count: 1 },
            Refusal::OrganizationInactive,
            Refusal::OrganizationPending,
            Refusal::OrganizationDeleted,
            Refusal::TargetNotMember,
            Refusal::NewOwnerUnknown { user_id: user_id() },
            Refusal::UserInactive { user_id: user_id() },
            Refusal::UserDeleted { user_id: user_id() },
            Refusal::EmailAmbiguous,
            Refusal::InvitationNotFound,
            Refusal::NotYourInvitation,
            Refusal::InvitationPending { invitation_id: text() },
            Refusal::InvitationNotPending { state: text() },
            Refusal::InviterNotAllowed,
            Refusal::RoleNotFound { role: RoleName::MEMBER },
            Refusal::RoleExists { role: RoleName::MEMBER },
            Refusal::RolesNotEnabled,
            Refusal::RoleInUse { roles: vec![RoleName::MEMBER], members: vec![1] },
            Refusal::PermissionInUse { permissions: vec![text()], roles: vec![1] },
            Refusal::OlderClientsGoneRequired { roles: vec![RoleName::ADMIN] },
            Refusal::MailOff,
            quota(0),
            quota(1),
            quota(86_400),
            quota(u64::MAX),
            Refusal::CursorExpired,
            Refusal::SlowReader,
            Refusal::Overloaded,
            Refusal::KeysUnavailable,
            Refusal::ValueUnknown { value: ValueKind::Role },
            Refusal::EtagMismatch,
            Refusal::Conflict,
            Refusal::BatchAborted,
        ]
    }

    /// A status of every reason.
    fn samples() -> Vec<Status> {
        let store =
            [StoreError::Silent, StoreError::Behind, StoreError::Timeout(None), StoreError::Unreadable("x".to_owned())];
        let others = [
            deadline_exceeded(),
            commit_unknown(),
            datastore_silent(RETRY),
            connection_full(1),
            no_first_message(),
            message_too_slow(),
            server_stopping(),
            too_large(1),
            too_complex(1, 1),
            malformed(),
            unknown_method(),
        ];
        let store = store.map(|error| Status::from(ServiceError::Store(error)));
        refusals().iter().map(refused).chain(store).chain(others).collect()
    }

    #[test]
    fn the_delay_for_client_libraries_is_that_of_the_retry_info() {
        let mut reasons = BTreeSet::new();
        for status in samples() {
            let reason = status.get_details_error_info().unwrap().reason;
            let delay = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
            // As the transport sends it.
            let headers = status.clone().into_http::<tonic::body::Body>().headers().clone();
            let pushback = headers.get(RETRY_PUSHBACK).map(|value| value.to_str().unwrap().parse::<i32>().unwrap());
            let expected = delay.map(|delay| i32::try_from(delay.as_millis()).unwrap_or(i32::MAX));
            assert_eq!(pushback, expected, "{reason}: {status:?}");
            assert_eq!(delay.is_some(), status.code() == Code::Unavailable || reason == "QUOTA_EXCEEDED", "{reason}");
            reasons.insert(reason);
        }
        // Every reason of the list, INTERNAL included.
        let all = (1..200).filter_map(|number| ErrorReason::try_from(number).ok());
        assert_eq!(reasons, all.map(|reason| reason_name(reason).to_owned()).collect());
    }
}
