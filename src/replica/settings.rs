//! How the index is to work.

use std::time::Duration;

/// How the index is to work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// How old an answer may be for which nobody asks more: everything acknowledged longer ago is in it.
    pub max_staleness: Duration,
    /// How many bytes the copy may take. Buckets that do not fit are answered from the primary. 0: no copy.
    pub memory_bytes: usize,
    /// How old an answer may be when the primary does not answer; none to give no such answer. It says what it is.
    pub serve_stale: Option<Duration>,
}

impl Default for ReplicaSettings {
    fn default() -> Self {
        Self { max_staleness: Duration::from_secs(1), memory_bytes: 1 << 30, serve_stale: None }
    }
}
