//! The command line, with one file for each sub-command.

mod access_model;
mod api_key;
mod check_config;
mod data_directory;
mod dev;
mod error;
mod migrate;
mod reload;
mod serve;
mod token;
mod welcome;

pub use error::CliError;

use crate::config::listen_address::ListenAddress;
use crate::config::{Environment, Flags, LISTEN, LogSettings};
use crate::error_causes::with_causes;
use crate::server::listener::{Listener, UnixSocket};
use crate::telemetry;
use clap::Parser;
use std::future::Future;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::net::TcpListener;

/// Time for background tasks to end when the program ends; then they are dropped.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of threads for writes and background tasks; fewer on a machine with fewer cores. The workers that
/// serve connections are separate threads, and the tasks here mostly wait for Postgres.
const THREADS: usize = 4;

/// Time limit of the lookup of a host name to listen on. A resolver that does not answer would otherwise take longer
/// than most supervisors wait for a start.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// A membership service: who belongs to which organization, and what may they do there?
#[derive(Parser)]
#[command(version, about)]
enum Command {
    /// Serve, with an existing Postgres database
    Serve(Flags),
    /// Serve for a trial: starts a private Postgres and makes a signing key and tokens
    Dev(dev::DevFlags),
    /// Apply the migrations that the database lacks
    Migrate(migrate::MigrateFlags),
    /// Check the settings of `roster serve` and report every mistake
    CheckConfig(Flags),
    /// Print a bearer token for the server of `roster dev`
    Token(token::TokenFlags),
    /// Generate an API key for a service
    ApiKey(api_key::ApiKeyFlags),
    /// Print, compare or replace the roles and permissions of the deployment
    AccessModel(access_model::AccessModelFlags),
}

/// Parses the command line and runs the sub-command. `--help`, and a command line that cannot be parsed, end the
/// program.
///
/// # Errors
/// See [`CliError`].
pub fn run() -> Result<(), CliError> {
    match Command::parse() {
        Command::Serve(flags) => serve::run(&flags),
        Command::Dev(flags) => dev::run(&flags),
        Command::Migrate(flags) => migrate::run(&flags),
        Command::CheckConfig(flags) => check_config::run(&flags),
        Command::Token(flags) => token::run(&flags),
        Command::ApiKey(flags) => api_key::run(&flags),
        Command::AccessModel(flags) => access_model::run(&flags),
    }
}

/// Sets up logging for a sub-command without settings of the log: as text, with the filter in `ROSTER_LOG`.
fn start_log() -> Result<(), CliError> {
    let log = LogSettings::of_variable(&Environment::of_process())?;
    telemetry::start(&log)?;
    Ok(())
}

/// Logs the warnings about the settings.
fn log_warnings(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

/// Writes an error and its causes to standard error.
pub fn report(error: &CliError) {
    print_message(&format!("roster: {}", with_causes(error)));
}

/// Writes the result of a sub-command to standard output.
fn print_result(line: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Writes a message to standard error. A failure is ignored: there is no other stream to report it on.
fn print_message(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs the future on a new runtime, and then waits for background tasks for at most [`SHUTDOWN_TIMEOUT`].
fn run_to_end(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = THREADS.min(cores);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(CliError::Runtime)?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    outcome
}

/// Listens on a unix socket, or on the first of the addresses that this machine has. `flag` chooses the address, for
/// messages.
async fn listen(address: &ListenAddress, flag: &'static str) -> Result<Listener, CliError> {
    match address.unix_socket() {
        Some(path) => Ok(Listener::Unix(UnixSocket::bind(path)?)),
        None => listen_on_port(address, flag).await.map(Listener::Tcp),
    }
}

/// Listens on the first of the addresses that this machine has.
async fn listen_on_port(address: &ListenAddress, flag: &'static str) -> Result<TcpListener, CliError> {
    let found = match address.host_name() {
        Some(name) => look_up(name, address.port()).await.map_err(|source| CliError::UnknownHost {
            name: name.to_owned(),
            flag,
            source,
        })?,
        None => Vec::new(),
    };
    let mut failure = io::Error::from(ErrorKind::AddrNotAvailable);
    for candidate in address.candidates(found) {
        match TcpListener::bind(candidate).await {
            Ok(listener) => return Ok(listener),
            // Another of the addresses would be one that the clients do not expect.
            Err(source) if source.kind() == ErrorKind::AddrInUse => {
                let port = candidate.port().checked_add(1).unwrap_or(LISTEN.port());
                let other = SocketAddr::new(candidate.ip(), port);
                return Err(CliError::InUse { address: candidate, flag, other });
            }
            Err(source) => failure = source,
        }
    }
    Err(CliError::Listen { address: address.clone(), flag, source: failure })
}

/// The addresses of a host name.
async fn look_up(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((name, port))).await;
    Ok(found.map_err(|_| io::Error::from(ErrorKind::TimedOut))??.collect())
}
