//! What is hidden: whether there is such an organization at all, what other users are in, and who is invited.

use super::cast::{Cast, Part, SWITCHED_OFF, TARGET, user_token};
use super::expected::{self, Cell};
use super::requests::request;
use crate::harness::raw::{self, Answer, Call};
use crate::harness::snapshot::Snapshot;
use prost::Message;
use roster::authz::rules::METHODS;
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
            let mut names = vec![(NO_ID, NO_ID), ("no-such-slug", cast.live.invitation.as_str())];
            for place in [&cast.gone, &cast.off, &cast.live] {
                names.extend([&place.id, &place.slug].map(|name| (name.as_str(), place.invitation.as_str())));
            }
            let mut none: Option<Answer> = None;
            for (name, invitation) in names {
                // A write with a request_id goes another way when it is refused: it may have been answered before.
                let ways: &[bool] = if method.write { &[false, true] } else { &[false] };
                for with_request_id in ways {
                    let mut message = request(method.name, name, invitation, part.user);
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

/// Sends these, each of which must be refused as an invitation that is not there; all must hear the same.
async fn assert_no_such_invitation(cast: &Cast, part: &Part, path: &str, messages: Vec<Vec<u8>>) {
    let mut none: Option<Answer> = None;
    for message in messages {
        let answer = told(raw::send(cast.server.address, part.shown(Call::grpc(path, &message))).await);
        assert_eq!(answer.reason.as_deref(), Some("INVITATION_NOT_FOUND"), "{path} by {}", part.name);
        assert_same(&answer, none.get_or_insert_with(|| answer.clone()), &format!("{path} by {}", part.name));
    }
}

#[tokio::test]
async fn an_invitation_of_another_organization_is_as_none() {
    let cast = Cast::assemble().await;
    let parts = cast.parts().await;
    let before = Snapshot::take(&cast.server.database).await;
    for part in parts.iter().filter(|part| ["admin", "owner", "manage", "operator", "for-owner"].contains(&part.name)) {
        for method in ["GetInvitation", "RevokeInvitation", "RemindInvitation"] {
            let path = raw::path(&format!("InvitationService/{method}"));
            let elsewhere = [NO_ID, &cast.off.invitation, &cast.gone.invitation, &cast.off.invited["sid"].id];
            let both = |id: &str| [&cast.live.id, &cast.live.slug].map(|name| request(method, name, id, None));
            assert_no_such_invitation(&cast, part, &path, elsewhere.map(both).concat()).await;
        }
    }
    assert_eq!(before.changes().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_invitation_of_somebody_else_is_as_none_by_its_id_and_stays_good_by_its_token() {
    use pb::accept_invitation_request::Invitation::{InvitationId, Token};
    let cast = Cast::assemble().await;
    let parts = cast.parts().await;
    let accept = |invitation| pb::AcceptInvitationRequest { invitation: Some(invitation), ..Default::default() };
    // One that is accepted, one that is declined, and one that is taken back.
    let live = &cast.live;
    let mia = user_token(&cast.server, "mia");
    let taken = accept(Token(live.invited["mia"].token.clone()));
    cast.server.with_token(&mia).invitations.accept_invitation(taken).await.unwrap();
    let declined = pb::DeclineInvitationRequest {
        invitation: Some(pb::decline_invitation_request::Invitation::Token(live.invited["ian"].token.clone())),
        ..Default::default()
    };
    let ian = user_token(&cast.server, "ian");
    cast.server.with_token(&ian).invitations.decline_invitation(declined).await.unwrap();
    let revoked = pb::RevokeInvitationRequest {
        organization: live.id.clone(),
        invitation_id: live.invited["dan"].id.clone(),
        ..Default::default()
    };
    cast.server.operator().invitations.revoke_invitation(revoked).await.unwrap();

    let pending = [&live.invited[TARGET], &cast.off.invited[TARGET]];
    let over = [&live.invited["mia"], &live.invited["ian"], &live.invited["dan"], &cast.gone.invited[TARGET]];
    let ids = pending.iter().chain(&over).map(|invited| invited.id.clone());
    let ids: Vec<String> = ids.chain([NO_ID.to_owned(), live.invitation.clone()]).collect();
    let tokens: Vec<String> = over.iter().map(|invited| invited.token.clone()).chain(["A".repeat(43)]).collect();
    for part in parts.iter().filter(|part| ["stranger", "admin", "owner", "for-stranger"].contains(&part.name)) {
        let by_id = ids.iter().cloned().map(InvitationId);
        let messages: Vec<_> = by_id.chain(tokens.iter().cloned().map(Token)).map(accept).collect();
        for method in ["AcceptInvitation", "DeclineInvitation"] {
            // Their fields are the same.
            let messages = messages.iter().map(Message::encode_to_vec).collect();
            assert_no_such_invitation(&cast, part, &raw::path(&format!("InvitationService/{method}")), messages).await;
            // With a good token they learn that it is not theirs; they could have looked at it anyway.
            let good = accept(Token(pending[0].token.clone())).encode_to_vec();
            let call = part.shown(Call::grpc(&raw::path(&format!("InvitationService/{method}")), &good));
            let answer = raw::send(cast.server.address, call).await;
            assert_eq!(answer.reason.as_deref(), Some("NOT_YOUR_INVITATION"), "{method} by {}", part.name);
        }
    }
    for part in parts.iter().filter(|part| ["nobody", "stranger", "check", "operator"].contains(&part.name)) {
        let messages = tokens.iter().map(|token| pb::PreviewInvitationRequest { token: token.clone() }.encode_to_vec());
        let path = raw::path("InvitationService/PreviewInvitation");
        assert_no_such_invitation(&cast, part, &path, messages.collect()).await;
    }
    let tom = user_token(&cast.server, TARGET);
    let own = accept(Token(pending[0].token.clone()));
    assert!(cast.server.with_token(&tom).invitations.accept_invitation(own).await.is_ok());
}

#[tokio::test]
async fn a_list_of_received_invitations_holds_the_callers_own_that_can_be_accepted() {
    let cast = Cast::assemble().await;
    for part in cast.parts().await.iter().filter(|part| part.user.is_some_and(|user| user != SWITCHED_OFF)) {
        let message = pb::ListReceivedInvitationsRequest::default().encode_to_vec();
        let path = raw::path("InvitationService/ListReceivedInvitations");
        let answer = raw::send(cast.server.address, part.shown(Call::grpc(&path, &message))).await;
        let received = pb::ListReceivedInvitationsResponse::decode(answer.message()).unwrap().invitations;
        let ids: Vec<_> = received.iter().map(|one| &one.invitation_id).collect();
        // Not those into what is switched off or deleted.
        assert_eq!(ids, [&cast.live.invited[part.user.unwrap()].id], "{}", part.name);
    }
}
