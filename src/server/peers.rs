//! The peers of a server: what the connections of one address share.
//!
//! A peer is an IPv4 address, or a network of 64 bits in IPv6, because each host in IPv6 has that many addresses. The
//! table holds a peer while it has a connection, and for some seconds after the last one if it has spent a budget:
//! otherwise a peer could get a new budget by a new connection.

use super::ServerSettings;
use super::limits;
use super::shares::PeerShares;
use super::tls::HandshakeShare;
use super::wasted_calls;
use crate::authn::PeerShare;
use crate::clock;
use crate::leaky_bucket::LeakyBucket;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The address of the other side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerAddress {
    /// The address of a TCP socket, or the one in a PROXY header.
    Ip(IpAddr),
    /// A process of this machine, on a unix socket. The permissions of the socket file say which may connect, so the limits
    /// for each address do not apply.
    Unix,
}

impl From<IpAddr> for PeerAddress {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => PeerKey::Unix.fmt(f),
        }
    }
}

/// The part of an address that counts as one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum PeerKey {
    /// An IPv4 address, also one that was mapped to IPv6.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address.
    V6(u64),
    /// Every process on a unix socket.
    Unix,
}

impl From<PeerAddress> for PeerKey {
    fn from(address: PeerAddress) -> Self {
        match address {
            PeerAddress::Ip(address) => address.into(),
            PeerAddress::Unix => Self::Unix,
        }
    }
}

impl From<IpAddr> for PeerKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments().map(u64::from);
                Self::V6(a << 48 | b << 32 | c << 16 | d)
            }
        }
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::Unix => f.write_str("unix socket"),
            Self::V6(bits) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*bits) << 64)),
        }
    }
}

/// What all connections of one peer share.
pub(super) struct Peer {
    pub(super) key: PeerKey,
    /// Whether the limits for each address apply. They do not apply to a trusted proxy, which stands for many peers.
    pub(super) limited: bool,
    pub(super) authn: Arc<PeerShare>,
    pub(super) shares: Arc<PeerShares>,
    pub(super) wasted_calls: Arc<LeakyBucket>,
    pub(super) handshakes: HandshakeShare,
    /// The number of open connections. It changes under the lock of the table only.
    connections: AtomicUsize,
    /// Whether the queue of retained peers contains this one. It changes under the lock of the table only.
    retained: AtomicBool,
}

impl Peer {
    fn new(key: PeerKey, limited: bool, settings: &ServerSettings) -> Self {
        let name = key.to_string();
        let authn = Arc::new(if limited { PeerShare::limited(name) } else { PeerShare::unlimited(name) });
        let shares = Arc::new(PeerShares::new(settings));
        let (connections, retained) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self {
            key,
            limited,
            authn,
            shares,
            wasted_calls: Arc::new(wasted_calls::budget()),
            handshakes: HandshakeShare::default(),
            connections,
            retained,
        }
    }

    /// Returns the number of open connections.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// The address has as many connections as one address may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address has as many connections as one address may have")]
pub(super) struct AddressFull;

/// All peers of a server.
pub(super) struct Peers {
    settings: ServerSettings,
    table: Mutex<PeerTable>,
}

#[derive(Default)]
struct PeerTable {
    /// The peers, by key and by whether they are limited: a proxy may share its network of 64 bits with others.
    peers: HashMap<(PeerKey, bool), Arc<Peer>>,
    /// Peers that have spent a budget and had no connection, each with the uptime at which it is looked at again.
    retained: VecDeque<(Arc<Peer>, Duration)>,
}

/// A connection in the count of its peer. Dropping it ends the connection in the table.
pub(super) struct PeerConnection {
    peers: Arc<Peers>,
    peer: Arc<Peer>,
}

impl Peers {
    /// Creates the table of a server with these settings.
    pub(super) fn new(settings: &ServerSettings) -> Self {
        Self { settings: settings.clone(), table: Mutex::default() }
    }

    /// Returns whether an address is one of a trusted proxy. Each process on a unix socket is one.
    pub(super) fn is_trusted(&self, address: PeerAddress) -> bool {
        match address {
            PeerAddress::Ip(address) => self.settings.trusted_proxies.contains(address),
            PeerAddress::Unix => true,
        }
    }

    /// Counts a connection of this address.
    ///
    /// # Errors
    /// If the address has as many connections as one address may have.
    pub(super) fn admit(self: &Arc<Self>, address: impl Into<PeerAddress>) -> Result<PeerConnection, AddressFull> {
        self.admit_at(address.into(), clock::uptime())
    }

    fn admit_at(self: &Arc<Self>, address: PeerAddress, now: Duration) -> Result<PeerConnection, AddressFull> {
        let (key, limited) = (PeerKey::from(address), !self.is_trusted(address));
        let mut table = self.lock();
        table.sweep(now);
        let peer =
            table.peers.entry((key, limited)).or_insert_with(|| Arc::new(Peer::new(key, limited, &self.settings)));
        if peer.limited && peer.connections() >= self.settings.connections_per_address() {
            return Err(AddressFull);
        }
        peer.connections.fetch_add(1, Ordering::Relaxed);
        Ok(PeerConnection { peers: self.clone(), peer: peer.clone() })
    }

    fn release_at(&self, peer: &Arc<Peer>, now: Duration) {
        let mut table = self.lock();
        if peer.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            table.release(peer, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, PeerTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerTable {
    /// Removes a peer without a connection, or retains it if it has spent a budget.
    fn release(&mut self, peer: &Arc<Peer>, now: Duration) {
        if peer.retained.load(Ordering::Relaxed) {
            return;
        }
        if peer.authn.is_unused(now) && peer.wasted_calls.is_full(now) && peer.handshakes.is_unused(now) {
            self.remove(peer);
            return;
        }
        if self.retained.len() >= limits::RETAINED_PEERS
            && let Some((oldest, _)) = self.retained.pop_front()
        {
            oldest.retained.store(false, Ordering::Relaxed);
            self.remove(&oldest);
        }
        peer.retained.store(true, Ordering::Relaxed);
        self.retained.push_back((peer.clone(), now + limits::PEER_RETENTION));
    }

    /// Looks at the retained peers whose time has come.
    fn sweep(&mut self, now: Duration) {
        while self.retained.front().is_some_and(|(_, due)| *due <= now)
            && let Some((peer, _)) = self.retained.pop_front()
        {
            peer.retained.store(false, Ordering::Relaxed);
            if peer.connections() == 0 {
                self.release(&peer, now);
            }
        }
    }

    fn remove(&mut self, peer: &Peer) {
        if peer.connections() == 0 {
            self.peers.remove(&(peer.key, peer.limited));
        }
    }
}

impl PeerConnection {
    /// Returns what all connections of this peer share.
    pub(super) fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }
}

impl Drop for PeerConnection {
    fn drop(&mut self) {
        self.peers.release_at(&self.peer, clock::uptime());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::TrustedProxies;

    const START: Duration = Duration::from_hours(1);

    fn peers(trusted: &str, limit: usize) -> Arc<Peers> {
        Arc::new(Peers::new(&ServerSettings {
            trusted_proxies: TrustedProxies::parse(trusted).unwrap(),
            max_connections_per_address: Some(limit),
            ..ServerSettings::default()
        }))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn key(text: &str) -> String {
        PeerKey::from(address(text)).to_string()
    }

    #[test]
    fn ipv6_addresses_count_by_their_first_64_bits_and_mapped_ones_as_ipv4() {
        assert_eq!(key("192.0.2.7"), "192.0.2.7");
        assert_eq!(key("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(key("::1"), "::/64");
        assert_eq!(PeerKey::from(address("2001:db8::1")), PeerKey::from(address("2001:db8::ffff:ffff:ffff:ffff")));
        assert_ne!(PeerKey::from(address("2001:db8::1")), PeerKey::from(address("2001:db8:0:1::1")));
        assert_ne!(PeerKey::from(address("192.0.2.7")), PeerKey::from(address("192.0.2.8")));
    }

    #[test]
    fn an_address_has_a_limit_and_a_trusted_proxy_has_none() {
        let peers = peers("192.0.2.1, 2001:db8::1", 2);
        let held = [peers.admit(address("192.0.2.7")), peers.admit(address("::ffff:192.0.2.7"))];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(peers.admit(address("192.0.2.7")).err(), Some(AddressFull));
        assert!(peers.admit(address("192.0.2.8")).is_ok());
        let proxied: Vec<_> = (0..10).map(|_| peers.admit(address("192.0.2.1"))).collect();
        assert!(proxied.iter().all(Result::is_ok));
        // A neighbour in the network of the proxy has a limit.
        let proxy = peers.admit(address("2001:db8::1")).unwrap();
        let neighbours: Vec<_> = (2..5).map(|host| peers.admit(address(&format!("2001:db8::{host}")))).collect();
        assert_eq!(neighbours.iter().filter(|neighbour| neighbour.is_ok()).count(), 2);
        assert!(!proxy.peer().limited && proxy.peer().connections() == 1);
        drop(held);
        assert!(peers.admit(address("192.0.2.7")).is_ok());
    }

    #[test]
    fn the_table_is_empty_without_connections() {
        let peers = peers("", 2);
        let held: Vec<_> = (0..200).map(|host| peers.admit(address(&format!("192.0.2.{}", host % 100)))).collect();
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(peers.lock().peers.len(), 100);
        drop(held);
        assert!(peers.lock().peers.is_empty());
    }

    #[test]
    fn the_limit_is_exact_under_concurrency() {
        let peers = peers("", 10);
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let held: Vec<_> = (0..4).filter_map(|_| peers.admit(address("192.0.2.7")).ok()).collect();
                        if let Some(connection) = held.first() {
                            most.fetch_max(connection.peer().connections(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!((1..=10).contains(&most.load(Ordering::Relaxed)), "{most:?}");
        assert!(peers.lock().peers.is_empty());
    }

    #[test]
    fn a_new_connection_does_not_bring_a_new_budget() {
        let peers = peers("", 2);
        let connect = |now| peers.admit_at(address("192.0.2.7").into(), now).unwrap();
        let release = |connection: PeerConnection, now| {
            let peer = connection.peer.clone();
            // As in `drop`, at another time.
            std::mem::forget(connection);
            peers.release_at(&peer, now);
        };
        let connection = connect(START);
        let first = connection.peer.clone();
        first.authn.charge(START);
        release(connection, START);
        // Each new connection gets the same peer, however often it comes.
        for _ in 0..10 {
            let connection = connect(START);
            assert!(Arc::ptr_eq(&connection.peer, &first));
            release(connection, START);
        }
        assert_eq!(peers.lock().retained.len(), 1);
        // A connection that is open when the time has come keeps it.
        let connection = connect(START);
        let later = START + limits::PEER_RETENTION;
        drop(peers.admit_at(address("192.0.2.8").into(), later));
        assert!(Arc::ptr_eq(&connect(later).peer, &first));
        first.authn.charge(later);
        release(connection, later);
        release(connect(later), later);
        let end = later + 2 * limits::PEER_RETENTION;
        drop(peers.admit_at(address("192.0.2.8").into(), end));
        let table = peers.lock();
        assert!(table.peers.len() <= 1 && table.retained.is_empty(), "{} peers", table.peers.len());
    }

    #[test]
    fn the_number_of_retained_peers_is_bounded() {
        let peers = peers("", 2);
        for host in 0..u32::try_from(limits::RETAINED_PEERS).unwrap() + 100 {
            let connection = peers.admit(IpAddr::V4(host.into())).unwrap();
            connection.peer().authn.charge(clock::uptime());
        }
        let table = peers.lock();
        assert!(table.retained.len() <= limits::RETAINED_PEERS && table.peers.len() <= limits::RETAINED_PEERS);
    }
}
