//! A server whose URL leads to a hot standby: it answers nothing, until the standby is promoted.

use super::{
    FULLY_CONSISTENT, assert_every_method_is_unavailable, assert_health_stays, assert_recovers, assert_unavailable,
    check, named, unavailable,
};
use crate::harness::cluster::TestCluster;
use crate::harness::proxy::Proxy;
use crate::harness::standby::Standby;
use crate::harness::{Database, Server, remove};
use roster::grpc::pb::consistency::Requirement;
use roster::server::ServerSettings;
use std::time::{Duration, Instant};
use tonic_health::pb::health_check_response::ServingStatus;

/// The default maximum staleness of a server.
const MAX_STALENESS: Duration = Duration::from_secs(1);
/// A few rounds of the health query and of the poll.
const ROUNDS: Duration = Duration::from_millis(1500);

/// A primary and its standby. `grace` and `alan` are members of the organization.
struct Pair {
    primary: TestCluster,
    standby: Standby,
    organization: String,
}

impl Pair {
    async fn new() -> Self {
        let primary = TestCluster::with_schema().await;
        let mut server = Server::over(primary.database(), ServerSettings::default()).await;
        let mut ada = server.user("ada");
        let organization = ada.create("Acme").await;
        for user in ["grace", "alan"] {
            ada.add(&organization, user, "member").await;
        }
        server.stop().await;
        let standby = Standby::of(&primary).await;
        Self { primary, standby, organization }
    }

    /// Removes a member on the primary, and returns the consistency token of the removal.
    async fn remove(&self, user: &str) -> String {
        let mut server = Server::over(self.primary.database(), ServerSettings::default()).await;
        let answer = server.operator().organizations.remove_member(remove(&self.organization, user)).await.unwrap();
        let token = answer.into_inner().consistency_token;
        server.stop().await;
        token
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_a_standby_answers_nothing_until_the_promotion() {
    let pair = Pair::new().await;
    pair.standby.pause_replay().await;
    let token = pair.remove("grace").await;
    let server = Server::launch(pair.standby.database(), ServerSettings::default()).await;
    for requirement in [Some(Requirement::AtLeastAsFresh(token.clone())), FULLY_CONSISTENT, None] {
        // An answer about `alan` would be right, and the server cannot know that.
        for user in ["grace", "alan"] {
            let question = check(&pair.organization, user, requirement.clone());
            let answer = server.operator().checks.check_membership(question).await;
            assert_unavailable(&format!("a check with {requirement:?}"), answer);
        }
    }
    assert_every_method_is_unavailable(&server, &pair.organization).await;
    assert_health_stays(&server, ServingStatus::NotServing, ROUNDS).await;
    // The same without a lag.
    pair.standby.resume_replay().await;
    pair.standby.catch_up(&pair.primary).await;
    assert_every_method_is_unavailable(&server, &pair.organization).await;
    assert_health_stays(&server, ServingStatus::NotServing, ROUNDS).await;

    pair.standby.promote().await;
    assert_recovers(&server).await;
    for (user, allowed) in [("grace", false), ("alan", true)] {
        let question = check(&pair.organization, user, Some(Requirement::AtLeastAsFresh(token.clone())));
        let answer = server.operator().checks.check_membership(question).await.unwrap().into_inner().result.unwrap();
        assert_eq!(answer.allowed, allowed, "{user}: {answer:?}");
    }
    server.operator().add(&pair.organization, "late", "member").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_address_moves_to_a_standby_answers_nothing_beyond_the_maximum_staleness() {
    let pair = Pair::new().await;
    let proxy = Proxy::to(&pair.primary).await;
    let database = Database { url: proxy.url(), ..pair.primary.database() };
    let server = Server::over(database, ServerSettings::default()).await;
    server.roster.replica().loaded().await;
    pair.standby.pause_replay().await;
    proxy.redirect(&*pair.standby);
    proxy.cut();
    let token = pair.remove("grace").await;
    let removed = Instant::now();
    let mut operator = server.operator();
    while removed.elapsed() < 3 * MAX_STALENESS {
        for requirement in [None, FULLY_CONSISTENT, Some(Requirement::AtLeastAsFresh(token.clone()))] {
            let may_answer = requirement.is_none();
            let begin = Instant::now();
            let question = check(&pair.organization, "grace", requirement.clone());
            match operator.checks.check_membership(question).await {
                Ok(answer) => assert!(
                    may_answer && begin.duration_since(removed) < MAX_STALENESS,
                    "{requirement:?} after {:?}: {answer:?}",
                    removed.elapsed()
                ),
                Err(status) => assert_eq!(named(&status), unavailable()),
            }
        }
    }
    assert_every_method_is_unavailable(&server, &pair.organization).await;
    assert_health_stays(&server, ServingStatus::NotServing, ROUNDS).await;
    // Back to the primary: the server was only cut off.
    proxy.redirect(&pair.primary);
    proxy.cut();
    assert_recovers(&server).await;
    assert!(!server.operator().is_member(&pair.organization, "grace").await);
    assert!(server.operator().is_member(&pair.organization, "alan").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_with_several_hosts_leads_to_the_primary() {
    let mut pair = Pair::new().await;
    let (first, second) = (Proxy::to(&*pair.standby).await, Proxy::to(&pair.primary).await);
    for attributes in ["", "?target_session_attrs=read-write", "?target_session_attrs=primary"] {
        // A host that refuses connections, the standby, and the primary.
        let url = format!("postgres://postgres@127.0.0.1:1,{},{}/roster{attributes}", first.address, second.address);
        let mut server = Server::over(Database { url, ..pair.primary.database() }, ServerSettings::default()).await;
        server.operator().add(&pair.organization, &roster::random::uuid().to_string(), "member").await;
        server.stop().await;
    }
    // The standby becomes the primary while the server runs.
    let url = format!("postgres://postgres@{},{}/roster", first.address, second.address);
    let server = Server::over(Database { url, ..pair.standby.database() }, ServerSettings::default()).await;
    let token = server.operator().add(&pair.organization, "joan", "member").await;
    pair.standby.catch_up(&pair.primary).await;
    pair.primary.kill().await;
    pair.standby.promote().await;
    assert_recovers(&server).await;
    let question = check(&pair.organization, "joan", Some(Requirement::AtLeastAsFresh(token)));
    assert!(server.operator().checks.check_membership(question).await.unwrap().into_inner().result.unwrap().allowed);
    server.operator().add(&pair.organization, "late", "member").await;
}
