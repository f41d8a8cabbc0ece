//! What is hidden: whether there is such an organization at all, and what other users are in.

use super::cast::{Cast, TARGET};
use super::expected::{self, Cell};
use super::requests::request;
use crate::harness::raw::{self, Answer, Call};
use crate::harness::snapshot::Snapshot;
use prost::Message;
use roster::auth::rules::METHODS;
use roster::grpc::pb;
use tonic::Code;

const NO_ID: &str = "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11";

/// All of an answer but what no two answers share.
fn told(mut answer: Answer) -> Answer {
    for changing in ["x-request-id", "date"] {
        answer.headers.remove(changing);
    }
    answer
}

fn assert_same(answer: &Answer, other: &Answer, what: &str) {
    assert_eq!((&answer.headers, &answer.trailers), (&other.headers, &other.trailers), "{what}");
    assert_eq!((answer.http_status, &answer.body), (other.http_status, &other.body), "{what}");
}

#[tokio::test]
async fn outsiders_hear_the_same_of_an_organization_as_of_none() {
    let cast = Cast::assemble().await;
    let parts = cast.parts().await;
    let rows = expected::rows();
    let before = Snapshot::take(&cast.server.database).await;
    let mut compared = 0;
    for method in &METHODS {
        for part in
            parts.iter().filter(|part| ["stranger", "former", "member@gone", "for-stranger"].contains(&part.name))
        {
            let Cell::Refused(Code::PermissionDenied, "PERMISSION_DENIED") = rows[method.name][part.name] else {
                continue;
            };
            let mut names = vec![NO_ID, "no-such-slug", &cast.gone.id, &cast.gone.slug];
            names.extend([&cast.off.id, &cast.off.slug, &cast.live.id, &cast.live.slug].map(String::as_str));
            let mut none: Option<Answer> = None;
            for name in names {
                // A write with a request_id goes another way when it is refused: it may have been answered before.
                let ways: &[bool] = if method.write { &[false, true] } else { &[false] };
                for with_request_id in ways {
                    let mut message = request(method.name, name, part.user);
                    if *with_request_id {
                        // What follows a message in its bytes is part of it. Every write has the request_id in field 14.
                        let id = pb::ActivateOrganizationRequest { request_id: NO_ID.to_owned(), ..Default::default() };
                        message.extend(id.encode_to_vec());
                    }
                    let call = part.shown(Call::grpc(method.path, &message));
                    let answer = told(raw::send(cast.server.address, call).await);
                    assert_eq!(answer.reason.as_deref(), Some("PERMISSION_DENIED"));
                    let none = none.get_or_insert_with(|| answer.clone());
                    assert_same(&answer, none, &format!("{} by {} of {name}", method.name, part.name));
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 500, "{compared}");
    assert_eq!(before.changes().await, Vec::<String>::new());
}

#[tokio::test]
async fn users_ask_for_themselves_only() {
    let cast = Cast::assemble().await;
    let parts = cast.parts().await;
    // Nothing is told apart by whom they ask for: somebody of their organization, or nobody known.
    for part in parts.iter().filter(|part| ["member", "owner", "for-owner", "stranger"].contains(&part.name)) {
        for method in ["/roster.v1.UserService/GetUser", "/roster.v1.OrganizationService/ListUserOrganizations"] {
            let mut none: Option<Answer> = None;
            for user_id in [TARGET, "nobody-at-all"].map(str::to_owned) {
                // The user's id is field 1 of both.
                let message = pb::GetUserRequest { user_id }.encode_to_vec();
                let answer = told(raw::send(cast.server.address, part.shown(Call::grpc(method, &message))).await);
                assert_eq!(answer.reason.as_deref(), Some("CALLER_NOT_ALLOWED"), "{method} by {}", part.name);
                assert_same(&answer, none.get_or_insert_with(|| answer.clone()), method);
            }
        }
    }
}
