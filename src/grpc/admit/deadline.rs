//! The times of a call that follow from the deadline of its caller.

use crate::authz::rules::Method;
use crate::grpc::{CHECK, limits, status};
use crate::service::write::CommitState;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// The times of a call: a request extension, set by the pipeline from `grpc-timeout`. All of them lie before the moment at
/// which the caller stops waiting, so that the answer with the cause arrives.
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

    /// The time for which a call of this method waits for the datastore, from its start: nine tenths of its time, and for a
    /// check [`limits::CHECK_WAIT`] at most.
    fn datastore_wait(&self, method: &Method) -> Duration {
        let most = if method.service == CHECK.service { limits::CHECK_WAIT } else { Duration::MAX };
        self.tenths(9).min(most)
    }

    /// The end of that time.
    #[must_use]
    pub fn last_answer(&self, method: &Method) -> Instant {
        self.start + self.datastore_wait(method)
    }

    /// The status of a call of this method that has no answer by then, and has committed nothing.
    #[must_use]
    pub fn unanswered(&self, method: &Method) -> Status {
        if Instant::now() < self.deadline {
            status::datastore_silent(self.datastore_wait(method))
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
