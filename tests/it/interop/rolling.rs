//! A rolling restart of two servers behind haproxy, under load: no call fails.

use super::{Probe, ProbeSettings};
use crate::harness::program::{Serve, free_port};
use crate::harness::{API_KEY, Database, organization};
use crate::peers::haproxy::Haproxy;
use crate::peers::observers::{metric, scrape_at};
use crate::replica::until;
use nix::sys::signal::Signal;
use roster::client::{Check, Client, ClientSettings, Consistency, TokenSource};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tonic_health::pb::health_check_response::ServingStatus;

/// The clients of the Rust library beside those of other languages, each with one connection.
const CLIENTS: i32 = 16;
const AGE: Duration = Duration::from_secs(3);

/// The checks of haproxy that `docs/operations.md` shows, each with the settings of the servers.
fn checks() -> [(&'static str, String, &'static str); 2] {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let block = |name: &str| {
        let block = document.split("```text\n").find(|block| block.starts_with(name));
        let block = block.unwrap_or_else(|| panic!("docs/operations.md has no block {name}"));
        let block = &block[..block.find("```").unwrap()];
        let lines = block.lines().skip_while(|line| !line.starts_with("backend")).skip(1);
        // The addresses of the servers differ here, and the tests need no header.
        let lines = lines.filter(|line| !line.trim_start().starts_with("server "));
        lines.collect::<Vec<_>>().join("\n")
    };
    [
        ("tcp", block("# haproxy.cfg: checks of the port"), ""),
        ("health", block("# haproxy.cfg: checks of the health"), "lame_duck_ms = 2500\n"),
    ]
}

struct Member {
    serve: Serve,
    metrics: SocketAddr,
}

impl Member {
    async fn start(database: &Database, settings: &str) -> Self {
        let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let settings = format!(
            "metrics_listen = '{metrics}'\nmax_connection_age_ms = {}\n{settings}\n[[api_keys]]\nname = 'probe'\n\
             scopes = ['check', 'manage']\nsha256 = '{}'\n",
            AGE.as_millis(),
            API_KEY.sha256
        );
        let serve = Serve::start(&database.url, &settings).await;
        serve.until(ServingStatus::Serving).await;
        Self { serve, metrics }
    }

    /// Stops the server as an operator does, and starts it again.
    async fn restart(&mut self) {
        self.serve.signal(Signal::SIGTERM);
        assert_eq!(self.serve.exit_code().await, Some(0), "{}", self.serve.log());
        self.serve.start_again().await;
        self.serve.until(ServingStatus::Serving).await;
    }

    async fn connections(&self) -> f64 {
        metric(&scrape_at(self.metrics).await, "roster_connections").unwrap()
    }
}

/// Clients that check without a pause between them, until they are stopped.
struct RustClients {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl RustClients {
    fn start(address: SocketAddr, key: &str) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..CLIENTS).map(|_| {
            let settings = ClientSettings::new(format!("http://{address}")).unwrap();
            let client = Client::lazy(
                settings.with_token(TokenSource::fixed(key).unwrap()).with_timeout(Duration::from_secs(10)),
            );
            let (stop, calls) = (stop.clone(), calls.clone());
            tokio::spawn(async move {
                let check = Check::member("acme-inc", "ada").unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.check(&check, &Consistency::Recent).await.unwrap();
                    assert!(answer.is_allowed(), "{answer:?}");
                    calls.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, calls, tasks }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.calls.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs haproxy and the programs of other languages: make interop runs it"]
async fn a_rolling_restart_behind_haproxy_fails_no_call() {
    for (name, backend, settings) in checks() {
        let database = Database::new().await;
        let mut members = [Member::start(&database, settings).await, Member::start(&database, settings).await];
        let [first, second] = [members[0].serve.address, members[1].serve.address];
        let servers = format!("\n  server roster1 {first} check\n  server roster2 {second} check\n");
        let haproxy = Haproxy::start_with(&format!("{backend}{servers}")).await;
        let mut request = organization("Acme, Inc.");
        request.owner_user_id = "ada".to_owned();
        members[0].serve.clients.organizations.create_organization(request).await.unwrap();

        let key = API_KEY.secret.expose();
        let probes = ProbeSettings::new(&haproxy.address.to_string(), key);
        let loads = [Probe::Go.load(&probes), Probe::Node.load(&probes)];
        let clients = RustClients::start(haproxy.address, key);
        let begin = Instant::now();
        until("all have connected", async || {
            members[0].connections().await + members[1].connections().await >= f64::from(CLIENTS)
        })
        .await;
        let mut restarted = Instant::now();
        for number in [0, 1, 0, 1] {
            members[number].restart().await;
            restarted = Instant::now();
            // The deployment waits until haproxy uses it again. Checks have a connection too, and the one before may not have
            // ended yet: if the other server stopped then, there would be none.
            until("haproxy uses the server", async || members[number].connections().await >= 4.0).await;
        }
        // The server that was restarted last had no connection. After two checks of haproxy, and within the age of the
        // others, it has its part of them.
        until("the connections are balanced", async || {
            members[0].connections().await >= 5.0 && members[1].connections().await >= 5.0
        })
        .await;
        println!("{name}: balanced after {:?}", restarted.elapsed());
        assert!(restarted.elapsed() < AGE * 11 / 10 + Duration::from_secs(4), "{:?}", restarted.elapsed());
        let took = begin.elapsed().as_secs();
        println!("{name}: {} calls of the Rust clients in {took} s", clients.end().await);
        for load in loads {
            let [calls, streams, _] = load.end().await;
            // Most of 200 calls a second, and another stream after a server that ended.
            assert!(calls >= took * 100 && streams >= 2, "{calls} calls in {took} s, {streams} streams");
        }
    }
}
