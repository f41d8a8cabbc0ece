//! Postgres: the only module with SQL.
//!
//! Free functions over a connection. Every statement is checked against the schema at build time.
//!
//! The functions decide nothing. The caller interprets row counts. Constraints are the last line of defence: no code
//! relies on a violation to find something out.
//!
//! Where several statements return the columns of one table, a macro writes the column list once (`user_query!`): the
//! macros of sqlx accept a concatenation of literals, but neither a constant nor a macro call.

pub mod access_model;
pub mod datastore;
pub mod datastore_url;
pub mod events;
pub mod export;
pub mod folded_names;
pub mod invitation_tokens;
pub mod invitations;
pub mod limits;
pub mod log;
pub mod memberships;
pub mod migrations;
pub mod organization_roles;
pub mod organizations;
pub mod outbox;
pub mod place;
pub mod pool;
mod postgres_error;
pub mod quotas;
pub mod requests;
pub mod row_page;
pub mod session;
pub mod slugs;
mod sqlstate;
pub mod standing;
pub mod transaction;
pub mod usage;
pub mod users;

use crate::domain::{Invalid, ValueKind};
use session::UnusableDatastore;
use sqlstate::ErrorClass;
use sqlx::error::DatabaseError;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A failure between roster and Postgres. `Clone`, because one statement can answer the questions of several callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Postgres does not answer, is shutting down, or lacks resources or rights. Nothing was changed.
    #[error("the datastore does not answer")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// No connection to Postgres could be opened. Nothing was changed. The pool has logged the cause.
    #[error("the datastore cannot be reached")]
    NotConnected(#[source] Arc<sqlx::Error>),
    /// Postgres answers and must not be used: it is a standby, for example. Nothing was changed. The pool has logged
    /// the cause.
    #[error(transparent)]
    Unusable(UnusableDatastore),
    /// The database or the schema is missing or outdated: the operator has to run `roster migrate`. Nothing was
    /// changed.
    #[error("the datastore has no schema or an outdated one: run `roster migrate`")]
    Unmigrated(#[source] Arc<sqlx::Error>),
    /// A statement, a lock or a queue took longer than the request allows. Nothing was changed.
    #[error("the datastore took too long")]
    Timeout(#[source] Option<Arc<sqlx::Error>>),
    /// Postgres has not answered within a limit of roster. Nothing was changed.
    #[error("the datastore did not answer in time")]
    Silent,
    /// A conflict with another transaction (serialization failure or deadlock). The transaction can be run again.
    #[error("the transaction conflicted with another one")]
    Contention(#[source] Arc<sqlx::Error>),
    /// The access model was changed while the transaction ran, or is newer than the one by which it was decided. The
    /// transaction can be run again with the present model.
    #[error("the access model was changed during the write")]
    ModelChanged,
    /// A commit failed in a way that leaves open whether the transaction is committed.
    #[error("the outcome of the commit is unknown")]
    CommitUnknown(#[source] Arc<sqlx::Error>),
    /// The datastore lacks a write that a consistency token names, or one that this process has acknowledged: it lags
    /// behind, or it was restored to an earlier state. Only lookups fail with this.
    #[error(
        "the datastore lacks a write that a consistency token names, or that this server acknowledged; if the database \
         was restored, run `roster migrate --after-restore`"
    )]
    Behind,
    /// A bug in roster: SQL that Postgres rejects, or a violated constraint.
    #[error("the datastore rejected a statement")]
    Unexpected(#[source] Arc<sqlx::Error>),
    /// A value in the row that the request is about, which this program does not know, because a newer one wrote it.
    /// Nothing was changed.
    #[error("a newer version of roster stored a value that this one does not know ({0}): upgrade this server")]
    ValueUnknown(ValueKind),
    /// A stored row with a value that the domain does not allow.
    #[error("a stored row is not readable: {0}")]
    Unreadable(String),
}

impl StoreError {
    /// The error of a COMMIT. Unless Postgres names a reason for which it rolls back, the outcome is unknown.
    #[must_use]
    pub fn of_commit(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(DatabaseError::code);
        if code.is_some_and(|code| sqlstate::is_rolled_back(&code)) {
            return error.into();
        }
        Self::CommitUnknown(Arc::new(postgres_error::readable(error)))
    }

    /// Whether the session ended under a statement: the connection broke, or Postgres ended it (`admin_shutdown`,
    /// `crash_shutdown`). Nothing was changed, and another session may answer at once.
    #[must_use]
    pub fn is_session_lost(&self) -> bool {
        let Self::Unavailable(error) = self else { return false };
        match &**error {
            sqlx::Error::Io(_) => true,
            sqlx::Error::Database(database) => matches!(database.code().as_deref(), Some("57P01" | "57P02")),
            _ => false,
        }
    }

    /// Whether the datastore refuses service, so that a later attempt may succeed without a change of the request.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::NotConnected(_)
                | Self::Unusable(_)
                | Self::Timeout(_)
                | Self::Silent
                | Self::Behind
        )
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let error = Arc::new(postgres_error::readable(error));
        match &*error {
            // A role of the deployment was removed after the transaction had read it.
            sqlx::Error::Database(database) if database.constraint() == Some("memberships_deployment_role") => {
                Self::ModelChanged
            }
            sqlx::Error::Database(database) => match sqlstate::error_class(&database.code().unwrap_or_default()) {
                ErrorClass::Unavailable => Self::Unavailable(error),
                ErrorClass::Unmigrated => Self::Unmigrated(error),
                ErrorClass::Timeout => Self::Timeout(Some(error)),
                ErrorClass::Contention => Self::Contention(error),
                ErrorClass::Unexpected => Self::Unexpected(error),
            },
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            _ => Self::Unexpected(error),
        }
    }
}

impl From<Invalid> for StoreError {
    fn from(invalid: Invalid) -> Self {
        Self::Unreadable(invalid.0)
    }
}

/// Waits for Postgres, for at most this time. A connection whose statement did not end must not be finished as `Ok`.
///
/// # Errors
/// [`StoreError::Silent`], or the error of the statements.
pub async fn in_time<T, E>(
    limit: Duration,
    statements: impl Future<Output = Result<T, E>> + Send,
) -> Result<T, StoreError>
where
    StoreError: From<E>,
{
    Ok(timeout(limit, statements).await.map_err(|_| StoreError::Silent)??)
}
