//! What calls hold while they are under way: a place in the pool of their class, and bytes.
//!
//! A limit stands on up to three levels: the server, one peer address, one connection. A peer address holds at most a part
//! of what the server has, so that no peer can take everything from the others. The addresses of trusted proxies have no
//! level of their own, because many peers stand behind each.

use super::ServerSettings;
use crate::authn::Caller;
use crate::authz::rules::Method;
use crate::domain::Refusal;
use crate::grpc::{self, CHECK};
use crate::server::limits;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The level on which a budget stands.
#[derive(Debug, Clone, Copy)]
enum Level {
    Server,
    Peer,
    Connection,
}

impl ServerSettings {
    /// The bytes that requests may hold on a level: at least those of the largest one.
    fn request_bytes(&self, level: Level) -> usize {
        let bytes = self.request_memory / level.parts();
        bytes.max(request_bytes(grpc::limits::BULK_MESSAGE_BYTES) + limits::CALL_BYTES * 8)
    }

    /// The bytes that responses may hold on a level: at least those of the largest one.
    fn response_bytes(&self, level: Level) -> usize {
        (self.response_memory / level.parts()).max(grpc::limits::PAGE_BYTES)
    }
}

impl Level {
    /// The number of holders on this level that can together hold everything.
    fn parts(self) -> usize {
        match self {
            Self::Server => 1,
            Self::Peer => limits::PEERS_FOR_ALL_BYTES,
            Self::Connection => limits::CONNECTIONS_FOR_ALL_BYTES,
        }
    }
}

/// What a request with a message of this size counts, in bytes: with what the call takes beside it, and what the message
/// takes when it is decoded.
fn request_bytes(message: usize) -> usize {
    limits::CALL_BYTES + message.saturating_mul(limits::DECODED_PART)
}

/// The bytes that calls may hold together on one level.
#[derive(Debug, Clone)]
struct ByteBudgets {
    requests: Budget,
    responses: Budget,
}

impl ByteBudgets {
    fn new(settings: &ServerSettings, level: Level) -> Self {
        Self {
            requests: Budget::new(settings.request_bytes(level)),
            responses: Budget::new(settings.response_bytes(level)),
        }
    }
}

/// The class of a call. Each class has a pool of places, so that calls of one class cannot take the places of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallClass {
    /// A check that waits for the primary. A check from memory is answered at once and takes no place.
    Check,
    /// Any other read.
    Read,
    /// A call that can change data.
    Write,
    /// A call without a credential.
    Anonymous,
    /// A call of health or reflection.
    Standard,
    /// A stream of roster.
    Stream,
    /// A stream of health or reflection.
    StandardStream,
}

/// The number of classes.
const CLASSES: usize = 7;

impl CallClass {
    /// The class of a call of this method by this caller.
    pub(super) fn of(method: &Method, caller: &Caller) -> Self {
        match caller {
            _ if method.standard && method.streaming.any() => Self::StandardStream,
            _ if method.standard => Self::Standard,
            _ if method.streaming.any() => Self::Stream,
            Caller::Anonymous => Self::Anonymous,
            _ if method.write => Self::Write,
            _ if method.service == CHECK.service => Self::Check,
            _ => Self::Read,
        }
    }

    /// The name in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Read => "read",
            Self::Write => "write",
            Self::Anonymous => "anonymous",
            Self::Standard => "standard",
            Self::Stream => "stream",
            Self::StandardStream => "standard_stream",
        }
    }
}

/// A pool of places.
#[derive(Debug)]
pub(super) struct PlacePool {
    taken: AtomicUsize,
    /// The number of places.
    most: usize,
    /// The number of places that one peer address may hold.
    share: usize,
}

impl PlacePool {
    fn new(most: usize) -> Self {
        Self { taken: AtomicUsize::new(0), most, share: most.div_ceil(limits::PEERS_FOR_ALL_PLACES) }
    }

    /// The number of places that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// Adds one if the result is at most `most`. Returns whether it did.
fn take_one(count: &AtomicUsize, most: usize) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < most).then_some(taken + 1)).is_ok()
}

/// The pools of a server, as one worker uses them, and its budgets of bytes.
#[derive(Debug, Clone)]
pub(super) struct ServerShares {
    /// The pools, by class.
    pools: [Arc<PlacePool>; CLASSES],
    bytes: ByteBudgets,
}

impl ServerShares {
    /// The pools of a server with these settings. The pool of checks is that of one worker.
    pub(super) fn new(settings: &ServerSettings) -> Self {
        let ServerSettings { max_concurrent_requests: calls, max_streams: streams, workers, .. } = *settings;
        let pool = |most| Arc::new(PlacePool::new(most));
        Self {
            pools: [
                pool((calls / workers).max(limits::CHECKS_PER_WORKER)),
                pool(calls),
                pool(calls),
                pool(calls.div_ceil(limits::ANONYMOUS_PART)),
                pool(limits::STANDARD_CALLS),
                Arc::new(PlacePool { share: streams, ..PlacePool::new(streams) }),
                pool(settings.max_connections),
            ],
            bytes: ByteBudgets::new(settings, Level::Server),
        }
    }

    /// The same for another worker, with another pool of checks.
    pub(super) fn for_worker(&self) -> Self {
        let mut shares = self.clone();
        let checks = &mut shares.pools[CallClass::Check as usize];
        *checks = Arc::new(PlacePool::new(checks.most));
        shares
    }

    pub(super) fn pool(&self, class: CallClass) -> &Arc<PlacePool> {
        &self.pools[class as usize]
    }
}

/// What the connections of one peer address hold together.
#[derive(Debug)]
pub(super) struct PeerShares {
    /// Places by class.
    taken: [AtomicUsize; CLASSES],
    bytes: ByteBudgets,
}

impl PeerShares {
    pub(super) fn new(settings: &ServerSettings) -> Self {
        Self { taken: Default::default(), bytes: ByteBudgets::new(settings, Level::Peer) }
    }
}

/// The limits of the calls of one connection.
#[derive(Debug)]
pub(super) struct ConnectionShares {
    server: ServerShares,
    /// `None` for the address of a trusted proxy.
    peer: Option<Arc<PeerShares>>,
    /// Streams of roster's methods.
    streams: Arc<AtomicUsize>,
    /// Streams of health and reflection.
    standard_streams: Arc<AtomicUsize>,
    bytes: ByteBudgets,
}

/// A stream in the part of its connection that streams may take, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionStream(Arc<AtomicUsize>);

impl Drop for ConnectionStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionShares {
    pub(super) fn new(settings: &ServerSettings, server: ServerShares, peer: Option<Arc<PeerShares>>) -> Self {
        let bytes = ByteBudgets::new(settings, Level::Connection);
        Self { server, peer, streams: Arc::default(), standard_streams: Arc::default(), bytes }
    }

    /// Counts a call of this class, if it is a stream, among the streams of the connection.
    ///
    /// # Errors
    /// The limit, if the connection has as many of these streams as it may have.
    pub(super) fn stream(&self, class: CallClass) -> Result<Option<ConnectionStream>, usize> {
        let (streams, most) = match class {
            CallClass::Stream => (&self.streams, limits::STREAM_CALLS_PER_CONNECTION),
            CallClass::StandardStream => (&self.standard_streams, limits::STANDARD_STREAMS_PER_CONNECTION),
            CallClass::Check | CallClass::Read | CallClass::Write | CallClass::Anonymous | CallClass::Standard => {
                return Ok(None);
            }
        };
        if take_one(streams, most) { Ok(Some(ConnectionStream(streams.clone()))) } else { Err(most) }
    }

    /// Takes a place for a call.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] if the pool has none, or if the peer address has its share.
    pub(super) fn place(&self, class: CallClass) -> Result<Place, Refusal> {
        let pool = self.server.pool(class);
        let mut place = Place { class, pool: None, peer: None };
        if let Some(peer) = &self.peer {
            if !take_one(&peer.taken[class as usize], pool.share) {
                return Err(Refusal::Overloaded);
            }
            place.peer = Some(peer.clone());
        }
        if !take_one(&pool.taken, pool.most) {
            return Err(Refusal::Overloaded);
        }
        place.pool = Some(pool.clone());
        Ok(place)
    }

    /// Starts to count the bytes of a request, with those of its headers.
    ///
    /// # Errors
    /// As [`RequestCharge::add`].
    pub(super) fn request(&self, headers: usize) -> Result<RequestCharge, Refusal> {
        let mut charge = RequestCharge::default();
        charge.take(self, limits::CALL_BYTES + headers)?;
        Ok(charge)
    }

    /// Waits until a response of this size, in bytes, may wait to be sent.
    pub(super) async fn response(&self, bytes: usize) -> Charge {
        let mut charge = Charge::default();
        for (level, held) in self.levels().into_iter().zip(&mut charge.levels) {
            if let Some(budgets) = level {
                *held = budgets.responses.take(bytes).await;
            }
        }
        charge
    }

    /// The budgets on each level. The connection's own calls come first, and then those of the address: what one peer
    /// waits for keeps nothing from the others.
    fn levels(&self) -> [Option<&ByteBudgets>; 3] {
        [Some(&self.bytes), self.peer.as_ref().map(|peer| &peer.bytes), Some(&self.server.bytes)]
    }
}

/// A place of a call among the calls of its class. It is returned when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    class: CallClass,
    pool: Option<Arc<PlacePool>>,
    peer: Option<Arc<PeerShares>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.taken.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(peer) = &self.peer {
            peer.taken[self.class as usize].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The unit in which budgets count, in bytes.
const UNIT: usize = 1024;

/// A number of bytes that calls can hold together. It counts whole [`UNIT`]s.
#[derive(Debug, Clone)]
struct Budget(Arc<Semaphore>);

impl Budget {
    fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / UNIT)))
    }

    fn try_take(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_many_owned(units).ok()
    }

    /// Waits for this number of bytes. `None` never comes, because no budget is closed.
    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.0.clone().acquire_many_owned(units(bytes)).await.ok()
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// Bytes that a call holds, on each level.
#[derive(Debug, Default)]
pub(super) struct Charge {
    levels: [Option<OwnedSemaphorePermit>; 3],
}

impl Charge {
    /// Returns everything beyond this number of bytes.
    pub(super) fn shrink(&mut self, bytes: usize) {
        for held in self.levels.iter_mut().flatten() {
            let rest = held.num_permits().saturating_sub(bytes.div_ceil(UNIT));
            // Dropped at once: that returns it.
            let _ = held.split(rest);
        }
    }
}

/// The bytes of a request that has been read so far.
#[derive(Debug, Default)]
pub(super) struct RequestCharge {
    bytes: usize,
    charge: Charge,
}

impl RequestCharge {
    /// Counts further bytes of the message.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] if the budget of a level is used up.
    pub(super) fn add(&mut self, shares: &ConnectionShares, message: usize) -> Result<(), Refusal> {
        self.take(shares, message.saturating_mul(limits::DECODED_PART))
    }

    fn take(&mut self, shares: &ConnectionShares, bytes: usize) -> Result<(), Refusal> {
        let before = units(self.bytes);
        self.bytes += bytes;
        let more = units(self.bytes) - before;
        if more == 0 {
            return Ok(());
        }
        for (level, held) in shares.levels().into_iter().zip(&mut self.charge.levels) {
            let Some(budgets) = level else { continue };
            let permit = budgets.requests.try_take(more).ok_or(Refusal::Overloaded)?;
            match held {
                Some(held) => held.merge(permit),
                None => *held = Some(permit),
            }
        }
        Ok(())
    }
}
