//! Errors of the sub-commands.

use crate::client;
use crate::config::Mistakes;
use crate::config::listen_address::ListenAddress;
use crate::domain::{Refusal, Violation};
use crate::postgres;
use crate::server::listener::UnixSocketError;
use crate::service::ServiceError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use tracing_subscriber::util::TryInitError;

/// Why a sub-command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The settings are invalid.
    #[error(transparent)]
    Settings(#[from] Mistakes),
    /// `roster dev` has no directory for its data: none is given, and the user has no home directory.
    #[error("there is no home directory: name a directory for the data with --data-dir")]
    NoHome,
    /// Another `roster dev` uses the data directory.
    #[error("another `roster dev`{} uses {}: stop it, or choose another directory with --data-dir",
        .process.as_ref().map(|process| format!(" (process {process})")).unwrap_or_default(), directory.display())]
    DirectoryInUse {
        /// The data directory.
        directory: PathBuf,
        /// The process id of the other process, if it has written it to the lock file.
        process: Option<String>,
    },
    /// The data directory holds no signing key, so that no bearer token can be signed.
    #[error("there is no signing key in {}; `roster dev --data-dir {}` makes one", .0.display(), .0.display())]
    NoSigningKey(PathBuf),
    /// Another program listens on the address.
    #[error("{address} is in use by another program; to choose another address: {flag} {other}")]
    InUse {
        /// The address that is in use.
        address: SocketAddr,
        /// The flag that chooses the address.
        flag: &'static str,
        /// An address that may be free: the next port.
        other: SocketAddr,
    },
    /// The address does not belong to this machine, or the user may not listen on it.
    #[error("cannot listen on {address}; to choose another address: {flag}")]
    Listen {
        /// The address to listen on.
        address: ListenAddress,
        /// The flag that chooses the address.
        flag: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The host name to listen on has no address.
    #[error("the host name {name} of {flag} has no address: write a name or an address of this machine")]
    UnknownHost {
        /// The host name.
        name: String,
        /// The flag that chooses the address.
        flag: &'static str,
        /// The error of the resolver.
        source: io::Error,
    },
    /// The unix socket to listen on cannot be made.
    #[error(transparent)]
    UnixSocket(#[from] UnixSocketError),
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file is no access model.
    #[error("{} is no access model:\n{mistakes}", path.display())]
    ModelFile {
        /// The file with the mistakes.
        path: PathBuf,
        /// Every mistake, each in a line.
        mistakes: String,
    },
    /// The model in a file differs from the stored one.
    #[error("{} differs from revision {revision} of the access model", file.display())]
    ModelDiffers {
        /// The file that was compared.
        file: PathBuf,
        /// The revision of the stored model.
        revision: String,
    },
    /// The access model in the database cannot be read or changed.
    #[error("the access model cannot be read or changed")]
    AccessModel(#[source] ServiceError),
    /// The database did not answer in time.
    #[error("the access model cannot be read: the database did not answer in time")]
    Silent,
    /// A rule refuses the change of the access model.
    #[error("the access model was not changed: {0}")]
    ModelRefused(String),
    /// The server refused the request, or cannot be reached.
    #[error("the server cannot read or change the access model")]
    Client(#[source] client::Error),
    /// The private Postgres cannot be started.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// The migrations cannot be applied.
    #[error("the migrations failed")]
    Migrate(#[from] crate::store::migrations::MigrationError),
    /// The gRPC server cannot be started.
    #[error("the server cannot be started")]
    Serve(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The claims of a bearer token cannot be encoded.
    #[error("the token cannot be encoded")]
    Token(#[from] serde_json::Error),
    /// Standard output is closed.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// Logging is already set up in this process.
    #[error("logging cannot be set up")]
    Log(#[from] TryInitError),
    /// Threads cannot be started, or signal handlers cannot be installed.
    #[error("cannot start threads or install signal handlers")]
    Runtime(#[source] io::Error),
}

impl CliError {
    /// The exit code: 2 for a mistake in the command line, the settings or a model file, as for an unknown flag; 3 for a
    /// difference of the access model from a file, which `roster access-model diff` or a strict `roster serve` found; 1 for
    /// any other error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::NoHome | Self::NoSigningKey(_) | Self::ModelFile { .. } => 2,
            Self::ModelDiffers { .. } => 3,
            Self::DirectoryInUse { .. }
            | Self::InUse { .. }
            | Self::Listen { .. }
            | Self::UnknownHost { .. }
            | Self::UnixSocket(_)
            | Self::File { .. }
            | Self::AccessModel(_)
            | Self::Silent
            | Self::ModelRefused(_)
            | Self::Client(_)
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

impl From<ServiceError> for CliError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Refused(Refusal::InvalidRequest(violations)) => Self::ModelRefused(lines(&violations)),
            ServiceError::Refused(refusal) => Self::ModelRefused(refusal.to_string()),
            error @ (ServiceError::Store(_) | ServiceError::Panicked | ServiceError::Answer(_)) => {
                Self::AccessModel(error)
            }
        }
    }
}

impl From<client::Error> for CliError {
    fn from(error: client::Error) -> Self {
        match error.failure().map(|failure| &failure.violations[..]) {
            Some(violations @ [_, ..]) => Self::ModelRefused(lines(violations)),
            Some([]) | None => Self::Client(error),
        }
    }
}

/// The violations of a request, each in a line.
fn lines(violations: &[Violation]) -> String {
    violations.iter().map(|violation| format!("\n{}: {}", violation.field, violation.sentence)).collect()
}
