//! The open connections: their number, and which of them to close when there are too many.

use super::peers::PeerKey;
use crate::server::limits;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
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
    /// Cancelled when the connection has to make room for another one.
    evicted: CancellationToken,
    /// When the client certificate expires, if there is one.
    expiry: OnceLock<Instant>,
}

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionEnd {
    /// It was idle, and another one needs its place: it ends at once.
    Evicted,
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
    fn new(start_of_server: Instant, stopping: CancellationToken) -> Self {
        let usage = Self {
            last_call: AtomicU64::new(0),
            open_calls: AtomicUsize::new(0),
            start_of_server,
            stopping,
            evicted: CancellationToken::new(),
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

    async fn expired(&self) {
        match self.expiry.get() {
            Some(expiry) => tokio::time::sleep_until(*expiry).await,
            None => std::future::pending().await,
        }
    }

    /// Resolves when the connection has to end.
    pub(super) async fn ended(self: Arc<Self>) -> ConnectionEnd {
        tokio::select! {
            biased;
            () = self.evicted.cancelled() => ConnectionEnd::Evicted,
            () = self.stopping.cancelled() => ConnectionEnd::Stopping,
            () = self.expired() => ConnectionEnd::Expired,
        }
    }

    fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }
}

/// The open connections of a server.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<OpenConnections>,
    start: Instant,
    stopping: CancellationToken,
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
    /// No connections. All that are registered end when `stopping` is cancelled.
    pub(super) fn new(stopping: CancellationToken) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), start: Instant::now(), stopping })
    }

    /// Registers a connection of this peer; `None` for a trusted proxy.
    pub(super) fn register(self: &Arc<Self>, peer: Option<PeerKey>) -> RegisteredConnection {
        let usage = Arc::new(ConnectionUsage::new(self.start, self.stopping.clone()));
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
        let connections = Connections::new(CancellationToken::new());
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

    #[tokio::test]
    async fn a_connection_with_an_open_call_is_never_closed() {
        let connections = Connections::new(CancellationToken::new());
        let open: Vec<_> = (0..4).map(|_| connections.register(Some(peer(1)))).collect();
        let calls: Vec<_> = open.iter().map(|open| open.usage.open_call()).collect();
        assert_eq!(connections.make_room(None, 2), 0);
        drop(calls);
        assert_eq!(connections.make_room(None, 2), 4);
    }
}
