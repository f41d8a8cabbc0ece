//! What can go wrong on the command line.

use crate::config::Mistakes;
use crate::postgres;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use tracing_subscriber::util::TryInitError;

/// Why a sub-command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The settings are wrong.
    #[error(transparent)]
    Settings(#[from] Mistakes),
    /// Nothing says where the data of `roster dev` are to be.
    #[error("there is no home directory: name a place for the data with --data-dir")]
    NoHome,
    /// Somebody else is at work there.
    #[error("another `roster dev`{} has its data in {}: stop it, or choose another directory with --data-dir",
        .process.as_ref().map(|process| format!(" (process {process})")).unwrap_or_default(), directory.display())]
    Taken {
        /// Where.
        directory: PathBuf,
        /// Its process id, if it has written it down.
        process: Option<String>,
    },
    /// There is no signing key to make tokens with.
    #[error("there is no signing key in {}; to make one: roster dev --data-dir {}", .0.display(), .0.display())]
    NoSigningKey(PathBuf),
    /// Another program listens there.
    #[error("{address} is in use by another program; to choose another address: --listen {other}")]
    InUse {
        /// The address.
        address: SocketAddr,
        /// One that may be free.
        other: SocketAddr,
    },
    /// The address is none of this machine's, or is not for everybody.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no private Postgres.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// The schema is not up to date.
    #[error("the migrations did not go through")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A sub-command's own server cannot be set up.
    #[error("the server cannot be set up")]
    Serve(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A token cannot be made.
    #[error("the token cannot be written")]
    Token(#[from] serde_json::Error),
    /// Standard output is closed.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// Something in this process logs already.
    #[error("the log cannot be begun")]
    Log(#[from] TryInitError),
    /// Threads cannot be started, or signals cannot be listened to.
    #[error("the operating system refuses threads or signals")]
    Runtime(#[source] io::Error),
}

impl CliError {
    /// 2 for what the one at the terminal has to put right in the command or the settings, as for a flag that there is
    /// not; 1 for all else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::NoHome | Self::NoSigningKey(_) => 2,
            Self::Taken { .. }
            | Self::InUse { .. }
            | Self::Listen { .. }
            | Self::File { .. }
            | Self::Postgres(_)
            | Self::Migrate(_)
            | Self::Serve(_)
            | Self::Token(_)
            | Self::Output(_)
            | Self::Log(_)
            | Self::Runtime(_) => 1,
        }
    }
}
