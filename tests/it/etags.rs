//! Conditional writes: a change with an etag succeeds only while its resource is unchanged.

use crate::harness::samples::Fixture;
use crate::harness::server::Clients;
use crate::harness::{remove, set_role, transfer};
use crate::invitations::invite;
use roster::grpc::pb;
use tonic::Code;

async fn get(caller: &mut Clients, organization: &str) -> pb::Organization {
    let request = pb::GetOrganizationRequest { organization: organization.to_owned() };
    caller.organizations.get_organization(request).await.unwrap().into_inner().organization.unwrap()
}

async fn member(caller: &mut Clients, organization: &str, user: &str) -> pb::Member {
    let request = pb::GetMemberRequest { organization: organization.to_owned(), user_id: user.to_owned() };
    caller.organizations.get_member(request).await.unwrap().into_inner().member.unwrap()
}

#[tokio::test]
async fn a_write_with_a_stale_etag_of_an_organization_is_refused() {
    let stage = Fixture::new().await;
    let mut ada = stage.ada.clone();
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "admin").await;
    let old = get(&mut ada, &acme).await.etag;
    let update = |name: &str, etag: &str| pb::UpdateOrganizationRequest {
        organization: acme.clone(),
        name: name.to_owned(),
        etag: etag.to_owned(),
        ..Default::default()
    };
    // Members are not part of the organization's etag.
    ada.add(&acme, "alan", "member").await;
    assert_eq!(get(&mut ada, &acme).await.etag, old);
    // Neither are invitations.
    stage.operator.clone().invitations.create_invitation(invite(&acme, "emmy@example.com")).await.unwrap();
    assert_eq!(get(&mut ada, &acme).await.etag, old);
    let changed = ada.organizations.update_organization(update("Apex", &old)).await.unwrap().into_inner();
    let fresh = changed.organization.unwrap().etag;
    assert_ne!(fresh, old);
    assert_eq!(get(&mut ada, &acme).await.etag, fresh);
    let mismatch = |answer| assert_eq!(crate::harness::refused(answer), (Code::Aborted, "ETAG_MISMATCH".to_owned()));
    mismatch(ada.organizations.update_organization(update("Late", &old)).await.map(|_| ()));
    let handover = |etag: &str| pb::TransferOwnershipRequest { etag: etag.to_owned(), ..transfer(&acme, "grace") };
    mismatch(ada.organizations.transfer_ownership(handover(&old)).await.map(|_| ()));
    let delete = |etag: &str| pb::DeleteOrganizationRequest {
        organization: acme.clone(),
        etag: etag.to_owned(),
        ..Default::default()
    };
    mismatch(ada.organizations.delete_organization(delete(&old)).await.map(|_| ()));
    let transferred = ada.organizations.transfer_ownership(handover(&fresh)).await.unwrap().into_inner();
    let mut grace = stage.server.user("grace");
    mismatch(grace.organizations.delete_organization(delete(&fresh)).await.map(|_| ()));
    grace.organizations.delete_organization(delete(&transferred.organization.unwrap().etag)).await.unwrap();
}

#[tokio::test]
async fn a_write_with_a_stale_etag_of_a_member_is_refused_even_after_the_member_is_added_again() {
    let stage = Fixture::new().await;
    let mut ada = stage.ada.clone();
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "member").await;
    let update =
        |role: &str, etag: &str| pb::UpdateMemberRequest { etag: etag.to_owned(), ..set_role(&acme, "grace", role) };
    let removal = |etag: &str| pb::RemoveMemberRequest { etag: etag.to_owned(), ..remove(&acme, "grace") };
    let mut old = vec![member(&mut ada, &acme, "grace").await.etag];
    let mismatch = |answer| assert_eq!(crate::harness::refused(answer), (Code::Aborted, "ETAG_MISMATCH".to_owned()));
    let changed = ada.organizations.update_member(update("admin", &old[0])).await.unwrap().into_inner().member.unwrap();
    mismatch(ada.organizations.update_member(update("member", &old[0])).await.map(|_| ()));
    mismatch(ada.organizations.remove_member(removal(&old[0])).await.map(|_| ()));
    assert_eq!(member(&mut ada, &acme, "grace").await.etag, changed.etag);
    // A change of another member leaves this etag as it is.
    ada.add(&acme, "alan", "member").await;
    assert_eq!(member(&mut ada, &acme, "grace").await.etag, changed.etag);
    old.push(changed.etag.clone());
    ada.organizations.remove_member(removal(&changed.etag)).await.unwrap();
    // Removed and added again with the same role: no earlier etag ever matches.
    for role in ["member", "admin", "member"] {
        ada.add(&acme, "grace", role).await;
        let etag = member(&mut ada, &acme, "grace").await.etag;
        assert!(!old.contains(&etag));
        for stale in &old {
            mismatch(ada.organizations.update_member(update("admin", stale)).await.map(|_| ()));
            mismatch(ada.organizations.remove_member(removal(stale)).await.map(|_| ()));
        }
        ada.organizations.remove_member(removal(&etag)).await.unwrap();
        old.push(etag);
    }
    stage.database().assert_invariants().await;
}
