//! What a check costs: roster beside a bare tonic echo, and beside pgbench asking the same table, all in one run.
//!
//! `make bench` runs it. The server is pinned to core 0, the generator to core 1; Postgres goes where it likes. Absolute
//! figures depend on the machine and the minute: believe the ratios.
//!
//! The program is three: the bench itself (no role) starts Postgres, loads the memberships, and starts itself again as
//! the server (`roster` or `echo`) and as the generator (`load`), each pinned.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot measure fails")]

#[path = "checks/echo.rs"]
mod echo;
#[path = "checks/load.rs"]
mod load;
#[path = "checks/table.rs"]
mod table;

use roster::auth::Authenticator;
use roster::auth::mint::{Claims, SigningKey};
use roster::auth::settings::{AuthSettings, IssuerSettings};
use roster::domain::Scope;
use roster::postgres::{Binaries, Cluster, Options};
use roster::server::{self, Parts, ServerSettings};
use roster::service::Roster;
use roster::store::pool;
use roster::world::Clock;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const ISSUER: &str = "https://bench.test";
const AUDIENCE: &str = "roster";
const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";
/// Each thing is measured this often, the things in turn, and the median is told.
const ROUNDS: usize = 5;
/// Connections of the generator, and calls under way on each.
const CONNECTIONS: usize = 8;
const STREAMS: usize = 16;

/// Memberships in the table; `ROSTER_BENCH_MEMBERSHIPS` says another number.
fn memberships() -> u32 {
    std::env::var("ROSTER_BENCH_MEMBERSHIPS").map_or(1_000_000, |text| text.parse().unwrap())
}

/// How long one measurement takes; `ROSTER_BENCH_SECONDS` says another number.
fn seconds() -> u64 {
    std::env::var("ROSTER_BENCH_SECONDS").map_or(5, |text| text.parse().unwrap())
}

fn main() {
    let role = std::env::var("ROSTER_BENCH_ROLE").unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match role.as_str() {
        "roster" => runtime.block_on(serve_roster()),
        "echo" => runtime.block_on(echo::serve()),
        "load" => runtime.block_on(load::run()),
        _ => runtime.block_on(bench()),
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is set by the bench"))
}

async fn serve_roster() {
    let settings = AuthSettings {
        issuers: vec![IssuerSettings {
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            jwks_file: Some(variable("ROSTER_BENCH_JWKS").into()),
            keys: Vec::new(),
            hs256_secret_file: None,
            scopes: Scope::ALL.to_vec(),
            user_id_prefix: String::new(),
        }],
        api_keys: Vec::new(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    say(&listener.local_addr().unwrap().to_string());
    let roster = Roster::new(pool::lazy(pool::parse_url(&variable("ROSTER_BENCH_URL")).unwrap(), 16), Clock::system());
    let authenticator = Authenticator::new(&settings, Clock::system()).unwrap();
    let parts =
        Parts { listener, settings: ServerSettings::default(), roster, authenticator, mailer: None, metrics: None };
    server::serve(parts, CancellationToken::new()).await.unwrap();
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// This program again, in a role and on a core.
fn again(role: &str, core: &str, variables: &[(&str, &str)]) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program).env("ROSTER_BENCH_ROLE", role).stdout(Stdio::piped());
    command.envs(variables.iter().copied());
    command.spawn().unwrap_or_else(|error| panic!("taskset pins processes to cores, and is missing: {error}"))
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// A server under measurement.
struct Server {
    name: &'static str,
    child: Child,
    address: String,
}

impl Server {
    fn start(name: &'static str, variables: &[(&str, &str)]) -> Self {
        let mut child = again(name, SERVER_CORE, variables);
        let address = first_line(&mut child);
        Self { name, child, address }
    }

    /// The processor time that it has used, in microseconds.
    fn cpu_micros(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let ticks: u64 = after_name.split_whitespace().skip(11).take(2).map(|text| text.parse::<u64>().unwrap()).sum();
        // A tick is a hundredth of a second on every Linux that has this file.
        ticks * 10_000
    }

    /// One measurement.
    fn measure(&self, token: &str) -> Figures {
        let count = memberships().to_string();
        let seconds = seconds().to_string();
        let variables = [
            ("ROSTER_BENCH_ADDRESS", self.address.as_str()),
            ("ROSTER_BENCH_TOKEN", token),
            ("ROSTER_BENCH_MEMBERSHIPS", &count),
            ("ROSTER_BENCH_SECONDS", &seconds),
        ];
        let mut load = again("load", LOAD_CORE, &variables);
        // The generator warms up first, then says so, then measures.
        assert_eq!(first_line(&mut load), "warm");
        let before = self.cpu_micros();
        let told = first_line(&mut load);
        let cpu = self.cpu_micros() - before;
        assert!(load.wait().unwrap().success(), "a call to {} was answered wrongly", self.name);
        let mut words = told.split_whitespace().map(|word| word.parse::<f64>().unwrap());
        let mut next = || words.next().unwrap();
        let (calls, rate, p50, p99) = (next(), next(), next(), next());
        Figures { rate, cpu: f64::from(u32::try_from(cpu).unwrap()) / calls, p50, p99 }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    cpu: f64,
    p50: f64,
    p99: f64,
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn bench() {
    // `cargo bench` hands its own flags on; and `cargo test --benches` only wants to know that it builds and starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
    let options = Options::temporary().with("shared_buffers", "512MB").with("fsync", "off");
    let cluster = Cluster::start(&binaries, options).await.unwrap();
    cluster.create_database("roster").await.unwrap();
    let url = cluster.url("roster");
    pool::migrate(&sqlx::postgres::PgConnectOptions::from_str(&url).unwrap()).await.unwrap();
    say(&format!("loading {} memberships", memberships()));
    table::fill(&url, memberships()).await;

    let key = SigningKey::generate();
    let jwks = directory.path().join("jwks.json");
    std::fs::write(&jwks, key.public_jwks().to_string()).unwrap();
    let now = Clock::system().unix_seconds();
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: "bench".to_owned(),
        exp: now + 24 * 3600,
        iat: now,
        scope: Some("roster:check".to_owned()),
        ..Claims::default()
    };
    let token = key.mint(&claims).unwrap().expose().to_owned();
    let variables = [("ROSTER_BENCH_URL", url.as_str()), ("ROSTER_BENCH_JWKS", jwks.to_str().unwrap())];
    let servers = [Server::start("echo", &[]), Server::start("roster", &variables)];
    let script = table::pgbench_script(directory.path(), memberships());

    let mut figures: [Vec<Figures>; 2] = [Vec::new(), Vec::new()];
    let mut asked = Vec::new();
    for round in 1..=ROUNDS {
        say(&format!("round {round} of {ROUNDS}"));
        for (server, figures) in servers.iter().zip(&mut figures) {
            figures.push(server.measure(&token));
        }
        asked.push(pgbench(&binaries, &url, &script));
    }
    tell(&figures, median(asked.into_iter()));
}

/// pgbench with prepared statements and as many clients as saturate two cores; transactions per second.
fn pgbench(binaries: &Binaries, url: &str, script: &Path) -> f64 {
    let beside = binaries.directory().join("pgbench");
    let output = Command::new(if beside.exists() { beside } else { "pgbench".into() })
        .args(["--no-vacuum", "--protocol=prepared", "--client=8", "--jobs=2"])
        .arg(format!("--time={}", seconds()))
        .arg("--file")
        .arg(script)
        .arg(url)
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let rate = told.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("pgbench told no rate: {told} {}", String::from_utf8_lossy(&output.stderr)))
}

fn tell(figures: &[Vec<Figures>; 2], asked: f64) {
    let of = |index: usize, pick: fn(&Figures) -> f64| median(figures[index].iter().map(pick));
    let [echo, check] = [0, 1].map(|index| Figures {
        rate: of(index, |figures| figures.rate),
        cpu: of(index, |figures| figures.cpu),
        p50: of(index, |figures| figures.p50),
        p99: of(index, |figures| figures.p99),
    });
    say("");
    say("| what | calls/s | × echo | server CPU µs per call | × echo | p50 µs | p99 µs |");
    say("|---|---|---|---|---|---|---|");
    for (name, row) in [("bare tonic echo", echo), ("CheckMembership on the primary", check)] {
        say(&format!(
            "| {name} | {:.0} | {:.3} | {:.1} | {:.2} | {:.0} | {:.0} |",
            row.rate,
            row.rate / echo.rate,
            row.cpu,
            row.cpu / echo.cpu,
            row.p50,
            row.p99
        ));
    }
    say(&format!("| pgbench -M prepared -c 8, one membership by key | {asked:.0} | | | | | |"));
    say("");
    say(&format!("checks per second against pgbench: {:.2}", check.rate / asked));
    say(&format!("{CONNECTIONS} connections × {STREAMS} calls under way; median of {ROUNDS} rounds"));
}
