//! The feed of changes, in the order in which the follower applies them.

use crate::domain::LogMark;
use crate::store::log::tail::{LogPosition, LogRow};
use std::sync::Arc;
use tokio::sync::broadcast;

/// One or more whole transactions of one bucket.
#[derive(Debug)]
pub struct Commits {
    /// The bucket: 0 to 255 for organizations, 256 to 287 for users, 288 for the access model.
    pub bucket: i16,
    /// The position before the first row.
    pub after: LogPosition,
    /// The rows, in order and without gaps; the last one ends its transaction.
    pub rows: Vec<LogRow>,
}

impl Commits {
    /// The mark at a position that these commits contain or follow; `None` for any other position.
    #[must_use]
    pub fn mark(&self, position: i64) -> Option<LogMark> {
        let rows = self.rows.iter().map(|row| &row.at);
        rows.chain([&self.after]).find(|at| at.position == position).map(LogPosition::mark)
    }
}

/// A subscription to the feed. A subscriber that falls too far behind gets [`broadcast::error::RecvError::Lagged`] with
/// the number of messages it has missed.
pub type Feed = broadcast::Receiver<Arc<Commits>>;
