//! The server: start, serve, stop.
//!
//! A connection is served by one of the [`workers`]. Each of its requests passes the [`preflight`], then takes the
//! [`fast_path`] or the [`pipeline`] ([`http2`]). Health, housekeeping and mail run beside the calls ([`upkeep`]), and
//! so does the comparison of the access model ([`expected_model`]);
//! [`metrics`] counts them all.

mod connection_state;
mod connections;
pub mod expected_model;
mod fast_path;
mod http2;
pub mod limits;
pub mod listener;
mod message;
pub mod metrics;
mod opening;
mod other_protocols;
mod peer_socket;
mod peer_stream;
mod peers;
mod pipeline;
mod preflight;
mod proxy_protocol;
mod request_body;
mod shares;
mod state;
mod stream_record;
pub mod tls;
mod trusted_proxies;
mod upkeep;
mod wasted_calls;
mod workers;

use crate::authn::Authenticator;
use crate::grpc::admit::Api;
use crate::grpc::admit::stream::{StreamBudget, StreamShares};
use crate::grpc::heavy::HeavyCalls;
use crate::grpc::pb::access_model_service_server::AccessModelServiceServer;
use crate::grpc::pb::check_service_server::CheckServiceServer;
use crate::grpc::pb::event_service_server::EventServiceServer;
use crate::grpc::pb::invitation_service_server::InvitationServiceServer;
use crate::grpc::pb::organization_service_server::OrganizationServiceServer;
use crate::grpc::pb::role_service_server::RoleServiceServer;
use crate::grpc::pb::user_service_server::UserServiceServer;
use crate::grpc::standard::{DescriptorError, Health, HealthState, Reflection};
use crate::limited_log::LimitedLog;
use crate::mail::Mailer;
use crate::service::Roster;
use connections::Connections;
use expected_model::{ExpectedModel, compare_models};
use listener::Listener;
use metrics::Metrics;
use peers::Peers;
use pipeline::Pipeline;
use shares::ServerShares;
use state::ServerState;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tls::{ServerTls, watch_expiry};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
pub use trusted_proxies::TrustedProxies;
use upkeep::{refresh_keys, send_mail, tidy, watch_health};
use workers::{ConnectionService, Workers};

/// The settings of a server.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The deadline of a request that names none.
    pub default_deadline: Duration,
    /// The longest deadline that a request may have.
    pub max_deadline: Duration,
    /// The number of reads, of writes, and of checks that wait for Postgres under way at once; further calls are refused
    /// with `OVERLOADED`. Checks count on each worker.
    pub max_concurrent_requests: usize,
    /// The number of streams open at once; further streams are refused with `OVERLOADED`.
    pub max_streams: usize,
    /// The number of streams that one caller may have open; further ones are refused with `OVERLOADED`. `None`: half of
    /// `max_streams`.
    pub max_streams_per_caller: Option<usize>,
    /// The bytes that the requests of all calls may take, as roster counts them.
    pub request_memory: usize,
    /// The bytes of all responses that wait to be sent.
    pub response_memory: usize,
    /// The time that a stream waits for a caller who does not read.
    pub slow_reader: Duration,
    /// The number of connections open at once; further connections wait to be accepted.
    pub max_connections: usize,
    /// The number of connections that one peer address has open at once; `None` for a quarter of `max_connections`. It does
    /// not apply to trusted proxies.
    pub max_connections_per_address: Option<usize>,
    /// Whether connections of trusted proxies begin with a PROXY header, which names the address of the client.
    pub proxy_protocol: bool,
    /// The addresses of proxies, which stand for many peers.
    pub trusted_proxies: TrustedProxies,
    /// TLS of the listener; `None` for plaintext.
    pub tls: Option<ServerTls>,
    /// The number of threads that serve connections.
    pub workers: usize,
    /// The age at which a connection ends, up to a tenth earlier or later; `None` for no maximum. New calls then come over
    /// other connections; the calls under way go on.
    pub max_connection_age: Option<Duration>,
    /// The time between the age of a connection and the end of its streams, with `SERVER_STOPPING`. Half a second later the
    /// connection is closed, with the calls that are still under way.
    pub connection_age_grace: Duration,
    /// The time between `NOT_SERVING` and the end of the listener at a stop. New connections and calls are served in it.
    pub lame_duck: Duration,
    /// The time that a stop waits for calls under way.
    pub drain: Duration,
    /// Whether server reflection is served. It shows the protos to every caller, anonymous ones included.
    pub reflection: bool,
    /// The access model that a file names, which is compared with the stored one.
    pub expected_model: ExpectedModel,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            default_deadline: crate::grpc::limits::DEADLINE,
            max_deadline: crate::store::limits::STATEMENT,
            max_concurrent_requests: 1024,
            max_streams: limits::STREAMS,
            max_streams_per_caller: None,
            request_memory: limits::REQUEST_BYTES,
            response_memory: limits::RESPONSE_BYTES,
            slow_reader: limits::SLOW_READER,
            max_connections: 4096,
            max_connections_per_address: None,
            proxy_protocol: false,
            trusted_proxies: TrustedProxies::default(),
            tls: None,
            // One for each core that this process may use; one where the number is unknown.
            workers: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            max_connection_age: Some(limits::CONNECTION_AGE),
            connection_age_grace: limits::CONNECTION_AGE_GRACE,
            lame_duck: Duration::ZERO,
            drain: Duration::from_secs(10),
            reflection: true,
            expected_model: ExpectedModel::default(),
        }
    }
}

impl ServerSettings {
    /// The number of connections that one peer address may have open at once.
    #[must_use]
    pub fn connections_per_address(&self) -> usize {
        self.max_connections_per_address.unwrap_or_else(|| (self.max_connections / limits::ADDRESS_SHARE).max(1))
    }

    /// The most memory that the peers can make the server take, in bytes, beside the replica and what an idle server
    /// takes. `docs/operations.md` explains the terms.
    #[must_use]
    pub fn peer_memory(&self) -> usize {
        let connections = self.max_connections + limits::ENDING_CONNECTIONS;
        let tls = if self.tls.is_some() { limits::TLS_BYTES } else { 0 };
        connections * (limits::CONNECTION_BYTES + tls)
            + self.request_memory * limits::DECODED_EXCESS
            + self.response_memory * limits::RESPONSE_EXCESS
            + self.max_streams * limits::STREAM_MEMORY
            + limits::STREAM_BYTES
    }
}

/// The reason why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The descriptors for reflection cannot be read: a fault in the build.
    #[error(transparent)]
    Reflection(#[from] DescriptorError),
    /// The system refused to start a thread.
    #[error("the threads that serve connections cannot be started")]
    Workers(#[source] std::io::Error),
}

/// Everything that a server needs to start.
pub struct ServerParts {
    /// The listener of the gRPC services.
    pub listener: Listener,
    /// The settings of the server.
    pub settings: ServerSettings,
    /// The service that the handlers call.
    pub roster: Roster,
    /// Authenticates the callers.
    pub authenticator: Authenticator,
    /// Sends mail; `None` if mail is switched off.
    pub mailer: Option<Mailer>,
    /// The listener of the metrics endpoint (HTTP); `None` for no endpoint.
    pub metrics: Option<TcpListener>,
}

/// Serves until `stop` is cancelled, then waits for calls under way to end, for a bounded time.
///
/// Health reports `NOT_SERVING` until the schema is present and Postgres answers, while Postgres does not answer, and from
/// the first step of a stop. The listener closes after the lame-duck time.
///
/// Worker threads serve the connections; writes and upkeep run in the runtime that calls this function.
///
/// # Errors
/// See [`ServerError`].
pub async fn serve(parts: ServerParts, stop: CancellationToken) -> Result<(), ServerError> {
    let ServerParts { listener, settings, roster, authenticator, mailer, metrics: metrics_listener } = parts;
    let health = Health::new();
    let mut routes = RoutesBuilder::default();
    routes.add_service(health.server());
    if settings.reflection {
        let reflection = Reflection::new()?;
        routes.add_service(reflection.server());
        routes.add_service(reflection.former_server());
    }
    let roster = roster.with_profile_sources(authenticator.profile_sources());
    let api = Api::new(roster.clone());
    add_services(&mut routes, &api);

    let (lame_duck, drain) = (settings.lame_duck, settings.drain);
    let (workers, most) = (settings.workers, settings.max_connections);
    let shares = ServerShares::new(&settings);
    let metrics = Arc::new(Metrics::new(roster.clone(), shares.clone(), authenticator.clone(), settings.tls.clone()));
    let stopping = CancellationToken::new();
    let connections = Connections::new(stopping.clone(), settings.max_connection_age);
    let peers = Arc::new(Peers::new(&settings));
    // Half, so that one caller locks no other one out.
    let share = settings.max_streams_per_caller.unwrap_or((settings.max_streams / 2).max(1));
    let state = ServerState {
        authenticator: authenticator.clone(),
        peers,
        closed_log: LimitedLog::default(),
        settings,
        stream_shares: StreamShares::new(share),
        stream_budget: StreamBudget::server(limits::STREAM_BYTES),
        stopping: stopping.clone(),
        metrics: metrics.clone(),
    };
    let pipeline = Pipeline { routes: routes.routes().prepare(), api, state: Arc::new(state) };
    let service = ConnectionService { pipeline, shares, connections };

    // Cancelled when this function returns: that closes every connection that is still open.
    let cut = CancellationToken::new();
    let _cut = cut.clone().drop_guard();
    let workers = Workers::start(workers, &service, &cut).map_err(ServerError::Workers)?;

    let upkeep = CancellationToken::new();
    // They are aborted when this function returns.
    let mut background = JoinSet::new();
    background.spawn(refresh_keys(authenticator));
    background.spawn(tidy(roster.clone(), upkeep.clone()));
    background.spawn(watch_expiry(service.pipeline.state.settings.tls.clone(), upkeep.clone()));
    background.spawn(send_mail(mailer, roster.clone(), upkeep.clone()));
    background.spawn(roster.replica().follow(upkeep.clone()));
    let expected_model = service.pipeline.state.settings.expected_model.clone();
    background.spawn(compare_models(expected_model, roster.clone(), metrics.clone(), upkeep.clone()));
    background.spawn(metrics::serve(metrics_listener, metrics));
    tokio::select! {
        () = accept(&listener, &service, &workers, most) => {}
        () = report_health(&health, &roster, &stop, lame_duck) => {}
    }
    upkeep.cancel();
    health.report(HealthState::Stopping);
    tracing::info!("stopping: no new connections, waiting for calls under way");
    drop(listener);
    stopping.cancel();
    let ended = async {
        workers.drain().await;
        roster.drain().await;
    };
    if tokio::time::timeout(drain, ended).await.is_err() {
        tracing::warn!("stopping: some calls did not end in time, closing their connections");
    }
    Ok(())
}

/// Reports the health until the stop, and `NOT_SERVING` for the lame-duck time after it.
async fn report_health(health: &Health, roster: &Roster, stop: &CancellationToken, lame_duck: Duration) {
    let watching = CancellationToken::new();
    let watch = tokio::spawn(watch_health(health.clone(), roster.clone(), watching.clone()));
    stop.cancelled().await;
    watching.cancel();
    // The watcher ends first, so that it does not overwrite the status set here.
    let _ = watch.await;
    health.report(HealthState::NotServing);
    if !lame_duck.is_zero() {
        tracing::info!(lame_duck_ms = lame_duck.as_millis(), "not serving: new connections are still accepted");
        tokio::time::sleep(lame_duck).await;
    }
}

/// Adds roster's own services. Their heavy calls run in the runtime of this function's caller.
fn add_services(routes: &mut RoutesBuilder, api: &Api) {
    let limit = crate::grpc::limits::BULK_MESSAGE_BYTES;
    let runtime = Handle::current();
    macro_rules! add {
        ($($server:ident),+) => {$(
            let service = $server::new(api.clone()).max_decoding_message_size(limit);
            routes.add_service(HeavyCalls::new(service, runtime.clone()));
        )+};
    }
    add!(OrganizationServiceServer, InvitationServiceServer, UserServiceServer, EventServiceServer, CheckServiceServer);
    add!(AccessModelServiceServer, RoleServiceServer);
}

/// The server has as many connections as it may have.
#[derive(Debug, thiserror::Error)]
#[error("the server has as many connections as it may have; see max_connections")]
struct ServerFull;

/// Accepts connections. Above `most` open connections, a further one is closed at once.
async fn accept(listener: &Listener, service: &ConnectionService, workers: &Workers, most: usize) {
    let ConnectionService { pipeline, connections, .. } = service;
    // Those that were evicted have a moment to end.
    let places = Arc::new(Semaphore::new(most + limits::ENDING_CONNECTIONS));
    loop {
        let accepted = listener.accept().await.and_then(|(socket, address)| {
            pipeline.state.count_evicted(connections.make_room(None, most));
            match places.clone().try_acquire_owned() {
                Ok(place) if connections.count() < most => workers.serve(socket, address, place),
                Ok(_) | Err(_) => {
                    pipeline.state.refuse_connection(address, "limit", &ServerFull);
                    Ok(())
                }
            }
        });
        if let Err(error) = accepted {
            // Out of file descriptors, or a peer that closed at once: the server goes on.
            tracing::warn!(error = &error as &dyn std::error::Error, "a connection could not be accepted");
            tokio::time::sleep(limits::ACCEPT_PAUSE).await;
        }
    }
}
