//! The storm: server processes and Postgres are killed and suspended, and the network between them swallows data, all at
//! the same time. No acknowledged write is lost or stored twice, every answer fulfils the contract, and every call ends
//! by its deadline. `ROSTER_STORM_WRITES` sets the number of acknowledged writes and of checks with tokens,
//! `ROSTER_STORM_SEED` the seed.

mod faults;

use super::endpoint::{ALLOWANCE, Deadline, Endpoint};
use super::environment;
use super::model::assert_last_state;
use super::oracle::{Mode, Question};
use super::traffic::{SeededRandom, Traffic, Workload};
use crate::harness::Database;
use crate::harness::cluster::TestCluster;
use crate::harness::program::Serve;
use crate::harness::proxy::Proxy;
use faults::StormServer;
use roster::random;
use roster::service::ReplicaSettings;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic_health::pb::health_check_response::ServingStatus;
use uuid::Uuid;

/// The number of acknowledged writes and of checks with tokens among the faults in CI. Some hundreds follow while the
/// servers recover.
const WRITES: u64 = 60;
const ORGANIZATIONS: usize = 24;
/// Many, because a call whose connection is silent waits until its deadline.
const WRITERS: usize = 20;
const CHECKERS: usize = 6;
/// The longest time between two faults of one kind, in milliseconds: in CI, and if the environment sets the size.
const CALM: (usize, usize) = (1_000, 4_000);
/// The deadlines of the calls to each server.
const DEADLINES: [Duration; 2] = [Duration::from_millis(1_500), Duration::from_secs(3)];
/// The `serve_stale` of the second server.
const SERVE_STALE: Duration = Duration::from_secs(3);
/// The time in which every call succeeds again after the last fault.
const RECOVERY: Duration = Duration::from_secs(5);
/// The time in which a storm makes progress.
const STALL: Duration = Duration::from_mins(1);

/// The progress of a storm.
pub struct Progress {
    workload: Arc<Workload>,
    goal: u64,
    /// The longest time between two faults of one kind, in milliseconds.
    calm: usize,
    /// The number of faults of each kind.
    faults: Mutex<BTreeMap<&'static str, u64>>,
}

impl Progress {
    fn count(&self, fault: &'static str) {
        *self.faults.lock().unwrap().entry(fault).or_default() += 1;
    }

    /// The numbers of acknowledged writes and of answered checks with tokens.
    fn reached(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.workload.counts.writes), read(&self.workload.counts.token_calls))
    }

    fn is_goal_reached(&self) -> bool {
        let (writes, checks) = self.reached();
        writes >= self.goal && checks >= self.goal
    }
}

/// Two server processes, each behind a proxy in front of the same Postgres, and the workload.
struct Storm {
    cluster: TestCluster,
    proxies: Vec<Proxy>,
    servers: Vec<StormServer>,
    workload: Arc<Workload>,
}

impl Storm {
    async fn new(seed: u64) -> Self {
        // Processes are killed, and the machine is not: fsync may stay off. A killed process may leave a torn page.
        let settings = [("full_page_writes", "on"), ("max_connections", "200")];
        let cluster = TestCluster::with_schema_and(&settings).await;
        let (mut proxies, mut servers, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
        for (index, limit) in DEADLINES.into_iter().enumerate() {
            let proxy = Proxy::to(&cluster).await;
            let stale = (index == 1).then_some(SERVE_STALE);
            let stale_setting =
                stale.map_or_else(String::new, |stale| format!("serve_stale_ms = {}", stale.as_millis()));
            let settings = format!("token_form = 2\ndefault_deadline_ms = {}\n{stale_setting}", limit.as_millis());
            let serve = Serve::start(&proxy.url(), &settings).await;
            serve.until(ServingStatus::Serving).await;
            let deadline = Arc::new(Deadline::new(limit));
            let staleness = ReplicaSettings::default().max_staleness;
            let (clients, of_calls) = (serve.clients.clone(), Some(deadline.clone()));
            endpoints.push(Endpoint { clients, staleness, stale, deadline: of_calls });
            proxies.push(proxy);
            servers.push(StormServer { serve, deadline });
        }
        let workload = Workload::new(endpoints, ORGANIZATIONS, seed).await;
        // The oracle's histories begin with the organizations. A check may be answered from a state before that.
        tokio::time::sleep(ReplicaSettings::default().max_staleness).await;
        Self { cluster, proxies, servers, workload }
    }

    /// Runs the callers through faults of every kind until the goal is reached. Returns the traffic, which goes on.
    async fn run(&mut self, progress: &Progress) -> Traffic {
        self.workload.tolerates_failures.store(true, Ordering::Relaxed);
        let mut traffic = Traffic::begin(&self.workload, WRITERS, CHECKERS);
        let random = |number| SeededRandom::new(self.workload.seed, number);
        let faults = async {
            tokio::join!(
                faults::of_servers(&mut self.servers, random(1 << 32), progress),
                faults::of_the_network(&self.proxies, random(2 << 32), progress),
                faults::of_postgres(&mut self.cluster, random(3 << 32), progress),
            )
        };
        tokio::pin!(faults);
        let (mut before, mut changed) = (progress.reached(), Instant::now());
        loop {
            tokio::select! {
                _ = &mut faults => return traffic,
                () = traffic.run_for(Duration::from_millis(100)) => {}
            }
            if before != progress.reached() {
                (before, changed) = (progress.reached(), Instant::now());
            }
            assert!(changed.elapsed() < STALL, "seed {}: no progress since {STALL:?}", self.workload.seed);
        }
    }

    /// Waits until the servers are healthy. Then every call succeeds.
    async fn recover(&self, mut traffic: Traffic) {
        let recovered = Instant::now() + RECOVERY;
        for StormServer { serve, .. } in &self.servers {
            serve.until(ServingStatus::Serving).await;
        }
        traffic.until("the servers have recovered", |_| Instant::now() >= recovered).await;
        self.workload.tolerates_failures.store(false, Ordering::Relaxed);
        traffic.until_served(20).await;
        traffic.end().await;
    }

    /// Checks every organization with every stored token on both servers.
    async fn assert_tokens_hold(&self) {
        let mut random = SeededRandom::new(self.workload.seed, 0);
        for token in self.workload.tokens() {
            for endpoint in 0..DEADLINES.len() {
                // The users of the token, or another one, so that the token of a write to a user is verified too.
                let mut users = token.users.keys().copied().cycle();
                let questions: Vec<_> = (0..ORGANIZATIONS)
                    .map(|organization| {
                        let question = self.workload.question(&mut random, organization, false);
                        Question { user: users.next().unwrap_or(question.user), ..question }
                    })
                    .collect();
                assert!(self.workload.check(endpoint, Mode::AtLeast(token.clone()), &questions, &mut random).await);
            }
        }
    }

    /// Asserts that the events are exactly those of the acknowledged writes, each once. Returns the number of writes.
    async fn assert_no_write_is_lost_or_doubled(&self, database: &Database) -> usize {
        let events = "SELECT request_id, organization_id, revision FROM events WHERE request_id IS NOT NULL
            UNION ALL SELECT request_id, NULL, 0 FROM user_events
            WHERE request_id IS NOT NULL AND type IN ('user.deactivated', 'user.reactivated') ORDER BY 1, 3";
        let events: Vec<(Uuid, Option<Uuid>, i64)> = sqlx::query_as(events).fetch_all(&database.pool).await.unwrap();
        let mut stored: BTreeMap<Uuid, Vec<(Option<Uuid>, i64)>> = BTreeMap::new();
        for (request_id, organization, revision) in events {
            stored.entry(request_id).or_default().push((organization, revision));
        }
        let seed = self.workload.seed;
        let journal = self.workload.journal.lock().unwrap();
        for write in &*journal {
            let organization = write.organization.map(|index| &self.workload.oracle.organizations[index].id);
            let organization = organization.map(|id| Uuid::parse_str(id).unwrap());
            let wanted: Vec<_> = write.revisions.clone().map(|revision| (organization, revision)).collect();
            let found = stored.remove(&Uuid::parse_str(&write.request_id).unwrap()).unwrap_or_default();
            assert_eq!(found, wanted, "seed {seed}: an acknowledged write is lost, or stored twice: {write:?}");
        }
        assert!(stored.is_empty(), "seed {seed}: events of writes that were not acknowledged: {stored:?}");
        journal.len()
    }

    #[expect(clippy::print_stderr, reason = "the figures of a long run, and the seed that repeats it")]
    fn report(&self, progress: &Progress, elapsed: Duration) {
        let calls: Vec<_> =
            self.servers.iter().map(|server| (server.deadline.overrun(), server.deadline.given_up())).collect();
        eprintln!(
            "seed {}, storm of {elapsed:?}: {:?}\n{:?}\nlongest overrun of a deadline, and calls that got no answer from \
             a suspended server: {calls:?}",
            self.workload.seed,
            progress.faults.lock().unwrap(),
            self.workload.counts,
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "the seed of a storm that fails")]
async fn no_write_is_lost_and_no_call_hangs_in_a_storm() {
    let size = environment("ROSTER_STORM_WRITES");
    let (goal, calm) = (size.unwrap_or(WRITES), if size.is_some() { CALM.1 } else { CALM.0 });
    let seed = environment("ROSTER_STORM_SEED").unwrap_or_else(random::bits);
    eprintln!("seed {seed}");
    let mut storm = Storm::new(seed).await;
    let progress = Progress { workload: storm.workload.clone(), goal, calm, faults: Mutex::default() };
    let begin = Instant::now();
    let traffic = storm.run(&progress).await;
    let elapsed = begin.elapsed();
    storm.recover(traffic).await;
    storm.report(&progress, elapsed);
    storm.assert_tokens_hold().await;
    assert_last_state(&storm.workload).await;
    let database = storm.cluster.database();
    let written = storm.assert_no_write_is_lost_or_doubled(&database).await;
    assert!(u64::try_from(written).unwrap() >= goal, "{written} writes");
    database.assert_invariants().await;
    database.assert_no_open_transactions().await;
    assert!(storm.servers.iter().all(|server| server.deadline.overrun() < ALLOWANCE));
}
