//! How streams begin and end: places, time, credentials, and a server that stops.

use super::{Checks, question, soon};
use crate::harness::server::Clients;
use crate::harness::{Database, Server, refused};
use roster::authn::mint::ClaimSet;
use roster::domain::Scope;
use roster::server::ServerSettings;
use std::time::{Duration, Instant};
use tonic::codegen::tokio_stream;
use tonic::{Code, Request};

async fn assert_answers(stream: &mut Checks) {
    stream.ask(question("acme", "ada")).await;
    assert!(stream.next().await.unwrap().is_some());
}

#[tokio::test]
async fn streams_have_places_of_their_own() {
    let settings = ServerSettings { max_streams: 2, max_concurrent_requests: 1, ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    let clients = server.service(&[Scope::Check]);
    let mut streams = [Checks::open(&clients).await, Checks::open(&clients).await];
    for stream in &mut streams {
        assert_answers(stream).await;
    }
    let third = || Checks::try_open(&clients);
    assert_eq!(refused(third().await.map(drop)), (Code::Unavailable, "OVERLOADED".to_owned()));
    // Calls have theirs, of which no stream takes one.
    assert!(!clients.clone().is_member("acme", "ada").await);
    // And a place that is given back can be taken.
    let [one, _other] = streams;
    drop(one);
    let taken = async {
        while third().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(taken).await;
}

#[tokio::test]
async fn a_stream_outlives_the_default_deadline_and_ends_at_its_own() {
    let brief = Duration::from_millis(300);
    let settings = ServerSettings { default_deadline: brief, max_deadline: brief, ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    let clients = server.service(&[Scope::Check]);
    let mut lasting = Checks::open(&clients).await;

    let begin = Instant::now();
    let mut request = Request::new(tokio_stream::pending());
    let given = Duration::from_millis(1200);
    request.set_timeout(given);
    let mut bounded = clients.checks.clone().stream_checks(request).await.unwrap().into_inner();
    let ended = soon(bounded.message()).await;
    // A client of tonic's ends the call itself at the same time.
    let code = ended.unwrap_err().code();
    assert!(matches!(code, Code::DeadlineExceeded | Code::Cancelled), "{code:?}");
    let took = begin.elapsed();
    assert!(took >= given && took < given + Duration::from_secs(3), "{took:?}");
    assert_answers(&mut lasting).await;
}

#[tokio::test]
async fn the_server_itself_keeps_the_deadline_of_a_stream() {
    use crate::harness::raw::{Call, send_unfinished};
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

/// Clients whose token is good for so many seconds.
fn brief(server: &Server, seconds: i64) -> Clients {
    let now = Server::claims("").iat;
    let exp = now + seconds - roster::authn::limits::LEEWAY_SECONDS;
    let scope = Some("roster:check roster:manage".to_owned());
    server.with_token(&server.mint(&ClaimSet { iat: exp - 600, exp, scope, ..Server::claims("backend") }))
}

#[tokio::test]
async fn a_credential_that_expires_ends_its_streams() {
    let server = Server::start().await;
    let begin = Instant::now();
    let clients = brief(&server, 3);
    let mut idle = Checks::open(&clients).await;
    let mut busy = Checks::open(&clients).await;
    assert_eq!(refused(idle.next().await), (Code::Unauthenticated, "CREDENTIAL_EXPIRED".to_owned()));
    let ended = loop {
        let ask = busy.ask.as_ref().unwrap().send(question("acme", "ada")).await;
        match busy.next().await {
            Ok(answer) => assert!(answer.is_some() && ask.is_ok()),
            Err(status) => break status,
        }
    };
    assert_eq!(refused::<()>(Err(ended)), (Code::Unauthenticated, "CREDENTIAL_EXPIRED".to_owned()));
    // Not before its time, and soon after it.
    let took = begin.elapsed();
    assert!(took > Duration::from_millis(1900) && took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_ends_its_streams_at_once_and_says_why() {
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
async fn without_the_door_there_is_no_stream() {
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
