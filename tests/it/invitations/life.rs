//! The steps from an invitation to a membership.

use super::{accept, invite};
use crate::harness::{Server, assert_refused, is_member};
use roster::domain::Scope;
use roster::grpc::pb;
use tonic::Code;

#[tokio::test]
async fn an_invitation_is_created_previewed_and_accepted() {
    let server = Server::start().await;
    let mut ada = server.user_with_email("ada");
    let acme = ada.create("Acme").await;
    let mut backend = server.service(&[Scope::Manage]);
    let created = backend.invitations.create_invitation(invite(&acme, "Grace@Example.com")).await.unwrap().into_inner();
    let (invitation, token) = (created.invitation.unwrap(), created.token);
    assert_eq!((invitation.state(), invitation.email.as_str()), (pb::InvitationState::Pending, "Grace@Example.com"));
    assert_eq!(token.len(), 43);

    let preview = pb::PreviewInvitationRequest { token: token.clone() };
    let answer = server.anonymous().invitations.preview_invitation(preview.clone()).await.unwrap().into_inner();
    let previewed = answer.invitation.unwrap();
    assert_eq!(
        (previewed.organization_name.as_str(), previewed.role.as_str(), previewed.recipient.as_str()),
        ("Acme", "member", "G…@Example.com")
    );
    let mut grace = server.user_with_email("grace");
    let received = pb::ListReceivedInvitationsRequest::default();
    let received = grace.invitations.list_received_invitations(received).await.unwrap().into_inner().invitations;
    assert_eq!(received.iter().map(|one| &one.invitation_id).collect::<Vec<_>>(), [&invitation.invitation_id]);

    let accepted = grace.invitations.accept_invitation(accept(&token)).await.unwrap().into_inner();
    assert_eq!(accepted.member.unwrap().role, "member");
    let mut checker = server.service(&[Scope::Check]);
    assert!(
        checker.checks.check_membership(is_member(&acme, "grace")).await.unwrap().into_inner().result.unwrap().allowed
    );
    // The same user gets the same answer again. For other callers the token is not found.
    assert!(grace.invitations.accept_invitation(accept(&token)).await.is_ok());
    let other = server.user_with_email("mallory").invitations.accept_invitation(accept(&token)).await;
    assert_refused(other, Code::NotFound, "INVITATION_NOT_FOUND");
    let anonymous = server.anonymous().invitations.preview_invitation(preview).await;
    assert_refused(anonymous, Code::NotFound, "INVITATION_NOT_FOUND");
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn an_organization_created_for_an_address_is_pending_until_the_owner_accepts() {
    let server = Server::start().await;
    let mut backend = server.service(&[Scope::Manage]);
    let request = pb::CreateOrganizationRequest {
        owner_email: "grace@example.com".to_owned(),
        owner_delivery: pb::InvitationDelivery::Token.into(),
        ..crate::harness::organization("Navy")
    };
    let created = backend.organizations.create_organization(request).await.unwrap().into_inner();
    let navy = created.organization.unwrap();
    assert_eq!((navy.state(), navy.owner_user_id.as_str()), (pb::OrganizationState::Pending, ""));
    assert!(created.owner_invitation.unwrap().makes_owner);
    let mut grace = server.user_with_email("grace");
    let member = grace.invitations.accept_invitation(accept(&created.owner_token)).await.unwrap().into_inner().member;
    assert_eq!(member.unwrap().role, "owner");
    let request = pb::GetOrganizationRequest { organization: navy.id };
    let now = grace.organizations.get_organization(request).await.unwrap().into_inner().organization.unwrap();
    assert_eq!((now.state(), now.owner_user_id.as_str()), (pb::OrganizationState::Active, "grace"));
    server.database.assert_invariants().await;
}
