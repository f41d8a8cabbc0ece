//! A stop: health reports it first, running calls end, no new call begins, and the drain time limits it.

use crate::harness::server::Clients;
use crate::harness::{Database, Server, add, assert_refused, is_member};
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use sqlx::{Connection, PgConnection};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tonic::codec::Streaming;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The time limit for everything that must happen soon.
const SOON: Duration = Duration::from_mins(1);

/// A server with this drain time, and an organization.
async fn server(drain: Duration) -> (Server, String) {
    let settings = ServerSettings { drain, ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    let organization = server.user("ada").create("Acme").await;
    (server, organization)
}

/// A health watch over a separate connection, after its first answer, SERVING.
async fn watch(server: &Server) -> Streaming<HealthCheckResponse> {
    let mut health = HealthClient::new(server.connect().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await.unwrap(), Some(ServingStatus::Serving));
    watch
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> Result<Option<ServingStatus>, Status> {
    let answer = tokio::time::timeout(SOON, watch.message()).await.expect("health sends no update");
    answer.map(|update| update.map(|update| update.status()))
}

/// A row lock on every organization, held by another connection and released with it.
pub struct RowLock(PgConnection);

impl RowLock {
    pub async fn new(database: &Database) -> Self {
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
        sqlx::query("SELECT FROM organizations FOR NO KEY UPDATE").execute(&mut connection).await.unwrap();
        Self(connection)
    }

    pub async fn release(mut self) {
        sqlx::query("ROLLBACK").execute(&mut self.0).await.unwrap();
        self.0.close().await.unwrap();
    }
}

/// Starts a call that adds a user, and returns once it waits for the organization's lock.
pub async fn start_blocked_call(
    server: &Server,
    organization: &str,
) -> tokio::task::JoinHandle<Result<pb::AddMemberResponse, Status>> {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%FOR NO KEY UPDATE%'";
    let mut backend = server.service(&[Scope::Manage]);
    let request = add(organization, "alan", "member");
    let call = tokio::spawn(async move { Ok(backend.organizations.add_member(request).await?.into_inner()) });
    let waits = async {
        while server.database.count(WAITING).await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, waits).await.expect("the call never waits for the lock");
    call
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_reports_the_stop_first_and_running_calls_are_answered() {
    let (mut server, organization) = server(SOON).await;
    let mut watch = watch(&server).await;
    let lock = RowLock::new(&server.database).await;
    let call = start_blocked_call(&server, &organization).await;

    server.begin_stop();
    // The watch reports the stop while its connection is open and the call is still running.
    assert_eq!(next(&mut watch).await.unwrap(), Some(ServingStatus::NotServing));
    assert!(!call.is_finished());
    let refused = async {
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("new connections are still accepted");
    assert!(!call.is_finished());

    lock.release().await;
    let answer = call.await.unwrap().unwrap();
    assert_eq!(answer.member.unwrap().user_id, "alan");
    drop(watch);
    let begin = Instant::now();
    server.stop().await;
    assert!(begin.elapsed() < SOON / 2, "the stop waited although no call was running");
    let added = "SELECT count(*) FROM memberships WHERE user_id = 'alan'";
    assert_eq!(server.database.count(added).await, 1);
    server.database.assert_invariants().await;
    server.database.assert_no_open_transactions().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lame_duck_says_not_serving_and_still_serves() {
    let lame_duck = Duration::from_secs(2);
    let settings = ServerSettings { lame_duck, ..ServerSettings::default() };
    let mut server = Server::over(Database::new().await, settings).await;
    let organization = server.user("ada").create("Acme").await;
    let mut watch = watch(&server).await;
    let begin = Instant::now();
    server.begin_stop();
    assert_eq!(next(&mut watch).await.unwrap(), Some(ServingStatus::NotServing));

    // New connections are accepted, and reads, writes and streams on them are served.
    let channel = server.connect().await;
    let mut health = HealthClient::new(channel.clone());
    let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
    let mut clients = Clients::new(&channel, server.credential(&[Scope::Manage, Scope::Check]));
    let token = clients.add(&organization, "grace", "member").await;
    let mut check = is_member(&organization, "grace");
    check.consistency =
        Some(pb::Consistency { requirement: Some(pb::consistency::Requirement::AtLeastAsFresh(token)) });
    let answer = clients.checks.check_membership(check).await.unwrap().into_inner();
    // The replica follows the log until the listener closes.
    assert!(answer.result.unwrap().allowed);
    assert!(begin.elapsed() < lame_duck, "the machine was too slow for this test: {:?}", begin.elapsed());

    // Then the stop goes on: the watch ends, and no connection is accepted.
    let end = next(&mut watch).await.unwrap_err();
    assert!(begin.elapsed() >= lame_duck, "{:?}", begin.elapsed());
    assert_refused::<()>(Err(end), Code::Unavailable, "SERVER_STOPPING");
    server.stop().await;
    assert!(TcpStream::connect(server.address).await.is_err());
    assert!(begin.elapsed() < lame_duck + SOON / 2, "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_server_stops_at_once() {
    let (mut server, _) = server(SOON).await;
    let begin = Instant::now();
    server.stop().await;
    assert!(begin.elapsed() < SOON / 2, "{:?}", begin.elapsed());
    assert_eq!(
        server.anonymous().users.get_caller(pb::GetCallerRequest::default()).await.unwrap_err().code(),
        Code::Unavailable
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_a_blocked_call_no_longer_than_the_drain_time() {
    let drain = Duration::from_millis(500);
    let (mut server, organization) = server(drain).await;
    let lock = RowLock::new(&server.database).await;
    let call = start_blocked_call(&server, &organization).await;
    let begin = Instant::now();
    server.stop().await;
    let took = begin.elapsed();
    assert!(took >= drain && took < drain + SOON / 2, "{took:?}");
    // Its caller soon gets an error: the end of the connection, not an answer of the server.
    let ended = tokio::time::timeout(SOON / 5, call).await.expect("the caller still waits");
    assert!(ended.unwrap().is_err());

    // Postgres has committed or rolled back the write as a whole, and no transaction stays open.
    lock.release().await;
    server.database.assert_no_open_transactions().await;
    let added = server.database.count("SELECT count(*) FROM memberships WHERE user_id = 'alan'").await;
    let events = server.database.count("SELECT count(*) FROM events WHERE user_id = 'alan'").await;
    assert_eq!(added, events);
    server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_during_a_stop_are_done_or_not_begun() {
    let (mut server, organization) = server(SOON).await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let mut backend = server.service(&[Scope::Manage]);
            let organization = organization.clone();
            tokio::spawn(async move {
                let mut added = Vec::new();
                for number in 0.. {
                    let user = format!("user-{writer}-{number}");
                    match backend.organizations.add_member(add(&organization, &user, "member")).await {
                        Ok(_) => added.push(user),
                        // The connection ended before the call was sent: the error is not an answer of the server.
                        Err(status) => {
                            assert!(status.details().is_empty(), "{status:?}");
                            return added;
                        }
                    }
                }
                added
            })
        })
        .collect();
    let first_writes = async {
        while server.database.count("SELECT count(*) FROM memberships").await < 40 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, first_writes).await.expect("no write was done");
    server.stop().await;
    let mut added = vec!["ada".to_owned()];
    for writer in writers {
        added.extend(writer.await.unwrap());
    }
    added.sort();
    let members = "SELECT user_id FROM memberships ORDER BY user_id";
    let members: Vec<String> = sqlx::query_scalar(members).fetch_all(&server.database.pool).await.unwrap();
    // No call was refused halfway: every write that began was answered.
    assert_eq!(members, added);
    server.database.assert_invariants().await;
    server.database.assert_no_open_transactions().await;
}
