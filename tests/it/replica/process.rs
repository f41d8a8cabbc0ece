//! The program as a separate process, with the database and the signing keys of a test server.

use super::until;
use crate::harness::Server;
use crate::harness::program::{channel, clients, free_port, roster, until as until_health};
use crate::harness::server::{AUDIENCE, Clients, ISSUER, write_anonymous_jwks};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roster::domain::Scope;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Child;
use tonic_health::pb::health_check_response::ServingStatus;

pub struct Process {
    child: Child,
    metrics: String,
    pub clients: Clients,
    _config: tempfile::TempDir,
}

impl Process {
    /// Starts the program with these settings besides the required ones, and waits until it is healthy and has loaded
    /// its replica.
    pub async fn start(server: &Server, settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("roster.toml");
        let address = format!("127.0.0.1:{}", free_port());
        let metrics = format!("127.0.0.1:{}", free_port());
        let jwks = write_anonymous_jwks(&server.key);
        let text = format!(
            "listen = '{address}'\nmetrics_listen = '{metrics}'\ndatabase_url = '{}'\n{settings}\n[mail]\nkind = 'off'\n
             [[issuers]]\nissuer = '{ISSUER}'\naudience = '{AUDIENCE}'\njwks_file = '{}'\n
             scopes = ['operator', 'check', 'manage']\n",
            server.database.url,
            jwks.display(),
        );
        std::fs::write(&config, text).unwrap();
        let mut child = roster(&["serve", "--config", config.to_str().unwrap()]);
        let child = child.stdout(Stdio::null()).spawn().unwrap();
        let channel = channel(&address);
        until_health(&channel, ServingStatus::Serving).await;
        let clients = clients(&channel, &server.service_token("root", &[Scope::Operator]));
        let process = Self { child, metrics, clients, _config: directory };
        until("the replica is loaded", async || process.metric("replica_loads").await >= 256.0).await;
        process
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().unwrap().try_into().unwrap())
    }

    /// The current value of a metric.
    pub async fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(&self.metrics).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: metrics\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        // A counter is reported under its name with the suffix `_total`.
        let value = text.lines().find_map(|line| {
            let (metric, value) = line.split_once(' ')?;
            let metric = metric.strip_prefix("roster_")?;
            (metric == name || metric.strip_suffix("_total") == Some(name)).then(|| value.parse().unwrap())
        });
        value.unwrap_or_else(|| panic!("no metric {name} in {text}"))
    }
}
