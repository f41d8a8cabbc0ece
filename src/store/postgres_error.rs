//! The text of an error of Postgres.

use sqlx::error::{DatabaseError, ErrorKind};
use std::borrow::Cow;
use std::error::Error;
use std::fmt;

/// An error of Postgres: its message and its SQLSTATE, as `permission denied for table users (SQLSTATE 42501)`.
///
/// The text of the driver ends with a line number in the source code of Postgres, which readers take for one of their
/// own. The detail of Postgres is left out, because it repeats values of the row.
#[derive(Debug)]
struct PostgresError(Box<dyn DatabaseError>);

impl fmt::Display for PostgresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.0.message(), self.0.code().unwrap_or_default())
    }
}

impl Error for PostgresError {}

impl DatabaseError for PostgresError {
    fn message(&self) -> &str {
        self.0.message()
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        self.0.code()
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }

    fn constraint(&self) -> Option<&str> {
        self.0.constraint()
    }

    fn table(&self) -> Option<&str> {
        self.0.table()
    }

    fn kind(&self) -> ErrorKind {
        self.0.kind()
    }
}

/// The same error with the text of [`PostgresError`], if it is one of Postgres.
pub(super) fn readable(error: sqlx::Error) -> sqlx::Error {
    match error {
        sqlx::Error::Database(database) => sqlx::Error::Database(Box::new(PostgresError(database))),
        other => other,
    }
}
