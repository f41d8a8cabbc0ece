//! The Unix socket that the server listens on.

use super::account::Account;
use super::{Error, data};
use crate::random;
use sqlx::{Connection, PgConnection};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The port, which is part of the name of the socket. The server does not listen on TCP.
pub(super) const PORT: u16 = 5432;
/// Maximum length of the path of a socket: 104 bytes with the terminating zero on macOS, 108 on Linux.
const PATH_BYTES: usize = 103;
/// Prefix of the directories that replace a data directory whose path is too long.
const PREFIX: &str = "/tmp/roster-socket-";
/// Time limit for a running server to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Chooses the directory of the socket: the data directory, which no other user may enter, or a new directory with the
/// same permissions if that path is too long.
pub(super) fn make_directory(data: &Path, account: Option<&Account>) -> Result<PathBuf, Error> {
    let bytes = data.as_os_str().as_encoded_bytes();
    let fits = bytes.len() + format!("/.s.PGSQL.{PORT}").len() <= PATH_BYTES;
    // Postgres parses the option as a list of directories, in which commas and quotes are special.
    if fits && !bytes.iter().any(|byte| b",\"".contains(byte)) {
        return Ok(data.to_owned());
    }
    let directory = PathBuf::from(format!("{PREFIX}{}", random::uuid().simple()));
    data::make_private(&directory, account)?;
    Ok(directory)
}

/// Removes the directory if [`make_directory`] created it, in this process or in the one that started an adopted
/// server.
pub(super) fn remove_directory(directory: &Path) {
    if directory.as_os_str().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
        // If the removal fails, the directory stays in the directory for temporary files.
        let _ = std::fs::remove_dir(directory);
    }
}

/// Whether the server accepts a connection.
pub(super) async fn accepts_connections(socket_directory: &Path) -> bool {
    let url = url(socket_directory, "postgres");
    match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect(&url)).await {
        Ok(Ok(connection)) => connection.close().await.is_ok(),
        Ok(Err(_)) | Err(_) => false,
    }
}

pub(super) fn url(socket_directory: &Path, database: &str) -> String {
    let directory = percent_encoded(socket_directory.as_os_str().as_encoded_bytes());
    format!("postgres://postgres@{directory}:{PORT}/{}", percent_encoded(database.as_bytes()))
}

fn percent_encoded(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}
