//! The command line: one file for each sub-command.

mod api_key;
mod check_config;
mod data_directory;
mod dev;
mod error;
mod migrate;
mod serve;
mod token;
mod welcome;

pub use error::CliError;

use crate::config::{DatastoreFlags, Flags, LISTEN};
use clap::Parser;
use std::future::Future;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::net::TcpListener;

/// How long the last of what nobody waits for may take when the program ends.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// Threads for writes and upkeep, where there are as many cores. Connections have threads of their own, and what is done
/// here mostly waits for Postgres.
const THREADS: usize = 4;

/// A membership service: who belongs to which organization, and what may they do there?
#[derive(Parser)]
#[command(version, about)]
enum Command {
    /// Serve, over a Postgres that is there
    Serve(Flags),
    /// Serve for trying it out: with a Postgres, a signing key and tokens of its own
    Dev(dev::DevFlags),
    /// Bring the schema of the datastore up to date
    Migrate(DatastoreFlags),
    /// Say whether `roster serve` would start with these settings, or everything that is wrong with them
    CheckConfig(Flags),
    /// Print a token that the server of `roster dev` accepts
    Token(token::TokenFlags),
    /// Make an API key for a service
    ApiKey(api_key::ApiKeyFlags),
}

/// Does what the command line says. Help and mistakes in the command line itself are answered here, and end the program.
///
/// # Errors
/// As [`CliError`] says.
pub fn run() -> Result<(), CliError> {
    match Command::parse() {
        Command::Serve(flags) => serve::run(&flags),
        Command::Dev(flags) => dev::run(&flags),
        Command::Migrate(flags) => migrate::run(&flags),
        Command::CheckConfig(flags) => check_config::run(&flags),
        Command::Token(flags) => token::run(&flags),
        Command::ApiKey(flags) => api_key::run(&flags),
    }
}

/// Tells the one at the terminal what went wrong, and why.
pub fn report(error: &CliError) {
    let mut text = format!("roster: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let sentence = error.to_string();
        // Many errors end with their cause already.
        if !text.ends_with(&sentence) {
            text = format!("{text}: {sentence}");
        }
        cause = error.source();
    }
    complain(&text);
}

/// A line on standard output: an answer.
fn answer(line: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(CliError::Output)
}

/// A line on standard error. Where nobody listens, there is nobody to tell.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn run_to_end(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = THREADS.min(cores);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(CliError::Runtime)?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(LEFTOVERS);
    outcome
}

async fn listen(address: SocketAddr) -> Result<TcpListener, CliError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => {
            let other = SocketAddr::new(address.ip(), address.port().checked_add(1).unwrap_or(LISTEN.port()));
            CliError::InUse { address, other }
        }
        _ => CliError::Listen { address, source },
    })
}
