//! Postgres goes away and comes back while callers write and ask. Every call is answered in time and by name, nothing that
//! was acknowledged is lost, and nobody has to restart anything.

use crate::harness::raw::{self, Answer, Call};
use crate::harness::{Database, Server, add, assert_refused, is_member};
use prost::Message;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::grpc::pb::consistency::Requirement;
use roster::postgres::{Binaries, Cluster, Options, Stop};
use roster::random;
use roster::server::ServerSettings;
use roster::store::{migrations, pool};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

/// How long a call may take.
const DEADLINE: Duration = Duration::from_millis(1500);
/// How much later than that its answer may come: two busy cores, not a promise.
const TOLERANCE: Duration = Duration::from_secs(1);
/// How long any condition is waited for.
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
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "it never happened that {what}");
}

/// One write, as its caller remembers it.
#[derive(Debug, Clone)]
struct Write {
    user: String,
    request_id: String,
}

/// What the callers have seen.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: AtomicUsize,
    checked: AtomicUsize,
    failed: AtomicUsize,
    added: Mutex<Vec<Write>>,
    unknown: Mutex<Vec<Write>>,
}

impl Seen {
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

/// A Postgres of its own, a server over it, and callers who never stop.
struct Scene {
    cluster: Cluster,
    server: Arc<Server>,
    organization: String,
    token: String,
    seen: Arc<Seen>,
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
    migrations::migrate(&pool::parse_url(url).unwrap()).await.unwrap();
}

impl Scene {
    async fn new() -> Self {
        let cluster = cluster().await;
        let url = cluster.url("roster");
        migrate(&url).await;
        let server = Arc::new(Server::over(Database::at(url), ServerSettings::default()).await);
        let organization = server.user("ada").create("Acme").await;
        let token = server.service_token("backend", &[Scope::Manage, Scope::Check]);
        let (seen, stop, callers) = (Arc::default(), CancellationToken::new(), JoinSet::new());
        let mut scene = Self { cluster, server, organization, token, seen, stop, callers };
        for writer in 0..WRITERS {
            scene.callers.spawn(scene.caller().write(writer));
        }
        for _ in 0..CHECKERS {
            scene.callers.spawn(scene.caller().check());
        }
        scene.seen.until_served(20).await;
        scene
    }

    fn caller(&self) -> Caller {
        Caller {
            server: self.server.clone(),
            organization: self.organization.clone(),
            token: self.token.clone(),
            seen: self.seen.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Ends the traffic, settles what is unknown, and looks for what was lost.
    async fn assert_nothing_lost(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
        let unknown = std::mem::take(&mut *self.seen.unknown.lock().unwrap());
        for write in unknown {
            // The same request again: done now if it was not, and told again if it was.
            let answer = self.caller().add(&write).await;
            assert_eq!(answer.grpc_status, Some(0), "{write:?}: {answer:?}");
            self.seen.added.lock().unwrap().push(write);
        }
        let database = &self.server.database;
        let members = "SELECT user_id FROM memberships WHERE user_id <> 'ada'";
        let members: Vec<String> = sqlx::query_scalar(members).fetch_all(&database.pool).await.unwrap();
        let added: BTreeSet<String> = self.seen.added.lock().unwrap().iter().map(|write| write.user.clone()).collect();
        assert_eq!(members.into_iter().collect::<BTreeSet<_>>(), added);
        // Once each, and no more.
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
    seen: Arc<Seen>,
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
                self.seen.added.lock().unwrap().push(write);
                self.seen.acknowledged.fetch_add(1, Ordering::Relaxed);
            } else {
                self.seen.unknown.lock().unwrap().push(write);
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
                self.seen.checked.fetch_add(1, Ordering::Relaxed);
            } else {
                self.failed(&answer).await;
            }
        }
    }

    async fn add(&self, write: &Write) -> Answer {
        let (path, message) = raw::add(&self.organization, &write.user, &write.request_id);
        self.call(&path, &message).await
    }

    /// Calls by hand: a client of tonic's has a timer of its own, and says CANCELLED when that is the faster one.
    async fn call(&self, path: &str, message: &[u8]) -> Answer {
        let call =
            Call::grpc(path, message).bearer(&self.token).with("grpc-timeout", &format!("{}m", DEADLINE.as_millis()));
        let begin = Instant::now();
        let answer = self.server.send(call).await;
        let took = begin.elapsed();
        assert!(took < DEADLINE + TOLERANCE, "{path} took {took:?}: {answer:?}");
        answer
    }

    /// Asserts that a failure is one of the two that there may be.
    async fn failed(&self, answer: &Answer) {
        match (answer.grpc_status, answer.reason.as_deref()) {
            (Some(14), Some("DATASTORE_UNAVAILABLE")) => {
                let wait = answer.status().unwrap().get_details_retry_info().unwrap().retry_delay.unwrap();
                assert!(wait > Duration::ZERO && wait < Duration::from_secs(5));
                self.seen.failed.fetch_add(1, Ordering::Relaxed);
                // As a good client does.
                tokio::time::sleep(wait).await;
            }
            (Some(4), Some("DEADLINE_EXCEEDED")) => {
                self.seen.failed.fetch_add(1, Ordering::Relaxed);
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
    scene.seen.until_failed(2 * WRITERS).await;
    scene.cluster.start_again().await.unwrap();
    scene.server.until_serving().await;
    scene.seen.until_served(50).await;
    scene.assert_nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_restarted_in_order_and_by_a_crash() {
    let mut scene = Scene::new().await;
    for how in [Stop::Fast, Stop::Immediate, Stop::Immediate, Stop::Fast] {
        scene.cluster.restart(how).await.unwrap();
        scene.seen.until_served(30).await;
    }
    scene.server.until_serving().await;
    scene.assert_nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_frozen_and_thawed() {
    let scene = Scene::new().await;
    scene.cluster.pause();
    scene.server.until(ServingStatus::NotServing).await;
    scene.seen.until_failed(2 * WRITERS).await;
    scene.cluster.resume();
    scene.server.until_serving().await;
    scene.seen.until_served(50).await;
    scene.assert_nothing_lost().await;
}

/// Asks what can be asked without a datastore: everything says so.
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
    // Who asks nothing of the datastore is answered.
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
    let mut here = one.service(&[Scope::Manage]);
    let mut there = two.service(&[Scope::Manage]);

    // What is acknowledged by one is seen by the other: at once by whoever brings the token, soon by everybody.
    for number in 0..20 {
        let user = format!("user-{number}");
        let (writer, reader) = if number % 2 == 0 { (&mut here, &mut there) } else { (&mut there, &mut here) };
        let token = writer.add(&organization, &user, "member").await;
        let consistency = pb::Consistency { requirement: Some(Requirement::AtLeastAsFresh(token)) };
        let question = pb::CheckMembershipRequest { consistency: Some(consistency), ..is_member(&organization, &user) };
        assert!(reader.checks.check_membership(question).await.unwrap().into_inner().result.unwrap().allowed);
        let acknowledged = Instant::now();
        while !reader.is_member(&organization, &user).await {
            assert!(acknowledged.elapsed() < Duration::from_secs(1), "later than the bound");
        }
    }
    // One request, sent to both at once: one change, one answer.
    for number in 0..10 {
        let request = pb::AddMemberRequest {
            request_id: random::uuid().to_string(),
            ..add(&organization, &format!("both-{number}"), "member")
        };
        let (first, second) =
            tokio::join!(here.organizations.add_member(request.clone()), there.organizations.add_member(request));
        assert_eq!(first.unwrap().into_inner(), second.unwrap().into_inner());
    }
    // Two requests for the same thing: one of them comes too late.
    for number in 0..10 {
        let request = add(&organization, &format!("race-{number}"), "member");
        let (first, second) =
            tokio::join!(here.organizations.add_member(request.clone()), there.organizations.add_member(request));
        let (won, lost) = if first.is_ok() { (first, second) } else { (second, first) };
        assert!(won.is_ok());
        assert_refused(lost, Code::AlreadyExists, "ALREADY_MEMBER");
    }
    // One goes; the other does not notice.
    one.stop().await;
    there.add(&organization, "late", "member").await;
    two.until_serving().await;
    assert_eq!(database.count("SELECT count(*) FROM memberships").await, 1 + 20 + 10 + 10 + 1);
    database.assert_invariants().await;
}
