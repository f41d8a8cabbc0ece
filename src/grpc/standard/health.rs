//! The health service: `grpc.health.v1.Health`.
//!
//! All services of roster and the server itself (the empty name) have the same status: each of them needs Postgres.

use super::servers::health::health_server;
use crate::authz::rules;
use crate::domain::Refusal;
use crate::grpc::admit::stream::StreamContext;
use crate::grpc::{limits, status};
use futures_util::stream::unfold;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status, async_trait};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// What a server reports about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// The server cannot answer calls: Postgres does not answer, or migrations are missing.
    NotServing,
    /// The server answers calls.
    Serving,
    /// The server stops. Watches report `NOT_SERVING` and end. No other state follows.
    Stopping,
}

/// The health of a server, and the service that reports it. Clones share one state.
#[derive(Debug, Clone)]
pub struct Health(Arc<HealthService>);

#[derive(Debug)]
struct HealthService {
    state: watch::Sender<HealthState>,
    /// A permit for each watch that may be open.
    watches: Arc<Semaphore>,
    /// The number of these permits, taken or not.
    limit: usize,
}

/// The watches that one connection may have open: a request extension that all calls of a connection share. A call
/// without it has only the limit in all.
#[derive(Debug, Clone)]
pub struct ConnectionWatches(Arc<Semaphore>);

impl Default for ConnectionWatches {
    /// No watch is open; at most [`limits::WATCHES_PER_CONNECTION`] can be.
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(limits::WATCHES_PER_CONNECTION)))
    }
}

impl Health {
    /// A health that is [`HealthState::NotServing`], with at most this number of open watches.
    #[must_use]
    pub fn new(watches: usize) -> Self {
        let state = watch::Sender::new(HealthState::NotServing);
        // A semaphore holds no more permits than this.
        let limit = watches.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(HealthService { state, watches: Arc::new(Semaphore::new(limit)), limit }))
    }

    /// Reports a state to all later calls and to all watches. After [`HealthState::Stopping`] it has no effect.
    pub fn report(&self, state: HealthState) {
        self.0.state.send_if_modified(|current| {
            let changes = *current != state && *current != HealthState::Stopping;
            if changes {
                *current = state;
            }
            changes
        });
    }

    /// The number of open watches.
    #[must_use]
    pub fn open_watches(&self) -> usize {
        self.0.limit.saturating_sub(self.0.watches.available_permits())
    }

    /// The gRPC service.
    #[must_use]
    pub fn server(&self) -> health_server::HealthServer<Self> {
        health_server::HealthServer::new(self.clone()).max_decoding_message_size(limits::STANDARD_MESSAGE_BYTES)
    }
}

/// Whether roster serves a service of this name. The empty name is the server itself.
fn is_known(service: &str) -> bool {
    service.is_empty() || rules::METHODS.iter().any(|method| method.service == service)
}

impl HealthState {
    fn of(self, known: bool) -> ServingStatus {
        match self {
            Self::Serving if known => ServingStatus::Serving,
            // A service that nothing here serves. Services are never added to a running server, so only the stop
            // follows.
            Self::Serving | Self::NotServing if !known => ServingStatus::ServiceUnknown,
            Self::Serving | Self::NotServing | Self::Stopping => ServingStatus::NotServing,
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_known(&request.get_ref().service) {
            return Err(Status::not_found("no service of this name is served here"));
        }
        Ok(Response::new(response(self.0.state.borrow().of(true))))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let overloaded = |_| status::refused(&Refusal::Overloaded);
        let extensions = request.extensions();
        let connection = extensions.get::<ConnectionWatches>().map(|watches| watches.0.clone().try_acquire_owned());
        let watch = HealthWatch {
            state: self.0.state.subscribe(),
            known: is_known(&request.get_ref().service),
            sent: None,
            until: extensions.get::<StreamContext>().and_then(|context| context.until),
            ended: false,
            _connection: connection.transpose().map_err(overloaded)?,
            _permit: self.0.watches.clone().try_acquire_owned().map_err(overloaded)?,
        };
        // The request ends here, and with it the place among the calls under way: a watch has its own limits.
        Ok(Response::new(Box::pin(unfold(watch, next))))
    }
}

/// An open watch. It holds no more than this: there may be as many as there are connections.
struct HealthWatch {
    state: watch::Receiver<HealthState>,
    /// Whether the service is one of roster.
    known: bool,
    /// The status that was sent last.
    sent: Option<ServingStatus>,
    /// The deadline of the caller, if the request has one.
    until: Option<Instant>,
    /// Whether the last item of the stream was sent.
    ended: bool,
    _connection: Option<OwnedSemaphorePermit>,
    _permit: OwnedSemaphorePermit,
}

/// Waits for the next item of a watch: a status other than the one before, or the reason for the end. The reason is an
/// error, so that clients connect to another server; a clean end means the same to them.
async fn next(mut watch: HealthWatch) -> Option<(Result<HealthCheckResponse, Status>, HealthWatch)> {
    if watch.ended {
        return None;
    }
    loop {
        let state = *watch.state.borrow_and_update();
        let status = state.of(watch.known);
        if watch.sent.replace(status) != Some(status) {
            return Some((Ok(response(status)), watch));
        }
        let end =
            if state == HealthState::Stopping { Some(status::server_stopping()) } else { changed(&mut watch).await };
        if let Some(end) = end {
            watch.ended = true;
            return Some((Err(end), watch));
        }
    }
}

/// Waits for a change of the state. Returns the status to end with, if the deadline comes first.
async fn changed(watch: &mut HealthWatch) -> Option<Status> {
    let changed = watch.state.changed();
    let changed = match watch.until {
        Some(until) => timeout_at(until, changed).await.map_err(|_| status::deadline_exceeded()),
        None => Ok(changed.await),
    };
    match changed {
        Ok(Ok(())) => None,
        // Every server that runs holds the other end.
        Ok(Err(_)) => Some(status::server_stopping()),
        Err(status) => Some(status),
    }
}

#[cfg(test)]
mod tests {
    use super::health_server::Health as _;
    use super::*;
    use futures_util::StreamExt;
    use tonic::Code;

    async fn watch(health: &Health, connection: Option<&ConnectionWatches>) -> Result<WatchStream, Code> {
        let mut request = Request::new(HealthCheckRequest::default());
        if let Some(connection) = connection {
            request.extensions_mut().insert(connection.clone());
        }
        health.watch(request).await.map(Response::into_inner).map_err(|status| status.code())
    }

    type WatchStream = <Health as health_server::Health>::WatchStream;

    async fn status(watch: &mut WatchStream) -> Option<Result<ServingStatus, Code>> {
        let item = watch.next().await?;
        Some(item.map(|response| response.status()).map_err(|status| status.code()))
    }

    #[tokio::test]
    async fn watches_are_bounded_in_all_and_by_connection() {
        let (health, connection) = (Health::new(limits::WATCHES_PER_CONNECTION + 1), ConnectionWatches::default());
        let mut open = Vec::new();
        for _ in 0..limits::WATCHES_PER_CONNECTION {
            open.push(watch(&health, Some(&connection)).await.unwrap());
        }
        assert_eq!(watch(&health, Some(&connection)).await.err(), Some(Code::Unavailable));
        assert_eq!(health.open_watches(), limits::WATCHES_PER_CONNECTION);
        // Another connection has room for one more, until the limit in all.
        let other = ConnectionWatches::default();
        open.push(watch(&health, Some(&other)).await.unwrap());
        assert_eq!(watch(&health, Some(&other)).await.err(), Some(Code::Unavailable));
        assert_eq!(watch(&health, None).await.err(), Some(Code::Unavailable));
        // A refused watch takes nothing.
        open.pop();
        open.push(watch(&health, Some(&other)).await.unwrap());
        open.clear();
        assert_eq!(health.open_watches(), 0);
        assert!(watch(&health, Some(&connection)).await.is_ok());
    }

    #[tokio::test]
    async fn a_watch_sends_changes_only_and_ends_with_the_stop() {
        let health = Health::new(1);
        let mut watch = watch(&health, None).await.unwrap();
        assert_eq!(status(&mut watch).await, Some(Ok(ServingStatus::NotServing)));
        health.report(HealthState::Serving);
        assert_eq!(status(&mut watch).await, Some(Ok(ServingStatus::Serving)));
        // Only the newest state is sent.
        health.report(HealthState::NotServing);
        health.report(HealthState::Serving);
        health.report(HealthState::NotServing);
        assert_eq!(status(&mut watch).await, Some(Ok(ServingStatus::NotServing)));
        health.report(HealthState::Stopping);
        health.report(HealthState::Serving);
        assert_eq!(status(&mut watch).await, Some(Err(Code::Unavailable)));
        assert_eq!(status(&mut watch).await, None);
    }
}
