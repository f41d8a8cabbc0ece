//! Postgres: the only place with SQL. Free functions that take a connection; every statement is checked when the crate
//! is built.
//!
//! Nothing here decides anything: what a row count means is the caller's business, and constraints are the last line of
//! defence, never the way to learn something.

pub mod events;
pub mod export;
pub mod invitation_tokens;
pub mod invitations;
pub mod limits;
pub mod log;
pub mod memberships;
pub mod organizations;
pub mod outbox;
pub mod pool;
pub mod quotas;
pub mod requests;
pub mod slugs;
pub mod standing;
pub mod users;

use crate::domain::Invalid;
use sqlx::error::DatabaseError;
use std::sync::Arc;

/// What can go wrong between roster and Postgres. Can be cloned: one statement may have been asked for many.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Postgres is away, is going away, or has no connection to spare. Nothing was changed.
    #[error("the datastore does not answer")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// The database or the schema is not there yet: somebody has still to run `roster migrate`. Nothing was changed.
    #[error("the datastore has no schema, or an old one")]
    Unmigrated(#[source] Arc<sqlx::Error>),
    /// A statement or a lock took longer than the request had. Nothing was changed.
    #[error("the datastore took too long")]
    Timeout(#[source] Option<Arc<sqlx::Error>>),
    /// The transaction lost against another one and can be run again.
    #[error("the transaction lost against another one")]
    Contention(#[source] Arc<sqlx::Error>),
    /// The connection broke while a commit was under way: whether it happened is not known.
    #[error("the outcome of the commit is unknown")]
    CommitUnknown(#[source] Arc<sqlx::Error>),
    /// A fault in roster: SQL that Postgres refuses, a constraint that the code should have kept.
    #[error("the datastore refused a statement")]
    Unexpected(#[source] Arc<sqlx::Error>),
    /// A row that holds what the domain does not allow.
    #[error("a stored row is not readable: {0}")]
    Unreadable(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let error = Arc::new(error);
        match &*error {
            sqlx::Error::Database(database) => match kind(database.as_ref()) {
                ErrorKind::Unavailable => Self::Unavailable(error),
                ErrorKind::Unmigrated => Self::Unmigrated(error),
                ErrorKind::Timeout => Self::Timeout(Some(error)),
                ErrorKind::Contention => Self::Contention(error),
                ErrorKind::Unexpected => Self::Unexpected(error),
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

enum ErrorKind {
    Unavailable,
    Unmigrated,
    Timeout,
    Contention,
    Unexpected,
}

/// By SQLSTATE (Postgres manual, appendix A), never by constraint name: not every Postgres-compatible engine sends those.
fn kind(error: &dyn DatabaseError) -> ErrorKind {
    match error.code().as_deref() {
        // query_canceled (statement_timeout), lock_not_available (lock_timeout)
        Some("57014" | "55P03") => ErrorKind::Timeout,
        // serialization_failure, deadlock_detected
        Some("40001" | "40P01") => ErrorKind::Contention,
        // admin_shutdown, crash_shutdown, cannot_connect_now, database_dropped, idle_session_timeout,
        // idle_in_transaction_session_timeout, read_only_sql_transaction (a standby)
        Some("57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25P03" | "25006") => ErrorKind::Unavailable,
        // connection exceptions, insufficient resources (connections, memory, disk)
        Some(code) if code.starts_with("08") || code.starts_with("53") => ErrorKind::Unavailable,
        // invalid_catalog_name, undefined_table, undefined_column, undefined_function: every statement was checked against
        // the schema when it was built, so it is the schema that is missing.
        Some("3D000" | "42P01" | "42703" | "42883") => ErrorKind::Unmigrated,
        _ => ErrorKind::Unexpected,
    }
}
