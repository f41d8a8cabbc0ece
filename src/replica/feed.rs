//! The feed of changes, in the order in which the follower applies them.

use crate::store::log::tail::LogRow;
use std::sync::Arc;
use tokio::sync::broadcast;

/// One or more whole transactions of one bucket.
#[derive(Debug)]
pub struct Commits {
    /// The bucket: 0 to 255 for organizations, 256 to 287 for users.
    pub bucket: i16,
    /// The rows, in order and without gaps; the last one ends its transaction.
    pub rows: Vec<LogRow>,
}

/// A subscription to the feed. A subscriber that falls too far behind gets [`broadcast::error::RecvError::Lagged`] with
/// the number of messages it has missed.
pub type Feed = broadcast::Receiver<Arc<Commits>>;
