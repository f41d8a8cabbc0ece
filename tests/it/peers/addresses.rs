//! Connections of one address: the limit, trusted proxies, and the address in a PROXY header.

use super::connections::{OpenConnection, PATIENCE, socket};
use crate::harness::{Database, Server};
use crate::replica::until;
use roster::server::{ServerSettings, TrustedProxies};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A server that lets one address have two connections. The channel of the harness comes from 127.0.0.1.
async fn server(trusted: &str, proxy_protocol: bool) -> Server {
    let settings = ServerSettings {
        max_connections: 64,
        max_connections_per_address: Some(2),
        trusted_proxies: TrustedProxies::parse(trusted).unwrap(),
        proxy_protocol,
        ..ServerSettings::default()
    };
    Server::over(Database::new().await, settings).await
}

async fn is_served(source: &str, server: SocketAddr, header: &[u8]) -> Option<OpenConnection> {
    OpenConnection::open(source, server, header).await.ok()
}

/// A header in text for a client with this address.
fn text(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    format!("PROXY {family} {client} {client} 40000 50051\r\n").into_bytes()
}

/// A binary header with this command, and an IPv4 client with a TLV behind it.
fn binary(command: u8, client: [u8; 4]) -> Vec<u8> {
    let addresses = [&client[..], &[127, 0, 0, 1], &[0x9c, 0x40, 0xc3, 0x83]].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11, 0, 17], &addresses, &[0x04, 0, 2, 0, 0]].concat()
}

#[tokio::test]
async fn an_address_at_its_limit_is_refused_at_once_and_others_are_served() {
    let server = server("", false).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(is_served("127.0.0.2", server.address, &[]).await.expect("a connection within the limit"));
    }
    for _ in 0..10 {
        assert!(is_served("127.0.0.2", server.address, &[]).await.is_none(), "a connection above the limit was served");
    }
    let mut silent = socket("127.0.0.2", server.address).await;
    let closed = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "a silent connection above the limit was not closed");
    let other = is_served("127.0.0.3", server.address, &[]).await;
    assert!(other.is_some(), "another address was refused");
    // Connections that are open go on, and one that ends makes room.
    for connection in &mut held {
        let answer = connection.call("/grpc.health.v1.Health/Check", http::HeaderMap::new(), &[]).await;
        assert_eq!(answer.unwrap().code(), tonic::Code::Ok);
    }
    held.pop();
    until("a connection is free", async || is_served("127.0.0.2", server.address, &[]).await.is_some()).await;
}

#[tokio::test]
async fn a_trusted_proxy_has_no_limit_and_its_neighbours_have_one() {
    let server = server("127.0.0.2, 127.64.0.0/10", false).await;
    for (source, expected) in [("127.0.0.2", 8), ("127.100.1.1", 8), ("127.0.0.3", 2), ("127.128.0.1", 2)] {
        let mut held = Vec::new();
        for _ in 0..8 {
            held.extend(is_served(source, server.address, &[]).await);
        }
        assert_eq!(held.len(), expected, "{source}");
    }
    // Without the PROXY protocol, a header is not accepted from a trusted proxy either.
    assert!(is_served("127.0.0.2", server.address, &text("192.0.2.7")).await.is_none());
}

#[tokio::test]
async fn the_limit_counts_the_addresses_in_proxy_headers() {
    let server = server("127.0.0.2", true).await;
    let mut held = Vec::new();
    let mut count = async |headers: &[Vec<u8>]| {
        let before = held.len();
        for header in headers {
            held.extend(is_served("127.0.0.2", server.address, header).await);
        }
        held.len() - before
    };
    // The forms of one address count together.
    let forms = [text("192.0.2.7"), binary(0x21, [192, 0, 2, 7]), text("::ffff:192.0.2.7"), text("192.0.2.7")];
    assert_eq!(count(&forms).await, 2);
    assert_eq!(count(&[text("192.0.2.8"), binary(0x21, [192, 0, 2, 9])]).await, 2);
    // IPv6 counts by its first 64 bits.
    assert_eq!(count(&[text("2001:db8::1"), text("2001:db8::2"), text("2001:db8::3")]).await, 2);
    assert_eq!(count(&[text("2001:db8:0:1::1")]).await, 1);
    // A connection of the proxy itself, such as its health check, has its address, which is trusted.
    let local = [b"PROXY UNKNOWN\r\n".to_vec(), binary(0x20, [192, 0, 2, 7])];
    assert_eq!(count(&[&local[..], &local, &local].concat()).await, 6);
}

#[tokio::test]
async fn a_trusted_proxy_must_send_a_header_and_others_must_not() {
    let server = server("127.0.0.2", true).await;
    let header = text("192.0.2.7");
    for (source, header, expected) in [
        ("127.0.0.2", &header[..], true),
        ("127.0.0.2", &[], false),
        ("127.0.0.2", b"PROXY TCP4 192.0.2.7\r\n", false),
        ("127.0.0.2", &binary(0x22, [192, 0, 2, 7]), false),
        ("127.0.0.2", &text("2001:db8::1").repeat(2), false),
        ("127.0.0.3", &[], true),
        ("127.0.0.3", &header, false),
        ("127.0.0.3", &binary(0x21, [192, 0, 2, 7]), false),
    ] {
        let accepted = is_served(source, server.address, header).await.is_some();
        assert_eq!(accepted, expected, "{source} {}", header.escape_ascii());
    }
    // The forged headers did not use up the share of the address that they name.
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(is_served("127.0.0.2", server.address, &header).await.expect("a client of the proxy"));
    }
}

#[tokio::test]
async fn a_header_in_pieces_is_read_and_one_that_ends_is_an_end() {
    let server = server("127.0.0.2", true).await;
    for header in [text("192.0.2.7"), binary(0x21, [192, 0, 2, 7])] {
        let mut stream = socket("127.0.0.2", server.address).await;
        stream.set_nodelay(true).unwrap();
        for byte in &header {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let handshake = tokio::time::timeout(PATIENCE, async {
            let (sender, connection) = h2::client::handshake(stream).await.unwrap();
            let driver = tokio::spawn(connection);
            let ready = sender.ready().await.is_ok();
            driver.abort();
            ready
        });
        assert!(handshake.await.unwrap());
        for length in [0, 1, header.len() - 1] {
            let mut stream = socket("127.0.0.2", server.address).await;
            stream.write_all(&header[..length]).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
            assert!(end.is_ok() && rest.is_empty(), "{length} bytes of a header: {rest:?}");
        }
    }
}
