//! The client's error type.

use crate::domain::Violation;
use crate::error_causes::with_causes;
use crate::pb::ErrorReason;
use std::collections::HashMap;
use std::error::Error as _;
use std::fmt;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The error domain (`google.rpc.ErrorInfo`) of roster's reasons.
const DOMAIN: &str = "roster";

/// An error of the backend's own code.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused the call: the question or the credential is invalid, or the server has an internal fault. A
    /// retry helps only if the status code allows it.
    #[error("roster refused: {0}")]
    Refused(Box<Failure>),
    /// The server did not answer, or answered that it cannot serve the call for now. Retry after
    /// [`Error::retry_after`]. With the reason [`ErrorReason::ValueUnknown`], the answer depends on a value that the
    /// server or this version of the client does not know.
    #[error("roster is not available: {0}")]
    Unavailable(Box<Failure>),
    /// The call's timeout ran out ([`super::ClientSettings::with_timeout`]).
    #[error("roster did not answer in time")]
    TimedOut,
    /// The [`super::TokenSource`] returned an error or an invalid token.
    #[error("no credential to send to roster")]
    Credential(#[source] BoxError),
    /// The settings of the client allow no connection. The sentence says what to change.
    #[error("{0}")]
    InvalidSettings(String),
    /// The answer could not be parsed.
    #[error("roster's answer was not understood: {0}")]
    Unreadable(String),
}

/// The details of an error, from the server or from the connection to it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The gRPC status code.
    pub code: Code,
    /// The reason, from a closed list. `None` if the error does not come from roster, or has a reason that this version
    /// of the client does not know.
    pub reason: Option<ErrorReason>,
    /// A sentence in English for logs. Programs should use `reason`.
    pub message: String,
    /// The metadata of the reason; `errors.proto` documents the keys.
    pub metadata: HashMap<String, String>,
    /// The invalid fields of the request.
    pub violations: Vec<Violation>,
    /// The delay before a retry, if the server names one.
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

/// A reason's name on the wire, without the prefix of the protobuf enum.
fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

impl Error {
    /// The server's reason; `None` if the error has none.
    #[must_use]
    pub fn reason(&self) -> Option<ErrorReason> {
        self.failure().and_then(|failure| failure.reason)
    }

    /// The details of the error, for [`Self::Refused`] and [`Self::Unavailable`].
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused(failure) | Self::Unavailable(failure) => Some(failure),
            Self::TimedOut | Self::Credential(_) | Self::InvalidSettings(_) | Self::Unreadable(_) => None,
        }
    }

    /// The delay before a retry, if the server names one.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.failure().and_then(|failure| failure.retry_after)
    }

    /// Whether roster could not be reached or could not serve the call.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TimedOut)
    }

    /// Turns a timeout into [`Self::Unavailable`], so that the cache has one error for "no answer".
    pub(super) fn or_unavailable(self) -> Self {
        match self {
            Self::TimedOut => Self::Unavailable(Box::new(Failure {
                code: Code::DeadlineExceeded,
                reason: None,
                message: "the server did not answer in time".to_owned(),
                metadata: HashMap::new(),
                violations: Vec::new(),
                retry_after: None,
            })),
            other => other,
        }
    }
}

impl From<Status> for Error {
    /// Converts the status of any of roster's methods.
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let from_roster = info.is_some();
        match status.code() {
            // Either tonic's own status, after the deadline that it sent has passed, or roster's.
            Code::DeadlineExceeded => return Self::TimedOut,
            Code::Cancelled if !from_roster && !is_of_connection(&status) => return Self::TimedOut,
            _ => {}
        }
        let failure = Box::new(failure(&status, &details));
        match status.code() {
            Code::Unavailable => Self::Unavailable(failure),
            _ if is_of_connection(&status) => Self::Unavailable(failure),
            // From a broken connection or from a proxy in between.
            Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss if !from_roster => {
                Self::Unavailable(failure)
            }
            _ => Self::Refused(failure),
        }
    }
}

/// Whether a status says that the connection could not be opened, or that it ended under the call.
pub(super) fn is_of_connection(status: &Status) -> bool {
    // tonic's own timeout has a source too.
    status.source().is_some() && status.message() != "Timeout expired"
}

/// What to do about a failure of a connection: a part of its message, and the advice.
const ADVICE: &[(&str, &str)] = &[
    ("UnknownIssuer", "the server's certificate is signed by a CA that is not trusted: name the CA by with_ca"),
    ("not valid for name", "use a name in the address that the server's certificate has"),
    ("certificate expired", "renew the server's certificate"),
    ("certificate not valid yet", "compare the clock of this machine with the certificate"),
    ("CertificateRequired", "the server demands a client certificate: give it by with_client_certificate"),
    ("received fatal alert", "the server refused the handshake, perhaps the client certificate: see its log"),
    ("connection closed", SEE_LOG),
    ("broken pipe", SEE_LOG),
    ("reset", SEE_LOG),
    ("InvalidContentType", "the server does not speak TLS on this port: write http:// if the way is local"),
    ("HTTPS without TLS", "give the endpoint a ClientTlsConfig, or use ClientSettings::new"),
];

/// The alert by which a server refuses a client certificate may be lost behind the end of the connection.
const SEE_LOG: &str = "if that happens each time, see the log of the server: it may demand TLS or a client certificate";

/// The message of a connection that failed, with its causes and the advice.
fn connection_message(error: &(dyn std::error::Error + 'static)) -> String {
    let mut message = with_causes(error);
    if let Some((_, advice)) = ADVICE.iter().find(|(part, _)| message.contains(part)) {
        message = format!("{message}: {advice}");
    }
    message
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
        message: match status.source() {
            Some(transport) => connection_message(transport),
            None => status.message().to_owned(),
        },
        metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
        violations: violations.collect(),
        retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
    }
}
