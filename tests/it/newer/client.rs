//! The Rust client: its cache loads, follows, and answers everything but what it does not know.

use super::Fixture;
use crate::client::{client, from_memory, soon};
use roster::client::{CacheSettings, Check, CheckReason, Consistency, MembershipCache, Source};
use roster::grpc::pb::ErrorReason;

async fn assert_answers(fixture: &Fixture, cache: &MembershipCache, gamma: Source) {
    soon(cache.caught_up()).await;
    for (organization, user, reason) in [
        (fixture.acme.as_str(), "ada", CheckReason::Allowed),
        (fixture.acme.as_str(), "alan", CheckReason::Allowed),
        ("acme", "alan", CheckReason::Allowed),
        (fixture.acme.as_str(), "nobody", CheckReason::NotAMember),
    ] {
        let answer = from_memory(cache, &Check::member(organization, user).unwrap()).await;
        assert_eq!((answer.reason, answer.source), (reason, Source::Cache), "{organization} {user}");
    }
    let answer = cache.check(&Check::member(&fixture.gamma, "alan").unwrap()).await.unwrap();
    assert!(answer.is_allowed());
    assert_eq!(answer.source == Source::Cache, gamma == Source::Cache, "{answer:?}");
    let unknown = [
        (fixture.acme.as_str(), "eve"),
        ("acme", "eve"),
        (fixture.beta.as_str(), "ada"),
        ("beta", "nobody"),
        (fixture.acme.as_str(), "joan"),
    ];
    for (organization, user) in unknown {
        let check = Check::member(organization, user).unwrap();
        assert!(cache.check_now(&check).is_none(), "{organization} {user}");
        let error = cache.check(&check).await.unwrap_err();
        assert!(error.is_unavailable() && error.reason() == Some(ErrorReason::ValueUnknown), "{error:?}");
    }
    // In a batch the others are answered.
    let checks: Vec<Check> = [(fixture.acme.as_str(), "alan")]
        .into_iter()
        .chain(unknown)
        .map(|(organization, user)| Check::member(organization, user).unwrap())
        .collect();
    let answers = cache.check_batch(&checks, &Consistency::Recent).await.unwrap();
    assert!(answers[0].is_allowed());
    assert!(answers[1..].iter().all(|answer| answer.reason == CheckReason::ValueUnknown && !answer.is_allowed()));
    let statistics = cache.statistics();
    assert_eq!((statistics.exports, statistics.gaps, statistics.interruptions), (1, 0, 0), "{statistics:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_asks_the_server_only_about_what_it_does_not_know() {
    let fixture = Fixture::new().await;
    let client = client(&fixture.server).await;
    let following = MembershipCache::start(&client, CacheSettings::default());
    soon(following.caught_up()).await;
    fixture.roll_forward().await;
    // One follows the changes, the other one loads the rows.
    let loading = MembershipCache::start(&client, CacheSettings::default());
    assert_answers(&fixture, &following, Source::Server).await;
    assert_answers(&fixture, &loading, Source::Cache).await;
    fixture.roll_back().await;
    for cache in [&following, &loading] {
        soon(cache.caught_up()).await;
        for (organization, user, reason) in [
            (&fixture.acme, "eve", CheckReason::Allowed),
            (&fixture.acme, "joan", CheckReason::Allowed),
            (&fixture.beta, "ada", CheckReason::OrganizationInactive),
        ] {
            let answer = from_memory(cache, &Check::member(organization, user).unwrap()).await;
            assert_eq!((answer.reason, answer.source), (reason, Source::Cache));
        }
        assert_eq!(cache.statistics().interruptions, 0);
    }
}
