//! Postgres: the only module with SQL.
//!
//! Free functions over a connection. Every statement is checked against the schema at build time.
//!
//! The functions decide nothing. The caller interprets row counts. Constraints are the last line of defence: no code
//! relies on a violation to find something out.
//!
//! Where several statements return the columns of one table, a macro writes the column list once (`user_query!`): the
//! macros of sqlx accept a concatenation of literals, but neither a constant nor a macro call.

pub mod datastore;
pub mod events;
pub mod export;
pub mod folded_names;
pub mod invitation_tokens;
pub mod invitations;
pub mod limits;
pub mod log;
pub mod memberships;
pub mod migrations;
pub mod organizations;
pub mod outbox;
pub mod pool;
pub mod quotas;
pub mod requests;
pub mod slugs;
pub mod standing;
pub mod transaction;
pub mod users;

use crate::domain::Invalid;
use sqlx::error::DatabaseError;
use std::sync::Arc;

/// A failure between roster and Postgres. `Clone`, because one statement can answer the questions of several callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Postgres does not answer, is shutting down, or has no free connection. Nothing was changed.
    #[error("the datastore does not answer")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// The database or the schema is missing or outdated: the operator has to run `roster migrate`. Nothing was
    /// changed.
    #[error("the datastore has no schema or an outdated one: run `roster migrate`")]
    Unmigrated(#[source] Arc<sqlx::Error>),
    /// A statement or a lock took longer than the request allows. Nothing was changed.
    #[error("the datastore took too long")]
    Timeout(#[source] Option<Arc<sqlx::Error>>),
    /// A conflict with another transaction (serialization failure or deadlock). The transaction can be run again.
    #[error("the transaction conflicted with another one")]
    Contention(#[source] Arc<sqlx::Error>),
    /// The connection broke during a commit: the transaction may or may not be committed.
    #[error("the outcome of the commit is unknown")]
    CommitUnknown(#[source] Arc<sqlx::Error>),
    /// A bug in roster: SQL that Postgres rejects, or a violated constraint.
    #[error("the datastore rejected a statement")]
    Unexpected(#[source] Arc<sqlx::Error>),
    /// A stored row with a value that the domain does not allow.
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

/// Classifies an error by SQLSTATE (Postgres manual, appendix A). Never by constraint name, which not every
/// Postgres-compatible engine sends.
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
        // invalid_catalog_name, undefined_table, undefined_column, undefined_function: every statement was checked
        // against the schema at build time, so the schema of this database is missing or outdated.
        Some("3D000" | "42P01" | "42703" | "42883") => ErrorKind::Unmigrated,
        _ => ErrorKind::Unexpected,
    }
}
