//! What the calls of one connection share.

use super::connections::ConnectionUsage;
use super::peers::Peer;
use super::shares::ConnectionShares;
use super::wasted_calls::WastedCalls;
use crate::authn::RecentCredentials;
use crate::grpc::admit::stream::StreamBudget;
use std::sync::Arc;

/// What the calls of one connection share.
pub(super) struct ConnectionState {
    pub(super) recent_credentials: RecentCredentials,
    pub(super) shares: ConnectionShares,
    pub(super) peer: Arc<Peer>,
    pub(super) stream_budget: StreamBudget,
    pub(super) wasted: WastedCalls,
    pub(super) usage: Arc<ConnectionUsage>,
}
