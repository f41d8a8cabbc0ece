//! Faults of the datastore and of the network in front of it: the contract holds under each of them.

mod failures;
mod network;
mod pooler;
mod read_only;
mod rigs;
mod silent;
mod standby;
mod url;

use crate::harness::proxy::Proxy;
use crate::harness::samples::{self, SampleCaller, Target, Write};
use crate::harness::{Database, IssuedInvitation, Server, reason};
use roster::authn::mint::ClaimSet;
use roster::authz::rules::{METHODS, Method};
use roster::domain::Scope;
use roster::grpc::pb;
use roster::grpc::pb::consistency::Requirement;
use roster::server::ServerSettings;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// The time in which a server recovers after its datastore has recovered.
const RECOVERY: Duration = Duration::from_secs(5);
/// The time in which every call ends that has no deadline of its own.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The number of calls at once that a server of the tests accepts in any class.
const CALLS_AT_ONCE: usize = 25;
/// A token of an invitation in the right form.
const INVITATION: &str = "bm90LXZlcnktc2VjcmV0LWJ1dC00My1jaGFyYWN0ZXI";
const ID: &str = "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11";

/// The requirement that only the primary fulfils.
const FULLY_CONSISTENT: Option<Requirement> = Some(Requirement::FullyConsistent(true));

/// The code and the reason of an error.
fn named(status: &Status) -> (Code, String) {
    (status.code(), reason(status))
}

fn unavailable() -> (Code, String) {
    (Code::Unavailable, "DATASTORE_UNAVAILABLE".to_owned())
}

/// Asserts that a call is refused because the datastore is unavailable.
#[track_caller]
fn assert_unavailable<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>) {
    match answer {
        Ok(answer) => panic!("{what} was answered: {answer:?}"),
        Err(status) => assert_eq!(named(&status), unavailable(), "{what}: {status:?}"),
    }
}

/// A check with this consistency requirement.
fn check(organization: &str, user: &str, requirement: Option<Requirement>) -> pb::CheckMembershipRequest {
    let consistency = requirement.map(|requirement| pb::Consistency { requirement: Some(requirement) });
    pb::CheckMembershipRequest { consistency, ..crate::harness::is_member(organization, user) }
}

/// A valid request of every method of roster, with the bearer token of its caller.
fn sample_calls(server: &Server, organization: &str) -> Vec<(&'static Method, String, Vec<u8>)> {
    let with_address = |id: &str| {
        let email = Some(format!("{id}@example.com"));
        server.mint(&ClaimSet { email, email_verified: Some(true), ..Server::claims(id) })
    };
    let target = Target {
        organization: organization.to_owned(),
        member: "grace".to_owned(),
        account: "ada".to_owned(),
        invitation: ID.to_owned(),
        received: IssuedInvitation { id: ID.to_owned(), token: INVITATION.to_owned() },
        delivery: pb::InvitationDelivery::Token,
        ..Target::default()
    };
    let call = |method| {
        let (caller, message) = samples::sample(method, &target, &Write::fresh()).unwrap();
        let token = match caller {
            SampleCaller::Owner => server.mint(&Server::claims("ada")),
            SampleCaller::Member => with_address("alan"),
            SampleCaller::Operator => server.service_token("root", &[Scope::Operator]),
            SampleCaller::Invitee => with_address("ivy"),
        };
        (method, token, message)
    };
    METHODS.iter().map(call).collect()
}

/// Calls every method of roster with a valid request, and asserts that each is refused because the datastore is
/// unavailable. Each call ends in time, the streams too.
async fn assert_every_method_is_unavailable(server: &Server, organization: &str) {
    // Fewer at once than the server accepts.
    for calls in sample_calls(server, organization).chunks(CALLS_AT_ONCE) {
        let calls = calls.iter().map(async |(method, token, message)| {
            let call = samples::call(server.channel(), token, method.path, message.clone());
            (method.path, timeout(CALL_TIMEOUT, call).await)
        });
        for (path, answer) in futures_util::future::join_all(calls).await {
            let answer = answer.unwrap_or_else(|_| panic!("{path} did not end"));
            assert_unavailable(path, answer);
        }
    }
}

/// Asserts that the health service reports only this status for this time.
async fn assert_health_stays(server: &Server, wanted: ServingStatus, time: Duration) {
    let mut health = HealthClient::new(server.channel());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let reports = async {
        while let Some(answer) = watch.message().await.unwrap() {
            assert_eq!(answer.status(), wanted);
        }
        panic!("the watch of the health ended");
    };
    assert!(timeout(time, reports).await.is_err());
}

/// Waits until the server is healthy, and asserts that it is within [`RECOVERY`].
async fn assert_recovers(server: &Server) {
    let begin = Instant::now();
    server.until_serving().await;
    assert!(begin.elapsed() < RECOVERY, "the recovery took {:?}", begin.elapsed());
}

/// Makes writes and fully consistent checks at once, more than the server has connections, and asserts that all succeed.
async fn assert_all_succeed(server: &Server, organization: &str) {
    let calls = (0..20).map(|_| async {
        let mut operator = server.operator();
        let user = roster::random::uuid().to_string();
        operator.organizations.add_member(crate::harness::add(organization, &user, "member")).await?;
        let answer = operator.checks.check_membership(check(organization, &user, FULLY_CONSISTENT)).await?;
        assert!(answer.into_inner().result.unwrap().allowed);
        Ok::<_, Status>(())
    });
    for answer in futures_util::future::join_all(calls).await {
        answer.unwrap();
    }
}

/// A server behind a proxy in front of its database, with an organization.
struct Scene {
    /// The database without the proxy.
    direct: Database,
    proxy: Proxy,
    server: Arc<Server>,
    organization: String,
}

impl Scene {
    async fn new() -> Self {
        let direct = Database::new().await;
        let (proxy, database) = Proxy::before(&direct).await;
        let server = Server::over(database, ServerSettings::default()).await;
        server.roster.replica().loaded().await;
        let organization = server.user("ada").create("Acme").await;
        Self { direct, proxy, server: Arc::new(server), organization }
    }
}
