//! An unverified address has no consequences: anyone can write the address of another person into a profile.

use crate::harness::server::Clients;
use crate::harness::{Server, refused, remove};
use crate::invitations::{Fixture, accept, accept_id, create, decline, invite};
use roster::domain::Scope;
use roster::grpc::pb;
use tonic::Code;

const VICTIM: &str = "victim@example.com";

/// How a member leaves an organization.
#[derive(Debug, Clone, Copy)]
enum End {
    Leaves,
    IsRemoved,
    IsDeleted,
}

impl End {
    async fn happens(self, server: &Server, mut member: Clients, admin: &mut Clients, acme: &str) {
        let organization = acme.to_owned();
        match self {
            Self::Leaves => {
                let request = pb::LeaveOrganizationRequest { organization, ..Default::default() };
                member.organizations.leave_organization(request).await.map(drop).unwrap();
            }
            Self::IsRemoved => {
                admin.organizations.remove_member(remove(acme, "mallory")).await.map(drop).unwrap();
            }
            Self::IsDeleted => {
                let request = pb::DeleteUserRequest { user_id: "mallory".to_owned(), ..Default::default() };
                server.service(&[Scope::Manage]).users.delete_user(request).await.map(drop).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn the_end_of_a_membership_revokes_invitations_to_the_verified_address_only() {
    for end in [End::Leaves, End::IsRemoved, End::IsDeleted] {
        for (address, verified, state) in [
            (VICTIM, false, pb::InvitationState::Pending),
            ("VICTIM@Example.com", false, pb::InvitationState::Pending),
            ("other@example.com", true, pb::InvitationState::Pending),
            (VICTIM, true, pb::InvitationState::Revoked),
            ("VICTIM@Example.com", true, pb::InvitationState::Revoked),
        ] {
            let mut fixture = Fixture::new().await;
            let mut mallory = fixture.server.person("mallory", address, verified);
            // The invitation comes first, so that the member does not have the invited address yet.
            let invitation = fixture.invite(VICTIM).await;
            mallory.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
            fixture.ada.add(&fixture.acme, "mallory", "member").await;
            end.happens(&fixture.server, mallory, &mut fixture.ada, &fixture.acme).await;
            let found = fixture.get(&invitation.id).await.state();
            assert_eq!(found, state, "{end:?} {address} {verified}");
            let mut victim = fixture.server.person("victim", VICTIM, true);
            let accepted = victim.invitations.accept_invitation(accept(&invitation.token)).await;
            assert_eq!(accepted.is_ok(), state == pb::InvitationState::Pending, "{end:?} {address} {verified}");
        }
    }
}

#[tokio::test]
async fn no_request_finds_a_user_by_an_unverified_address() {
    let fixture = Fixture::new().await;
    let mut ada = fixture.ada.clone();
    let mut mallory = fixture.server.person("mallory", VICTIM, false);
    mallory.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    let (organization, email) = (fixture.acme.clone(), VICTIM.to_owned());
    let not_found = (Code::NotFound, "USER_NOT_FOUND".to_owned());

    let person = Some(pb::add_member_request::Person::Email(email.clone()));
    let request = pb::AddMemberRequest { organization: organization.clone(), person, ..Default::default() };
    assert_eq!(refused(ada.organizations.add_member(request).await), not_found);
    let person = Some(pb::ensure_member_request::Person::Email(email.clone()));
    let request = pb::EnsureMemberRequest { organization: organization.clone(), person, ..Default::default() };
    assert_eq!(refused(ada.organizations.ensure_member(request).await), not_found);

    // A member with the address neither gets the organization by it, nor stands in the way of its owner.
    ada.add(&fixture.acme, "mallory", "member").await;
    let person = Some(pb::transfer_ownership_request::Person::Email(email));
    let request = pb::TransferOwnershipRequest { organization, person, ..Default::default() };
    assert_eq!(refused(ada.organizations.transfer_ownership(request).await), not_found);
    let invitation = create(
        &fixture.ada.clone(),
        pb::CreateInvitationRequest { delivery: pb::InvitationDelivery::None.into(), ..invite(&fixture.acme, VICTIM) },
    )
    .await;
    let received = mallory.invitations.list_received_invitations(pb::ListReceivedInvitationsRequest::default()).await;
    assert_eq!(received.unwrap().into_inner().invitations, []);
    let accepted = mallory.invitations.accept_invitation(accept_id(&invitation.id)).await;
    assert_eq!(refused(accepted), (Code::NotFound, "INVITATION_NOT_FOUND".to_owned()));
    let token = fixture.remind(&invitation.id, false).await;
    let not_yours = (Code::PermissionDenied, "NOT_YOUR_INVITATION".to_owned());
    assert_eq!(refused(mallory.invitations.accept_invitation(accept(&token)).await), not_yours);
    assert_eq!(refused(mallory.invitations.decline_invitation(decline(&token)).await), not_yours);
    let mut victim = fixture.server.person("victim", VICTIM, true);
    victim.invitations.accept_invitation(accept_id(&invitation.id)).await.unwrap();
}
