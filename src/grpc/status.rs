//! Maps refusals and faults to the gRPC status that the caller receives. Every error carries an `ErrorInfo`. A fault in
//! roster itself carries only an incident id, which finds the cause in the log.

use super::pb::ErrorReason;
use super::reason::{self, Reason};
use crate::domain::Refusal;
use crate::random;
use crate::service::ServiceError;
use crate::service::error::StoreError;
use prost::Message;
use std::time::Duration;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "roster";
/// The delay before a caller repeats an `UNAVAILABLE` call: longer than a Postgres restart under load was seen to fail
/// calls.
const RETRY: Duration = Duration::from_millis(200);

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
    Status::with_error_details(code, message, details)
}

/// `DEADLINE_EXCEEDED`: the time for the call ran out.
#[must_use]
pub fn deadline_exceeded() -> Status {
    let message = "time ran out; whether a write happened is not known: repeat it with the same request_id";
    status(reason::deadline_exceeded(), message)
}

/// `DEADLINE_EXCEEDED`: the message of the call, or a message of a stream, arrived too slowly.
#[must_use]
pub fn message_too_slow() -> Status {
    let message = "the message arrived too slowly; nothing was changed: send it at once, within ten seconds at most";
    status(reason::deadline_exceeded(), message)
}

/// `SERVER_STOPPING`: the server stops and ends its streams.
#[must_use]
pub fn server_stopping() -> Status {
    status(reason::server_stopping(), "the server is about to stop: go on elsewhere, from your cursor")
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
/// only the flag of a message says so. The metadata lists what the server accepts.
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
                deadline_exceeded()
            }
            ServiceError::Store(StoreError::CommitUnknown(_)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the outcome of a commit is unknown");
                let message = "the datastore did not confirm the commit; whether the write happened is not known: \
                               repeat it with the same request_id";
                status(reason::deadline_exceeded(), message)
            }
            // Writes retry and return this refusal themselves: only a read gets here.
            ServiceError::Store(StoreError::Contention(_)) => refused(&Refusal::Conflict),
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
    Status::with_error_details(code, refusal.to_string(), details)
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
