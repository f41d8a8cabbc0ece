//! Profiles of users: `PutUser` and bearer tokens, claim by claim.

use crate::harness::log::Log;
use crate::harness::server::Clients;
use crate::harness::{Database, Server, assert_refused, refused};
use crate::invitations::{accept_id, create, invite};
use crate::tokens::Forger;
use roster::authn::settings::ProfileSource;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use serde_json::{Map, Value, json};
use sqlx::AssertSqlSafe;
use tonic::Code;

const ADDRESS: &str = "ada@example.com";

async fn server_with(source: Option<ProfileSource>) -> Server {
    let change = |auth: &mut roster::authn::AuthSettings| auth.issuers[0].profile_source = source;
    let server = Server::launch_with(Database::new().await, ServerSettings::default(), change).await;
    server.until_serving().await;
    server
}

/// The present time in seconds since 1970. A test reads it once: the distances between its tokens do not depend on how long
/// the calls take.
fn now() -> i64 {
    Server::claims("").iat
}

/// Clients of ada with a token that was issued at this time, in seconds since 1970, and has these claims beside the needed
/// ones.
fn ada(server: &Server, issued_at: i64, claims: &Value) -> Clients {
    let forger = Forger::new(&server.key);
    let mut all: Map<String, Value> = claims.as_object().cloned().unwrap();
    let needed = json!({
        "iss": "https://issuer.test", "aud": "roster", "sub": "ada", "exp": now() + 600, "iat": issued_at,
    });
    all.extend(needed.as_object().cloned().unwrap());
    server.with_token(&forger.sign(&forger.header(), &all.into()))
}

async fn whole_caller(caller: &mut Clients) -> pb::GetCallerResponse {
    caller.users.get_caller(pb::GetCallerRequest {}).await.unwrap().into_inner()
}

/// The profile after a call with such a token: address, verification and name.
async fn after(server: &Server, issued_at: i64, claims: Value) -> (String, bool, String) {
    let user = whole_caller(&mut ada(server, issued_at, &claims)).await.user.unwrap();
    (user.email, user.email_verified, user.display_name)
}

fn put(email: &str, verified: bool, name: &str) -> pb::PutUserRequest {
    pb::PutUserRequest {
        user_id: "ada".to_owned(),
        email: email.to_owned(),
        email_verified: verified,
        display_name: name.to_owned(),
        ..Default::default()
    }
}

fn profile(email: &str, verified: bool, name: &str) -> (String, bool, String) {
    (email.to_owned(), verified, name.to_owned())
}

#[tokio::test]
async fn a_token_without_claims_about_the_user_changes_nothing() {
    let now = now();
    let server = Server::start().await;
    let mut backend = server.service(&[Scope::Manage]);
    backend.users.put_user(put(ADDRESS, true, "Ada")).await.unwrap();
    let acme = server.user("grace").create("Acme").await;
    let invitation = create(&backend, invite(&acme, ADDRESS)).await;
    let whole = profile(ADDRESS, true, "Ada");
    for claims in [
        json!({}),
        json!({ "email": null, "email_verified": null, "name": null }),
        json!({ "email": "", "name": " " }),
        json!({ "email_verified": false }),
        json!({ "email": ADDRESS }),
        json!({ "email": "not an address", "email_verified": false, "name": ["Ada"] }),
    ] {
        assert_eq!(after(&server, now + 30, claims.clone()).await, whole, "{claims}");
    }
    // A newer token without a claim does not stand in the way of an older one that has it.
    assert_eq!(after(&server, now + 20, json!({ "name": "Ada L." })).await, profile(ADDRESS, true, "Ada L."));
    ada(&server, now + 40, &json!({})).invitations.accept_invitation(accept_id(&invitation.id)).await.unwrap();
}

#[tokio::test]
async fn the_newest_claim_counts_on_its_own() {
    let now = now();
    let server = Server::start().await;
    for (issued, claims, expected) in [
        (10, json!({ "name": "Ada" }), profile("", false, "Ada")),
        (
            5,
            json!({ "email": "old@example.com", "email_verified": true, "name": "Old" }),
            profile("old@example.com", true, "Ada"),
        ),
        (20, json!({ "email": ADDRESS, "email_verified": true }), profile(ADDRESS, true, "Ada")),
        (15, json!({ "email": "old@example.com", "name": "Ada L." }), profile(ADDRESS, true, "Ada L.")),
        // Another address is verified only by the same token.
        (25, json!({ "email": "new@example.com" }), profile("new@example.com", false, "Ada L.")),
        (
            26,
            json!({ "email": "new@example.com", "email_verified": "true" }),
            profile("new@example.com", true, "Ada L."),
        ),
        (
            27,
            json!({ "email": "new@example.com", "email_verified": false }),
            profile("new@example.com", false, "Ada L."),
        ),
    ] {
        assert_eq!(after(&server, now + issued, claims.clone()).await, expected, "{issued} {claims}");
    }
    // PutUser replaces everything, and tokens that are older change nothing.
    server.operator().users.put_user(put("", false, "")).await.unwrap();
    let older = json!({ "email": ADDRESS, "email_verified": true, "name": "Ada" });
    assert_eq!(after(&server, now + 28, older.clone()).await, profile(ADDRESS, true, "Ada"));
    server.operator().users.put_user(put("", false, "")).await.unwrap();
    assert_eq!(after(&server, now - 10, older).await, profile("", false, ""));
}

/// A server of the release before writes the whole profile, with one time of issue.
#[tokio::test]
async fn a_profile_that_a_former_release_wrote_has_one_time_of_issue() {
    let now = now();
    let server = Server::start().await;
    assert_eq!(after(&server, now + 10, json!({ "name": "Ada" })).await, profile("", false, "Ada"));
    let former = format!(
        "UPDATE users SET email = '{ADDRESS}', email_normal = '{ADDRESS}', email_verified = true, display_name = NULL,
             profile_issued_at = profile_issued_at + 10, revision = revision + 1 WHERE id = 'ada'"
    );
    sqlx::query(AssertSqlSafe(former)).execute(&server.database.pool).await.unwrap();
    let claims = json!({ "email": "new@example.com", "name": "Ada" });
    assert_eq!(after(&server, now + 15, claims.clone()).await, profile(ADDRESS, true, ""));
    assert_eq!(after(&server, now + 25, claims).await, profile("new@example.com", false, "Ada"));
}

#[tokio::test]
async fn claims_that_cannot_be_used_are_reported_to_the_user_and_once_in_the_log() {
    let now = now();
    let log = Log::watch();
    let server = Server::start().await;
    let claims = json!({ "email": "s3cret address", "email_verified": "maybe", "name": "s3cret\u{202e}" });
    for issued in [1, 2, 2] {
        let caller = whole_caller(&mut ada(&server, now + issued, &claims)).await;
        let found: Vec<_> = caller.ignored_claims.into_iter().map(|ignored| (ignored.claim, ignored.reason)).collect();
        let expected = [
            ("email", "an address has the form name@domain"),
            ("email_verified", "the claim is neither true nor false"),
            (
                "name",
                "a display name holds no control, zero-width or direction characters, except where letters or emoji \
                 need them",
            ),
        ];
        assert_eq!(found, expected.map(|(claim, reason)| (claim.to_owned(), reason.to_owned())));
        let user = caller.user.unwrap();
        assert_eq!((user.email.as_str(), user.email_verified, user.display_name.as_str()), ("", false, ""));
    }
    // The log has one line for each user, not for each call or token.
    let name = Some("\u{202e}".to_owned());
    let grace = server.mint(&roster::authn::mint::ClaimSet { name, ..Server::claims("grace") });
    assert_eq!(whole_caller(&mut server.with_token(&grace)).await.ignored_claims.len(), 1);
    assert_eq!(whole_caller(&mut ada(&server, now + 5, &json!({ "name": "Ada" }))).await.ignored_claims, []);
    assert_eq!(whole_caller(&mut server.on_behalf_of("ada")).await.ignored_claims, []);
    assert_eq!(whole_caller(&mut server.service(&[Scope::Manage])).await.ignored_claims, []);
    let log = log.end();
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("claims about its user that cannot be used")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("WARN") && lines[0].contains("user=\"ada\""), "{lines:?}");
    assert!(lines[0].contains("email: an address has the form name@domain; email_verified: "), "{lines:?}");
    assert!(!log.contains("s3cret"));
}

#[tokio::test]
async fn the_source_of_profiles_is_a_setting_of_the_issuer() {
    let claims = json!({ "email": "token@example.com", "email_verified": true, "name": 7 });
    for (source, from_token, ignored, from_put) in [
        (None, "token@example.com", 1, Some("put@example.com")),
        (Some(ProfileSource::Both), "token@example.com", 1, Some("put@example.com")),
        (Some(ProfileSource::Tokens), "token@example.com", 1, None),
        (Some(ProfileSource::PutUser), "", 0, Some("put@example.com")),
    ] {
        let server = server_with(source).await;
        let caller = whole_caller(&mut ada(&server, now(), &claims)).await;
        assert_eq!((caller.user.unwrap().email.as_str(), caller.ignored_claims.len()), (from_token, ignored));
        let mut backend = server.service(&[Scope::Manage]);
        let answer = backend.users.put_user(put("put@example.com", false, "")).await;
        match from_put {
            Some(email) => assert_eq!(answer.unwrap().into_inner().user.unwrap().email, email),
            None => assert_refused(answer, Code::PermissionDenied, "CALLER_NOT_ALLOWED"),
        }
        // Operators may always correct a profile.
        let answer = server.operator().users.put_user(put("operator@example.com", false, "")).await.unwrap();
        assert_eq!(answer.into_inner().user.unwrap().email, "operator@example.com");
    }
}

/// The user without the time of update, and that time.
async fn read(backend: &mut Clients) -> (pb::User, Option<prost_types::Timestamp>) {
    let request = pb::GetUserRequest { user_id: "ada".to_owned() };
    let mut user = backend.users.get_user(request).await.unwrap().into_inner().user.unwrap();
    let update_time = user.update_time.take();
    (user, update_time)
}

async fn changes_so_far(server: &Server) -> i64 {
    server.database.count("SELECT count(*) FROM user_events WHERE user_id = 'ada'").await
}

/// Makes a call that may change ada, by this choice.
async fn change(server: &Server, step: i64, choice: u64) {
    let email = ["", ADDRESS, "Ada@Example.com", "new@example.com"][usize::try_from(choice >> 8 & 3).unwrap()];
    let name = ["", "Ada", "Ada L."][usize::try_from((choice >> 16) % 3).unwrap()];
    let verified = choice >> 24 & 1 == 1;
    let user_id = "ada".to_owned();
    let mut by = if choice >> 32 & 1 == 1 { server.operator() } else { server.service(&[Scope::Manage]) };
    match choice % 8 {
        0..=2 => {
            by.users.put_user(put(email, verified && !email.is_empty(), name)).await.unwrap();
        }
        3 => {
            let request = pb::DeactivateUserRequest { user_id, ..Default::default() };
            by.users.deactivate_user(request).await.unwrap();
        }
        4 => {
            let request = pb::ReactivateUserRequest { user_id, ..Default::default() };
            let _: Result<_, _> = by.users.reactivate_user(request).await;
        }
        _ => {
            let claims = json!({ "email": email, "email_verified": verified, "name": name });
            let answer = ada(server, now() + step % 60 - 20, &claims).users.get_caller(pb::GetCallerRequest {}).await;
            if let Err(status) = answer {
                assert_eq!(refused::<()>(Err(status)).1, "CALLER_INACTIVE");
            }
        }
    }
}

#[tokio::test]
async fn the_update_time_of_a_user_moves_exactly_with_the_other_fields() {
    let now = now();
    let server = Server::start().await;
    let mut backend = server.service(&[Scope::Manage]);
    backend.users.put_user(put(ADDRESS, true, "Ada")).await.unwrap();
    // The cases that moved it before: a repetition, and a newer token with the same claims.
    let before = read(&mut backend).await;
    let claims = json!({ "email": ADDRESS, "email_verified": true, "name": "Ada" });
    for issued in [10, 20] {
        backend.users.put_user(put(ADDRESS, true, "Ada")).await.unwrap();
        after(&server, now + issued, claims.clone()).await;
        after(&server, now + issued + 5, json!({})).await;
        assert_eq!(read(&mut backend).await, before);
    }
    let mut moved = 0;
    let choices: Vec<u64> = (0..120).map(|_| roster::random::bits()).collect();
    for (step, choice) in (0..).zip(&choices) {
        let ((user, time), events) = (read(&mut backend).await, changes_so_far(&server).await);
        change(&server, step, *choice).await;
        let (user_after, time_after) = read(&mut backend).await;
        assert_eq!(time_after != time, user_after != user, "step {step} of {choices:?}: {user:?} {user_after:?}");
        assert_eq!(changes_so_far(&server).await - events, i64::from(user_after != user), "step {step} of {choices:?}");
        moved += i32::from(user_after != user);
    }
    assert!(moved > 10, "{moved}");
    let request = pb::DeleteUserRequest { user_id: "ada".to_owned(), ..Default::default() };
    backend.users.delete_user(request.clone()).await.unwrap();
    let deleted = read(&mut backend).await;
    backend.users.delete_user(request).await.unwrap();
    after_deletion(&server, &claims).await;
    assert_eq!(read(&mut backend).await, deleted);
}

/// A deleted user's tokens are refused, and change nothing.
async fn after_deletion(server: &Server, claims: &Value) {
    let answer = ada(server, now() + 50, claims).users.get_caller(pb::GetCallerRequest {}).await;
    assert_refused(answer, Code::PermissionDenied, "CALLER_INACTIVE");
}
