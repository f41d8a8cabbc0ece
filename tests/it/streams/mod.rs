//! Streams: their answers, their ends, and their isolation from other calls.

mod checks;
mod events;
mod export;
mod filters;
mod large;
mod life;
pub mod memberships;
mod roles;
mod slow;
mod watch;
pub mod writers;

use crate::harness::server::Clients;
use roster::grpc::pb;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::codec::Streaming;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

/// Maximum time of an expected event.
const SOON: Duration = Duration::from_secs(20);

/// Waits for an expected event. Panics if it takes too long.
pub async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, event).await.expect("the event did not happen in time")
}

/// An open stream of checks.
struct Checks {
    /// Sends questions; `None` after the client has ended its side.
    questions: Option<mpsc::Sender<pb::StreamChecksRequest>>,
    answers: Streaming<pb::StreamChecksResponse>,
}

impl Checks {
    async fn open(clients: &Clients) -> Self {
        Self::try_open(clients).await.unwrap()
    }

    async fn try_open(clients: &Clients) -> Result<Self, Status> {
        let (sender, questions) = mpsc::channel(1);
        let answers = clients.checks.clone().stream_checks(ReceiverStream::new(questions)).await?.into_inner();
        Ok(Self { questions: Some(sender), answers })
    }

    async fn ask(&self, question: pb::StreamChecksRequest) {
        self.questions.as_ref().unwrap().send(question).await.unwrap();
    }

    /// The next answer; `None` if the stream ended without an error.
    async fn next(&mut self) -> Result<Option<pb::StreamChecksResponse>, Status> {
        soon(self.answers.message()).await
    }
}

/// An open watch of memberships.
pub struct Watch {
    /// Sends requests; `None` after the client has ended its side.
    requests: Option<mpsc::Sender<pb::WatchMembershipsRequest>>,
    responses: Streaming<pb::WatchMembershipsResponse>,
}

impl Watch {
    pub async fn open(clients: &Clients, first: pb::WatchMembershipsRequest) -> Self {
        let (sender, requests) = mpsc::channel(1);
        sender.send(first).await.unwrap();
        let responses =
            clients.checks.clone().watch_memberships(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Self { requests: Some(sender), responses }
    }

    /// Watches all memberships from a cursor.
    pub async fn from(clients: &Clients, cursor: &str) -> Self {
        Self::open(clients, pb::WatchMembershipsRequest { cursor: cursor.to_owned(), ..Default::default() }).await
    }

    async fn ping(&self, ping: i64) {
        let request = pb::WatchMembershipsRequest { ping, ..Default::default() };
        self.requests.as_ref().unwrap().send(request).await.unwrap();
    }

    pub async fn try_next(&mut self) -> Result<Option<pb::WatchMembershipsResponse>, Status> {
        soon(self.responses.message()).await
    }

    /// The next message.
    pub async fn next(&mut self) -> pb::WatchMembershipsResponse {
        self.try_next().await.unwrap().expect("the watch ended")
    }

    /// Sends a ping, and returns all messages up to the checkpoint that answers it.
    pub async fn until(&mut self, ping: i64) -> Vec<pb::WatchMembershipsResponse> {
        self.ping(ping).await;
        let mut all = Vec::new();
        loop {
            let message = self.next().await;
            let answered = message.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.ping == ping);
            all.push(message);
            if answered {
                return all;
            }
        }
    }
}

fn question(organization: &str, user: &str) -> pb::StreamChecksRequest {
    pb::StreamChecksRequest { organization: organization.to_owned(), user_id: user.to_owned(), ..Default::default() }
}
