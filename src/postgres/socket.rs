//! The socket that the server listens on.

use super::account::Account;
use super::{Error, data};
use crate::random;
use sqlx::{Connection, PgConnection};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names the socket; nothing listens on TCP.
pub(super) const PORT: u16 = 5432;
/// A socket's path fits into 104 bytes with its end on macOS, into 108 on Linux.
const PATH_BYTES: usize = 103;
/// How the names of the directories begin that stand in for one with too long a path.
const PREFIX: &str = "/tmp/roster-socket-";
/// How long a server that is up may take to greet a connection.
const GREETING: Duration = Duration::from_secs(2);

/// Where the socket goes: into the data directory, which nobody else may enter; where its path is too long, into a new
/// directory like it.
pub(super) fn make_directory(data: &Path, account: Option<&Account>) -> Result<PathBuf, Error> {
    let bytes = data.as_os_str().as_encoded_bytes();
    let fits = bytes.len() + format!("/.s.PGSQL.{PORT}").len() <= PATH_BYTES;
    // Postgres reads a list of directories here.
    if fits && !bytes.iter().any(|byte| b",\"".contains(byte)) {
        return Ok(data.to_owned());
    }
    let directory = PathBuf::from(format!("{PREFIX}{}", random::uuid().simple()));
    data::make_private(&directory, account)?;
    Ok(directory)
}

/// Removes the directory if it was made by [`make_directory`], by this process or by the one we adopted from.
pub(super) fn remove_directory(directory: &Path) {
    if directory.as_os_str().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
        // What cannot be removed stays behind in the directory for temporary files.
        let _ = std::fs::remove_dir(directory);
    }
}

/// Whether the server lets a client in.
pub(super) async fn greets(socket_directory: &Path) -> bool {
    let url = url(socket_directory, "postgres");
    match tokio::time::timeout(GREETING, PgConnection::connect(&url)).await {
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
