//! A long run: the program under churn and under a limit of memory that binds, with checks, writes and buckets loaded
//! anew, does not grow. `ROSTER_SOAK_SECONDS` says how long.

use super::process::Process;
use super::traffic::{Pipeline, Scene, Traffic};
use crate::harness::bulk::Bulk;
use crate::harness::{Database, Server};
use nix::unistd::Pid;
use roster::random;
use roster::service::ReplicaSettings;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// In CI: enough to see that it runs, and what grows with every call.
const SECONDS: u64 = 9;
/// How often it is weighed.
const EVERY: Duration = Duration::from_millis(250);
/// How much more the last third may weigh than the one before it, in KiB: an allocator keeps what it had at a peak, and
/// there are as many connections as before.
const ALLOWANCE: u64 = 6 * 1024;
const PLACES: usize = 48;
/// The limit of the index, in bytes.
const LIMIT: u32 = 1 << 20;

/// Organizations that take about three times as much as there is room for. Their ids are known by their numbers.
async fn crowd(database: &Database) {
    let made =
        "SELECT md5(n::text)::uuid AS id, 'crowd-' || n AS slug, 'crowd' AS owner FROM generate_series(1, 18000) n";
    let memberships = format!("SELECT id, owner AS user_id FROM ({made}) owned");
    Bulk { users: "SELECT 'crowd' AS id", organizations: made, memberships: &memberships }.insert(database).await;
}

/// What a process has in memory, in KiB.
fn resident(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn median(of: &[u64]) -> u64 {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_run_does_not_grow() {
    let seconds = std::env::var("ROSTER_SOAK_SECONDS").map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let database = Database::new().await;
    crowd(&database).await;
    let server = Server::with_replica_over(database.clone(), ReplicaSettings::default()).await;
    let process = Process::start(&server, &format!("index_memory_mib = {}", LIMIT >> 20)).await;
    let staleness = ReplicaSettings::default().max_staleness;
    // Everything goes to the process; the server here only looks on.
    let doors = vec![Pipeline { clients: process.clients.clone(), staleness, stale: None }];
    let scene = Scene::new(doors, PLACES, random::bits()).await;
    let mut traffic = Traffic::begin(&scene, 3, 4);
    let mut weights = Vec::new();
    let begun = Instant::now();
    let mut most = 0.0_f64;
    while begun.elapsed() < Duration::from_secs(seconds) {
        traffic.for_a_while(EVERY).await;
        weights.push(resident(process.pid()));
        most = most.max(process.metric("index_bytes").await);
        if weights.len() % 8 == 0 {
            // Whoever follows finds a hole, and loads buckets anew.
            sqlx::query("DELETE FROM log").execute(&database.pool).await.unwrap();
        }
    }
    traffic.end().await;
    let thirds: Vec<u64> = weights.chunks(weights.len().div_ceil(3)).map(median).collect();
    let loads = process.metric("index_loads").await;
    tell(&scene, &thirds, loads, most);
    assert!(loads > 256.0 && process.metric("index_gaps").await > 0.0, "nothing was loaded anew: this tests little");
    let buckets = process.metric("index_buckets").await;
    assert!(
        buckets > 10.0 && buckets < 250.0 && most <= f64::from(LIMIT + 16 * 1024),
        "{buckets} buckets, {most} bytes"
    );
    assert!(process.metric("index_memory_answers").await > 0.0);
    assert!(scene.counts.writes.load(Ordering::Relaxed) > 0);
    // The first third warms up.
    assert!(thirds[2] <= thirds[1] + ALLOWANCE, "it grows: {thirds:?} KiB, {weights:?}");
}

#[expect(clippy::print_stderr, reason = "the figures of a long run")]
fn tell(scene: &Scene, thirds: &[u64], loads: f64, most: f64) {
    eprintln!("seed {}: medians of thirds {thirds:?} KiB, {loads} loads, {most} bytes, {:?}", scene.seed, scene.counts);
}
