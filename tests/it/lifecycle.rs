//! A stop: the first thing it does is to say so; what is under way ends; nothing new begins; and it takes its time, but no
//! more.

use crate::harness::{Database, Server, add};
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

/// How long anything that must happen soon may take.
const SOON: Duration = Duration::from_secs(10);

/// A server that gives what is under way this long.
async fn server(drain: Duration) -> (Server, String) {
    let settings = ServerSettings { drain, ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    let organization = server.user("ada").create("Acme").await;
    (server, organization)
}

/// Watches health over a connection of its own, which has seen SERVING.
async fn watch(server: &Server) -> Streaming<HealthCheckResponse> {
    let mut health = HealthClient::new(server.connect().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await.unwrap(), Some(ServingStatus::Serving));
    watch
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> Result<Option<ServingStatus>, Status> {
    let told = tokio::time::timeout(SOON, watch.message()).await.expect("health says nothing");
    told.map(|told| told.map(|told| told.status()))
}

/// Another program's hold on an organization. It ends with the connection.
struct Held(PgConnection);

impl Held {
    async fn new(database: &Database) -> Self {
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
        sqlx::query("SELECT FROM organizations FOR NO KEY UPDATE").execute(&mut connection).await.unwrap();
        Self(connection)
    }

    async fn release(mut self) {
        sqlx::query("ROLLBACK").execute(&mut self.0).await.unwrap();
        self.0.close().await.unwrap();
    }
}

/// Begins to add a user, and waits until Postgres lets the call wait for the organization.
async fn stuck(server: &Server, organization: &str) -> tokio::task::JoinHandle<Result<pb::AddMemberResponse, Status>> {
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
    tokio::time::timeout(SOON, waits).await.expect("the call never came to wait");
    call
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_so_first_and_what_is_under_way_is_answered() {
    let (mut server, organization) = server(SOON).await;
    let mut watch = watch(&server).await;
    let held = Held::new(&server.database).await;
    let call = stuck(&server, &organization).await;

    server.begin_stop();
    // The watcher hears of it while its connection still stands and the call is still under way.
    assert_eq!(next(&mut watch).await.unwrap(), Some(ServingStatus::NotServing));
    assert!(!call.is_finished());
    let refused = async {
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("new connections are still accepted");
    assert!(!call.is_finished());

    held.release().await;
    let answer = call.await.unwrap().unwrap();
    assert_eq!(answer.member.unwrap().user_id, "alan");
    drop(watch);
    let begin = Instant::now();
    server.stop().await;
    assert!(begin.elapsed() < SOON / 2, "the stop waited although nothing was under way any more");
    let added = "SELECT count(*) FROM memberships WHERE user_id = 'alan'";
    assert_eq!(server.database.count(added).await, 1);
    server.database.assert_invariants().await;
    server.database.assert_no_open_transactions().await;
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
async fn a_stop_does_not_wait_for_ever_for_who_watches() {
    let drain = Duration::from_millis(500);
    let (mut server, _) = server(drain).await;
    let mut watch = watch(&server).await;
    let begin = Instant::now();
    server.stop().await;
    let took = begin.elapsed();
    assert!(took >= drain && took < drain + Duration::from_secs(3), "{took:?}");
    assert_eq!(next(&mut watch).await.unwrap(), Some(ServingStatus::NotServing));
    // And then it is cut off: a server that has stopped holds nobody.
    let end = next(&mut watch).await;
    assert!(matches!(end, Err(_) | Ok(None)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_ever_for_a_call_that_is_stuck() {
    let drain = Duration::from_millis(500);
    let (mut server, organization) = server(drain).await;
    let held = Held::new(&server.database).await;
    let call = stuck(&server, &organization).await;
    let begin = Instant::now();
    server.stop().await;
    let took = begin.elapsed();
    assert!(took >= drain && took < drain + Duration::from_secs(3), "{took:?}");
    // Its caller hears of it soon: not an answer of the server's, but the end of the connection.
    let ended = tokio::time::timeout(SOON / 5, call).await.expect("the caller is left hanging");
    assert!(ended.unwrap().is_err());

    // The write itself is whole or not there: what becomes of it is Postgres's to say, and nothing of it stays open.
    held.release().await;
    server.database.assert_no_open_transactions().await;
    let added = server.database.count("SELECT count(*) FROM memberships WHERE user_id = 'alan'").await;
    let told = server.database.count("SELECT count(*) FROM events WHERE user_id = 'alan'").await;
    assert_eq!(added, told);
    server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_a_stop_meets_are_done_or_not_begun() {
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
                        // The connection has ended before the call was sent: no answer of the server's.
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
    let some = async {
        while server.database.count("SELECT count(*) FROM memberships").await < 40 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, some).await.expect("nothing is written");
    server.stop().await;
    let mut added = vec!["ada".to_owned()];
    for writer in writers {
        added.extend(writer.await.unwrap());
    }
    added.sort();
    let members = "SELECT user_id FROM memberships ORDER BY user_id";
    let members: Vec<String> = sqlx::query_scalar(members).fetch_all(&server.database.pool).await.unwrap();
    // Nobody was refused in the middle: what was begun was answered.
    assert_eq!(members, added);
    server.database.assert_invariants().await;
    server.database.assert_no_open_transactions().await;
}
