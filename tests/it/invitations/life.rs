//! The steps from an invitation to a membership.

use super::{Fixture, accept, invite, invite_identifier, preview, remind};
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

/// The fields of a received invitation about its organization.
fn about(received: &pb::ReceivedInvitation) -> [&str; 4] {
    let pb::ReceivedInvitation { organization_id, organization_slug, organization_kind, organization_name, .. } =
        received;
    [organization_id, organization_slug, organization_kind, organization_name]
}

/// Creates an organization of the kind `team` with invitations of `grace`, by address and by identifier, and brings it into
/// a state. Returns its id and the tokens of the invitations.
async fn team(fixture: &Fixture, state: &str, name: &str) -> (String, [String; 2]) {
    let (mut ada, mut backend) = (fixture.ada.clone(), fixture.backend.clone());
    let request = pb::CreateOrganizationRequest { kind: "team".to_owned(), ..crate::harness::organization(name) };
    let (id, token) = if state == "registered" {
        let owner_delivery = pb::InvitationDelivery::Token.into();
        let request =
            pb::CreateOrganizationRequest { owner_email: "grace@example.com".to_owned(), owner_delivery, ..request };
        let made = backend.organizations.create_organization(request).await.unwrap().into_inner();
        (made.organization.unwrap().id, made.owner_token)
    } else {
        let creator = if state == "pending" { &mut backend } else { &mut ada };
        let made = creator.organizations.create_organization(request).await.unwrap().into_inner();
        let id = made.organization.unwrap().id;
        (id.clone(), fixture.create(invite(&id, "grace@example.com")).await.token)
    };
    let by_identifier = fixture.create(invite_identifier(&id, "@grace")).await.token;
    let organization = id.clone();
    match state {
        "renamed" => {
            let (name, slug) = ("Renamed".to_owned(), "another-slug".to_owned());
            let request = pb::UpdateOrganizationRequest { organization, name, slug, ..Default::default() };
            ada.organizations.update_organization(request).await.unwrap();
        }
        "inactive" => {
            let request = pb::DeactivateOrganizationRequest { organization, ..Default::default() };
            ada.organizations.deactivate_organization(request).await.unwrap();
        }
        "deleted" => {
            let request = pb::DeleteOrganizationRequest { organization, ..Default::default() };
            ada.organizations.delete_organization(request).await.unwrap();
        }
        _ => {}
    }
    (id, [token, by_identifier])
}

#[tokio::test]
async fn a_received_invitation_names_its_organization_in_each_state() {
    let fixture = Fixture::new().await;
    let mut operator = fixture.server.operator();
    let mut grace = fixture.server.user_with_email("grace");
    // An address that is not verified receives nothing.
    let mut mallory = fixture.server.person("mallory", "grace@example.com", false);
    for (number, state) in ["active", "renamed", "inactive", "pending", "registered", "deleted"].iter().enumerate() {
        let (organization, tokens) = team(&fixture, state, &format!("Team {number}")).await;
        let get = pb::GetOrganizationRequest { organization: organization.clone() };
        let stored = operator.organizations.get_organization(get).await.unwrap().into_inner().organization.unwrap();
        let expected = [&stored.id, &stored.slug, &stored.kind, &stored.name].map(String::as_str);
        assert_eq!((expected[0], expected[2]), (organization.as_str(), "team"));
        let list = pb::ListReceivedInvitationsRequest::default();
        let listed = grace.invitations.list_received_invitations(list.clone()).await.unwrap().into_inner().invitations;
        let listed: Vec<_> = listed.iter().filter(|one| one.organization_id == organization).map(about).collect();
        let is_listed = ["active", "renamed", "registered"].contains(state);
        assert_eq!(listed, if is_listed { vec![expected] } else { Vec::new() }, "{state}");
        for token in &tokens {
            for mut caller in [grace.clone(), fixture.server.anonymous()] {
                match caller.invitations.preview_invitation(preview(token)).await {
                    Ok(answer) => assert_eq!(about(&answer.into_inner().invitation.unwrap()), expected, "{state}"),
                    answer @ Err(_) => {
                        assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
                        assert_eq!(*state, "deleted");
                    }
                }
            }
        }
        // The id and the slug give no access.
        for organization in [stored.id, stored.slug] {
            let answer = grace.organizations.get_organization(pb::GetOrganizationRequest { organization }).await;
            assert_refused(answer, Code::PermissionDenied, "PERMISSION_DENIED");
        }
        let received = mallory.invitations.list_received_invitations(list).await.unwrap().into_inner();
        assert_eq!(received.invitations, []);
    }
}

#[tokio::test]
async fn the_invitation_of_an_owner_has_the_lifetime_of_the_request() {
    let fixture = Fixture::new().await;
    let request = pb::CreateOrganizationRequest {
        owner_email: "grace@example.com".to_owned(),
        owner_delivery: pb::InvitationDelivery::Token.into(),
        ..crate::harness::organization("Navy")
    };
    let day = 24 * 3600;
    for (lifetime, seconds) in [(None, 7 * day), (Some(3600), 3600), (Some(30 * day), 30 * day)] {
        let owner_lifetime = lifetime.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
        let request_id = roster::random::uuid().to_string();
        let request = pb::CreateOrganizationRequest { owner_lifetime, request_id, ..request.clone() };
        let mut backend = fixture.backend.clone();
        let made = backend.organizations.create_organization(request.clone()).await.unwrap().into_inner();
        let invitation = made.owner_invitation.clone().unwrap();
        let (created, expires) = (invitation.create_time.unwrap(), invitation.expire_time.unwrap());
        assert_eq!(expires.seconds - created.seconds, seconds);
        let again = backend.organizations.create_organization(request.clone()).await.unwrap().into_inner();
        assert_eq!(again.owner_invitation, made.owner_invitation);
        // Another lifetime is another request.
        let other = prost_types::Duration { seconds: 7200, nanos: 0 };
        let other = pb::CreateOrganizationRequest { owner_lifetime: Some(other), ..request };
        let answer = backend.organizations.create_organization(other).await;
        assert_refused(answer, Code::AlreadyExists, "REQUEST_ID_REUSED");
        // A reminder does not prolong it.
        let organization = invitation.organization;
        backend.invitations.remind_invitation(remind(&organization, &invitation.invitation_id, true)).await.unwrap();
        let get = pb::GetInvitationRequest { organization, invitation_id: invitation.invitation_id };
        let now = backend.invitations.get_invitation(get).await.unwrap().into_inner().invitation.unwrap();
        assert_eq!(now.expire_time.unwrap(), expires);
    }
}
