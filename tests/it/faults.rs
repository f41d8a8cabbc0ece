//! Postgres stops and starts while callers write and check. Every call is answered in time and with a named error, no
//! acknowledged write is lost, and the server recovers without a restart.

use crate::harness::raw::{self, Answer, Call};
use crate::harness::{Database, Server, add, assert_refused, is_member};
use prost::Message;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::grpc::pb::consistency::Requirement;
use roster::postgres::{Binaries, Cluster, Options, Stop};
use roster::random;
use roster::server::ServerSettings;
use roster::store::datastore_url::DatastoreUrl;
use roster::store::migrations;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

/// The deadline of a call.
const DEADLINE: Duration = Duration::from_millis(1500);
/// How much later an answer may arrive: room for two busy cores, not a guarantee.
const TOLERANCE: Duration = Duration::from_secs(1);
/// The time limit for any condition.
const PATIENCE: Duration = Duration::from_secs(30);
const WRITERS: usize = 6;
const CHECKERS: usize = 2;

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "timed out waiting until {what}");
}

/// One write, as its caller remembers it.
#[derive(Debug, Clone)]
struct Write {
    user: String,
    request_id: String,
}

/// The answers that the callers have got.
#[derive(Debug, Default)]
struct Outcomes {
    acknowledged: AtomicUsize,
    checked: AtomicUsize,
    failed: AtomicUsize,
    added: Mutex<Vec<Write>>,
    unknown: Mutex<Vec<Write>>,
}

impl Outcomes {
    fn count(&self) -> (usize, usize, usize) {
        (
            self.acknowledged.load(Ordering::Relaxed),
            self.checked.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
        )
    }

    /// Waits until writers and checkers have each had this many more good answers.
    async fn until_served(&self, more: usize) {
        let (acknowledged, checked, _) = self.count();
        let served = || {
            let now = self.count();
            now.0 >= acknowledged + more && now.1 >= checked + more
        };
        until("calls were answered", served).await;
    }

    async fn until_failed(&self, more: usize) {
        let (.., failed) = self.count();
        until("calls failed", || self.count().2 >= failed + more).await;
    }
}

/// A private Postgres, a server over it, and callers in endless loops.
struct Scene {
    cluster: Cluster,
    server: Arc<Server>,
    organization: String,
    token: String,
    outcomes: Arc<Outcomes>,
    stop: CancellationToken,
    callers: JoinSet<()>,
}

async fn cluster() -> Cluster {
    let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
    let cluster = Cluster::start(&binaries, Options::temporary()).await.unwrap_or_else(|error| panic!("{error}"));
    cluster.create_database("roster").await.unwrap();
    cluster
}

async fn migrate(url: &str) {
    migrations::migrate(&DatastoreUrl::parse(url).unwrap()).await.unwrap();
}

impl Scene {
    async fn new() -> Self {
        let cluster = cluster().await;
        let url = cluster.url("roster");
        migrate(&url).await;
        let server = Arc::new(Server::over(Database::at(url), ServerSettings::default()).await);
        let organization = server.user("ada").create("Acme").await;
        let token = server.service_token("backend", &[Scope::Manage, Scope::Check]);
        let (outcomes, stop, callers) = (Arc::default(), CancellationToken::new(), JoinSet::new());
        let mut scene = Self { cluster, server, organization, token, outcomes, stop, callers };
        for writer in 0..WRITERS {
            scene.callers.spawn(scene.caller().write(writer));
        }
        for _ in 0..CHECKERS {
            scene.callers.spawn(scene.caller().check());
        }
        scene.outcomes.until_served(20).await;
        scene
    }

    fn caller(&self) -> Caller {
        Caller {
            server: self.server.clone(),
            organization: self.organization.clone(),
            token: self.token.clone(),
            outcomes: self.outcomes.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Ends the traffic, repeats the writes with unknown outcomes, and asserts that every acknowledged write is stored once.
    async fn assert_nothing_lost(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
        let unknown = std::mem::take(&mut *self.outcomes.unknown.lock().unwrap());
        for write in unknown {
            // The same request again: it is done now, or the first answer is repeated.
            let answer = self.caller().add(&write).await;
            assert_eq!(answer.grpc_status, Some(0), "{write:?}: {answer:?}");
            self.outcomes.added.lock().unwrap().push(write);
        }
        let database = &self.server.database;
        let members = "SELECT user_id FROM memberships WHERE user_id <> 'ada'";
        let members: Vec<String> = sqlx::query_scalar(members).fetch_all(&database.pool).await.unwrap();
        let added: BTreeSet<String> =
            self.outcomes.added.lock().unwrap().iter().map(|write| write.user.clone()).collect();
        assert_eq!(members.into_iter().collect::<BTreeSet<_>>(), added);
        // Each exactly once.
        let events = "SELECT user_id FROM events WHERE type = 'member.added' AND user_id <> 'ada' ORDER BY user_id";
        let events: Vec<String> = sqlx::query_scalar(events).fetch_all(&database.pool).await.unwrap();
        assert_eq!(events.len(), added.len());
        database.assert_invariants().await;
        database.assert_no_open_transactions().await;
    }
}

#[derive(Clone)]
struct Caller {
    server: Arc<Server>,
    organization: String,
    token: String,
    outcomes: Arc<Outcomes>,
    stop: CancellationToken,
}

impl Caller {
    async fn write(self, writer: usize) {
        for number in 0.. {
            if self.stop.is_cancelled() {
                return;
            }
            let write = Write { user: format!("user-{writer}-{number}"), request_id: random::uuid().to_string() };
            let answer = self.add(&write).await;
            if answer.grpc_status == Some(0) {
                self.outcomes.added.lock().unwrap().push(write);
                self.outcomes.acknowledged.fetch_add(1, Ordering::Relaxed);
            } else {
                self.outcomes.unknown.lock().unwrap().push(write);
                self.failed(&answer).await;
            }
        }
    }

    async fn check(self) {
        let path = raw::path("CheckService/CheckMembership");
        let question = is_member(&self.organization, "ada").encode_to_vec();
        while !self.stop.is_cancelled() {
            let answer = self.call(&path, &question).await;
            if answer.grpc_status == Some(0) {
                self.outcomes.checked.fetch_add(1, Ordering::Relaxed);
            } else {
                self.failed(&answer).await;
            }
        }
    }

    async fn add(&self, write: &Write) -> Answer {
        let (path, message) = raw::add(&self.organization, &write.user, &write.request_id);
        self.call(&path, &message).await
    }

    /// Calls without tonic: its client has a timer too, and reports CANCELLED when that timer fires first.
    async fn call(&self, path: &str, message: &[u8]) -> Answer {
        let call =
            Call::grpc(path, message).bearer(&self.token).with("grpc-timeout", &format!("{}m", DEADLINE.as_millis()));
        let begin = Instant::now();
        let answer = self.server.send(call).await;
        let took = begin.elapsed();
        assert!(took < DEADLINE + TOLERANCE, "{path} took {took:?}: {answer:?}");
        answer
    }

    /// Asserts that a failure is one of the two allowed ones.
    async fn failed(&self, answer: &Answer) {
        match (answer.grpc_status, answer.reason.as_deref()) {
            (Some(14), Some("DATASTORE_UNAVAILABLE")) => {
                let wait = answer.status().unwrap().get_details_retry_info().unwrap().retry_delay.unwrap();
                assert!(wait > Duration::ZERO && wait < Duration::from_secs(5));
                self.outcomes.failed.fetch_add(1, Ordering::Relaxed);
                // A client waits as long as the response says.
                tokio::time::sleep(wait).await;
            }
            (Some(4), Some("DEADLINE_EXCEEDED")) => {
                self.outcomes.failed.fetch_add(1, Ordering::Relaxed);
            }
            _ => panic!("a failure of another kind: {answer:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_stopped_and_started() {
    let mut scene = Scene::new().await;
    scene.cluster.stop(Stop::Fast).await;
    scene.server.until(ServingStatus::NotServing).await;
    scene.outcomes.until_failed(2 * WRITERS).await;
    scene.cluster.start_again().await.unwrap();
    scene.server.until_serving().await;
    scene.outcomes.until_served(50).await;
    scene.assert_nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_restarted_cleanly_and_by_a_crash() {
    let mut scene = Scene::new().await;
    for how in [Stop::Fast, Stop::Immediate, Stop::Immediate, Stop::Fast] {
        scene.cluster.restart(how).await.unwrap();
        scene.outcomes.until_served(30).await;
    }
    scene.server.until_serving().await;
    scene.assert_nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_frozen_and_thawed() {
    let scene = Scene::new().await;
    scene.cluster.pause();
    scene.server.until(ServingStatus::NotServing).await;
    scene.outcomes.until_failed(2 * WRITERS).await;
    scene.cluster.resume();
    scene.server.until_serving().await;
    scene.outcomes.until_served(50).await;
    scene.assert_nothing_lost().await;
}

/// Asserts that every call that needs the datastore fails as unavailable.
async fn assert_unavailable(server: &Server) {
    let unavailable = "DATASTORE_UNAVAILABLE";
    let mut ada = server.user_with_email("ada");
    let mut operator = server.operator();
    assert_refused(ada.users.get_caller(pb::GetCallerRequest::default()).await, Code::Unavailable, unavailable);
    let answer = ada.organizations.create_organization(crate::harness::organization("Acme")).await;
    assert_refused(answer, Code::Unavailable, unavailable);
    assert_refused(operator.checks.check_membership(is_member("acme", "ada")).await, Code::Unavailable, unavailable);
    assert_refused(
        operator.organizations.add_member(add("acme", "ada", "member")).await,
        Code::Unavailable,
        unavailable,
    );
    let answer = operator.organizations.create_organization(crate::harness::organization("Acme")).await;
    assert_refused(answer, Code::Unavailable, unavailable);
    let answer = operator.organizations.list_organizations(pb::ListOrganizationsRequest::default()).await;
    assert_refused(answer, Code::Unavailable, unavailable);
    // A call that does not need the datastore is answered.
    assert!(operator.users.get_caller(pb::GetCallerRequest::default()).await.is_ok());
}

#[tokio::test]
async fn a_server_starts_before_its_postgres() {
    let mut cluster = cluster().await;
    let url = cluster.url("roster");
    migrate(&url).await;
    cluster.stop(Stop::Fast).await;
    let server = Server::launch(Database::at(url), ServerSettings::default()).await;
    server.until(ServingStatus::NotServing).await;
    assert_unavailable(&server).await;
    cluster.start_again().await.unwrap();
    server.until_serving().await;
    server.user("ada").create("Acme").await;
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_server_starts_before_its_schema_and_before_its_database() {
    let database = Database::empty().await;
    let server = Server::launch(database.clone(), ServerSettings::default()).await;
    server.until(ServingStatus::NotServing).await;
    assert_unavailable(&server).await;
    migrate(&database.url).await;
    server.until_serving().await;
    server.user("ada").create("Acme").await;
    database.assert_invariants().await;

    let missing = Database::at(database.url.replace("/t", "/none"));
    let server = Server::launch(missing, ServerSettings::default()).await;
    server.until(ServingStatus::NotServing).await;
    assert_unavailable(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_a_database() {
    let database = Database::new().await;
    let mut one = Server::over(database.clone(), ServerSettings::default()).await;
    let two = Server::over(database.clone(), ServerSettings::default()).await;
    let organization = one.user("ada").create("Acme").await;
    let mut first_backend = one.service(&[Scope::Manage]);
    let mut second_backend = two.service(&[Scope::Manage]);

    // A write through one server is visible on the other: at once with its consistency token, soon without.
    for number in 0..20 {
        let user = format!("user-{number}");
        let (writer, reader) = if number % 2 == 0 {
            (&mut first_backend, &mut second_backend)
        } else {
            (&mut second_backend, &mut first_backend)
        };
        let token = writer.add(&organization, &user, "member").await;
        let consistency = pb::Consistency { requirement: Some(Requirement::AtLeastAsFresh(token)) };
        let question = pb::CheckMembershipRequest { consistency: Some(consistency), ..is_member(&organization, &user) };
        assert!(reader.checks.check_membership(question).await.unwrap().into_inner().result.unwrap().allowed);
        let acknowledged = Instant::now();
        while !reader.is_member(&organization, &user).await {
            assert!(acknowledged.elapsed() < Duration::from_secs(1), "later than the maximum staleness");
        }
    }
    // One request, sent to both servers at once: one change, one answer.
    for number in 0..10 {
        let request = pb::AddMemberRequest {
            request_id: random::uuid().to_string(),
            ..add(&organization, &format!("both-{number}"), "member")
        };
        let (first, second) = tokio::join!(
            first_backend.organizations.add_member(request.clone()),
            second_backend.organizations.add_member(request)
        );
        assert_eq!(first.unwrap().into_inner(), second.unwrap().into_inner());
    }
    // Two requests for the same change: one of them fails.
    for number in 0..10 {
        let request = add(&organization, &format!("race-{number}"), "member");
        let (first, second) = tokio::join!(
            first_backend.organizations.add_member(request.clone()),
            second_backend.organizations.add_member(request)
        );
        let (won, lost) = if first.is_ok() { (first, second) } else { (second, first) };
        assert!(won.is_ok());
        assert_refused(lost, Code::AlreadyExists, "ALREADY_MEMBER");
    }
    // One server stops; the other keeps serving.
    one.stop().await;
    second_backend.add(&organization, "late", "member").await;
    two.until_serving().await;
    assert_eq!(database.count("SELECT count(*) FROM memberships").await, 1 + 20 + 10 + 10 + 1);
    database.assert_invariants().await;
}
