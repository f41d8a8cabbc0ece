//! What a preview says is what the acceptance does, or the acceptance is refused.

use super::{Fixture, accept, accept_id, invite, invite_identifier, remind};
use crate::harness::{IssuedInvitation, add, assert_refused, reason, set_role, transfer};
use roster::grpc::pb;
use tonic::Code;

/// Creates an organization for the address of `grace`, with the owner's token in the answer.
async fn registration(fixture: &Fixture, name: &str) -> (String, IssuedInvitation) {
    let request = pb::CreateOrganizationRequest {
        owner_email: "grace@example.com".to_owned(),
        owner_delivery: pb::InvitationDelivery::Token.into(),
        ..crate::harness::organization(name)
    };
    let created = fixture.backend.clone().organizations.create_organization(request).await.unwrap().into_inner();
    let invitation =
        IssuedInvitation { id: created.owner_invitation.unwrap().invitation_id, token: created.owner_token };
    (created.organization.unwrap().id, invitation)
}

/// The recipients, the organizations and the memberships of `grace` that the agreement holds for.
const KINDS: [&str; 2] = ["address", "identifier"];
const SITUATIONS: [&str; 8] = [
    "active",
    "inactive",
    "without an owner",
    "without an owner at first",
    "a member",
    "an admin",
    "the owner",
    "a member, promoted",
];

/// Brings about a situation with an invitation of `grace`, and returns the invitation.
async fn invitation(fixture: &Fixture, situation: &str, kind: &str, role: &str, number: usize) -> IssuedInvitation {
    let (mut ada, mut backend) = (fixture.ada.clone(), fixture.backend.clone());
    let name = format!("Organization {number}");
    let is_pending = situation.starts_with("without an owner");
    let organization = if is_pending {
        let made = backend.organizations.create_organization(crate::harness::organization(&name)).await.unwrap();
        made.into_inner().organization.unwrap().id
    } else {
        ada.create(&name).await
    };
    let request = match kind {
        "address" => invite(&organization, "grace@example.com"),
        _ => invite_identifier(&organization, "@grace"),
    };
    let made = fixture.create(pb::CreateInvitationRequest { role: role.to_owned(), ..request }).await;
    match situation {
        "inactive" => {
            let request = pb::DeactivateOrganizationRequest { organization, ..Default::default() };
            ada.organizations.deactivate_organization(request).await.unwrap();
        }
        "without an owner at first" => {
            backend.organizations.add_member(add(&organization, "alan", "member")).await.unwrap();
        }
        "a member" => drop(ada.add(&organization, "grace", "member").await),
        "an admin" => drop(ada.add(&organization, "grace", "admin").await),
        "the owner" => {
            ada.add(&organization, "grace", "admin").await;
            ada.organizations.transfer_ownership(transfer(&organization, "grace")).await.unwrap();
        }
        "a member, promoted" => {
            ada.add(&organization, "grace", "member").await;
            ada.organizations.update_member(set_role(&organization, "grace", "admin")).await.unwrap();
        }
        _ => {}
    }
    made
}

#[tokio::test]
async fn an_acceptance_gives_the_role_of_the_preview_or_is_refused() {
    let fixture = Fixture::new().await;
    let mut grace = fixture.server.user_with_email("grace");
    let mut number = 0;
    for situation in SITUATIONS {
        for kind in KINDS {
            for role in ["member", "admin"] {
                number += 1;
                let case = format!("{situation}, {kind}, {role}");
                let made = invitation(&fixture, situation, kind, role, number).await;
                let shown = grace.invitations.preview_invitation(super::preview(&made.token)).await.unwrap();
                let shown = shown.into_inner().invitation.unwrap().role;
                let list = pb::ListReceivedInvitationsRequest::default();
                let list = grace.invitations.list_received_invitations(list).await.unwrap().into_inner().invitations;
                let listed = list.iter().find(|one| one.invitation_id == made.id);
                match grace.invitations.accept_invitation(accept(&made.token)).await {
                    Ok(answer) => {
                        assert_eq!(answer.into_inner().member.unwrap().role, shown, "{case}");
                        assert_eq!(listed.map(|one| &one.role), (kind == "address").then_some(&shown), "{case}");
                        // Afterwards, the preview shows the member the same role.
                        let again = grace.invitations.preview_invitation(super::preview(&made.token)).await.unwrap();
                        assert_eq!(again.into_inner().invitation.unwrap().role, shown, "{case}");
                    }
                    Err(status) => {
                        let expected = match situation {
                            "inactive" => "ORGANIZATION_INACTIVE",
                            "without an owner" => "ORGANIZATION_PENDING",
                            _ => panic!("{case}: {status:?}"),
                        };
                        assert_eq!((reason(&status).as_str(), listed), (expected, None), "{case}");
                        assert_eq!(shown, role, "{case}");
                    }
                }
            }
        }
    }
    fixture.server.database.assert_invariants().await;
}

#[tokio::test]
async fn the_invitation_of_the_owner_ends_when_another_user_becomes_the_owner() {
    let fixture = Fixture::new().await;
    let mut backend = fixture.backend.clone();
    let mut grace = fixture.server.user_with_email("grace");
    grace.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    let (navy, made) = registration(&fixture, "Navy").await;
    let other = fixture.create(invite(&navy, "joan@example.com")).await;
    assert_eq!(fixture.preview(&made.token).await.unwrap().role, "owner");
    backend.organizations.add_member(add(&navy, "alan", "member")).await.unwrap();
    let get = pb::GetInvitationRequest { organization: navy.clone(), invitation_id: made.id.clone() };
    let ended = backend.invitations.get_invitation(get).await.unwrap().into_inner().invitation.unwrap();
    assert_eq!(ended.state(), pb::InvitationState::Revoked);
    let revoked = "SELECT count(*) FROM events WHERE type = 'invitation.revoked'";
    assert_eq!(fixture.server.database.count(revoked).await, 1);
    // A server of release 0.3 leaves it pending.
    for is_old in [false, true] {
        if is_old {
            fixture.sql(&format!("UPDATE invitations SET state = 'PENDING' WHERE id = '{}'", made.id)).await;
        }
        assert_refused(fixture.preview(&made.token).await, Code::NotFound, "INVITATION_NOT_FOUND");
        let answer = grace.invitations.accept_invitation(accept(&made.token)).await;
        assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
        let answer = grace.invitations.accept_invitation(accept_id(&made.id)).await;
        assert_refused(answer, Code::FailedPrecondition, "INVITATION_NOT_PENDING");
        let list = pb::ListReceivedInvitationsRequest::default();
        let list = grace.invitations.list_received_invitations(list).await.unwrap().into_inner().invitations;
        assert_eq!(list, []);
        let answer = backend.invitations.remind_invitation(remind(&navy, &made.id, false)).await;
        assert_refused(answer, Code::FailedPrecondition, "INVITATION_NOT_PENDING");
    }
    fixture.sql(&format!("UPDATE invitations SET state = 'REVOKED' WHERE id = '{}'", made.id)).await;
    // The other invitations stay.
    let mut joan = fixture.server.user_with_email("joan");
    let member = joan.invitations.accept_invitation(accept(&other.token)).await.unwrap().into_inner().member.unwrap();
    assert_eq!(member.role, "member");
    fixture.server.database.assert_invariants().await;
}

#[tokio::test]
async fn no_mail_offers_an_ownership_that_is_taken() {
    let fixture = Fixture::new().await;
    let request = pb::CreateOrganizationRequest {
        owner_email: "grace@example.com".to_owned(),
        ..crate::harness::organization("Navy")
    };
    let mut backend = fixture.backend.clone();
    let created = backend.organizations.create_organization(request).await.unwrap().into_inner();
    let (navy, id) = (created.organization.unwrap().id, created.owner_invitation.unwrap().invitation_id);
    backend.organizations.add_member(add(&navy, "alan", "member")).await.unwrap();
    assert_eq!(fixture.server.database.count("SELECT count(*) FROM outbox").await, 0);
    // As a server of release 0.3 leaves it: pending, with its mail.
    fixture.sql(&format!("UPDATE invitations SET state = 'PENDING' WHERE id = '{id}'")).await;
    fixture
        .sql(&format!(
            "INSERT INTO outbox SELECT bucket, gen_random_uuid(), organization_id, 'OWNER_ACTIVATION', id, NULL, \
             'service', 'backend', 0, now(), now() FROM invitations WHERE id = '{id}'"
        ))
        .await;
    assert!(fixture.server.roster.claim_letter().await.unwrap().is_none());
    assert_eq!(fixture.server.database.count("SELECT count(*) FROM outbox").await, 0);
}
