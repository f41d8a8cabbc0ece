//! Streams: what they answer, how they end, and that they hold nobody up.

mod checks;
mod life;
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

fn question(organization: &str, user: &str) -> pb::StreamChecksRequest {
    pb::StreamChecksRequest { organization: organization.to_owned(), user_id: user.to_owned(), ..Default::default() }
}
