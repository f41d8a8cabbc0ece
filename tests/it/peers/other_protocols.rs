//! Peers that speak something else than HTTP/2, and requests that the HTTP/2 library resets: the peer gets one readable
//! answer, and the operator a log line with the cause.

use crate::harness::http2::{self, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, RawConnection};
use crate::harness::program::Serve;
use crate::harness::{Database, Server, raw};
use crate::peers::observers;
use roster::server::limits;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic_health::pb::health_check_response::ServingStatus;

/// The time in which a peer gets its answer and its end.
const BOUND: Duration = Duration::from_secs(5);

/// An answer in HTTP/1.1: the status, the headers with lower-case names, and the body.
#[derive(Debug)]
struct Answer {
    status: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap_or_else(|| panic!("{bytes:?}"));
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let (status, headers) = head.split_once("\r\n").unwrap();
        let headers = headers.lines().filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { status: status.to_owned(), headers, body: bytes[end + 4..].to_vec() }
    }
}

/// Sends bytes in pieces over a new connection, each after the operating system has taken the one before, and reads until
/// the server closes.
async fn exchange(address: SocketAddr, pieces: &[&[u8]]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut answer = Vec::new();
    let exchanged = async {
        for piece in pieces {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        stream.read_to_end(&mut answer).await.unwrap();
    };
    tokio::time::timeout(BOUND, exchanged).await.expect("the server did not close the connection");
    let answer = Answer::parse(&answer);
    if !answer.body.is_empty() {
        assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    }
    assert_eq!(answer.header("connection"), "close");
    answer
}

fn post(content_type: &str) -> String {
    format!(
        "POST /roster.v1.CheckService/CheckMembership HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\n\
         Content-Length: 2\r\n\r\n{{}}"
    )
}

#[tokio::test]
async fn a_request_of_http_1_gets_one_readable_line() {
    let server = Server::start().await;
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n";
    let large = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "c".repeat(20_000));
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /metrics HTTP/1.0\r\n\r\n",
        "PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n",
        "PRI /x HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        upgrade,
        &large,
        &post("application/grpc"),
        &post("application/grpc+proto"),
        &post("text/plain"),
        // A head that does not end.
        "GET / HTTP/1.1\r\nHost: a\r\n",
    ] {
        let (first, rest) = request.as_bytes().split_at(2);
        for pieces in [&[request.as_bytes()][..], &[first, rest]] {
            let answer = exchange(server.address, pieces).await;
            assert_eq!(answer.status, "HTTP/1.1 505 HTTP Version Not Supported", "{request}");
            assert!(
                answer.text().starts_with("roster serves gRPC over HTTP/2 without TLS here, not HTTP/1"),
                "{answer:?}"
            );
            assert_eq!(answer.text().lines().count(), 1);
        }
    }
    let head = exchange(server.address, &[b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"]).await;
    assert_eq!((&head.status[9..12], head.text()), ("505", ""));
}

#[tokio::test]
async fn the_clients_of_other_protocols_over_http_1_read_their_own_form() {
    let server = Server::start().await;
    let web = exchange(server.address, &[post("application/grpc-web+proto").as_bytes()]).await;
    assert_eq!((&web.status[9..12], web.header("grpc-status")), ("200", "12"));
    assert_eq!(web.header("content-type"), "application/grpc-web+proto");
    assert!(web.header("grpc-message").contains("not%20gRPC-Web") && web.body.is_empty(), "{web:?}");
    for (kind, text) in [("application/json", "not JSON"), ("application/proto", "not the Connect protocol")] {
        let answer = exchange(server.address, &[post(kind).as_bytes()]).await;
        let error: serde_json::Value = serde_json::from_str(answer.text()).unwrap();
        assert_eq!((&answer.status[9..12], error["code"].as_str()), ("505", Some("unimplemented")));
        assert!(error["message"].as_str().unwrap().contains(text), "{answer:?}");
    }
    let get = "GET /roster.v1.CheckService/CheckMembership?encoding=json&connect=v1 HTTP/1.1\r\n\r\n";
    let answer = exchange(server.address, &[get.as_bytes()]).await;
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(answer.text().contains("not the Connect protocol"), "{answer:?}");
}

/// A peer of another protocol cannot hold its connection for longer than the limit, whatever it sends and reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_protocol_is_closed_in_time() {
    let server = Server::start().await;
    let start = Instant::now();
    let mut dripping = TcpStream::connect(server.address).await.unwrap();
    let drip = async {
        for byte in b"GET /".iter().chain(std::iter::repeat(&b'a')) {
            if dripping.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut flooding = TcpStream::connect(server.address).await.unwrap();
    let flood = async { while flooding.write_all(&[b'A'; 8 * 1024]).await.is_ok() {} };
    let both = tokio::time::timeout(limits::OTHER_PROTOCOL * 2, async { tokio::join!(drip, flood) }).await;
    assert!(both.is_ok(), "a connection was open after {:?}", start.elapsed());
}

/// Waits until the log has a line that contains all of these texts.
async fn logged(serve: &Serve, texts: &[&str]) {
    let wait = async {
        while !serve.log().lines().any(|line| texts.iter().all(|text| line.contains(text))) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(BOUND, wait).await.is_ok(), "no line has {texts:?}:\n{}", serve.log());
}

#[tokio::test]
async fn the_log_names_the_protocol_of_a_peer() {
    let serve = Serve::start(&Database::new().await.url, "").await;
    serve.until(ServingStatus::Serving).await;
    let hello: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    let peers: [(&[u8], &str, &str); 4] = [
        (hello, "tls", "the peer speaks TLS, and this port does not: set tls_certificate_file"),
        (b"GET / HTTP/1.1\r\n\r\n", "http1", "the peer speaks HTTP/1, and this port HTTP/2 only"),
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n", "unexpected_proxy_header", "set proxy_protocol"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "not_http2", "the connection does not begin with HTTP/2"),
    ];
    // The start of HTTP/2 is none of another protocol.
    TcpStream::connect(serve.address).await.unwrap().write_all(&PREFACE[..18]).await.unwrap();
    for (bytes, reason, text) in peers {
        exchange(serve.address, &[bytes]).await;
        let reason = format!("reason=\"{reason}\"");
        logged(&serve, &["WARN", "closed a connection", "peer=127.0.0.1", &reason, text, "suppressed=0"]).await;
    }
    assert_eq!(serve.log().matches("closed a connection").count(), peers.len());
    // In binary form as well. The line before may be less than a second old.
    let binary = async {
        while serve.log().matches("set proxy_protocol").count() < 2 {
            exchange(serve.address, &[b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"]).await;
        }
    };
    assert!(tokio::time::timeout(BOUND, binary).await.is_ok(), "{}", serve.log());
}

#[tokio::test]
async fn the_log_names_the_cause_of_a_reset_by_the_library() {
    let serve = Serve::start(&Database::new().await.url, "").await;
    serve.until(ServingStatus::Serving).await;
    // A target with several addresses, and one that is the path of a socket.
    for (authority, cause) in [
        (
            "127.0.0.1:50051,127.0.0.1:50052",
            r#"cause=malformed authority (b"127.0.0.1:50051,127.0.0.1:50052"): invalid"#,
        ),
        ("%2Frun%2Froster.sock", "malformed authority (b\"%2Frun%2Froster.sock\"): invalid"),
        ("/run/roster.sock", r#"cause=malformed authority (b"/run/roster.sock"): invalid"#),
    ] {
        let mut connection = RawConnection::open(serve.address, &[]).await.unwrap();
        let mut headers = http2::call("/roster.v1.UserService/GetCaller", "");
        headers.iter_mut().find(|(name, _)| *name == ":authority").unwrap().1 = authority;
        let block = http2::block(&headers);
        // Until the log has a line: it has at most one a second.
        let mut stream = 1;
        let wait = async {
            while !serve.log().contains(cause) {
                let frame = http2::frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
                connection.send(&frame).await.unwrap();
                while connection.reading.next().await.unwrap().kind != RST_STREAM {}
                stream += 2;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        assert!(tokio::time::timeout(BOUND, wait).await.is_ok(), "no line has {cause}:\n{}", serve.log());
    }
    logged(&serve, &["INFO", "reset a request with malformed headers", "peer=127.0.0.1"]).await;
    assert!(!serve.log().contains("h2::"), "{}", serve.log());
}

#[tokio::test]
async fn requests_of_other_protocols_count_as_unimplemented() {
    const SERVICE: &str = "roster.v1.CheckService";
    let server = Server::start().await;
    // A unary method, a stream of the server, and a path that nothing serves.
    let methods = [(SERVICE, "CheckMembership"), (SERVICE, "ExportMemberships"), ("other", "other")];
    for (service, method) in methods {
        let path = format!("/{service}/{method}");
        let call = raw::Call::grpc(&path, &[]).instead("content-type", "application/json");
        assert_eq!(server.send(call).await.http_status, 415, "{path}");
    }
    let text = observers::scrape(&server).await;
    for (service, method) in methods {
        let labels = format!("{{service=\"{service}\",method=\"{method}\",code=\"UNIMPLEMENTED\"}}");
        assert_eq!(observers::metric(&text, &format!("roster_calls_total{labels}")), Some(1.0), "{labels}");
    }
}
