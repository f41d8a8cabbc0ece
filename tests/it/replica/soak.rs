//! A long run: with checks, writes, reloads and a memory limit that is always reached, the process does not grow.
//! `ROSTER_SOAK_SECONDS` sets the duration.

use super::endpoint::Endpoint;
use super::process::Process;
use super::traffic::{Traffic, Workload};
use crate::harness::bulk::Bulk;
use crate::harness::{Database, Server};
use nix::unistd::Pid;
use roster::random;
use roster::service::ReplicaSettings;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The duration in CI: enough to detect growth with every call.
const SECONDS: u64 = 9;
/// Interval of the measurements.
const INTERVAL: Duration = Duration::from_millis(250);
/// Allowed growth from the second to the last third, in KiB: the allocator keeps the memory of peaks, and the number of
/// connections does not change.
const ALLOWANCE: u64 = 6 * 1024;
const ORGANIZATIONS: usize = 48;
/// The memory limit of the replica, in bytes.
const LIMIT: u32 = 1 << 20;

/// Creates organizations that take about three times the memory limit. Their ids derive from their numbers.
async fn fill(database: &Database) {
    let owned =
        "SELECT md5(n::text)::uuid AS id, 'crowd-' || n AS slug, 'crowd' AS owner FROM generate_series(1, 18000) n";
    let memberships = format!("SELECT id, owner AS user_id FROM ({owned}) owned");
    Bulk { users: "SELECT 'crowd' AS id", organizations: owned, memberships: &memberships }.insert(database).await;
}

/// The resident memory of a process, in KiB.
fn resident(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_grow_in_a_long_run() {
    let seconds = std::env::var("ROSTER_SOAK_SECONDS").map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let database = Database::new().await;
    fill(&database).await;
    let server = Server::with_replica_over(database.clone(), ReplicaSettings::default()).await;
    let process = Process::start(&server, &format!("replica_memory_mib = {}", LIMIT >> 20)).await;
    let staleness = ReplicaSettings::default().max_staleness;
    // All calls go to the process; the server in this process is idle.
    let endpoints = vec![Endpoint { clients: process.clients.clone(), staleness, stale: None, deadline: None }];
    let workload = Workload::new(endpoints, ORGANIZATIONS, random::bits()).await;
    let mut traffic = Traffic::begin(&workload, 3, 4);
    let mut samples = Vec::new();
    let start = Instant::now();
    let mut peak = 0.0_f64;
    while start.elapsed() < Duration::from_secs(seconds) {
        traffic.run_for(INTERVAL).await;
        samples.push(resident(process.pid()));
        peak = peak.max(process.metric("replica_bytes").await);
        if samples.len() % 8 == 0 {
            // The follower finds a gap and reloads buckets.
            sqlx::query("DELETE FROM log").execute(&database.pool).await.unwrap();
        }
    }
    traffic.end().await;
    let thirds: Vec<u64> = samples.chunks(samples.len().div_ceil(3)).map(median).collect();
    let loads = process.metric("replica_loads").await;
    report(&workload, &thirds, loads, peak);
    assert!(loads > 256.0 && process.metric("replica_gaps").await > 0.0, "too few reloads for a meaningful test");
    let buckets = process.metric("replica_buckets").await;
    assert!(
        buckets > 10.0 && buckets < 250.0 && peak <= f64::from(LIMIT + 16 * 1024),
        "{buckets} buckets, {peak} bytes"
    );
    assert!(process.metric("replica_memory_answers").await > 0.0);
    assert!(workload.counts.writes.load(Ordering::Relaxed) > 0);
    // The first third is the warm-up.
    assert!(thirds[2] <= thirds[1] + ALLOWANCE, "the process grows: {thirds:?} KiB, {samples:?}");
}

#[expect(clippy::print_stderr, reason = "the figures of a long run")]
fn report(workload: &Workload, thirds: &[u64], loads: f64, peak: f64) {
    eprintln!(
        "seed {}: medians of thirds {thirds:?} KiB, {loads} loads, {peak} bytes, {:?}",
        workload.seed, workload.counts
    );
}
