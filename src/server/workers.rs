//! The threads that serve connections.
//!
//! Each has a runtime of its own, of one thread. A connection stays where it was put, and so do its calls, so that
//! nothing is handed from core to core, and the answers of one wake-up leave in one write. (On one runtime of many
//! threads each answer is a write of its own: a bare call costs nearly twice as much there.) What waits for Postgres for
//! longer, writes and upkeep, runs in the runtime that the server was started in.

use super::connection::{ConnectionState, ResponseFuture};
use super::pipeline::Pipeline;
use crate::server::limits;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::dispatcher::{self, Dispatch};

/// All of them.
pub(super) struct Workers(Vec<Worker>);

struct Worker {
    /// Bounded by the places that connections have to take.
    connections: mpsc::UnboundedSender<AcceptedConnection>,
    /// How many it serves.
    open: Arc<AtomicUsize>,
    ended: oneshot::Receiver<()>,
}

/// A connection on its way to its worker. Without a runtime, so that it can be put into another.
struct AcceptedConnection {
    stream: std::net::TcpStream,
    place: ConnectionPermit,
}

/// A connection's place: among all, and on its worker. Given back when it ends.
struct ConnectionPermit {
    open: Arc<AtomicUsize>,
    _among_all: OwnedSemaphorePermit,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts so many. They end when they are drained, and cut off everything at once when `cut` is cancelled.
    pub(super) fn start(count: usize, pipeline: &Pipeline, cut: &CancellationToken) -> io::Result<Self> {
        (0..count)
            .map(|number| Worker::start(number, pipeline.clone(), cut.clone()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Gives a connection to the one that has the fewest.
    pub(super) fn serve(&self, stream: TcpStream, among_all: OwnedSemaphorePermit) -> io::Result<()> {
        let stream = stream.into_std()?;
        let Some(worker) = self.0.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        worker.open.fetch_add(1, Ordering::Relaxed);
        let place = ConnectionPermit { open: worker.open.clone(), _among_all: among_all };
        let gone = |_| io::Error::other("the thread that serves connections has ended");
        worker.connections.send(AcceptedConnection { stream, place }).map_err(gone)
    }

    /// Lets calls under way end, begins no others, and waits until all connections have ended.
    pub(super) async fn drain(self) {
        let ended: Vec<_> = self.0.into_iter().map(|worker| worker.ended).collect();
        for ended in ended {
            // An error is an end too.
            let _ = ended.await;
        }
    }
}

impl Worker {
    fn start(number: usize, pipeline: Pipeline, cut: CancellationToken) -> io::Result<Self> {
        let (connections, accepted) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // It logs where the one logs who starts it.
        let log = dispatcher::get_default(Dispatch::clone);
        std::thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
            let serving = cut.run_until_cancelled(serve(accepted, &pipeline));
            dispatcher::with_default(&log, || runtime.block_on(serving));
            // What is still open is cut off, and nothing is waited for: a file that is read blocks nobody's stop.
            runtime.shutdown_background();
            drop(end);
        })?;
        Ok(Self { connections, open: Arc::default(), ended })
    }
}

/// Serves what comes, until nothing more can come; then lets it end.
async fn serve(mut accepted: mpsc::UnboundedReceiver<AcceptedConnection>, pipeline: &Pipeline) {
    let open = GracefulShutdown::new();
    while let Some(AcceptedConnection { stream, place }) = accepted.recv().await {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a connection was not taken on");
                continue;
            }
        };
        let connection = open.watch(connection(stream, pipeline.clone()));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a connection broke");
            }
            drop(place);
        });
    }
    open.shutdown().await;
}

fn connection(stream: TcpStream, pipeline: Pipeline) -> impl GracefulConnection<Error = hyper::Error> + Send {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection keeps its delay");
    }
    let shared = Arc::new(ConnectionState::new(pipeline));
    let service = service_fn(move |request| ResponseFuture::new(shared.clone(), request));
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        // A peer that is gone without a word is noticed, and its connection given back.
        .keep_alive_interval(limits::KEEP_ALIVE)
        .keep_alive_timeout(limits::KEEP_ALIVE)
        // gRPC has no use for it.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service)
}
