//! Streams take a part of their connection: calls beside them are answered, and a stream beyond the part is refused at once.

use super::observers::{metric, scrape};
use super::rigs::{Session, soon};
use crate::harness::http2::{
    self, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, RST_STREAM, RawConnection, block,
};
use crate::harness::raw::{self, Call, frame};
use crate::harness::server::{Clients, Credential};
use crate::harness::{Database, Server, add, is_member};
use prost::Message;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::{ServerSettings, limits};
use std::time::Duration;
use tokio::time::timeout;
use tonic::codec::Streaming;
use tonic::codegen::tokio_stream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::ServerReflectionResponse;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

/// The streams of roster's methods that a connection may have open.
const STREAMS: usize = 128;
/// The health watches and reflection streams.
const STANDARD_STREAMS: usize = 8;

/// An open stream of any method.
#[expect(dead_code, reason = "a stream is open as long as it is kept")]
enum Open {
    Checks(Streaming<pb::StreamChecksResponse>),
    Memberships(Streaming<pb::WatchMembershipsResponse>),
    Events(Streaming<pb::WatchEventsResponse>),
    Health(Streaming<HealthCheckResponse>),
    Reflection(Streaming<ServerReflectionResponse>),
}

/// A client with one connection.
struct Peer {
    channel: Channel,
    clients: Clients,
}

impl Peer {
    async fn connect(server: &Server) -> Self {
        let channel = server.connect().await;
        let credential = server.credential(&[Scope::Check, Scope::Manage, Scope::Operator]);
        Self { clients: Clients::new(&channel, credential), channel }
    }

    /// Opens the next stream of roster: the methods take turns.
    async fn open(&self, number: usize) -> Result<Open, Status> {
        let opened = async {
            match number % 3 {
                0 => {
                    let questions = tokio_stream::pending::<pb::StreamChecksRequest>();
                    self.clients
                        .checks
                        .clone()
                        .stream_checks(questions)
                        .await
                        .map(|answer| Open::Checks(answer.into_inner()))
                }
                1 => {
                    let first = tokio_stream::once(pb::WatchMembershipsRequest::default());
                    let requests = tokio_stream::StreamExt::chain(first, tokio_stream::pending());
                    let watch = self.clients.checks.clone().watch_memberships(requests).await;
                    watch.map(|answer| Open::Memberships(answer.into_inner()))
                }
                _ => {
                    let watch = self.clients.events.clone().watch_events(pb::WatchEventsRequest::default()).await;
                    watch.map(|answer| Open::Events(answer.into_inner()))
                }
            }
        };
        timeout(Duration::from_secs(4), opened).await.expect("a stream is neither opened nor refused")
    }

    /// Opens the next stream of a standard service: the methods take turns.
    async fn open_standard(&self, number: usize) -> Result<Open, Status> {
        let opened = async {
            if number.is_multiple_of(2) {
                let watch = HealthClient::new(self.channel.clone()).watch(HealthCheckRequest::default()).await;
                watch.map(|answer| Open::Health(answer.into_inner()))
            } else {
                let mut reflection = ServerReflectionClient::new(self.channel.clone());
                let answer = reflection.server_reflection_info(tokio_stream::pending()).await;
                answer.map(|answer| Open::Reflection(answer.into_inner()))
            }
        };
        timeout(Duration::from_secs(4), opened).await.expect("a stream is neither opened nor refused")
    }

    /// Makes calls of every class, and asserts that each is answered.
    async fn assert_calls_pass(&mut self, organization: &str) {
        let calls = async {
            assert!(self.clients.is_member(organization, "ada").await);
            let requirement = Some(pb::consistency::Requirement::FullyConsistent(true));
            let consistency = Some(pb::Consistency { requirement });
            let check = pb::CheckMembershipRequest { consistency, ..is_member(organization, "ada") };
            self.clients.checks.check_membership(check).await.unwrap();
            let user = roster::random::uuid().to_string();
            self.clients.organizations.add_member(add(organization, &user, "member")).await.unwrap();
            let list = pb::ListMembersRequest { organization: organization.to_owned(), ..Default::default() };
            self.clients.organizations.list_members(list).await.unwrap();
            HealthClient::new(self.channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
        };
        timeout(Duration::from_secs(8), calls).await.expect("the calls beside the streams are not answered");
    }
}

/// Asserts that a stream was refused because of its connection, in a form by which client libraries wait.
fn assert_refused(outcome: Result<Open, Status>) {
    let status = outcome.err().expect("a stream beyond the part was opened");
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "200", "{status:?}");
    assert!(status.message().contains("connection"), "{status:?}");
    crate::harness::assert_refused::<()>(Err(status), Code::Unavailable, "OVERLOADED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_connection_refuses_streams_at_once_and_answers_every_call() {
    let server = Server::start().await;
    let organization = server.user("ada").create("Acme").await;
    let mut peer = Peer::connect(&server).await;
    let mut standard = Vec::new();
    for number in 0..STANDARD_STREAMS {
        standard.push(peer.open_standard(number).await.unwrap());
    }
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        streams.push(peer.open(number).await.unwrap());
    }
    peer.assert_calls_pass(&organization).await;
    for number in 0..STREAMS {
        assert_refused(peer.open(number).await);
        assert_refused(peer.open_standard(number).await);
    }
    peer.assert_calls_pass(&organization).await;
    // The caller has more room on another connection.
    let other = Peer::connect(&server).await;
    other.open(0).await.unwrap();
    other.open_standard(0).await.unwrap();
    // A stream that has ended leaves its place to the next one. It is a watch of events: tonic resets no stream whose
    // caller could still send.
    drop(streams.remove(STREAMS - 3));
    soon(async { while peer.open(0).await.is_err() {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_keeps_its_part_of_the_connection_until_its_last_byte_is_sent() {
    let settings = ServerSettings { slow_reader: Duration::from_millis(100), ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    let organization = server.user("ada").create("Acme").await;
    let session = Session::with_window(server.address, 16).await;
    let token = server.service_token("backend", &[Scope::Check]);
    let question =
        pb::StreamChecksRequest { organization: organization.clone(), user_id: "ada".to_owned(), ..Default::default() };
    let path = raw::path("CheckService/StreamChecks");
    let call = Call { body: frame(&question.encode_to_vec()).repeat(100), ..Call::grpc(&path, &[]).bearer(&token) };
    let mut unread = Vec::new();
    // The server ends each of these streams, in the middle of a message.
    for _ in 0..STREAMS {
        unread.push(session.start(&call, false).await.head().await);
    }
    soon(async { while metric(&scrape(&server).await, "roster_streams") != Some(0.0) {} }).await;
    for _ in 0..STREAMS {
        let refused = timeout(Duration::from_secs(4), async { session.start(&call, false).await.refusal().await });
        let refused = refused.await.expect("the stream is neither opened nor refused");
        assert_eq!(refused.reason.as_deref(), Some("OVERLOADED"));
    }
    let check =
        Call::grpc(&raw::path("CheckService/CheckMembership"), &is_member(&organization, "ada").encode_to_vec());
    let answered = async { session.start(&check.bearer(&token), true).await.head().await };
    let (head, _) = timeout(Duration::from_secs(4), answered).await.expect("the check is not answered");
    assert!(!head.contains_key("grpc-status"), "{head:?}");
}

/// Questions fill the window of each stream, because no answer is read. The window of the connection has room for all of
/// them, and for the message of a call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_questions_of_every_stream_leave_room_for_the_message_of_a_call() {
    let server = Server::start().await;
    let organization = server.user("ada").create("Acme").await;
    let authorization = format!("Bearer {}", server.service_token("backend", &[Scope::Check]));
    let mut connection = RawConnection::open(server.address, &[(INITIAL_WINDOW_SIZE, 0)]).await.unwrap();
    let question =
        pb::StreamChecksRequest { organization: organization.clone(), user_id: "ada".to_owned(), ..Default::default() };
    let question = raw::frame(&question.encode_to_vec());
    let window = usize::try_from(limits::STREAM_WINDOW).unwrap();
    let questions = question.repeat(window.div_ceil(question.len()));
    let stream = |number: usize| u32::try_from(2 * number + 1).unwrap();
    for number in 0..STREAMS {
        let head = block(&http2::call("/roster.v1.CheckService/StreamChecks", &authorization));
        let mut bytes = http2::frame(HEADERS, END_HEADERS, stream(number), &head);
        for piece in questions[..window].chunks(16 * 1024) {
            bytes.extend(http2::frame(DATA, 0, stream(number), piece));
        }
        connection.send(&bytes).await.unwrap();
    }
    let head = block(&http2::call("/roster.v1.CheckService/CheckMembership", &authorization));
    let message = raw::frame(&is_member(&organization, "ada").encode_to_vec());
    let call = stream(STREAMS);
    let bytes = [http2::frame(HEADERS, END_HEADERS, call, &head), http2::frame(DATA, END_STREAM, call, &message)];
    connection.send(&bytes.concat()).await.unwrap();
    loop {
        let frame = soon(connection.reading.next()).await.expect("the server has closed the connection");
        assert!(![GOAWAY, RST_STREAM].contains(&frame.kind), "{frame:?}");
        if frame.kind == HEADERS && frame.stream == call {
            // No status: the answer follows.
            assert!(!frame.has(END_STREAM), "{frame:?}");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_stream_has_the_delay_in_its_trailers() {
    let server = Server::start().await;
    let credential = Credential { token: Some(server.service_token("backend", &[Scope::Check])), on_behalf_of: None };
    let clients = Clients::new(&server.connect().await, credential);
    let first = Request::new(tokio_stream::once(pb::WatchMembershipsRequest::default()));
    let mut watch = clients.checks.clone().watch_memberships(first).await.unwrap().into_inner();
    soon(watch.message()).await.unwrap();
    server.begin_stop();
    let end = soon(async {
        loop {
            if let Err(status) = watch.message().await {
                return status;
            }
        }
    })
    .await;
    assert_eq!(end.metadata().get("grpc-retry-pushback-ms").unwrap(), "200", "{end:?}");
    crate::harness::assert_refused::<()>(Err(end), Code::Unavailable, "SERVER_STOPPING");
}
