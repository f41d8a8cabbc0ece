//! The open connections: their number, and which of them to close when there are too many.

use super::peers::PeerKey;
use crate::random;
use crate::server::limits;
use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How a connection is used.
#[derive(Debug)]
pub(super) struct ConnectionUsage {
    /// The time of the last call, or of the start of the connection: milliseconds since the start of the server.
    last_call: AtomicU64,
    open_calls: AtomicUsize,
    start_of_server: Instant,
    /// Cancelled when the server stops.
    stopping: CancellationToken,
    /// Cancelled when the streams of the connection have to end: with the server, or after the age of the connection.
    streams_end: CancellationToken,
    /// Cancelled when the connection has to make room for another one.
    evicted: CancellationToken,
    /// The maximum age of the connection, from the beginning of HTTP/2 on; `None` if it has none.
    max_age: Option<Duration>,
    /// When the client certificate expires, if there is one.
    expiry: OnceLock<Instant>,
}

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionEnd {
    /// It was idle, and another one needs its place: it ends at once.
    Evicted,
    /// It has reached its maximum age: the peer gets time to end its calls, and opens another one.
    Aged,
    /// The server stops: the peer gets time to end its calls.
    Stopping,
    /// The client certificate expires: the peer gets time to end its calls, and connects again with its next certificate.
    Expired,
}

/// An open call. The connection counts as used until it is dropped.
pub(super) struct OpenCall(Arc<ConnectionUsage>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.open_calls.fetch_sub(1, Ordering::Relaxed);
        self.0.used();
    }
}

impl ConnectionUsage {
    fn new(start_of_server: Instant, stopping: CancellationToken, max_age: Option<Duration>) -> Self {
        let usage = Self {
            last_call: AtomicU64::new(0),
            open_calls: AtomicUsize::new(0),
            start_of_server,
            streams_end: stopping.child_token(),
            stopping,
            evicted: CancellationToken::new(),
            max_age: max_age.map(|age| with_jitter(age, random::bits())),
            expiry: OnceLock::new(),
        };
        usage.used();
        usage
    }

    /// Notes that the connection is in use now.
    pub(super) fn used(&self) {
        let now = u64::try_from(self.start_of_server.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_call.store(now, Ordering::Relaxed);
    }

    pub(super) fn open_call(self: &Arc<Self>) -> OpenCall {
        self.open_calls.fetch_add(1, Ordering::Relaxed);
        OpenCall(self.clone())
    }

    pub(super) fn open_calls(&self) -> usize {
        self.open_calls.load(Ordering::Relaxed)
    }

    /// Lets the connection end when this time has passed, because its client certificate expires then.
    pub(super) fn expire_after(&self, time: Duration) {
        // The end of a time that is too long to be counted never comes.
        if let Some(expiry) = Instant::now().checked_add(time) {
            // A connection has one handshake.
            let _ = self.expiry.set(expiry);
        }
    }

    /// Resolves when the connection has to end. Called when HTTP/2 begins: the age counts from then on.
    pub(super) async fn ended(self: Arc<Self>) -> ConnectionEnd {
        let aged_at = self.max_age.and_then(|age| Instant::now().checked_add(age));
        tokio::select! {
            biased;
            end = self.clone().ended_by_server() => end,
            () = until(self.expiry.get().copied()) => ConnectionEnd::Expired,
            () = until(aged_at) => ConnectionEnd::Aged,
        }
    }

    /// Resolves when the connection has to end for another reason than its age or its client certificate.
    pub(super) async fn ended_by_server(self: Arc<Self>) -> ConnectionEnd {
        tokio::select! {
            biased;
            () = self.evicted.cancelled() => ConnectionEnd::Evicted,
            () = self.stopping.cancelled() => ConnectionEnd::Stopping,
        }
    }

    /// Cancelled when the streams of the connection have to end.
    pub(super) fn streams_end(&self) -> &CancellationToken {
        &self.streams_end
    }

    fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// The maximum age of one connection: this age, up to a tenth less or more, so that connections that began together do not
/// end together. `random` decides.
fn with_jitter(age: Duration, random: u64) -> Duration {
    let steps = limits::AGE_JITTER_STEPS;
    let shortest = age.saturating_sub(age / limits::AGE_JITTER_PART);
    let step = age / limits::AGE_JITTER_PART * 2 / steps;
    shortest.saturating_add(step * u32::try_from(random % u64::from(steps + 1)).unwrap_or(steps))
}

/// The open connections of a server.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<OpenConnections>,
    start: Instant,
    stopping: CancellationToken,
    max_age: Option<Duration>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    next_id: u64,
    by_id: HashMap<u64, (Option<PeerKey>, Arc<ConnectionUsage>)>,
    /// The number of those that were evicted and have not ended yet.
    evicted: usize,
}

/// An entry among the open connections. Dropping it removes it.
pub(super) struct RegisteredConnection {
    connections: Arc<Connections>,
    id: u64,
    pub(super) usage: Arc<ConnectionUsage>,
}

impl Drop for RegisteredConnection {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        if open.by_id.remove(&self.id).is_some_and(|(_, usage)| usage.is_evicted()) {
            open.evicted -= 1;
        }
    }
}

impl Connections {
    /// No connections. All that are registered end when `stopping` is cancelled, and at this age.
    pub(super) fn new(stopping: CancellationToken, max_age: Option<Duration>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), start: Instant::now(), stopping, max_age })
    }

    /// Registers a connection of this peer; `None` for a trusted proxy.
    pub(super) fn register(self: &Arc<Self>, peer: Option<PeerKey>) -> RegisteredConnection {
        let usage = Arc::new(ConnectionUsage::new(self.start, self.stopping.clone(), self.max_age));
        let mut open = self.lock();
        let id = open.next_id;
        open.next_id += 1;
        open.by_id.insert(id, (peer, usage.clone()));
        RegisteredConnection { connections: self.clone(), id, usage }
    }

    /// Makes room for one more connection if nine tenths of `most` are open, of one peer or of all: closes those that have
    /// been without a call for the longest time, and never one with an open call. Returns how many it closes.
    pub(super) fn make_room(&self, peer: Option<PeerKey>, most: usize) -> usize {
        let enough = most * limits::FULL_TENTHS / 10;
        let mut open = self.lock();
        if open.count() < enough {
            return 0;
        }
        let of_peer = |key: &Option<PeerKey>| peer.is_none() || peer == *key;
        let (mut idle, mut count) = (Vec::new(), 0);
        for (key, usage) in open.by_id.values() {
            if of_peer(key) && !usage.is_evicted() {
                count += 1;
                if usage.open_calls() == 0 {
                    idle.push((usage.last_call.load(Ordering::Relaxed), usage.clone()));
                }
            }
        }
        if count < enough {
            return 0;
        }
        // A few more than needed, so that the next connection need not search again.
        let surplus = (count - enough + 1 + most / limits::ROOM_PART).min(idle.len());
        if surplus < idle.len() {
            idle.select_nth_unstable_by_key(surplus, |(last_call, _)| *last_call);
        }
        for (_, usage) in &idle[..surplus] {
            usage.evicted.cancel();
        }
        open.evicted += surplus;
        surplus
    }

    /// The number of open connections, without those that were evicted.
    pub(super) fn count(&self) -> usize {
        self.lock().count()
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    fn count(&self) -> usize {
        self.by_id.len() - self.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn peer(last: u8) -> PeerKey {
        PeerKey::from(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
    }

    #[tokio::test]
    async fn the_connections_longest_without_a_call_are_closed_first() {
        let connections = Connections::new(CancellationToken::new(), None);
        let open: Vec<_> = (0..10).map(|_| connections.register(Some(peer(1)))).collect();
        // The oldest has an open call, and the second has had one since.
        let call = open[0].usage.open_call();
        for (millis, registered) in (0..).zip(&open) {
            registered.usage.last_call.store(if millis == 1 { 100 } else { millis }, Ordering::Relaxed);
        }
        assert_eq!(connections.make_room(None, 12), 1);
        let closed: Vec<usize> = (0..10).filter(|index| open[*index].usage.is_evicted()).collect();
        assert_eq!(closed, [2]);
        // One that is about to close does not count again.
        assert_eq!(connections.make_room(None, 12), 0);
        drop(call);
        assert_eq!((connections.make_room(Some(peer(2)), 2), connections.make_room(Some(peer(1)), 2)), (0, 9));
        drop(open);
        assert_eq!(connections.count(), 0);
    }

    #[test]
    fn the_age_varies_by_a_tenth_in_both_directions() {
        let age = Duration::from_mins(10);
        let ages = [0, u64::from(limits::AGE_JITTER_STEPS) / 2, u64::from(limits::AGE_JITTER_STEPS)];
        assert_eq!(ages.map(|random| with_jitter(age, random).as_secs()), [540, 600, 660]);
        let drawn: Vec<Duration> = (0..1000).map(|_| with_jitter(age, random::bits())).collect();
        assert!(drawn.iter().all(|drawn| (540..=660).contains(&drawn.as_secs())), "{drawn:?}");
        // They are spread over the whole range.
        for tenth in 0..10 {
            let tenth = 540 + 12 * tenth..540 + 12 * (tenth + 1);
            assert!(drawn.iter().filter(|drawn| tenth.contains(&drawn.as_secs())).count() > 50, "{tenth:?}");
        }
        // No age is so long that it overflows.
        assert!(with_jitter(Duration::MAX, u64::MAX) >= Duration::MAX / 2);
    }

    #[tokio::test]
    async fn a_connection_with_an_open_call_is_never_closed() {
        let connections = Connections::new(CancellationToken::new(), None);
        let open: Vec<_> = (0..4).map(|_| connections.register(Some(peer(1)))).collect();
        let calls: Vec<_> = open.iter().map(|open| open.usage.open_call()).collect();
        assert_eq!(connections.make_room(None, 2), 0);
        drop(calls);
        assert_eq!(connections.make_room(None, 2), 4);
    }
}
