//! A session with Postgres: opened on the primary, prepared, and checked.

use super::datastore_url::DatastoreUrl;
use super::{StoreError, limits};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::time::timeout;

/// Why roster does not use a datastore that answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableDatastore {
    /// The server is in recovery: its data can be older than an acknowledged write.
    #[error("the database is a standby: point database_url to the primary, or promote the standby")]
    Standby,
    /// Transactions are read-only: a role, a database or the server sets `default_transaction_read_only`.
    #[error("the database accepts no writes: reset default_transaction_read_only")]
    ReadOnly,
    /// The database has another encoding than UTF-8: not every name can be stored in it.
    #[error("the encoding of the database is {0}: roster needs a database with the encoding UTF8")]
    Encoding(String),
    /// Statements of one connection run in several sessions of Postgres.
    #[error("a pooler in transaction mode is in front of the database: use its session mode, or connect directly")]
    TransactionPooling,
}

/// What a session is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionUse {
    /// Requests and background tasks.
    Requests,
    /// The few statements of the replica. To plan them again for the parameters of each call would take longer than to
    /// run them, so Postgres plans each once.
    Replica,
    /// Migrations, which may take longer than a request.
    Migrations,
}

impl SessionUse {
    /// The settings of the session. They are statements and not startup parameters, which a pooler may ignore.
    ///
    /// A statement can outlive its request (the client hung up, the process was stopped) and must not keep its locks. For
    /// a client that the network has cut off, TCP ends the session in about 25 seconds; sqlx 0.9 offers no such option for
    /// the client's side, where each wait has a limit instead. No statement is worth compiling, and after a wrong estimate
    /// Postgres would compile before it answers. A ROLLBACK outside a transaction causes a warning, which
    /// `client_min_messages` suppresses.
    ///
    /// The numbers are [`limits::STATEMENT`], [`limits::IDLE_IN_TRANSACTION`] and [`limits::CLIENT_CHECK`] in
    /// milliseconds.
    const fn settings(self) -> &'static str {
        match self {
            Self::Requests => {
                "SET statement_timeout = 30000; SET idle_in_transaction_session_timeout = 2000;
                 SET client_connection_check_interval = 1000; SET tcp_user_timeout = 10000;
                 SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
                 SET jit = off; SET client_min_messages = error"
            }
            Self::Replica => {
                "SET statement_timeout = 30000; SET idle_in_transaction_session_timeout = 2000;
                 SET client_connection_check_interval = 1000; SET tcp_user_timeout = 10000;
                 SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
                 SET jit = off; SET client_min_messages = error;
                 SET plan_cache_mode = force_generic_plan"
            }
            Self::Migrations => "SET jit = off; SET client_min_messages = warning",
        }
    }
}

/// The facts about a session that [`check`] judges.
const FACTS: &str = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', \
    current_setting('server_encoding'), pg_backend_pid()";

/// Opens a session on the primary: on the first host of the URL that is one.
///
/// # Errors
/// The error of the last host, if no host is a primary that answers.
pub(super) async fn open(url: &DatastoreUrl, purpose: SessionUse) -> Result<PgConnection, StoreError> {
    let mut outcome = Err(StoreError::Silent);
    for host in hosts(url)? {
        let session = async {
            let mut connection = connect(&host).await?;
            connection.execute(purpose.settings()).await.map_err(not_connected)?;
            check(&mut connection).await?;
            Ok(connection)
        };
        outcome = timeout(limits::CONNECT, session).await.unwrap_or_else(|_| Err(not_connected(timed_out())));
        if outcome.is_ok() {
            return outcome;
        }
    }
    outcome
}

/// How to connect to each host of the URL, with the password as it is now.
pub(super) fn hosts(url: &DatastoreUrl) -> Result<Vec<PgConnectOptions>, StoreError> {
    url.hosts().map_err(|error| not_connected(error.into()))
}

async fn connect(host: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    PgConnection::connect_with(host).await.map_err(not_connected)
}

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the database did not answer in time"))
}

/// The error of a connection that could not be opened. Whatever the reason, the datastore refuses service.
pub(super) fn not_connected(error: sqlx::Error) -> StoreError {
    match StoreError::from(error) {
        StoreError::Unavailable(cause)
        | StoreError::Unmigrated(cause)
        | StoreError::Unexpected(cause)
        | StoreError::Contention(cause)
        | StoreError::Timeout(Some(cause)) => StoreError::NotConnected(cause),
        other => other,
    }
}

/// Checks that a session can answer for the datastore: it is on the primary, can write, and stores UTF-8.
///
/// # Errors
/// [`StoreError::Unusable`] if it cannot; if Postgres does not answer.
pub(super) async fn check<'c>(connection: impl Executor<'c, Database = sqlx::Postgres>) -> Result<(), StoreError> {
    let facts = sqlx::raw_sql(FACTS).fetch_one(connection).await?;
    let encoding: String = facts.try_get(2)?;
    let fault = if facts.try_get(0)? {
        UnusableDatastore::Standby
    } else if facts.try_get(1)? {
        UnusableDatastore::ReadOnly
    } else if encoding != "UTF8" {
        UnusableDatastore::Encoding(encoding)
    } else {
        return Ok(());
    };
    Err(StoreError::Unusable(fault))
}

/// Checks that each connection is one session of Postgres, and not multiplexed by a pooler in transaction mode.
///
/// Such a pooler gives the session of an idle connection to another connection that begins a transaction. So one
/// connection notes its session and idles, another one begins a transaction, and the first one asks for its session
/// again. A pooler with a single session answers nothing then. A third connection can hold the noted session at the
/// moment when the transaction begins, and give it back before the question. So the transaction then ends, which leaves
/// the idle connection two sessions to be answered from, and the whole is repeated.
///
/// # Errors
/// [`StoreError::Unusable`] if the session has changed, or does not answer within [`limits::POOLER_PATIENCE`]; if
/// Postgres does not answer within [`limits::POOLER_CHECK`].
pub(super) async fn require_own_session(url: &DatastoreUrl) -> Result<(), StoreError> {
    timeout(limits::POOLER_CHECK, compare_sessions(url)).await.unwrap_or_else(|_| Err(not_connected(timed_out())))
}

async fn compare_sessions(url: &DatastoreUrl) -> Result<(), StoreError> {
    let mut idle = open(url, SessionUse::Migrations).await?;
    let noted = backend(&mut idle).await?;
    let mut other = open(url, SessionUse::Migrations).await?;
    for _ in 0..limits::POOLER_ROUNDS {
        for boundary in ["BEGIN", "ROLLBACK"] {
            other.execute(boundary).await?;
            match timeout(limits::POOLER_PATIENCE, backend(&mut idle)).await {
                Ok(Ok(backend)) if backend == noted => {}
                Ok(Ok(_)) | Err(_) => return Err(StoreError::Unusable(UnusableDatastore::TransactionPooling)),
                Ok(Err(error)) => return Err(error),
            }
        }
    }
    for connection in [idle, other] {
        // The check is done, and a connection that is dropped is closed too.
        let _ = timeout(limits::SESSION_CHECK, connection.close()).await;
    }
    Ok(())
}

async fn backend(connection: &mut PgConnection) -> Result<i32, StoreError> {
    Ok(sqlx::raw_sql(FACTS).fetch_one(connection).await?.try_get(3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_have_the_values_of_the_limits() {
        for (name, limit) in [
            ("statement_timeout", limits::STATEMENT),
            ("idle_in_transaction_session_timeout", limits::IDLE_IN_TRANSACTION),
            ("client_connection_check_interval", limits::CLIENT_CHECK),
        ] {
            for purpose in [SessionUse::Requests, SessionUse::Replica] {
                let setting = format!("SET {name} = {}", limit.as_millis());
                assert!(purpose.settings().contains(&setting), "{purpose:?}: {setting}");
            }
        }
    }
}
