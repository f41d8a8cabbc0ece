//! The bound of the memory of a server, and peers that try to pass it. `make siege ARGS=memory` does the same at full size.

use crate::harness::bulk::Bulk;
use crate::harness::http2::{self, DATA, END_HEADERS, HEADERS, RawConnection};
use crate::harness::program::Serve;
use crate::harness::{Database, raw};
use bytes::Bytes;
use prost::Message;
use roster::grpc::pb;
use roster::server::ServerSettings;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tonic_health::pb::health_check_response::ServingStatus;

/// The organization whose page of members has about 3 MiB.
const ORGANIZATION: &str = "0193b5a0-0000-7000-8000-000000000000";
/// Settings with small budgets, so that the peers reach them in a moment.
const SETTINGS: &str = "max_connections = 32\nrequest_memory_mib = 16\nresponse_memory_mib = 16\nmax_streams = 16\n";

/// The bound that follows.
fn bound() -> u64 {
    let (request_memory, response_memory) = (16 << 20, 16 << 20);
    let settings = ServerSettings {
        max_connections: 32,
        request_memory,
        response_memory,
        max_streams: 16,
        ..ServerSettings::default()
    };
    u64::try_from(settings.peer_memory()).unwrap()
}
/// The time without progress after which the peers have what they can get.
const QUIET: Duration = Duration::from_secs(3);
/// The most time that they have.
const PATIENCE: Duration = Duration::from_secs(6);

/// Opens a connection from an address whose windows are closed, and calls `ListMembers` on 100 streams. The answers are
/// held and never read.
async fn list_members(address: SocketAddr, number: u8, key: &str, progress: Arc<AtomicU64>) {
    let request =
        pb::ListMembersRequest { organization: ORGANIZATION.to_owned(), page_size: 1000, ..Default::default() };
    let message = Bytes::from(raw::frame(&request.encode_to_vec()));
    let Ok(socket) = connect(address, number).await else { return };
    let handshake = h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(socket);
    let Ok((client, connection)) = handshake.await else { return };
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..100 {
        let Ok(mut client) = client.clone().ready().await else { return };
        let request = http::Request::post("http://roster.test/roster.v1.OrganizationService/ListMembers")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {key}"));
        let Ok((answer, mut sending)) = client.send_request(request.body(()).unwrap(), false) else { return };
        // The message is smaller than every window.
        let _ = sending.send_data(message.clone(), true);
        answers.push(answer);
    }
    let mut held = Vec::new();
    for answer in answers {
        held.push(answer.await);
        progress.fetch_add(1, Ordering::Relaxed);
    }
    std::future::pending::<()>().await;
}

/// Connects from the address `127.0.0.<number>`.
async fn connect(address: SocketAddr, number: u8) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, number), 0).into())?;
    socket.connect(address).await
}

/// Opens a connection from an address, and sends the first 60 KB of a message of 1 MiB on each of 250 streams: all of it
/// is within the windows that the server grants. The connection stays open until the runtime ends.
async fn begin_messages(path: &str, address: SocketAddr, number: u8, key: &str, progress: Arc<AtomicU64>) {
    let Ok(socket) = connect(address, number).await else { return };
    let mut connection = RawConnection::from(socket);
    let authorization = format!("Bearer {key}");
    let block = http2::block(&http2::call(path, &authorization));
    let data = [&[0], &(1_u32 << 20).to_be_bytes()[..], &[0; 14_995]].concat();
    if connection.start(&[]).await.is_err() {
        return;
    }
    let RawConnection { mut reading, mut writing } = connection;
    tokio::spawn(async move { while reading.next().await.is_some() {} });
    for stream in (1..500).step_by(2) {
        let head = http2::frame(HEADERS, END_HEADERS, stream, &block);
        let frames = [head, http2::frame(DATA, 0, stream, &data).repeat(4)].concat();
        if writing.write_all(&frames).await.is_err() {
            return;
        }
        progress.fetch_add(1, Ordering::Relaxed);
    }
    std::future::pending::<()>().await;
}

/// The highest resident memory of the server until the peers make no more progress.
async fn peak(serve: &Serve, progress: &AtomicU64) -> u64 {
    let (begin, mut last, mut since, mut peak) = (Instant::now(), 0, Instant::now(), 0);
    while since.elapsed() < QUIET && begin.elapsed() < PATIENCE {
        let now = progress.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        peak = peak.max(serve.resident());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    peak.max(serve.resident())
}

/// A server over a database with one organization, whose page of members has about 3 MiB.
async fn serve() -> Serve {
    let database = Database::new().await;
    let bulk = Bulk {
        users: "SELECT 'u' || number AS id FROM generate_series(1, 1000) AS number",
        organizations: &format!("SELECT '{ORGANIZATION}'::uuid AS id, 'large' AS slug, 'u1' AS owner"),
        memberships: &format!(
            "SELECT '{ORGANIZATION}'::uuid AS id, 'u' || number AS user_id FROM generate_series(1, 1000) AS number"
        ),
    };
    bulk.insert(&database).await;
    sqlx::query("UPDATE memberships SET attributes = jsonb_build_object('a', repeat('x', 3000))")
        .execute(&database.pool)
        .await
        .unwrap();
    let serve = Serve::start(&database.url, SETTINGS).await;
    serve.until(ServingStatus::Serving).await;
    serve
}

#[tokio::test]
async fn messages_that_never_end_stay_within_the_bound() {
    let serve = serve().await;
    let (idle, progress) = (serve.resident(), Arc::new(AtomicU64::new(0)));
    for number in 2..10 {
        let (address, key, progress) = (serve.address, serve.key.clone(), progress.clone());
        let path = "/roster.v1.OrganizationService/BatchAddMembers";
        tokio::spawn(async move { begin_messages(path, address, number, &key, progress).await });
    }
    let added = peak(&serve, &progress).await.saturating_sub(idle);
    assert!(added < bound(), "the peers added {} MiB", added >> 20);
    assert!(serve.clients.clone().is_member(ORGANIZATION, "u1").await);
}

#[tokio::test]
async fn answers_that_are_never_read_stay_within_the_bound() {
    let serve = serve().await;
    let (idle, progress) = (serve.resident(), Arc::new(AtomicU64::new(0)));
    for number in 2..5 {
        let (address, key, progress) = (serve.address, serve.key.clone(), progress.clone());
        tokio::spawn(async move { list_members(address, number, &key, progress).await });
    }
    let added = peak(&serve, &progress).await.saturating_sub(idle);
    assert!(added < bound(), "the peers added {} MiB", added >> 20);
    assert!(serve.clients.clone().is_member(ORGANIZATION, "u1").await);
}
