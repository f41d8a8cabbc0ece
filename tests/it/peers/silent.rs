//! Sockets that say nothing, or stop in the middle.

use super::rigs::{OPENING, Session, Socket, says_goaway, soon};
use crate::harness::raw::{Call, path};
use crate::harness::server::Clients;
use crate::harness::{Database, Server, is_member};
use roster::domain::Scope;
use roster::server::{ServerSettings, limits};
use std::time::Instant;
use tokio::io::AsyncReadExt;
use tonic::transport::Endpoint;

/// A HEADERS frame with `END_STREAM` whose header block goes on.
const HALF_A_BLOCK: &[u8] = b"\0\0\x01\x01\x01\0\0\0\x01\x83";

/// Sends a check over a new connection. Returns whether it was answered.
async fn check_over_new_connection(server: &Server, organization: &str) -> bool {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let Ok(channel) = endpoint.connect().await else { return false };
    let mut clients = Clients::new(&channel, server.credential(&[Scope::Check]));
    clients.checks.check_membership(is_member(organization, "ada")).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_sockets_do_not_lock_out_others() {
    let settings =
        ServerSettings { max_connections: 8, max_connections_per_address: Some(8), ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    let acme = server.user("ada").create("Acme").await;
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(Socket::with(server.address, &[]).await);
        silent.push(Socket::with(server.address, OPENING).await);
    }
    for _ in 0..20 {
        // A new connection can come before those that make room for it have ended: a client then connects again.
        soon(async { while !check_over_new_connection(&server, &acme).await {} }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_in_the_middle_is_closed_and_an_idle_one_is_not() {
    let server = Server::start().await;
    let idle = Session::open(server.address).await;
    let call = Call::grpc(&path("UserService/GetCaller"), &[]).bearer(&server.mint(&Server::claims("ada")));
    drop(idle.start(&call, true).await.head().await);
    let start = Instant::now();
    let openings = [
        Vec::new(),
        OPENING[..10].to_vec(),
        // A preface without SETTINGS.
        OPENING[..24].to_vec(),
        OPENING[..OPENING.len() - 1].to_vec(),
        [OPENING, HALF_A_BLOCK].concat(),
        [OPENING, HALF_A_BLOCK, b"\0\0\x01\x09\0\0\0\0\x01\x86"].concat(),
        // A frame that was announced.
        [OPENING, b"\0\0\x08\x06\0\0\0\0\0abc"].concat(),
        [OPENING, b"\0\0"].concat(),
    ];
    let mut stopped = Vec::new();
    for opening in &openings {
        stopped.push(Socket::with(server.address, opening).await);
    }
    for (socket, opening) in stopped.into_iter().zip(&openings) {
        socket.rest().await;
        assert!(start.elapsed() < limits::PEER_PAUSE * 2, "{opening:?}");
    }
    assert!(start.elapsed() >= limits::PEER_PAUSE);
    // A channel that was opened ahead of need is still there.
    drop(idle.start(&call, true).await.head().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_drips_continuations_is_closed() {
    let server = Server::start().await;
    let Socket(stream) = Socket::with(server.address, &[OPENING, HALF_A_BLOCK].concat()).await;
    let (mut reading, mut writing) = stream.into_split();
    let drip = tokio::spawn(async move {
        // An empty CONTINUATION frame, byte by byte.
        for byte in b"\0\0\0\x09\0\0\0\0\x01".iter().cycle() {
            if tokio::io::AsyncWriteExt::write_all(&mut writing, &[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    });
    let mut rest = Vec::new();
    let _ = soon(reading.read_to_end(&mut rest)).await;
    drip.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_with_calls_stay_and_others_are_closed_at_once() {
    let settings =
        ServerSettings { max_connections: 8, max_connections_per_address: Some(8), ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    let token = server.service_token("backend", &[Scope::Check]);
    let watch = Call::grpc(&path("CheckService/WatchMemberships"), &[]).bearer(&token);
    // Idle ones are closed for the ones with calls, and are told so.
    let idle = Socket::with(server.address, OPENING).await;
    let mut open = Vec::new();
    let mut bodies = Vec::new();
    soon(async {
        while open.len() < 8 {
            let session = Session::open(server.address).await;
            // The last one can come before the idle one has ended. It is closed then, and a client connects again.
            let Some(call) = session.try_start(&watch, false).await else { continue };
            let Some((_, body)) = call.head_if_open().await else { continue };
            bodies.push(body);
            open.push(session);
        }
    })
    .await;
    assert!(says_goaway(&idle.rest().await));
    // No connection is idle. A further one, at the limit, is closed at once, and not left hanging.
    for _ in 0..5 {
        let start = Instant::now();
        Socket::with(server.address, &[]).await.rest().await;
        assert!(start.elapsed() < limits::PEER_PAUSE / 2);
    }
    for body in &mut bodies {
        assert!(soon(body.data()).await.unwrap().is_ok());
    }
    // Once a call has ended, there is room.
    drop(bodies.pop());
    drop(open.pop());
    soon(async { while !check_over_new_connection(&server, "acme").await {} }).await;
}
