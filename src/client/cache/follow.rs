//! The cache's follower: an export, then consecutive watches, each from the cursor of the previous one.

use super::super::{Client, Error, question};
use super::apply::{ApplyError, ExportLoader, RecentChanges};
use super::replica::ClientReplica;
use super::{CacheState, nanoseconds};
use crate::client::limits;
use crate::clock;
use crate::pb::{self, ErrorReason};
use crate::random;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// A replica and the cursor from which the next watch continues.
struct FollowState {
    replica: Arc<ClientReplica>,
    cursor: String,
    recent: RecentChanges,
    /// The [`clock::uptime`] at the end of its export.
    exported_at: Duration,
}

/// The end of a stream.
pub(super) struct FollowEnd {
    error: Error,
    /// Whether the watch cannot continue from the cursor: a new export is needed.
    pub(super) needs_export: bool,
    /// Whether the stream had renewed the lease: then the next attempt starts with the shortest pause again.
    was_current: bool,
}

impl FollowEnd {
    fn new(error: Error) -> Self {
        // The server would refuse the same cursor again.
        let needs_export = matches!(error.reason(), Some(ErrorReason::CursorExpired | ErrorReason::InvalidRequest));
        Self { error, needs_export, was_current: false }
    }

    fn stale_replica(reason: &str) -> Self {
        Self { error: Error::Unreadable(reason.to_owned()), needs_export: true, was_current: false }
    }
}

impl From<Error> for FollowEnd {
    fn from(error: Error) -> Self {
        Self::new(error)
    }
}

impl From<Status> for FollowEnd {
    fn from(status: Status) -> Self {
        Self::new(status.into())
    }
}

/// Follows the server. Never returns: the cache aborts the task when its last handle is dropped.
pub(super) async fn run(shared: Arc<CacheState>) {
    let mut follower = CacheFollower { shared: &shared, client: shared.client.with_separate_connection() };
    let mut state = None;
    let mut pause = limits::CACHE_PAUSE;
    loop {
        let Err(FollowEnd { error, needs_export, was_current }) = follower.follow(&mut state).await;
        shared.counters.interruptions.increment();
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            needs_export,
            "the watch of memberships was interrupted, reconnecting"
        );
        if needs_export && let Some(FollowState { replica, .. }) = state.take() {
            replica.drop_lease();
        }
        if matches!(error, Error::TimedOut) {
            // A silent connection may stay silent for a long time.
            follower.client = shared.client.with_separate_connection();
        }
        if was_current {
            pause = limits::CACHE_PAUSE;
        }
        sleep(delay(pause, error.retry_after())).await;
        pause = (pause * 2).min(limits::CACHE_PAUSE_MAX);
    }
}

/// The delay before the next attempt. A part of it is random, so that the clients of a lost server do not all reconnect at
/// once. If the server names a delay, the client waits at least that long.
pub(super) fn delay(pause: Duration, retry_after: Option<Duration>) -> Duration {
    let (least, spread) = match retry_after {
        Some(least) => (least, pause.max(least)),
        None => (pause / 2, pause / 2),
    };
    least + Duration::from_nanos(random::bits() % nanoseconds(spread).max(1))
}

/// The next message of a stream; an error if the stream is silent for longer than this.
async fn next<M>(stream: &mut Streaming<M>, silence: Duration) -> Result<Option<M>, FollowEnd> {
    Ok(timeout(silence, stream.message()).await.map_err(|_| Error::TimedOut)??)
}

struct CacheFollower<'s> {
    shared: &'s CacheState,
    /// A client with a separate connection: an export must not delay checks.
    client: Client,
}

impl CacheFollower<'_> {
    /// Exports if there is no state to continue from, then watches until the stream ends.
    async fn follow(&self, state: &mut Option<FollowState>) -> Result<Infallible, FollowEnd> {
        let state = match state {
            Some(state) => state,
            None => state.insert(self.export().await?),
        };
        self.watch(state).await
    }

    fn kind(&self) -> String {
        self.shared.settings.kind.as_ref().map(|kind| kind.as_str().to_owned()).unwrap_or_default()
    }

    /// Opens a stream within the timeout of a call.
    async fn open<M>(
        &self,
        call: impl Future<Output = Result<Response<Streaming<M>>, Status>>,
    ) -> Result<Streaming<M>, FollowEnd> {
        Ok(timeout(self.client.timeout(), call).await.map_err(|_| Error::TimedOut)??.into_inner())
    }

    /// Loads a replica from an export and publishes it. It has no lease, and answers nothing, until the first ping
    /// returns.
    async fn export(&self) -> Result<FollowState, FollowEnd> {
        let request = self.client.stream_request(pb::ExportMembershipsRequest { kind: self.kind() }).await?;
        let mut stream = self.open(self.client.checks().export_memberships(request)).await?;
        let mut loader = ExportLoader::new(self.shared.settings.kind.is_none());
        let mut cursor = String::new();
        while let Some(message) = next(&mut stream, limits::CACHE_EXPORT_SILENCE).await? {
            loader.add(&message)?;
            cursor = message.cursor;
        }
        if cursor.is_empty() {
            return Err(question::unreadable("an export", "that ended without a cursor").into());
        }
        let replica = Arc::new(loader.finish());
        *self.shared.replica.write().unwrap_or_else(PoisonError::into_inner) = Some(replica.clone());
        self.shared.counters.exports.increment();
        Ok(FollowState { replica, cursor, recent: RecentChanges::default(), exported_at: clock::uptime() })
    }

    /// Applies the changes after the cursor, until the stream ends.
    async fn watch(&self, state: &mut FollowState) -> Result<Infallible, FollowEnd> {
        let (mut pings, requests) = PingHistory::new();
        // Dropped with the stream: the cursor is from before the write.
        let mut parts = WriteParts::default();
        let first = pb::WatchMembershipsRequest {
            cursor: state.cursor.clone(),
            kind: self.kind(),
            ..pb::WatchMembershipsRequest::default()
        };
        pings.send(first);
        let request = self.client.stream_request(ReceiverStream::new(requests)).await?;
        let mut stream = self.open(self.client.checks().watch_memberships(request)).await?;
        self.shared.counters.watches.increment();
        let interval = self.shared.settings.ping_every.max(Duration::from_millis(1));
        let mut ping_due = interval_at(Instant::now() + interval, interval);
        ping_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_current = false;
        let end = loop {
            let silent_until = Instant::now() + limits::CACHE_SILENCE;
            let message = loop {
                tokio::select! {
                    message = stream.message() => break message,
                    _ = ping_due.tick() => pings.send(pb::WatchMembershipsRequest::default()),
                    () = sleep_until(silent_until) => break Err(Status::deadline_exceeded("the watch is silent")),
                }
            };
            let outcome = match message {
                Ok(Some(message)) => self.apply(state, &mut pings, &mut parts, message),
                Ok(None) => Err(Status::unavailable("the watch has ended").into()),
                Err(status) => Err(status.into()),
            };
            match outcome {
                Ok(renewed) => was_current |= renewed,
                Err(end) => break end,
            }
        };
        Err(FollowEnd { was_current, ..end })
    }

    /// Applies a message. Returns whether it renewed the lease.
    fn apply(
        &self,
        state: &mut FollowState,
        pings: &mut PingHistory,
        parts: &mut WriteParts,
        message: pb::WatchMembershipsResponse,
    ) -> Result<bool, FollowEnd> {
        let Some(changes) = parts.join(message.changes, message.continued)? else { return Ok(false) };
        let outcome = state.replica.apply(&changes, &mut state.recent).map_err(|error| match error {
            ApplyError::Gap => {
                self.shared.counters.gaps.increment();
                FollowEnd::stale_replica("a change is missing")
            }
            ApplyError::Unreadable(error) => FollowEnd::new(error),
        })?;
        self.shared.counters.count_changes(outcome.changes, outcome.repetitions);
        let Some(checkpoint) = message.checkpoint else { return Ok(false) };
        state.cursor = checkpoint.cursor;
        // Before the lease, which says that the replica is as the server was.
        state.replica.set_built_in_roles_changed(checkpoint.built_in_roles_changed);
        let Some(lease) = pings.confirm(checkpoint.ping) else { return Ok(false) };
        // If this stream began at an earlier cursor, all its repetitions have arrived by now.
        state.recent.clear();
        state.replica.renew_lease(lease);
        self.shared.lease_updates.send_replace(lease);
        let is_due = clock::uptime().saturating_sub(state.exported_at) > limits::CACHE_SWEEP;
        if is_due && state.replica.is_littered() {
            return Err(FollowEnd::stale_replica("the replica holds too much memory of purged organizations"));
        }
        Ok(true)
    }
}

/// The changes of a write that goes on in the next message.
#[derive(Default)]
pub(super) struct WriteParts(Vec<pb::MembershipsChange>);

impl WriteParts {
    /// Adds the changes of a message. Returns what to apply together, `None` while the write goes on.
    pub(super) fn join(
        &mut self,
        changes: Vec<pb::MembershipsChange>,
        continued: bool,
    ) -> Result<Option<Vec<pb::MembershipsChange>>, FollowEnd> {
        if self.0.is_empty() {
            self.0 = changes;
        } else {
            self.0.extend(changes);
        }
        if continued && self.0.len() > limits::CACHE_WRITE_CHANGES {
            return Err(FollowEnd::stale_replica("a write is too large to be applied at once"));
        }
        Ok((!continued).then(|| std::mem::take(&mut self.0)))
    }
}

/// The pings of one watch.
pub(super) struct PingHistory {
    requests: mpsc::Sender<pb::WatchMembershipsRequest>,
    /// The send times of the unanswered pings, in nanoseconds. The send time is also the ping's value.
    unanswered: VecDeque<i64>,
}

impl PingHistory {
    pub(super) fn new() -> (Self, mpsc::Receiver<pb::WatchMembershipsRequest>) {
        let (requests, receiver) = mpsc::channel(2);
        (Self { requests, unanswered: VecDeque::new() }, receiver)
    }

    /// Sends a request with a ping. Skips it if the channel is full: the next ping serves as well.
    pub(super) fn send(&mut self, request: pb::WatchMembershipsRequest) {
        // Taken before the ping is sent: the answer may not cover writes acknowledged later.
        let ping = i64::try_from(nanoseconds(clock::uptime())).unwrap_or(i64::MAX);
        if self.requests.try_send(pb::WatchMembershipsRequest { ping, ..request }).is_ok() {
            self.unanswered.push_back(ping);
        }
        while self.unanswered.len() > limits::CACHE_PINGS {
            self.unanswered.pop_front();
        }
    }

    /// The lease that a returned ping confirms: its send time. `None` if the ping is not one of the unanswered ones.
    /// Earlier pings are dropped.
    pub(super) fn confirm(&mut self, ping: i64) -> Option<u64> {
        let index = self.unanswered.iter().position(|sent| *sent == ping)?;
        self.unanswered.drain(..=index);
        u64::try_from(ping).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic::Code;
    use tonic_types::{ErrorDetails, StatusExt};

    #[test]
    fn a_watch_that_was_read_too_slowly_goes_on_from_its_cursor() {
        let end = |code, reason: &str| {
            let details = ErrorDetails::with_error_info(reason, "roster", HashMap::<String, String>::new());
            FollowEnd::from(Status::with_error_details(code, "", details))
        };
        let slow = end(Code::Aborted, "SLOW_READER");
        assert!(!slow.needs_export && slow.error.reason() == Some(ErrorReason::SlowReader));
        assert!(end(Code::OutOfRange, "CURSOR_EXPIRED").needs_export);
    }
}
