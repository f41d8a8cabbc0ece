//! Settings of the replica.

use super::consistency_token::TokenForm;
use std::time::Duration;

/// Settings of the replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// Maximum staleness of an answer whose caller names no consistency requirement: the answer includes every write
    /// acknowledged longer ago than this.
    pub max_staleness: Duration,
    /// Memory limit of the replica, in bytes. The primary answers for buckets that do not fit. 0 disables the replica.
    pub memory_bytes: usize,
    /// Maximum staleness of an answer while the primary does not answer; `None` to give no such answers. They are
    /// marked as stale ([`super::AnswerSource::StaleMemory`]).
    pub serve_stale: Option<Duration>,
    /// The form of the consistency tokens and cursors that are issued; both forms are read. The newest form by default.
    pub token_form: TokenForm,
}

impl Default for ReplicaSettings {
    fn default() -> Self {
        Self {
            max_staleness: Duration::from_secs(1),
            memory_bytes: 1 << 30,
            serve_stale: None,
            token_form: TokenForm::Marks,
        }
    }
}
