//! The model: several servers over one database, random writes and checks of every kind, and an oracle that judges each
//! answer. `ROSTER_MODEL_OPERATIONS` says how many, `ROSTER_MODEL_SEED` which.

use super::oracle::{Mode, Question, What};
use super::traffic::{Dice, Scene, Traffic};
use super::{Rig, tables};
use crate::harness::{Database, Server};
use roster::random;
use roster::service::ReplicaSettings;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Checks and writes in CI.
const OPERATIONS: u64 = 60_000;
const PLACES: usize = 24;
const WRITERS: usize = 5;
const CHECKERS: usize = 6;
/// Room for about half of the organizations above.
const LITTLE: usize = 5_000;

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_outside_the_contract() {
    let operations = environment("ROSTER_MODEL_OPERATIONS").unwrap_or(OPERATIONS);
    let seed = environment("ROSTER_MODEL_SEED").unwrap_or_else(random::bits);
    let database = Database::new().await;
    let usual = ReplicaSettings::default();
    let settings = [
        usual.clone(),
        ReplicaSettings { max_staleness: Duration::from_millis(300), ..usual.clone() },
        ReplicaSettings { memory_bytes: LITTLE, ..usual },
    ];
    let Rig { servers, scene, .. } = &Rig::new(database.clone(), &settings, PLACES, seed).await;
    let begun = Instant::now();
    let mut traffic = Traffic::begin(scene, WRITERS, CHECKERS);
    let mut dice = Dice::new(seed, 0);
    let mut holes = 0;
    while scene.counts.operations() < operations || holes < 3 {
        traffic.for_a_while(Duration::from_millis(100 + u64::try_from(dice.roll(900)).unwrap())).await;
        // As if the log were kept for hardly any time: who has not read it yet must notice.
        let place = &scene.oracle.places[dice.roll(PLACES)].id;
        let forget = "DELETE FROM log WHERE bucket = (SELECT bucket FROM organizations WHERE id = $1::uuid)";
        sqlx::query(forget).bind(place).execute(&database.pool).await.unwrap();
        if holes % 8 == 1 {
            sqlx::query("DELETE FROM user_log").execute(&database.pool).await.unwrap();
        }
        holes += 1;
    }
    traffic.end().await;
    let took = begun.elapsed();
    tell(scene, took, servers);

    assert_eq!(scene.counts.failed.load(Ordering::Relaxed), 0);
    let (tables, checks) = (scene.counts.tables.load(Ordering::Relaxed), scene.counts.checks.load(Ordering::Relaxed));
    assert!(tables * 3 > checks, "memory answered {tables} of {checks}: this tests little");
    assert!(scene.counts.writes.load(Ordering::Relaxed) > 100, "nothing was written: this tests little");
    for (number, server) in servers.iter().enumerate() {
        let told = server.roster.replica().statistics();
        assert!(told.lines > 0 && told.gaps > 0 && told.lost == 0 && told.failed_polls == 0, "{number}: {told:?}");
        assert!(told.memory_answers > 0 && told.primary_answers > 0, "{number}: {told:?}");
        let compared = tables::assert_equal(&database, server.roster.replica()).await;
        assert!(if number == 2 { (1..PLACES).contains(&compared) } else { compared == PLACES }, "{compared}");
    }
    assert_last_state(scene).await;
    database.assert_no_open_transactions().await;
}

/// Asks every server about everybody everywhere once more, now that nothing moves.
async fn assert_last_state(scene: &Arc<Scene>) {
    let mut dice = Dice::new(scene.seed, 0);
    for door in 0..scene.doors.len() {
        for place in 0..scene.oracle.places.len() {
            let all = (0..super::oracle::USERS).map(|user| Question { place, slug: None, user, change: What::Owner });
            assert!(scene.ask(door, Mode::Full, &all.collect::<Vec<_>>(), &mut dice).await);
        }
    }
}

#[expect(clippy::print_stderr, reason = "the figures of a long run, and the seed that repeats it")]
fn tell(scene: &Scene, took: Duration, servers: &[Server]) {
    let told: Vec<_> = servers.iter().map(|server| server.roster.replica().statistics()).collect();
    eprintln!("seed {}, {} operations in {took:?}: {:?}", scene.seed, scene.counts.operations(), scene.counts);
    eprintln!("{told:#?}");
}
