//! The server: what stands between a connection and a handler, in order; and how serving begins and ends.
//!
//! A request goes through [`Door::enter`] from top to bottom. The order is the point, so it is one function: nothing is
//! authenticated before the gate, no body is read before the caller is known. A test holds each step to its place.

use crate::auth::rules::{self, Method};
use crate::auth::{Authenticator, Caller};
use crate::domain::limits;
use crate::grpc::admit::{Api, Deadline, InHand};
use crate::grpc::pb::check_service_server::CheckServiceServer;
use crate::grpc::pb::invitation_service_server::InvitationServiceServer;
use crate::grpc::pb::organization_service_server::OrganizationServiceServer;
use crate::grpc::pb::user_service_server::UserServiceServer;
use crate::grpc::{self, pb, status};
use crate::mail::Mailer;
use crate::service::Roster;
use crate::world;
use futures_util::FutureExt;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method as Verb, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::{Routes, RoutesBuilder};
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::Service;
use tracing::Instrument;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Services that are not roster's own. They are public: they tell whether roster runs and what its protos say.
const STANDARD: [&str; 3] =
    ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

type Response = http::Response<Body>;

/// What every request goes through before a handler sees it.
#[derive(Clone)]
struct Door {
    routes: Routes,
    shared: Arc<Shared>,
}

struct Shared {
    authenticator: Authenticator,
    settings: ServerSettings,
    in_hand: Arc<Semaphore>,
}

impl Service<http::Request<Incoming>> for Door {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Routes are always ready, and what is too much is shed by name.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let door = self.clone();
        Box::pin(async move { Ok(door.enter(request.map(Body::new)).await) })
    }
}

impl Door {
    /// The steps, in order.
    async fn enter(self, request: http::Request<Body>) -> Response {
        // 1. A name for the request, on every line that is logged about it and on the answer.
        let id = request_id(request.headers());
        let span = tracing::info_span!("rpc", request_id = id, path = request.uri().path());
        // 2. What became of it, and how long it took.
        let begin = Instant::now();
        let limit = message_limit(request.uri().path());
        // 3. A panic is a fault like any other.
        let answered = AssertUnwindSafe(self.admit(request)).catch_unwind().instrument(span.clone()).await;
        let mut response = span.in_scope(|| {
            let response = answered.unwrap_or_else(|_| Err(Box::new(status::internal(&Panicked))));
            let response = response.map(|response| complete(response, limit));
            response.unwrap_or_else(|status| status.into_http())
        });
        let code = grpc_code(response.headers());
        span.in_scope(|| tracing::debug!(?code, micros = begin.elapsed().as_micros(), "answered"));
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }

    async fn admit(mut self, mut request: http::Request<Body>) -> Result<Response, Box<Status>> {
        // 4. The gate: gRPC, a path that we serve, nothing behind it.
        let method = match gate(&request) {
            Gate::Roster(method) => method,
            Gate::Standard => {
                self.shared.authenticate(request.headers()).await?;
                return Ok(self.handle(request).await);
            }
            Gate::Answered(response) => return Ok(response),
        };
        // 5. The deadline: from here on, nothing takes longer.
        let deadline = deadline(request.headers(), &self.shared.settings)?;
        // 6. More than this many at once are shed.
        let Ok(permit) = self.shared.in_hand.clone().try_acquire_owned() else {
            let message = "the server has more calls in hand than it takes: repeat";
            return Err(Box::new(status::unavailable(pb::ErrorReason::Overloaded, message)));
        };
        let in_hand = Arc::new(permit);
        let rest = async {
            // 7. Who is calling, from the headers alone.
            let caller = self.shared.authenticate(request.headers()).await?;
            // 8. Whether this kind of caller may call this method at all.
            rules::method_gate(&method.rule, &caller).map_err(|refusal| Box::new(status::refused(&refusal)))?;
            // 9. The handler, whose first act is the other half: the role in the organization that the message names.
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(Deadline(deadline));
            request.extensions_mut().insert(InHand(in_hand));
            Ok(self.handle(request).await)
        };
        timeout_at(deadline, rest).await.unwrap_or_else(|_| Err(Box::new(status::deadline_exceeded())))
    }

    async fn handle(&mut self, request: http::Request<Body>) -> Response {
        let Ok(response) = self.routes.call(request).await;
        response
    }
}

impl Shared {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Box<Status>> {
        let refused = |refusal| Box::new(status::refused(&refusal));
        self.authenticator.authenticate(headers).await.map_err(refused)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a handler panicked")]
struct Panicked;

/// The caller's own id for the request, if it is short and plain; else a random one.
fn request_id(headers: &HeaderMap) -> String {
    let plain = |id: &&str| {
        (1..=limits::REQUEST_ID_BYTES).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(plain);
    given.map_or_else(|| world::random_uuid().to_string(), str::to_owned)
}

enum Gate {
    Roster(&'static Method),
    Standard,
    Answered(Response),
}

fn gate(request: &http::Request<Body>) -> Gate {
    let refuse = |code: StatusCode| {
        let mut response = http::Response::new(Body::default());
        *response.status_mut() = code;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        Gate::Answered(response)
    };
    if request.method() != Verb::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED);
    }
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !matches!(content_type, "application/grpc" | "application/grpc+proto") {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let path = request.uri().path();
    match rules::method(path) {
        _ if request.uri().query().is_some() => Gate::Answered(status::unknown_method().into_http()),
        Some(method) => Gate::Roster(method),
        None if STANDARD.iter().any(|service| path.starts_with(service)) => Gate::Standard,
        None => Gate::Answered(status::unknown_method().into_http()),
    }
}

/// When the caller stops waiting: `grpc-timeout`, within what the settings allow.
fn deadline(headers: &HeaderMap, settings: &ServerSettings) -> Result<Instant, Box<Status>> {
    let mut given = headers.get_all(GRPC_TIMEOUT).iter();
    let timeout = match (given.next(), given.next()) {
        (None, _) => settings.default_deadline,
        (Some(value), None) => value.to_str().ok().and_then(parse_timeout).ok_or_else(bad_timeout)?,
        (Some(_), Some(_)) => return Err(Box::new(bad_timeout())),
    };
    Ok(Instant::now() + timeout.min(settings.max_deadline))
}

fn bad_timeout() -> Status {
    let sentence = "at most 8 digits and one of H, M, S, m, u, n, as in 500m";
    status::refused(&crate::domain::Refusal::field("grpc-timeout", sentence))
}

/// A `TimeoutValue TimeoutUnit` of the gRPC protocol over HTTP/2.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn grpc_code(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// How large a message the method of this path takes.
fn message_limit(path: &str) -> usize {
    match rules::method(path) {
        Some(method) if !method.bulk => limits::MESSAGE_BYTES,
        Some(_) | None => limits::BULK_MESSAGE_BYTES,
    }
}

/// Errors that tonic makes itself, before a handler is called, have no details: they get the reason that they stand for.
fn complete(response: Response, limit: usize) -> Response {
    let Some(code) = grpc_code(response.headers()).filter(|code| *code != Code::Ok) else { return response };
    if response.headers().contains_key(GRPC_DETAILS) {
        return response;
    }
    let status = match code {
        Code::OutOfRange | Code::ResourceExhausted => status::too_large(limit),
        Code::Unimplemented => status::unknown_method(),
        Code::Cancelled | Code::DeadlineExceeded => status::deadline_exceeded(),
        // Health, of a service that it does not know: its protocol says so, and roster's own errors are not meant.
        Code::NotFound => return response,
        // What tonic calls internal here is a body that breaks off or is no gRPC frame.
        _ => status::malformed(),
    };
    status.into_http()
}

/// How a server serves.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// How long a request may take that names no deadline.
    pub default_deadline: Duration,
    /// How long any request may take, whatever it says.
    pub max_deadline: Duration,
    /// Calls under way at once; what is more is shed with `OVERLOADED`.
    pub max_concurrent_requests: usize,
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
}

/// Serves until told to stop, then lets what is under way end, for a bounded time.
///
/// Health says `NOT_SERVING` until the schema is there and Postgres answers, while it does not, and as the first act of a
/// stop.
///
/// # Errors
/// If the descriptors for reflection are broken, which no build of ours has.
pub async fn serve(parts: Parts, stop: CancellationToken) -> Result<(), tonic_reflection::server::Error> {
    let Parts { listener, settings, roster, authenticator, mailer } = parts;
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
    routes.add_service(CheckServiceServer::new(api).max_decoding_message_size(limit));

    let drain = settings.drain;
    let in_hand = Arc::new(Semaphore::new(settings.max_concurrent_requests));
    let connections = Arc::new(Semaphore::new(settings.max_connections));
    let shared = Arc::new(Shared { authenticator, settings, in_hand });
    let door = Door { routes: routes.routes().prepare(), shared };

    let upkeep = CancellationToken::new();
    let watch = tokio::spawn(watch_health(health.clone(), roster.clone(), upkeep.clone()));
    let tidy = tokio::spawn(tidy(roster.clone(), upkeep.clone()));
    let mail = tokio::spawn(send_mail(mailer, roster.clone(), upkeep.clone()));
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
    let ended = async {
        open.shutdown().await;
        roster.drain().await;
    };
    if tokio::time::timeout(drain, ended).await.is_err() {
        tracing::warn!("stopping: some calls did not end in time and are cut off");
    }
    tidy.abort();
    mail.abort();
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

async fn set_health(health: &HealthReporter, serving: ServingStatus) {
    health.set_service_status("", serving).await;
    for service in services() {
        health.set_service_status(service, serving).await;
    }
}

fn services() -> impl Iterator<Item = &'static str> {
    let mut names: Vec<&str> = rules::METHODS.iter().map(|method| method.service).collect();
    names.dedup();
    names.into_iter()
}

/// Asks Postgres again and again, and tells health what it says.
async fn watch_health(health: HealthReporter, roster: Roster, stop: CancellationToken) {
    let mut serving = None;
    let mut migrated = false;
    let rounds = async {
        loop {
            let asked = tokio::time::timeout(limits::HEALTH_TIMEOUT, ask(&roster, &mut migrated)).await;
            let now = if matches!(asked, Ok(Ok(true))) { ServingStatus::Serving } else { ServingStatus::NotServing };
            if serving != Some(now) {
                tell(&asked, now);
                set_health(&health, now).await;
                serving = Some(now);
            }
            tokio::time::sleep(limits::HEALTH_EVERY).await;
        }
    };
    tokio::select! {
        () = rounds => {}
        () = stop.cancelled() => {}
    }
}

type Asked = Result<Result<bool, crate::store::StoreError>, tokio::time::error::Elapsed>;

fn tell(asked: &Asked, now: ServingStatus) {
    match asked {
        Ok(Ok(true)) => tracing::info!("health: {now}"),
        Ok(Ok(false)) => tracing::warn!("health: {now}: migrations are missing; run `roster migrate`"),
        Ok(Err(error)) => {
            tracing::warn!(error = error as &dyn std::error::Error, "health: {now}: the datastore does not answer");
        }
        Err(_) => tracing::warn!("health: {now}: the datastore does not answer in time"),
    }
}

async fn ask(roster: &Roster, migrated: &mut bool) -> Result<bool, crate::store::StoreError> {
    use crate::store::pool;
    if *migrated {
        pool::ping(roster.pool()).await?;
    } else {
        *migrated = pool::is_migrated(roster.pool()).await?;
    }
    Ok(*migrated)
}

/// Sends what waits in the outbox, if mail is sent at all.
async fn send_mail(mailer: Option<Mailer>, roster: Roster, stop: CancellationToken) {
    let Some(mailer) = mailer else { return };
    let claim = || roster.claim_letter();
    let settle = |id, sent| roster.settle_letter(id, sent);
    crate::mail::worker::run(&mailer, claim, settle, roster.mail_due(), &stop).await;
}

/// Tidies now and then.
async fn tidy(roster: Roster, stop: CancellationToken) {
    let rounds = async {
        loop {
            tokio::time::sleep(limits::TIDY_EVERY).await;
            match roster.tidy().await {
                Ok(tidied) if tidied == crate::service::housekeeping::Tidied::default() => {}
                Ok(tidied) => tracing::info!(?tidied, "tidied"),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "tidying failed"),
            }
        }
    };
    tokio::select! {
        () = rounds => {}
        () = stop.cancelled() => {}
    }
}
