//! Sessions that became useless: read-only ones, and ended ones. No later call meets them.

use super::{FULLY_CONSISTENT, assert_all_succeed, assert_recovers, assert_unavailable, check, named, unavailable};
use crate::harness::cluster::TestCluster;
use crate::harness::{Database, Server, add};
use crate::replica::until;
use roster::random;
use roster::server::ServerSettings;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

const ROLE: &str = "app";

/// A private Postgres, a server that connects as the owner of the database, and an organization.
async fn scene() -> (TestCluster, Server, String) {
    let cluster = TestCluster::with_schema().await;
    cluster.create_owner(ROLE, "secret", "").await;
    let database = Database { url: cluster.url_of(ROLE, "secret"), ..cluster.database() };
    let server = Server::over(database, ServerSettings::default()).await;
    let organization = server.user("ada").create("Acme").await;
    // Every connection is open.
    assert_all_succeed(&server, &organization).await;
    (cluster, server, organization)
}

async fn add_one(server: &Server, organization: &str) -> Result<(), tonic::Status> {
    let request = add(organization, &random::uuid().to_string(), "member");
    server.operator().organizations.add_member(request).await.map(drop)
}

/// Makes the sessions read-only with one statement, and allows writes again with another one.
async fn read_only_for_a_while(begin: &str, end: &str) {
    let (cluster, server, organization) = scene().await;
    cluster.administer(&[begin]).await;
    cluster.end_sessions(ROLE).await;
    server.until(ServingStatus::NotServing).await;
    for _ in 0..32 {
        assert_unavailable("a write", add_one(&server, &organization).await);
    }
    let answer = server.operator().checks.check_membership(check(&organization, "ada", FULLY_CONSISTENT)).await;
    assert_unavailable("a fully consistent check", answer);
    cluster.administer(&[end]).await;
    assert_recovers(&server).await;
    for _ in 0..4 {
        assert_all_succeed(&server, &organization).await;
    }
    super::assert_health_stays(&server, ServingStatus::Serving, Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_was_read_only_writes_again() {
    let setting = "ALTER ROLE app SET default_transaction_read_only = on";
    read_only_for_a_while(setting, "ALTER ROLE app RESET default_transaction_read_only").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_read_only_is_written_again() {
    let setting = "ALTER DATABASE roster SET default_transaction_read_only = on";
    read_only_for_a_while(setting, "ALTER DATABASE roster RESET default_transaction_read_only").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn present_sessions_that_become_read_only_are_not_used() {
    let (cluster, server, organization) = scene().await;
    // The setting of the whole server reaches sessions that are open.
    cluster.alter_system("default_transaction_read_only", "on").await;
    server.until(ServingStatus::NotServing).await;
    assert_unavailable("a write", add_one(&server, &organization).await);
    cluster.administer(&["ALTER SYSTEM RESET default_transaction_read_only"]).await;
    cluster.reload().await;
    assert_recovers(&server).await;
    for _ in 0..4 {
        assert_all_succeed(&server, &organization).await;
    }
}

/// Calls in endless loops, until `stop`. A call that begins and ends while `strict` is set must succeed.
async fn load(server: &Server, organization: &str, callers: usize, strict: &AtomicBool, stop: &AtomicBool) {
    let calls = (0..callers).map(|_| async {
        while !stop.load(Ordering::Relaxed) {
            let must_succeed = strict.load(Ordering::Relaxed);
            if let Err(status) = add_one(server, organization).await {
                assert!(!(must_succeed && strict.load(Ordering::Relaxed)), "{status:?}");
                // A session that was ended during its commit leaves the outcome unknown.
                let unknown = (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned());
                assert!([unavailable(), unknown].contains(&named(&status)), "{status:?}");
            }
        }
    });
    futures_util::future::join_all(calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_were_ended_under_load_are_not_used_again() {
    let (cluster, server, organization) = scene().await;
    let (strict, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let faults = async {
        for _ in 0..3 {
            strict.store(false, Ordering::Relaxed);
            cluster.end_sessions(ROLE).await;
            let ended = Instant::now();
            until("a second has passed", async || ended.elapsed() > Duration::from_secs(1)).await;
            strict.store(true, Ordering::Relaxed);
            until("three seconds have passed", async || ended.elapsed() > Duration::from_secs(3)).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(load(&server, &organization, 24, &strict, &stop), faults);
    assert_all_succeed(&server, &organization).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_were_ended_while_idle_are_not_used_again() {
    let (cluster, server, organization) = scene().await;
    cluster.end_sessions(ROLE).await;
    // A single caller uses one connection only: the others stay idle.
    let ended = Instant::now();
    while ended.elapsed() < Duration::from_secs(2) {
        if let Err(status) = add_one(&server, &organization).await {
            assert_unavailable("a write", Err::<(), _>(status));
        }
    }
    assert_all_succeed(&server, &organization).await;
}
