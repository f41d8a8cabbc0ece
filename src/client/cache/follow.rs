//! Following the server: an export, then one watch after the other from where the last one ended.

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

/// A copy, and where it goes on.
struct FollowState {
    copy: Arc<ClientReplica>,
    cursor: String,
    recent: RecentChanges,
    /// When it was exported.
    since: Duration,
}

/// How a stream ended.
struct StreamEnd {
    error: Error,
    /// Whether there is no going on from the cursor.
    is_lost: bool,
    /// Whether the server had said that everything was there: then the next try need not wait long.
    was_well: bool,
}

impl StreamEnd {
    fn new(error: Error) -> Self {
        // A cursor that is refused is no better later.
        let is_lost = matches!(error.reason(), Some(ErrorReason::CursorExpired | ErrorReason::InvalidRequest));
        Self { error, is_lost, was_well: false }
    }

    fn lost(why: &str) -> Self {
        Self { error: Error::Unreadable(why.to_owned()), is_lost: true, was_well: false }
    }
}

impl From<Error> for StreamEnd {
    fn from(error: Error) -> Self {
        Self::new(error)
    }
}

impl From<Status> for StreamEnd {
    fn from(status: Status) -> Self {
        Self::new(status.into())
    }
}

/// Follows for as long as it is let.
pub(super) async fn run(shared: Arc<CacheState>) {
    let mut follower = CacheFollower { shared: &shared, client: shared.client.apart() };
    let mut place = None;
    let mut pause = limits::CACHE_PAUSE;
    loop {
        let Err(StreamEnd { error, is_lost, was_well }) = follower.follow(&mut place).await;
        shared.counters.interruptions.one_more();
        tracing::warn!(error = &error as &dyn std::error::Error, is_lost, "the memberships are not followed");
        if is_lost && let Some(FollowState { copy, .. }) = place.take() {
            copy.distrust();
        }
        if matches!(error, Error::TimedOut) {
            // A connection that is silent may be so for a long time.
            follower.client = shared.client.apart();
        }
        if was_well {
            pause = limits::CACHE_PAUSE;
        }
        // Half of it by chance, so that many who lost one server do not all come at once.
        let chance = Duration::from_nanos(random::bits() % nanoseconds(pause).max(1));
        sleep((pause / 2 + chance / 2).max(error.retry_after().unwrap_or_default())).await;
        pause = (pause * 2).min(limits::CACHE_PAUSE_MAX);
    }
}

/// The next message of a stream that must not be silent for longer than this.
async fn next<M>(stream: &mut Streaming<M>, silence: Duration) -> Result<Option<M>, StreamEnd> {
    Ok(timeout(silence, stream.message()).await.map_err(|_| Error::TimedOut)??)
}

struct CacheFollower<'s> {
    shared: &'s CacheState,
    /// With a connection of its own: an export must not get into the way of questions.
    client: Client,
}

impl CacheFollower<'_> {
    async fn follow(&self, followed: &mut Option<FollowState>) -> Result<Infallible, StreamEnd> {
        let followed = match followed {
            Some(followed) => followed,
            None => followed.insert(self.export().await?),
        };
        self.watch(followed).await
    }

    fn kind(&self) -> String {
        self.shared.settings.kind.as_ref().map(|kind| kind.as_str().to_owned()).unwrap_or_default()
    }

    /// Opens a stream: in the time that a call may take.
    async fn open<M>(
        &self,
        opening: impl Future<Output = Result<Response<Streaming<M>>, Status>>,
    ) -> Result<Streaming<M>, StreamEnd> {
        Ok(timeout(self.client.timeout(), opening).await.map_err(|_| Error::TimedOut)??.into_inner())
    }

    /// Takes everything in, and publishes it. It answers nothing before the first ping has come back.
    async fn export(&self) -> Result<FollowState, StreamEnd> {
        let request = self.client.stream(pb::ExportMembershipsRequest { kind: self.kind() }).await?;
        let mut stream = self.open(self.client.checks().export_memberships(request)).await?;
        let mut loading = ExportLoader::new(self.shared.settings.kind.is_none());
        let mut cursor = String::new();
        while let Some(message) = next(&mut stream, limits::CACHE_EXPORT_SILENCE).await? {
            loading.take(&message)?;
            cursor = message.cursor;
        }
        if cursor.is_empty() {
            return Err(question::unreadable("an export", "that ended without a cursor").into());
        }
        let copy = Arc::new(loading.finish());
        let published = Some(copy.clone());
        *self.shared.copy.write().unwrap_or_else(PoisonError::into_inner) = published;
        self.shared.counters.exports.one_more();
        Ok(FollowState { copy, cursor, recent: RecentChanges::default(), since: clock::uptime() })
    }

    /// Takes in changes from the cursor on, until that breaks off.
    async fn watch(&self, followed: &mut FollowState) -> Result<Infallible, StreamEnd> {
        let (mut pings, requests) = PingHistory::new();
        let first = pb::WatchMembershipsRequest {
            cursor: followed.cursor.clone(),
            kind: self.kind(),
            ..pb::WatchMembershipsRequest::default()
        };
        pings.send(first);
        let request = self.client.stream(ReceiverStream::new(requests)).await?;
        let mut stream = self.open(self.client.checks().watch_memberships(request)).await?;
        self.shared.counters.watches.one_more();
        let every = self.shared.settings.ping_every.max(Duration::from_millis(1));
        let mut due = interval_at(Instant::now() + every, every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_well = false;
        let ended = loop {
            let heard = Instant::now() + limits::CACHE_SILENCE;
            let message = loop {
                tokio::select! {
                    message = stream.message() => break message,
                    _ = due.tick() => pings.send(pb::WatchMembershipsRequest::default()),
                    () = sleep_until(heard) => break Err(Status::deadline_exceeded("the watch is silent")),
                }
            };
            let taken = match message {
                Ok(Some(message)) => self.take(followed, &mut pings, message),
                Ok(None) => Err(Status::unavailable("the watch has ended").into()),
                Err(status) => Err(status.into()),
            };
            match taken {
                Ok(renewed) => was_well |= renewed,
                Err(ended) => break ended,
            }
        };
        Err(StreamEnd { was_well, ..ended })
    }

    /// Takes in a message. Whether the lease was renewed by it.
    fn take(
        &self,
        followed: &mut FollowState,
        pings: &mut PingHistory,
        message: pb::WatchMembershipsResponse,
    ) -> Result<bool, StreamEnd> {
        let applied = followed.copy.apply(&message.changes, &mut followed.recent).map_err(|trouble| match trouble {
            ApplyError::Gap => {
                self.shared.counters.gaps.one_more();
                StreamEnd::lost("a change is missing")
            }
            ApplyError::Unreadable(error) => StreamEnd::new(error),
        })?;
        self.shared.counters.applied(applied.changes, applied.repetitions);
        let Some(checkpoint) = message.checkpoint else { return Ok(false) };
        followed.cursor = checkpoint.cursor;
        let Some(lease) = pings.answered(checkpoint.ping) else { return Ok(false) };
        // Whatever could be repeated has been, if this stream began further back.
        followed.recent.forget();
        followed.copy.renew(lease);
        self.shared.renewed.send_replace(lease);
        let is_due = clock::uptime().saturating_sub(followed.since) > limits::CACHE_SWEEP;
        if is_due && followed.copy.is_littered() {
            return Err(StreamEnd::lost("it holds too much of what is gone"));
        }
        Ok(true)
    }
}

/// The pings of one watch.
pub(super) struct PingHistory {
    requests: mpsc::Sender<pb::WatchMembershipsRequest>,
    /// When each was sent that has not come back, in nanoseconds: that is what the ping says.
    sent: VecDeque<i64>,
}

impl PingHistory {
    pub(super) fn new() -> (Self, mpsc::Receiver<pb::WatchMembershipsRequest>) {
        let (requests, receiver) = mpsc::channel(2);
        (Self { requests, sent: VecDeque::new() }, receiver)
    }

    /// Sends a ping with a request. One that finds no room is left out: the next one will do.
    pub(super) fn send(&mut self, request: pb::WatchMembershipsRequest) {
        // The moment before it leaves: what is acknowledged later may not be covered.
        let ping = i64::try_from(nanoseconds(clock::uptime())).unwrap_or(i64::MAX);
        if self.requests.try_send(pb::WatchMembershipsRequest { ping, ..request }).is_ok() {
            self.sent.push_back(ping);
        }
        while self.sent.len() > limits::CACHE_PINGS {
            self.sent.pop_front();
        }
    }

    /// The moment that a ping which has come back stands for; none if it is not one of these.
    pub(super) fn answered(&mut self, ping: i64) -> Option<u64> {
        let place = self.sent.iter().position(|sent| *sent == ping)?;
        self.sent.drain(..=place);
        u64::try_from(ping).ok()
    }
}
