//! The workers: threads that serve connections.
//!
//! Each worker has a single-threaded runtime. A connection stays on its worker, and so do its calls: nothing moves between
//! cores, and the responses of one wake-up leave in one write. (On one multi-threaded runtime each response is a separate
//! write, and an empty call costs nearly twice as much.) Writes and upkeep, which wait for Postgres for longer, run in the
//! runtime that started the server.

use super::connection::{ConnectionState, ResponseFuture};
use super::peers::{PeerConnection, PeerKey};
use super::pipeline::Pipeline;
use super::proxy_protocol::read_header;
use super::state::ServerState;
use crate::authn::PeerShare;
use crate::clock;
use crate::server::limits;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
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
    stream: std::net::TcpStream,
    /// The address of its socket.
    address: IpAddr,
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
    pub(super) fn start(count: usize, pipeline: &Pipeline, cut: &CancellationToken) -> io::Result<Self> {
        (0..count)
            .map(|number| Worker::start(number, pipeline.clone(), cut.clone()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Gives a connection to the worker with the fewest connections.
    pub(super) fn serve(&self, stream: TcpStream, address: IpAddr, permit: OwnedSemaphorePermit) -> io::Result<()> {
        let stream = stream.into_std()?;
        let Some(worker) = self.0.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        worker.open.fetch_add(1, Ordering::Relaxed);
        let place = ConnectionPermit { open: worker.open.clone(), _permit: permit };
        let gone = |_| io::Error::other("the thread that serves connections has ended");
        worker.connections.send(AcceptedConnection { stream, address, place }).map_err(gone)
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
    fn start(number: usize, pipeline: Pipeline, cut: CancellationToken) -> io::Result<Self> {
        let (connections, accepted) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // The worker logs to the subscriber of the thread that starts it.
        let log = dispatcher::get_default(Dispatch::clone);
        std::thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
            let serving = cut.run_until_cancelled(serve(accepted, &pipeline));
            dispatcher::with_default(&log, || runtime.block_on(serving));
            // Closes what is still open without waiting: a blocking file read cannot delay the stop.
            runtime.shutdown_background();
            drop(end);
        })?;
        Ok(Self { connections, open: Arc::default(), ended })
    }
}

/// Serves connections until the channel closes; then waits for them to end.
async fn serve(mut accepted: mpsc::UnboundedReceiver<AcceptedConnection>, pipeline: &Pipeline) {
    let open = GracefulShutdown::new();
    while let Some(AcceptedConnection { stream, address, place }) = accepted.recv().await {
        let mut stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a connection could not be registered");
                continue;
            }
        };
        let (pipeline, watcher) = (pipeline.clone(), open.watcher());
        tokio::spawn(async move {
            let Some(peer) = admit(&mut stream, address, &pipeline.state).await else { return };
            let connection = watcher.watch(connection(stream, pipeline, peer.peer().authn.clone()));
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended with an error");
            }
            drop((peer, place));
        });
    }
    open.shutdown().await;
}

/// Counts a connection for its peer: the address of the socket, or the one in the PROXY header of a trusted proxy. `None` if
/// the connection has to be closed.
async fn admit(stream: &mut TcpStream, socket: IpAddr, state: &ServerState) -> Option<PeerConnection> {
    let mut address = socket;
    if state.settings.proxy_protocol && state.peers.is_trusted(socket) {
        let header = tokio::time::timeout(limits::PROXY_HEADER, read_header(stream)).await;
        match header.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) {
            Ok(client) => address = client.unwrap_or(socket),
            Err(error) => {
                if let Some(suppressed) = state.closed_log.admit("header", clock::uptime()) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(proxy = %socket, error, suppressed, "closed a connection");
                }
                return None;
            }
        }
    }
    let peer = state.peers.admit(address);
    if let Err(error) = &peer
        && let Some(suppressed) = state.closed_log.admit("address", clock::uptime())
    {
        let (limit, error) = (state.settings.connections_per_address(), error as &dyn std::error::Error);
        tracing::warn!(peer = %PeerKey::from(address), limit, error, suppressed, "closed a connection");
    }
    peer.ok()
}

fn connection(
    stream: TcpStream,
    pipeline: Pipeline,
    peer: Arc<PeerShare>,
) -> impl GracefulConnection<Error = hyper::Error> + Send {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "TCP_NODELAY could not be set on a connection");
    }
    let shared = Arc::new(ConnectionState::new(pipeline, peer));
    let service = service_fn(move |request| ResponseFuture::new(shared.clone(), request));
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        // Detects a peer that vanished without closing, and frees its connection.
        .keep_alive_interval(limits::KEEP_ALIVE)
        .keep_alive_timeout(limits::KEEP_ALIVE)
        // gRPC does not use it.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service)
}
