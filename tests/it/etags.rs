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

/// The versions of members.
async fn versions(caller: &mut Clients, organization: &str, users: &[&str]) -> Vec<(String, (i64, i32))> {
    let mut versions = Vec::new();
    for user in users {
        let member = member(caller, organization, user).await;
        let time = member.update_time.unwrap();
        versions.push((member.etag, (time.seconds, time.nanos)));
    }
    versions
}

#[tokio::test]
async fn a_transfer_of_the_ownership_changes_the_versions_of_both_members_and_of_no_other() {
    let stage = Fixture::new().await;
    let mut operator = stage.operator.clone();
    let acme = stage.ada.clone().create("Acme").await;
    let users = ["ada", "grace", "alan"];
    for (user, role) in [("grace", "admin"), ("alan", "member")] {
        operator.organizations.add_member(crate::harness::add(&acme, user, role)).await.unwrap();
    }
    let mut old = vec![versions(&mut operator, &acme, &users).await];
    // To an admin, to a member, and back.
    for (former, new) in [(0, 1), (1, 2), (2, 0), (0, 1), (1, 0)] {
        let before = old.last().unwrap().clone();
        operator.organizations.transfer_ownership(transfer(&acme, users[new])).await.unwrap();
        let after = versions(&mut operator, &acme, &users).await;
        for (index, user) in users.iter().enumerate() {
            if index != former && index != new {
                assert_eq!(after[index], before[index], "{user}");
                continue;
            }
            assert!(after[index].1 > before[index].1, "{user}");
            for stale in old.iter().map(|versions| versions[index].0.clone()) {
                let attributes = Some(crate::harness::samples::attributes());
                let update = pb::UpdateMemberRequest { etag: stale, attributes, ..set_role(&acme, user, "") };
                let answer = operator.organizations.update_member(update).await;
                crate::harness::assert_refused(answer, Code::Aborted, "ETAG_MISMATCH");
            }
        }
        // To the present owner: nothing changes.
        operator.organizations.transfer_ownership(transfer(&acme, users[new])).await.unwrap();
        assert_eq!(versions(&mut operator, &acme, &users).await, after);
        old.push(after);
    }
    stage.database().assert_invariants().await;
}

#[tokio::test]
async fn servers_of_release_0_3_leave_no_stale_etag_of_a_member() {
    let stage = Fixture::new().await;
    let mut operator = stage.operator.clone();
    let acme = stage.ada.clone().create("Acme").await;
    operator.organizations.add_member(crate::harness::add(&acme, "grace", "admin")).await.unwrap();
    let users = ["ada", "grace"];
    let before = versions(&mut operator, &acme, &users).await;
    // They leave the memberships when they transfer the ownership to an admin.
    let transfer = "UPDATE organizations SET owner_id = 'grace' WHERE id = $1::uuid";
    sqlx::query(transfer).bind(&acme).execute(&stage.database().pool).await.unwrap();
    let after = versions(&mut operator, &acme, &users).await;
    for (user, (before, after)) in users.iter().zip(before.into_iter().zip(after)) {
        assert_ne!(before.0, after.0, "{user}");
        // Their etag is the revision.
        let revision = "SELECT revision::text FROM memberships WHERE user_id = $1";
        let theirs: String = sqlx::query_scalar(revision).bind(user).fetch_one(&stage.database().pool).await.unwrap();
        for etag in [before.0, theirs] {
            let attributes = Some(crate::harness::samples::attributes());
            let update = pb::UpdateMemberRequest { etag, attributes, ..set_role(&acme, user, "") };
            let answer = operator.organizations.update_member(update).await;
            crate::harness::assert_refused(answer, Code::Aborted, "ETAG_MISMATCH");
        }
    }
}
