//! The changes as the follower applies them, for those who watch.

use crate::store::log::tail::LogRow;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Whole transactions of one bucket.
#[derive(Debug)]
pub struct Commits {
    /// The bucket: 0 to 255 of organizations, 256 to 287 of users.
    pub bucket: i16,
    /// The rows, in order and without gaps: the last one is the last of its transaction.
    pub rows: Vec<LogRow>,
}

/// A place in the audience. Who is too slow is told by how much ([`broadcast::error::RecvError::Lagged`]).
pub type Feed = broadcast::Receiver<Arc<Commits>>;
