//! Bearer tokens that a peer sends without end: what their verification may take, and what the log says about them.

use super::connections::OpenConnection;
use crate::harness::log::Log;
use crate::harness::{Database, Server, reason};
use http::{HeaderMap, HeaderValue};
use jsonwebtoken::{EncodingKey, Header};
use roster::authn::mint::ClaimSet;
use roster::authn::settings::{ApiKeySettings, IssuerSettings};
use roster::authn::{api_keys, limits};
use roster::domain::Scope;
use roster::server::ServerSettings;
use std::collections::BTreeMap;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const GET_CALLER: &str = "/roster.v1.UserService/GetCaller";
/// An issuer whose signatures are fast to compute, also in a build without optimization.
const FAST_ISSUER: &str = "https://fast.test";
const SECRET: &[u8] = b"a secret of the tests with 32 bytes";
const OTHER_SECRET: &[u8] = b"a secret that the issuer does not know";

/// A server that accepts tokens of [`FAST_ISSUER`] and this API key.
async fn server(api_key: &api_keys::GeneratedApiKey) -> Server {
    // The secret is read at the start only.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, SECRET).unwrap();
    let key = ApiKeySettings { name: "backend".to_owned(), scopes: vec![Scope::Check], sha256: api_key.sha256.clone() };
    let settings = ServerSettings { workers: 1, ..ServerSettings::default() };
    let server = Server::launch_with(Database::new().await, settings, |auth| {
        auth.issuers.push(IssuerSettings {
            issuer: FAST_ISSUER.to_owned(),
            jwks_file: None,
            hs256_secret_file: Some(path),
            user_id_prefix: "fast|".to_owned(),
            ..auth.issuers[0].clone()
        });
        auth.api_keys.push(key);
    })
    .await;
    server.until_serving().await;
    server
}

/// A token of the fast issuer, signed with this secret.
fn token(subject: &str, secret: &[u8], kid: &str) -> String {
    let claims = ClaimSet { iss: FAST_ISSUER.to_owned(), ..Server::claims(subject) };
    let header = Header { kid: Some(kid.to_owned()), ..Header::default() };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret).unwrap()).unwrap()
}

fn bearer(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap())])
}

async fn open(server: &Server, source: &str) -> OpenConnection {
    OpenConnection::open(source, server.address, &[]).await.unwrap()
}

async fn call(connection: &mut OpenConnection, token: &str) -> Status {
    connection.call(GET_CALLER, bearer(token), &[]).await.unwrap()
}

fn outcome(status: &Status) -> String {
    if status.code() == Code::Ok { "OK".to_owned() } else { reason(status) }
}

fn forged() -> String {
    token("eve", OTHER_SECRET, "key")
}

/// Sends an invalid token until it is refused without a look at it, and returns how often it was looked at. Several calls
/// at once, because the budget refills all the time.
async fn spend_the_budget(connection: &mut OpenConnection, token: &str) -> u32 {
    let mut refused = 0;
    for _ in 0..limits::REFUSAL_BURST {
        let mut calls = Vec::new();
        for _ in 0..32 {
            calls.push(connection.begin(GET_CALLER, bearer(token), &[]).await);
        }
        for call in calls {
            let status = call.await.unwrap().unwrap();
            if outcome(&status) == "CREDENTIAL_INVALID" {
                refused += 1;
                continue;
            }
            assert_eq!((status.code(), outcome(&status)), (Code::Unavailable, "OVERLOADED".to_owned()));
            assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "no RetryInfo");
            return refused;
        }
    }
    panic!("every invalid token was looked at");
}

/// The most signatures of refused tokens that the server computes for one address between the start and now.
fn most_signatures(start: Instant) -> u128 {
    let refill = start.elapsed().as_micros().div_ceil(limits::REFUSAL_REFILL.as_micros());
    // A signature counts before its refusal is charged.
    let under_way = u128::try_from(limits::PEER_VERIFICATIONS).unwrap();
    u128::from(limits::REFUSAL_BURST) + refill + under_way
}

#[tokio::test]
async fn an_address_has_a_budget_of_refused_tokens_and_nothing_else_suffers() {
    let api_key = api_keys::generate();
    let server = server(&api_key).await;
    let cached = token("ada", SECRET, "key");
    let (mut attacker, mut neighbour) = (open(&server, "127.0.0.2").await, open(&server, "127.0.0.2").await);
    assert_eq!(outcome(&call(&mut neighbour, &cached).await), "OK");

    let (before, start) = (server.authenticator.computed_signatures(), Instant::now());
    let verified = spend_the_budget(&mut attacker, &forged()).await;
    assert!(verified >= limits::REFUSAL_BURST, "{verified}");
    // A flood over several connections, a new one among them, gets nothing but the refill.
    let mut connections = [attacker, open(&server, "127.0.0.2").await];
    for number in 0..500 {
        let status = call(&mut connections[number % 2], &forged()).await;
        assert!(["OVERLOADED", "CREDENTIAL_INVALID"].contains(&outcome(&status).as_str()));
    }
    let computed = u128::from(server.authenticator.computed_signatures() - before);
    assert!(computed <= most_signatures(start), "{computed} signatures in {:?}", start.elapsed());

    // Which tokens the server would have refused without a verification is not revealed either.
    for other in ["x.y.z".to_owned(), server.mint(&ClaimSet { aud: "other".to_owned(), ..Server::claims("eve") })] {
        spend_the_budget(&mut connections[1], &other).await;
    }
    // Tokens in the cache and API keys are accepted, from the same address. Another address has its own budget.
    assert_eq!(outcome(&call(&mut neighbour, &cached).await), "OK");
    assert_eq!(outcome(&call(&mut neighbour, api_key.secret.expose()).await), "OK");
    let mut other = open(&server, "127.0.0.3").await;
    assert_eq!(outcome(&call(&mut other, &token("grace", SECRET, "key")).await), "OK");
    assert_eq!(outcome(&call(&mut other, &token("eve", OTHER_SECRET, "key")).await), "CREDENTIAL_INVALID");
    // A client that waits gets its token verified.
    let retried = async {
        while outcome(&call(&mut neighbour, &token("joan", SECRET, "key")).await) != "OK" {
            tokio::time::sleep(limits::REFUSAL_REFILL).await;
        }
    };
    tokio::time::timeout(super::connections::PATIENCE, retried).await.unwrap();
}

#[tokio::test]
async fn valid_tokens_are_not_charged() {
    let server = server(&api_keys::generate()).await;
    let mut connection = open(&server, "127.0.0.2").await;
    for number in 0..limits::REFUSAL_BURST + 50 {
        let status = call(&mut connection, &token(&format!("user-{number}"), SECRET, "key")).await;
        assert_eq!(outcome(&status), "OK", "{number}");
    }
}

#[tokio::test]
async fn a_new_connection_brings_no_new_budget() {
    let server = server(&api_keys::generate()).await;
    let (start, before) = (Instant::now(), server.authenticator.computed_signatures());
    for _ in 0..3 {
        let mut connection = open(&server, "127.0.0.2").await;
        spend_the_budget(&mut connection, &forged()).await;
    }
    let computed = u128::from(server.authenticator.computed_signatures() - before);
    assert!(computed <= most_signatures(start), "{computed} signatures in {:?}", start.elapsed());
}

#[tokio::test]
async fn a_token_in_many_calls_at_once_is_verified_at_most_as_often_as_one_address_may_verify_at_once() {
    let server = server(&api_keys::generate()).await;
    let mut connection = open(&server, "127.0.0.2").await;
    let token = server.service_token("backend", &[Scope::Check]);
    let mut calls = Vec::new();
    for _ in 0..100 {
        calls.push(connection.begin(GET_CALLER, bearer(&token), &[]).await);
    }
    for call in calls {
        assert_eq!(outcome(&call.await.unwrap().unwrap()), "OK");
    }
    let computed = server.authenticator.computed_signatures();
    assert!((1..=limits::PEER_VERIFICATIONS).contains(&usize::try_from(computed).unwrap()), "{computed}");
}

#[tokio::test]
async fn a_full_line_of_one_address_refuses_with_a_delay_and_delays_no_other_address() {
    let server = server(&api_keys::generate()).await;
    let (mut connections, mut other) = (Vec::new(), open(&server, "127.0.0.3").await);
    // Each connection may have 256 calls open: more than the line of one address takes.
    for _ in 0..2 {
        connections.push(open(&server, "127.0.0.2").await);
    }
    // Valid tokens, whose signatures take milliseconds in a build without optimization.
    let mut calls = Vec::new();
    for number in 0..250 {
        let mut headers = bearer(&server.mint(&Server::claims(&format!("user-{number}"))));
        headers.insert("grpc-timeout", HeaderValue::from_static("2S"));
        for connection in &mut connections {
            calls.push(connection.begin(GET_CALLER, headers.clone(), &[]).await);
        }
    }
    assert_eq!(outcome(&call(&mut other, &server.mint(&Server::claims("grace"))).await), "OK");
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for call in calls {
        let status = call.await.unwrap().unwrap();
        let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert!(status.code() != Code::Unavailable || delay.is_some(), "no RetryInfo: {status:?}");
        *outcomes.entry(outcome(&status)).or_default() += 1;
    }
    // The handlers of the last calls of the line have little time left for the datastore.
    let expected = ["OK", "OVERLOADED", "DEADLINE_EXCEEDED", "DATASTORE_UNAVAILABLE"];
    assert!(outcomes.keys().all(|outcome| expected.contains(&outcome.as_str())), "{outcomes:?}");
    assert!(outcomes.contains_key("OK") && outcomes.contains_key("OVERLOADED"), "{outcomes:?}");
}

#[tokio::test]
async fn refused_credentials_are_logged_once_a_second_with_a_count_the_peer_and_the_kid() {
    // Before the server starts: its threads log to the subscriber of the thread that starts them.
    let log = Log::watch();
    let server = server(&api_keys::generate()).await;
    let start = Instant::now();
    let mut connection = open(&server, "127.0.0.2").await;
    let kid = format!("forged\n2026-11-29T00:00:00Z ERROR roster: {}\u{1b}[2J", "x".repeat(4000));
    for _ in 0..120 {
        call(&mut connection, &token("eve", OTHER_SECRET, &kid)).await;
        call(&mut connection, "x.y.z").await;
        call(
            &mut connection,
            &server.mint(&ClaimSet { iss: "https://eve.test\n".repeat(50), ..Server::claims("eve") }),
        )
        .await;
    }
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    let log = log.end();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("credential refused")).collect();
    // One line at once and one a second, for each of the three reasons and for the budget.
    assert!((3..=4 * (seconds + 1)).contains(&lines.len()), "{} lines in {seconds} s", lines.len());
    for line in &lines {
        assert!(line.len() < 500 && line.contains("peer=\"127.0.0.2\"") && line.contains("suppressed="), "{line}");
    }
    assert!(lines.iter().any(|line| line.contains("kid=\"forged\\\\n2026") && line.contains(FAST_ISSUER)), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("issuer=\"https://eve.test\\\\n")), "{lines:?}");
    assert!(!log.contains('\u{1b}') && !log.contains("\n2026-11-29T00:00:00Z ERROR"));
}
