//! The times of a call that follow from the deadline of its caller.

use crate::authz::rules::Method;
use crate::grpc::{CHECK, limits, status};
use crate::service::write::CommitState;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// The times of a call: a request extension, set by the pipeline from `grpc-timeout`. They lie before the moment at which
/// the caller stops waiting, so that the answer with the cause arrives, except for a handler that begins in the last tenth:
/// the pipeline ends it at the deadline.
#[derive(Debug, Clone)]
pub struct CallTimes {
    start: Instant,
    /// The moment at which the caller stops waiting.
    deadline: Instant,
    /// Whether the call has begun to commit.
    pub commit: CommitState,
}

impl CallTimes {
    /// The times of a call that arrived at `start`.
    #[must_use]
    pub fn new(start: Instant, deadline: Instant) -> Self {
        Self { start, deadline, commit: CommitState::default() }
    }

    /// The moment until which a call of this method waits for the datastore, if it waits from `begin` on: nine tenths of
    /// its time, at least one tenth after `begin`, and for a check [`limits::CHECK_WAIT`] at most.
    #[must_use]
    pub fn last_answer(&self, method: &Method, begin: Instant) -> Instant {
        let last = (self.start + self.tenths(9)).max(begin + self.tenths(1));
        if method.service == CHECK.service { last.min(begin + limits::CHECK_WAIT) } else { last }
    }

    /// The status of such a call that has no answer by then, and has committed nothing.
    #[must_use]
    pub fn unanswered(&self, method: &Method, begin: Instant) -> Status {
        if Instant::now() < self.deadline {
            status::datastore_silent(self.last_answer(method, begin).saturating_duration_since(begin))
        } else {
            status::deadline_exceeded()
        }
    }

    /// The moment at which Postgres ends the statements of a write: eight tenths of its time. So a write that waits for a
    /// lock is answered by Postgres before [`Self::last_answer`], which means that Postgres is silent.
    pub(in crate::grpc) fn statements_end(&self) -> Instant {
        self.start + self.tenths(8)
    }

    fn tenths(&self, tenths: u32) -> Duration {
        self.deadline.saturating_duration_since(self.start) * tenths / 10
    }
}
