//! A server as its callers see it, and the deadline of their calls, verified from outside.

use crate::harness::server::Clients;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::Status;
use tonic_types::StatusExt;

/// How much later than its deadline an answer may arrive: room for two busy cores, not a guarantee.
pub const ALLOWANCE: Duration = Duration::from_secs(1);

/// The endpoint of a server, with its settings.
pub struct Endpoint {
    pub clients: Clients,
    /// The `max_staleness` of the server.
    pub staleness: Duration,
    /// The `serve_stale` of the server, if set.
    pub stale: Option<Duration>,
    /// The deadline of every call, if the workload verifies it.
    pub deadline: Option<Arc<Deadline>>,
}

impl Endpoint {
    /// The outcome of a call, which must arrive in time if the endpoint has a deadline.
    pub async fn outcome<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        match &self.deadline {
            Some(deadline) => deadline.outcome(call).await,
            None => call.await,
        }
    }
}

/// The deadline of the calls to a server, which the server applies itself (`default_deadline_ms`): the callers send none,
/// so only the server can end a call in time. While its process is killed or suspended, the callers give up instead.
#[derive(Debug)]
pub struct Deadline {
    limit: Duration,
    /// The end of the last time in which the process was killed or suspended; `None` while it is.
    running_since: Mutex<Option<Instant>>,
    /// The longest time by which an answer of a running process was later than the deadline, in microseconds.
    overrun: AtomicU64,
    given_up: AtomicU64,
}

impl Deadline {
    pub fn new(limit: Duration) -> Self {
        let running_since = Mutex::new(Some(Instant::now()));
        Self { limit, running_since, overrun: AtomicU64::new(0), given_up: AtomicU64::new(0) }
    }

    /// Records that the process is killed or suspended from now on.
    pub fn begin_interruption(&self) {
        *self.running_since.lock().unwrap() = None;
    }

    /// Records that the process answers again.
    pub fn end_interruption(&self) {
        *self.running_since.lock().unwrap() = Some(Instant::now());
    }

    fn was_interrupted_since(&self, begin: Instant) -> bool {
        self.running_since.lock().unwrap().is_none_or(|since| since >= begin)
    }

    /// The longest time by which an answer was later than the deadline.
    pub fn overrun(&self) -> Duration {
        Duration::from_micros(self.overrun.load(Ordering::Relaxed))
    }

    /// The number of calls that got no answer because the process was suspended.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// The outcome of a call. Panics if a running process does not answer in time. An error that the client made, because
    /// the process was killed, is `UNAVAILABLE`.
    pub async fn outcome<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let sent = Instant::now();
        let outcome = tokio::time::timeout(self.limit + ALLOWANCE, call).await;
        let late = sent.elapsed().saturating_sub(self.limit);
        let was_interrupted = self.was_interrupted_since(sent);
        if !was_interrupted {
            self.overrun.fetch_max(u64::try_from(late.as_micros()).unwrap(), Ordering::Relaxed);
        }
        match outcome {
            Ok(Err(status)) if status.get_details_error_info().is_none() => Err(if was_interrupted {
                Status::unavailable(format!("the process was killed: {status}"))
            } else {
                Status::internal(format!("not an error of roster, although the process runs: {status:?}"))
            }),
            Ok(outcome) => outcome,
            Err(_) => {
                assert!(
                    was_interrupted,
                    "a call hangs: no answer {ALLOWANCE:?} after its deadline of {:?}",
                    self.limit
                );
                self.given_up.fetch_add(1, Ordering::Relaxed);
                Err(Status::deadline_exceeded("the process was suspended"))
            }
        }
    }
}
