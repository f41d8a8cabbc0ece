//! Errors of the use cases.

use crate::domain::{Invalid, Refusal};

pub use crate::store::StoreError;

/// The outcome of one item of a batch: an item succeeds or is refused independently of the others.
pub type ItemResult<T> = Result<T, Refusal>;

/// An error of a use case.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A rule refuses the request. The refusal goes to the caller.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Postgres failed, or a stored row is not readable.
    #[error(transparent)]
    Store(StoreError),
    /// The task that ran a write panicked: a fault in roster. Postgres rolled the write back.
    #[error("a write panicked")]
    Panicked,
    /// An answer could not be serialized for storage: a fault in roster.
    #[error("an answer cannot be stored")]
    Answer(#[from] serde_json::Error),
}

impl ServiceError {
    /// The refusal of one item of a batch.
    ///
    /// # Errors
    /// The error itself, if it is not a refusal: then it fails the whole batch.
    pub(super) fn into_refusal(self) -> Result<Refusal, Self> {
        match self {
            Self::Refused(refusal) => Ok(refusal),
            error @ (Self::Store(_) | Self::Panicked | Self::Answer(_)) => Err(error),
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::ValueUnknown(value) => Self::Refused(Refusal::ValueUnknown { value }),
            error => Self::Store(error),
        }
    }
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
