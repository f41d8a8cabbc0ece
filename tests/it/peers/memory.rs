//! The bound of the memory of a server, and peers that try to pass it. `make siege ARGS=memory` does the same at full size.

use crate::harness::Database;
use crate::harness::bulk::Bulk;
use crate::harness::memory_bound::{REDUCED_PEER_BYTES, REDUCED_SETTINGS};
use crate::harness::program::Serve;
use bytes::Bytes;
use prost::Message;
use roster::grpc::pb;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;
use tonic_health::pb::health_check_response::ServingStatus;

/// The organization whose page of members has about 3 MiB.
const ORGANIZATION: &str = "0193b5a0-0000-7000-8000-000000000000";
/// The time without progress after which the peers have what they can get.
const QUIET: Duration = Duration::from_secs(1);
/// The most time that they have.
const PATIENCE: Duration = Duration::from_secs(6);

/// The calls of one peer.
struct Calls {
    path: &'static str,
    /// The declared length of the message.
    declared: u32,
    /// The bytes of the message that are sent.
    message: Vec<u8>,
    /// The window of the answers.
    window: u32,
    connections: u32,
    streams: u32,
}

/// Opens every connection of a peer from its address. The tasks last until the runtime ends.
fn start(calls: Calls, address: SocketAddr, number: u8, key: &str, progress: &Arc<AtomicU64>) {
    let calls = Arc::new(calls);
    for _ in 0..calls.connections {
        let (calls, key, progress) = (calls.clone(), key.to_owned(), progress.clone());
        tokio::spawn(async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((Ipv4Addr::new(127, 0, 0, number), 0).into()).unwrap();
            let Ok(socket) = socket.connect(address).await else { return };
            let mut builder = h2::client::Builder::new();
            let handshake = builder.initial_window_size(calls.window).handshake(socket);
            let Ok((client, connection)) = handshake.await else { return };
            tokio::spawn(connection);
            for _ in 0..calls.streams {
                let Ok(mut client) = client.clone().ready().await else { return };
                let request = http::Request::post(format!("http://roster.test{}", calls.path))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .header("authorization", format!("Bearer {key}"));
                let Ok((answer, sending)) = client.send_request(request.body(()).unwrap(), false) else { return };
                let (calls, progress) = (calls.clone(), progress.clone());
                tokio::spawn(async move {
                    send(sending, &calls, &progress).await;
                    // The answer is held and never read.
                    let _answer = answer.await;
                    progress.fetch_add(1, Ordering::Relaxed);
                    std::future::pending::<()>().await;
                });
            }
        });
    }
}

/// Sends the message as the windows allow; ends the body if the message is whole.
async fn send(mut sending: h2::SendStream<Bytes>, calls: &Calls, progress: &AtomicU64) {
    let mut rest = Bytes::from([&[0], &calls.declared.to_be_bytes()[..], &calls.message].concat());
    let ends = calls.message.len() == usize::try_from(calls.declared).unwrap();
    while !rest.is_empty() {
        sending.reserve_capacity(rest.len());
        let Some(Ok(capacity)) = std::future::poll_fn(|context| sending.poll_capacity(context)).await else { return };
        let part = rest.split_to(capacity.min(rest.len()));
        progress.fetch_add(u64::try_from(part.len()).unwrap(), Ordering::Relaxed);
        if sending.send_data(part, ends && rest.is_empty()).is_err() {
            return;
        }
    }
    if !ends {
        // Dropping the stream would reset it.
        std::future::pending::<()>().await;
    }
}

/// A message of this length without its last byte.
fn endless(path: &'static str, length: u32, connections: u32) -> Calls {
    let message = vec![0; usize::try_from(length).unwrap() - 1];
    Calls { path, declared: length, message, window: 65_535, connections, streams: 250 }
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
    let serve = Serve::start(&database.url, REDUCED_SETTINGS).await;
    serve.until(ServingStatus::Serving).await;
    serve
}

#[tokio::test]
async fn messages_that_never_end_stay_within_the_bound() {
    let serve = serve().await;
    let (idle, progress) = (serve.resident(), Arc::new(AtomicU64::new(0)));
    let bulk = "/roster.v1.OrganizationService/BatchAddMembers";
    for number in 2..5 {
        start(endless(bulk, 1 << 20, 1), serve.address, number, &serve.key, &progress);
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        start(endless(reflection, (4 << 20) - 1, 1), serve.address, number, &serve.key, &progress);
    }
    let added = peak(&serve, &progress).await.saturating_sub(idle);
    assert!(added < REDUCED_PEER_BYTES, "the peers added {} MiB", added >> 20);
    assert!(serve.clients.clone().is_member(ORGANIZATION, "u1").await);
}

#[tokio::test]
async fn answers_that_are_never_read_stay_within_the_bound() {
    let serve = serve().await;
    let (idle, progress) = (serve.resident(), Arc::new(AtomicU64::new(0)));
    let request =
        pb::ListMembersRequest { organization: ORGANIZATION.to_owned(), page_size: 1000, ..Default::default() };
    let message = request.encode_to_vec();
    for number in 2..5 {
        let calls = Calls {
            path: "/roster.v1.OrganizationService/ListMembers",
            declared: u32::try_from(message.len()).unwrap(),
            message: message.clone(),
            window: 0,
            connections: 1,
            streams: 100,
        };
        start(calls, serve.address, number, &serve.key, &progress);
    }
    let added = peak(&serve, &progress).await.saturating_sub(idle);
    assert!(added < REDUCED_PEER_BYTES, "the peers added {} MiB", added >> 20);
    assert!(serve.clients.clone().is_member(ORGANIZATION, "u1").await);
}
