//! `roster serve`: runs the server until a signal stops it.

use super::CliError;
use crate::clock::Clock;
use crate::config::{Environment, Flags, Settings, UnknownVariables};
use crate::lifecycle::{self, Hangup};
use crate::server::{self, ServerParts};
use crate::service::Roster;
use crate::store::pool::Pool;
use crate::telemetry;

pub(super) fn run(flags: &Flags) -> Result<(), CliError> {
    let settings = Settings::read(flags, &Environment::of_process(), Clock::system(), UnknownVariables::Warn)?;
    telemetry::start(&settings.log)?;
    super::log_warnings(&settings.warnings);
    super::run_to_end(async {
        let stop = lifecycle::stop_signal(Hangup::Ignore).map_err(CliError::Runtime)?;
        let listener = super::listen(&settings.listen, "--listen").await?;
        if let Ok(address) = listener.address() {
            tracing::info!(%address, "listening");
        }
        let metrics = match &settings.metrics_listen {
            Some(address) => Some(super::listen_on_port(address, "--metrics-listen").await?),
            None => None,
        };
        let pool = Pool::new(settings.database, settings.database_connections);
        let parts = ServerParts {
            listener,
            settings: settings.server,
            roster: Roster::new(pool, Clock::system())
                .with_invitations(settings.invitations)
                .with_replica(settings.replica)
                .with_log_retention(settings.change_log_retention),
            authenticator: settings.authenticator,
            mailer: settings.mailer,
            metrics,
        };
        server::serve(parts, stop).await.map_err(|error| CliError::Serve(error.into()))
    })
}
