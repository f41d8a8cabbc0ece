//! Tokens of identity providers on the wire: services without a scope, and large tokens. The shapes of the tokens of
//! each provider are in `src/authn/provider_tokens.rs`.

use crate::harness::raw::{self, Answer, Call};
use crate::harness::{Database, Server};
use crate::tokens::Forger;
use prost::bytes::Bytes;
use roster::authn::AuthSettings;
use roster::authn::mint::SigningKey;
use roster::authn::settings::Preset;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_types::StatusExt;

const GET_CALLER: &str = "/roster.v1.UserService/GetCaller";
const CREATE: &str = "/roster.v1.OrganizationService/CreateOrganization";
/// The largest credential, in bytes.
const CREDENTIAL: usize = 24 * 1024;

async fn server_with(change: impl FnOnce(&mut AuthSettings)) -> (Server, Database) {
    let database = Database::new().await;
    let server = Server::launch_with(database.clone(), ServerSettings::default(), change).await;
    server.until_serving().await;
    (server, database)
}

fn outcome(answer: &Answer) -> (Code, &str) {
    (Code::from_i32(answer.grpc_status.unwrap()), answer.reason.as_deref().unwrap_or_default())
}

fn create(name: &str) -> Vec<u8> {
    prost::Message::encode_to_vec(&pb::CreateOrganizationRequest { name: name.to_owned(), ..Default::default() })
}

/// The claims of a token of Keycloak for the service account of a client, with these realm roles.
fn service_account(roles: &[&str]) -> Value {
    let mut claims = Forger::claims();
    for (name, value) in [
        ("sub", json!("1d2d88f8-8b68-4b6b-883f-1af68b598612")),
        ("azp", json!("orders")),
        ("client_id", json!("orders")),
        ("preferred_username", json!("service-account-orders")),
        ("realm_access", json!({ "roles": roles })),
    ] {
        claims[name] = value;
    }
    claims
}

#[tokio::test]
async fn a_service_without_a_scope_is_refused_and_never_becomes_a_user() {
    let (server, database) = server_with(|auth| {
        auth.issuers[0].preset = Some(Preset::Keycloak);
        auth.issuers[0].callers = None;
        auth.issuers[0].scopes = vec![Scope::Check];
    })
    .await;
    let (forger, stranger) = (Forger::new(&server.key), Forger::new(&SigningKey::generate()));
    let sign = |claims: &Value| forger.sign(&forger.header(), claims);
    let send = |path: &str, message: Vec<u8>, token: &str| server.send(Call::grpc(path, &message).bearer(token));

    let unscoped = sign(&service_account(&["offline_access"]));
    // Twice: the refusal is not remembered, and neither is the caller.
    for _ in 0..2 {
        for (path, message) in [(GET_CALLER, Vec::new()), (CREATE, create("Acme"))] {
            let answer = send(path, message, &unscoped).await;
            assert_eq!(outcome(&answer), (Code::PermissionDenied, "SERVICE_WITHOUT_SCOPE"));
            let status = answer.status().unwrap();
            assert!(status.message().contains("roster:check") && status.message().contains("scopes"), "{status}");
        }
    }
    assert_eq!(server.authenticator.cached_tokens(), 0);
    // Only the issuer's own tokens get this reason.
    let foreign = stranger.sign(&forger.header(), &service_account(&[]));
    assert_eq!(outcome(&send(GET_CALLER, Vec::new(), &foreign).await), (Code::Unauthenticated, "CREDENTIAL_INVALID"));
    let mut old = service_account(&[]);
    old["exp"] = (Server::claims("").iat - 60).into();
    assert_eq!(
        outcome(&send(GET_CALLER, Vec::new(), &sign(&old)).await),
        (Code::Unauthenticated, "CREDENTIAL_EXPIRED")
    );

    let scoped = sign(&service_account(&["roster:check"]));
    let mut service = server.with_token(&scoped);
    let caller = service.users.get_caller(pb::GetCallerRequest {}).await.unwrap().into_inner();
    assert_eq!((caller.kind.as_str(), caller.scopes.as_slice()), ("service", &["check".to_owned()][..]));
    let users: i64 = sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&database.pool).await.unwrap();
    assert_eq!(users, 0);

    let mut person = Forger::claims();
    person["preferred_username"] = "ada".into();
    let ada = server.with_token(&sign(&person));
    ada.clone().create("Acme").await;
}

/// The largest token whose size does not exceed this number of bytes by more than two.
fn token_of(forger: &Forger, bytes: usize) -> String {
    let mut claims = Forger::claims();
    claims["padding"] = "".into();
    let rest = bytes - forger.sign(&forger.header(), &claims).len();
    // Three bytes of claims are four bytes of the token.
    claims["padding"] = "x".repeat(rest * 3 / 4).into();
    let token = forger.sign(&forger.header(), &claims);
    assert!((bytes - 2..=bytes).contains(&token.len()), "{} {bytes}", token.len());
    token
}

#[tokio::test]
async fn a_token_of_24_kib_is_accepted_and_a_larger_one_is_refused_with_a_reason() {
    let (server, _) = server_with(|_| {}).await;
    let forger = Forger::new(&server.key);
    let call = |credential: &str| server.send(Call::grpc(GET_CALLER, &[]).bearer(credential));
    let too_large = (Code::Unauthenticated, "CREDENTIAL_TOO_LARGE");

    for bytes in [9 * 1024, 16 * 1024, CREDENTIAL] {
        let token = token_of(&forger, bytes);
        // The second call is answered from the cache.
        for _ in 0..2 {
            assert_eq!(outcome(&call(&token).await), (Code::Ok, ""), "{bytes}");
        }
    }
    assert_eq!(server.authenticator.computed_signatures(), 3);
    assert_eq!(outcome(&call(&"x".repeat(CREDENTIAL)).await), (Code::Unauthenticated, "CREDENTIAL_INVALID"));
    for credential in ["x".repeat(CREDENTIAL + 1), token_of(&forger, CREDENTIAL + 4), token_of(&forger, 39 * 1024)] {
        let answer = call(&credential).await;
        assert_eq!(outcome(&answer), too_large, "{}", credential.len());
        let info = answer.status().unwrap().get_details_error_info().unwrap();
        assert_eq!(info.metadata["limit_bytes"], CREDENTIAL.to_string());
    }
    // Also on the way of a check, which authenticates before it has a task.
    let check = Call::grpc("/roster.v1.CheckService/CheckMembership", &[]).bearer(&"x".repeat(CREDENTIAL + 1));
    assert_eq!(outcome(&server.send(check).await), too_large);
    assert_eq!(server.authenticator.computed_signatures(), 3);
}

#[tokio::test]
async fn headers_beyond_the_limit_end_the_call_and_far_beyond_it_the_connection() {
    let (server, _) = server_with(|_| {}).await;
    let token = server.mint(&Server::claims("ada"));
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let send = |credential: String| {
        let client = client.clone();
        async move {
            let request = http::Request::post(format!("http://roster.test{GET_CALLER}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("authorization", format!("Bearer {credential}"));
            let (answer, mut body) = client.ready().await?.send_request(request.body(()).unwrap(), false)?;
            // The call may have been refused already.
            let _ = body.send_data(Bytes::from(raw::frame(&[])), true);
            answer.await
        }
    };
    // The connection lives on, with the state of its header compression.
    for size in [41, 64, 90] {
        let answer = send("x".repeat(size * 1024)).await.unwrap();
        assert_eq!(answer.status(), 431, "{size} KiB");
        assert_eq!(send(token.clone()).await.unwrap().status(), 200, "{size} KiB");
    }
    let error = send("x".repeat(170 * 1024)).await.unwrap_err();
    assert!(error.is_go_away() || error.is_io(), "{error:?}");
    connection.await.unwrap().unwrap_err();

    // What a client library makes of it.
    let mut large = server.with_token(&"x".repeat(64 * 1024));
    let status = large.users.get_caller(pb::GetCallerRequest {}).await.unwrap_err();
    assert!(matches!(status.code(), Code::Unknown | Code::Internal), "{status:?}");
    assert!(status.message().contains("431"), "{status:?}");
    let answer = server.send(Call::grpc(GET_CALLER, &[]).bearer(&token)).await;
    assert_eq!(outcome(&answer), (Code::Ok, ""));
}
