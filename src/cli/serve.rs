//! `roster serve`: runs the server until a signal stops it.

use super::CliError;
use super::reload::{Reloader, SettingsSource};
use crate::clock::Clock;
use crate::config::{Environment, Flags};
use crate::lifecycle::{self, Hangup};
use crate::server::expected_model::{self, ModelFile};
use crate::server::{self, ServerParts};
use crate::service::Roster;
use crate::store::pool::Pool;
use crate::telemetry;
use std::sync::Arc;
use tokio::sync::Notify;

pub(super) fn run(flags: &Flags) -> Result<(), CliError> {
    let source = SettingsSource { flags: flags.clone(), environment: Environment::of_process() };
    let settings = source.read()?;
    let log = telemetry::start(&settings.log)?;
    super::log_warnings(&settings.warnings);
    super::run_to_end(async {
        let hangup = Arc::new(Notify::new());
        let stop = lifecycle::stop_signal(Hangup::Notify(hangup.clone())).map_err(CliError::Runtime)?;
        let reloader = Reloader::new(source, &settings, log);
        let listener = super::listen(&settings.listen, "--listen").await?;
        if let Ok(address) = listener.address() {
            tracing::info!(%address, "listening");
        }
        let metrics = match &settings.metrics_listen {
            Some(address) => Some(super::listen_on_port(address, "--metrics-listen").await?),
            None => None,
        };
        let pool = Pool::new(settings.database, settings.database_connections);
        let roster = Roster::new(pool, Clock::system())
            .with_invitations(settings.invitations)
            .with_transfer_to_unknown(settings.transfer_to_unknown)
            .with_replica(settings.replica)
            .with_log_retention(settings.change_log_retention);
        if let Some(file) = settings.server.expected_model.file().filter(|_| settings.access_model_strict) {
            demand_model(&roster, &file).await?;
        }
        let parts = ServerParts {
            listener,
            settings: settings.server,
            roster,
            authenticator: settings.authenticator,
            mailer: settings.mailer,
            metrics,
        };
        tokio::select! {
            served = server::serve(parts, stop) => served.map_err(|error| CliError::Serve(error.into())),
            never = reloader.run(hangup) => match never {},
        }
    })
}

/// Demands that the stored access model is that of the file.
async fn demand_model(roster: &Roster, file: &ModelFile) -> Result<(), CliError> {
    let stored = expected_model::read_stored(roster).await?;
    if file.compare(&stored) {
        return Err(CliError::ModelDiffers { file: file.path.clone(), revision: stored.etag() });
    }
    Ok(())
}
