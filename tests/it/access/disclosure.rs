//! Information that callers must not obtain: whether an organization exists, the organizations of other users, and
//! invitations of others.

use super::expected::{self, Cell};
use super::fixture::{Caller, Fixture, INACTIVE_USER, MEMBER, user_token};
use super::requests::request;
use crate::harness::raw::{self, Answer, Call};
use crate::harness::snapshot::Snapshot;
use prost::Message;
use roster::authz::rules::{self, METHODS};
use roster::grpc::pb;
use tonic::Code;

const UNKNOWN_ID: &str = "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11";

/// An answer without the headers that differ between any two answers.
fn comparable(mut answer: Answer) -> Answer {
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
async fn outsiders_get_the_same_answer_for_existing_and_unknown_organizations() {
    let fixture = Fixture::new().await;
    let callers = fixture.callers().await;
    let rows = expected::rows();
    let before = Snapshot::take(&fixture.server.database).await;
    let mut compared = 0;
    for method in &METHODS {
        for caller in
            callers.iter().filter(|caller| ["stranger", "former", "member@gone", "for-stranger"].contains(&caller.name))
        {
            let Cell::Refused(Code::PermissionDenied, "PERMISSION_DENIED") = rows[method.name][caller.name] else {
                continue;
            };
            let mut names = vec![(UNKNOWN_ID, UNKNOWN_ID), ("no-such-slug", fixture.active.invitation.as_str())];
            for organization in [&fixture.deleted, &fixture.inactive, &fixture.active] {
                names.extend(
                    [&organization.id, &organization.slug]
                        .map(|name| (name.as_str(), organization.invitation.as_str())),
                );
            }
            let mut first: Option<Answer> = None;
            for (name, invitation) in names {
                // A refused write with a request_id takes another path: a stored answer may exist.
                let variants: &[bool] = if method.write { &[false, true] } else { &[false] };
                for with_request_id in variants {
                    let mut message = request(method, name, invitation, caller.user);
                    if *with_request_id {
                        // Bytes appended to a message add fields to it. Every write has the request_id in field 14.
                        let id =
                            pb::ActivateOrganizationRequest { request_id: UNKNOWN_ID.to_owned(), ..Default::default() };
                        message.extend(id.encode_to_vec());
                    }
                    let call = caller.authenticate(Call::grpc(method.path, &message));
                    let answer = comparable(raw::send(fixture.server.address, call).await);
                    assert_eq!(answer.reason.as_deref(), Some("PERMISSION_DENIED"));
                    let first = first.get_or_insert_with(|| answer.clone());
                    assert_same(&answer, first, &format!("{} by {}, organization {name}", method.name, caller.name));
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 500, "{compared}");
    assert_eq!(before.changes().await, Vec::<String>::new());
}

#[tokio::test]
async fn users_read_their_own_account_only() {
    let fixture = Fixture::new().await;
    let callers = fixture.callers().await;
    // The answer is the same for a member of their organization and for an unknown user.
    for caller in callers.iter().filter(|caller| ["member", "owner", "for-owner", "stranger"].contains(&caller.name)) {
        for method in ["/roster.v1.UserService/GetUser", "/roster.v1.OrganizationService/ListUserOrganizations"] {
            let mut first: Option<Answer> = None;
            for user_id in [MEMBER, "no-such-user"].map(str::to_owned) {
                // The user id is field 1 of both requests.
                let message = pb::GetUserRequest { user_id }.encode_to_vec();
                let answer = comparable(
                    raw::send(fixture.server.address, caller.authenticate(Call::grpc(method, &message))).await,
                );
                assert_eq!(answer.reason.as_deref(), Some("CALLER_NOT_ALLOWED"), "{method} by {}", caller.name);
                assert_same(&answer, first.get_or_insert_with(|| answer.clone()), method);
            }
        }
    }
}

/// Asserts that each of these requests gets the same answer: the invitation does not exist.
async fn assert_no_such_invitation(fixture: &Fixture, caller: &Caller, path: &str, messages: Vec<Vec<u8>>) {
    let mut first: Option<Answer> = None;
    for message in messages {
        let answer =
            comparable(raw::send(fixture.server.address, caller.authenticate(Call::grpc(path, &message))).await);
        assert_eq!(answer.reason.as_deref(), Some("INVITATION_NOT_FOUND"), "{path} by {}", caller.name);
        assert_same(&answer, first.get_or_insert_with(|| answer.clone()), &format!("{path} by {}", caller.name));
    }
}

#[tokio::test]
async fn an_invitation_of_another_organization_is_not_found() {
    let fixture = Fixture::new().await;
    let callers = fixture.callers().await;
    let before = Snapshot::take(&fixture.server.database).await;
    for caller in
        callers.iter().filter(|caller| ["admin", "owner", "manage", "operator", "for-owner"].contains(&caller.name))
    {
        for method in ["GetInvitation", "RevokeInvitation", "RemindInvitation"] {
            let path = raw::path(&format!("InvitationService/{method}"));
            let ids = [
                UNKNOWN_ID,
                &fixture.inactive.invitation,
                &fixture.deleted.invitation,
                &fixture.inactive.invited["sid"].id,
            ];
            let both = |id: &str| {
                [&fixture.active.id, &fixture.active.slug]
                    .map(|name| request(rules::method(&path).unwrap(), name, id, None))
            };
            assert_no_such_invitation(&fixture, caller, &path, ids.map(both).concat()).await;
        }
    }
    assert_eq!(before.changes().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_invitation_to_another_user_is_not_found_by_its_id_and_stays_valid_by_its_token() {
    use pb::accept_invitation_request::Invitation::{InvitationId, Token};
    let fixture = Fixture::new().await;
    let callers = fixture.callers().await;
    let accept = |invitation| pb::AcceptInvitationRequest { invitation: Some(invitation), ..Default::default() };
    // One accepted, one declined and one revoked invitation.
    let active = &fixture.active;
    let mia = user_token(&fixture.server, "mia");
    let accepted = accept(Token(active.invited["mia"].token.clone()));
    fixture.server.with_token(&mia).invitations.accept_invitation(accepted).await.unwrap();
    let declined = pb::DeclineInvitationRequest {
        invitation: Some(pb::decline_invitation_request::Invitation::Token(active.invited["ian"].token.clone())),
        ..Default::default()
    };
    let ian = user_token(&fixture.server, "ian");
    fixture.server.with_token(&ian).invitations.decline_invitation(declined).await.unwrap();
    let revoked = pb::RevokeInvitationRequest {
        organization: active.id.clone(),
        invitation_id: active.invited["dan"].id.clone(),
        ..Default::default()
    };
    fixture.server.operator().invitations.revoke_invitation(revoked).await.unwrap();

    let pending = [&active.invited[MEMBER], &fixture.inactive.invited[MEMBER]];
    let ended =
        [&active.invited["mia"], &active.invited["ian"], &active.invited["dan"], &fixture.deleted.invited[MEMBER]];
    let ids = pending.iter().chain(&ended).map(|invited| invited.id.clone());
    let ids: Vec<String> = ids.chain([UNKNOWN_ID.to_owned(), active.invitation.clone()]).collect();
    let tokens: Vec<String> = ended.iter().map(|invited| invited.token.clone()).chain(["A".repeat(43)]).collect();
    for caller in callers.iter().filter(|caller| ["stranger", "admin", "owner", "for-stranger"].contains(&caller.name))
    {
        let by_id = ids.iter().cloned().map(InvitationId);
        let messages: Vec<_> = by_id.chain(tokens.iter().cloned().map(Token)).map(accept).collect();
        for method in ["AcceptInvitation", "DeclineInvitation"] {
            // Both methods have the same fields.
            let messages = messages.iter().map(Message::encode_to_vec).collect();
            assert_no_such_invitation(&fixture, caller, &raw::path(&format!("InvitationService/{method}")), messages)
                .await;
            // With a valid token they learn that the invitation is to another user, which the preview shows anyway.
            let good = accept(Token(pending[0].token.clone())).encode_to_vec();
            let call = caller.authenticate(Call::grpc(&raw::path(&format!("InvitationService/{method}")), &good));
            let answer = raw::send(fixture.server.address, call).await;
            assert_eq!(answer.reason.as_deref(), Some("NOT_YOUR_INVITATION"), "{method} by {}", caller.name);
        }
    }
    for caller in callers.iter().filter(|caller| ["anonymous", "stranger", "check", "operator"].contains(&caller.name))
    {
        let messages = tokens.iter().map(|token| pb::PreviewInvitationRequest { token: token.clone() }.encode_to_vec());
        let path = raw::path("InvitationService/PreviewInvitation");
        assert_no_such_invitation(&fixture, caller, &path, messages.collect()).await;
    }
    let tom = user_token(&fixture.server, MEMBER);
    let own = accept(Token(pending[0].token.clone()));
    assert!(fixture.server.with_token(&tom).invitations.accept_invitation(own).await.is_ok());
}

#[tokio::test]
async fn received_invitations_are_the_callers_own_that_can_be_accepted() {
    let fixture = Fixture::new().await;
    for caller in fixture.callers().await.iter().filter(|caller| caller.user.is_some_and(|user| user != INACTIVE_USER))
    {
        let message = pb::ListReceivedInvitationsRequest::default().encode_to_vec();
        let path = raw::path("InvitationService/ListReceivedInvitations");
        let answer = raw::send(fixture.server.address, caller.authenticate(Call::grpc(&path, &message))).await;
        let received = pb::ListReceivedInvitationsResponse::decode(answer.message()).unwrap().invitations;
        let ids: Vec<_> = received.iter().map(|one| &one.invitation_id).collect();
        // Not those into the inactive and the deleted organization.
        assert_eq!(ids, [&fixture.active.invited[caller.user.unwrap()].id], "{}", caller.name);
    }
}
