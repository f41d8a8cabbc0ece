//! `roster dev`: one command to a working service.

use super::CliError;
use super::data_directory::{DataDirectory, DirectoryLock};
use super::welcome::welcome;
use crate::authn::Authenticator;
use crate::clock::Clock;
use crate::config::{self, LISTEN, LogSettings, Mistakes};
use crate::mail::Mailer;
use crate::postgres::{Binaries, Cluster, Options, Stop};
use crate::server::{self, ServerParts, ServerSettings};
use crate::service::{InvitationSettings, Roster};
use crate::store::{migrations, pool};
use crate::{lifecycle, telemetry};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// The name of its database.
const DATABASE: &str = "roster";
/// Connections to it at most.
const CONNECTIONS: u32 = 16;

#[derive(clap::Args)]
pub(super) struct DevFlags {
    /// Where to listen, an address and a port
    #[arg(long, default_value_t = LISTEN, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where to keep the data [default: /var/lib/roster-dev for root, else ~/.local/share/roster-dev]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The directory with Postgres's initdb and postgres, if it is not found by itself
    #[arg(long, value_name = "DIR")]
    postgres_bin: Option<PathBuf>,
}

pub(super) fn run(flags: &DevFlags) -> Result<(), CliError> {
    let mut log = LogSettings::default();
    if let Some(filter) = config::environment("ROSTER_LOG") {
        log.filter = filter;
    }
    telemetry::start(&log)?;
    let runtime = DataDirectory::find(flags.data_dir.as_ref())?;
    let lock = runtime.lock()?;
    super::run_to_end(async {
        let stop = lifecycle::stop_signal().map_err(CliError::Runtime)?;
        let parts = tokio::select! {
            parts = prepare(flags, &runtime, &lock) => Some(parts?),
            () = stop.cancelled() => None,
        };
        match parts {
            Some((cluster, parts)) => serve(cluster, parts, stop).await,
            None => Ok(()),
        }
    })
}

/// Everything up to the first request.
async fn prepare(
    flags: &DevFlags,
    runtime: &DataDirectory,
    lock: &DirectoryLock,
) -> Result<(Cluster, ServerParts), CliError> {
    // First what can fail at once.
    let listener = super::listen(flags.listen).await?;
    let binaries = Binaries::find(flags.postgres_bin.as_deref())?;
    let key = runtime.make_signing_key(lock)?;
    let authenticator = Authenticator::new(&runtime.trust(&key)?, Clock::system()).map_err(Mistakes)?;

    let mailer = Mailer::new(&runtime.mail(), Clock::system()).map_err(Mistakes)?;
    tracing::info!(data = %runtime.path().display(), version = binaries.version(), "starting Postgres");
    let cluster = Cluster::start(&binaries, Options::kept(runtime.postgres())).await?;
    cluster.create_database(DATABASE).await?;
    let database = pool::parse_url(&cluster.url(DATABASE)).map_err(|invalid| Mistakes(vec![invalid.0]))?;
    migrations::migrate(&database).await?;

    let address = listener.local_addr().map_err(|source| CliError::Listen { address: flags.listen, source })?;
    super::answer(&welcome(runtime.path(), &key, address)?)?;
    let settings = InvitationSettings { mail: true, ..InvitationSettings::default() };
    let roster = Roster::new(pool::lazy(database, CONNECTIONS), Clock::system()).with_invitations(settings);
    Ok((
        cluster,
        ServerParts { listener, settings: ServerSettings::default(), roster, authenticator, mailer, metrics: None },
    ))
}

async fn serve(mut cluster: Cluster, parts: ServerParts, stop: CancellationToken) -> Result<(), CliError> {
    let outcome = server::serve(parts, stop).await.map_err(|error| CliError::Serve(error.into()));
    tracing::info!("stopping Postgres");
    cluster.stop(Stop::Fast).await;
    outcome
}
