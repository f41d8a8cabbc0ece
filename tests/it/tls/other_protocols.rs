//! Peers that do not speak TLS on a port with TLS.

use crate::harness::Server;
use crate::harness::http2::{self, GOAWAY, RawConnection};
use crate::harness::tls::{self, Authority, NAME};
use crate::peers::connections::socket;
use crate::peers::observers::{metric, scrape};
use crate::peers::rigs::OPENING;
use crate::replica::until;
use crate::tls::open_watch;
use roster::server::{ServerSettings, TrustedProxies};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn exchange(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_peer_without_tls_reads_that_this_port_has_tls() {
    let authority = Authority::new();
    let server = Server::with_tls(&authority, authority.server_tls(None), |_| {}).await;
    for request in
        [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"POST /x HTTP/1.1\r\ncontent-type: application/json\r\n\r\n"]
    {
        let answer = String::from_utf8(exchange(&server, request).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.ends_with("roster serves gRPC over TLS here: connect with TLS, as https://\n"), "{answer}");
    }
    let mut plain = RawConnection::from(TcpStream::connect(server.address).await.unwrap());
    plain.writing.write_all(OPENING).await.unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = plain.reading.next().await {
        frames.push(frame);
    }
    let last = frames.last().unwrap();
    assert_eq!((last.kind, last.code(), frames[0].kind), (GOAWAY, 0xc, http2::SETTINGS));
    assert_eq!(&last.payload[8..], b"roster serves gRPC over TLS here: connect with TLS, as https://");
    until("the peers are counted", async || {
        metric(&scrape(&server).await, "roster_connections_closed_total{reason=\"no_tls\"}") == Some(3.0)
    })
    .await;
}

#[tokio::test]
async fn the_header_of_a_proxy_comes_before_the_handshake() {
    let authority = Authority::new();
    let settings = ServerSettings {
        proxy_protocol: true,
        trusted_proxies: TrustedProxies::parse("127.0.0.2").unwrap(),
        max_connections_per_address: Some(2),
        tls: Some(authority.server_tls(None)),
        ..ServerSettings::default()
    };
    let client = authority.anonymous_client();
    let server = Server::with_tls_and(settings, client.clone(), |_| {}).await;
    let open = async |header: &'static [u8]| {
        let mut socket = socket("127.0.0.2", server.address).await;
        socket.write_all(header).await.unwrap();
        open_watch(tls::handshake(socket, &client, NAME).await.ok()?).await
    };
    let header: &[u8] = b"PROXY TCP4 127.0.0.7 127.0.0.1 40000 50051\r\n";
    let held = [open(header).await, open(header).await];
    assert!(held.iter().all(Option::is_some));
    // The address in the header counts.
    assert!(open(header).await.is_none());
    assert!(open(b"PROXY TCP4 127.0.0.8 127.0.0.1 40000 50051\r\n").await.is_some());
    assert!(open(b"").await.is_none());
    // A header that is not expected, before the handshake.
    let direct = exchange(&server, header).await;
    assert!(direct.starts_with(b"HTTP/1.1 400"), "{direct:?}");
}
