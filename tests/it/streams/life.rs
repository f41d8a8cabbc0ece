//! The start and the end of streams: stream permits, deadlines, credentials, and a stopping server.

use super::{Checks, Watch, question, soon};
use crate::harness::raw::{Call, send_unfinished};
use crate::harness::server::Clients;
use crate::harness::{Database, Server, refused};
use crate::peers::observers::{metric, scrape};
use roster::authn::mint::ClaimSet;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use std::time::{Duration, Instant};
use tonic::codegen::tokio_stream;
use tonic::{Code, Request};

async fn assert_answers(stream: &mut Checks) {
    stream.ask(question("acme", "ada")).await;
    assert!(stream.next().await.unwrap().is_some());
}

#[tokio::test]
async fn streams_have_separate_permits() {
    let settings = ServerSettings {
        max_streams: 2,
        max_streams_per_caller: Some(2),
        max_concurrent_requests: 1,
        ..ServerSettings::default()
    };
    let server = Server::over(Database::new().await, settings).await;
    let clients = server.service(&[Scope::Check]);
    let mut streams = [Checks::open(&clients).await, Checks::open(&clients).await];
    for stream in &mut streams {
        assert_answers(stream).await;
    }
    let third = || Checks::try_open(&clients);
    assert_eq!(refused(third().await.map(drop)), (Code::Unavailable, "OVERLOADED".to_owned()));
    // Calls have separate permits, which no stream uses.
    assert!(!clients.clone().is_member("acme", "ada").await);
    // A released permit can be used again.
    let [first, _second] = streams;
    drop(first);
    let reopened = async {
        while third().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(reopened).await;
}

#[tokio::test]
async fn a_stream_outlives_the_default_deadline_and_ends_at_its_deadline() {
    let brief = Duration::from_millis(300);
    let settings = ServerSettings { default_deadline: brief, max_deadline: brief, ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    let clients = server.service(&[Scope::Check]);
    let mut unbounded = Checks::open(&clients).await;

    let begin = Instant::now();
    let mut request = Request::new(tokio_stream::pending());
    let deadline = Duration::from_millis(1200);
    request.set_timeout(deadline);
    let mut bounded = clients.checks.clone().stream_checks(request).await.unwrap().into_inner();
    let ended = soon(bounded.message()).await;
    // The tonic client ends the call itself at the same time.
    let code = ended.unwrap_err().code();
    assert!(matches!(code, Code::DeadlineExceeded | Code::Cancelled), "{code:?}");
    let elapsed = begin.elapsed();
    assert!(elapsed >= deadline && elapsed < deadline + Duration::from_secs(3), "{elapsed:?}");
    assert_answers(&mut unbounded).await;
}

#[tokio::test]
async fn a_stream_is_counted_when_it_ends_with_its_code_and_duration() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let counted = async |method: &str, code: &str| {
        let text = scrape(&server).await;
        let labels = format!("{{service=\"roster.v1.CheckService\",method=\"{method}\"");
        let calls = metric(&text, &format!("roster_calls_total{labels},code=\"{code}\"}}"));
        (
            calls.unwrap_or_default(),
            metric(&text, &format!("roster_call_duration_seconds_sum{labels}}}")).unwrap_or_default(),
        )
    };
    let until = async |method: &str, code: &str, calls: f64| {
        soon(async { while counted(method, code).await.0 < calls {} }).await;
    };

    let mut watch = Watch::open(&clients, pb::WatchMembershipsRequest::default()).await;
    watch.until(1).await;
    let mut checks = Checks::open(&clients).await;
    assert_answers(&mut checks).await;
    for method in ["WatchMemberships", "StreamChecks"] {
        assert_eq!(counted(method, "OK").await, (0.0, 0.0), "{method} is still open");
    }
    // An end of the caller's side, and a caller that is gone.
    checks.questions = None;
    assert!(checks.next().await.unwrap().is_none());
    until("StreamChecks", "OK", 1.0).await;
    drop(watch);
    until("WatchMemberships", "CANCELLED", 1.0).await;
    // An error before the first message, one of the stream's work, and one of the task that ends it.
    let refused = server.user("ada").checks.watch_memberships(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    until("WatchMemberships", "PERMISSION_DENIED", 1.0).await;
    let invalid = pb::WatchMembershipsRequest { cursor: "x".to_owned(), ..Default::default() };
    assert_eq!(Watch::open(&clients, invalid).await.try_next().await.unwrap_err().code(), Code::InvalidArgument);
    until("WatchMemberships", "INVALID_ARGUMENT", 1.0).await;
    let token = server.service_token("backend", &[Scope::Check]);
    let call = Call::grpc("/roster.v1.CheckService/StreamChecks", &[]).bearer(&token);
    let (_, before) = counted("StreamChecks", "DEADLINE_EXCEEDED").await;
    send_unfinished(server.address, Call { body: Vec::new(), ..call.with("grpc-timeout", "700m") }).await;
    until("StreamChecks", "DEADLINE_EXCEEDED", 1.0).await;
    let (_, after) = counted("StreamChecks", "DEADLINE_EXCEEDED").await;
    assert!(after - before >= 0.7, "{before} s, then {after} s");
}

#[tokio::test]
async fn the_server_enforces_the_deadline_of_a_stream() {
    let server = Server::start().await;
    let token = server.service_token("backend", &[Scope::Check]);
    for path in ["StreamChecks", "WatchMemberships"] {
        let call = Call::grpc(&format!("/roster.v1.CheckService/{path}"), &[]).bearer(&token);
        let call = Call { body: Vec::new(), ..call.with("grpc-timeout", "1500m") };
        let begin = Instant::now();
        let answer = send_unfinished(server.address, call).await;
        assert_eq!((answer.grpc_status, answer.reason.as_deref()), (Some(4), Some("DEADLINE_EXCEEDED")), "{path}");
        assert!(begin.elapsed() >= Duration::from_millis(1500));
    }
}

/// Clients with a bearer token that is valid for this many seconds.
fn expiring(server: &Server, seconds: i64) -> Clients {
    let now = Server::claims("").iat;
    let exp = now + seconds - roster::authn::limits::LEEWAY_SECONDS;
    let scope = Some("roster:check roster:manage".to_owned());
    server.with_token(&server.mint(&ClaimSet { iat: exp - 600, exp, scope, ..Server::claims("backend") }))
}

#[tokio::test]
async fn an_expired_credential_ends_its_streams() {
    let server = Server::start().await;
    let begin = Instant::now();
    let clients = expiring(&server, 3);
    let mut idle = Checks::open(&clients).await;
    let mut busy = Checks::open(&clients).await;
    assert_eq!(refused(idle.next().await), (Code::Unauthenticated, "CREDENTIAL_EXPIRED".to_owned()));
    let ended = loop {
        let sent = busy.questions.as_ref().unwrap().send(question("acme", "ada")).await;
        match busy.next().await {
            Ok(answer) => assert!(answer.is_some() && sent.is_ok()),
            Err(status) => break status,
        }
    };
    assert_eq!(refused::<()>(Err(ended)), (Code::Unauthenticated, "CREDENTIAL_EXPIRED".to_owned()));
    // Not before the expiry, and soon after it.
    let elapsed = begin.elapsed();
    assert!(elapsed > Duration::from_millis(1900) && elapsed < Duration::from_secs(8), "{elapsed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_ends_its_streams_at_once_with_a_reason() {
    let drain = Duration::from_mins(1);
    let settings = ServerSettings { drain, ..ServerSettings::default() };
    let mut server = Server::over(Database::new().await, settings).await;
    let clients = server.service(&[Scope::Check]);
    let mut idle = Checks::open(&clients).await;
    let mut used = Checks::open(&clients).await;
    assert_answers(&mut used).await;
    let begin = Instant::now();
    server.begin_stop();
    for stream in [&mut idle, &mut used] {
        let status = stream.next().await.unwrap_err();
        assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some());
        assert_eq!(refused::<()>(Err(status)), (Code::Unavailable, "SERVER_STOPPING".to_owned()));
    }
    drop((idle, used));
    server.stop().await;
    assert!(begin.elapsed() < drain / 4, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn streams_are_refused_without_the_authentication_layer() {
    use roster::grpc::admit::Api;
    use roster::grpc::pb::check_service_server::CheckServiceServer;
    use tonic::server::NamedService;
    use tower::ServiceExt;
    let server = Server::start().await;
    let bare = CheckServiceServer::new(Api::new(server.roster.clone()));
    for method in ["StreamChecks", "WatchMemberships", "ExportMemberships"] {
        let name = <CheckServiceServer<Api> as NamedService>::NAME;
        let frame = http_body_util::Full::<bytes::Bytes>::from(crate::harness::raw::frame(&[]));
        let request = http::Request::post(format!("http://roster.test/{name}/{method}"))
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(frame))
            .unwrap();
        let answer = bare.clone().oneshot(request).await.unwrap();
        let status = tonic::Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(refused::<()>(Err(status)), (Code::Unauthenticated, "CREDENTIAL_MISSING".to_owned()), "{method}");
    }
}
