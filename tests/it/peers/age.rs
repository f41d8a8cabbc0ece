//! Connections end at their maximum age, and their callers lose nothing.

use super::observers::{metric, scrape};
use super::rigs::{OPENING, Session, Socket, says_goaway, soon};
use crate::harness::raw::{Call, path};
use crate::harness::server::Clients;
use crate::harness::{Database, Server, add, refused};
use crate::lifecycle::{RowLock, start_blocked_call};
use crate::replica::until;
use crate::streams::Watch;
use roster::client::{Answer, CacheSettings, Check, Client, ClientSettings, Consistency, MembershipCache, TokenSource};
use roster::domain::Scope;
use roster::server::ServerSettings;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const MINUTE: Duration = Duration::from_mins(1);

/// A server whose connections have this age and this grace.
async fn server(age: Duration, grace: Duration) -> Server {
    let settings =
        ServerSettings { max_connection_age: Some(age), connection_age_grace: grace, ..ServerSettings::default() };
    Server::over(Database::new().await, settings).await
}

/// The number of connections that have reached their age.
async fn aged(server: &Server) -> f64 {
    metric(&scrape(server).await, r#"roster_connections_closed_total{reason="age"}"#).unwrap_or_default()
}

/// Makes calls over one connection until the server has announced its end. Returns the number of calls.
async fn call_until_goaway(server: &Server, call: &Call) -> usize {
    let session = Session::open(server.address).await;
    for number in 0.. {
        let Some(started) = session.try_start(call, true).await else { return number };
        // The HTTP/2 library of this test sends the answer to a ping before requests that wait to be sent. The server then
        // names a last call before such a request, and the client knows that it may repeat it.
        let Some((headers, mut body)) = started.head_if_begun().await else { return number };
        while let Some(chunk) = soon(body.data()).await {
            body.flow_control().release_capacity(chunk.unwrap().len()).unwrap();
        }
        let trailers = soon(body.trailers()).await.unwrap().unwrap_or(headers);
        assert_eq!(trailers.get("grpc-status").unwrap(), "0");
    }
    unreachable!("the loop has no other end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_when_connections_reach_their_age() {
    let server = server(Duration::from_millis(300), MINUTE).await;
    let call = Call::grpc(&path("UserService/GetCaller"), &[]).bearer(&server.mint(&Server::claims("ada")));
    let callers = (0..4).map(|_| async {
        let mut calls = 0;
        for _ in 0..5 {
            calls += call_until_goaway(&server, &call).await;
        }
        calls
    });
    let calls: usize = futures_util::future::join_all(callers).await.into_iter().sum();
    assert!(calls >= 20, "{calls}");
    assert!(aged(&server).await >= 20.0, "{}", aged(&server).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_the_library_notices_nothing_of_the_age() {
    let server = server(Duration::from_millis(300), MINUTE).await;
    server.user("ada").create("Acme").await;
    let token = TokenSource::fixed(&server.service_token("backend", &[Scope::Check])).unwrap();
    let settings = ClientSettings::new(format!("http://{}", server.address)).unwrap().with_token(token);
    let client = Client::connect(settings).await.unwrap();
    let check = Check::member("acme", "ada").unwrap();
    let callers = (0..4).map(|_| async {
        let begin = Instant::now();
        let mut calls = 0;
        while begin.elapsed() < Duration::from_secs(3) {
            let answer = client.check(&check, &Consistency::Recent).await;
            assert!(answer.as_ref().is_ok_and(Answer::is_allowed), "call {calls}: {answer:?}");
            calls += 1;
        }
        calls
    });
    let calls: usize = futures_util::future::join_all(callers).await.into_iter().sum();
    assert!(calls > 20 && aged(&server).await >= 5.0, "{calls} calls, {} connections", aged(&server).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_began_together_do_not_end_together() {
    let server = server(Duration::from_secs(2), MINUTE).await;
    let begin = Instant::now();
    let mut sockets = Vec::new();
    for _ in 0..32 {
        sockets.push(Session::open(server.address).await);
    }
    let opened = begin.elapsed();
    let ends = sockets.iter_mut().map(|session| async {
        soon(session.ended()).await;
        begin.elapsed()
    });
    let ends: Vec<Duration> = futures_util::future::join_all(ends).await;
    let (first, last) = (*ends.iter().min().unwrap(), *ends.iter().max().unwrap());
    assert!(first >= Duration::from_millis(1800), "{first:?}");
    // The range is 400 ms wide: 32 of them fall into a tenth of it with a probability below 10^-30.
    assert!(last.saturating_sub(first) > opened + Duration::from_millis(40), "{opened:?} {ends:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_for_the_grace_and_then_ends_with_a_reason() {
    let (age, grace) = (Duration::from_millis(500), Duration::from_secs(2));
    let server = server(age, grace).await;
    let organization = server.user("ada").create("Acme").await;
    let clients = Clients::new(&server.connect().await, server.credential(&[Scope::Check, Scope::Manage]));
    let begin = Instant::now();
    let mut watch = Watch::from(&clients, "").await;
    let mut health = HealthClient::new(server.connect().await);
    let mut health = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let serving = soon(health.message()).await.unwrap().unwrap();
    assert_eq!(serving.status(), ServingStatus::Serving);
    until("the connections have reached their age", async || aged(&server).await >= 2.0).await;
    // A write behind the age arrives on the old connection, and calls go to a new one.
    server.service(&[Scope::Manage]).add(&organization, "grace", "member").await;
    let (mut cursor, mut seen) = (String::new(), false);
    let end = loop {
        match watch.try_next().await {
            Ok(Some(message)) => {
                seen |= message.changes.iter().any(|change| format!("{change:?}").contains("grace"));
                cursor = message.checkpoint.map_or(cursor, |checkpoint| checkpoint.cursor);
            }
            Ok(None) => panic!("the watch ended without a status"),
            Err(status) => break status,
        }
    };
    assert!(seen, "the write did not arrive within the grace");
    assert!(begin.elapsed() >= age * 9 / 10 + grace, "{:?}", begin.elapsed());
    assert_eq!(refused::<()>(Err(end)), (Code::Unavailable, "SERVER_STOPPING".to_owned()));
    // A health watch ends in the same way, and reports nothing wrong before.
    let end = soon(health.message()).await.unwrap_err();
    assert_eq!(refused::<()>(Err(end)), (Code::Unavailable, "SERVER_STOPPING".to_owned()));
    // The same client goes on from the cursor, over another connection.
    let mut watch = Watch::from(&clients, &cursor).await;
    soon(watch.until(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_goes_on_from_its_position_over_many_ages() {
    let server = server(Duration::from_millis(300), Duration::from_millis(200)).await;
    let organization = server.user("ada").create("Acme").await;
    let token = TokenSource::fixed(&server.service_token("backend", &[Scope::Check])).unwrap();
    let settings = ClientSettings::new(format!("http://{}", server.address)).unwrap().with_token(token);
    let client = Client::connect(settings).await.unwrap();
    let cache = MembershipCache::start(&client, CacheSettings::default());
    soon(cache.caught_up()).await;
    let mut backend = server.service(&[Scope::Manage]);
    let mut writes = 0;
    while cache.statistics().watches < 5 {
        let user = format!("user-{writes}");
        // The harness has no retries: its connection may end between two calls.
        let added = backend.organizations.add_member(add(&organization, &user, "member")).await;
        writes += usize::from(added.is_ok());
        let check = Check::member(&organization, &user).unwrap();
        let answer = soon(cache.check(&check)).await.unwrap();
        soon(cache.caught_up()).await;
        assert!(answer.is_allowed() || added.is_err() || cache.check(&check).await.unwrap().is_allowed(), "{user}");
    }
    let statistics = cache.statistics();
    assert!(statistics.exports == 1 && statistics.gaps == 0 && writes > 0, "{statistics:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_within_the_grace_and_lost_beyond_it() {
    for (grace, answered) in [(MINUTE, true), (Duration::from_millis(500), false)] {
        let server = server(Duration::from_millis(300), grace).await;
        let organization = server.user("ada").create("Acme").await;
        let lock = RowLock::new(&server.database).await;
        let before = aged(&server).await;
        let call = start_blocked_call(&server, &organization).await;
        until("the connection has reached its age", async || aged(&server).await > before).await;
        if answered {
            // Longer than an idle connection is kept after its announcement.
            tokio::time::sleep(Duration::from_millis(1200)).await;
            assert!(!call.is_finished());
            lock.release().await;
            assert_eq!(soon(call).await.unwrap().unwrap().member.unwrap().user_id, "alan");
        } else {
            let end = soon(call).await.unwrap().unwrap_err();
            assert!(end.details().is_empty(), "{end:?}");
            lock.release().await;
        }
        server.database.assert_no_open_transactions().await;
        server.database.assert_invariants().await;
    }
}

/// A peer that neither answers pings nor closes cannot keep a connection beyond its age.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_ignores_the_announcement_is_closed_after_the_grace() {
    let (age, grace) = (Duration::from_millis(300), Duration::from_millis(700));
    let server = server(age, grace).await;
    let begin = Instant::now();
    let mut silent = Socket::with(server.address, OPENING).await;
    silent.until_accepted().await;
    assert!(says_goaway(&silent.rest().await));
    assert!(begin.elapsed() >= age * 9 / 10 + grace, "{:?}", begin.elapsed());
}

/// A client that needs longer than the age to open a connection gets one: to most clients a connection that ends before it
/// is open is a failed server, which they leave out for a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_age_of_a_connection_begins_when_it_is_open() {
    let (age, grace) = (Duration::from_millis(300), Duration::from_millis(700));
    let server = server(age, grace).await;
    let mut late = Socket::with(server.address, &OPENING[..10]).await;
    // The connection that is opened after it has ended by its age and its grace.
    let other = Socket::with(server.address, OPENING).await;
    assert!(says_goaway(&other.rest().await));
    late.0.write_all(&OPENING[10..]).await.unwrap();
    late.until_accepted().await;
    let begin = Instant::now();
    assert!(says_goaway(&late.rest().await));
    assert!(begin.elapsed() >= age / 2 + grace, "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_connections_that_have_reached_their_age() {
    let mut server = server(Duration::from_millis(300), MINUTE).await;
    let clients = Clients::new(&server.connect().await, server.credential(&[Scope::Check]));
    let mut watch = Watch::from(&clients, "").await;
    let mut silent = Socket::with(server.address, OPENING).await;
    silent.until_accepted().await;
    until("the connections have reached their age", async || aged(&server).await >= 2.0).await;
    let begin = Instant::now();
    soon(server.stop()).await;
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    let end = loop {
        if let Err(status) = watch.try_next().await {
            break status;
        }
    };
    assert_eq!(refused::<()>(Err(end)), (Code::Unavailable, "SERVER_STOPPING".to_owned()));
    drop(silent);
}
