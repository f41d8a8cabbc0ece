//! A server whose issuer has its keys by URL, as its callers and its operator see it.

use super::by_discovery;
use super::issuer_keys::IssuerKey;
use super::provider::{Behaviour, KEYS, Provider};
use crate::harness::{Database, Server};
use crate::replica::until;
use roster::authn::settings::IssuerSettings;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_types::StatusExt;

/// A server that also accepts the users of this provider.
async fn server(provider: &Provider) -> Server {
    let issuer =
        IssuerSettings { user_id_prefix: "other|".to_owned(), scopes: vec![Scope::Manage], ..by_discovery(provider) };
    let settings = ServerSettings::default();
    let server = Server::launch_with(Database::new().await, settings, |auth| auth.issuers.push(issuer)).await;
    server.until_serving().await;
    server
}

fn token(provider: &Provider, key: &IssuerKey) -> String {
    let now = Server::claims("ada").iat;
    key.sign(&json!({"iss": provider.issuer(), "aud": "roster", "sub": "ada", "iat": now, "exp": now + 600}))
}

fn service_token(provider: &Provider, key: &IssuerKey) -> String {
    let now = Server::claims("ada").iat;
    let claims = json!({"iss": provider.issuer(), "aud": "roster", "sub": "billing", "exp": now + 600,
        "scope": "roster:manage"});
    key.sign(&claims)
}

async fn metrics(server: &Server) -> String {
    let mut stream = TcpStream::connect(server.metrics).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: metrics\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_whose_issuer_has_no_keys_is_unavailable_until_they_come() {
    let key = IssuerKey::ed25519();
    let mut provider = Provider::start(&[&key]).await;
    provider.go_down();
    let server = server(&provider).await;
    let mut caller = server.with_token(&token(&provider, &key));
    let request = pb::GetCallerRequest::default();
    let status = caller.users.get_caller(request).await.unwrap_err();
    assert_eq!((status.code(), crate::harness::reason(&status)), (Code::Unavailable, "KEYS_UNAVAILABLE".to_owned()));
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    // The users of another issuer do not notice.
    server.user("ada").users.get_caller(request).await.unwrap();
    let issuer = provider.issuer();
    let text = metrics(&server).await;
    assert!(text.contains(&format!("roster_issuer_keys_age_seconds{{issuer=\"{issuer}\"}} -1\n")), "{text}");
    let failed = format!("roster_issuer_keys_failed_fetches_total{{issuer=\"{issuer}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&failed)).unwrap_or_else(|| panic!("{text}"));
    assert!(value.parse::<u64>().unwrap() > 0, "{text}");

    provider.come_back().await;
    until("the token is accepted", async || caller.users.get_caller(request).await.is_ok()).await;
    let text = metrics(&server).await;
    let age = format!("roster_issuer_keys_age_seconds{{issuer=\"{issuer}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&age)).unwrap_or_else(|| panic!("{text}"));
    assert!(value.parse::<u64>().is_ok(), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_when_its_key_is_withdrawn() {
    let (withdrawn, new) = (IssuerKey::ed25519(), IssuerKey::ed25519());
    let provider = Provider::start(&[&withdrawn]).await;
    let server = server(&provider).await;
    let mut caller = server.with_token(&service_token(&provider, &withdrawn));
    let mut events = caller.events.watch_events(pb::WatchEventsRequest::default()).await.unwrap().into_inner();
    events.message().await.unwrap();
    provider.publish(&[&new]);
    // A token with the new key makes the server fetch.
    let mut next = server.with_token(&service_token(&provider, &new));
    next.users.get_caller(pb::GetCallerRequest::default()).await.unwrap();
    let ended = async {
        while events.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the stream goes on");
    crate::harness::assert_refused(ended, Code::Unauthenticated, "CREDENTIAL_INVALID");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fetch_outlives_the_server() {
    let key = IssuerKey::ed25519();
    let provider = Provider::start(&[&key]).await;
    provider.behave(Behaviour::Close);
    let mut server = server(&provider).await;
    until("fetches fail", async || server.authenticator.key_statistics()[0].failed_fetches > 0).await;
    server.stop().await;
    let connections = provider.connections();
    // The next attempts would come after one, two and four seconds.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(provider.connections(), connections);
    assert_eq!(provider.requests(KEYS), 0);
}
