//! How a use case can fail.

use crate::domain::{Invalid, Refusal};

pub use crate::store::StoreError;

/// Why a use case has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// For a reason of roster's own, which the caller is told.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something went wrong between roster and Postgres.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The task that ran a write panicked: a fault in roster. Postgres rolled the write back.
    #[error("a write panicked")]
    Panicked,
    /// An answer of roster's own could not be written down or read back: a fault in roster.
    #[error("a stored answer is not readable")]
    Answer(#[from] serde_json::Error),
}

impl From<sqlx::Error> for ServiceError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<Invalid> for ServiceError {
    fn from(invalid: Invalid) -> Self {
        Self::Store(invalid.into())
    }
}
