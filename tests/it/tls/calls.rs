//! Calls and streams over TLS.

use crate::harness::http2::{self, Frame};
use crate::harness::raw::{frame, path};
use crate::harness::server::{Clients, Credential};
use crate::harness::tls::{self, Authority, VERSIONS, channel};
use crate::harness::{Server, is_member};
use crate::peers::rigs::{OPENING, says_goaway};
use crate::streams::soon;
use roster::domain::Scope;
use roster::grpc::pb;
use rustls::HandshakeKind;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn calls_and_streams_work_in_both_versions() {
    let authority = Authority::new();
    let server = Server::with_tls(&authority, authority.server_tls(None), |_| {}).await;
    let organization = server.user("ada").create("Acme").await;
    for version in VERSIONS {
        let channel = channel(server.address, Arc::new(authority.client(None, &[version])));
        let mut clients = Clients::new(&channel, server.credential(&[Scope::Check, Scope::Manage]));
        assert!(clients.is_member(&organization, "ada").await);
        assert!(!clients.is_member(&organization, "bob").await);
        let request = pb::ExportMembershipsRequest::default();
        let mut export = clients.checks.export_memberships(request).await.unwrap().into_inner();
        let mut rows = 0;
        while let Some(message) = soon(export.message()).await.unwrap() {
            rows += message.organizations.len();
        }
        assert_eq!(rows, 1);
    }
    // Without a credential, as in plaintext.
    let mut anonymous = Clients::new(&server.channel(), Credential::default());
    let refusal = anonymous.checks.check_membership(is_member(&organization, "ada")).await;
    assert_eq!(crate::harness::refused(refusal).1, "CREDENTIAL_MISSING");
}

#[tokio::test]
async fn an_answer_leaves_in_one_record() {
    let authority = Authority::new();
    let server = Server::with_tls(&authority, authority.server_tls(None), |_| {}).await;
    let organization = server.user("ada").create("Acme").await;
    let stream = tls::connect(server.address, &authority.anonymous_client()).await.unwrap();
    let (socket, session) = stream.into_inner();
    let mut connection = RecordCounter { socket, session, records: 0 };
    let token = format!("Bearer {}", server.service_token("backend", &[Scope::Check]));
    let message = frame(&prost::Message::encode_to_vec(&is_member(&organization, "ada")));
    let call = |stream: u32| {
        let block = http2::block(&http2::call(&path("CheckService/CheckMembership"), &token));
        let head = http2::frame(http2::HEADERS, http2::END_HEADERS, stream, &block);
        [head, http2::frame(http2::DATA, http2::END_STREAM, stream, &message)].concat()
    };
    // The first call makes the token known, and the handshakes of TLS and HTTP/2 end with it. A connection reads more in one
    // turn after it has used up a turn.
    connection.send(&[OPENING, &call(1)].concat()).await;
    connection.receive(|frames| frames.iter().any(|frame| frame.has(http2::END_STREAM) && frame.stream == 1)).await;
    connection.send(&http2::frame(http2::SETTINGS, http2::ACK, 0, &[])).await;
    for batch in 0..5 {
        connection.records = 0;
        let calls: Vec<u8> = (0..8).flat_map(|number| call(3 + 2 * (8 * batch + number))).collect();
        connection.send(&calls).await;
        let is_end = |frame: &&Frame| frame.kind == http2::HEADERS && frame.has(http2::END_STREAM);
        connection.receive(|frames| frames.iter().filter(is_end).count() == 8).await;
    }
    // Calls that arrive together are answered together.
    assert_eq!(connection.records, 1);
}

/// A client that counts the records of application data that it receives.
struct RecordCounter {
    socket: TcpStream,
    session: rustls::ClientConnection,
    records: usize,
}

impl RecordCounter {
    async fn send(&mut self, bytes: &[u8]) {
        self.session.writer().write_all(bytes).unwrap();
        let mut records = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut records).unwrap();
        }
        self.socket.write_all(&records).await.unwrap();
    }

    /// Receives whole records until the frames since the start of this call are enough.
    async fn receive(&mut self, is_enough: impl Fn(&[Frame]) -> bool) {
        let mut content = Vec::new();
        while !is_enough(&frames(&content)) {
            let mut record = vec![0; 5];
            soon(self.socket.read_exact(&mut record)).await.unwrap();
            let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
            record.resize(5 + length, 0);
            soon(self.socket.read_exact(&mut record[5..])).await.unwrap();
            self.session.read_tls(&mut &record[..]).unwrap();
            self.session.process_new_packets().unwrap();
            let before = content.len();
            let _ = self.session.reader().read_to_end(&mut content);
            self.records += usize::from(content.len() > before);
        }
    }
}

/// The whole frames at the start of these bytes.
fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, flags, s, t, u, v, rest @ ..] = bytes {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        let Some(payload) = rest.get(..length) else { break };
        let stream = u32::from_be_bytes([*s, *t, *u, *v]);
        frames.push(Frame { kind: *kind, flags: *flags, stream, payload: payload.to_vec() });
        bytes = &rest[length..];
    }
    frames
}

#[tokio::test]
async fn a_session_is_resumed_without_a_signature() {
    let authority = Authority::new();
    let server = Server::with_tls(&authority, authority.server_tls(None), |_| {}).await;
    for version in VERSIONS {
        let client = Arc::new(authority.client(None, &[version]));
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let mut stream = tls::connect(server.address, &client).await.unwrap();
            // The ticket comes with the first bytes of the server.
            stream.write_all(OPENING).await.unwrap();
            soon(stream.read_exact(&mut [0; 9])).await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed], "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_says_goodbye_and_does_not_wait_for_silent_peers() {
    let authority = Authority::new();
    let mut server = Server::with_tls(&authority, authority.server_tls(None), |_| {}).await;
    let client = authority.anonymous_client();
    let mut begun = tls::connect(server.address, &client).await.unwrap();
    begun.write_all(OPENING).await.unwrap();
    let mut first = [0; 9];
    soon(begun.read_exact(&mut first)).await.unwrap();
    // Within the handshake, before it, and behind it.
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    let silent = TcpStream::connect(server.address).await.unwrap();
    let mut idle = tls::connect(server.address, &client).await.unwrap();
    let start = Instant::now();
    soon(server.stop()).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let mut rest = first.to_vec();
    // Without close_notify this would be an error.
    soon(begun.read_to_end(&mut rest)).await.unwrap();
    assert!(says_goaway(&rest));
    for mut socket in [half, silent] {
        let _ = soon(socket.read_to_end(&mut Vec::new())).await;
    }
    let _ = soon(idle.read_to_end(&mut Vec::new())).await;
}
