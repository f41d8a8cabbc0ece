//! Faults under concurrent writes and checks: every answer fulfils the contract, no server has to be restarted, and the
//! counters show the fault.

use super::endpoint::Endpoint;
use super::oracle::{self, Criterion, Mode, OWNERS, Question};
use super::process::Process;
use super::traffic::{SeededRandom, Traffic, Workload};
use super::{Rig, until};
use crate::harness::{Database, Server, add, is_member, organization, remove};
use nix::sys::signal::Signal;
use roster::domain::BucketPosition;
use roster::grpc::pb;
use roster::postgres::{Binaries, Cluster, Options, Stop};
use roster::random;
use roster::replica::consistency_token::ConsistencyToken;
use roster::service::ReplicaSettings;
use roster::store::datastore_url::DatastoreUrl;
use roster::store::log::tail;
use roster::store::migrations;
use sqlx::postgres::PgListener;
use sqlx::{Connection, PgConnection};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const WRITERS: usize = 3;
const CHECKERS: usize = 3;

/// A separate Postgres cluster with the schema.
pub async fn cluster() -> (Cluster, Database) {
    let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
    let cluster = Cluster::start(&binaries, Options::temporary()).await.unwrap_or_else(|error| panic!("{error}"));
    cluster.create_database("roster").await.unwrap();
    let url = cluster.url("roster");
    migrations::migrate(&DatastoreUrl::parse(&url).unwrap()).await.unwrap();
    (cluster, Database::at(url))
}

fn memory_answers(workload: &Workload) -> u64 {
    workload.counts.memory.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_listeners_reconnect() {
    const KILL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'LISTEN %'";
    let rig = Rig::pair(Database::new().await).await;
    let mut traffic = Traffic::begin(&rig.workload, WRITERS, CHECKERS);
    let mut killed = 0;
    while killed < 10 {
        killed += rig.database.count(KILL).await;
        traffic.run_for(Duration::from_millis(100)).await;
    }
    traffic.until_served(20).await;
    traffic.end().await;
    for statistics in rig.statistics() {
        assert!(statistics.listens >= 3 && statistics.failed_polls == 0 && statistics.gaps == 0, "{statistics:?}");
    }
    rig.assert_equal_to_tables().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replica_stays_fresh_without_notifications() {
    let database = Database::new().await;
    // Shadows the function that the servers call with one that does nothing.
    let shadow = "CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS '';
        DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$";
    sqlx::raw_sql(shadow).execute(&database.pool).await.unwrap();
    let mut listener = PgListener::connect(&database.url).await.unwrap();
    listener.listen(tail::CHANNEL).await.unwrap();
    let rig = Rig::pair(database).await;
    let mut traffic = Traffic::begin(&rig.workload, WRITERS, CHECKERS);
    traffic.run_for(Duration::from_secs(2)).await;
    traffic.until_served(20).await;
    traffic.end().await;
    // The listener's connection works, and there was no notification.
    let notification = tokio::time::timeout(Duration::from_millis(100), listener.recv()).await;
    assert!(notification.is_err(), "unexpected notification: {notification:?}");
    assert!(memory_answers(&rig.workload) > 0);
    rig.assert_equal_to_tables().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_answers_while_polls_are_blocked() {
    let rig = Rig::pair(Database::new().await).await;
    let mut traffic = Traffic::begin(&rig.workload, WRITERS, CHECKERS);
    traffic.until_served(20).await;
    for _ in 0..2 {
        let mut blocker = PgConnection::connect(&rig.database.url).await.unwrap();
        // The primary needs the log to compare consistency tokens, so the polls are blocked by another table.
        sqlx::raw_sql("BEGIN; LOCK TABLE datastore IN ACCESS EXCLUSIVE MODE").execute(&mut blocker).await.unwrap();
        let expired = |workload: &Workload| {
            let _ = workload;
            rig.statistics()
                .iter()
                .all(|statistics| statistics.age.is_some_and(|age| age > Duration::from_millis(1_100)))
        };
        traffic.until("the leases run out", expired).await;
        // Calls that were sent before the leases ran out have been answered after this time.
        traffic.run_for(Duration::from_millis(200)).await;
        let (before, calls) = (memory_answers(&rig.workload), rig.workload.counts.calls.load(Ordering::Relaxed));
        let answered = |workload: &Workload| workload.counts.calls.load(Ordering::Relaxed) >= calls + 20;
        traffic.until("the primary answers", answered).await;
        assert_eq!(memory_answers(&rig.workload), before, "memory answers without a lease");
        sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
        traffic.until("memory answers again", |workload| memory_answers(workload) > before).await;
        traffic.until_served(20).await;
    }
    traffic.end().await;
    rig.assert_equal_to_tables().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_suspended_past_its_lease_does_not_answer_from_memory() {
    let settings = ReplicaSettings::default();
    let server = Server::with_replica_over(Database::new().await, settings.clone()).await;
    let process = Process::start(&server, "").await;
    let endpoint = |clients| Endpoint { clients, staleness: settings.max_staleness, stale: None, deadline: None };
    let endpoints = vec![endpoint(server.operator()), endpoint(process.clients.clone())];
    let workload = Workload::new(endpoints, 12, random::bits()).await;
    // A suspended process may hold locks, so writes that wait for them may time out.
    workload.tolerates_failures.store(true, Ordering::Relaxed);
    let mut operator = server.operator();
    let request = pb::CreateOrganizationRequest { owner_user_id: oracle::user(0), ..organization("Separate") };
    let response = operator.organizations.create_organization(request).await.unwrap().into_inner();
    let organization = response.organization.unwrap().id;
    for round in 0..3 {
        let mut traffic = Traffic::begin(&workload, WRITERS, CHECKERS);
        traffic.until_served(20).await;
        let user = format!("revoked-{round}");
        operator.organizations.add_member(add(&organization, &user, "member")).await.unwrap();
        until("both servers have the membership", async || {
            process.clients.clone().is_member(&organization, &user).await
        })
        .await;
        let before = process.metric("replica_memory_answers").await;
        process.signal(Signal::SIGSTOP);
        operator.organizations.remove_member(remove(&organization, &user)).await.unwrap();
        traffic.run_for(settings.max_staleness + Duration::from_millis(50)).await;
        // The process cannot catch up before it answers: its polls are blocked.
        let mut blocker = PgConnection::connect(&server.database.url).await.unwrap();
        sqlx::raw_sql("BEGIN; LOCK TABLE user_log IN ACCESS EXCLUSIVE MODE").execute(&mut blocker).await.unwrap();
        // Sent while the process is suspended, so they are the first calls that it reads afterwards.
        let questions: Vec<_> = (0..20)
            .map(|_| {
                let (mut checks, question) = (process.clients.checks.clone(), is_member(&organization, &user));
                tokio::spawn(async move { checks.check_membership(question).await.unwrap().into_inner() })
            })
            .collect();
        traffic.run_for(Duration::from_millis(100)).await;
        process.signal(Signal::SIGCONT);
        for question in questions {
            let result = question.await.unwrap().result.unwrap();
            assert!(!result.allowed && result.reason() == pb::CheckReason::NotAMember, "{result:?}");
        }
        sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
        traffic.until_served(20).await;
        traffic.end().await;
        until("memory answers again", async || {
            process.clients.clone().is_member(&organization, &user).await;
            process.metric("replica_memory_answers").await > before + 1.0
        })
        .await;
    }
    assert!(process.metric("replica_lost_writes").await < 1.0 && process.metric("replica_gaps").await < 1.0);
    super::tables::assert_equal(&server.database, server.roster.replica()).await;
    server.database.assert_invariants().await;
}

/// A server that returns the recorded response of a repeated request does not answer from a state before that write
/// either, even if its polls are blocked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_counts_as_an_own_write_of_the_second_server() {
    let rig = Rig::pair(Database::new().await).await;
    let [organization, other] = [0, 1].map(|index| &rig.workload.oracle.organizations[index].id);
    let [mut first, mut second] = [0, 1].map(|server: usize| rig.servers[server].operator());
    for round in 0..20 {
        let user = format!("revoked-{round}");
        first.add(organization, &user, "member").await;
        rig.caught_up().await;
        let mut blocker = PgConnection::connect(&rig.database.url).await.unwrap();
        sqlx::raw_sql("BEGIN; LOCK TABLE user_log IN ACCESS EXCLUSIVE MODE").execute(&mut blocker).await.unwrap();
        let request_id = random::uuid().to_string();
        let request = pb::RemoveMemberRequest { request_id, ..remove(organization, &user) };
        let response = first.organizations.remove_member(request.clone()).await.unwrap().into_inner();
        assert_eq!(second.organizations.remove_member(request).await.unwrap().into_inner(), response);
        assert!(!second.is_member(organization, &user).await, "{user}");
        let control = second.checks.check_membership(is_member(other, &user)).await.unwrap().into_inner();
        sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
        // An answer from memory about another organization proves that memory still answered without having caught up.
        if control.result.unwrap().source() == pb::CheckSource::Memory {
            return;
        }
    }
    panic!("memory never answered, so the test proves nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_recover_from_restarts_of_postgres() {
    let (mut cluster, database) = cluster().await;
    let rig = Rig::pair(database).await;
    rig.workload.tolerates_failures.store(true, Ordering::Relaxed);
    let mut traffic = Traffic::begin(&rig.workload, WRITERS, CHECKERS);
    traffic.until_served(20).await;
    for mode in [Stop::Fast, Stop::Immediate, Stop::Fast] {
        let failed = rig.workload.counts.failed.load(Ordering::Relaxed);
        cluster.stop(mode).await;
        let fails = |workload: &Workload| workload.counts.failed.load(Ordering::Relaxed) > failed + 20;
        traffic.until("calls fail", fails).await;
        let before = memory_answers(&rig.workload);
        cluster.start_again().await.unwrap();
        traffic.until("memory answers again", |workload| memory_answers(workload) > before).await;
        traffic.until_served(20).await;
    }
    traffic.end().await;
    for statistics in rig.statistics() {
        assert!(statistics.failed_polls > 0 && statistics.lost == 0 && statistics.gaps == 0, "{statistics:?}");
    }
    rig.assert_equal_to_tables().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_answers_everything_without_a_replica() {
    let settings = ReplicaSettings { memory_bytes: 0, ..ReplicaSettings::default() };
    let rig = Rig::new(Database::new().await, &[settings.clone(), settings], 12, random::bits()).await;
    let mut traffic = Traffic::begin(&rig.workload, WRITERS, CHECKERS);
    traffic.until_served(30).await;
    traffic.end().await;
    for statistics in rig.statistics() {
        assert!(
            statistics.buckets == 0 && statistics.memory_answers == 0 && statistics.primary_answers > 0,
            "{statistics:?}"
        );
    }
    assert_eq!(memory_answers(&rig.workload), 0);
    rig.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_answers_are_marked_and_bounded() {
    let serve_stale = Duration::from_secs(4);
    let (mut cluster, database) = cluster().await;
    let stale = ReplicaSettings { serve_stale: Some(serve_stale), ..ReplicaSettings::default() };
    let rig = Rig::new(database, &[stale, ReplicaSettings::default()], 12, random::bits()).await;
    let workload = &rig.workload;
    let mut traffic = Traffic::begin(workload, WRITERS, CHECKERS);
    traffic.until_served(20).await;
    traffic.end().await;
    rig.caught_up().await;
    workload.tolerates_failures.store(true, Ordering::Relaxed);
    let mut random = SeededRandom::new(workload.seed, 0);
    let token = workload.take_tokens().pop().unwrap();
    let questions: Vec<_> = (0..12)
        .map(|organization| Question { organization, slug: None, user: OWNERS, criterion: Criterion::Member })
        .collect();
    cluster.stop(Stop::Immediate).await;
    let stopped = Instant::now();
    let mut last_answer = Duration::ZERO;
    // Alternates single checks and batches until there is no answer.
    for number in 0.. {
        let batch = if number % 2 == 0 { &questions[..1] } else { &questions[..] };
        if !workload.check(0, Mode::Recent, batch, &mut random).await {
            break;
        }
        last_answer = stopped.elapsed();
        if workload.counts.stale.load(Ordering::Relaxed) > 0 {
            // A check with a consistency requirement, and a server without serve_stale, get no stale answer.
            assert!(!workload.check(0, Mode::AtLeast(token.clone()), batch, &mut random).await);
            assert!(!workload.check(0, Mode::Full, batch, &mut random).await);
            assert!(!workload.check(1, Mode::Recent, batch, &mut random).await);
        }
    }
    assert!(workload.counts.stale.load(Ordering::Relaxed) > 12, "{:?}", workload.counts);
    // The last lease began at the last successful poll, shortly before Postgres stopped.
    assert!(last_answer > serve_stale / 2 && last_answer < serve_stale + Duration::from_secs(1), "{last_answer:?}");
    assert!(rig.statistics()[0].stale_answers > 12 && rig.statistics()[1].stale_answers == 0);
    cluster.start_again().await.unwrap();
    let mut traffic = Traffic::begin(workload, WRITERS, CHECKERS);
    let before = memory_answers(workload);
    traffic.until("memory answers again", |workload| memory_answers(workload) > before).await;
    traffic.until_served(20).await;
    traffic.end().await;
    rig.assert_equal_to_tables().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_acknowledged_write_begins_a_new_epoch() {
    const EPOCH: &str = "SELECT epoch::bigint FROM datastore";
    let rig = Rig::pair(Database::new().await).await;
    let epoch = rig.database.count(EPOCH).await;
    // As if the primary were lost between an acknowledgement and the next poll.
    let member = is_member(&rig.workload.oracle.organizations[0].id, &oracle::user(OWNERS));
    let response = rig.servers[0].operator().checks.check_membership(member).await.unwrap().into_inner();
    let mut token = ConsistencyToken::decode(&response.result.unwrap().consistency_token).unwrap();
    let ahead: Vec<_> = token.positions().filter(|at| at.bucket < 256).collect();
    for at in ahead {
        token.cover(BucketPosition { position: at.position + 1, ..at });
    }
    rig.servers[0].roster.replica().record_commit(&token);
    until("the first server notices the loss", async || rig.statistics()[0].lost == 1).await;
    let other_epoch = || rig.servers[1].roster.replica().datastore_now().map(|now| i64::from(now.epoch));
    until("the second server adopts the new epoch", async || other_epoch() == Some(epoch + 1)).await;
    assert_eq!(rig.database.count(EPOCH).await, epoch + 1);
    rig.assert_equal_to_tables().await;
    assert_eq!(rig.statistics().iter().map(|statistics| statistics.lost).collect::<Vec<_>>(), [1, 0]);
}
