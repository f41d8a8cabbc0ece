//! Tests of the rigs: a private Postgres, a standby and the proxy do what the other tests expect of them.

use crate::harness::cluster::TestCluster;
use crate::harness::proxy::Proxy;
use crate::harness::standby::Standby;
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use tokio::time::timeout;

const KEPT: &str = "SELECT count(*) FROM kept";

#[tokio::test]
async fn a_standby_replays_pauses_and_is_promoted_without_the_last_commits() {
    let mut primary = TestCluster::start(&[("max_connections", "30")]).await;
    primary.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").await;
    let standby = Standby::of(&primary).await;
    assert_eq!(standby.value::<i64>(KEPT).await, 1);
    standby.pause_replay().await;
    primary.execute("INSERT INTO kept VALUES (2)").await;
    assert_eq!(standby.value::<i64>(KEPT).await, 1);
    standby.resume_replay().await;
    standby.catch_up(&primary).await;
    assert_eq!(standby.value::<i64>(KEPT).await, 2);
    standby.stop_receiving().await;
    primary.execute("INSERT INTO kept VALUES (3)").await;
    primary.kill().await;
    standby.promote().await;
    standby.execute("INSERT INTO kept VALUES (4)").await;
    assert_eq!(standby.value::<i64>("SELECT sum(n) FROM kept").await, 7);
    // The old primary is intact, and can be started again.
    primary.start_again().await.unwrap();
    assert_eq!(primary.value::<i64>("SELECT sum(n) FROM kept").await, 6);
}

#[tokio::test]
async fn a_role_has_a_password_and_can_be_rejected() {
    let cluster = TestCluster::with_schema().await;
    cluster.create_owner("app", "first", "").await;
    cluster.set_access("local all all scram-sha-256").await;
    let url = cluster.url_of("app", "first");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::query("SELECT count(*) FROM organizations").execute(&mut connection).await.unwrap();
    cluster.execute("ALTER ROLE app PASSWORD 'second'").await;
    cluster.end_sessions("app").await;
    assert!(connection.ping().await.is_err());
    let code = |error: sqlx::Error| error.into_database_error().unwrap().code().unwrap().into_owned();
    assert_eq!(code(PgConnection::connect(&url).await.unwrap_err()), "28P01");
    let url = cluster.url_of("app", "second");
    PgConnection::connect(&url).await.unwrap();
    cluster.set_access("local all all reject").await;
    assert_eq!(code(PgConnection::connect(&url).await.unwrap_err()), "28000");
}

#[tokio::test]
async fn the_proxy_swallows_present_connections_and_forwards_new_ones() {
    let cluster = TestCluster::start(&[]).await;
    let proxy = Proxy::to(&cluster).await;
    let mut first = PgConnection::connect(&proxy.url()).await.unwrap();
    let mut second = PgConnection::connect(&proxy.url()).await.unwrap();
    assert_eq!((proxy.accepted(), proxy.connections()), (2, 2));
    proxy.swallow_first(1);
    assert!(timeout(Duration::from_millis(100), first.ping()).await.is_err());
    second.ping().await.unwrap();
    proxy.swallow();
    assert!(timeout(Duration::from_millis(100), second.ping()).await.is_err());
    let mut third = PgConnection::connect(&proxy.url()).await.unwrap();
    third.ping().await.unwrap();
    // The end of a swallowed connection does not reach Postgres.
    drop(first);
    assert_eq!(cluster.value::<i64>("SELECT count(*) FROM pg_stat_activity WHERE client_port = -1").await, 4);
    proxy.swallow_all();
    assert!(timeout(Duration::from_millis(100), third.ping()).await.is_err());
    assert!(timeout(Duration::from_millis(100), PgConnection::connect(&proxy.url())).await.is_err());
    proxy.resume();
    PgConnection::connect(&proxy.url()).await.unwrap().ping().await.unwrap();
}
