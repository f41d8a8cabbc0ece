//! What the calls of one connection share.

use super::connections::ConnectionUsage;
use super::peers::Peer;
use super::shares::ConnectionShares;
use crate::authn::LastCredential;
use crate::grpc::admit::stream::StreamBudget;
use std::sync::Arc;

/// What the calls of one connection share.
pub(super) struct ConnectionState {
    pub(super) last_credential: LastCredential,
    pub(super) shares: ConnectionShares,
    pub(super) peer: Arc<Peer>,
    pub(super) stream_budget: StreamBudget,
    pub(super) usage: Arc<ConnectionUsage>,
}
