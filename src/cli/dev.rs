//! `roster dev`: starts a complete service, including Postgres, with one command.

use super::CliError;
use super::access_model::read_model;
use super::data_directory::{DataDirectory, DirectoryLock};
use super::welcome::welcome;
use crate::authn::{Authenticator, Caller, Namespace, ServiceIdentity};
use crate::clock::Clock;
use crate::config::listen_address::ListenAddress;
use crate::config::{Environment, LISTEN, Mistakes, unknown_variables_of};
use crate::domain::access_model::AccessModel;
use crate::lifecycle::{self, Hangup};
use crate::mail::Mailer;
use crate::postgres::{Binaries, Cluster, Options, Stop};
use crate::server::{self, ServerParts, ServerSettings};
use crate::service::access_model::ApplyModel;
use crate::service::write::Meta;
use crate::service::{InvitationSettings, Roster};
use crate::store::datastore_url::DatastoreUrl;
use crate::store::migrations::{self, MigrationError};
use crate::store::pool::Pool;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The name of the database.
const DATABASE: &str = "roster";
/// Maximum number of connections to the database.
const CONNECTIONS: u32 = 16;
/// Time limit for the access model at the start. Only this process writes to the database.
const MODEL_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(super) struct DevFlags {
    /// Address and port to listen on
    #[arg(long, default_value_t = LISTEN.into(), value_name = "ADDRESS")]
    listen: ListenAddress,
    /// Directory for the data [default: /var/lib/roster-dev for root, else ~/.local/share/roster-dev]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Directory of Postgres's initdb and postgres, if they are not found automatically
    #[arg(long, value_name = "DIR")]
    postgres_bin: Option<PathBuf>,
    /// File with an access model to apply at the start, in TOML if its name ends in .toml, otherwise in JSON
    #[arg(long, value_name = "FILE")]
    access_model: Option<PathBuf>,
}

pub(super) fn run(flags: &DevFlags) -> Result<(), CliError> {
    super::start_log()?;
    super::log_warnings(&unknown_variables_of(&Environment::of_process()));
    let directory = DataDirectory::find(flags.data_dir.as_ref())?;
    let lock = directory.lock()?;
    super::run_to_end(async {
        let stop = lifecycle::stop_signal(Hangup::Stop).map_err(CliError::Runtime)?;
        let parts = tokio::select! {
            parts = prepare(flags, &directory, &lock) => Some(parts?),
            () = stop.cancelled() => None,
        };
        match parts {
            Some((cluster, parts)) => serve(cluster, parts, stop).await,
            None => Ok(()),
        }
    })
}

/// Starts Postgres, applies the migrations and assembles the server, up to the first request.
async fn prepare(
    flags: &DevFlags,
    directory: &DataDirectory,
    lock: &DirectoryLock,
) -> Result<(Cluster, ServerParts), CliError> {
    // Steps that can fail without waiting come first.
    let model = flags.access_model.as_deref().map(read_model).transpose()?;
    let listener = super::listen_on_port(&flags.listen, "--listen").await?;
    let binaries = Binaries::find(flags.postgres_bin.as_deref())?;
    let key = directory.make_signing_key(lock)?;
    let authenticator = Authenticator::new(&directory.trust(&key)?, Clock::system()).map_err(Mistakes)?;
    let mailer = Mailer::new(&directory.mail(), Clock::system()).map_err(Mistakes)?;
    tracing::info!(data = %directory.path().display(), version = binaries.version(), "starting Postgres");
    let cluster = Cluster::start(&binaries, Options::kept(directory.postgres())).await?;
    cluster.create_database(DATABASE).await?;
    let database = DatastoreUrl::parse(&cluster.url(DATABASE)).map_err(|invalid| Mistakes(invalid.0))?;
    migrations::migrate(&database).await?;

    let no_address = |source| CliError::Listen { address: flags.listen.clone(), flag: "--listen", source };
    let address = listener.local_addr().map_err(no_address)?;
    let settings = InvitationSettings { mail: true, ..InvitationSettings::default() };
    let pool = Pool::new(database, CONNECTIONS);
    // The first connection takes longer than the others. With it open, the server is healthy at once.
    let first = pool.acquire().await.map_err(MigrationError::from)?;
    first.finish(Ok::<_, MigrationError>(()))?;
    let roster = Roster::new(pool, Clock::system()).with_invitations(settings);
    apply(&roster, model).await?;
    super::print_result(&welcome(directory.path(), &key, address)?)?;
    Ok((
        cluster,
        ServerParts {
            listener: listener.into(),
            settings: ServerSettings::default(),
            roster,
            authenticator,
            mailer,
            metrics: None,
        },
    ))
}

/// Enables custom roles, which a data directory of an earlier release lacks, and applies the access model, if there is one.
async fn apply(roster: &Roster, model: Option<AccessModel>) -> Result<(), CliError> {
    let caller = || Caller::Operator(ServiceIdentity { name: "roster dev".to_owned(), namespace: Namespace::Commands });
    let meta = || Meta::own(Instant::now() + MODEL_TIMEOUT);
    roster.enable_roles(caller(), meta()).await?;
    let Some(model) = model else { return Ok(()) };
    // The clients of a trial are those of its developer.
    let input = ApplyModel { model, replace: BTreeMap::new(), older_clients_gone: true, etag: None };
    let applied = roster.apply_access_model(caller(), meta(), input).await?;
    tracing::info!(revision = applied.answer.etag, "applied the access model");
    Ok(())
}

async fn serve(mut cluster: Cluster, parts: ServerParts, stop: CancellationToken) -> Result<(), CliError> {
    let outcome = server::serve(parts, stop).await.map_err(|error| CliError::Serve(error.into()));
    tracing::info!("stopping Postgres");
    cluster.stop(Stop::Fast).await;
    outcome
}
