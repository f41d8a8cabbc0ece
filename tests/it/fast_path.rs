//! Checks of services go a way of their own, where they can. Nobody can tell by anything but the missing `x-request-id`:
//! the answers are the same bytes, and the faults are the same in the same order.

use crate::harness::raw::{self, Answer, Call};
use crate::harness::{Server, is_member};
use prost::Message;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::grpc::pb::check_service_client::CheckServiceClient;
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

/// Whether an answer came through the lane.
fn is_of_lane(answer: &Answer) -> bool {
    !answer.headers.contains_key(NAME)
}

/// Asks until the lane answers: memory has to have loaded, the caller to be known, the body to be there.
async fn through_the_lane(server: &Server, call: &Call) -> Answer {
    let asked = async {
        loop {
            let answer = server.send(call.clone()).await;
            if is_of_lane(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asked).await.expect("the lane never answers")
}

fn result(answer: &Answer) -> pb::CheckResult {
    pb::CheckMembershipResponse::decode(answer.message()).unwrap().result.unwrap()
}

#[tokio::test]
async fn the_lane_answers_as_the_ordinary_way_does() {
    let server = Server::start().await;
    let here = server.user("ada").create("Acme").await;
    for token in [server.service_token("backend", &[Scope::Check]), server.service_token("root", &[Scope::Operator])] {
        for (organization, user, allowed) in
            [(here.as_str(), "ada", true), (&here, "stranger", false), ("acme", "ada", true)]
        {
            let call = check(organization, user, &token);
            let fast = through_the_lane(&server, &call).await;
            // Whoever names a request wants to find it in the log: it goes the ordinary way.
            let slow = server.send(call.with(NAME, "mine")).await;
            assert_eq!(slow.headers[NAME], "mine");
            assert_eq!(fast.headers["content-type"], slow.headers["content-type"]);
            assert_eq!((fast.http_status, &fast.trailers, &fast.body), (slow.http_status, &slow.trailers, &slow.body));
            assert_eq!((result(&fast).allowed, result(&fast).source()), (allowed, pb::CheckSource::Memory));
        }
    }
}

#[tokio::test]
async fn what_is_out_of_the_ordinary_is_said_by_the_ordinary_way() {
    let server = Server::start().await;
    let here = server.user("ada").create("Acme").await;
    let token = server.service_token("backend", &[Scope::Check]);
    let good = check(&here, "ada", &token);
    through_the_lane(&server, &good).await;

    let stranger = server.service_token("mail", &[Scope::Manage, Scope::ActAs]);
    let unlike = |change: &dyn Fn(Call) -> Call| change(good.clone());
    let body = |body: Vec<u8>| unlike(&|call| Call { body: body.clone(), ..call });
    let whole = good.body.clone();
    let question = |message: pb::CheckMembershipRequest| body(raw::frame(&message.encode_to_vec()));
    for (call, reason) in [
        (unlike(&|call| call.with("grpc-timeout", "soon")), Some("INVALID_REQUEST")),
        (unlike(&|call| call.instead("authorization", "Bearer x.y.z")), Some("CREDENTIAL_INVALID")),
        (unlike(&|call| call.with("authorization", &format!("Bearer {token}"))), Some("CREDENTIAL_INVALID")),
        (unlike(&|call| call.without("authorization")), Some("CREDENTIAL_MISSING")),
        (unlike(&|call| call.with("roster-on-behalf-of", "ada")), Some("ON_BEHALF_OF_NOT_ALLOWED")),
        (
            unlike(&|call| call.without("authorization").bearer(&server.mint(&Server::claims("ada")))),
            Some("CALLER_NOT_ALLOWED"),
        ),
        (body(raw::frame(&[0x0f])), Some("MALFORMED_MESSAGE")),
        (body([whole.clone(), whole.clone()].concat()), Some("MALFORMED_MESSAGE")),
        (body(whole[..9].to_vec()), Some("MALFORMED_MESSAGE")),
        (body(Vec::new()), Some("MALFORMED_MESSAGE")),
        (question(is_member("?", "ada")), Some("INVALID_REQUEST")),
        (check(&here, "ada", &stranger), None),
    ] {
        // Whoever may be remembered is so the second time.
        for _ in 0..2 {
            let answer = server.send(call.clone()).await;
            assert_eq!(answer.reason.as_deref(), reason, "{call:?}");
            // The stranger has become a known caller; everything else is never answered here.
            assert!(!is_of_lane(&answer) || call.headers["authorization"] == format!("Bearer {stranger}"), "{call:?}");
        }
    }
}

#[tokio::test]
async fn what_memory_may_not_answer_is_asked_from_the_lane() {
    let server = Server::start().await;
    let here = server.user("ada").create("Acme").await;
    let token = server.service_token("backend", &[Scope::Check]);
    through_the_lane(&server, &check(&here, "ada", &token)).await;
    for (user, allowed) in [("ada", true), ("stranger", false)] {
        let call = fully_consistent(&here, user, &token);
        let fast = through_the_lane(&server, &call).await;
        let slow = server.send(call.with(NAME, "mine")).await;
        assert!(!is_of_lane(&slow));
        assert_eq!((fast.http_status, &fast.trailers, &fast.body), (slow.http_status, &slow.trailers, &slow.body));
        assert_eq!((result(&fast).allowed, result(&fast).source()), (allowed, pb::CheckSource::Primary));
    }
}

#[tokio::test]
async fn what_goes_wrong_in_the_lane_is_told_as_everywhere() {
    let server = Server::start().await;
    let here = server.user("ada").create("Acme").await;
    let token = server.service_token("backend", &[Scope::Check]);
    through_the_lane(&server, &check(&here, "ada", &token)).await;
    let late = fully_consistent(&here, "ada", &token).with("grpc-timeout", "1n");
    let fast = server.send(late.clone()).await;
    let slow = server.send(late.with(NAME, "mine")).await;
    assert_eq!(fast.reason.as_deref(), Some("DEADLINE_EXCEEDED"));
    assert_eq!((fast.http_status, fast.grpc_status), (slow.http_status, slow.grpc_status));
    assert_eq!(fast.reason, slow.reason);
    // It has a name, for the line in the log.
    assert!(fast.headers.contains_key(NAME));
}

#[tokio::test]
async fn many_who_share_a_connection_are_told_apart() {
    let server = Server::start().await;
    let here = server.user("ada").create("Acme").await;
    let good = server.service_token("backend", &[Scope::Check]);
    let other = server.service_token("mail", &[Scope::ActAs]);
    let mut client = CheckServiceClient::new(server.connect().await);
    let tokens = [(good.as_str(), Code::Ok), (&other, Code::PermissionDenied), ("x.y.z", Code::Unauthenticated)];
    // Each after each, and each twice.
    for index in [0, 0, 0, 1, 1, 0, 2, 0, 1, 2, 2, 1, 0, 0] {
        let (token, expected) = tokens[index];
        let mut request = tonic::Request::new(is_member(&here, "ada"));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let code = client.check_membership(request).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code, expected, "{token}");
    }
}

#[tokio::test]
async fn a_body_in_pieces_is_waited_for_and_whole() {
    let server = Server::start().await;
    let here = server.user("ada").create("Acme").await;
    let call = check(&here, "ada", &server.service_token("backend", &[Scope::Check]));
    through_the_lane(&server, &call).await;
    for pieces in [vec![call.body.len()], vec![1, 4, 20], vec![5], vec![12]] {
        let answer = raw::send_in_pieces(server.address, call.clone(), &pieces).await;
        assert_eq!(answer.grpc_status, Some(0), "{answer:?}");
        assert!(result(&answer).allowed && !is_of_lane(&answer));
    }
}

#[tokio::test]
async fn what_is_revoked_is_denied_by_the_lane_too() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let here = ada.create("Acme").await;
    ada.add(&here, "alan", "member").await;
    let call = check(&here, "alan", &server.service_token("backend", &[Scope::Check]));
    assert!(result(&through_the_lane(&server, &call).await).allowed);
    let request = pb::RemoveMemberRequest { organization: here, user_id: "alan".to_owned(), ..Default::default() };
    ada.organizations.remove_member(request).await.unwrap();
    // This process has written it itself: not once more.
    assert!(!result(&server.send(call).await).allowed);
}
