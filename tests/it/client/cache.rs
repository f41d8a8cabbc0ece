//! The membership cache: its answers equal the server's, and their freshness.

use super::{cached, client, from_memory, soon};
use crate::harness::{Server, add, remove, set_role};
use crate::streams::writers::Writers;
use roster::client::{Answer, CacheSettings, Check, CheckReason, Client, Consistency, MembershipCache, Source};
use roster::domain::{Kind, Permission, RoleName};
use roster::grpc::pb;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The content of an answer, without its source and token.
fn content(answer: &Answer) -> (CheckReason, Option<RoleName>, i64) {
    (answer.reason, answer.role.clone(), answer.revision)
}

/// Checks of every user in every organization, by id and by slug.
pub(super) async fn all_checks(server: &Server) -> Vec<Check> {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT id::text FROM organizations UNION ALL SELECT slug FROM organizations")
            .fetch_all(&server.database.pool)
            .await
            .unwrap();
    // One user represents each batch of users.
    let users: Vec<String> = sqlx::query_scalar("SELECT id FROM users WHERE id NOT LIKE 'batch-%' OR id LIKE '%-0'")
        .fetch_all(&server.database.pool)
        .await
        .unwrap();
    let mut checks = vec![Check::member("no-such-thing", "ada").unwrap()];
    for name in &names {
        for user in &users {
            checks.push(Check::permission(name, user, Permission::MEMBERS_ADD).unwrap());
            checks.push(Check::role(name, user, RoleName::OWNER).unwrap());
        }
    }
    checks
}

/// Asserts that an up-to-date replica gives the same answers as the primary.
pub(super) async fn assert_equal(cache: &MembershipCache, client: &Client, checks: &[Check]) {
    for checks in checks.chunks(5_000) {
        let (expected, _) = client.check_batch(checks, &Consistency::Full).await.unwrap();
        for (check, expected) in checks.iter().zip(&expected) {
            let answer = from_memory(cache, check).await;
            assert_eq!(content(&answer), content(expected), "{check:?}");
            assert_eq!(answer.source, Source::Cache);
        }
    }
}

/// Checks from the replica while a task runs, and asserts that no organization's revision decreases.
pub(super) async fn assert_monotonic<T>(cache: &MembershipCache, checks: &[Check], task: impl Future<Output = T>) -> T {
    let mut task = std::pin::pin!(task);
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    loop {
        for check in checks {
            // A purged organization has no revision.
            if let Some(answer) = cache.check_now(check).filter(|answer| answer.revision > 0) {
                let before = newest.insert(check.organization.to_string(), answer.revision).unwrap_or_default();
                assert!(answer.revision >= before, "{check:?} went back from {before} to {}", answer.revision);
            }
        }
        if let Ok(done) = tokio::time::timeout(Duration::from_millis(1), &mut task).await {
            return done;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replica_equals_the_server_under_random_writes() {
    let server = Server::start().await;
    let client = client(&server).await;
    let writers = Writers::begin(&server, 4);
    writers.until(100).await;
    // The cache starts while the writers run.
    let cache = MembershipCache::start(&client, CacheSettings::default());
    soon(cache.caught_up()).await;
    let ids: Vec<String> = sqlx::query_scalar("SELECT id::text FROM organizations WHERE delete_time IS NULL")
        .fetch_all(&server.database.pool)
        .await
        .unwrap();
    let samples: Vec<Check> = ids.iter().map(|id| Check::member(id, "user-1").unwrap()).collect();
    assert_monotonic(&cache, &samples, soon(writers.until(500))).await;
    writers.end().await;
    soon(cache.caught_up()).await;

    let checks = all_checks(&server).await;
    assert!(checks.len() > 1000);
    assert_equal(&cache, &client, &checks).await;
    let statistics = cache.statistics();
    assert_eq!((statistics.exports, statistics.gaps, statistics.interruptions), (1, 0, 0), "{statistics:?}");
    assert!(statistics.changes > 300 && statistics.bytes > 0, "{statistics:?}");
    let members = server.database.count("SELECT count(*) FROM memberships").await;
    assert_eq!(i64::try_from(statistics.memberships).unwrap(), members);

    // A batch gets the same answers.
    let many: Vec<Check> = checks.iter().filter(|check| check.organization.to_string().len() == 36).cloned().collect();
    let answers = cache.check_batch(&many, &Consistency::Recent).await.unwrap();
    for (check, answer) in many.iter().zip(&answers) {
        assert_eq!(content(answer), content(&from_memory(&cache, check).await));
    }
}

#[tokio::test]
async fn a_removed_member_is_denied_within_the_maximum_staleness() {
    let (server, _proxy, cache) = cached().await;
    let mut owner = server.user("ada");
    let id = owner.create("Acme").await;
    let check = Check::member(&id, "grace").unwrap();
    for round in 0..10 {
        owner.add(&id, "grace", "member").await;
        soon(cache.caught_up()).await;
        assert!(from_memory(&cache, &check).await.is_allowed(), "round {round}");
        owner.organizations.remove_member(remove(&id, "grace")).await.unwrap();
        let removed = Instant::now();
        loop {
            let start = Instant::now();
            if !cache.check(&check).await.unwrap().is_allowed() {
                break;
            }
            assert!(
                start.duration_since(removed) < Duration::from_secs(1),
                "round {round}: allowed beyond the maximum staleness"
            );
        }
    }
    let statistics = cache.statistics();
    assert!(statistics.from_memory > 10 && statistics.unanswered == 0, "{statistics:?}");
}

#[tokio::test]
async fn organization_and_user_states_are_replicated() {
    let (server, _proxy, cache) = cached().await;
    let mut owner = server.user("ada");
    let mut operator = server.operator();
    let id = owner.create("Acme").await;
    owner.add(&id, "grace", "member").await;
    let grace = Check::permission("acme", "grace", Permission::MEMBERS_ADD).unwrap();
    let assert_reason = async |reason: CheckReason| {
        soon(cache.caught_up()).await;
        assert_eq!(from_memory(&cache, &grace).await.reason, reason);
    };
    assert_reason(CheckReason::RoleLacksPermission).await;
    owner.organizations.update_member(set_role(&id, "grace", "admin")).await.unwrap();
    assert_reason(CheckReason::Allowed).await;
    let user_id = "grace".to_owned();
    let request = pb::DeactivateUserRequest { user_id: user_id.clone(), ..Default::default() };
    operator.users.deactivate_user(request).await.unwrap();
    assert_reason(CheckReason::UserInactive).await;
    let request = pb::ReactivateUserRequest { user_id, ..Default::default() };
    operator.users.reactivate_user(request).await.unwrap();
    let organization = id.clone();
    let request = pb::DeactivateOrganizationRequest { organization, ..Default::default() };
    owner.organizations.deactivate_organization(request).await.unwrap();
    assert_reason(CheckReason::OrganizationInactive).await;
    let request = pb::DeleteOrganizationRequest { organization: id, purge: true, ..Default::default() };
    operator.organizations.delete_organization(request).await.unwrap();
    assert_reason(CheckReason::OrganizationNotFound).await;
    assert_eq!(cache.statistics().memberships, 0);
}

#[tokio::test]
async fn the_server_answers_stricter_consistency_requirements() {
    let (server, _proxy, cache) = cached().await;
    let mut owner = server.user("ada");
    let id = owner.create("Acme").await;
    let response = owner.organizations.add_member(add(&id, "grace", "member")).await.unwrap();
    let token = response.into_inner().consistency_token;
    let check = Check::member(&id, "grace").unwrap();
    let with_token = cache.check_with(&check, &Consistency::AtLeastAsFresh(token)).await.unwrap();
    assert!(with_token.is_allowed() && with_token.source != Source::Cache);
    let full = cache.check_with(&check, &Consistency::Full).await.unwrap();
    assert!(full.is_allowed() && full.source == Source::Primary);
    let answers = cache.check_batch(&[check], &Consistency::Full).await.unwrap();
    assert_eq!(answers[0].source, Source::Primary);
    assert_eq!(cache.statistics().from_server, 3);
}

#[tokio::test]
async fn a_cache_of_one_kind_asks_the_server_about_other_kinds() {
    let server = Server::start().await;
    let mut operator = server.operator();
    let mut ids = BTreeMap::new();
    for kind in ["account", "vendor"] {
        let request = pb::CreateOrganizationRequest {
            name: format!("The {kind}"),
            kind: kind.to_owned(),
            owner_user_id: "ada".to_owned(),
            ..Default::default()
        };
        let answer = operator.organizations.create_organization(request).await.unwrap().into_inner();
        ids.insert(kind, answer.organization.unwrap().id);
    }
    let client = client(&server).await;
    let kind = Some(Kind::parse("vendor").unwrap());
    let cache = MembershipCache::start(&client, CacheSettings { kind, ..CacheSettings::default() });
    soon(cache.caught_up()).await;
    assert_eq!(cache.statistics().memberships, 1);
    operator.add(&ids["vendor"], "grace", "member").await;
    operator.add(&ids["account"], "grace", "member").await;
    soon(cache.caught_up()).await;
    assert_eq!(cache.statistics().memberships, 2);
    let cached = Check::member(&ids["vendor"], "grace").unwrap();
    assert!(from_memory(&cache, &cached).await.is_allowed());
    let other = Check::member(&ids["account"], "grace").unwrap();
    assert!(cache.check_now(&other).is_none(), "the replica does not have this kind");
    assert!(cache.check(&other).await.unwrap().is_allowed());
    let by_slug = cache.check(&Check::member("the-account", "ada").unwrap()).await.unwrap();
    assert!(by_slug.is_allowed() && by_slug.source != Source::Cache);
}
