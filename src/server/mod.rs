//! The server: how serving begins and ends. What every request goes through is [`door`]; what goes on beside the calls
//! is [`upkeep`]; what is counted is [`metrics`].

mod door;
pub mod metrics;
mod upkeep;

use crate::auth::Authenticator;
use crate::domain::limits;
use crate::grpc;
use crate::grpc::admit::Api;
use crate::grpc::pb::check_service_server::CheckServiceServer;
use crate::grpc::pb::event_service_server::EventServiceServer;
use crate::grpc::pb::invitation_service_server::InvitationServiceServer;
use crate::grpc::pb::organization_service_server::OrganizationServiceServer;
use crate::grpc::pb::user_service_server::UserServiceServer;
use crate::mail::Mailer;
use crate::service::Roster;
use door::{Door, Shared};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use metrics::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic_health::ServingStatus;
use upkeep::{send_mail, set_health, tidy, watch_health};

/// How a server serves.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// How long a request may take that names no deadline.
    pub default_deadline: Duration,
    /// How long any request may take, whatever it says.
    pub max_deadline: Duration,
    /// Calls under way at once; what is more is shed with `OVERLOADED`.
    pub max_concurrent_requests: usize,
    /// Streams open at once; what is more is shed with `OVERLOADED`.
    pub max_streams: usize,
    /// How long a stream waits for a caller who does not read.
    pub slow_reader: Duration,
    /// Connections open at once; what is more waits to be accepted.
    pub max_connections: usize,
    /// How long a stop waits for what is under way.
    pub drain: Duration,
    /// Whether server reflection is served. It tells what the protos say, to anybody.
    pub reflection: bool,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            default_deadline: limits::DEADLINE,
            max_deadline: limits::STATEMENT,
            max_concurrent_requests: 1024,
            max_streams: limits::STREAMS,
            slow_reader: limits::SLOW_READER,
            max_connections: 4096,
            drain: Duration::from_secs(10),
            reflection: true,
        }
    }
}

/// Everything that a server needs to begin.
pub struct Parts {
    /// Where it listens.
    pub listener: TcpListener,
    /// How it serves.
    pub settings: ServerSettings,
    /// What it serves.
    pub roster: Roster,
    /// Whom it lets in.
    pub authenticator: Authenticator,
    /// What sends its mail; none where that is switched off.
    pub mailer: Option<Mailer>,
    /// Where it tells its metrics, by HTTP; none to tell nobody.
    pub metrics: Option<TcpListener>,
}

/// Serves until told to stop, then lets what is under way end, for a bounded time.
///
/// Health says `NOT_SERVING` until the schema is there and Postgres answers, while it does not, and as the first act of a
/// stop.
///
/// # Errors
/// If the descriptors for reflection are broken, which no build of ours has.
pub async fn serve(parts: Parts, stop: CancellationToken) -> Result<(), tonic_reflection::server::Error> {
    let Parts { listener, settings, roster, authenticator, mailer, metrics: metrics_listener } = parts;
    let (health, health_service) = tonic_health::server::health_reporter();
    set_health(&health, ServingStatus::NotServing).await;
    let mut routes = RoutesBuilder::default();
    routes.add_service(health_service);
    if settings.reflection {
        routes.add_service(reflection().build_v1()?);
        routes.add_service(reflection().build_v1alpha()?);
    }
    let api = Api::new(roster.clone());
    let limit = limits::BULK_MESSAGE_BYTES;
    routes.add_service(OrganizationServiceServer::new(api.clone()).max_decoding_message_size(limit));
    routes.add_service(InvitationServiceServer::new(api.clone()).max_decoding_message_size(limit));
    routes.add_service(UserServiceServer::new(api.clone()).max_decoding_message_size(limit));
    routes.add_service(EventServiceServer::new(api.clone()).max_decoding_message_size(limit));
    routes.add_service(CheckServiceServer::new(api).max_decoding_message_size(limit));

    let drain = settings.drain;
    let in_hand = Arc::new(Semaphore::new(settings.max_concurrent_requests));
    let connections = Arc::new(Semaphore::new(settings.max_connections));
    let metrics = Arc::new(Metrics::new(roster.clone()));
    let streams = Arc::new(Semaphore::new(settings.max_streams));
    let stopping = CancellationToken::new();
    let shared =
        Shared { authenticator, settings, in_hand, streams, stopping: stopping.clone(), metrics: metrics.clone() };
    let shared = Arc::new(shared);
    let door = Door { routes: routes.routes().prepare(), shared };

    let upkeep = CancellationToken::new();
    let watch = tokio::spawn(watch_health(health.clone(), roster.clone(), upkeep.clone()));
    let tidy = tokio::spawn(tidy(roster.clone(), upkeep.clone()));
    let mail = tokio::spawn(send_mail(mailer, roster.clone(), upkeep.clone()));
    let followed = tokio::spawn(roster.index().follow(upkeep.clone()));
    let told = tokio::spawn(metrics::serve(metrics_listener, metrics));
    let open = GracefulShutdown::new();
    // Ends with this function, and with it every connection that is still open.
    let served = CancellationToken::new();
    let _cut = served.clone().drop_guard();
    tokio::select! {
        () = accept(&listener, &door, &connections, &open, &served) => {}
        () = stop.cancelled() => {}
    }
    upkeep.cancel();
    // The watcher first, so that it does not set back what is set here.
    let _ = watch.await;
    set_health(&health, ServingStatus::NotServing).await;
    tracing::info!("stopping: no new connections, what is under way may end");
    drop(listener);
    stopping.cancel();
    let ended = async {
        open.shutdown().await;
        roster.drain().await;
    };
    if tokio::time::timeout(drain, ended).await.is_err() {
        tracing::warn!("stopping: some calls did not end in time and are cut off");
    }
    followed.abort();
    tidy.abort();
    mail.abort();
    told.abort();
    Ok(())
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(grpc::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

async fn accept(
    listener: &TcpListener,
    door: &Door,
    connections: &Arc<Semaphore>,
    open: &GracefulShutdown,
    served: &CancellationToken,
) {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, or a peer that was gone at once: neither is a reason to stop serving.
                tracing::warn!(error = &error as &dyn std::error::Error, "a connection was not accepted");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = open.watch(connection(stream, door.clone()));
        let served = served.clone();
        tokio::spawn(async move {
            if let Some(Err(error)) = served.run_until_cancelled(connection).await {
                tracing::debug!(error = &*error, "a connection broke");
            }
            drop(permit);
        });
    }
}

type Connection =
    hyper_util::server::conn::auto::Connection<'static, TokioIo<TcpStream>, TowerToHyperService<Door>, TokioExecutor>;

fn connection(stream: TcpStream, door: Door) -> Connection {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection keeps its delay");
    }
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        // A peer that is gone without a word is noticed, and its connection given back.
        .keep_alive_interval(limits::KEEP_ALIVE)
        .keep_alive_timeout(limits::KEEP_ALIVE);
    builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(door)).into_owned()
}
