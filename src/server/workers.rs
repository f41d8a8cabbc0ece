//! The workers: threads that serve connections.
//!
//! Each worker has a single-threaded runtime. A connection stays on its worker, and so do its calls: nothing moves between
//! cores, and the responses of one wake-up leave in one write. (On one multi-threaded runtime each response is a separate
//! write, and an empty call costs nearly twice as much.) Writes and upkeep, which wait for Postgres for longer, run in the
//! runtime that started the server.

use super::connection_state::ConnectionState;
use super::connections::{ConnectionUsage, Connections};
use super::http2;
use super::opening;
use super::peer_socket::{AcceptedSocket, PeerSocket};
use super::peer_stream::{PeerStream, RewoundStream};
use super::peers::{Peer, PeerAddress, PeerConnection};
use super::pipeline::Pipeline;
use super::proxy_protocol::read_header;
use super::shares::{ConnectionShares, ServerShares};
use super::state::ServerState;
use super::tls::{self, ServerTls};
use super::wasted_calls::WastedCalls;
use crate::authn::{ClientCertificate, RecentCredentials};
use crate::server::limits;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::dispatcher::{self, Dispatch};

/// All workers of a server.
pub(super) struct Workers(Vec<Worker>);

struct Worker {
    /// Unbounded, but each connection holds a permit.
    connections: mpsc::UnboundedSender<AcceptedConnection>,
    /// The number of its open connections.
    open: Arc<AtomicUsize>,
    ended: oneshot::Receiver<()>,
}

/// A connection on its way to its worker. It is not registered with a runtime yet.
struct AcceptedConnection {
    socket: AcceptedSocket,
    /// The address of its socket.
    address: PeerAddress,
    place: ConnectionPermit,
}

/// The place of a connection among all connections and on its worker; returned when the connection ends.
struct ConnectionPermit {
    open: Arc<AtomicUsize>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts `count` workers. They end when they are drained. When `cut` is cancelled they close every connection at once.
    pub(super) fn start(count: usize, service: &ConnectionService, cut: &CancellationToken) -> io::Result<Self> {
        (0..count)
            .map(|number| Worker::start(number, service.for_worker(), cut.clone()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Gives a connection to the worker with the fewest connections.
    pub(super) fn serve(
        &self,
        socket: AcceptedSocket,
        address: PeerAddress,
        permit: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        let Some(worker) = self.0.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        worker.open.fetch_add(1, Ordering::Relaxed);
        let place = ConnectionPermit { open: worker.open.clone(), _permit: permit };
        let gone = |_| io::Error::other("the thread that serves connections has ended");
        worker.connections.send(AcceptedConnection { socket, address, place }).map_err(gone)
    }

    /// Accepts no further calls, and waits until the calls under way and all connections have ended.
    pub(super) async fn drain(self) {
        let ended: Vec<_> = self.0.into_iter().map(|worker| worker.ended).collect();
        for ended in ended {
            // An error means that the worker has ended.
            let _ = ended.await;
        }
    }
}

impl Worker {
    fn start(number: usize, service: ConnectionService, cut: CancellationToken) -> io::Result<Self> {
        let (connections, accepted) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // The worker logs to the subscriber of the thread that starts it.
        let log = dispatcher::get_default(Dispatch::clone);
        std::thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
            let serving = cut.run_until_cancelled(serve(accepted, &service));
            dispatcher::with_default(&log, || runtime.block_on(serving));
            // Closes what is still open without waiting: a blocking file read cannot delay the stop.
            runtime.shutdown_background();
            drop(end);
        })?;
        Ok(Self { connections, open: Arc::default(), ended })
    }
}

/// What the connections of a worker need.
#[derive(Clone)]
pub(super) struct ConnectionService {
    pub(super) pipeline: Pipeline,
    pub(super) shares: ServerShares,
    pub(super) connections: Arc<Connections>,
}

impl ConnectionService {
    fn for_worker(&self) -> Self {
        Self { shares: self.shares.for_worker(), ..self.clone() }
    }

    /// Serves a connection until it ends.
    async fn serve(self, mut socket: PeerSocket, address: PeerAddress) {
        let state = self.pipeline.state.clone();
        let Some(counted) = admit(&mut socket, address, &state).await else { return };
        let peer = counted.peer().clone();
        let key = peer.limited.then_some(peer.key);
        if key.is_some() {
            let evicted = self.connections.make_room(key, state.settings.connections_per_address());
            state.count_evicted(evicted);
        }
        let registered = self.connections.register(key);
        state.metrics.connection_opened();
        if let Some(opened) = open(socket, &peer, &registered.usage, &state).await {
            self.serve_http2(opened, peer, registered.usage.clone()).await;
        }
        state.metrics.connection_ended();
        drop((registered, counted));
    }

    async fn serve_http2(self, opened: OpenedConnection, peer: Arc<Peer>, usage: Arc<ConnectionUsage>) {
        let state = self.pipeline.state.clone();
        let connection = Arc::new(ConnectionState {
            recent_credentials: RecentCredentials::with_certificate(opened.certificate.map(Arc::new)),
            shares: ConnectionShares::new(&state.settings, self.shares, peer.limited.then(|| peer.shares.clone())),
            wasted: WastedCalls::new(peer.limited.then(|| peer.wasted_calls.clone())),
            peer,
            stream_budget: state.stream_budget.connection(limits::CONNECTION_STREAM_BYTES),
            usage,
        });
        // The HTTP/2 library reads the preface as well.
        let stream = RewoundStream::new(opened.preface, opened.stream);
        if let Err(error) = http2::serve(stream, self.pipeline, connection).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended with an error");
        }
    }
}

/// A connection whose first bytes are those of HTTP/2.
struct OpenedConnection {
    stream: PeerStream,
    /// What was read of the preface.
    preface: &'static [u8],
    certificate: Option<ClientCertificate>,
}

/// Begins a connection: TLS if the server has it, and the first bytes of HTTP/2. `None` if the connection has to be closed.
async fn open(
    socket: PeerSocket,
    peer: &Peer,
    usage: &Arc<ConnectionUsage>,
    state: &ServerState,
) -> Option<OpenedConnection> {
    // The time of the peer until the end of its preface: one for all steps.
    let deadline = Instant::now() + limits::PEER_PAUSE;
    let opening = async {
        let (mut stream, certificate) = match &state.settings.tls {
            Some(tls) => begin_tls(tls, socket, peer, usage, state, deadline).await?,
            None => (PeerStream::Plain(socket), None),
        };
        let is_tls = stream.is_tls();
        match opening::read(&mut stream, is_tls, deadline).await {
            Ok(Ok(preface)) => Some(OpenedConnection { stream, preface, certificate }),
            Ok(Err(protocol)) => {
                state.refuse_connection(peer.key, protocol.name(), &protocol);
                None
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended before it began");
                None
            }
        }
    };
    tokio::select! {
        biased;
        // Nothing was promised to this peer. Its age does not count yet: a client that takes long would find no connection.
        _ = usage.clone().ended_by_server() => None,
        opened = opening => opened,
    }
}

/// Does the TLS handshake of a connection. `None` if the connection has to be closed.
async fn begin_tls(
    tls: &ServerTls,
    mut socket: PeerSocket,
    peer: &Peer,
    usage: &ConnectionUsage,
    state: &ServerState,
    deadline: Instant,
) -> Option<(PeerStream, Option<ClientCertificate>)> {
    match opening::begins_with_tls(&mut socket, deadline).await {
        Ok(None) => {}
        Ok(Some(protocol)) => {
            state.refuse_connection(peer.key, protocol.name(), &protocol);
            return None;
        }
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended before it began");
            return None;
        }
    }
    let share = peer.limited.then_some(&peer.handshakes);
    match tls::accept(tls, socket, share, deadline).await {
        Ok((stream, certificate)) => {
            if let Some(certificate) = &certificate {
                usage.expire_after(tls.time_of_connection(certificate));
            }
            Some((PeerStream::Tls(stream), certificate))
        }
        Err(error) => {
            state.refuse_connection(peer.key, error.name(), &error);
            None
        }
    }
}

/// Serves connections until the channel closes; then waits for them to end.
async fn serve(mut accepted: mpsc::UnboundedReceiver<AcceptedConnection>, service: &ConnectionService) {
    let open = TaskTracker::new();
    while let Some(AcceptedConnection { socket, address, place }) = accepted.recv().await {
        let socket = match PeerSocket::register(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a connection could not be registered");
                continue;
            }
        };
        let connection = service.clone().serve(socket, address);
        open.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    open.close();
    open.wait().await;
}

/// Counts a connection for its peer: the address of the socket (`own`), or the one in the PROXY header of a trusted proxy.
/// `None` if the connection has to be closed.
async fn admit(socket: &mut PeerSocket, own: PeerAddress, state: &ServerState) -> Option<PeerConnection> {
    let mut address = own;
    if state.settings.proxy_protocol && state.peers.is_trusted(own) {
        let header = tokio::time::timeout(limits::PROXY_HEADER, read_header(socket));
        // Nothing was promised to this peer: a stop does not wait for its header.
        let header = state.stopping.run_until_cancelled(header).await?;
        match header.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) {
            Ok(client) => address = client.map_or(own, PeerAddress::from),
            Err(error) => {
                state.refuse_connection(own, "proxy_header", &error);
                return None;
            }
        }
    }
    match state.peers.admit(address) {
        Ok(peer) => Some(peer),
        Err(error) => {
            state.refuse_connection(address, "address_limit", &error);
            None
        }
    }
}
