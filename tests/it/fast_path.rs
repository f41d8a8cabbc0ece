//! The fast path: checks that skip the pipeline. A caller can notice it only by the missing `x-request-id` of a call that
//! has none: responses have the same bytes, and the same errors come in the same order.

use crate::harness::log::Log;
use crate::harness::raw::{self, Answer, Call};
use crate::harness::{API_KEY, Server, is_member};
use prost::Message;
use roster::domain::Scope;
use roster::grpc::pb::check_service_client::CheckServiceClient;
use roster::grpc::{limits, pb};
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use tonic::Code;

const CHECK: &str = "/roster.v1.CheckService/CheckMembership";
const NAME: &str = "x-request-id";

fn check(organization: &str, user: &str, token: &str) -> Call {
    Call::grpc(CHECK, &is_member(organization, user).encode_to_vec()).bearer(token)
}

fn fully_consistent(organization: &str, user: &str, token: &str) -> Call {
    let fully = pb::Consistency { requirement: Some(pb::consistency::Requirement::FullyConsistent(true)) };
    let message = pb::CheckMembershipRequest { consistency: Some(fully), ..is_member(organization, user) };
    Call::grpc(CHECK, &message.encode_to_vec()).bearer(token)
}

/// The answer of the pipeline, which takes the first call of each token, because it has to be verified.
async fn through_the_pipeline(server: &Server, call: Call) -> Answer {
    let token = server.service_token(&roster::random::uuid().to_string(), &[Scope::Check]);
    let answer = server.send(call.without("authorization").bearer(&token)).await;
    assert!(!is_fast(&answer));
    answer
}

/// Whether the fast path answered a call without a name.
fn is_fast(answer: &Answer) -> bool {
    !answer.headers.contains_key(NAME)
}

/// Repeats a call until the fast path answers: the replica must have loaded, the caller's credential must be cached, and the
/// body must have arrived.
async fn until_fast(server: &Server, call: &Call) -> Answer {
    let attempts = async {
        loop {
            let answer = server.send(call.clone()).await;
            if is_fast(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), attempts).await.expect("the fast path never answers")
}

fn result(answer: &Answer) -> pb::CheckResult {
    pb::CheckMembershipResponse::decode(answer.message()).unwrap().result.unwrap()
}

#[tokio::test]
async fn the_fast_path_answers_as_the_pipeline_does() {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    for token in [server.service_token("backend", &[Scope::Check]), server.service_token("root", &[Scope::Operator])] {
        for (organization, user, allowed) in
            [(acme.as_str(), "ada", true), (&acme, "stranger", false), ("acme", "ada", true)]
        {
            let call = check(organization, user, &token);
            let fast = until_fast(&server, &call).await;
            let slow = through_the_pipeline(&server, call).await;
            assert_eq!(fast.headers["content-type"], slow.headers["content-type"]);
            assert_eq!((fast.http_status, &fast.trailers, &fast.body), (slow.http_status, &slow.trailers, &slow.body));
            assert_eq!((result(&fast).allowed, result(&fast).source()), (allowed, pb::CheckSource::Memory));
        }
    }
}

/// The credential may be a token or an API key, and the call may carry what proxies and tracers add.
#[tokio::test]
async fn checks_with_an_api_key_or_a_name_take_the_fast_path() {
    let log = Log::watch();
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let by_key = check(&acme, "ada", API_KEY.secret.expose());
    let by_token = check(&acme, "ada", &server.service_token("backend", &[Scope::Check]));
    for call in [by_key, by_token] {
        assert!(result(&until_fast(&server, &call).await).allowed);
        let call = call.with("traceparent", "00-00000000000000000000000000000001-0000000000000002-01");
        until_fast(&server, &call).await;
        let call = call.with("grpc-timeout", "20S");
        until_fast(&server, &call).await;
        let named = server.send(call.clone().with(NAME, "mine")).await;
        assert!(result(&named).allowed);
        assert_eq!(named.headers[NAME], "mine");
        // A name that cannot stand in the log is replaced.
        let renamed = server.send(call.with(NAME, "not plain")).await;
        assert!(result(&renamed).allowed && renamed.headers[NAME] != "not plain");
    }
    // Only the pipeline logs calls.
    assert!(!log.end().contains("mine"));
}

/// A proxy sends the calls of many callers on one connection.
#[tokio::test]
async fn many_credentials_on_one_connection_take_the_fast_path() {
    let log = Log::watch();
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let tokens: Vec<String> =
        (0..20).map(|number| server.service_token(&format!("backend-{number}"), &[Scope::Check])).collect();
    for token in &tokens {
        until_fast(&server, &check(&acme, "ada", token)).await;
    }
    let mut client = CheckServiceClient::new(server.connect().await);
    for token in tokens.iter().chain(tokens.iter().rev()) {
        let mut request = tonic::Request::new(is_member(&acme, "ada"));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.metadata_mut().insert(NAME, "through-a-proxy".parse().unwrap());
        let answer = client.check_membership(request).await.unwrap();
        assert_eq!(answer.metadata().get(NAME).unwrap(), "through-a-proxy");
    }
    assert!(!log.end().contains("through-a-proxy"));
}

#[tokio::test]
async fn unusual_requests_are_answered_by_the_pipeline() {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let token = server.service_token("backend", &[Scope::Check]);
    let good = check(&acme, "ada", &token);
    until_fast(&server, &good).await;

    let stranger = server.service_token("mail", &[Scope::Manage, Scope::ActAs]);
    let changed = |change: &dyn Fn(Call) -> Call| change(good.clone());
    let body = |body: Vec<u8>| changed(&|call| Call { body: body.clone(), ..call });
    let whole = good.body.clone();
    let with_message = |message: pb::CheckMembershipRequest| body(raw::frame(&message.encode_to_vec()));
    for (call, reason) in [
        (changed(&|call| call.with("grpc-timeout", "soon")), Some("INVALID_REQUEST")),
        (changed(&|call| call.instead("authorization", "Bearer x.y.z")), Some("CREDENTIAL_INVALID")),
        (changed(&|call| call.with("authorization", &format!("Bearer {token}"))), Some("CREDENTIAL_INVALID")),
        (changed(&|call| call.without("authorization")), Some("CREDENTIAL_MISSING")),
        (changed(&|call| call.with("roster-on-behalf-of", "ada")), Some("ON_BEHALF_OF_NOT_ALLOWED")),
        (changed(&|call| call.with("roster-on-behalf-of-bin", "YWRh")), Some("ON_BEHALF_OF_NOT_ALLOWED")),
        (
            changed(&|call| call.without("authorization").bearer(&server.mint(&Server::claims("ada")))),
            Some("CALLER_NOT_ALLOWED"),
        ),
        (body(raw::frame(&[0x0f])), Some("MALFORMED_MESSAGE")),
        (body([whole.clone(), whole.clone()].concat()), Some("MALFORMED_MESSAGE")),
        (body(whole[..9].to_vec()), Some("MALFORMED_MESSAGE")),
        (body(Vec::new()), Some("MALFORMED_MESSAGE")),
        (with_message(is_member("?", "ada")), Some("INVALID_REQUEST")),
        (check(&acme, "ada", &stranger), None),
    ] {
        // Where the credential can be cached, it is cached at the second call.
        for _ in 0..2 {
            let answer = server.send(call.clone()).await;
            assert_eq!(answer.reason.as_deref(), reason, "{call:?}");
            // Only the service without the scope becomes a known caller; the fast path never answers the others.
            assert!(!is_fast(&answer) || call.headers["authorization"] == format!("Bearer {stranger}"), "{call:?}");
        }
    }
}

#[tokio::test]
async fn the_fast_path_looks_up_fully_consistent_checks_at_the_primary() {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let token = server.service_token("backend", &[Scope::Check]);
    until_fast(&server, &check(&acme, "ada", &token)).await;
    for (user, allowed) in [("ada", true), ("stranger", false)] {
        let call = fully_consistent(&acme, user, &token);
        let fast = until_fast(&server, &call).await;
        let slow = through_the_pipeline(&server, call).await;
        assert_eq!((fast.http_status, &fast.trailers, &fast.body), (slow.http_status, &slow.trailers, &slow.body));
        assert_eq!((result(&fast).allowed, result(&fast).source()), (allowed, pb::CheckSource::Primary));
    }
}

#[tokio::test]
async fn errors_of_the_fast_path_are_those_of_the_pipeline() {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let token = server.service_token("backend", &[Scope::Check]);
    until_fast(&server, &check(&acme, "ada", &token)).await;
    // The datastore does not answer before the lock is released.
    let mut blocker = PgConnection::connect(&server.database.url).await.unwrap();
    sqlx::query("BEGIN").execute(&mut blocker).await.unwrap();
    sqlx::query("LOCK TABLE organizations IN ACCESS EXCLUSIVE MODE").execute(&mut blocker).await.unwrap();
    let late = fully_consistent(&acme, "ada", &token).with("grpc-timeout", "1n");
    let fast = server.send(late.clone()).await;
    let slow = through_the_pipeline(&server, late.clone()).await;
    let named = server.send(late.with(NAME, "mine")).await;
    assert_eq!(named.headers[NAME], "mine");
    assert_eq!(fast.reason.as_deref(), Some("DEADLINE_EXCEEDED"));
    assert_eq!((fast.http_status, fast.grpc_status), (slow.http_status, slow.grpc_status));
    assert_eq!(fast.reason, slow.reason);
    // The response carries a request id, for the log line.
    assert!(fast.headers.contains_key(NAME));
    blocker.close().await.unwrap();
}

#[tokio::test]
async fn callers_on_one_connection_are_distinguished() {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let good = server.service_token("backend", &[Scope::Check]);
    let other = server.service_token("mail", &[Scope::ActAs]);
    let mut client = CheckServiceClient::new(server.connect().await);
    let tokens = [(good.as_str(), Code::Ok), (&other, Code::PermissionDenied), ("x.y.z", Code::Unauthenticated)];
    // Every order of two callers, and each caller twice in a row.
    for index in [0, 0, 0, 1, 1, 0, 2, 0, 1, 2, 2, 1, 0, 0] {
        let (token, expected) = tokens[index];
        let mut request = tonic::Request::new(is_member(&acme, "ada"));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let code = client.check_membership(request).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code, expected, "{token}");
    }
}

#[tokio::test]
async fn a_body_in_pieces_is_awaited() {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let call = check(&acme, "ada", &server.service_token("backend", &[Scope::Check]));
    until_fast(&server, &call).await;
    for pieces in [vec![call.body.len()], vec![1, 4, 20], vec![5], vec![12]] {
        let answer = raw::send_in_pieces(server.address, call.clone(), &pieces).await;
        assert_eq!(answer.grpc_status, Some(0), "{answer:?}");
        assert!(result(&answer).allowed && is_fast(&answer));
    }
}

/// A check waits for Postgres for two seconds at most, from when its message is there.
#[tokio::test]
async fn a_check_whose_message_comes_late_has_the_whole_time_for_postgres() {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let token = server.service_token("backend", &[Scope::Check]);
    until_fast(&server, &check(&acme, "ada", &token)).await;
    let late = fully_consistent(&acme, "ada", &token).with("grpc-timeout", "20S");
    let answer = raw::send_late(server.address, late, limits::CHECK_WAIT + Duration::from_millis(100)).await;
    assert_eq!((answer.grpc_status, result(&answer).source()), (Some(0), pb::CheckSource::Primary), "{answer:?}");
}

#[tokio::test]
async fn the_fast_path_denies_a_removed_member_at_once() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "alan", "member").await;
    let call = check(&acme, "alan", &server.service_token("backend", &[Scope::Check]));
    assert!(result(&until_fast(&server, &call).await).allowed);
    let request = pb::RemoveMemberRequest { organization: acme, user_id: "alan".to_owned(), ..Default::default() };
    ada.organizations.remove_member(request).await.unwrap();
    // The same process made the change: it denies from the first call on.
    assert!(!result(&server.send(call).await).allowed);
}
