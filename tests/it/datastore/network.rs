//! A network that swallows packets: the connections that are open at one moment stay open and nothing passes, and new
//! ones work. Every call ends by its deadline, and after five seconds no call fails.

use super::{CALL_TIMEOUT, FULLY_CONSISTENT, RECOVERY, Scene, assert_recovers, check, named, unavailable};
use crate::harness::proxy::Proxy;
use crate::harness::raw::{self, Answer, Call};
use crate::harness::{Database, Server, add, is_member};
use crate::replica::until;
use prost::Message;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::random;
use roster::server::ServerSettings;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::health_check_response::ServingStatus;

/// The deadline of a call.
const DEADLINE: Duration = Duration::from_millis(1500);
/// The deadline of an export, which is five hundred statements.
const EXPORT_DEADLINE: Duration = Duration::from_secs(10);
/// How much later an answer may arrive: room for two busy cores, not a guarantee.
const TOLERANCE: Duration = Duration::from_secs(1);
/// The number of callers.
const CALLERS: usize = 24;
/// The pause of a caller between two calls, so that the load alone makes no call late.
const PAUSE: Duration = Duration::from_millis(100);
/// The time in which every call must succeed, after [`RECOVERY`].
const CALM: Duration = Duration::from_secs(10);

impl Scene {
    /// Starts callers of every kind.
    async fn traffic(&self) -> Traffic {
        let traffic = Traffic { stop: CancellationToken::new(), calls: Arc::default(), callers: JoinSet::new() };
        traffic.begin(self).await
    }
}

/// A call, as its caller saw it.
#[derive(Debug)]
struct Done {
    begin: Instant,
    kind: &'static str,
    /// The id of the added user.
    user: Option<String>,
    answer: Answer,
}

impl Done {
    fn succeeded(&self) -> bool {
        self.answer.grpc_status == Some(0)
    }
}

/// Callers in endless loops.
struct Traffic {
    stop: CancellationToken,
    calls: Arc<Mutex<Vec<Done>>>,
    callers: JoinSet<()>,
}

impl Traffic {
    async fn begin(mut self, scene: &Scene) -> Self {
        let kinds = ["write", "check", "write", "member", "check", "export", "write", "recent", "members", "batch"];
        let token = scene.server.service_token("root", &[Scope::Operator]);
        for number in 0..CALLERS {
            let kind = kinds[number % kinds.len()];
            let (server, token) = (scene.server.clone(), token.clone());
            // An organization of its own: the writes do not wait for each other.
            let organization = scene.server.user("ada").create("Acme").await;
            let (stop, calls) = (self.stop.clone(), self.calls.clone());
            self.callers.spawn(async move {
                while !stop.is_cancelled() {
                    let user = (kind == "write").then(|| random::uuid().to_string());
                    let (path, message) = request(kind, &organization, user.as_deref());
                    let deadline = if kind == "export" { EXPORT_DEADLINE } else { DEADLINE };
                    let call = Call::grpc(&path, &message).bearer(&token);
                    let call = call.with("grpc-timeout", &format!("{}m", deadline.as_millis()));
                    let begin = Instant::now();
                    let answer = server.send(call).await;
                    assert!(begin.elapsed() < deadline + TOLERANCE, "{kind} took {:?}: {answer:?}", begin.elapsed());
                    calls.lock().unwrap().push(Done { begin, kind, user, answer });
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        self.until_served(10).await;
        self
    }

    fn count(&self, matches: impl Fn(&Done) -> bool) -> usize {
        self.calls.lock().unwrap().iter().filter(|done| matches(done)).count()
    }

    /// Waits until this number of calls per caller has succeeded from now on.
    async fn until_served(&self, each: usize) {
        let now = Instant::now();
        until("calls succeed", async || self.count(|done| done.begin > now && done.succeeded()) >= each * CALLERS)
            .await;
    }

    /// Ends the traffic, and asserts that every failure has one of the two allowed reasons and began before `recovered`,
    /// and that every acknowledged write is stored.
    async fn end(mut self, scene: &Scene, recovered: Instant) {
        self.stop.cancel();
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
        let members = "SELECT user_id FROM memberships";
        let members: Vec<String> = sqlx::query_scalar(members).fetch_all(&scene.server.database.pool).await.unwrap();
        let members: BTreeSet<String> = members.into_iter().collect();
        let mut late = Vec::new();
        for done in self.calls.lock().unwrap().drain(..) {
            if done.succeeded() {
                assert!(done.user.as_ref().is_none_or(|user| members.contains(user)), "an acknowledged write is lost");
                continue;
            }
            let reason = (done.answer.grpc_status, done.answer.reason.as_deref());
            let allowed = [(Some(14), Some("DATASTORE_UNAVAILABLE")), (Some(4), Some("DEADLINE_EXCEEDED"))];
            assert!(allowed.contains(&reason), "{done:?}");
            if done.begin > recovered {
                late.push(format!("{} {:?} after the recovery: {reason:?}", done.kind, done.begin - recovered));
            }
        }
        assert!(late.is_empty(), "{} calls failed: {late:#?}", late.len());
        scene.server.database.assert_invariants().await;
    }
}

fn request(kind: &str, organization: &str, user: Option<&str>) -> (String, Vec<u8>) {
    let organization = organization.to_owned();
    let (name, message) = match kind {
        "write" => return raw::add(&organization, user.unwrap(), &random::uuid().to_string()),
        "check" => ("CheckService/CheckMembership", check(&organization, "ada", FULLY_CONSISTENT).encode_to_vec()),
        "recent" => ("CheckService/CheckMembership", is_member(&organization, "ada").encode_to_vec()),
        "batch" => {
            let item = pb::CheckItem { organization, user_id: "ada".to_owned(), ..Default::default() };
            let consistency = pb::Consistency { requirement: FULLY_CONSISTENT };
            let request = pb::BatchCheckMembershipRequest { items: vec![item; 20], consistency: Some(consistency) };
            ("CheckService/BatchCheckMembership", request.encode_to_vec())
        }
        "export" => ("CheckService/ExportMemberships", pb::ExportMembershipsRequest::default().encode_to_vec()),
        "member" => {
            let request = pb::GetMemberRequest { organization, user_id: "ada".to_owned() };
            ("OrganizationService/GetMember", request.encode_to_vec())
        }
        "members" => {
            let request = pb::ListMembersRequest { organization, ..Default::default() };
            ("OrganizationService/ListMembers", request.encode_to_vec())
        }
        _ => panic!("{kind}"),
    };
    (raw::path(name), message)
}

/// Runs callers of every kind through a fault, and asserts that no call fails after the time for the recovery.
async fn no_call_fails_after(fault: impl AsyncFnOnce(&Proxy)) {
    // Two loads at once would be late without a fault.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _alone = ALONE.lock().await;
    let scene = Scene::new().await;
    let traffic = scene.traffic().await;
    fault(&scene.proxy).await;
    let recovered = Instant::now() + RECOVERY;
    tokio::time::sleep_until((recovered + CALM).into()).await;
    traffic.end(&scene, recovered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_soon_after_every_connection_was_swallowed() {
    no_call_fails_after(async |proxy| proxy.swallow()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_soon_after_twenty_connections_were_swallowed() {
    no_call_fails_after(async |proxy| proxy.swallow_first(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_soon_after_an_outage_in_which_new_connections_were_silent_too() {
    no_call_fails_after(async |proxy| {
        proxy.swallow_all();
        tokio::time::sleep(Duration::from_secs(4)).await;
        // The old connections stay swallowed.
        proxy.swallow();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_soon_after_swallowed_connections_came_back() {
    no_call_fails_after(async |proxy| {
        proxy.swallow_all();
        tokio::time::sleep(Duration::from_secs(3)).await;
        proxy.resume();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_swallowed_keeps_its_locks_only_for_a_short_time() {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = 'roster'";
    let Scene { direct, proxy, server, organization } = Scene::new().await;
    let mut lock = direct.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM organizations FOR UPDATE").execute(&mut *lock).await.unwrap();
    let write = tokio::spawn({
        let (mut operator, request) = (server.operator(), add(&organization, "grace", "member"));
        async move { operator.organizations.add_member(request).await }
    });
    until("a write waits for the lock", async || direct.count(WAITING).await > 0).await;
    proxy.swallow();
    let swallowed = Instant::now();
    // The write gets the lock, and nothing else reaches Postgres in its transaction.
    lock.rollback().await.unwrap();
    let mut late = server.operator();
    while let Err(status) = late.organizations.add_member(add(&organization, "alan", "member")).await {
        let kinds = [unavailable(), (tonic::Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned())];
        assert!(kinds.contains(&named(&status)), "{status:?}");
        assert!(swallowed.elapsed() < 2 * CALL_TIMEOUT, "the organization stays locked");
    }
    assert!(swallowed.elapsed() < RECOVERY, "the organization was locked for {:?}", swallowed.elapsed());
    let ended = write.await.unwrap().map(drop).unwrap_err();
    assert!(ended.code() == tonic::Code::DeadlineExceeded || named(&ended) == unavailable(), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replica_is_fresh_again_without_traffic() {
    let Scene { proxy, server, .. } = Scene::new().await;
    let statistics = || server.roster.replica().statistics();
    proxy.swallow();
    let (swallowed, polls) = (Instant::now(), statistics().polls);
    until("the replica polls again", async || {
        let now = statistics();
        now.polls > polls + 3 && now.age.is_some_and(|age| age < Duration::from_secs(1))
    })
    .await;
    assert!(swallowed.elapsed() < RECOVERY, "the polls took {:?}", swallowed.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_loads_although_its_first_connections_are_swallowed() {
    let (proxy, database) = Proxy::before(&Database::new().await).await;
    proxy.swallow_all();
    let server = Server::launch(database, ServerSettings::default()).await;
    until("the server connects", async || proxy.accepted() >= 2).await;
    proxy.swallow();
    assert!(timeout(2 * RECOVERY, server.roster.replica().loaded()).await.is_ok(), "the replica did not load");
    assert_recovers(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_is_swallowed_halfway_is_repeated() {
    let direct = Database::new().await;
    let (proxy, database) = Proxy::before(&direct).await;
    let mut lock = direct.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE organizations").execute(&mut *lock).await.unwrap();
    let server = Server::over(database, ServerSettings::default()).await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("a load waits for the lock", async || direct.count(waits).await > 0).await;
    proxy.swallow();
    lock.rollback().await.unwrap();
    assert!(timeout(2 * RECOVERY, server.roster.replica().loaded()).await.is_ok(), "the replica did not load");
}

/// The number of writes of one round that reached a watch of the other server within 100 ms.
async fn fast_notifications(
    writer: &Server,
    organization: &str,
    watch: &mut tonic::codec::Streaming<pb::WatchMembershipsResponse>,
) -> usize {
    let mut fast = 0;
    for _ in 0..10 {
        let user = random::uuid().to_string();
        writer.operator().organizations.add_member(add(organization, &user, "member")).await.unwrap();
        let acknowledged = Instant::now();
        let arrival = async {
            loop {
                let message = watch.message().await.unwrap().unwrap();
                let is_user = |change: &pb::MembershipsChange| {
                    use pb::memberships_change::Change;
                    matches!(&change.change, Some(Change::Membership(membership)) if membership.user_id == user)
                };
                if message.changes.iter().any(is_user) {
                    return;
                }
            }
        };
        timeout(CALL_TIMEOUT, arrival).await.expect("the change did not arrive");
        fast += usize::from(acknowledged.elapsed() < Duration::from_millis(100));
    }
    fast
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_of_other_servers_arrive_again() {
    let Scene { direct, proxy, server, organization } = Scene::new().await;
    let other = Server::over(direct, ServerSettings::default()).await;
    let requests = tonic::codegen::tokio_stream::once(pb::WatchMembershipsRequest {
        organization: organization.clone(),
        ..Default::default()
    });
    let requests = tonic::codegen::tokio_stream::StreamExt::chain(requests, tonic::codegen::tokio_stream::pending());
    let mut watch = server.operator().checks.watch_memberships(requests).await.unwrap().into_inner();
    assert!(fast_notifications(&other, &organization, &mut watch).await >= 9, "slow before the fault");
    let listens = server.roster.replica().statistics().listens;
    proxy.swallow();
    let swallowed = Instant::now();
    // Nothing but the silence shows that the connection is dead.
    until("the listener noticed", async || server.roster.replica().statistics().listens > listens).await;
    assert!(swallowed.elapsed() < Duration::from_secs(10), "the listener took {:?}", swallowed.elapsed());
    let mut fast = 0;
    for _ in 0..3 {
        fast = fast.max(fast_notifications(&other, &organization, &mut watch).await);
    }
    assert!(fast >= 9, "at most {fast} of 10 changes arrived within 100 ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_housekeeping_end_in_time_and_recover() {
    let Scene { proxy, server, organization, .. } = Scene::new().await;
    server.roster.tidy().await.unwrap();
    proxy.swallow_all();
    let begin = Instant::now();
    server.until(ServingStatus::NotServing).await;
    assert!(begin.elapsed() < RECOVERY, "health took {:?}", begin.elapsed());
    // The server limits a round of housekeeping from outside. A round that is given up leaves no dead connection.
    let tidied = timeout(Duration::from_secs(2), server.roster.tidy()).await;
    assert!(!matches!(tidied, Ok(Ok(_))), "{tidied:?}");
    let answer = server.operator().organizations.add_member(add(&organization, "grace", "member")).await;
    assert_eq!(named(&answer.unwrap_err()), unavailable());
    proxy.swallow();
    assert_recovers(&server).await;
    timeout(CALL_TIMEOUT, server.roster.tidy()).await.expect("housekeeping hangs").unwrap();
    super::assert_health_stays(&server, ServingStatus::Serving, Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_within_the_drain_time_although_everything_is_swallowed() {
    let drain = Duration::from_millis(500);
    let (proxy, database) = Proxy::before(&Database::new().await).await;
    let mut server = Server::over(database, ServerSettings { drain, ..ServerSettings::default() }).await;
    server.roster.replica().loaded().await;
    let organization = server.user("ada").create("Acme").await;
    super::assert_all_succeed(&server, &organization).await;
    proxy.swallow_all();
    let calls: Vec<_> = (0..8)
        .map(|number| {
            let (mut operator, organization) = (server.operator(), organization.clone());
            tokio::spawn(async move {
                let request = add(&organization, &format!("user-{number}"), "member");
                operator.organizations.add_member(request).await.map(drop)
            })
        })
        .collect();
    // The calls are under way when the datastore's silence is noticed, and the stop begins.
    server.until(ServingStatus::NotServing).await;
    let begin = Instant::now();
    timeout(2 * CALL_TIMEOUT, server.stop()).await.expect("the stop hangs");
    assert!(begin.elapsed() < drain + Duration::from_secs(3), "{:?}", begin.elapsed());
    for call in calls {
        assert!(timeout(RECOVERY, call).await.expect("a caller still waits").unwrap().is_err());
    }
}
