//! Changes that hang on what was read.

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
async fn a_change_that_hangs_on_a_stale_organization_is_refused() {
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
    // Members are no part of the organization itself.
    ada.add(&acme, "alan", "member").await;
    assert_eq!(get(&mut ada, &acme).await.etag, old);
    // Nor are those who are asked in.
    stage.operator.clone().invitations.create_invitation(invite(&acme, "emmy@example.com")).await.unwrap();
    assert_eq!(get(&mut ada, &acme).await.etag, old);
    let changed = ada.organizations.update_organization(update("Apex", &old)).await.unwrap().into_inner();
    let fresh = changed.organization.unwrap().etag;
    assert_ne!(fresh, old);
    assert_eq!(get(&mut ada, &acme).await.etag, fresh);
    let mismatch = |answer| assert_eq!(crate::harness::refused(answer), (Code::Aborted, "ETAG_MISMATCH".to_owned()));
    mismatch(ada.organizations.update_organization(update("Late", &old)).await.map(|_| ()));
    let hand_over = |etag: &str| pb::TransferOwnershipRequest { etag: etag.to_owned(), ..transfer(&acme, "grace") };
    mismatch(ada.organizations.transfer_ownership(hand_over(&old)).await.map(|_| ()));
    let delete = |etag: &str| pb::DeleteOrganizationRequest {
        organization: acme.clone(),
        etag: etag.to_owned(),
        ..Default::default()
    };
    mismatch(ada.organizations.delete_organization(delete(&old)).await.map(|_| ()));
    let handed = ada.organizations.transfer_ownership(hand_over(&fresh)).await.unwrap().into_inner();
    let mut grace = stage.server.user("grace");
    mismatch(grace.organizations.delete_organization(delete(&fresh)).await.map(|_| ()));
    grace.organizations.delete_organization(delete(&handed.organization.unwrap().etag)).await.unwrap();
}

#[tokio::test]
async fn a_change_that_hangs_on_a_stale_member_is_refused_and_a_new_one_never_matches() {
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
    // Others' changes are not this member's.
    ada.add(&acme, "alan", "member").await;
    assert_eq!(member(&mut ada, &acme, "grace").await.etag, changed.etag);
    old.push(changed.etag.clone());
    ada.organizations.remove_member(removal(&changed.etag)).await.unwrap();
    // Removed and added again, as she was: no etag of before ever matches.
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
