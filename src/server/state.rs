//! The state that all requests of a server share.

use super::ServerSettings;
use super::metrics::Metrics;
use super::peers::Peers;
use crate::authn::Authenticator;
use crate::clock;
use crate::grpc::admit::stream::{StreamBudget, StreamShares};
use crate::limited_log::LimitedLog;
use crate::server::limits;
use std::fmt;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

/// The response of the pipeline.
pub(super) type PipelineResponse = http::Response<Body>;

/// The state that all requests share.
pub(super) struct ServerState {
    pub(super) authenticator: Authenticator,
    pub(super) peers: Arc<Peers>,
    /// Connections that were closed at once, by reason, and resets by the HTTP/2 library.
    pub(super) closed_log: LimitedLog<&'static str>,
    pub(super) settings: ServerSettings,
    /// The open streams of each caller.
    pub(super) stream_shares: StreamShares,
    /// The bytes of large messages that wait in streams; each connection has a part.
    pub(super) stream_budget: StreamBudget,
    /// Cancelled when the server stops: streams end then.
    pub(super) stopping: CancellationToken,
    pub(super) metrics: Arc<Metrics>,
}

impl ServerState {
    /// Counts connections that were closed because another one needed their place.
    pub(super) fn count_evicted(&self, connections: usize) {
        for _ in 0..connections {
            self.metrics.connection_closed("idle");
        }
    }

    /// Counts and logs a connection from this address that is closed at once. `reason` is a label of the metric.
    pub(super) fn refuse_connection(
        &self,
        peer: impl fmt::Display,
        reason: &'static str,
        error: &(dyn std::error::Error + 'static),
    ) {
        self.metrics.connection_closed(reason);
        if let Some(suppressed) = self.closed_log.admit(reason, clock::uptime()) {
            tracing::warn!(%peer, reason, error, suppressed, "closed a connection");
        }
    }

    /// Logs that the HTTP/2 library refused a request of this peer.
    pub(super) fn log_reset(&self, peer: impl fmt::Display, cause: &str) {
        if let Some(suppressed) = self.closed_log.admit("reset", clock::uptime()) {
            // Without the query of a path, in which clients of other protocols send secrets.
            let cause: String = cause.split('?').next().unwrap_or_default().chars().take(limits::RESET_CAUSE).collect();
            tracing::info!(%peer, %cause, suppressed, "refused a request for its headers: see docs/languages.md");
        }
    }
}
