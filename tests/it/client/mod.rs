//! The client for Rust backends: what it asks, the copy that it keeps, and the guard on top of it.

mod asks;
mod cache;
mod faults;
mod guard;
mod proxy;

use crate::harness::Server;
use proxy::Proxy;
use roster::client::{Answer, CacheSettings, Check, Client, ClientSettings, MembershipCache, TokenSource};
use roster::domain::Scope;
use std::net::SocketAddr;
use std::time::Duration;

/// How long anything may take that must happen.
const SOON: Duration = Duration::from_secs(30);

/// What must happen, soon.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("it never happened")
}

/// Settings that show a service's token with the scope `check`, at this address.
fn settings(server: &Server, address: SocketAddr) -> ClientSettings {
    let token = TokenSource::fixed(&server.service_token("backend", &[Scope::Check])).unwrap();
    ClientSettings::new(format!("http://{address}")).unwrap().with_token(token)
}

/// A client of a server.
async fn client(server: &Server) -> Client {
    Client::connect(settings(server, server.address)).await.unwrap()
}

/// A server, a way to it, and a copy that is kept over that way and has everything. The client's own connection is the
/// first one of the way, the copy's is the next.
async fn copied() -> (Server, Proxy, MembershipCache) {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address).await;
    let client = Client::connect(settings(&server, proxy.address)).await.unwrap();
    let cache = MembershipCache::start(&client, CacheSettings::default());
    soon(cache.caught_up()).await;
    (server, proxy, cache)
}

/// What the copy says, as soon as it says anything: on a busy machine the lease may just have run out.
async fn from_memory(cache: &MembershipCache, check: &Check) -> Answer {
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
