//! haproxy between the clients and roster: it sends the address of each client by the PROXY protocol. `make interop` runs
//! this test, because it needs the program of another project: its path is in `ROSTER_HAPROXY`.

use super::connections::OpenConnection;
use crate::harness::Database;
use crate::harness::program::{Serve, free_port};
use crate::replica::until;
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::process::{Child, Command};
use tonic_health::pb::health_check_response::ServingStatus;

/// A running haproxy.
pub struct Haproxy {
    pub address: SocketAddr,
    _process: Child,
    _directory: tempfile::TempDir,
}

impl Haproxy {
    /// Starts haproxy in front of a server. It connects to the server from 127.0.0.5.
    async fn start(server: &str, send: &str) -> Self {
        Self::start_with(&format!("  server roster {server} source 127.0.0.5 {send}\n")).await
    }

    /// Starts haproxy with these lines in its only backend.
    pub async fn start_with(backend: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let settings = format!(
            "global\n  maxconn 200\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             frontend clients\n  bind {address}\n  default_backend servers\n\
             backend servers\n{backend}"
        );
        let path = directory.path().join("haproxy.cfg");
        std::fs::write(&path, settings).unwrap();
        let program = std::env::var_os("ROSTER_HAPROXY").unwrap_or_else(|| "haproxy".into());
        let mut command = Command::new(program);
        command.args(["-db", "-f"]).arg(&path).stdin(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().unwrap();
        until("haproxy listens", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        Self { address, _process: process, _directory: directory }
    }

    async fn serves(&self, client: &str) -> Option<OpenConnection> {
        OpenConnection::open(client, self.address, &[]).await.ok()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs haproxy: make interop runs it"]
async fn haproxy_sends_the_address_of_each_client_and_roster_limits_it() {
    let database = Database::new().await;
    let settings = "proxy_protocol = true\ntrusted_proxies = '127.0.0.5'\nmax_connections_per_address = 3";
    let serve = Serve::start(&database.url, settings).await;
    // The client of the harness comes from 127.0.0.1, without a header.
    serve.until(ServingStatus::Serving).await;
    for send in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        let haproxy = Haproxy::start(&serve.address.to_string(), send).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            let connection = haproxy.serves("127.0.0.2").await;
            held.push(connection.unwrap_or_else(|| panic!("{send}: a connection within the limit: {}", serve.log())));
        }
        assert!(haproxy.serves("127.0.0.2").await.is_none(), "{send}: a connection above the limit was served");
        assert!(haproxy.serves("127.0.0.3").await.is_some(), "{send}: another client was refused");
        drop(held);
        until("the connections have ended", async || haproxy.serves("127.0.0.2").await.is_some()).await;
    }
    // A header from an address that is not trusted is refused, and does not count for the address that it names.
    let server = serve.address;
    let forged = b"PROXY TCP4 127.0.0.4 127.0.0.1 40000 50051\r\n";
    for source in ["127.0.0.2", "127.0.0.1"] {
        assert!(OpenConnection::open(source, server, forged).await.is_err(), "a forged header was accepted");
    }
    // The proxy has to send one.
    assert!(OpenConnection::open("127.0.0.5", server, &[]).await.is_err());
    let haproxy = Haproxy::start(&serve.address.to_string(), "").await;
    assert!(haproxy.serves("127.0.0.2").await.is_none());
    assert!(serve.log().contains("does not begin with a PROXY header"), "{}", serve.log());
}
