//! Peers that do not end their handshake, make many, or send records without content.

use crate::harness::http2::{self, DATA, END_HEADERS, HEADERS};
use crate::harness::raw::path;
use crate::harness::server::Clients;
use crate::harness::tls::{self, Authority, channel};
use crate::harness::{Server, is_member};
use crate::peers::connections::socket;
use crate::peers::observers::{metric, scrape};
use crate::peers::rigs::{OPENING, Socket, soon};
use crate::replica::until;
use roster::domain::Scope;
use roster::server::{ServerSettings, limits};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The start of a record with a handshake message that goes on.
const HALF_A_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_does_not_end_is_closed_and_holds_no_place() {
    let authority = Authority::new();
    let server = Server::with_tls(&authority, authority.server_tls(None), |_| {}).await;
    let organization = server.user("ada").create("Acme").await;
    let start = Instant::now();
    let mut half = Vec::new();
    for number in 0..100 {
        half.push(Socket::with(server.address, &HALF_A_HELLO[..=number % HALF_A_HELLO.len()]).await);
    }
    // A hello that comes byte by byte has the same time.
    let mut slow = socket("127.0.0.1", server.address).await;
    let dripped = tokio::spawn(async move {
        for byte in HALF_A_HELLO.iter().chain(&[0; 500]) {
            if slow.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("the whole hello was read");
    });
    // Behind a handshake, without the preface.
    let mut idle = tls::connect(server.address, &authority.anonymous_client()).await.unwrap();
    for _ in 0..20 {
        let channel = channel(server.address, authority.anonymous_client());
        let mut clients = Clients::new(&channel, server.credential(&[Scope::Check]));
        assert!(clients.is_member(&organization, "ada").await);
    }
    assert!(start.elapsed() < limits::PEER_PAUSE, "the others waited for the silent handshakes");
    for socket in half {
        socket.rest().await;
    }
    let _ = soon(idle.read_to_end(&mut Vec::new())).await;
    soon(dripped).await.unwrap();
    assert!((limits::PEER_PAUSE..limits::PEER_PAUSE * 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    until("the handshakes are counted", async || {
        let name = "roster_connections_closed_total{reason=\"tls_timeout\"}";
        metric(&scrape(&server).await, name) >= Some(101.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_handshakes_make_room_for_others() {
    let authority = Authority::new();
    let settings = ServerSettings {
        max_connections: 8,
        max_connections_per_address: Some(8),
        tls: Some(authority.server_tls(None)),
        ..ServerSettings::default()
    };
    let server = Server::with_tls_and(settings, authority.anonymous_client(), |_| {}).await;
    let organization = server.user("ada").create("Acme").await;
    let mut half = Vec::new();
    for _ in 0..30 {
        half.push(Socket::with(server.address, HALF_A_HELLO).await);
    }
    for _ in 0..10 {
        // A new connection can come before those that make room for it have ended: a client then connects again.
        let is_answered = async || {
            let channel = channel(server.address, authority.anonymous_client());
            let mut clients = Clients::new(&channel, server.credential(&[Scope::Check]));
            clients.checks.check_membership(is_member(&organization, "ada")).await.is_ok()
        };
        soon(async { while !is_answered().await {} }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_handshakes_than_the_budget_of_an_address_wait_and_are_served() {
    let authority = Authority::new();
    let settings = ServerSettings { tls: Some(authority.server_tls(None)), ..ServerSettings::default() };
    let server = Server::with_tls_and(settings, authority.anonymous_client(), |_| {}).await;
    let client = authority.anonymous_client();
    let many = usize::try_from(limits::HANDSHAKE_BURST).unwrap() + 100;
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..many {
        let (client, address) = (client.clone(), server.address);
        flood.spawn(async move {
            let socket = socket("127.0.0.9", address).await;
            tls::handshake(socket, &client, tls::NAME).await.is_ok()
        });
    }
    let outcomes = flood.join_all().await;
    assert_eq!((outcomes.len(), outcomes.iter().all(|served| *served)), (many, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_with_hardly_any_content_end_the_connection() {
    let authority = Authority::new();
    let server = Server::with_tls(&authority, authority.server_tls(None), |_| {}).await;
    let token = format!("Bearer {}", server.service_token("backend", &[Scope::Manage]));
    let block = http2::block(&http2::call(&path("OrganizationService/BatchAddMembers"), &token));
    let head = [OPENING, &http2::frame(HEADERS, END_HEADERS, 1, &block)].concat();
    let message = [&[0], &(1_u32 << 20).to_be_bytes()[..], &[0; 16_000]].concat();
    let data = http2::frame(DATA, 0, 1, &message).repeat(4);
    let mut whole = tls::connect(server.address, &authority.anonymous_client()).await.unwrap();
    whole.write_all(&head).await.unwrap();
    whole.write_all(&data).await.unwrap();
    whole.flush().await.unwrap();
    let mut split = tls::connect(server.address, &authority.anonymous_client()).await.unwrap();
    split.write_all(&head).await.unwrap();
    let sent = async {
        for byte in &data {
            split.write_all(&[*byte]).await?;
        }
        split.flush().await?;
        let mut rest = Vec::new();
        split.read_to_end(&mut rest).await
    };
    assert!(soon(sent).await.is_err(), "the connection was not closed");
    // The same bytes in large records are served.
    whole.write_all(&http2::frame(http2::PING, 0, 0, &[7; 8])).await.unwrap();
    let mut answer = Vec::new();
    let answered = async {
        while !answer.windows(8).any(|part| part == [7; 8]) {
            assert!(whole.read_buf(&mut answer).await.unwrap() > 0);
        }
    };
    soon(answered).await;
}

#[test]
fn the_memory_of_tls_is_part_of_the_bound() {
    let authority = Authority::new();
    let plain = ServerSettings::default();
    let secure = ServerSettings { tls: Some(authority.server_tls(None)), ..ServerSettings::default() };
    let connections = plain.max_connections + limits::ENDING_CONNECTIONS;
    assert_eq!(secure.peer_memory() - plain.peer_memory(), connections * limits::TLS_BYTES);
}
