//! What goes wrong for a client, in one enum.

use crate::domain::Violation;
use crate::pb::ErrorReason;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of roster's reasons.
const DOMAIN: &str = "roster";

/// What goes wrong outside of roster.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused: the question or the credential is no good, or there is a fault in the server. Asking again
    /// helps only if the code says so.
    #[error("roster refused: {0}")]
    Refused(Box<Failure>),
    /// The server did not answer, or says that it cannot just now. Ask again, after [`Error::retry_after`].
    #[error("roster is not available: {0}")]
    Unavailable(Box<Failure>),
    /// The time for the call ran out.
    #[error("roster did not answer in time")]
    TimedOut,
    /// The source of credentials gave none.
    #[error("no credential to show to roster")]
    Credential(#[source] BoxError),
    /// The server answered what this client does not understand.
    #[error("roster's answer was not understood: {0}")]
    Unreadable(String),
}

/// What the server, or the connection to it, says of an error.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The status.
    pub code: Code,
    /// The reason, one of a closed list; none if the error is not roster's own, or of a reason that this client does not
    /// know.
    pub reason: Option<ErrorReason>,
    /// The sentence.
    pub message: String,
    /// What goes with the reason: `errors.proto` says what.
    pub metadata: HashMap<String, String>,
    /// What is wrong with the fields of the request.
    pub violations: Vec<Violation>,
    /// After how long to ask again, if the server says so.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Some(reason) => write!(f, "{} ({})", self.message, reason_name(reason)),
            None => write!(f, "{} ({:?})", self.message, self.code),
        }
    }
}

/// A reason's name on the wire: without the prefix that protobuf wants.
fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

impl Error {
    /// The server's reason, if there is one.
    #[must_use]
    pub fn reason(&self) -> Option<ErrorReason> {
        self.failure().and_then(|failure| failure.reason)
    }

    /// What the server says of it, if it says something.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused(failure) | Self::Unavailable(failure) => Some(failure),
            Self::TimedOut | Self::Credential(_) | Self::Unreadable(_) => None,
        }
    }

    /// After how long to ask again, if the server says so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.failure().and_then(|failure| failure.retry_after)
    }

    /// Whether roster could not be reached, or could not answer.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TimedOut)
    }

    /// That nobody could answer, in one form.
    pub(super) fn or_unavailable(self) -> Self {
        match self {
            Self::TimedOut => Self::Unavailable(Box::new(Failure {
                code: Code::DeadlineExceeded,
                reason: None,
                message: "it did not answer in time".to_owned(),
                metadata: HashMap::new(),
                violations: Vec::new(),
                retry_after: None,
            })),
            other => other,
        }
    }
}

impl From<Status> for Error {
    /// Reads a status of any of roster's methods.
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let from_roster = info.is_some();
        match status.code() {
            // tonic's own, when the deadline that it sent has passed, or roster's.
            Code::DeadlineExceeded => return Self::TimedOut,
            Code::Cancelled if !from_roster => return Self::TimedOut,
            _ => {}
        }
        let failure = Box::new(failure(&status, &details));
        match status.code() {
            Code::Unavailable => Self::Unavailable(failure),
            // Of a connection that broke, or of somebody in between.
            Code::Unknown | Code::Internal | Code::DataLoss if !from_roster => Self::Unavailable(failure),
            _ => Self::Refused(failure),
        }
    }
}

fn failure(status: &Status, details: &ErrorDetails) -> Failure {
    let info = details.error_info().filter(|info| info.domain == DOMAIN);
    let reason = info.and_then(|info| ErrorReason::from_str_name(&format!("ERROR_REASON_{}", info.reason)));
    let violations = details.bad_request().map(|bad| &bad.field_violations[..]).unwrap_or_default();
    let violations = violations
        .iter()
        .map(|violation| Violation { field: violation.field.clone(), sentence: violation.description.clone() });
    Failure {
        code: status.code(),
        reason,
        message: status.message().to_owned(),
        metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
        violations: violations.collect(),
        retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
    }
}
