//! `ReinstateUser`: a deleted id becomes an active user again, and the tokens that were issued before do not count.

use crate::harness::server::{Clients, ISSUER};
use crate::harness::{Database, Server, add, assert_refused, reason};
use crate::invitations::{accept, accept_id, create, invite, preview};
use crate::races::until_waiting;
use crate::tokens::Forger;
use roster::authn::{ProfileClaims, UserCaller, UserClaims};
use roster::clock::Clock;
use roster::domain::{EmailAddress, OrganizationRef, Scope, UserId, UserState, UserStatus};
use roster::grpc::pb;
use roster::server::ServerSettings;
use roster::service::write::Meta;
use roster::service::{AnswerSource, Freshness, Roster};
use roster::store::datastore_url::DatastoreUrl;
use roster::store::pool::Pool;
use serde_json::{Map, Value, json};
use sqlx::AssertSqlSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status};

const ADDRESS: &str = "ada@example.com";

fn ada() -> String {
    "ada".to_owned()
}

fn reinstate() -> pb::ReinstateUserRequest {
    pb::ReinstateUserRequest { user_id: ada(), ..Default::default() }
}

async fn delete(server: &Server) {
    let request = pb::DeleteUserRequest { user_id: ada(), ..Default::default() };
    server.operator().users.delete_user(request).await.unwrap();
}

/// Makes ada known, deletes and reinstates her. Returns the time of it, in seconds since 1970.
async fn delete_and_reinstate(server: &Server) -> i64 {
    let put = pb::PutUserRequest { user_id: ada(), ..Default::default() };
    if server.operator().users.get_user(pb::GetUserRequest { user_id: ada() }).await.is_err() {
        server.operator().users.put_user(put).await.unwrap();
    }
    delete(server).await;
    server.operator().users.reinstate_user(reinstate()).await.unwrap();
    reinstated_at(&server.database).await
}

async fn reinstated_at(database: &Database) -> i64 {
    let at = sqlx::query_scalar("SELECT reinstated_at FROM users WHERE id = 'ada'").fetch_one(&database.pool);
    at.await.unwrap()
}

async fn run(database: &Database, statement: &str) {
    let done = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&database.pool).await.unwrap();
    assert_ne!(done.rows_affected(), 0, "{statement}");
}

async fn user(server: &Server) -> pb::User {
    let request = pb::GetUserRequest { user_id: ada() };
    server.operator().users.get_user(request).await.unwrap().into_inner().user.unwrap()
}

/// Clients of ada with a token that was issued at this time and has these claims beside the needed ones; without a time,
/// it has no `iat`.
fn token(server: &Server, issued_at: Option<i64>, claims: &Value) -> Clients {
    let forger = Forger::new(&server.key);
    let exp = Server::claims("").iat + 600;
    let needed = json!({ "iss": "https://issuer.test", "aud": "roster", "sub": "ada", "exp": exp });
    let mut all: Map<String, Value> = needed.as_object().cloned().unwrap();
    all.extend(claims.as_object().cloned().unwrap());
    all.extend(issued_at.map(|at| ("iat".to_owned(), at.into())));
    server.with_token(&forger.sign(&forger.header(), &all.into()))
}

/// The refusals of calls of every kind: those that read, that write and that anybody may make, about the caller and about
/// an organization by id and by slug. `None` for a success.
async fn outcomes(mut ada: Clients, acme: &pb::Organization) -> Vec<Option<Status>> {
    fn outcome<T>(answer: Result<T, Status>) -> Option<Status> {
        answer.err()
    }
    let mut all = vec![
        outcome(ada.users.get_caller(pb::GetCallerRequest {}).await),
        outcome(ada.users.get_user(pb::GetUserRequest { user_id: "ada".to_owned() }).await),
        outcome(ada.organizations.list_user_organizations(pb::ListUserOrganizationsRequest::default()).await),
        outcome(ada.invitations.list_received_invitations(pb::ListReceivedInvitationsRequest::default()).await),
        outcome(ada.invitations.preview_invitation(preview("no token")).await),
        outcome(ada.invitations.accept_invitation(accept("no token")).await),
    ];
    let create = pb::CreateOrganizationRequest { name: "Beta".to_owned(), validate_only: true, ..Default::default() };
    all.push(outcome(ada.organizations.create_organization(create).await));
    for organization in [&acme.id, &acme.slug] {
        let get = pb::GetOrganizationRequest { organization: organization.clone() };
        all.push(outcome(ada.organizations.get_organization(get).await));
        let write = pb::AddMemberRequest { validate_only: true, ..add(organization, "alan", "member") };
        all.push(outcome(ada.organizations.add_member(write).await));
    }
    all
}

async fn assert_all_expired(ada: Clients, acme: &pb::Organization, what: &str) {
    for (number, outcome) in outcomes(ada, acme).await.into_iter().enumerate() {
        let status = outcome.unwrap_or_else(|| panic!("{what}: call {number} succeeded"));
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CREDENTIAL_EXPIRED"), "{what}");
    }
}

async fn assert_all_pass(ada: Clients, acme: &pb::Organization, what: &str) {
    for (number, outcome) in outcomes(ada, acme).await.into_iter().enumerate() {
        let reason = outcome.as_ref().map(reason);
        let expected: &[_] = match number {
            4 | 5 => &[Some("INVITATION_NOT_FOUND"), Some("QUOTA_EXCEEDED")],
            _ => &[None],
        };
        assert!(expected.contains(&reason.as_deref()), "{what}: call {number}: {reason:?}");
    }
}

async fn organization(server: &Server) -> pb::Organization {
    let request = pb::CreateOrganizationRequest { name: "Acme".to_owned(), ..Default::default() };
    server.user("grace").organizations.create_organization(request).await.unwrap().into_inner().organization.unwrap()
}

/// What the memory of the server knows about ada once it has caught up.
async fn in_memory(server: &Server) -> UserStatus {
    let replica = server.roster.replica();
    let known = async {
        loop {
            replica.caught_up().await;
            if let Some(status) = replica.user_status_now(&UserId::parse("ada").unwrap()) {
                return status;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), known).await.unwrap()
}

#[tokio::test]
async fn a_deleted_user_becomes_an_active_one_without_profile_and_memberships() {
    let server = Server::start().await;
    let (mut operator, mut grace) = (server.operator(), server.user("grace"));
    let acme = grace.create("Acme").await;
    let put = pb::PutUserRequest {
        user_id: ada(),
        email: ADDRESS.to_owned(),
        email_verified: true,
        display_name: "Ada".to_owned(),
        ..Default::default()
    };
    operator.users.put_user(put).await.unwrap();
    grace.add(&acme, "ada", "admin").await;
    delete(&server).await;
    let deleted = user(&server).await;

    // Every write is validated, has a reason and is made once for its request id.
    let dry = pb::ReinstateUserRequest { validate_only: true, ..reinstate() };
    let forecast = operator.users.reinstate_user(dry).await.unwrap().into_inner();
    assert_eq!((forecast.user.unwrap().state(), forecast.consistency_token.as_str()), (pb::UserState::Active, ""));
    assert_eq!(user(&server).await, deleted);
    assert_refused(
        grace.organizations.add_member(add(&acme, "ada", "")).await,
        Code::FailedPrecondition,
        "USER_DELETED",
    );
    let request_id = roster::random::uuid().to_string();
    let request = pb::ReinstateUserRequest { reason: "a mistake".to_owned(), request_id, ..reinstate() };
    let answer = operator.users.reinstate_user(request.clone()).await.unwrap().into_inner();
    let reinstated = answer.user.clone().unwrap();
    let update_time = reinstated.update_time;
    assert_eq!(reinstated, pb::User { state: pb::UserState::Active.into(), update_time, ..deleted.clone() });
    assert_ne!(update_time, deleted.update_time);
    assert_eq!(operator.users.reinstate_user(request).await.unwrap().into_inner(), answer);
    assert_eq!(operator.users.reinstate_user(reinstate()).await.unwrap().into_inner().user.unwrap(), reinstated);
    let events: Vec<(i64, String, String, Option<String>)> = sqlx::query_as(
        "SELECT revision, type, actor_kind, reason FROM user_events WHERE user_id = 'ada' ORDER BY 1 DESC",
    )
    .fetch_all(&server.database.pool)
    .await
    .unwrap();
    let (revision, r#type, actor, why) = &events[0];
    assert_eq!((r#type.as_str(), actor.as_str(), why.as_deref()), ("user.reinstated", "operator", Some("a mistake")));
    assert_eq!((usize::try_from(*revision).unwrap(), events[1].1.as_str()), (events.len(), "user.deleted"));

    // The user is like a new one: a member when somebody adds them.
    let mut backend = server.service(&[Scope::Check, Scope::Manage]);
    assert!(!backend.is_member(&acme, "ada").await);
    grace.add(&acme, "ada", "member").await;
    assert!(backend.is_member(&acme, "ada").await);
    // An inactive user stays so.
    let deactivate = pb::DeactivateUserRequest { user_id: ada(), ..Default::default() };
    backend.users.deactivate_user(deactivate).await.unwrap();
    let inactive = operator.users.reinstate_user(reinstate()).await.unwrap().into_inner().user.unwrap();
    assert_eq!(inactive.state(), pb::UserState::Inactive);
    assert_eq!(inactive, user(&server).await);
    // The second time is like the first one.
    delete(&server).await;
    let again = operator.users.reinstate_user(reinstate()).await.unwrap().into_inner().user.unwrap();
    assert_eq!(again.state(), pb::UserState::Active);
    assert!(!backend.is_member(&acme, "ada").await);
    server.database.assert_invariants().await;

    let unknown = pb::ReinstateUserRequest { user_id: "nowhere".to_owned(), ..Default::default() };
    assert_refused(operator.users.reinstate_user(unknown).await, Code::NotFound, "USER_NOT_FOUND");
    assert_refused(backend.users.reinstate_user(reinstate()).await, Code::PermissionDenied, "SCOPE_MISSING");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_tokens_are_refused_on_every_server() {
    let database = Database::new().await;
    let start = || Server::over(database.clone(), ServerSettings::default());
    let servers = [start().await, start().await];
    let acme = organization(&servers[0]).await;
    servers[0].user("grace").add(&acme.id, "ada", "admin").await;
    // Used before: each server has a token in its cache of verified tokens, and has applied its claims.
    let used = servers.each_ref().map(|server| server.user("ada"));
    for clients in &used {
        assert_all_pass(clients.clone(), &acme, "before").await;
    }
    let at = delete_and_reinstate(&servers[0]).await;
    servers[0].user("grace").add(&acme.id, "ada", "admin").await;
    let expected = UserStatus { state: None, reinstated_at: Some(at) };
    // The third server reads it from a snapshot.
    let third = start().await;
    let [first, second] = &servers;
    for (server, used) in [(first, Some(&used[0])), (second, Some(&used[1])), (&third, None)] {
        assert_eq!(in_memory(server).await, expected);
        if let Some(used) = used {
            assert_all_expired(used.clone(), &acme, "a token in the cache").await;
        }
        // The token of the same second is refused too: it may be older.
        for issued_at in [None, Some(at - 600), Some(at - 1), Some(at)] {
            assert_all_expired(token(server, issued_at, &json!({})), &acme, &format!("{issued_at:?} at {at}")).await;
        }
        for issued_at in [at + 1, at + 30] {
            assert_all_pass(token(server, Some(issued_at), &json!({})), &acme, &format!("{issued_at} at {at}")).await;
        }
        // There is no token of the user.
        assert_all_pass(server.on_behalf_of("ada"), &acme, "on behalf of ada").await;
    }
    // Without a replica, the primary answers.
    let alone = Roster::new(Pool::new(DatastoreUrl::parse(&database.url).unwrap(), 4), Clock::system());
    let id = UserId::parse("ada").unwrap();
    assert_eq!(alone.replica().user_status(&id).await.unwrap(), expected);
    for reference in [&acme.id, &acme.slug] {
        let reference = OrganizationRef::parse(reference).unwrap();
        let standing = alone.replica().standing(&reference, Some(&id), &Freshness::Recent).await.unwrap();
        assert_eq!((standing.0.user_status(), standing.1), (expected, AnswerSource::Primary));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answering_server_refuses_older_tokens_at_once() {
    let server = Server::start().await;
    let acme = organization(&server).await;
    for _ in 0..10 {
        let at = delete_and_reinstate(&server).await;
        assert_all_expired(token(&server, Some(at), &json!({})), &acme, "at once").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reinstatement_outlasts_later_changes_of_the_state() {
    let server = Server::start().await;
    let acme = organization(&server).await;
    let at = delete_and_reinstate(&server).await;
    // As a server of release 0.3 deactivates and reactivates the user: it knows no such column.
    for state in ["INACTIVE", "ACTIVE", "ERASED", "ACTIVE"] {
        run(&server.database, &format!("UPDATE users SET state = '{state}', revision = revision + 1 WHERE id = 'ada'"))
            .await;
        run(
            &server.database,
            "WITH head AS (
                 UPDATE user_log_heads SET position = position + 1, write_time = clock_timestamp()
                 WHERE user_bucket = user_bucket_of('ada') RETURNING *)
             INSERT INTO user_log (user_bucket, position, user_id, revision, state, write_time)
             SELECT u.user_bucket, head.position, u.id, u.revision, u.state, head.write_time
             FROM head JOIN users u ON u.id = 'ada'",
        )
        .await;
        let expected = UserStatus::new(UserState::read(state), Some(at));
        assert_eq!(in_memory(&server).await, expected);
        let other = Server::over(server.database.clone(), ServerSettings::default()).await;
        assert_eq!(in_memory(&other).await, expected);
        for server in [&server, &other] {
            assert_all_expired(token(server, Some(at), &json!({})), &acme, state).await;
        }
        let mut newer = token(&server, Some(at + 1), &json!({}));
        let called = newer.users.get_caller(pb::GetCallerRequest {}).await;
        if state == "ACTIVE" {
            called.unwrap();
        } else {
            assert_refused(called, Code::PermissionDenied, "CALLER_INACTIVE");
        }
    }
}

#[tokio::test]
async fn only_newer_tokens_fill_the_profile() {
    let server = Server::start().await;
    let acme = organization(&server).await;
    let invitation = create(&server.service(&[Scope::Manage]), invite(&acme.id, ADDRESS)).await;
    let claims = json!({ "email": ADDRESS, "email_verified": true, "name": "Ada" });
    // The clock of the issuer was ahead: the claims that are stored are newer than the reinstatement.
    let now = Server::claims("").iat;
    token(&server, Some(now + 55), &claims).users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    let at = delete_and_reinstate(&server).await;
    let empty = user(&server).await;
    assert_eq!((empty.email.as_str(), empty.email_verified, empty.display_name.as_str()), ("", false, ""));

    assert_all_expired(token(&server, Some(at), &claims), &acme, "an older token").await;
    server.on_behalf_of("ada").users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    // A call with an older token that was admitted before the deletion, and stores the profile only now.
    let profile =
        ProfileClaims { email: EmailAddress::parse(ADDRESS).ok(), email_verified: Some(true), ..Default::default() };
    let late = UserClaims { issuer: ISSUER.into(), profile, issued_at: at, applied: AtomicBool::new(false) };
    let late = UserCaller { id: UserId::parse("ada").unwrap(), via: None, claims: Some(Arc::new(late)) };
    let meta = || Meta::own(Instant::now() + Duration::from_secs(10));
    server.roster.refresh_profile(&late, meta).await.unwrap();
    assert_eq!(user(&server).await, empty);
    let mut acting = server.on_behalf_of("ada");
    let accepted = acting.invitations.accept_invitation(accept_id(&invitation.id)).await;
    assert_refused(accepted, Code::NotFound, "INVITATION_NOT_FOUND");

    let mut newer = token(&server, Some(at + 1), &claims);
    let filled = newer.users.get_caller(pb::GetCallerRequest {}).await.unwrap().into_inner().user.unwrap();
    assert_eq!((filled.email.as_str(), filled.email_verified, filled.display_name.as_str()), (ADDRESS, true, "Ada"));
    let beta = organization(&server).await;
    let again = create(&server.service(&[Scope::Manage]), invite(&beta.id, ADDRESS)).await;
    newer.invitations.accept_invitation(accept_id(&again.id)).await.unwrap();
    let put = pb::PutUserRequest { user_id: ada(), display_name: "Ada L.".to_owned(), ..Default::default() };
    server.operator().users.put_user(put).await.unwrap();
    let replaced = user(&server).await;
    assert_eq!((replaced.email.as_str(), replaced.display_name.as_str()), ("", "Ada L."));
}

#[tokio::test]
async fn a_refused_token_fills_no_profile_after_the_clock_was_set_back() {
    let server = Server::start().await;
    delete_and_reinstate(&server).await;
    run(&server.database, "UPDATE users SET reinstated_at = reinstated_at + 3600 WHERE id = 'ada'").await;
    delete_and_reinstate(&server).await;
    let empty = user(&server).await;
    let claims = json!({ "email": ADDRESS, "email_verified": true, "name": "Ada" });
    let refused = token(&server, Some(Server::claims("").iat), &claims).users.get_caller(pb::GetCallerRequest {}).await;
    assert_refused(refused, Code::Unauthenticated, "CREDENTIAL_EXPIRED");
    assert_eq!(user(&server).await, empty);
}

/// The writes wait for a lock while the user is reinstated, as if the deletion and the reinstatement had come in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_admitted_before_is_refused_under_its_lock() {
    let server = Server::start().await;
    let acme = organization(&server).await;
    server.user("grace").add(&acme.id, "ada", "admin").await;
    let invitation = create(&server.service(&[Scope::Manage]), invite(&acme.id, ADDRESS)).await;
    let clients = server.person("ada", ADDRESS, true);
    clients.users.clone().get_caller(pb::GetCallerRequest {}).await.unwrap();
    let acme_row = "SELECT FROM organizations FOR NO KEY UPDATE";
    let user_row = "SELECT FROM users WHERE id = 'ada' FOR NO KEY UPDATE";
    for (number, row) in [acme_row, acme_row, user_row].into_iter().enumerate() {
        let mut holder = server.database.pool.begin().await.unwrap();
        sqlx::query(row).execute(&mut *holder).await.unwrap();
        let (mut clients, acme, invitation) = (clients.clone(), acme.id.clone(), invitation.id.clone());
        let call = tokio::spawn(async move {
            match number {
                0 => clients.organizations.add_member(add(&acme, "alan", "member")).await.map(|_| ()),
                1 => clients.invitations.accept_invitation(accept_id(&invitation)).await.map(|_| ()),
                _ => clients.organizations.create_organization(crate::harness::organization("Beta")).await.map(|_| ()),
            }
        });
        until_waiting(&server.database, 1).await;
        let reinstated = "UPDATE users SET reinstated_at = 5000000000 WHERE id = 'ada'";
        sqlx::query(reinstated).execute(&mut *holder).await.unwrap();
        holder.commit().await.unwrap();
        assert_refused(call.await.unwrap(), Code::Unauthenticated, "CREDENTIAL_EXPIRED");
        run(&server.database, "UPDATE users SET reinstated_at = NULL WHERE id = 'ada'").await;
    }
}
