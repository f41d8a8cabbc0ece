//! Runs a private Postgres server for `roster dev` and the tests, so that they need no running or configured Postgres.
//!
//! The programs are those installed on the machine ([`Binaries`]). Roster owns the data directory, the socket and the
//! process ([`Cluster`]). The server listens only on a Unix socket, in a directory that no other user may enter.
//! Postgres does not run as root; if roster runs as root, it starts Postgres as another account.

mod account;
mod binaries;
mod cluster;
mod data;
mod process;
mod socket;
#[cfg(test)]
mod tests;

pub use binaries::Binaries;
pub use cluster::{Cluster, Options, Stop};

use std::path::PathBuf;

/// Errors of a private Postgres server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No Postgres is installed in the directories that are searched.
    #[error("found no Postgres server (initdb and postgres) of version {oldest} or newer. To install one: {install}")]
    NotInstalled {
        /// The oldest supported version.
        oldest: u32,
        /// The command that installs Postgres.
        install: &'static str,
    },
    /// The Postgres that is installed, or was given, is too old.
    #[error("the Postgres in {} is version {version}; roster needs {oldest} or newer. To install one: {install}", directory.display())]
    TooOld {
        /// The directory of the programs.
        directory: PathBuf,
        /// The version of the programs.
        version: u32,
        /// The oldest supported version.
        oldest: u32,
        /// The command that installs Postgres.
        install: &'static str,
    },
    /// The given directory does not contain the programs, or they do not run.
    #[error("{} does not contain a working Postgres server (initdb and postgres)", .0.display())]
    NotAServer(PathBuf),
    /// A file or directory cannot be created, read or removed, or a program cannot be run.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The action that failed, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// Roster runs as root, and the account to run Postgres as does not exist.
    #[error(
        "Postgres refuses to run as root, and there is no account `{0}` to run it as: set ROSTER_POSTGRES_USER to one"
    )]
    NoAccount(String),
    /// Roster runs as root, and the account to run Postgres as has no access to the data directory.
    #[error(
        "Postgres refuses to run as root, and the account `{account}` may not enter {}: choose another data directory, \
         or run: chmod o+x {}", directory.display(), directory.display()
    )]
    Unreachable {
        /// The directory without the execute permission for the account.
        directory: PathBuf,
        /// The account that Postgres runs as.
        account: String,
    },
    /// The data directory contains other files.
    #[error("{} is not empty, and contains no Postgres data: choose another data directory", .0.display())]
    NotData(PathBuf),
    /// The data directory belongs to a major version that roster does not support.
    #[error(
        "{} was created by Postgres {data}, and roster needs {oldest} or newer: upgrade the data with pg_upgrade to \
         version {programs}, whose programs are in {}, or choose another data directory with --data-dir",
        directory.display(), binaries.display()
    )]
    DataTooOld {
        /// The data directory.
        directory: PathBuf,
        /// The version that created the data directory.
        data: String,
        /// The oldest supported version.
        oldest: u32,
        /// The directory of the programs.
        binaries: PathBuf,
        /// The version of the programs.
        programs: u32,
    },
    /// The data directory belongs to another major version.
    #[error(
        "{} was created by Postgres {data}, and the programs in {} are version {programs}: name the programs of \
         version {data} with --postgres-bin or ROSTER_POSTGRES_BIN, or choose another data directory with --data-dir",
        directory.display(), binaries.display()
    )]
    OtherVersion {
        /// The data directory.
        directory: PathBuf,
        /// The version that created the data directory.
        data: String,
        /// The directory of the programs.
        binaries: PathBuf,
        /// The version of the programs.
        programs: u32,
    },
    /// `initdb` failed: its output follows.
    #[error("initdb failed: {0}")]
    Initdb(String),
    /// The server exited during its start.
    #[error("Postgres exited during its start. Its log, {}, ends with: {tail}", log.display())]
    Ended {
        /// The path of the log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A server runs in the data directory, and does not accept connections within the time limit.
    #[error("Postgres (process {pid}) runs in {} and does not answer; to end it: kill -KILL {pid}", directory.display())]
    Unresponsive {
        /// The process id of the server.
        pid: i32,
        /// The data directory.
        directory: PathBuf,
    },
    /// The server runs, and rejected a connection or a statement.
    #[error("Postgres rejected a connection or a statement")]
    Rejected(#[from] sqlx::Error),
}

/// Adds the action and the path to an error of the operating system.
fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
