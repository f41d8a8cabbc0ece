//! The model test: several servers of one database, random writes and checks of every kind, and an oracle that verifies
//! each answer. `ROSTER_MODEL_OPERATIONS` sets the number of operations, `ROSTER_MODEL_SEED` the seed.

use super::oracle::{Criterion, Mode, Question};
use super::traffic::{SeededRandom, Traffic, Workload};
use super::{Rig, environment, tables};
use crate::harness::{Database, Server};
use roster::random;
use roster::service::ReplicaSettings;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The number of checks and writes in CI.
const OPERATIONS: u64 = 60_000;
const ORGANIZATIONS: usize = 24;
const WRITERS: usize = 5;
const CHECKERS: usize = 6;
/// Memory in bytes for about half of the organizations.
const SMALL_MEMORY: usize = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_fulfils_the_consistency_contract() {
    let operations = environment("ROSTER_MODEL_OPERATIONS").unwrap_or(OPERATIONS);
    let seed = environment("ROSTER_MODEL_SEED").unwrap_or_else(random::bits);
    let database = Database::new().await;
    let default = ReplicaSettings::default();
    let settings = [
        default.clone(),
        ReplicaSettings { max_staleness: Duration::from_millis(300), ..default.clone() },
        ReplicaSettings { memory_bytes: SMALL_MEMORY, ..default },
    ];
    let Rig { servers, workload, .. } = &Rig::new(database.clone(), &settings, ORGANIZATIONS, seed).await;
    let start = Instant::now();
    let mut traffic = Traffic::begin(workload, WRITERS, CHECKERS);
    let mut random = SeededRandom::new(seed, 0);
    let mut gaps = 0;
    while workload.counts.operations() < operations || gaps < 3 {
        traffic.run_for(Duration::from_millis(100 + u64::try_from(random.below(900)).unwrap())).await;
        // As if the log's retention were very short: a follower that has not read these rows must notice the gap.
        let organization = &workload.oracle.organizations[random.below(ORGANIZATIONS)].id;
        let truncate = "DELETE FROM log WHERE bucket = (SELECT bucket FROM organizations WHERE id = $1::uuid)";
        sqlx::query(truncate).bind(organization).execute(&database.pool).await.unwrap();
        if gaps % 8 == 1 {
            sqlx::query("DELETE FROM user_log").execute(&database.pool).await.unwrap();
        }
        gaps += 1;
    }
    traffic.end().await;
    let elapsed = start.elapsed();
    report(workload, elapsed, servers);

    assert_eq!(workload.counts.failed.load(Ordering::Relaxed), 0);
    let (memory, checks) =
        (workload.counts.memory.load(Ordering::Relaxed), workload.counts.checks.load(Ordering::Relaxed));
    assert!(memory * 3 > checks, "too few answers from memory for a meaningful test: {memory} of {checks}");
    assert!(workload.counts.writes.load(Ordering::Relaxed) > 100, "too few writes for a meaningful test");
    for (number, server) in servers.iter().enumerate() {
        let statistics = server.roster.replica().statistics();
        assert!(
            statistics.lines > 0 && statistics.gaps > 0 && statistics.lost == 0 && statistics.failed_polls == 0,
            "{number}: {statistics:?}"
        );
        assert!(statistics.memory_answers > 0 && statistics.primary_answers > 0, "{number}: {statistics:?}");
        let compared = tables::assert_equal(&database, server.roster.replica()).await;
        assert!(
            if number == 2 { (1..ORGANIZATIONS).contains(&compared) } else { compared == ORGANIZATIONS },
            "{compared}"
        );
    }
    assert_last_state(workload).await;
    database.assert_no_open_transactions().await;
}

/// Checks every user in every organization on every server once more after the last write.
pub async fn assert_last_state(workload: &Workload) {
    let mut random = SeededRandom::new(workload.seed, 0);
    for endpoint in 0..workload.endpoints.len() {
        for organization in 0..workload.oracle.organizations.len() {
            let questions = (0..super::oracle::USERS).map(|user| Question {
                organization,
                slug: None,
                user,
                criterion: Criterion::Owner,
            });
            assert!(workload.check(endpoint, Mode::Full, &questions.collect::<Vec<_>>(), &mut random).await);
        }
    }
}

#[expect(clippy::print_stderr, reason = "the figures of a long run, and the seed that repeats it")]
fn report(workload: &Workload, elapsed: Duration, servers: &[Server]) {
    let statistics: Vec<_> = servers.iter().map(|server| server.roster.replica().statistics()).collect();
    eprintln!(
        "seed {}, {} operations in {elapsed:?}: {:?}",
        workload.seed,
        workload.counts.operations(),
        workload.counts
    );
    eprintln!("{statistics:#?}");
}
