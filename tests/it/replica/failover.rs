//! Failover to a standby that lacks the last commits.

use super::faults::cluster;
use super::oracle::Mode;
use super::traffic::{SeededRandom, Traffic, Workload};
use super::{Rig, until};
use crate::harness::{Database, Server, add, assert_refused, is_member};
use crate::roles::apply;
use roster::grpc::pb;
use roster::postgres::{Binaries, Cluster, Options, Stop};
use roster::service::ReplicaSettings;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::Code;

/// The address of the current primary: a link to its socket directory.
struct Address(PathBuf);

impl Address {
    fn new(cluster: &Cluster) -> Self {
        let address = Self(std::env::temp_dir().join(format!("roster-at-{}", roster::random::uuid().simple())));
        address.redirect(cluster.data());
        address
    }

    fn redirect(&self, socket_directory: &Path) {
        let _ = std::fs::remove_file(&self.0);
        std::os::unix::fs::symlink(socket_directory, &self.0).unwrap();
    }

    fn url(&self, cluster: &Cluster) -> String {
        let encoded = |path: &Path| path.to_str().unwrap().replace('/', "%2F");
        let (url, directory) = (cluster.url("roster"), encoded(cluster.data()));
        assert!(url.contains(&directory), "{url} does not contain {directory}");
        url.replace(&directory, &encoded(&self.0))
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A standby with a copy of the primary's data, not started yet. Restarts the primary.
async fn standby(primary: &mut Cluster) -> Cluster {
    let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
    let mut standby = Cluster::start(&binaries, Options::temporary()).await.unwrap();
    standby.stop(Stop::Immediate).await;
    primary.stop(Stop::Fast).await;
    for entry in std::fs::read_dir(standby.data()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
    let from = primary.data().join(".");
    let status = Command::new("cp").arg("-a").arg(from).arg(standby.data()).status().unwrap();
    assert!(status.success());
    std::fs::write(standby.data().join("standby.signal"), "").unwrap();
    primary.start_again().await.unwrap();
    standby
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_fulfil_the_contract_after_a_failover_that_loses_commits() {
    let (mut primary, _) = cluster().await;
    let address = Address::new(&primary);
    let rig = Rig::pair(Database::at(address.url(&primary))).await;
    let workload = &rig.workload;
    workload.tolerates_failures.store(true, Ordering::Relaxed);
    let epoch = rig.database.count("SELECT epoch::bigint FROM datastore").await;
    let mut traffic = Traffic::begin(workload, 3, 3);
    traffic.until_served(20).await;
    traffic.end().await;

    let mut standby = standby(&mut primary).await;
    let mark = workload.oracle.mark();
    let mut traffic = Traffic::begin(workload, 3, 3);
    traffic.until_served(60).await;
    traffic.end().await;
    // Both replicas have applied these writes, which are lost now.
    rig.caught_up().await;
    let tokens = workload.take_tokens();
    primary.stop(Stop::Immediate).await;
    workload.oracle.discard_after(&mark);
    address.redirect(standby.data());
    let url = standby.url("roster");
    let start = tokio::spawn(async move {
        standby.start_again().await.unwrap();
        standby
    });
    until("the standby accepts connections", async || PgConnection::connect(&url).await.is_ok()).await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let recovering: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut connection).await.unwrap();
    assert!(recovering);
    // Answers within the maximum staleness may still reflect the lost writes.
    let expired = Duration::from_millis(1_050);
    until("the leases run out", async || {
        rig.statistics().iter().all(|statistics| statistics.lost > 0 || statistics.age.is_none_or(|age| age > expired))
    })
    .await;

    // The standby answers nothing. After its promotion, every answer reflects its log.
    let mut traffic = Traffic::begin(workload, 3, 3);
    let counts = |workload: &Workload| {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&workload.counts.failed), read(&workload.counts.checks))
    };
    let (failed, answered) = counts(workload);
    traffic.until("the standby refuses checks", |workload| counts(workload).0 > failed + 20).await;
    assert_eq!(counts(workload).1, answered, "a standby answered");
    assert!(sqlx::query_scalar::<_, bool>("SELECT pg_promote()").fetch_one(&mut connection).await.unwrap());
    let memory = workload.counts.memory.load(Ordering::Relaxed);
    traffic.until("memory answers again", |workload| workload.counts.memory.load(Ordering::Relaxed) > memory).await;
    traffic.until_served(40).await;
    traffic.end().await;
    let _standby = start.await.unwrap();
    for statistics in rig.statistics() {
        assert_eq!(statistics.lost, 1, "{statistics:?}");
    }
    let now = rig.database.count("SELECT epoch::bigint FROM datastore").await;
    assert!(now > epoch && now <= epoch + 2, "from epoch {epoch} to {now}");
    rig.assert_equal_to_tables().await;

    // Tokens of the lost epoch are not accepted by the replica: the primary answers.
    let mut random = SeededRandom::new(workload.seed, 0);
    assert!(!tokens.is_empty());
    for token in tokens {
        let organization = random.below(workload.oracle.organizations.len());
        let question = workload.question(&mut random, organization, false);
        assert!(workload.check(random.below(2), Mode::LostEpoch(token.text), &[question], &mut random).await);
    }
}

/// A follower that reconnects when the new log is already longer than its own: only the content of the log reveals the
/// loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_log_that_is_longer_than_the_lost_one_is_recognized() {
    let (mut primary, _) = cluster().await;
    let address = Address::new(&primary);
    let rig = Rig::pair(Database::at(address.url(&primary))).await;
    let organization = &rig.workload.oracle.organizations[0].id;
    let mut standby = standby(&mut primary).await;
    rig.servers[0].until_serving().await;
    until("the primary accepts writes", async || {
        let request = crate::harness::add(organization, "lost", "member");
        rig.servers[0].operator().organizations.add_member(request).await.is_ok()
    })
    .await;
    rig.caught_up().await;
    assert!(rig.servers[1].operator().is_member(organization, "lost").await);
    primary.stop(Stop::Immediate).await;
    std::fs::remove_file(&address.0).unwrap();

    std::fs::remove_file(standby.data().join("standby.signal")).unwrap();
    standby.start_again().await.unwrap();
    let database = Database::at(standby.url("roster"));
    let other = Server::with_replica_over(database, ReplicaSettings::default()).await;
    for user in ["kept-1", "kept-2", "kept-3"] {
        other.operator().add(organization, user, "member").await;
    }
    address.redirect(standby.data());
    until("both servers notice the loss", async || rig.statistics().iter().all(|statistics| statistics.lost == 1))
        .await;
    rig.assert_equal_to_tables().await;
    for server in &rig.servers {
        assert!(!server.operator().is_member(organization, "lost").await);
        assert!(server.operator().is_member(organization, "kept-3").await);
    }
    assert_eq!(other.roster.replica().statistics().lost, 0);
}

/// An access model is lost, and another one has its revision since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_access_model_is_forgotten() {
    let (mut primary, _) = cluster().await;
    let address = Address::new(&primary);
    let rig = Rig::pair(Database::at(address.url(&primary))).await;
    let organization = &rig.workload.oracle.organizations[0].id;
    let declaring = |word: &str| apply(json!({ "permissions": [{ "name": word }] }));
    let check = async |server: &Server, word: &str| {
        let question = pb::check_membership_request::Question::Permission(word.to_owned());
        let request = pb::CheckMembershipRequest { question: Some(question), ..is_member(organization, "nobody") };
        server.operator().checks.check_membership(request).await
    };
    let mut standby = standby(&mut primary).await;
    rig.servers[0].until_serving().await;
    until("the primary accepts writes", async || {
        rig.servers[0].operator().models.apply_access_model(declaring("billing.lost")).await.is_ok()
    })
    .await;
    rig.caught_up().await;
    assert!(check(&rig.servers[1], "billing.lost").await.is_ok());
    primary.stop(Stop::Immediate).await;
    std::fs::remove_file(&address.0).unwrap();

    std::fs::remove_file(standby.data().join("standby.signal")).unwrap();
    standby.start_again().await.unwrap();
    let other = Server::with_replica_over(Database::at(standby.url("roster")), ReplicaSettings::default()).await;
    other.operator().models.apply_access_model(declaring("billing.kept")).await.unwrap();
    address.redirect(standby.data());
    until("both servers notice the loss", async || rig.statistics().iter().all(|statistics| statistics.lost == 1))
        .await;
    rig.caught_up().await;
    for server in &rig.servers {
        assert!(check(server, "billing.kept").await.is_ok());
        let refused = check(server, "billing.lost").await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    }
}

/// The primary has lost the last access model, and this server has not noticed: its polls wait. Another model has the same
/// number since, or none has it.
#[tokio::test]
async fn a_write_is_not_decided_by_a_lost_access_model() {
    for revision in [2, 1] {
        let server = Server::start().await;
        let mut operator = server.operator();
        let acme = operator.create("Acme").await;
        for title in ["", "Accountant"] {
            let role = json!({ "name": "accountant", "title": title, "permissions": [] });
            operator.models.apply_access_model(apply(json!({ "roles": [role] }))).await.unwrap();
        }
        operator.add(&acme, "grace", "accountant").await;

        let mut polls_wait = PgConnection::connect(&server.database.url).await.unwrap();
        let lock = "BEGIN; LOCK TABLE user_log IN ACCESS EXCLUSIVE MODE";
        sqlx::raw_sql(lock).execute(&mut polls_wait).await.unwrap();
        // After the failover the role is one of another kind.
        let history = "DELETE FROM access_model_revisions WHERE revision > $1";
        sqlx::query(history).bind(revision).execute(&server.database.pool).await.unwrap();
        let model = "UPDATE access_model SET revision = $1, write_time = write_time + interval '1 second',
            model = '{\"roles\":[{\"name\":\"accountant\",\"kind\":\"team\",\"permissions\":[]}]}'";
        sqlx::query(model).bind(revision).execute(&server.database.pool).await.unwrap();
        let rest = "UPDATE access_model_revisions r SET model = m.model, create_time = m.write_time
                FROM access_model m WHERE m.revision = r.revision;
            UPDATE deployment_roles SET kind = 'team';
            UPDATE log_heads SET model_revision = m.revision, model_time = m.write_time FROM access_model m";
        sqlx::raw_sql(rest).execute(&server.database.pool).await.unwrap();

        let added = operator.organizations.add_member(add(&acme, "alan", "accountant")).await;
        assert_refused(added, Code::InvalidArgument, "INVALID_REQUEST");
        operator.add(&acme, "alan", "member").await;
    }
}
