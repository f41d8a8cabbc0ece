//! The certificate of the server, versions and protocols, as clients see them.

use crate::harness::Server;
use crate::harness::tls::{self, Authority, Identity, NAME, Request, VERSIONS};
use crate::peers::observers::{metric, scrape};
use crate::peers::rigs::Socket;
use crate::replica::until;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use roster::clock::Clock;
use roster::server::tls::ServerTls;
use std::io;
use std::sync::Arc;
use time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server with this certificate.
async fn server(authority: &Authority, identity: &Identity) -> Server {
    let tls = ServerTls::new(&authority.write(identity, None), Clock::system()).unwrap();
    let settings = roster::server::ServerSettings { tls: Some(tls), ..Default::default() };
    Server::launch(crate::harness::Database::new().await, settings).await
}

/// The reason why the client of this connection failed.
fn reason(outcome: io::Result<impl std::fmt::Debug>) -> String {
    outcome.unwrap_err().to_string()
}

#[tokio::test]
async fn a_client_refuses_another_name_an_expired_certificate_and_an_unknown_authority() {
    let authority = Authority::new();
    let client = authority.anonymous_client();
    for (request, expected) in [
        (Request::named(&["other.test"]), "not valid for name"),
        (Request::named(&[NAME]).valid(-Duration::HOUR * 2, -Duration::HOUR), "certificate expired"),
        (Request::named(&[NAME]).valid(Duration::HOUR, Duration::HOUR * 2), "not valid yet"),
    ] {
        let server = server(&authority, &authority.sign(&request)).await;
        let reason = reason(tls::connect(server.address, &client).await);
        assert!(reason.contains(expected), "{reason}");
    }
    let server = server(&authority, &authority.sign(&Request::named(&[NAME]))).await;
    for _ in 0..3 {
        let reason = reason(tls::connect(server.address, &Authority::new().anonymous_client()).await);
        // It has the same name and another key.
        assert!(reason.contains("BadSignature"), "{reason}");
    }
    // Some clients close without an alert. A probe that only connects is none of them.
    Socket::with(server.address, &[0x16, 3, 1, 2, 0, 1]).await;
    Socket::with(server.address, &[]).await;
    // The operator sees that clients refuse the certificate.
    until("the refused handshakes are counted", async || {
        let closed = metric(&scrape(&server).await, "roster_connections_closed_total{reason=\"tls_handshake\"}");
        closed == Some(4.0)
    })
    .await;
    assert!(tls::connect(server.address, &client).await.is_ok());
}

#[tokio::test]
async fn every_kind_of_key_is_served() {
    let authority = Authority::new();
    let client = authority.anonymous_client();
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let server = server(&authority, &authority.sign_with(&Request::named(&[NAME]), &key)).await;
        assert!(tls::connect(server.address, &client).await.is_ok(), "{algorithm:?}");
    }
    // Files of openssl, with the key in SEC1 and PKCS#1. One file holds both; the certificate signs itself.
    for text in [include_str!("sec1.pem"), include_str!("pkcs1.pem")] {
        let server = server(&authority, &Identity { certificate: text.to_owned(), key: text.to_owned() }).await;
        let reason = reason(tls::connect(server.address, &client).await);
        assert!(reason.starts_with("invalid peer certificate"), "{reason}");
    }
}

#[tokio::test]
async fn versions_before_1_2_are_refused_with_an_alert() {
    let authority = Authority::new();
    let server = Server::with_tls(&authority, authority.server_tls(None), |_| {}).await;
    for version in [[3, 0], [3, 1], [3, 2]] {
        // A ClientHello: random, no session, two suites, no compression, and the signatures of the client.
        let hello = [&version[..], &[7; 32], &[0], &[0, 4, 0xc0, 0x13, 0, 0x2f], &[1, 0]];
        let hello = [&hello.concat()[..], &[0, 8, 0, 13, 0, 4, 0, 2, 4, 3]].concat();
        let length = u8::try_from(hello.len()).unwrap();
        let record = [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length], &hello[..]].concat();
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(&record).await.unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        // A fatal alert: protocol_version.
        assert_eq!((answer.first(), answer.get(5..)), (Some(&0x15), Some(&[2, 70][..])), "{version:?}");
    }
}

#[tokio::test]
async fn a_client_without_alpn_is_served_and_one_of_another_protocol_is_refused() {
    let authority = Authority::new();
    let server = Server::with_tls(&authority, authority.server_tls(None), |_| {}).await;
    for (offered, expected) in [
        (&["h2"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["grpc-exp", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let mut client = authority.client(None, VERSIONS);
        client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut stream = tls::connect(server.address, &Arc::new(client)).await.unwrap();
        let chosen = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap());
        assert_eq!(chosen.as_deref(), expected);
        if expected == Some("http/1.1") {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 505"), "{answer}");
            assert!(answer.contains("roster serves gRPC over HTTP/2, not HTTP/1"), "{answer}");
        } else {
            let (client, connection) = h2::client::handshake(stream).await.unwrap();
            let driver = tokio::spawn(connection);
            assert!(client.ready().await.is_ok());
            driver.abort();
        }
    }
    let mut client = authority.client(None, VERSIONS);
    client.alpn_protocols = vec![b"smtp".to_vec()];
    let reason = reason(tls::connect(server.address, &Arc::new(client)).await);
    assert!(reason.contains("NoApplicationProtocol"), "{reason}");
}

#[tokio::test]
async fn the_metric_shows_the_expiry_of_the_certificate() {
    let authority = Authority::new();
    let tls = authority.server_tls(None);
    let expiry = tls.expires_at();
    let left = expiry - Clock::system().unix_seconds();
    assert!((3500..=3600).contains(&left), "{left}");
    let server = Server::with_tls(&authority, tls, |_| {}).await;
    let text = scrape(&server).await;
    let expected = format!("roster_tls_certificate_expiry_timestamp_seconds {expiry}");
    assert!(text.lines().any(|line| line == expected), "{text}");
}
