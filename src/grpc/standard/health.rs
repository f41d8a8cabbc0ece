//! The health service: `grpc.health.v1.Health`.
//!
//! All services of roster and the server itself (the empty name) have the same status: each of them needs Postgres.

use super::messages::health_check_response::ServingStatus;
use super::messages::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use super::servers::health::health_server;
use crate::authz::rules;
use crate::grpc::admit::stream::StreamContext;
use crate::grpc::{limits, status};
use crate::service::CallPermit;
use futures_util::stream::unfold;
use std::pin::Pin;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status, async_trait};

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
pub struct Health(watch::Sender<HealthState>);

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A health that is [`HealthState::NotServing`].
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(HealthState::NotServing))
    }

    /// Reports a state to all later calls and to all watches. After [`HealthState::Stopping`] it has no effect.
    pub fn report(&self, state: HealthState) {
        self.0.send_if_modified(|current| {
            let changes = *current != state && *current != HealthState::Stopping;
            if changes {
                *current = state;
            }
            changes
        });
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
        Ok(Response::new(response(self.0.borrow().of(true))))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let status = response(self.0.borrow().of(true));
        let services = rules::METHODS.iter().map(|method| method.service).chain([""]);
        let statuses = services.map(|service| (service.to_owned(), status)).collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let context = request.extensions().get::<StreamContext>();
        let watch = HealthWatch {
            state: self.0.subscribe(),
            known: is_known(&request.get_ref().service),
            sent: None,
            until: context.and_then(|context| context.until),
            stopping: context.map(|context| context.stopping.clone()).unwrap_or_default(),
            ended: false,
            _permit: context.map(|context| context.permit.clone()),
        };
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
    /// Cancelled when the server stops, and when the connection ends because of its age.
    stopping: CancellationToken,
    /// Whether the last item of the stream was sent.
    ended: bool,
    _permit: Option<CallPermit>,
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

/// Waits for a change of the state. Returns the status to end with, if the deadline or the end of the connection comes
/// first.
async fn changed(watch: &mut HealthWatch) -> Option<Status> {
    // Every server that runs holds the other end.
    let changed = async { watch.state.changed().await.err().map(|_| status::server_stopping()) };
    let changed = async {
        tokio::select! {
            // A stop changes the state first: the watch reports it before it ends.
            biased;
            end = changed => end,
            () = watch.stopping.cancelled() => Some(status::server_stopping()),
        }
    };
    match watch.until {
        Some(until) => timeout_at(until, changed).await.unwrap_or_else(|_| Some(status::deadline_exceeded())),
        None => changed.await,
    }
}

#[cfg(test)]
mod tests {
    use super::health_server::Health as _;
    use super::*;
    use futures_util::StreamExt;
    use tonic::Code;

    async fn watch(health: &Health) -> WatchStream {
        health.watch(Request::new(HealthCheckRequest::default())).await.unwrap().into_inner()
    }

    type WatchStream = <Health as health_server::Health>::WatchStream;

    async fn status(watch: &mut WatchStream) -> Option<Result<ServingStatus, Code>> {
        let item = watch.next().await?;
        Some(item.map(|response| response.status()).map_err(|status| status.code()))
    }

    #[tokio::test]
    async fn a_list_has_the_server_and_every_service_with_the_present_status() {
        let health = Health::new();
        for (state, expected) in [
            (HealthState::NotServing, ServingStatus::NotServing),
            (HealthState::Serving, ServingStatus::Serving),
            (HealthState::Stopping, ServingStatus::NotServing),
        ] {
            health.report(state);
            let list = health.list(Request::new(HealthListRequest {})).await.unwrap().into_inner().statuses;
            assert!(list.len() > 2 && list.keys().all(|service| is_known(service)) && list.contains_key(""));
            assert!(rules::METHODS.iter().all(|method| list.contains_key(method.service)));
            assert!(list.values().all(|answer| answer.status() == expected), "{list:?}");
        }
    }

    #[tokio::test]
    async fn a_watch_sends_changes_only_and_ends_with_the_stop() {
        let health = Health::new();
        let mut watch = watch(&health).await;
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
