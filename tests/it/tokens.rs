//! Credentials on the wire: invalid and valid bearer tokens, API keys, and services that act on behalf of users.

use crate::harness::log::Log;
use crate::harness::raw::{self, Answer, Call};
use crate::harness::{Database, Server, add, organization};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use prost::Message;
use roster::authn::api_keys::{self, GeneratedApiKey};
use roster::authn::mint::{ClaimSet, SigningKey};
use roster::authn::settings::ApiKeySettings;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use serde_json::{Map, Value, json};
use tonic::Code;
use tonic_types::StatusExt;

const GET_CALLER: &str = "/roster.v1.UserService/GetCaller";
const CREATE: &str = "/roster.v1.OrganizationService/CreateOrganization";
const ON_BEHALF_OF: &str = "roster-on-behalf-of";
const ON_BEHALF_OF_BIN: &str = "roster-on-behalf-of-bin";

const SUBJECT: &str = "ada-of-the-tests";
const ADDRESS: &str = "ada@private.example";
const NAME: &str = "Ada of the Tests";

async fn server_with(change: impl FnOnce(&mut roster::authn::AuthSettings)) -> Server {
    let server = Server::launch_with(Database::new().await, ServerSettings::default(), change).await;
    server.until_serving().await;
    server
}

type Headers = Vec<(&'static str, String)>;

async fn call(server: &Server, headers: &[(&'static str, String)]) -> Answer {
    let call = headers.iter().fold(Call::grpc(GET_CALLER, &[]), |call, (name, value)| call.with(name, value));
    raw::send(server.address, call).await
}

fn outcome(answer: &Answer) -> (Code, &str) {
    (Code::from_i32(answer.grpc_status.unwrap()), answer.reason.as_deref().unwrap_or_default())
}

fn bearer(token: &str) -> Headers {
    vec![("authorization", format!("Bearer {token}"))]
}

/// The server's issuer with its real key. It signs anything.
pub struct Forger {
    key: Ed25519KeyPair,
    id: String,
}

impl Forger {
    pub fn new(key: &SigningKey) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        key.save(&path).unwrap();
        let id = key.public_jwks()["keys"][0]["kid"].as_str().unwrap().to_owned();
        let pem = pem::parse(std::fs::read(path).unwrap()).unwrap();
        Self { key: Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem.contents()).unwrap(), id }
    }

    pub fn header(&self) -> Value {
        json!({ "alg": "EdDSA", "kid": self.id })
    }

    /// Valid claims for this header.
    pub fn claims() -> Value {
        let now = Server::claims("").iat;
        json!({
            "iss": "https://issuer.test", "aud": "roster", "sub": SUBJECT, "exp": now + 600, "iat": now,
            "email": ADDRESS, "email_verified": true, "name": NAME,
        })
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(message.as_bytes())))
    }

    fn good(&self) -> String {
        self.sign(&self.header(), &Self::claims())
    }

    /// A valid token but for some claims; a claim given as `null` is left out.
    fn with_claims(&self, claims: Value) -> Headers {
        let (Value::Object(mut all), Value::Object(other)) = (Self::claims(), claims) else { panic!("no objects") };
        all.extend(other);
        let all: Map<String, Value> = all.into_iter().filter(|(_, value)| !value.is_null()).collect();
        bearer(&self.sign(&self.header(), &all.into()))
    }

    /// A valid token but for the header.
    fn with_header(&self, header: &Value) -> Headers {
        bearer(&self.sign(header, &Self::claims()))
    }

    /// Signed with this text, as if it were a secret that the server and the issuer share.
    fn hs256(&self, secret: &[u8]) -> Headers {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        header.kid = Some(self.id.clone());
        let secret = jsonwebtoken::EncodingKey::from_secret(secret).unwrap();
        bearer(&jsonwebtoken::encode(&header, &Self::claims(), &secret).unwrap())
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// Invalid credentials, each with a description, its headers and the reason of its refusal. All name one subject.
fn bad_credentials(forger: &Forger) -> Vec<(&'static str, Headers, &'static str)> {
    const INVALID: &str = "CREDENTIAL_INVALID";
    let now = Server::claims("").iat;
    let good = forger.good();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, _) = message.split_once('.').unwrap();
    let other_claims =
        URL_SAFE_NO_PAD.encode(Forger::claims().to_string().replace(SUBJECT, "another-subject-entirely"));
    let stranger = Forger { id: forger.id.clone(), ..Forger::new(&SigningKey::generate()) };
    let public = forger.key.public_key();
    let der: PublicKeyX509Der<'_> = public.as_der().unwrap();
    let pem = pem::encode_config(
        &pem::Pem::new("PUBLIC KEY", der.as_ref()),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    );
    let none = json!({ "alg": "none" });
    vec![
        ("no aud", forger.with_claims(json!({ "aud": null })), INVALID),
        ("no iss", forger.with_claims(json!({ "iss": null })), INVALID),
        ("no sub", forger.with_claims(json!({ "sub": null })), INVALID),
        ("no exp", forger.with_claims(json!({ "exp": null })), INVALID),
        ("a number for aud", forger.with_claims(json!({ "aud": 7 })), INVALID),
        ("others in aud", forger.with_claims(json!({ "aud": ["rosters", "ROSTER"] })), INVALID),
        ("a list for iss", forger.with_claims(json!({ "iss": ["https://issuer.test"] })), INVALID),
        ("a list for sub", forger.with_claims(json!({ "sub": [SUBJECT] })), INVALID),
        ("a text for exp", forger.with_claims(json!({ "exp": "9999999999" })), INVALID),
        ("a list for the claims", bearer(&forger.sign(&forger.header(), &json!([SUBJECT]))), INVALID),
        ("another issuer", forger.with_claims(json!({ "iss": "https://issuer.test/" })), INVALID),
        ("expired", forger.with_claims(json!({ "exp": now - 61 })), "CREDENTIAL_EXPIRED"),
        ("not yet valid", forger.with_claims(json!({ "nbf": now + 120 })), INVALID),
        ("issued tomorrow", forger.with_claims(json!({ "iat": now + 86_400 })), INVALID),
        ("an unknown scope", forger.with_claims(json!({ "scope": "roster:everything" })), INVALID),
        ("a scope not granted", forger.with_claims(json!({ "scope": "roster:operator" })), INVALID),
        ("alg none, no signature", bearer(&format!("{}.", unsigned(&none, &Forger::claims()))), INVALID),
        ("alg none, signed", forger.with_header(&none), INVALID),
        ("HS256 with the public key", forger.hs256(public.as_ref()), INVALID),
        ("HS256 with the public key's PEM", forger.hs256(pem.as_bytes()), INVALID),
        ("ES256 with an Ed25519 key", forger.with_header(&json!({ "alg": "ES256", "kid": forger.id })), INVALID),
        ("another kid", forger.with_header(&json!({ "alg": "EdDSA", "kid": "another" })), INVALID),
        ("an extension", forger.with_header(&json!({ "alg": "EdDSA", "kid": forger.id, "crit": ["b64"] })), INVALID),
        ("another's key", bearer(&stranger.good()), INVALID),
        ("other claims than were signed", bearer(&format!("{head}.{other_claims}.{signature}")), INVALID),
        ("no signature", bearer(&format!("{message}.")), INVALID),
        ("two tokens in one header", bearer(&format!("{good}, Bearer {good}")), INVALID),
        ("two headers", [bearer(&good), bearer(&good)].concat(), INVALID),
        ("25 KiB", forger.with_claims(json!({ "padding": "x".repeat(25 * 1024 * 3 / 4) })), "CREDENTIAL_TOO_LARGE"),
        ("another scheme", vec![("authorization", format!("Basic {good}"))], INVALID),
        ("no scheme", vec![("authorization", good.clone())], INVALID),
        ("nothing", vec![("authorization", "Bearer ".to_owned())], INVALID),
        ("no such API key", bearer(api_keys::generate().secret.expose()), INVALID),
    ]
}

/// Calls with valid credentials, some answered and some refused, with an address and a name in the messages.
async fn make_valid_calls(server: &Server, token: &str, api_key: &GeneratedApiKey) {
    let mut ada = server.with_token(token);
    let known = ada.users.get_caller(pb::GetCallerRequest {}).await.unwrap().into_inner().user.unwrap();
    assert_eq!((known.user_id.as_str(), known.email.as_str(), known.display_name.as_str()), (SUBJECT, ADDRESS, NAME));
    let acme = ada.create("Acme").await;
    let person = Some(pb::ensure_member_request::Person::Email(ADDRESS.to_owned()));
    let request = pb::EnsureMemberRequest { organization: acme.clone(), person, ..Default::default() };
    ada.organizations.ensure_member(request).await.unwrap();
    ada.organizations.add_member(add(&acme, SUBJECT, "admin")).await.unwrap_err();
    let request = pb::LeaveOrganizationRequest { organization: acme, ..Default::default() };
    ada.organizations.leave_organization(request).await.unwrap_err();
    let mut backend = server.with_token(api_key.secret.expose());
    let request = pb::PutUserRequest {
        user_id: SUBJECT.to_owned(),
        email: format!("{ADDRESS}?"),
        display_name: NAME.to_owned(),
        ..Default::default()
    };
    backend.users.put_user(request.clone()).await.unwrap_err();
    backend.users.put_user(pb::PutUserRequest { email: ADDRESS.to_owned(), ..request }).await.unwrap();
    let request = pb::DeleteUserRequest { user_id: SUBJECT.to_owned(), ..Default::default() };
    backend.users.delete_user(request).await.unwrap_err();
    let headers = [bearer(api_key.secret.expose()), vec![(ON_BEHALF_OF, SUBJECT.to_owned())]].concat();
    assert_eq!(outcome(&call(server, &headers).await), (Code::Ok, ""));
    let headers = [bearer(api_key.secret.expose()), vec![(ON_BEHALF_OF_BIN, STANDARD.encode(SUBJECT))]].concat();
    assert_eq!(outcome(&call(server, &headers).await), (Code::Ok, ""));
}

#[tokio::test]
async fn invalid_credentials_are_refused_and_neither_cached_nor_logged() {
    let key = api_keys::generate();
    let entry = api_key("backend", &[Scope::Manage, Scope::ActAs], &key);
    // Before the server starts: its threads log to the subscriber of the thread that starts them.
    let log = Log::watch();
    let server = server_with(|auth| {
        auth.issuers[0].scopes = vec![Scope::Check];
        auth.api_keys = vec![entry];
    })
    .await;
    let forger = Forger::new(&server.key);

    let credentials = bad_credentials(&forger);
    for (name, headers, reason) in &credentials {
        // Twice: an earlier refusal must not change the answer.
        for _ in 0..2 {
            let answer = call(&server, headers).await;
            assert_eq!(outcome(&answer), (Code::Unauthenticated, *reason), "{name}");
            assert_eq!(server.authenticator.cached_tokens(), 0, "{name}");
        }
    }
    // The unchanged token is valid. The expiry has a tolerance, and the scheme is case-insensitive.
    let good = forger.good();
    make_valid_calls(&server, &good, &key).await;
    assert_eq!(server.authenticator.cached_tokens(), 1);
    let now = Server::claims("").iat;
    assert_eq!(outcome(&call(&server, &forger.with_claims(json!({ "exp": now - 10 }))).await), (Code::Ok, ""));
    assert_eq!(outcome(&call(&server, &[("authorization", format!("bearer  {good}"))]).await), (Code::Ok, ""));

    let log = log.end();
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert!((1..2 * credentials.len()).contains(&lines("credential refused")), "{log}");
    assert!(lines("answered") > 2 * credentials.len(), "{log}");
    // The log includes the libraries below roster, at both ends of the connection.
    assert!(log.contains(" h2::") && log.contains(" sqlx::"));
    let mut secrets = vec![
        STANDARD.encode(SUBJECT),
        SUBJECT.to_owned(),
        ADDRESS.to_owned(),
        NAME.to_owned(),
        "private.example".to_owned(),
    ];
    let sent = credentials.into_iter().flat_map(|(_, headers, _)| headers).chain(bearer(&good));
    for (_, value) in sent.chain(bearer(key.secret.expose())) {
        secrets.extend(value.split(['.', ' ']).filter(|part| part.len() > 16).map(str::to_owned));
    }
    for secret in secrets {
        assert!(!log.contains(&secret), "the log contains {secret}");
    }
}

fn api_key(name: &str, scopes: &[Scope], key: &GeneratedApiKey) -> ApiKeySettings {
    ApiKeySettings { name: name.to_owned(), scopes: scopes.to_vec(), sha256: key.sha256.clone() }
}

#[tokio::test]
async fn an_issuer_grants_only_the_scopes_of_its_settings() {
    let server = server_with(|auth| auth.issuers[0].scopes = vec![Scope::Check, Scope::ActAs]).await;
    for (scopes, expected) in [
        (&[Scope::Check][..], (Code::Ok, "")),
        (&[Scope::Check, Scope::ActAs], (Code::Ok, "")),
        (&[Scope::Manage], (Code::Unauthenticated, "CREDENTIAL_INVALID")),
        (&[Scope::Operator], (Code::Unauthenticated, "CREDENTIAL_INVALID")),
        // One scope too many invalidates the whole credential.
        (&[Scope::Check, Scope::Operator], (Code::Unauthenticated, "CREDENTIAL_INVALID")),
    ] {
        let answer = call(&server, &bearer(&server.service_token("backend", scopes))).await;
        assert_eq!(outcome(&answer), expected, "{scopes:?}");
    }
}

#[tokio::test]
async fn api_keys_are_credentials_and_rotate_without_a_gap() {
    let (old, new, root) = (api_keys::generate(), api_keys::generate(), api_keys::generate());
    let entries = [
        api_key("billing", &[Scope::Check], &old),
        api_key("billing", &[Scope::Check], &new),
        api_key("root", &[Scope::Operator], &root),
    ];
    let both = server_with(|auth| auth.api_keys = entries.to_vec()).await;
    let after = server_with(|auth| auth.api_keys = entries[1..].to_vec()).await;
    let refused = (Code::Unauthenticated, "CREDENTIAL_INVALID");
    for (server, key, kind, id) in [
        (&both, &old, "service", "billing"),
        (&both, &new, "service", "billing"),
        (&after, &new, "service", "billing"),
        (&after, &root, "operator", "root"),
    ] {
        let mut caller = server.with_token(key.secret.expose());
        let response = caller.users.get_caller(pb::GetCallerRequest {}).await.unwrap().into_inner();
        assert_eq!((response.kind.as_str(), response.id.as_str()), (kind, id));
        let scopes: &[&str] = if kind == "service" { &["check"] } else { &[] };
        assert_eq!(response.scopes, scopes);
    }
    let secret = new.secret.expose();
    for wrong in [old.secret.expose(), &new.sha256, &secret[..secret.len() - 1], "roster_", &secret.to_uppercase()] {
        assert_eq!(outcome(&call(&after, &bearer(wrong)).await), refused);
    }
}

#[tokio::test]
async fn a_service_acts_for_a_user_and_the_events_name_both() {
    let server = Server::start().await;
    // The claims of the service's own token are not the user's profile.
    let scope = Some("roster:act-as".to_owned());
    let email = Some(ADDRESS.to_owned());
    let backend = ClaimSet { scope, email, email_verified: Some(true), ..Server::claims("backend") };
    let backend = server.mint(&backend);
    let operator = server.service_token("root", &[Scope::Operator]);
    for (token, via, user) in [(&backend, "backend", "ada"), (&operator, "root", "bob")] {
        let headers = [bearer(token), vec![(ON_BEHALF_OF, user.to_owned())]].concat();
        let response = pb::GetCallerResponse::decode(call(&server, &headers).await.message()).unwrap();
        assert_eq!((response.kind.as_str(), response.id.as_str(), response.via_service.as_str()), ("user", user, via));

        let request = Call::grpc(CREATE, &organization("Beta").encode_to_vec());
        let request = headers.iter().fold(request, |call, (name, value)| call.with(name, value));
        let made = raw::send(server.address, request).await;
        let made = pb::CreateOrganizationResponse::decode(made.message()).unwrap().organization.unwrap();
        assert_eq!(made.owner_user_id, user);
        let actors: Vec<(String, String, Option<String>)> =
            sqlx::query_as("SELECT actor_kind, actor_id, actor_via FROM events WHERE organization_id::text = $1")
                .bind(&made.id)
                .fetch_all(&server.database.pool)
                .await
                .unwrap();
        let both = ("user".to_owned(), user.to_owned(), Some(via.to_owned()));
        assert_eq!(actors, [both.clone(), both]);
    }
    assert_eq!(server.database.count("SELECT count(*) FROM users WHERE email IS NOT NULL").await, 0);
}

#[tokio::test]
async fn a_service_acts_for_a_user_whose_id_is_not_ascii() {
    const IDS: [&str; 4] =
        ["zo\u{eb}", "\u{5c71}\u{7530}", "auth0|\u{43e}\u{43b}\u{44f}", "\u{1f469}\u{200d}\u{1f52c}x"];
    let server = Server::start().await;
    for id in &IDS[..3] {
        let mut caller = server.on_behalf_of(id);
        let response = caller.users.get_caller(pb::GetCallerRequest {}).await.unwrap().into_inner();
        assert_eq!((&*response.kind, &*response.id, &*response.via_service), ("user", *id, "backend"));
        let acme = caller.create("Acme").await;
        let request = pb::GetOrganizationRequest { organization: acme.clone() };
        let own = server.user(id).organizations.get_organization(request).await.unwrap().into_inner();
        assert_eq!(own.organization.unwrap().owner_user_id, *id);
        let request = pb::ListEventsRequest { organization: acme, ..Default::default() };
        let events = caller.events.list_events(request).await.unwrap().into_inner().events;
        let actor = events[0].actor.clone().unwrap();
        assert_eq!((&*actor.id, &*actor.via), (*id, "backend"));
    }
    // The limit of the length of an id is the only one: the headers have room for it.
    let longest = "\u{e9}".repeat(127);
    let response = server.on_behalf_of(&longest).users.get_caller(pb::GetCallerRequest {}).await.unwrap().into_inner();
    assert_eq!(response.id, longest);
    assert_eq!(server.database.count("SELECT count(*) FROM users").await, 4);
    let refused = server.on_behalf_of(IDS[3]).users.get_caller(pb::GetCallerRequest {}).await.unwrap_err();
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!((violations.len(), &*violations[0].field), (1, ON_BEHALF_OF_BIN));
    assert_eq!(server.database.count("SELECT count(*) FROM users").await, 4);
}

#[tokio::test]
async fn other_callers_cannot_act_for_a_user_and_the_user_id_must_be_valid() {
    let server = Server::start().await;
    let for_ada = vec![(ON_BEHALF_OF, "ada".to_owned())];
    let service = |scopes: &[Scope]| bearer(&server.service_token("backend", scopes));
    let not_allowed = (Code::PermissionDenied, "ON_BEHALF_OF_NOT_ALLOWED");
    for (credential, expected) in [
        (service(&[Scope::Check, Scope::Manage]), not_allowed),
        (bearer(&server.mint(&Server::claims("bob"))), not_allowed),
        // Not even on behalf of the caller itself.
        (bearer(&server.mint(&Server::claims("ada"))), not_allowed),
        (Vec::new(), (Code::Unauthenticated, "CREDENTIAL_MISSING")),
        (bearer("x.y.z"), (Code::Unauthenticated, "CREDENTIAL_INVALID")),
    ] {
        let answer = call(&server, &[credential, for_ada.clone()].concat()).await;
        assert_eq!(outcome(&answer), expected);
    }
    for wrong in [vec![""], vec!["\u{e9}"], vec![&"x".repeat(256)], vec!["ada", "ada"], vec!["a\tb"]] {
        let names = wrong.iter().map(|name| (ON_BEHALF_OF, (*name).to_owned())).collect();
        let answer = call(&server, &[service(&[Scope::ActAs]), names].concat()).await;
        assert_eq!(outcome(&answer), (Code::InvalidArgument, "INVALID_REQUEST"), "{wrong:?}");
        let violations = answer.status().unwrap().get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].field, ON_BEHALF_OF);
    }
    // None of these calls created a user.
    assert_eq!(server.database.count("SELECT count(*) FROM users").await, 0);
    // A deactivated user cannot call through a service either.
    let request = pb::PutUserRequest { user_id: "ada".to_owned(), ..Default::default() };
    server.operator().users.put_user(request).await.unwrap();
    let request = pb::DeactivateUserRequest { user_id: "ada".to_owned(), ..Default::default() };
    server.operator().users.deactivate_user(request).await.unwrap();
    let answer = call(&server, &[service(&[Scope::ActAs]), for_ada].concat()).await;
    assert_eq!(outcome(&answer), (Code::PermissionDenied, "CALLER_INACTIVE"));
}
