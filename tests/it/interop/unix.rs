//! Clients of other languages over a unix socket.

use super::{Probe, ProbeSettings};
use crate::harness::Server;
use roster::domain::Scope;
use roster::server::listener::{Listener, UnixSocket};
use roster::server::{ServerParts, ServerSettings, serve};
use std::process::Stdio;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the programs of other languages: make interop runs it"]
async fn calls_go_over_a_unix_socket() {
    let server = Server::start().await;
    server.user("ada").create("Acme, Inc.").await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("roster.sock");
    let parts = ServerParts {
        listener: Listener::Unix(UnixSocket::bind(&path).unwrap()),
        settings: ServerSettings::default(),
        roster: server.roster.clone(),
        authenticator: server.authenticator.clone(),
        mailer: None,
        metrics: None,
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(serve(parts, stop.clone()));
    let address = format!("unix:{}", path.display());
    let settings = ProbeSettings::new(&address, &server.service_token("probe", &[Scope::Check]));
    for probe in [Probe::Go, Probe::Java, Probe::Node, Probe::Python] {
        let output = probe.command("call", &settings).stdin(Stdio::null()).output().await.unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "ok", "{probe:?}");
    }
    let mut grpcurl = Command::new(super::installed().join("bin/grpcurl"));
    grpcurl.args(["-plaintext", "-unix", "-authority", "roster"]);
    let output = grpcurl.arg(&path).arg("grpc.health.v1.Health/Check").output().await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("SERVING"), "{output:?}");
    stop.cancel();
    running.await.unwrap().unwrap();
}
