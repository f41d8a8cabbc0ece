//! The copy: that it says what the server says, and how fresh it is.

use super::{client, copied, from_memory, soon};
use crate::harness::{Server, add, remove, set_role};
use crate::streams::writers::Writers;
use roster::client::{Answer, CacheSettings, Check, CheckReason, Client, Consistency, MembershipCache, Source};
use roster::domain::{Kind, Permission, Role};
use roster::grpc::pb;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What an answer says, whoever gives it.
fn said(answer: &Answer) -> (CheckReason, Option<Role>, i64) {
    (answer.reason, answer.role, answer.revision)
}

/// Questions about everybody everywhere, by id and by slug.
pub(super) async fn everything(server: &Server) -> Vec<Check> {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT id::text FROM organizations UNION ALL SELECT slug FROM organizations")
            .fetch_all(&server.database.pool)
            .await
            .unwrap();
    // Of those who came in a batch, the first stands for all.
    let users: Vec<String> = sqlx::query_scalar("SELECT id FROM users WHERE id NOT LIKE 'batch-%' OR id LIKE '%-0'")
        .fetch_all(&server.database.pool)
        .await
        .unwrap();
    let mut checks = vec![Check::member("no-such-thing", "ada").unwrap()];
    for name in &names {
        for user in &users {
            checks.push(Check::permission(name, user, Permission::MembersAdd).unwrap());
            checks.push(Check::role(name, user, Role::OWNER).unwrap());
        }
    }
    checks
}

/// Asserts that a copy that has caught up says what the datastore says.
pub(super) async fn assert_equal(cache: &MembershipCache, client: &Client, checks: &[Check]) {
    for checks in checks.chunks(5_000) {
        let (truth, _) = client.check_batch(checks, &Consistency::Full).await.unwrap();
        for (check, truth) in checks.iter().zip(&truth) {
            let answer = from_memory(cache, check).await;
            assert_eq!(said(&answer), said(truth), "{check:?}");
            assert_eq!(answer.source, Source::Cache);
        }
    }
}

/// Asks a copy about organizations for as long as something else takes: none of them may go back.
pub(super) async fn never_going_back<T>(cache: &MembershipCache, checks: &[Check], what: impl Future<Output = T>) -> T {
    let mut what = std::pin::pin!(what);
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    loop {
        for check in checks {
            // An organization that is purged has no revision any more.
            if let Some(answer) = cache.check_now(check).filter(|answer| answer.revision > 0) {
                let before = newest.insert(check.organization.to_string(), answer.revision).unwrap_or_default();
                assert!(answer.revision >= before, "{check:?} went back from {before} to {}", answer.revision);
            }
        }
        if let Ok(done) = tokio::time::timeout(Duration::from_millis(1), &mut what).await {
            return done;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_says_what_the_server_says_under_random_writes() {
    let server = Server::start().await;
    let client = client(&server).await;
    let writers = Writers::begin(&server, 4);
    writers.until(100).await;
    // It begins among the writes, and goes on under them.
    let cache = MembershipCache::start(&client, CacheSettings::default());
    soon(cache.caught_up()).await;
    let ids: Vec<String> = sqlx::query_scalar("SELECT id::text FROM organizations WHERE delete_time IS NULL")
        .fetch_all(&server.database.pool)
        .await
        .unwrap();
    let watched: Vec<Check> = ids.iter().map(|id| Check::member(id, "user-1").unwrap()).collect();
    never_going_back(&cache, &watched, soon(writers.until(500))).await;
    writers.end().await;
    soon(cache.caught_up()).await;

    let checks = everything(&server).await;
    assert!(checks.len() > 1000);
    assert_equal(&cache, &client, &checks).await;
    let statistics = cache.statistics();
    assert_eq!((statistics.exports, statistics.gaps, statistics.interruptions), (1, 0, 0), "{statistics:?}");
    assert!(statistics.changes > 300 && statistics.bytes > 0, "{statistics:?}");
    let members = server.database.count("SELECT count(*) FROM memberships").await;
    assert_eq!(i64::try_from(statistics.memberships).unwrap(), members);

    // Many at once are answered the same.
    let many: Vec<Check> = checks.iter().filter(|check| check.organization.to_string().len() == 36).cloned().collect();
    let answers = cache.check_batch(&many, &Consistency::Recent).await.unwrap();
    for (check, answer) in many.iter().zip(&answers) {
        assert_eq!(said(answer), said(&from_memory(&cache, check).await));
    }
}

#[tokio::test]
async fn what_was_revoked_is_denied_within_the_bound() {
    let (server, _proxy, cache) = copied().await;
    let mut owner = server.user("ada");
    let id = owner.create("Acme").await;
    let ask = Check::member(&id, "grace").unwrap();
    for round in 0..10 {
        owner.add(&id, "grace", "member").await;
        soon(cache.caught_up()).await;
        assert!(from_memory(&cache, &ask).await.is_allowed(), "round {round}");
        owner.organizations.remove_member(remove(&id, "grace")).await.unwrap();
        let removed = Instant::now();
        loop {
            let asked = Instant::now();
            if !cache.check(&ask).await.unwrap().is_allowed() {
                break;
            }
            assert!(asked.duration_since(removed) < Duration::from_secs(1), "round {round}: a stale yes");
        }
    }
    let statistics = cache.statistics();
    assert!(statistics.from_memory > 10 && statistics.unanswered == 0, "{statistics:?}");
}

#[tokio::test]
async fn states_of_organizations_and_users_are_followed() {
    let (server, _proxy, cache) = copied().await;
    let mut owner = server.user("ada");
    let mut operator = server.operator();
    let id = owner.create("Acme").await;
    owner.add(&id, "grace", "member").await;
    let grace = Check::permission("acme", "grace", Permission::MembersAdd).unwrap();
    let says = async |reason: CheckReason| {
        soon(cache.caught_up()).await;
        assert_eq!(from_memory(&cache, &grace).await.reason, reason);
    };
    says(CheckReason::RoleLacksPermission).await;
    owner.organizations.update_member(set_role(&id, "grace", "admin")).await.unwrap();
    says(CheckReason::Allowed).await;
    let user_id = "grace".to_owned();
    let request = pb::DeactivateUserRequest { user_id: user_id.clone(), ..Default::default() };
    operator.users.deactivate_user(request).await.unwrap();
    says(CheckReason::UserInactive).await;
    let request = pb::ReactivateUserRequest { user_id, ..Default::default() };
    operator.users.reactivate_user(request).await.unwrap();
    let organization = id.clone();
    let request = pb::DeactivateOrganizationRequest { organization, ..Default::default() };
    owner.organizations.deactivate_organization(request).await.unwrap();
    says(CheckReason::OrganizationInactive).await;
    let request = pb::DeleteOrganizationRequest { organization: id, purge: true, ..Default::default() };
    operator.organizations.delete_organization(request).await.unwrap();
    says(CheckReason::OrganizationNotFound).await;
    assert_eq!(cache.statistics().memberships, 0);
}

#[tokio::test]
async fn what_the_copy_cannot_promise_the_server_answers() {
    let (server, _proxy, cache) = copied().await;
    let mut owner = server.user("ada");
    let id = owner.create("Acme").await;
    let added = owner.organizations.add_member(add(&id, "grace", "member")).await.unwrap();
    let token = added.into_inner().consistency_token;
    let ask = Check::member(&id, "grace").unwrap();
    let with_token = cache.check_with(&ask, &Consistency::AtLeastAsFresh(token)).await.unwrap();
    assert!(with_token.is_allowed() && with_token.source != Source::Cache);
    let fully = cache.check_with(&ask, &Consistency::Full).await.unwrap();
    assert!(fully.is_allowed() && fully.source == Source::Primary);
    let many = cache.check_batch(&[ask], &Consistency::Full).await.unwrap();
    assert_eq!(many[0].source, Source::Primary);
    assert_eq!(cache.statistics().from_server, 3);
}

#[tokio::test]
async fn a_copy_of_one_kind_answers_for_that_and_asks_about_others() {
    let server = Server::start().await;
    let mut operator = server.operator();
    let mut made = BTreeMap::new();
    for kind in ["account", "vendor"] {
        let request = pb::CreateOrganizationRequest {
            name: format!("The {kind}"),
            kind: kind.to_owned(),
            owner_user_id: "ada".to_owned(),
            ..Default::default()
        };
        let answer = operator.organizations.create_organization(request).await.unwrap().into_inner();
        made.insert(kind, answer.organization.unwrap().id);
    }
    let client = client(&server).await;
    let kind = Some(Kind::parse("vendor").unwrap());
    let cache = MembershipCache::start(&client, CacheSettings { kind, ..CacheSettings::default() });
    soon(cache.caught_up()).await;
    assert_eq!(cache.statistics().memberships, 1);
    operator.add(&made["vendor"], "grace", "member").await;
    operator.add(&made["account"], "grace", "member").await;
    soon(cache.caught_up()).await;
    assert_eq!(cache.statistics().memberships, 2);
    let held = Check::member(&made["vendor"], "grace").unwrap();
    assert!(from_memory(&cache, &held).await.is_allowed());
    let other = Check::member(&made["account"], "grace").unwrap();
    assert!(cache.check_now(&other).is_none(), "it cannot know");
    assert!(cache.check(&other).await.unwrap().is_allowed());
    let by_slug = cache.check(&Check::member("the-account", "ada").unwrap()).await.unwrap();
    assert!(by_slug.is_allowed() && by_slug.source != Source::Cache);
}
