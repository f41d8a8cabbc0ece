//! The membership cache when its connection breaks, stalls or is refused, and when the server is replaced.

use super::cache::{all_checks, assert_equal, assert_monotonic};
use super::{cached, client, from_memory, settings, soon};
use crate::harness::proxy::Proxy;
use crate::harness::server::Clients;
use crate::harness::{Server, remove};
use crate::streams::writers::Writers;
use roster::client::{CacheSettings, Check, Client, Error, MembershipCache, Source, TokenSource};
use roster::domain::Scope;
use roster::server::ServerSettings;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The cache's maximum staleness.
const MAX_STALENESS: Duration = Duration::from_secs(1);

/// Waits until a condition holds.
async fn until(condition: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(super::EVENT_TIMEOUT, waiting).await.is_ok(), "timed out waiting until {condition}");
}

/// An organization with a member, both in the replica.
async fn with_member(server: &Server, cache: &MembershipCache) -> (Clients, String, Check) {
    let mut owner = server.user("ada");
    let id = owner.create("Acme").await;
    owner.add(&id, "grace", "member").await;
    soon(cache.caught_up()).await;
    let check = Check::member(&id, "grace").unwrap();
    assert!(from_memory(cache, &check).await.is_allowed());
    (owner, id, check)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_watches_continue_from_the_cursor_and_revisions_never_decrease() {
    let (server, proxy, cache) = cached().await;
    let writers = Writers::begin(&server, 3);
    soon(writers.until(50)).await;
    soon(cache.caught_up()).await;
    let ids: Vec<String> = sqlx::query_scalar("SELECT id::text FROM organizations WHERE delete_time IS NULL")
        .fetch_all(&server.database.pool)
        .await
        .unwrap();
    let samples: Vec<Check> = ids.iter().map(|id| Check::member(id, "user-1").unwrap()).collect();
    let interruptions = async {
        for round in 0..20 {
            // At some point of the stream: after a few more writes, not at a checkpoint.
            soon(writers.until(writers.written() + 1 + round * 7 % 13)).await;
            let watches = cache.statistics().watches;
            proxy.cut();
            until("the cache watches again", || cache.statistics().watches > watches).await;
        }
    };
    assert_monotonic(&cache, &samples, interruptions).await;
    writers.end().await;
    soon(cache.caught_up()).await;
    let statistics = cache.statistics();
    assert!(statistics.interruptions >= 20 && statistics.exports == 1 && statistics.gaps == 0, "{statistics:?}");
    assert_equal(&cache, &client(&server).await, &all_checks(&server).await).await;
}

#[tokio::test]
async fn the_server_answers_when_a_stalled_watch_lets_the_lease_run_out() {
    let (server, proxy, cache) = cached().await;
    let (mut owner, id, check) = with_member(&server, &cache).await;
    // Connection 0, the client's, is not stalled.
    proxy.stall_from(1);
    owner.organizations.remove_member(remove(&id, "grace")).await.unwrap();
    let removed = Instant::now();
    let denied = loop {
        let start = Instant::now();
        let answer = cache.check(&check).await.unwrap();
        if !answer.is_allowed() {
            break answer;
        }
        assert!(start.duration_since(removed) < MAX_STALENESS, "allowed beyond the maximum staleness");
    };
    assert_ne!(denied.source, Source::Cache, "the replica cannot have the removal yet");
    assert!(cache.check_now(&check).is_none());
    proxy.resume();
    soon(cache.caught_up()).await;
    assert!(!from_memory(&cache, &check).await.is_allowed());
}

#[tokio::test]
async fn checks_are_unavailable_when_all_connections_stall_and_recover_afterwards() {
    let (server, proxy, cache) = cached().await;
    let (mut owner, id, check) = with_member(&server, &cache).await;
    proxy.stall_from(0);
    owner.organizations.remove_member(remove(&id, "grace")).await.unwrap();
    let removed = Instant::now();
    let error = loop {
        let start = Instant::now();
        match cache.check(&check).await {
            Ok(answer) => {
                assert!(
                    !answer.is_allowed() || start.duration_since(removed) < MAX_STALENESS,
                    "allowed beyond the maximum staleness"
                );
                assert_eq!(answer.source, Source::Cache, "no other source can have answered");
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(cache.statistics().unanswered > 0);
    // Wait until the cache's follower has given up its connection, too.
    let interrupted = cache.statistics().interruptions;
    until("the silence is noticed", || cache.statistics().interruptions > interrupted).await;
    proxy.resume();
    soon(cache.caught_up()).await;
    assert!(!from_memory(&cache, &check).await.is_allowed());
    assert_eq!(cache.statistics().exports, 1, "the watch continues from its cursor");
}

#[tokio::test]
async fn the_cache_recovers_after_refused_connections() {
    let (server, proxy, cache) = cached().await;
    let (_, _, check) = with_member(&server, &cache).await;
    proxy.close(true);
    until("the lease has run out", || cache.check_now(&check).is_none()).await;
    let error = cache.check(&check).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    proxy.close(false);
    soon(cache.caught_up()).await;
    assert!(from_memory(&cache, &check).await.is_allowed());
}

#[tokio::test]
async fn another_server_of_the_same_datastore_continues_from_the_cursor() {
    let mut first = Server::start().await;
    let proxy = Proxy::to(first.address).await;
    let token = Arc::new(Mutex::new(first.service_token("backend", &[Scope::Check])));
    let source = TokenSource::from_fn({
        let token = token.clone();
        move || {
            let current = token.lock().unwrap().clone();
            async move { Ok(current) }
        }
    });
    let client = Client::lazy(settings(&first, proxy.address).with_token(source));
    let cache = MembershipCache::start(&client, CacheSettings::default());
    soon(cache.caught_up()).await;
    let (_, id, check) = with_member(&first, &cache).await;

    first.stop().await;
    let second = Server::over(first.database.clone(), ServerSettings::default()).await;
    second.user("ada").organizations.remove_member(remove(&id, "grace")).await.unwrap();
    *token.lock().unwrap() = second.service_token("backend", &[Scope::Check]);
    proxy.redirect(second.address);
    proxy.cut();
    soon(cache.caught_up()).await;
    assert!(!from_memory(&cache, &check).await.is_allowed());
    let statistics = cache.statistics();
    assert!(statistics.exports == 1 && statistics.watches >= 2, "{statistics:?}");
}

#[tokio::test]
async fn an_expired_cursor_leads_to_a_new_export() {
    let (server, proxy, cache) = cached().await;
    let (mut owner, id, check) = with_member(&server, &cache).await;
    proxy.close(true);
    owner.organizations.remove_member(remove(&id, "grace")).await.unwrap();
    // The log no longer has the removal.
    sqlx::query("DELETE FROM log").execute(&server.database.pool).await.unwrap();
    proxy.close(false);
    soon(cache.caught_up()).await;
    assert!(!from_memory(&cache, &check).await.is_allowed());
    let statistics = cache.statistics();
    assert_eq!((statistics.exports, statistics.gaps), (2, 0), "{statistics:?}");
    assert_equal(&cache, &client(&server).await, &all_checks(&server).await).await;
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_watch() {
    let (_server, proxy, cache) = cached().await;
    let second = cache.clone();
    drop(cache);
    assert_eq!(proxy.connections(), 2, "the client's and the follower's");
    from_memory(&second, &Check::member("acme", "ada").unwrap()).await;
    drop(second);
    until("the connections are closed", || proxy.connections() == 0).await;
}
