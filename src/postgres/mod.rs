//! A private Postgres: what `roster dev` and the tests run on, so that nobody has to install, start or name one.
//!
//! The server's programs are the machine's ([`Binaries`]); the data directory, the socket and the process are ours
//! ([`Cluster`]). It listens on a Unix socket only, in a directory that nobody else may enter. Postgres refuses to run
//! as root; a roster that runs as root runs it as another account.

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

/// Why there is no private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is installed where we look.
    #[error("found no Postgres server (initdb and postgres) of version {oldest} or newer. To install one: {install}")]
    NotInstalled {
        /// The oldest version that does.
        oldest: u32,
        /// The line to type.
        install: &'static str,
    },
    /// What is installed, or was named, is too old.
    #[error("the Postgres in {} is version {version}; roster needs {oldest} or newer. To install one: {install}", directory.display())]
    TooOld {
        /// Where the programs are.
        directory: PathBuf,
        /// Their version.
        version: u32,
        /// The oldest version that does.
        oldest: u32,
        /// The line to type.
        install: &'static str,
    },
    /// The directory that was named does not hold the programs, or they do not run.
    #[error("{} does not hold a Postgres server that runs (initdb and postgres)", .0.display())]
    NotAServer(PathBuf),
    /// A file or directory cannot be made, read or removed, or a program cannot be run.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Running as root, there is no account to run Postgres as.
    #[error(
        "Postgres refuses to run as root, and there is no account `{0}` to run it as: set ROSTER_POSTGRES_USER to one"
    )]
    NoAccount(String),
    /// Running as root, the account to run Postgres as cannot get to the data.
    #[error(
        "Postgres refuses to run as root, and the account `{account}` may not enter {}: choose another data directory, \
         or type: chmod o+x {}", directory.display(), directory.display()
    )]
    Unreachable {
        /// The directory that bars the way.
        directory: PathBuf,
        /// The account.
        account: String,
    },
    /// The data directory holds something else.
    #[error("{} is not empty, and holds no Postgres data: choose another data directory", .0.display())]
    NotData(PathBuf),
    /// The data directory belongs to another major version.
    #[error(
        "{} was made by Postgres {data}, and the programs in {} are version {programs}: name those of version {data} in \
         ROSTER_POSTGRES_BIN, or choose another data directory", directory.display(), binaries.display()
    )]
    OtherVersion {
        /// The data directory.
        directory: PathBuf,
        /// The version that made it.
        data: String,
        /// Where the programs are.
        binaries: PathBuf,
        /// Their version.
        programs: u32,
    },
    /// `initdb` failed.
    #[error("initdb failed: {0}")]
    Initdb(String),
    /// The server ended while it started.
    #[error("Postgres ended while it started. Its log, {}, ends with: {tail}", log.display())]
    Ended {
        /// The log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// A server runs in the data directory, and does not answer.
    #[error("Postgres (process {pid}) runs in {} and does not answer; to end it: kill -KILL {pid}", directory.display())]
    Unresponsive {
        /// Its process.
        pid: i32,
        /// The data directory.
        directory: PathBuf,
    },
    /// The server is up, and refuses what it is asked.
    #[error("Postgres refused a connection or a statement")]
    Refused(#[from] sqlx::Error),
}

/// Says what was tried with which path, beside the operating system's reason.
fn io(doing: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}
