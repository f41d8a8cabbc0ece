//! The state that all requests of a server share.

use super::ServerSettings;
use super::metrics::Metrics;
use crate::authn::{Authenticator, PeerShare};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

/// The response of the pipeline.
pub(super) type PipelineResponse = http::Response<Body>;

/// The state that all requests share.
pub(super) struct ServerState {
    pub(super) authenticator: Authenticator,
    /// The share of every peer, until each connection knows its own.
    pub(super) peer: Arc<PeerShare>,
    pub(super) settings: ServerSettings,
    /// Places for calls under way.
    pub(super) calls: Arc<Semaphore>,
    /// Places for open streams.
    pub(super) streams: Arc<Semaphore>,
    /// Cancelled when the server stops: streams end then.
    pub(super) stopping: CancellationToken,
    pub(super) metrics: Arc<Metrics>,
}
