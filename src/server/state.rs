//! The state that all requests of a server share.

use super::ServerSettings;
use super::metrics::Metrics;
use crate::authn::Authenticator;
use crate::grpc::admit::stream::{StreamBudget, StreamShares};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

/// The response of the pipeline.
pub(super) type PipelineResponse = http::Response<Body>;

/// The state that all requests share.
pub(super) struct ServerState {
    pub(super) authenticator: Authenticator,
    pub(super) settings: ServerSettings,
    /// Places for calls under way.
    pub(super) calls: Arc<Semaphore>,
    /// Places for open streams.
    pub(super) streams: Arc<Semaphore>,
    /// The open streams of each caller.
    pub(super) shares: StreamShares,
    /// The bytes of large messages that wait in streams; each connection has a part.
    pub(super) stream_budget: StreamBudget,
    /// Cancelled when the server stops: streams end then.
    pub(super) stopping: CancellationToken,
    pub(super) metrics: Arc<Metrics>,
}
