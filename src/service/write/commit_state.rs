//! Whether a call has begun to commit. The answer that nothing was changed and a commit exclude each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// No commit has begun.
const NONE: u8 = 0;
/// A commit has begun: whether it happens is not known before Postgres answers.
const BEGUN: u8 = 1;
/// No commit may begin: the caller has the answer that nothing was changed.
const FORBIDDEN: u8 = 2;

/// The state of the commits of one call. Clones share it. It never leaves `BEGUN` or `FORBIDDEN`.
#[derive(Debug, Clone, Default)]
pub struct CommitState(Arc<AtomicU8>);

impl CommitState {
    /// Begins a commit. Returns `false` if none may begin any more.
    pub(super) fn begin(&self) -> bool {
        self.enter(BEGUN)
    }

    /// Forbids commits from now on. Returns `false` if one has begun before.
    #[must_use]
    pub fn forbid(&self) -> bool {
        self.enter(FORBIDDEN)
    }

    /// Returns whether a commit has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire) == BEGUN
    }

    /// Returns whether the state is `state` now.
    fn enter(&self, state: u8) -> bool {
        let before = self.0.compare_exchange(NONE, state, Ordering::AcqRel, Ordering::Acquire);
        before.is_ok() || before == Err(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_and_the_answer_that_nothing_was_changed_exclude_each_other() {
        let (committed, answered) = (CommitState::default(), CommitState::default());
        assert!(committed.begin() && !committed.forbid() && committed.begin() && committed.has_begun());
        assert!(answered.forbid() && !answered.begin() && answered.forbid() && !answered.has_begun());
    }
}
