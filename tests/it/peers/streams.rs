//! Streams and exports that their callers do not read: they end in time, hold few bytes, and leave room for others.

use crate::harness::bulk;
use crate::harness::raw::{Call, frame};
use crate::harness::server::{Clients, Credential};
use crate::harness::{Database, Server, refused};
use http_body_util::BodyExt;
use prost::Message;
use prost::bytes::Bytes;
use roster::authn::mint::ClaimSet;
use roster::authn::{PeerShare, StreamCredential};
use roster::client::{CacheSettings, Client, ClientSettings, MembershipCache, TokenSource};
use roster::domain::Scope;
use roster::grpc::admit::Api;
use roster::grpc::admit::stream::{StreamBudget, StreamContext, StreamEnd, StreamShares};
use roster::grpc::pb;
use roster::grpc::pb::check_service_server::CheckServiceServer;
use roster::grpc::pb::event_service_server::EventServiceServer;
use roster::server::ServerSettings;
use roster::service::CallPermit;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::codegen::tokio_stream;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::ServiceExt;

/// Maximum time of an expected event.
const SOON: Duration = Duration::from_secs(8);

async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, event).await.expect("the event did not happen in time")
}

/// The methods that answer with a stream.
const METHODS: [&str; 4] = [
    "CheckService/StreamChecks",
    "CheckService/WatchMemberships",
    "EventService/WatchEvents",
    "CheckService/ExportMemberships",
];

/// A connection whose peer reads no answers: each of its streams has a window of this many bytes.
struct UnreadConnection {
    send: h2::client::SendRequest<Bytes>,
    token: String,
}

impl UnreadConnection {
    async fn open(server: &Server, token: &str, window: u32) -> Self {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        let (send, connection) = builder.initial_window_size(window).handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { send, token: token.to_owned() }
    }

    /// Calls a method with this message and, if it is not empty, a `grpc-timeout`. The caller's side stays open.
    async fn call(&self, method: &str, body: Vec<u8>, timeout: &str) -> UnreadStream {
        let mut call = Call::grpc(&format!("/roster.v1.{method}"), &[]).bearer(&self.token);
        if !timeout.is_empty() {
            call = call.with("grpc-timeout", timeout);
        }
        let mut request = http::Request::post(format!("http://roster.test{}", call.path)).body(()).unwrap();
        *request.headers_mut() = call.headers;
        let is_unary = method.ends_with("WatchEvents") || method.ends_with("ExportMemberships");
        let mut send = self.send.clone().ready().await.unwrap();
        let (answer, mut sending) = send.send_request(request, false).unwrap();
        sending.send_data(body.into(), is_unary).unwrap();
        let (head, incoming) = soon(answer).await.unwrap().into_parts();
        UnreadStream { refusal: Status::from_header_map(&head.headers), incoming, _sending: sending }
    }

    /// Calls a method until the call is not refused: the place of a stream before it may not be free yet.
    async fn admitted(&self, method: &str, body: Vec<u8>) -> UnreadStream {
        soon(async {
            loop {
                let stream = self.call(method, body.clone(), "").await;
                if stream.refusal.is_none() {
                    return stream;
                }
            }
        })
        .await
    }
}

/// A stream of which nothing is read yet.
struct UnreadStream {
    /// The status of a refused call.
    refusal: Option<Status>,
    incoming: h2::RecvStream,
    _sending: h2::SendStream<Bytes>,
}

impl UnreadStream {
    /// Reads the rest. Returns its size in bytes and the status at its end.
    async fn read_rest(mut self) -> (usize, Status) {
        let mut size = 0;
        while let Some(chunk) = soon(self.incoming.data()).await {
            let chunk = chunk.unwrap();
            size += chunk.len();
            self.incoming.flow_control().release_capacity(chunk.len()).unwrap();
        }
        let trailers = soon(self.incoming.trailers()).await.unwrap().unwrap();
        (size, Status::from_header_map(&trailers).unwrap())
    }
}

/// The first message of a stream of this method, in its frame: many questions for `StreamChecks`.
fn first_message(method: &str) -> Vec<u8> {
    if !method.ends_with("StreamChecks") {
        return frame(&[]);
    }
    let question =
        pb::StreamChecksRequest { organization: "acme".to_owned(), user_id: "ada".to_owned(), ..Default::default() };
    frame(&question.encode_to_vec()).repeat(1000)
}

fn token(server: &Server, name: &str) -> String {
    server.service_token(name, &[Scope::Check, Scope::Manage])
}

/// A token that is valid for this many seconds.
fn expiring_token(server: &Server, name: &str, seconds: i64) -> String {
    let now = Server::claims("").iat;
    let exp = now + seconds - roster::authn::limits::LEEWAY_SECONDS;
    let scope = Some("roster:check roster:manage".to_owned());
    server.mint(&ClaimSet { iat: exp - 600, exp, scope, ..Server::claims(name) })
}

/// Opens a stream of checks of another caller, and asks once.
async fn open_other(server: &Server) -> Result<(), Status> {
    let question =
        pb::StreamChecksRequest { organization: "acme".to_owned(), user_id: "ada".to_owned(), ..Default::default() };
    let requests = tokio_stream::once(question);
    let clients = server.with_token(&token(server, "other"));
    let mut answers = clients.checks.clone().stream_checks(requests).await?.into_inner();
    assert!(soon(answers.message()).await?.is_some());
    Ok(())
}

/// Waits until another caller can open a stream.
async fn until_free(server: &Server) {
    soon(async {
        while open_other(server).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// A server with one place for streams.
async fn one_place(slow_reader: Duration) -> Server {
    let settings = ServerSettings { max_streams: 1, slow_reader, ..ServerSettings::default() };
    Server::over(Database::new().await, settings).await
}

const PATIENT: Duration = Duration::from_mins(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_stream_of_checks_is_ended_and_frees_its_place() {
    let server = one_place(Duration::from_millis(300)).await;
    for window in [1024, 16] {
        let peer = UnreadConnection::open(&server, &token(&server, "backend"), window).await;
        let method = METHODS[0];
        let stream = peer.admitted(method, first_message(method)).await;
        assert!(open_other(&server).await.is_err(), "the place is taken");
        until_free(&server).await;
        let (_, status) = stream.read_rest().await;
        assert_eq!(refused::<()>(Err(status)), (Code::Aborted, "SLOW_READER".to_owned()), "{window}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_stream_ends_with_its_credential_and_at_its_deadline() {
    let server = one_place(PATIENT).await;
    for method in METHODS {
        let peer = UnreadConnection::open(&server, &expiring_token(&server, "backend", 2), 16).await;
        let stream = peer.admitted(method, first_message(method)).await;
        until_free(&server).await;
        let (_, status) = stream.read_rest().await;
        let expired = (Code::Unauthenticated, "CREDENTIAL_EXPIRED".to_owned());
        // An empty export is complete before its credential expires.
        let complete = method.ends_with("ExportMemberships") && status.code() == Code::Ok;
        assert!(complete || refused::<()>(Err(status)) == expired, "{method}");

        let peer = UnreadConnection::open(&server, &token(&server, "backend"), 16).await;
        let _stream = peer.call(method, first_message(method), "900m").await;
        until_free(&server).await;
    }
}

#[tokio::test]
async fn a_caller_who_asks_nothing_keeps_a_stream_of_checks() {
    let settings = ServerSettings { slow_reader: Duration::from_millis(100), ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    let clients = server.with_token(&token(&server, "backend"));
    let (sender, questions) = tokio::sync::mpsc::channel(1);
    let questions = tokio_stream::wrappers::ReceiverStream::new(questions);
    let mut answers = clients.checks.clone().stream_checks(questions).await.unwrap().into_inner();
    for _ in 0..3 {
        let question = pb::StreamChecksRequest {
            organization: "acme".to_owned(),
            user_id: "ada".to_owned(),
            ..Default::default()
        };
        sender.send(question).await.unwrap();
        assert!(soon(answers.message()).await.unwrap().is_some());
        // Silence is what is tested: several times the time for slow readers.
        tokio::time::sleep(Duration::from_millis(800)).await;
    }
}

#[tokio::test]
async fn one_caller_takes_half_of_the_streams() {
    let settings = ServerSettings { max_streams: 8, slow_reader: PATIENT, ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    let method = METHODS[0];
    let (mut open, mut refusals) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let peer = UnreadConnection::open(&server, &token(&server, "backend"), 0).await;
        for _ in 0..4 {
            let stream = peer.call(method, first_message(method), "").await;
            match stream.refusal.clone() {
                None => open.push(stream),
                Some(status) => refusals.push(status),
            }
        }
    }
    assert_eq!((open.len(), refusals.len()), (4, 4));
    for status in refusals {
        assert!(status.get_details_retry_info().is_some(), "{status:?}");
        assert_eq!(refused::<()>(Err(status)), (Code::Unavailable, "OVERLOADED".to_owned()));
    }
    // Another caller is admitted, also on the same connection, as behind a proxy.
    open_other(&server).await.unwrap();
    let peer = UnreadConnection::open(&server, &token(&server, "backend"), 16).await;
    assert!(peer.call(method, first_message(method), "").await.refusal.is_some());
    let other = UnreadConnection { token: token(&server, "third"), ..peer };
    assert!(other.call(method, first_message(method), "").await.refusal.is_none());
    // A place that is given back can be taken again.
    drop(open.pop());
    let peer = UnreadConnection::open(&server, &token(&server, "backend"), 0).await;
    soon(async { while peer.call(method, first_message(method), "").await.refusal.is_some() {} }).await;
}

/// A streaming call without a transport: no code polls its response.
struct UnpolledCall {
    response: http::Response<tonic::body::Body>,
    places: Arc<Semaphore>,
    stopping: CancellationToken,
}

impl UnpolledCall {
    async fn open(server: &Server, method: &str, token: &str, slow_reader: Duration, until: Option<Duration>) -> Self {
        let (places, stopping) = (Arc::new(Semaphore::new(1)), CancellationToken::new());
        let headers = Call::grpc("", &[]).bearer(token).headers;
        let peer = Arc::new(PeerShare::unlimited("test".to_owned()));
        let caller = server.authenticator.authenticate(&headers, &peer).await.unwrap();
        let context = StreamContext {
            permit: CallPermit::new(places.clone().try_acquire_owned().unwrap()),
            credential: StreamCredential::new(server.authenticator.clone(), &headers, None, peer),
            until: until.map(|until| tokio::time::Instant::now() + until),
            shares: StreamShares::new(1),
            budget: StreamBudget::server(1024),
            slow_reader,
            stopping: stopping.clone(),
        };
        let body = tonic::body::Body::new(http_body_util::Full::<Bytes>::from(first_message(method)));
        let request = http::Request::post(format!("http://roster.test/roster.v1.{method}"))
            .header("content-type", "application/grpc")
            .extension(caller)
            .extension(context)
            .body(body)
            .unwrap();
        let api = Api::new(server.roster.clone());
        let response = if method.starts_with("EventService") {
            EventServiceServer::new(api).oneshot(request).await
        } else {
            CheckServiceServer::new(api).oneshot(request).await
        };
        Self { response: response.unwrap(), places, stopping }
    }

    /// Waits for the end. Asserts that the place is free, and that the response has nothing but the status.
    async fn end(self) -> (Code, String) {
        let end = self.response.extensions().get::<StreamEnd>().unwrap().clone();
        let status = soon(end.ended()).await;
        let _place = soon(self.places.acquire()).await.unwrap();
        let mut body = self.response.into_body();
        let frame = soon(body.frame()).await.unwrap().unwrap();
        let trailers = frame.into_trailers().expect("a message was sent after the end");
        assert_eq!(Status::from_header_map(&trailers).unwrap().code(), status.code());
        assert!(soon(body.frame()).await.is_none());
        refused::<()>(Err(status))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cause_ends_a_stream_that_no_transport_polls() {
    let server = Server::start().await;
    let token = token(&server, "backend");
    for method in METHODS {
        let call = UnpolledCall::open(&server, method, &token, PATIENT, None).await;
        call.stopping.cancel();
        assert_eq!(call.end().await, (Code::Unavailable, "SERVER_STOPPING".to_owned()), "{method}");

        let deadline = Some(Duration::from_millis(100));
        let call = UnpolledCall::open(&server, method, &token, PATIENT, deadline).await;
        assert_eq!(call.end().await, (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned()), "{method}");

        let call = UnpolledCall::open(&server, method, &token, Duration::from_millis(100), None).await;
        assert_eq!(call.end().await, (Code::Aborted, "SLOW_READER".to_owned()), "{method}");
    }
    let expired = METHODS.map(async |method| {
        let call = UnpolledCall::open(&server, method, &expiring_token(&server, "backend", 2), PATIENT, None).await;
        assert_eq!(call.end().await, (Code::Unauthenticated, "CREDENTIAL_EXPIRED".to_owned()), "{method}");
    });
    futures_util::future::join_all(expired).await;
}

/// Adds this many memberships, of about 200 bytes each, to one organization.
async fn add_members(server: &Server, members: i64) {
    let id = server.user("ada").create("Large").await;
    bulk::add_members(&server.database, &id, members).await;
}

/// Exports everything. Returns the number of memberships, and the cursor.
async fn export(server: &Server, name: &str) -> Result<(usize, String), Status> {
    let credential = Credential { token: Some(token(server, name)), on_behalf_of: None };
    let clients = Clients::new(&server.connect().await, credential);
    let mut parts =
        clients.checks.clone().export_memberships(pb::ExportMembershipsRequest::default()).await?.into_inner();
    let (mut members, mut cursor) = (0, String::new());
    while let Some(part) = parts.message().await? {
        members += part.organizations.iter().map(|organization| organization.members.len()).sum::<usize>();
        cursor = part.cursor;
    }
    Ok((members, cursor))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_exports_of_one_caller_delay_no_other_caller() {
    let server = Server::over(Database::new().await, ServerSettings::default()).await;
    add_members(&server, 20_000).await;
    let peer = UnreadConnection::open(&server, &token(&server, "backend"), 1024).await;
    let mut unread = Vec::new();
    for _ in 0..12 {
        unread.push(peer.call(METHODS[3], frame(&[]), "").await);
    }
    for _ in 0..5 {
        assert_eq!(soon(export(&server, "other")).await.unwrap().0, 20_001);
    }
    // The calls have connections of their own.
    assert!(!server.with_token(&token(&server, "other")).is_member("no-such", "ada").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_connection_delays_other_connections_of_its_caller_only_for_a_moment() {
    let server = Server::over(Database::new().await, ServerSettings::default()).await;
    add_members(&server, 20_000).await;
    let peer = UnreadConnection::open(&server, &token(&server, "backend"), 1024).await;
    let mut unread = Vec::new();
    for _ in 0..12 {
        unread.push(peer.call(METHODS[3], frame(&[]), "").await);
    }
    for _ in 0..5 {
        assert_eq!(soon(export(&server, "backend")).await.unwrap().0, 20_001);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_export_or_watch_holds_few_bytes() {
    let server = one_place(Duration::from_millis(500)).await;
    add_members(&server, 30_000).await;
    let mut operator = server.operator();
    let id = operator.create("Busy").await;
    let (_, cursor) = export(&server, "other").await.unwrap();
    for batch in 0..20 {
        let item = |number| {
            let user = format!("user-{batch}-{number}-{}", "x".repeat(150));
            let person = Some(pb::batch_add_members_item::Person::UserId(user));
            pb::BatchAddMembersItem { person, role: "member".to_owned(), ..Default::default() }
        };
        let items = (0..100).map(item).collect();
        let request = pb::BatchAddMembersRequest { organization: id.clone(), items, ..Default::default() };
        operator.organizations.batch_add_members(request).await.unwrap();
    }
    let watch = pb::WatchMembershipsRequest { cursor, ..Default::default() };
    for (method, message) in [(METHODS[3], Vec::new()), (METHODS[1], watch.encode_to_vec())] {
        let peer = UnreadConnection::open(&server, &token(&server, "backend"), 1024).await;
        let unread = peer.admitted(method, frame(&message)).await;
        until_free(&server).await;
        server.database.assert_no_open_transactions().await;
        let (size, status) = unread.read_rest().await;
        assert_eq!(refused::<()>(Err(status)), (Code::Aborted, "SLOW_READER".to_owned()), "{method}");
        assert!(size < 256 * 1024, "{method}: {size} bytes waited");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_replicas_that_start_at_once_are_all_loaded_without_a_refusal() {
    let server = Server::over(Database::new().await, ServerSettings::default()).await;
    add_members(&server, 2_000).await;
    let count = std::env::var("ROSTER_TEST_REPLICAS").map_or(12, |count| count.parse().unwrap());
    let source = TokenSource::fixed(&token(&server, "backend")).unwrap();
    let settings = ClientSettings::new(format!("http://{}", server.address)).unwrap().with_token(source);
    let caches: Vec<MembershipCache> =
        (0..count).map(|_| MembershipCache::start(&Client::lazy(settings.clone()), CacheSettings::default())).collect();
    let loaded = async {
        for cache in &caches {
            cache.caught_up().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(3), loaded).await.expect("a replica was not loaded in time");
    for cache in &caches {
        let statistics = cache.statistics();
        assert_eq!((statistics.exports, statistics.interruptions), (1, 0), "{statistics:?}");
    }
}
