//! Where the access model is, and what the commands do there.

use super::applied::{AppliedPlan, ModelUse, ModelVersion};
use super::server;
use super::{ApplyFlags, CliError};
use crate::authn::{Caller, Namespace, ServiceIdentity};
use crate::client::ClientSettings;
use crate::clock::Clock;
use crate::domain::access_model::{AccessModel, ModelPlan};
use crate::service::Roster;
use crate::service::access_model::ApplyModel;
use crate::service::write::Meta;
use crate::store::datastore_url::DatastoreUrl;
use crate::store::pool::Pool;
use std::time::Duration;
use tokio::time::Instant;

/// Time limit of a command that changes the model: a server that applies one holds its lock for as long.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// Connections to the database: one for the write, and one for reads beside it.
const CONNECTIONS: u32 = 2;

/// Where the access model is. It may hold a password, so it implements no `Debug`.
pub(super) enum ModelTarget {
    /// The database of the settings.
    Datastore(DatastoreUrl),
    /// A server, with a credential for it.
    Server(Box<ClientSettings>),
}

impl ModelTarget {
    /// Reads the stored model.
    pub(super) async fn read(&self) -> Result<ModelVersion, CliError> {
        match self {
            Self::Datastore(url) => read_datastore(&roster(url)).await,
            Self::Server(settings) => server::read(settings).await,
        }
    }

    /// Replaces the stored model. A dry run changes nothing.
    pub(super) async fn apply(&self, model: &AccessModel, options: &ApplyFlags) -> Result<AppliedPlan, CliError> {
        match self {
            Self::Datastore(url) => apply_to_datastore(&roster(url), model, options).await,
            Self::Server(settings) => server::apply(settings, model, options).await,
        }
    }

    /// Confirms that every server is of this release or newer. Returns false if that was confirmed before.
    pub(super) async fn enable(&self) -> Result<bool, CliError> {
        match self {
            Self::Datastore(url) => {
                let enabled = roster(url).enable_roles(command(), Meta::own(Instant::now() + TIMEOUT)).await?;
                Ok(enabled.answer)
            }
            Self::Server(settings) => server::enable(settings).await,
        }
    }
}

/// The service over this database, without a server: its replica loads nothing.
fn roster(url: &DatastoreUrl) -> Roster {
    Roster::new(Pool::new(url.clone(), CONNECTIONS), Clock::system())
}

/// The actor of the change: the command line has the rights of an operator over the database that it can write to.
fn command() -> Caller {
    Caller::Operator(ServiceIdentity { name: "roster access-model".to_owned(), namespace: Namespace::Commands })
}

async fn read_datastore(roster: &Roster) -> Result<ModelVersion, CliError> {
    let present = tokio::time::timeout(TIMEOUT, roster.access_model()).await.map_err(|_| CliError::Silent)??;
    Ok(ModelVersion { revision: present.etag(), model: present.model, is_enabled: present.is_enabled })
}

async fn apply_to_datastore(
    roster: &Roster,
    model: &AccessModel,
    options: &ApplyFlags,
) -> Result<AppliedPlan, CliError> {
    let stored = read_datastore(roster).await?;
    let input = ApplyModel {
        model: model.clone(),
        replace: options.replacements()?,
        older_clients_gone: options.older_clients_gone,
        // The plan that is printed is the one that is applied.
        etag: Some(stored.revision),
    };
    let meta = Meta { validate_only: options.dry_run, ..Meta::own(Instant::now() + TIMEOUT) };
    let applied = roster.apply_access_model(command(), meta, input).await?.answer;
    let uses = applied.permissions.into_iter().map(ModelUse::from);
    Ok(AppliedPlan {
        plan: ModelPlan::between(&stored.model, model),
        uses: uses.chain(applied.roles.into_iter().map(ModelUse::from)).collect(),
        moved: applied.moved,
        moving: applied.moving.iter().map(ToString::to_string).collect(),
        revision: applied.etag,
    })
}
