//! Faults while callers write and ask: no answer is outside the contract, nothing has to be restarted, and what is counted
//! says what happened.

use super::oracle::{self, Mode, OWNERS, Question, What};
use super::process::Process;
use super::traffic::{Dice, Pipeline, Scene, Traffic};
use super::{Rig, until};
use crate::harness::{Database, Server, add, is_member, organization, remove};
use nix::sys::signal::Signal;
use roster::domain::BucketPosition;
use roster::grpc::pb;
use roster::postgres::{Binaries, Cluster, Options, Stop};
use roster::random;
use roster::replica::consistency_token::ConsistencyToken;
use roster::service::ReplicaSettings;
use roster::store::log::tail;
use roster::store::pool;
use sqlx::postgres::PgListener;
use sqlx::{Connection, PgConnection};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const WRITERS: usize = 3;
const CHECKERS: usize = 3;

/// A Postgres of its own, with the schema in it.
pub async fn cluster() -> (Cluster, Database) {
    let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
    let cluster = Cluster::start(&binaries, Options::temporary()).await.unwrap_or_else(|error| panic!("{error}"));
    cluster.create_database("roster").await.unwrap();
    let url = cluster.url("roster");
    pool::migrate(&pool::parse_url(&url).unwrap()).await.unwrap();
    (cluster, Database::at(url))
}

fn tables(scene: &Scene) -> u64 {
    scene.counts.tables.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_are_killed_again_and_again() {
    const KILL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'LISTEN %'";
    let rig = Rig::pair(Database::new().await).await;
    let mut traffic = Traffic::begin(&rig.scene, WRITERS, CHECKERS);
    let mut killed = 0;
    while killed < 10 {
        killed += rig.database.count(KILL).await;
        traffic.for_a_while(Duration::from_millis(100)).await;
    }
    traffic.served(20).await;
    traffic.end().await;
    for told in rig.statistics() {
        assert!(told.listens >= 3 && told.failed_polls == 0 && told.gaps == 0, "{told:?}");
    }
    rig.assert_equal_to_tables().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_are_lost() {
    let database = Database::new().await;
    // What the servers call is found here first, and does nothing.
    let silence = "CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS '';
        DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$";
    sqlx::raw_sql(silence).execute(&database.pool).await.unwrap();
    let mut listener = PgListener::connect(&database.url).await.unwrap();
    listener.listen(tail::CHANNEL).await.unwrap();
    let rig = Rig::pair(database).await;
    let mut traffic = Traffic::begin(&rig.scene, WRITERS, CHECKERS);
    traffic.for_a_while(Duration::from_secs(2)).await;
    traffic.served(20).await;
    traffic.end().await;
    // The connection is in order, and has nothing to say.
    let said = tokio::time::timeout(Duration::from_millis(100), listener.recv()).await;
    assert!(said.is_err(), "something was said: {said:?}");
    assert!(tables(&rig.scene) > 0);
    rig.assert_equal_to_tables().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_take_longer_than_the_lease() {
    let rig = Rig::pair(Database::new().await).await;
    let mut traffic = Traffic::begin(&rig.scene, WRITERS, CHECKERS);
    traffic.served(20).await;
    for _ in 0..2 {
        let mut holder = PgConnection::connect(&rig.database.url).await.unwrap();
        sqlx::raw_sql("BEGIN; LOCK TABLE log IN ACCESS EXCLUSIVE MODE").execute(&mut holder).await.unwrap();
        let expired = |scene: &Scene| {
            let _ = scene;
            rig.statistics().iter().all(|told| told.age.is_some_and(|age| age > Duration::from_millis(1_100)))
        };
        traffic.until("the leases run out", expired).await;
        // Whatever is still on its way was asked a moment ago.
        traffic.for_a_while(Duration::from_millis(200)).await;
        let (before, calls) = (tables(&rig.scene), rig.scene.counts.calls.load(Ordering::Relaxed));
        let asked = |scene: &Scene| scene.counts.calls.load(Ordering::Relaxed) >= calls + 20;
        traffic.until("the primary answers meanwhile", asked).await;
        assert_eq!(tables(&rig.scene), before, "memory answers without a lease");
        sqlx::query("ROLLBACK").execute(&mut holder).await.unwrap();
        traffic.until("memory answers again", |scene| tables(scene) > before).await;
        traffic.served(20).await;
    }
    traffic.end().await;
    rig.assert_equal_to_tables().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_stopped_beyond_its_lease_and_goes_on() {
    let usual = ReplicaSettings::default();
    let server = Server::with_replica_over(Database::new().await, usual.clone()).await;
    let process = Process::start(&server, "").await;
    let door = |clients| Pipeline { clients, staleness: usual.max_staleness, stale: None };
    let doors = vec![door(server.operator()), door(process.clients.clone())];
    let scene = Scene::new(doors, 12, random::bits()).await;
    // A process that stands still may hold locks: who waits for them is told so when the time is up.
    scene.tolerant.store(true, Ordering::Relaxed);
    let mut here = server.operator();
    let request = pb::CreateOrganizationRequest { owner_user_id: oracle::user(0), ..organization("Apart") };
    let made = here.organizations.create_organization(request).await.unwrap().into_inner();
    let organization = made.organization.unwrap().id;
    for round in 0..3 {
        let mut traffic = Traffic::begin(&scene, WRITERS, CHECKERS);
        traffic.served(20).await;
        let user = format!("revoked-{round}");
        here.organizations.add_member(add(&organization, &user, "member")).await.unwrap();
        until("both know of it", async || process.clients.clone().is_member(&organization, &user).await).await;
        let before = process.metric("index_memory_answers").await;
        process.signal(Signal::SIGSTOP);
        here.organizations.remove_member(remove(&organization, &user)).await.unwrap();
        traffic.for_a_while(usual.max_staleness + Duration::from_millis(50)).await;
        // It cannot catch up before it answers: its looks at the log are held up.
        let mut holder = PgConnection::connect(&server.database.url).await.unwrap();
        sqlx::raw_sql("BEGIN; LOCK TABLE user_log IN ACCESS EXCLUSIVE MODE").execute(&mut holder).await.unwrap();
        // Asked while it stands still: the questions wait for it, and are the first that it sees.
        let questions: Vec<_> = (0..20)
            .map(|_| {
                let (mut checks, question) = (process.clients.checks.clone(), is_member(&organization, &user));
                tokio::spawn(async move { checks.check_membership(question).await.unwrap().into_inner() })
            })
            .collect();
        traffic.for_a_while(Duration::from_millis(100)).await;
        process.signal(Signal::SIGCONT);
        for question in questions {
            let told = question.await.unwrap().result.unwrap();
            assert!(!told.allowed && told.reason() == pb::CheckReason::NotAMember, "{told:?}");
        }
        sqlx::query("ROLLBACK").execute(&mut holder).await.unwrap();
        traffic.served(20).await;
        traffic.end().await;
        until("memory answers again", async || {
            process.clients.clone().is_member(&organization, &user).await;
            process.metric("index_memory_answers").await > before + 1.0
        })
        .await;
    }
    assert!(process.metric("index_lost_writes").await < 1.0 && process.metric("index_gaps").await < 1.0);
    super::tables::assert_equal(&server.database, server.roster.replica()).await;
    server.database.assert_invariants().await;
}

/// Who has repeated an answer for another server is not answered from before it either, however late the log is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_acknowledged_by_who_repeats_it() {
    let rig = Rig::pair(Database::new().await).await;
    let [place, other] = [0, 1].map(|place| &rig.scene.oracle.places[place].id);
    let [mut here, mut there] = [0, 1].map(|server: usize| rig.servers[server].operator());
    for round in 0..20 {
        let user = format!("revoked-{round}");
        here.add(place, &user, "member").await;
        rig.caught_up().await;
        let mut holder = PgConnection::connect(&rig.database.url).await.unwrap();
        sqlx::raw_sql("BEGIN; LOCK TABLE user_log IN ACCESS EXCLUSIVE MODE").execute(&mut holder).await.unwrap();
        let request_id = random::uuid().to_string();
        let request = pb::RemoveMemberRequest { request_id, ..remove(place, &user) };
        let first = here.organizations.remove_member(request.clone()).await.unwrap().into_inner();
        assert_eq!(there.organizations.remove_member(request).await.unwrap().into_inner(), first);
        assert!(!there.is_member(place, &user).await, "{user}");
        let others = there.checks.check_membership(is_member(other, &user)).await.unwrap().into_inner();
        sqlx::query("ROLLBACK").execute(&mut holder).await.unwrap();
        // Only now it is certain that memory would have answered, and not because it had caught up.
        if others.result.unwrap().source() == pb::CheckSource::Memory {
            return;
        }
    }
    panic!("memory never answered: this tests nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_goes_away_and_comes_back() {
    let (mut cluster, database) = cluster().await;
    let rig = Rig::pair(database).await;
    rig.scene.tolerant.store(true, Ordering::Relaxed);
    let mut traffic = Traffic::begin(&rig.scene, WRITERS, CHECKERS);
    traffic.served(20).await;
    for how in [Stop::Fast, Stop::Immediate, Stop::Fast] {
        let failed = rig.scene.counts.failed.load(Ordering::Relaxed);
        cluster.stop(how).await;
        let fails = |scene: &Scene| scene.counts.failed.load(Ordering::Relaxed) > failed + 20;
        traffic.until("calls fail", fails).await;
        let before = tables(&rig.scene);
        cluster.start_again().await.unwrap();
        traffic.until("memory answers again", |scene| tables(scene) > before).await;
        traffic.served(20).await;
    }
    traffic.end().await;
    for told in rig.statistics() {
        assert!(told.failed_polls > 0 && told.lost == 0 && told.gaps == 0, "{told:?}");
    }
    rig.assert_equal_to_tables().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_memory_the_primary_answers() {
    let none = ReplicaSettings { memory_bytes: 0, ..ReplicaSettings::default() };
    let rig = Rig::new(Database::new().await, &[none.clone(), none], 12, random::bits()).await;
    let mut traffic = Traffic::begin(&rig.scene, WRITERS, CHECKERS);
    traffic.served(30).await;
    traffic.end().await;
    for told in rig.statistics() {
        assert!(told.buckets == 0 && told.memory_answers == 0 && told.primary_answers > 0, "{told:?}");
    }
    assert_eq!(tables(&rig.scene), 0);
    rig.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_answers_say_so_and_have_an_end() {
    let cap = Duration::from_secs(4);
    let (mut cluster, database) = cluster().await;
    let stale = ReplicaSettings { serve_stale: Some(cap), ..ReplicaSettings::default() };
    let rig = Rig::new(database, &[stale, ReplicaSettings::default()], 12, random::bits()).await;
    let scene = &rig.scene;
    let mut traffic = Traffic::begin(scene, WRITERS, CHECKERS);
    traffic.served(20).await;
    traffic.end().await;
    rig.caught_up().await;
    scene.tolerant.store(true, Ordering::Relaxed);
    let mut dice = Dice::new(scene.seed, 0);
    let token = scene.forget_tokens().pop().unwrap();
    let questions: Vec<_> =
        (0..12).map(|place| Question { place, slug: None, user: OWNERS, change: What::Member }).collect();
    cluster.stop(Stop::Immediate).await;
    let stopped = Instant::now();
    let mut answered = Duration::ZERO;
    // One question and many, in turn, until there is no answer any more.
    for number in 0.. {
        let some = if number % 2 == 0 { &questions[..1] } else { &questions[..] };
        if !scene.ask(0, Mode::Recent, some, &mut dice).await {
            break;
        }
        answered = stopped.elapsed();
        if scene.counts.stale.load(Ordering::Relaxed) > 0 {
            // Who asks for more, or a server that may not, gets nothing else.
            assert!(!scene.ask(0, Mode::AtLeast(token.clone()), some, &mut dice).await);
            assert!(!scene.ask(0, Mode::Full, some, &mut dice).await);
            assert!(!scene.ask(1, Mode::Recent, some, &mut dice).await);
        }
    }
    assert!(scene.counts.stale.load(Ordering::Relaxed) > 12, "{:?}", scene.counts);
    // The lease is not older than the last poll, and that is not much older than the stop.
    assert!(answered > cap / 2 && answered < cap + Duration::from_secs(1), "{answered:?}");
    assert!(rig.statistics()[0].stale_answers > 12 && rig.statistics()[1].stale_answers == 0);
    cluster.start_again().await.unwrap();
    let mut traffic = Traffic::begin(scene, WRITERS, CHECKERS);
    let before = tables(scene);
    traffic.until("memory answers again", |scene| tables(scene) > before).await;
    traffic.served(20).await;
    traffic.end().await;
    rig.assert_equal_to_tables().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_lacks_what_was_acknowledged_and_not_yet_followed() {
    const EPOCH: &str = "SELECT epoch::bigint FROM datastore";
    let rig = Rig::pair(Database::new().await).await;
    let epoch = rig.database.count(EPOCH).await;
    // As when the primary is lost in the very moment between an acknowledgement and the next look at the log.
    let member = is_member(&rig.scene.oracle.places[0].id, &oracle::user(OWNERS));
    let told = rig.servers[0].operator().checks.check_membership(member).await.unwrap().into_inner();
    let mut token = ConsistencyToken::decode(&told.result.unwrap().consistency_token).unwrap();
    let ahead: Vec<_> = token.positions().filter(|at| at.bucket < 256).collect();
    for at in ahead {
        token.cover(BucketPosition { position: at.position + 1, ..at });
    }
    rig.servers[0].roster.replica().committed(&token);
    until("it is noticed", async || rig.statistics()[0].lost == 1).await;
    let heard = || rig.servers[1].roster.replica().datastore_now().map(|now| i64::from(now.epoch));
    until("the other one hears of it", async || heard() == Some(epoch + 1)).await;
    assert_eq!(rig.database.count(EPOCH).await, epoch + 1);
    rig.assert_equal_to_tables().await;
    assert_eq!(rig.statistics().iter().map(|told| told.lost).collect::<Vec<_>>(), [1, 0]);
}
