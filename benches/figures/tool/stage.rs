//! The environment of every measurement: Postgres with memberships, servers over it, and the parameters of the load.

use super::call_header::CallHeader;
use super::load::Load;
use super::questions::Kind;
use super::server::{LOAD_CORE, Process, SERVER_CORE, until_listening};
use super::table::{self, Size};
use super::{number, print_line};
use roster::authn::api_keys::{self, GeneratedApiKey};
use roster::authn::mint::{ClaimSet, SigningKey};
use roster::clock::Clock;
use roster::postgres::{Binaries, Cluster, Options};
use roster::store::datastore_url::DatastoreUrl;
use roster::store::migrations;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

const ISSUER: &str = "https://bench.test";
const AUDIENCE: &str = "roster";
/// Connections of the generator, and concurrent calls on each.
const CONNECTIONS: usize = 8;
const STREAMS: usize = 16;

/// The number of rounds. Each round measures all servers in turn; the result is the median.
pub(crate) fn rounds() -> u32 {
    number("ROSTER_BENCH_ROUNDS", 5)
}

/// The duration of one measurement.
pub(crate) fn seconds() -> u32 {
    number("ROSTER_BENCH_SECONDS", 5)
}

/// Postgres with memberships, the key of an issuer, and an API key.
pub(crate) struct Stage {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) size: Size,
    pub(crate) url: String,
    binaries: Binaries,
    _cluster: Cluster,
    key: SigningKey,
    api_key: GeneratedApiKey,
}

/// A server under measurement, with its addresses.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: String,
    /// The address of its metrics; empty for an echo server.
    metrics_address: String,
    pub(crate) started: Instant,
}

impl Stage {
    /// Starts Postgres and adds this number of memberships. See [`table::fill`] for the roles.
    pub(crate) async fn new(memberships: u32, roles: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
        let options = Options::temporary()
            .with("shared_buffers", shared_buffers())
            .with("max_wal_size", "4GB")
            .with("max_connections", "200");
        let cluster = Cluster::start(&binaries, options).await.unwrap();
        cluster.create_database("roster").await.unwrap();
        let url = cluster.url("roster");
        migrations::migrate(&DatastoreUrl::parse(&url).unwrap()).await.unwrap();
        let size = Size::of(memberships);
        print_line(&format!("loading {memberships} memberships"));
        table::fill(&url, size, roles).await;
        let key = SigningKey::generate();
        let jwks = directory.path().join("jwks.json");
        // Without its id, which marks a key of `roster dev`: `roster serve` refuses such a key.
        let mut set = key.public_jwks();
        set["keys"][0].as_object_mut().unwrap().remove("kid");
        std::fs::write(&jwks, set.to_string()).unwrap();
        let api_key = api_keys::generate();
        let settings = format!(
            "database_url = '{url}'\nreplica_memory_mib = 4096\n[mail]\nkind = 'off'\n[[issuers]]\nissuer = '{ISSUER}'\naudience = '{AUDIENCE}'\n\
             jwks_file = '{}'\nscopes = ['check', 'manage', 'operator']\n\
             [[api_keys]]\nname = 'bench'\nscopes = ['check']\nsha256 = '{}'\n",
            jwks.display(),
            api_key.sha256
        );
        std::fs::write(directory.path().join("roster.toml"), settings).unwrap();
        Self { directory, size, url, binaries, _cluster: cluster, key, api_key }
    }

    /// A bearer token of a service with these scopes.
    pub(crate) fn token(&self, scopes: &str) -> String {
        self.token_of("bench", scopes)
    }

    /// A bearer token of the service with this name and these scopes.
    pub(crate) fn token_of(&self, service: &str, scopes: &str) -> String {
        let now = Clock::system().unix_seconds();
        let claims = ClaimSet {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: service.to_owned(),
            exp: now + 24 * 3600,
            iat: now,
            scope: Some(scopes.to_owned()),
            ..ClaimSet::default()
        };
        self.key.mint(&claims).unwrap().expose().to_owned()
    }

    /// An API key of a service with the scope `check`.
    pub(crate) fn api_key(&self) -> &str {
        self.api_key.secret.expose()
    }

    /// Starts the program `roster` on these cores, with default settings otherwise.
    pub(crate) fn start_on(&self, cores: &str) -> Server {
        self.start_with(cores, &[])
    }

    /// Starts the program `roster` on these cores, with these flags.
    pub(crate) fn start_with(&self, cores: &str, flags: &[&str]) -> Server {
        let address = free_address();
        let config = self.directory.path().join("roster.toml");
        let metrics_address = free_address();
        let config = config.to_str().unwrap();
        let arguments = ["serve", "--config", config, "--listen", &address, "--metrics-listen", &metrics_address];
        let arguments = [&arguments, flags].concat();
        let started = Instant::now();
        let process =
            Process::start(Path::new(env!("CARGO_BIN_EXE_roster")), &arguments, cores, &[("ROSTER_LOG", "warn")]);
        until_listening(&address);
        Server { process, address, metrics_address, started }
    }

    pub(crate) fn start(&self) -> Server {
        self.start_on(SERVER_CORE)
    }

    /// The parameters of a closed loop on a server.
    pub(crate) fn load(&self, address: &str, token: &str, kind: Kind) -> Load {
        Load {
            address: address.to_owned(),
            token: token.to_owned(),
            call_header: CallHeader::None,
            kind,
            table: self.size,
            connections: CONNECTIONS,
            streams: STREAMS,
            rate: 0.0,
            seconds: seconds(),
            certificate: None,
            resumes: false,
        }
    }

    /// Runs pgbench with prepared statements, and returns the transactions a second.
    pub(crate) fn pgbench(&self, script: &Path, clients: u32) -> f64 {
        let program = self.binaries.directory().join("pgbench");
        let output = Command::new(if program.exists() { program } else { PathBuf::from("pgbench") })
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
            .arg(format!("--client={clients}"))
            .arg(format!("--time={}", seconds()))
            .arg("--file")
            .args([script.as_os_str(), self.url.as_ref()])
            .output()
            .unwrap();
        let report = String::from_utf8(output.stdout).unwrap();
        let rate = report.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        rate.unwrap_or_else(|| panic!("pgbench reported no rate: {report} {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Starts an echo server in one of its roles.
pub(crate) fn echo(role: &str) -> Server {
    echo_with(role, &[])
}

/// Starts an echo server in one of its roles, with these variables.
pub(crate) fn echo_with(role: &str, variables: &[(&str, &str)]) -> Server {
    let started = Instant::now();
    let mut process = Process::again(role, SERVER_CORE, variables);
    let address = process.line();
    Server { process, address, metrics_address: String::new(), started }
}

impl Server {
    /// A tonic channel, for calls that are not measured.
    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// The value of one of the server's metrics.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let mut socket = std::net::TcpStream::connect(&self.metrics_address).unwrap();
        write!(socket, "GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("roster_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Waits until the replica has loaded, and returns the time from the server's start.
    pub(crate) async fn until_loaded(&self, size: Size) -> Duration {
        until_listening(&self.metrics_address);
        while self.metric("replica_memberships") < f64::from(size.memberships)
            || self.metric("replica_age_seconds") < 0.0
        {
            assert!(self.started.elapsed() < Duration::from_mins(5), "the replica has not loaded");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.started.elapsed()
    }
}

/// A request with its bearer token.
pub(crate) fn with<M>(token: &str, message: M) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// A quarter of the machine's memory, as the manual of Postgres advises.
fn shared_buffers() -> String {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")).unwrap();
    format!("{}MB", total.trim().parse::<u64>().unwrap() / 1024 / 4)
}

/// An address with a free port.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The list of both cores, for `taskset`.
pub(crate) fn both() -> String {
    format!("{SERVER_CORE},{LOAD_CORE}")
}
