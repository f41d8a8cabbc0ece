//! Health and metrics: neither takes connections from the calls or waits behind them, and the metrics listener is
//! bounded.

use crate::harness::{Database, Server, add};
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use sqlx::{Connection, PgConnection};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// The time limit for everything that must happen soon.
const SOON: Duration = Duration::from_secs(10);
/// The connections to Postgres in the harness that writes can take, and reads: together all 16.
const WRITES: i64 = 12;
const READS: i64 = 4;
/// The connections that the metrics listener takes at once.
const SCRAPES: usize = 16;

/// Sessions of this server that wait for a lock in a statement like this one.
async fn waiting(database: &Database, statement: &str) -> i64 {
    let query =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'roster'
        AND wait_event_type = 'Lock' AND query LIKE $1";
    sqlx::query_scalar(query).bind(statement).fetch_one(&database.pool).await.unwrap()
}

/// A transaction that has run this statement and keeps its locks.
async fn lock(database: &Database, statement: &'static str) -> PgConnection {
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection
}

/// The text of the metrics.
pub async fn scrape(server: &Server) -> String {
    scrape_at(server.metrics).await
}

/// The metrics at this address.
pub async fn scrape_at(metrics: SocketAddr) -> String {
    let mut stream = TcpStream::connect(metrics).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: roster\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    timeout(SOON, stream.read_to_string(&mut text)).await.expect("the connection stays open").unwrap();
    text
}

/// The value of a sample, by its name with its labels.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Asserts that health reports SERVING and nothing else while this runs.
async fn stays_serving(server: &Server, run: impl Future<Output = ()>) {
    let mut health = HealthClient::new(server.connect().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let reports = async {
        while let Some(answer) = watch.message().await.unwrap() {
            assert_eq!(answer.status(), ServingStatus::Serving);
        }
        panic!("the watch of the health ended");
    };
    tokio::select! {
        biased;
        () = reports => {}
        () = run => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_statements_of_calls_change_neither_health_nor_metrics() {
    let server = Server::start().await;
    let mut organizations = Vec::new();
    for number in 0..WRITES / 2 {
        organizations.push(server.user("ada").create(&format!("Acme {number}")).await);
    }
    let rows = lock(&server.database, "SELECT FROM organizations FOR NO KEY UPDATE").await;
    let table = lock(&server.database, "LOCK TABLE invitations").await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..2 {
        for organization in &organizations {
            let mut backend = server.service(&[Scope::Manage]);
            let request = add(organization, &format!("user-{number}"), "member");
            calls.spawn(async move { backend.organizations.add_member(request).await.map(drop) });
        }
    }
    for _ in 0..READS {
        let mut backend = server.service(&[Scope::Manage]);
        let request = pb::ListInvitationsRequest { organization: organizations[0].clone(), ..Default::default() };
        calls.spawn(async move { backend.invitations.list_invitations(request).await.map(drop) });
    }
    let all = async {
        while waiting(&server.database, "%FOR NO KEY UPDATE%").await < WRITES
            || waiting(&server.database, "%invitations%").await < READS
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, all).await.expect("the calls do not take every connection");
    let scrapes = async {
        // Longer than the time after which health gives up.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(3) {
            let text = scrape(&server).await;
            assert_eq!(metric(&text, "roster_mails_waiting"), Some(0.0), "{text}");
        }
    };
    stays_serving(&server, scrapes).await;
    rows.close().await.unwrap();
    table.close().await.unwrap();
    while let Some(call) = calls.join_next().await {
        if let Err(status) = call.unwrap() {
            assert_eq!(status.code(), Code::DeadlineExceeded);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_sessions_do_not_change_health() {
    let server = Server::start().await;
    let kills = async {
        for _ in 0..3 {
            kill_sessions(&server.database).await;
        }
    };
    stays_serving(&server, kills).await;
}

/// Ends every session of the server, and waits until health has another one and has used it twice.
async fn kill_sessions(database: &Database) {
    const KILL: &str = "SELECT clock_timestamp() FROM (SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'roster') AS killed";
    const PINGS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'roster' AND query LIKE 'SELECT pg_is_in_recovery()%'
        AND backend_start > $1::timestamptz AND query_start > backend_start + interval '600 milliseconds'";
    let killed: time::OffsetDateTime = sqlx::query_scalar(KILL).fetch_one(&database.pool).await.unwrap();
    let pinged = async {
        while sqlx::query_scalar::<_, i64>(PINGS).bind(killed).fetch_one(&database.pool).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, pinged).await.expect("health has no session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_reports_a_database_that_accepts_no_connections() {
    let server = Server::start().await;
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&server.database.pool).await.unwrap();
    let other = server.database.url.replace(&name, "postgres");
    let mut administrator = PgConnection::connect(&other).await.unwrap();
    for (allow, status) in [("false", ServingStatus::NotServing), ("true", ServingStatus::Serving)] {
        let statement = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {allow}");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut administrator).await.unwrap();
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1";
        sqlx::query(kill).bind(&name).execute(&mut administrator).await.unwrap();
        server.until(status).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrapes_at_once_share_one_statement() {
    let server = Server::start().await;
    let lock = lock(&server.database, "LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE").await;
    let scrapes = futures_util::future::join_all((0..SCRAPES / 2).map(|_| scrape(&server)));
    let mut most = 0;
    let watched = async {
        loop {
            most = most.max(waiting(&server.database, "%FROM outbox%").await);
        }
    };
    let texts = tokio::select! {
        texts = scrapes => texts,
        () = watched => Vec::new(),
    };
    assert_eq!(most, 1, "sessions that waited for the outbox at once");
    for text in texts {
        assert_eq!(metric(&text, "roster_mails_waiting"), Some(-1.0), "{text}");
    }
    lock.close().await.unwrap();
    let recovered = async { while metric(&scrape(&server).await, "roster_mails_waiting") != Some(0.0) {} };
    timeout(SOON, recovered).await.expect("the outbox is not counted again");
}

/// Whether the peer has closed the connection.
async fn is_closed(stream: &mut TcpStream) -> bool {
    match timeout(Duration::from_millis(1), stream.read(&mut [0; 64])).await {
        Ok(Ok(read)) => read == 0,
        Ok(Err(error)) => error.kind() != ErrorKind::WouldBlock,
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_the_metrics_are_bounded_and_end() {
    let server = Server::over(Database::new().await, ServerSettings::default()).await;
    let mut silent = Vec::new();
    // Some say nothing, some send a head byte by byte, some repeat a head without an end.
    for number in 0..SCRAPES {
        let mut stream = TcpStream::connect(server.metrics).await.unwrap();
        let begun: &[u8] = [&b""[..], b"G", b"GET /metrics HTTP/1.1\r\nhost: "][number % 3];
        stream.write_all(begun).await.unwrap();
        silent.push(stream);
    }
    let mut further = TcpStream::connect(server.metrics).await.unwrap();
    let refused = timeout(SOON, further.read(&mut [0; 64])).await.expect("a connection above the limit stays open");
    assert!(matches!(refused, Ok(0) | Err(_)));
    for stream in &mut silent {
        assert!(!is_closed(stream).await, "a connection within the limit was closed at once");
    }
    let end = async {
        for stream in &mut silent {
            while !is_closed(stream).await {
                let _ = stream.write_all(b"x").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    timeout(SOON, end).await.expect("a connection that sends no request stays open");
    let text = scrape(&server).await;
    let closed = metric(&text, r#"roster_connections_closed_total{reason="metrics_limit"}"#);
    assert_eq!(closed, Some(1.0), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_the_metrics_serves_one_bounded_request() {
    let server = Server::start().await;
    // The second request of a connection is not answered.
    let mut stream = TcpStream::connect(server.metrics).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: roster\r\n\r\n";
    stream.write_all(&request.repeat(2)).await.unwrap();
    let mut text = String::new();
    timeout(SOON, stream.read_to_string(&mut text)).await.expect("the connection stays open").unwrap();
    assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "{text}");
    // A head that is too large is refused before it ends.
    let mut stream = TcpStream::connect(server.metrics).await.unwrap();
    let head = format!("GET /metrics HTTP/1.1\r\nhost: {}", "x".repeat(64 * 1024));
    let _ = stream.write_all(head.as_bytes()).await;
    let mut text = Vec::new();
    let _ = timeout(SOON / 5, stream.read_to_end(&mut text)).await.expect("a head of 64 KiB is waited for");
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(!text.contains("HTTP/1.1 200"), "{text}");
}
