//! The client library for Rust backends: checks, the membership cache and the guard.

mod cache;
mod checks;
mod faults;
mod guard;
mod roles;
mod tls;

use crate::harness::Server;
use crate::harness::proxy::Proxy;
use roster::client::{Answer, CacheSettings, Check, Client, ClientSettings, MembershipCache, TokenSource};
use roster::domain::Scope;
use std::net::SocketAddr;
use std::time::Duration;

/// Timeout of every expected event.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits for an event, at most [`EVENT_TIMEOUT`].
pub async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(EVENT_TIMEOUT, event).await.expect("the event did not happen in time")
}

/// Client settings with a service token with the scope `check`, for this address.
fn settings(server: &Server, address: SocketAddr) -> ClientSettings {
    let token = TokenSource::fixed(&server.service_token("backend", &[Scope::Check])).unwrap();
    ClientSettings::new(format!("http://{address}")).unwrap().with_token(token)
}

/// A client connected to the server.
pub async fn client(server: &Server) -> Client {
    Client::connect(settings(server, server.address)).await.unwrap()
}

/// A server, a proxy in front of it, and a cache behind the proxy whose replica is up to date. Connection 0 of the
/// proxy is the client's, connection 1 the cache follower's.
async fn cached() -> (Server, Proxy, MembershipCache) {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address).await;
    let client = Client::connect(settings(&server, proxy.address)).await.unwrap();
    let cache = MembershipCache::start(&client, CacheSettings::default());
    soon(cache.caught_up()).await;
    (server, proxy, cache)
}

/// The answer from the replica, as soon as there is one: on a busy machine the lease may just have run out.
pub async fn from_memory(cache: &MembershipCache, check: &Check) -> Answer {
    soon(async {
        loop {
            if let Some(answer) = cache.check_now(check) {
                return answer;
            }
            soon(cache.caught_up()).await;
        }
    })
    .await
}
