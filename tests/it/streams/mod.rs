//! Streams: what they answer, how they end, and that they hold nobody up.

mod checks;
mod copy;
mod events;
mod export;
mod life;
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

/// How long anything may take that must happen.
const SOON: Duration = Duration::from_secs(20);

/// What must happen, soon.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("it never happened")
}

/// A stream of checks under way.
struct Checks {
    ask: Option<mpsc::Sender<pb::StreamChecksRequest>>,
    answers: Streaming<pb::StreamChecksResponse>,
}

impl Checks {
    async fn open(clients: &Clients) -> Self {
        Self::try_open(clients).await.unwrap()
    }

    async fn try_open(clients: &Clients) -> Result<Self, Status> {
        let (ask, questions) = mpsc::channel(1);
        let answers = clients.checks.clone().stream_checks(ReceiverStream::new(questions)).await?.into_inner();
        Ok(Self { ask: Some(ask), answers })
    }

    async fn ask(&self, question: pb::StreamChecksRequest) {
        self.ask.as_ref().unwrap().send(question).await.unwrap();
    }

    /// The next answer; none if the stream has ended well.
    async fn next(&mut self) -> Result<Option<pb::StreamChecksResponse>, Status> {
        soon(self.answers.message()).await
    }
}

/// A watch under way.
struct Watch {
    say: Option<mpsc::Sender<pb::WatchMembershipsRequest>>,
    told: Streaming<pb::WatchMembershipsResponse>,
}

impl Watch {
    async fn open(clients: &Clients, first: pb::WatchMembershipsRequest) -> Self {
        let (say, requests) = mpsc::channel(1);
        say.send(first).await.unwrap();
        let told = clients.checks.clone().watch_memberships(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Self { say: Some(say), told }
    }

    /// From a cursor, all there is.
    async fn from(clients: &Clients, cursor: &str) -> Self {
        Self::open(clients, pb::WatchMembershipsRequest { cursor: cursor.to_owned(), ..Default::default() }).await
    }

    async fn ping(&self, ping: i64) {
        let request = pb::WatchMembershipsRequest { ping, ..Default::default() };
        self.say.as_ref().unwrap().send(request).await.unwrap();
    }

    async fn try_next(&mut self) -> Result<Option<pb::WatchMembershipsResponse>, Status> {
        soon(self.told.message()).await
    }

    async fn next(&mut self) -> pb::WatchMembershipsResponse {
        self.try_next().await.unwrap().expect("the watch ended")
    }

    /// Everything up to the checkpoint that answers this ping.
    async fn until(&mut self, ping: i64) -> Vec<pb::WatchMembershipsResponse> {
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
