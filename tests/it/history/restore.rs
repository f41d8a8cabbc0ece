//! A restored dump, a point-in-time restore, and a standby that was promoted without the last commits, each with servers
//! stopped and running.

use super::{FROM_MEMORY, FROM_PRIMARY, assert_behind, caught_up, check, export, watch};
use crate::harness::cluster::{TestCluster, run};
use crate::harness::proxy::Proxy;
use crate::harness::server::{Clients, write_jwks};
use crate::harness::standby::Standby;
use crate::harness::{Database, Server, assert_refused, reason, remove};
use crate::replica::until;
use roster::authn::mint::SigningKey;
use roster::client::{CacheSettings, Check, Client, ClientSettings, MembershipCache, TokenSource};
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use roster::store::datastore_url::DatastoreUrl;
use roster::store::migrations;
use roster::store::place::PlaceCheck;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tonic::{Code, Status};

/// How the last commits are lost.
#[derive(Clone, Copy)]
enum Loss {
    /// A dump is restored into another database.
    Dump,
    /// A physical copy replaces the cluster.
    PointInTime,
    /// A standby without the last commits is promoted.
    Promotion,
}

/// The state of the database before the commits that are lost.
enum Backup {
    /// The database `restored` in the same cluster.
    Dump,
    Copy(TestCluster),
    Standby(Standby),
}

/// A datastore behind a proxy, a server of it, and a membership cache behind a proxy in front of the server.
struct Site {
    cluster: TestCluster,
    datastore: Proxy,
    server: Server,
    front: Proxy,
    cache: MembershipCache,
    organization: String,
}

/// The token of the lost removal of `eve`, the token of the lost addition of `lost`, and a cursor behind both.
struct LostWrites {
    removal: String,
    addition: String,
    cursor: String,
}

impl Site {
    async fn start() -> Self {
        let cluster = TestCluster::with_schema().await;
        let datastore = Proxy::to(&cluster).await;
        let server = Server::over(Database::at(datastore.url()), ServerSettings::default()).await;
        let front = Proxy::to(server.address).await;
        let token = TokenSource::fixed(&server.service_token("backend", &[Scope::Check])).unwrap();
        let settings = ClientSettings::new(format!("http://{}", front.address)).unwrap().with_token(token);
        let cache = MembershipCache::start(&Client::lazy(settings), CacheSettings::default());
        let organization = server.user("ada").create("Acme").await;
        server.operator().add(&organization, "eve", "member").await;
        Self { cluster, datastore, server, front, cache, organization }
    }

    fn operator(&self) -> Clients {
        self.server.operator()
    }

    async fn check(&self, user: &str, token: &str) -> Result<super::Answer, Status> {
        check(&self.operator(), &self.organization, user, token).await
    }

    async fn backup(&self, loss: Loss) -> Backup {
        match loss {
            Loss::Dump => {
                let file = self.cluster.data().join("dump.sql");
                let (from, to) = (self.cluster.database_url(), self.cluster.url("restored"));
                self.cluster.create_database("restored").await.unwrap();
                run(self.cluster.program("pg_dump").arg("--file").arg(&file).args(["--dbname", &from])).await;
                let stop = ["--set", "ON_ERROR_STOP=1", "--quiet", "--dbname", &to];
                run(self.cluster.program("psql").args(stop).arg("--file").arg(&file)).await;
                Backup::Dump
            }
            Loss::PointInTime => Backup::Copy(self.cluster.base_backup(&[]).await),
            Loss::Promotion => {
                let standby = Standby::of(&self.cluster).await;
                standby.stop_receiving().await;
                Backup::Standby(standby)
            }
        }
    }

    /// Removes `eve` and adds `lost`. The server and the cache apply both.
    async fn write(&self) -> LostWrites {
        let mut operator = self.operator();
        let removal = operator.organizations.remove_member(remove(&self.organization, "eve")).await.unwrap();
        let removal = removal.into_inner().consistency_token;
        let addition = operator.add(&self.organization, "lost", "member").await;
        caught_up(&self.server).await;
        self.cache.caught_up().await;
        assert!(self.check("lost", &addition).await.unwrap().0);
        assert!(!self.check("eve", &removal).await.unwrap().0);
        assert!(self.cached("lost").await && !self.cached("eve").await);
        LostWrites { removal, addition, cursor: export(&operator).await }
    }

    /// Whether a user is a member, as the cache knows it.
    async fn cached(&self, user: &str) -> bool {
        self.cache.check(&Check::member(&self.organization, user).unwrap()).await.unwrap().is_allowed()
    }

    /// Makes the backup a primary. Returns the URL of the database.
    async fn recover(&mut self, backup: &Backup) -> String {
        match backup {
            Backup::Dump => self.cluster.url("restored"),
            Backup::Copy(copy) => copy.database_url(),
            Backup::Standby(standby) => {
                self.cluster.kill().await;
                standby.promote().await;
                standby.database_url()
            }
        }
    }

    /// Leads the URL of the servers to the backup.
    async fn switch(&mut self, backup: &Backup) {
        match backup {
            Backup::Dump => {
                self.datastore.close(true);
                let mut connection = PgConnection::connect(&self.cluster.url("postgres")).await.unwrap();
                for statement in [
                    "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
                     WHERE datname IN ('roster', 'restored')",
                    "ALTER DATABASE roster RENAME TO lost",
                    "ALTER DATABASE restored RENAME TO roster",
                ] {
                    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
                }
                self.datastore.close(false);
            }
            Backup::Copy(copy) => {
                self.cluster.kill().await;
                self.datastore.redirect(copy);
                self.datastore.cut();
            }
            Backup::Standby(standby) => {
                self.datastore.redirect(&**standby);
                self.datastore.cut();
            }
        }
    }

    /// Starts a new server in place of the stopped one, with the same signing key.
    async fn start_server(&mut self) {
        let key = std::mem::replace(&mut self.server.key, SigningKey::generate());
        let jwks = write_jwks(&key);
        let database = Database::at(self.datastore.url());
        let trust = |auth: &mut roster::authn::settings::AuthSettings| auth.issuers[0].jwks_file = Some(jwks);
        let mut server = Server::launch_with(database, ServerSettings::default(), trust).await;
        server.key = key;
        server.until_serving().await;
        self.server = server;
        self.front.redirect(self.server.address);
        self.front.cut();
    }

    async fn epoch(&self) -> i64 {
        self.server.database.count("SELECT epoch::bigint FROM datastore").await
    }

    async fn migrate(&self, after_restore: bool) -> PlaceCheck {
        let url = DatastoreUrl::parse(&self.datastore.url()).unwrap();
        migrations::migrate_and_check(&url, after_restore).await.unwrap().place
    }

    /// Waits until the server knows this epoch.
    async fn until_epoch(&self, epoch: i64) {
        let known = || self.server.roster.replica().datastore_now().map(|datastore| i64::from(datastore.epoch));
        until("the server knows the epoch", async || known() == Some(epoch)).await;
    }

    /// Asserts that neither the tokens nor the cursor of lost writes is believed.
    async fn assert_not_believed(&self, lost: &LostWrites) {
        assert_behind(self.check("eve", &lost.removal).await);
        assert_behind(self.check("lost", &lost.addition).await);
        assert_refused(watch(&self.operator(), &lost.cursor).await, Code::OutOfRange, "CURSOR_EXPIRED");
    }

    /// Asserts that tokens of the lost epoch count as `fully_consistent`, that new ones are answered from memory, that the
    /// cursor is still refused, and that the cache has converged.
    async fn assert_settled(&self, lost: &LostWrites) {
        // The first calls may find a connection to the lost database.
        until("the old cursor is refused", async || match watch(&self.operator(), &lost.cursor).await {
            Ok(message) => panic!("the old cursor was accepted: {message:?}"),
            Err(status) => (status.code(), reason(&status).as_str()) == (Code::OutOfRange, "CURSOR_EXPIRED"),
        })
        .await;
        assert_eq!(self.check("eve", &lost.removal).await.unwrap(), FROM_PRIMARY);
        assert!(!self.check("lost", &lost.addition).await.unwrap().0);
        let token = self.operator().add(&self.organization, "new", "member").await;
        caught_up(&self.server).await;
        assert_eq!(self.check("new", &token).await.unwrap(), FROM_MEMORY);
        until("the cache has exported again", async || self.cache.statistics().exports >= 2).await;
        self.cache.caught_up().await;
        for (user, expected) in [("eve", true), ("lost", false), ("kept-9", true), ("new", true)] {
            assert_eq!(self.cached(user).await, expected, "{user}");
        }
    }
}

/// Writes more to a restored database than it has lost.
async fn regrow(server: &Server, organization: &str) {
    for number in 0..10 {
        server.operator().add(organization, &format!("kept-{number}"), "member").await;
    }
}

async fn with_servers_stopped(loss: Loss) {
    let mut site = Site::start().await;
    let backup = site.backup(loss).await;
    let writes = site.write().await;
    let epoch = site.epoch().await;
    site.server.stop().await;
    site.recover(&backup).await;
    site.switch(&backup).await;
    site.start_server().await;
    assert!(site.operator().is_member(&site.organization, "eve").await);
    site.assert_not_believed(&writes).await;
    // The new log is now longer than the lost one.
    regrow(&site.server, &site.organization).await;
    site.assert_not_believed(&writes).await;
    assert_eq!(site.epoch().await, epoch, "a token or a cursor has raised the epoch");

    let raised = i32::try_from(epoch).unwrap() + 1;
    match loss {
        Loss::Dump => assert_eq!(site.migrate(false).await, PlaceCheck::Moved(raised)),
        Loss::PointInTime | Loss::Promotion => {
            assert_eq!(site.migrate(false).await, PlaceCheck::Unchanged);
            assert_eq!(site.migrate(true).await, PlaceCheck::Restored(raised));
        }
    }
    assert_eq!(site.migrate(false).await, PlaceCheck::Unchanged);
    assert_eq!(site.epoch().await, epoch + 1);
    site.until_epoch(epoch + 1).await;
    site.assert_settled(&writes).await;
    assert_eq!(site.server.roster.replica().statistics().lost, 0);
}

async fn with_servers_running(loss: Loss) {
    let mut site = Site::start().await;
    let backup = site.backup(loss).await;
    let writes = site.write().await;
    let epoch = site.epoch().await;
    let url = site.recover(&backup).await;
    let mut other = Server::over(Database::at(url.clone()), ServerSettings::default()).await;
    regrow(&other, &site.organization).await;
    other.stop().await;
    drop(other);
    site.switch(&backup).await;
    // The polls are blocked: the server cannot notice the loss, and its primary answers.
    let mut blocker = PgConnection::connect(&site.datastore.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE user_log IN ACCESS EXCLUSIVE MODE").execute(&mut blocker).await.unwrap();
    let mut answers = 0;
    until("the primary is asked", async || {
        let answer = site.check("eve", &writes.removal).await;
        let known = site.server.roster.replica().datastore_now().map(|datastore| i64::from(datastore.epoch));
        answers += 1;
        match answer {
            // The server has noticed the loss before the polls were blocked.
            Ok((true, source)) => {
                assert_eq!(source, pb::CheckSource::Primary);
                assert_eq!(known, Some(epoch + 1), "a lost removal was not believed");
                true
            }
            // Memory has the removal.
            Ok((false, source)) => {
                assert_eq!(source, pb::CheckSource::Memory);
                false
            }
            Err(status) => status.message().contains("--after-restore"),
        }
    })
    .await;
    assert!(answers > 0);
    sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
    site.until_epoch(epoch + 1).await;
    assert_eq!(site.server.roster.replica().statistics().lost, 1);
    site.assert_settled(&writes).await;
    assert_eq!(site.epoch().await, epoch + 1);
    let raised = i32::try_from(epoch).unwrap() + 2;
    let expected = if matches!(loss, Loss::Dump) { PlaceCheck::Moved(raised) } else { PlaceCheck::Unchanged };
    assert_eq!(site.migrate(false).await, expected);
    assert_eq!(site.migrate(false).await, PlaceCheck::Unchanged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_dump_with_servers_stopped() {
    with_servers_stopped(Loss::Dump).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_dump_under_running_servers() {
    with_servers_running(Loss::Dump).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_in_time_restore_with_servers_stopped() {
    with_servers_stopped(Loss::PointInTime).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_in_time_restore_under_running_servers() {
    with_servers_running(Loss::PointInTime).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_promoted_without_the_last_commits_with_servers_stopped() {
    with_servers_stopped(Loss::Promotion).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_promoted_without_the_last_commits_under_running_servers() {
    with_servers_running(Loss::Promotion).await;
}
