//! A stop does not wait for peers that do nothing.

use super::connections::{OpenConnection, socket};
use super::rigs::{OPENING, Session, Socket, says_goaway, soon};
use crate::harness::raw::{Call, path};
use crate::harness::{Database, Server};
use roster::server::{ServerSettings, TrustedProxies};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_silent_peers() {
    let mut server = Server::start().await;
    let call = Call::grpc(&path("UserService/GetCaller"), &[]).bearer(&server.mint(&Server::claims("ada")));
    let idle = Session::open(server.address).await;
    drop(soon(idle.start(&call, true).await.head()).await);
    let health = Call::grpc("/grpc.health.v1.Health/Watch", &[]);
    let (_, mut watch) = soon(idle.start(&health, true).await.head()).await;
    soon(watch.data()).await.unwrap().unwrap();
    let mut silent = Vec::new();
    for opening in [&[][..], &OPENING[..24], OPENING, &[OPENING, b"\0\0\x08"].concat()] {
        let mut socket = Socket::with(server.address, opening).await;
        if opening.len() >= OPENING.len() {
            socket.until_accepted().await;
        }
        silent.push(socket);
    }
    let start = Instant::now();
    soon(server.stop()).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    for (number, socket) in silent.into_iter().enumerate() {
        let rest = socket.rest().await;
        // A peer that has begun HTTP/2 gets a GOAWAY.
        assert!(number < 2 || says_goaway(&rest), "{number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_a_proxy_header() {
    let settings = ServerSettings {
        proxy_protocol: true,
        trusted_proxies: TrustedProxies::parse("127.0.0.2").unwrap(),
        ..ServerSettings::default()
    };
    let mut server = Server::over(Database::new().await, settings).await;
    let silent = socket("127.0.0.2", server.address).await;
    // Accepted behind the silent one.
    drop(OpenConnection::open("127.0.0.3", server.address, &[]).await.unwrap());
    let start = Instant::now();
    soon(server.stop()).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    Socket(silent).rest().await;
}
