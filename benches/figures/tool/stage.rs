//! What every figure stands on: a Postgres, its memberships, a server over it, and those who call.

use super::load::Load;
use super::questions::Kind;
use super::server::{LOAD_CORE, Process, SERVER_CORE, until_listening};
use super::table::{self, Size};
use super::{number, say};
use roster::authn::mint::{ClaimSet, SigningKey};
use roster::clock::Clock;
use roster::postgres::{Binaries, Cluster, Options};
use roster::store::pool;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

const ISSUER: &str = "https://bench.test";
const AUDIENCE: &str = "roster";
/// Connections of the generator, and calls under way on each.
const CONNECTIONS: usize = 8;
const STREAMS: usize = 16;

/// How often each thing is measured, the things in turn; the median is told.
pub(crate) fn rounds() -> u32 {
    number("ROSTER_BENCH_ROUNDS", 5)
}

/// How long one measurement takes.
pub(crate) fn seconds() -> u32 {
    number("ROSTER_BENCH_SECONDS", 5)
}

/// A Postgres with memberships, and keys.
pub(crate) struct Stage {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) size: Size,
    pub(crate) url: String,
    binaries: Binaries,
    _cluster: Cluster,
    key: SigningKey,
}

/// A server of ours, and what reaches it.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: String,
    /// Where it tells its metrics.
    metrics: String,
    pub(crate) started: Instant,
}

impl Stage {
    /// Starts a Postgres and fills it with so many memberships.
    pub(crate) async fn set(memberships: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
        let options = Options::temporary()
            .with("shared_buffers", shared_buffers())
            .with("max_wal_size", "4GB")
            .with("max_connections", "200");
        let cluster = Cluster::start(&binaries, options).await.unwrap();
        cluster.create_database("roster").await.unwrap();
        let url = cluster.url("roster");
        pool::migrate(&pool::parse_url(&url).unwrap()).await.unwrap();
        let size = Size::of(memberships);
        say(&format!("loading {memberships} memberships"));
        table::fill(&url, size).await;
        let key = SigningKey::generate();
        let jwks = directory.path().join("jwks.json");
        std::fs::write(&jwks, key.public_jwks().to_string()).unwrap();
        let settings = format!(
            "database_url = '{url}'\nreplica_memory_mib = 4096\n[mail]\nkind = 'off'\n[[issuers]]\nissuer = '{ISSUER}'\naudience = '{AUDIENCE}'\n\
             jwks_file = '{}'\nscopes = ['check', 'manage', 'operator']\n",
            jwks.display()
        );
        std::fs::write(directory.path().join("roster.toml"), settings).unwrap();
        Self { directory, size, url, binaries, _cluster: cluster, key }
    }

    /// A token of a service with these scopes.
    pub(crate) fn token(&self, scopes: &str) -> String {
        let now = Clock::system().unix_seconds();
        let claims = ClaimSet {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: "bench".to_owned(),
            exp: now + 24 * 3600,
            iat: now,
            scope: Some(scopes.to_owned()),
            ..ClaimSet::default()
        };
        self.key.mint(&claims).unwrap().expose().to_owned()
    }

    /// The program itself, as an operator runs it, on these cores; its own default everywhere else.
    pub(crate) fn start_on(&self, cores: &str) -> Server {
        let address = free_address();
        let config = self.directory.path().join("roster.toml");
        let metrics = free_address();
        let config = config.to_str().unwrap();
        let arguments = ["serve", "--config", config, "--listen", &address, "--metrics-listen", &metrics];
        let started = Instant::now();
        let process =
            Process::start(Path::new(env!("CARGO_BIN_EXE_roster")), &arguments, cores, &[("ROSTER_LOG", "warn")]);
        until_listening(&address);
        Server { process, address, metrics, started }
    }

    pub(crate) fn start(&self) -> Server {
        self.start_on(SERVER_CORE)
    }

    /// A load on a server.
    pub(crate) fn load(&self, address: &str, token: &str, kind: Kind) -> Load {
        Load {
            address: address.to_owned(),
            token: token.to_owned(),
            kind,
            table: self.size,
            connections: CONNECTIONS,
            streams: STREAMS,
            rate: 0.0,
            seconds: seconds(),
        }
    }

    /// pgbench with prepared statements; transactions a second.
    pub(crate) fn pgbench(&self, script: &Path, clients: u32) -> f64 {
        let beside = self.binaries.directory().join("pgbench");
        let output = Command::new(if beside.exists() { beside } else { PathBuf::from("pgbench") })
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
            .arg(format!("--client={clients}"))
            .arg(format!("--time={}", seconds()))
            .arg("--file")
            .args([script.as_os_str(), self.url.as_ref()])
            .output()
            .unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let rate = told.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        rate.unwrap_or_else(|| panic!("pgbench told no rate: {told} {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// A bare echo, in one of its shapes.
pub(crate) fn echo(shape: &str) -> Server {
    let started = Instant::now();
    let mut process = Process::again(shape, SERVER_CORE, &[]);
    let address = process.line();
    Server { process, address, metrics: String::new(), started }
}

impl Server {
    /// A channel of tonic's, for what is not measured.
    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// A number that it tells of itself.
    pub(crate) fn told(&self, name: &str) -> f64 {
        let mut socket = std::net::TcpStream::connect(&self.metrics).unwrap();
        write!(socket, "GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("roster_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Waits until everything is in memory; how long that took from the start.
    pub(crate) async fn until_loaded(&self, size: Size) -> Duration {
        until_listening(&self.metrics);
        while self.told("replica_memberships") < f64::from(size.memberships) || self.told("index_age_seconds") < 0.0 {
            assert!(self.started.elapsed() < Duration::from_mins(5), "the memberships are not in memory");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.started.elapsed()
    }
}

/// A request with the token of its caller.
pub(crate) fn with<M>(token: &str, message: M) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// A quarter of the machine's memory, as Postgres's own manual advises.
fn shared_buffers() -> String {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = told.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")).unwrap();
    format!("{}MB", total.trim().parse::<u64>().unwrap() / 1024 / 4)
}

/// An address that nobody listens on.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Both cores.
pub(crate) fn both() -> String {
    format!("{SERVER_CORE},{LOAD_CORE}")
}
