//! The copy when the way to the server is torn, silent or closed, and when the server is another one.

use super::cache::{assert_equal, everything, never_going_back};
use super::proxy::Proxy;
use super::{client, copied, from_memory, settings, soon};
use crate::harness::server::Clients;
use crate::harness::{Server, remove};
use crate::streams::writers::Writers;
use roster::client::{CacheSettings, Check, Client, Error, MembershipCache, Source, TokenSource};
use roster::domain::Scope;
use roster::server::ServerSettings;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The bound that a copy keeps.
const BOUND: Duration = Duration::from_secs(1);

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(super::SOON, waiting).await.is_ok(), "it never happened that {what}");
}

/// An organization with a member who is in the copy.
async fn with_member(server: &Server, cache: &MembershipCache) -> (Clients, String, Check) {
    let mut owner = server.user("ada");
    let id = owner.create("Acme").await;
    owner.add(&id, "grace", "member").await;
    soon(cache.caught_up()).await;
    let ask = Check::member(&id, "grace").unwrap();
    assert!(from_memory(cache, &ask).await.is_allowed());
    (owner, id, ask)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_at_random_points_it_goes_on_from_its_cursor_and_never_goes_back() {
    let (server, proxy, cache) = copied().await;
    let writers = Writers::begin(&server, 3);
    soon(writers.until(50)).await;
    soon(cache.caught_up()).await;
    let ids: Vec<String> = sqlx::query_scalar("SELECT id::text FROM organizations WHERE delete_time IS NULL")
        .fetch_all(&server.database.pool)
        .await
        .unwrap();
    let watched: Vec<Check> = ids.iter().map(|id| Check::member(id, "user-1").unwrap()).collect();
    let tearing = async {
        for round in 0..20 {
            // Somewhere in the stream: after some more writes, and not at a checkpoint.
            soon(writers.until(writers.written() + 1 + round * 7 % 13)).await;
            let begun = cache.statistics().watches;
            proxy.cut();
            until("it watches again", || cache.statistics().watches > begun).await;
        }
    };
    never_going_back(&cache, &watched, tearing).await;
    writers.end().await;
    soon(cache.caught_up()).await;
    let statistics = cache.statistics();
    assert!(statistics.interruptions >= 20 && statistics.exports == 1 && statistics.gaps == 0, "{statistics:?}");
    assert_equal(&cache, &client(&server).await, &everything(&server).await).await;
}

#[tokio::test]
async fn stalled_past_the_lease_it_asks_the_server() {
    let (server, proxy, cache) = copied().await;
    let (mut owner, id, ask) = with_member(&server, &cache).await;
    // The client's own connection is the first one: that goes on.
    proxy.stall_from(1);
    owner.organizations.remove_member(remove(&id, "grace")).await.unwrap();
    let removed = Instant::now();
    let denied = loop {
        let asked = Instant::now();
        let answer = cache.check(&ask).await.unwrap();
        if !answer.is_allowed() {
            break answer;
        }
        assert!(asked.duration_since(removed) < BOUND, "a stale yes");
    };
    assert_ne!(denied.source, Source::Cache, "the copy could not have known");
    assert!(cache.check_now(&ask).is_none());
    proxy.go_on();
    soon(cache.caught_up()).await;
    assert!(!from_memory(&cache, &ask).await.is_allowed());
}

#[tokio::test]
async fn stalled_altogether_it_says_unavailable_and_recovers() {
    let (server, proxy, cache) = copied().await;
    let (mut owner, id, ask) = with_member(&server, &cache).await;
    proxy.stall_from(0);
    owner.organizations.remove_member(remove(&id, "grace")).await.unwrap();
    let removed = Instant::now();
    let error = loop {
        let asked = Instant::now();
        match cache.check(&ask).await {
            Ok(answer) => {
                assert!(!answer.is_allowed() || asked.duration_since(removed) < BOUND, "a stale yes");
                assert_eq!(answer.source, Source::Cache, "nobody else can have answered");
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(cache.statistics().unanswered > 0);
    // Until the copy has given its connection up, too.
    let interrupted = cache.statistics().interruptions;
    until("the silence is noticed", || cache.statistics().interruptions > interrupted).await;
    proxy.go_on();
    soon(cache.caught_up()).await;
    assert!(!from_memory(&cache, &ask).await.is_allowed());
    assert_eq!(cache.statistics().exports, 1, "it goes on from its cursor");
}

#[tokio::test]
async fn a_closed_way_is_unavailable_and_an_open_one_is_found_again() {
    let (server, proxy, cache) = copied().await;
    let (_, _, ask) = with_member(&server, &cache).await;
    proxy.close(true);
    until("the lease has run out", || cache.check_now(&ask).is_none()).await;
    let error = cache.check(&ask).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    proxy.close(false);
    soon(cache.caught_up()).await;
    assert!(from_memory(&cache, &ask).await.is_allowed());
}

#[tokio::test]
async fn another_server_over_the_same_datastore_goes_on_from_the_cursor() {
    let mut first = Server::start().await;
    let proxy = Proxy::to(first.address).await;
    let shown = Arc::new(Mutex::new(first.service_token("backend", &[Scope::Check])));
    let source = TokenSource::from_fn({
        let shown = shown.clone();
        move || {
            let token = shown.lock().unwrap().clone();
            async move { Ok(token) }
        }
    });
    let client = Client::lazy(settings(&first, proxy.address).with_token(source));
    let cache = MembershipCache::start(&client, CacheSettings::default());
    soon(cache.caught_up()).await;
    let (_, id, ask) = with_member(&first, &cache).await;

    first.stop().await;
    let second = Server::over(first.database.clone(), ServerSettings::default()).await;
    second.user("ada").organizations.remove_member(remove(&id, "grace")).await.unwrap();
    *shown.lock().unwrap() = second.service_token("backend", &[Scope::Check]);
    proxy.lead_to(second.address);
    proxy.cut();
    soon(cache.caught_up()).await;
    assert!(!from_memory(&cache, &ask).await.is_allowed());
    let statistics = cache.statistics();
    assert!(statistics.exports == 1 && statistics.watches >= 2, "{statistics:?}");
}

#[tokio::test]
async fn with_a_cursor_that_has_expired_it_exports_again() {
    let (server, proxy, cache) = copied().await;
    let (mut owner, id, ask) = with_member(&server, &cache).await;
    proxy.close(true);
    owner.organizations.remove_member(remove(&id, "grace")).await.unwrap();
    // What it lacks is no longer told.
    sqlx::query("DELETE FROM log").execute(&server.database.pool).await.unwrap();
    proxy.close(false);
    soon(cache.caught_up()).await;
    assert!(!from_memory(&cache, &ask).await.is_allowed());
    let statistics = cache.statistics();
    assert_eq!((statistics.exports, statistics.gaps), (2, 0), "{statistics:?}");
    assert_equal(&cache, &client(&server).await, &everything(&server).await).await;
}

#[tokio::test]
async fn a_copy_that_nobody_holds_is_no_longer_followed() {
    let (_server, proxy, cache) = copied().await;
    let again = cache.clone();
    drop(cache);
    assert_eq!(proxy.connections(), 2, "the client's, and the copy's");
    from_memory(&again, &Check::member("acme", "ada").unwrap()).await;
    drop(again);
    until("its connections are closed", || proxy.connections() == 0).await;
}
