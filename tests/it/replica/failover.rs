//! A standby takes over that lacks the last commits.

use super::faults::cluster;
use super::oracle::Mode;
use super::traffic::{Dice, Scene, Traffic};
use super::{Rig, until};
use crate::harness::{Database, Server};
use roster::postgres::{Binaries, Cluster, Options, Stop};
use roster::service::ReplicaSettings;
use sqlx::{Connection, PgConnection};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A place where whoever is the primary can be found.
struct Address(PathBuf);

impl Address {
    fn new(of: &Cluster) -> Self {
        let address = Self(std::env::temp_dir().join(format!("roster-at-{}", roster::random::uuid().simple())));
        address.lead_to(of.data());
        address
    }

    fn lead_to(&self, socket_directory: &Path) {
        let _ = std::fs::remove_file(&self.0);
        std::os::unix::fs::symlink(socket_directory, &self.0).unwrap();
    }

    fn url(&self, of: &Cluster) -> String {
        let encoded = |path: &Path| path.to_str().unwrap().replace('/', "%2F");
        let (url, there) = (of.url("roster"), encoded(of.data()));
        assert!(url.contains(&there), "{url} does not lead to {there}");
        url.replace(&there, &encoded(&self.0))
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A copy of a primary's data that will run as a standby. The primary is stopped for it.
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
    let copied = Command::new("cp").arg("-a").arg(from).arg(standby.data()).status().unwrap();
    assert!(copied.success());
    std::fs::write(standby.data().join("standby.signal"), "").unwrap();
    primary.start_again().await.unwrap();
    standby
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_promoted_that_lacks_the_last_commits() {
    let (mut primary, _) = cluster().await;
    let address = Address::new(&primary);
    let rig = Rig::pair(Database::at(address.url(&primary))).await;
    let scene = &rig.scene;
    scene.tolerant.store(true, Ordering::Relaxed);
    let epoch = rig.database.count("SELECT epoch::bigint FROM datastore").await;
    let mut traffic = Traffic::begin(scene, 3, 3);
    traffic.served(20).await;
    traffic.end().await;

    let mut standby = standby(&mut primary).await;
    let kept = scene.oracle.mark();
    let mut traffic = Traffic::begin(scene, 3, 3);
    traffic.served(60).await;
    traffic.end().await;
    // All of that is in both memories, and lost.
    rig.caught_up().await;
    let tokens = scene.forget_tokens();
    primary.stop(Stop::Immediate).await;
    scene.oracle.lose(&kept);
    address.lead_to(standby.data());
    let url = standby.url("roster");
    let starting = tokio::spawn(async move {
        standby.start_again().await.unwrap();
        standby
    });
    until("the standby takes readers", async || PgConnection::connect(&url).await.is_ok()).await;
    let mut there = PgConnection::connect(&url).await.unwrap();
    let recovering: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut there).await.unwrap();
    assert!(recovering);
    // What is answered within the staleness bound may still be from before.
    let expired = Duration::from_millis(1_050);
    until("the leases run out", async || {
        rig.statistics().iter().all(|told| told.lost > 0 || told.age.is_none_or(|age| age > expired))
    })
    .await;

    // From here on every answer is of the log that is there now: first while it takes no writes, then when it does.
    let mut traffic = Traffic::begin(scene, 3, 3);
    let primary_answers = |scene: &Scene| scene.counts.primary.load(Ordering::Relaxed);
    let before = primary_answers(scene);
    traffic.until("the standby answers checks", |scene| primary_answers(scene) > before + 20).await;
    assert!(sqlx::query_scalar::<_, bool>("SELECT pg_promote()").fetch_one(&mut there).await.unwrap());
    let tables = scene.counts.tables.load(Ordering::Relaxed);
    traffic.until("memory answers again", |scene| scene.counts.tables.load(Ordering::Relaxed) > tables).await;
    traffic.served(40).await;
    traffic.end().await;
    let _standby = starting.await.unwrap();
    for told in rig.statistics() {
        assert_eq!(told.lost, 1, "{told:?}");
    }
    let now = rig.database.count("SELECT epoch::bigint FROM datastore").await;
    assert!(now > epoch && now <= epoch + 2, "from epoch {epoch} to {now}");
    rig.assert_equal_to_tables().await;

    // What was lost is known to nobody any more: who brings a token of it is answered by the primary.
    let mut dice = Dice::new(scene.seed, 0);
    assert!(!tokens.is_empty());
    for token in tokens {
        let place = dice.roll(scene.oracle.places.len());
        let question = scene.question(&mut dice, place, false);
        assert!(scene.ask(dice.roll(2), Mode::Before(token.text), &[question], &mut dice).await);
    }
}

/// A follower that comes back when the new log is already longer than the one it knows: only what stands in it tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_has_overtaken_the_lost_one_is_told_from_it() {
    let (mut primary, _) = cluster().await;
    let address = Address::new(&primary);
    let rig = Rig::pair(Database::at(address.url(&primary))).await;
    let place = &rig.scene.oracle.places[0].id;
    let mut standby = standby(&mut primary).await;
    rig.servers[0].until_serving().await;
    until("writes are taken again", async || {
        let adding = crate::harness::add(place, "lost", "member");
        rig.servers[0].operator().organizations.add_member(adding).await.is_ok()
    })
    .await;
    rig.caught_up().await;
    assert!(rig.servers[1].operator().is_member(place, "lost").await);
    primary.stop(Stop::Immediate).await;
    std::fs::remove_file(&address.0).unwrap();

    std::fs::remove_file(standby.data().join("standby.signal")).unwrap();
    standby.start_again().await.unwrap();
    let there = Database::at(standby.url("roster"));
    let other = Server::with_replica_over(there, ReplicaSettings::default()).await;
    for user in ["kept-1", "kept-2", "kept-3"] {
        other.operator().add(place, user, "member").await;
    }
    address.lead_to(standby.data());
    until("the loss is noticed", async || rig.statistics().iter().all(|told| told.lost == 1)).await;
    rig.assert_equal_to_tables().await;
    for server in &rig.servers {
        assert!(!server.operator().is_member(place, "lost").await);
        assert!(server.operator().is_member(place, "kept-3").await);
    }
    assert_eq!(other.roster.replica().statistics().lost, 0);
}
