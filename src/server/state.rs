//! The state that all requests of a server share.

use super::ServerSettings;
use super::metrics::Metrics;
use super::peers::Peers;
use crate::authn::Authenticator;
use crate::limited_log::LimitedLog;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The state that all requests share.
pub(super) struct ServerState {
    pub(super) authenticator: Authenticator,
    pub(super) peers: Arc<Peers>,
    /// Connections that were closed at once, by reason.
    pub(super) closed_log: LimitedLog<&'static str>,
    pub(super) settings: ServerSettings,
    /// Cancelled when the server stops: streams end then.
    pub(super) stopping: CancellationToken,
    pub(super) metrics: Arc<Metrics>,
}
