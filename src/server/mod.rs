//! The server: how serving begins and ends. What every request goes through is [`pipeline`], and
//! what the plainest goes through is [`fast_path`]; the threads that serve are
//! [`workers`]; what goes on beside the calls is [`upkeep`]; what is counted is [`metrics`].

mod connection;
mod fast_path;
pub mod limits;
pub mod metrics;
mod pipeline;
mod preflight;
mod upkeep;
mod workers;

use crate::authn::Authenticator;
use crate::grpc;
use crate::grpc::admit::Api;
use crate::grpc::pb::check_service_server::CheckServiceServer;
use crate::grpc::pb::event_service_server::EventServiceServer;
use crate::grpc::pb::invitation_service_server::InvitationServiceServer;
use crate::grpc::pb::organization_service_server::OrganizationServiceServer;
use crate::grpc::pb::user_service_server::UserServiceServer;
use crate::mail::Mailer;
use crate::service::Roster;
use metrics::Metrics;
use pipeline::{Pipeline, ServerState};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic_health::ServingStatus;
use upkeep::{send_mail, set_health, tidy, watch_health};
use workers::Workers;

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
    /// Threads that serve connections.
    pub workers: usize,
    /// How long a stop waits for what is under way.
    pub drain: Duration,
    /// Whether server reflection is served. It tells what the protos say, to anybody.
    pub reflection: bool,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            default_deadline: crate::grpc::limits::DEADLINE,
            max_deadline: crate::store::limits::STATEMENT,
            max_concurrent_requests: 1024,
            max_streams: limits::STREAMS,
            slow_reader: limits::SLOW_READER,
            max_connections: 4096,
            // One for each core that this process may use; one where that cannot be told.
            workers: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            drain: Duration::from_secs(10),
            reflection: true,
        }
    }
}

/// Why a server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The descriptors for reflection are broken, which no build of ours has.
    #[error("the descriptors of the protos cannot be read")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The system gives no threads.
    #[error("the threads that serve connections cannot be started")]
    Workers(#[source] std::io::Error),
}

/// Everything that a server needs to begin.
pub struct ServerParts {
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
/// Connections are served by threads of their own; writes and upkeep run in the runtime that this is called in.
///
/// # Errors
/// As [`ServerError`] says.
pub async fn serve(parts: ServerParts, stop: CancellationToken) -> Result<(), ServerError> {
    let ServerParts { listener, settings, roster, authenticator, mailer, metrics: metrics_listener } = parts;
    let (health, health_service) = tonic_health::server::health_reporter();
    set_health(&health, ServingStatus::NotServing).await;
    let mut routes = RoutesBuilder::default();
    routes.add_service(health_service);
    if settings.reflection {
        routes.add_service(reflection().build_v1()?);
        routes.add_service(reflection().build_v1alpha()?);
    }
    let api = Api::new(roster.clone());
    let limit = crate::grpc::limits::BULK_MESSAGE_BYTES;
    routes.add_service(OrganizationServiceServer::new(api.clone()).max_decoding_message_size(limit));
    routes.add_service(InvitationServiceServer::new(api.clone()).max_decoding_message_size(limit));
    routes.add_service(UserServiceServer::new(api.clone()).max_decoding_message_size(limit));
    routes.add_service(EventServiceServer::new(api.clone()).max_decoding_message_size(limit));
    routes.add_service(CheckServiceServer::new(api.clone()).max_decoding_message_size(limit));

    let (drain, workers) = (settings.drain, settings.workers);
    let calls = Arc::new(Semaphore::new(settings.max_concurrent_requests));
    let connections = Arc::new(Semaphore::new(settings.max_connections));
    let streams = Arc::new(Semaphore::new(settings.max_streams));
    let metrics = Arc::new(Metrics::new(roster.clone(), streams.clone(), settings.max_streams));
    let stopping = CancellationToken::new();
    let state =
        ServerState { authenticator, settings, calls, streams, stopping: stopping.clone(), metrics: metrics.clone() };
    let pipeline = Pipeline { routes: routes.routes().prepare(), api, state: Arc::new(state) };

    // Ends with this function, and with it every connection that is still open.
    let cut = CancellationToken::new();
    let _cut = cut.clone().drop_guard();
    let workers = Workers::start(workers, &pipeline, &cut).map_err(ServerError::Workers)?;

    let upkeep = CancellationToken::new();
    let watch = tokio::spawn(watch_health(health.clone(), roster.clone(), upkeep.clone()));
    let tidy = tokio::spawn(tidy(roster.clone(), upkeep.clone()));
    let mail = tokio::spawn(send_mail(mailer, roster.clone(), upkeep.clone()));
    let followed = tokio::spawn(roster.replica().follow(upkeep.clone()));
    let told = tokio::spawn(metrics::serve(metrics_listener, metrics));
    tokio::select! {
        () = accept(&listener, &workers, &connections) => {}
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
        workers.drain().await;
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

async fn accept(listener: &TcpListener, workers: &Workers, connections: &Arc<Semaphore>) {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let accepted = listener.accept().await.and_then(|(stream, _)| workers.serve(stream, permit));
        if let Err(error) = accepted {
            // Out of file descriptors, or a peer that was gone at once: neither is a reason to stop serving.
            tracing::warn!(error = &error as &dyn std::error::Error, "a connection was not accepted");
            tokio::time::sleep(limits::ACCEPT_PAUSE).await;
        }
    }
}
