//! Races between the state of a user and writes about that user, and between a purge and every write.

use super::{Call, ContendedRow, Fixture, Outcomes, Sides, call, execute, run};
use crate::harness::{add, organization, remove, set_role, transfer};
use crate::invitations::{invite, revoke};
use roster::grpc::pb;

#[tokio::test(flavor = "multi_thread")]
async fn deletion_of_a_user_against_adding_them_elsewhere() {
    let fixture = Fixture::new().await;
    // If the user is added first, the deletion removes the new membership too: two removals, one addition, one
    // deletion.
    let outcomes = Outcomes::of((["OK", "USER_DELETED"], 2), (["OK", "OK"], 4));
    run(&fixture.server, outcomes, async |number| {
        let user = fixture.new_user(number).await;
        let (first, second) = (fixture.acme().await, fixture.acme().await);
        fixture.ada.clone().add(&first, &user, "member").await;
        let add = call!(fixture.ada.organizations.add_member(add(&second, &user, "admin")));
        Sides { calls: [fixture.delete_user(&user), add], row: ContendedRow::User(user) }
    })
    .await;
}

/// A user with a verified address.
async fn user_with_address(fixture: &Fixture, number: usize) -> (String, String) {
    let user = fixture.new_user(number).await;
    let email = format!("{user}@example.com");
    fixture.operator.clone().users.put_user(address(&user, &email)).await.unwrap();
    (user, email)
}

fn address(user_id: &str, email: &str) -> pb::PutUserRequest {
    let (user_id, email) = (user_id.to_owned(), email.to_owned());
    pb::PutUserRequest { user_id, email, email_verified: true, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_of_a_user_against_an_invitation_to_their_address() {
    let fixture = Fixture::new().await;
    // An invitation that comes first is revoked: three events.
    let outcomes = Outcomes::of((["OK", "OK"], 2), (["OK", "OK"], 3));
    run(&fixture.server, outcomes, async |number| {
        let (user, email) = user_with_address(&fixture, number).await;
        let acme = fixture.acme().await;
        let mut operator = fixture.operator.clone().invitations;
        // The deletion locks the organization for this one.
        let ended = operator.create_invitation(invite(&acme, &email)).await.unwrap().into_inner().invitation.unwrap();
        operator.revoke_invitation(revoke(&acme, &ended.invitation_id)).await.unwrap();
        let invite = call!(fixture.operator.invitations.create_invitation(invite(&acme, &email)));
        Sides { calls: [fixture.delete_user(&user), invite], row: ContendedRow::Organization(acme) }
    })
    .await;
    let erased = "SELECT count(*) FROM invitations WHERE recipient_erased <> (state = 'REVOKED')";
    assert_eq!(fixture.server.database.count(erased).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_of_a_user_against_a_change_of_their_address() {
    let fixture = Fixture::new().await;
    // In both orders the invitation to the address that the user had last is revoked.
    let outcomes = Outcomes::of((["OK", "USER_DELETED"], 2), (["OK", "OK"], 2));
    run(&fixture.server, outcomes, async |number| {
        let (user, email) = user_with_address(&fixture, number).await;
        let (first, second) = (fixture.acme().await, fixture.acme().await);
        let mut operator = fixture.operator.clone().invitations;
        operator.create_invitation(invite(&first, &email)).await.unwrap();
        operator.create_invitation(invite(&second, &format!("new-{email}"))).await.unwrap();
        let change = call!(fixture.operator.users.put_user(address(&user, &format!("new-{email}"))));
        Sides { calls: [fixture.delete_user(&user), change], row: ContendedRow::User(user) }
    })
    .await;
    // Each round leaves one of its two invitations pending.
    let database = &fixture.server.database;
    let revoked = database.count("SELECT count(*) FROM invitations WHERE state = 'REVOKED' AND recipient_erased").await;
    let pending = "SELECT count(*) FROM invitations WHERE state = 'PENDING' AND NOT recipient_erased";
    assert_eq!(database.count(pending).await, revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn deactivation_and_deletion_of_a_user_against_creating_their_organization() {
    let fixture = Fixture::new().await;
    let create = |user: &str| {
        let request = pb::CreateOrganizationRequest { owner_user_id: user.to_owned(), ..organization("Acme") };
        call!(fixture.operator.organizations.create_organization(request))
    };
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["USER_INACTIVE", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let user = fixture.new_user(number).await;
        Sides { calls: [create(&user), fixture.deactivate(&user)], row: ContendedRow::User(user) }
    })
    .await;
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["USER_DELETED", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let user = fixture.new_user(1000 + number).await;
        Sides { calls: [create(&user), fixture.delete_user(&user)], row: ContendedRow::User(user) }
    })
    .await;
    // Created by the user: a deactivated user is refused as a caller.
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["CALLER_INACTIVE", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let user = fixture.new_user(2000 + number).await;
        let mut clients = fixture.server.user(&user);
        clients.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        let create = super::side(async move { clients.organizations.create_organization(organization("Acme")).await });
        Sides { calls: [create, fixture.deactivate(&user)], row: ContendedRow::User(user) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deactivation_of_a_writing_caller() {
    let fixture = Fixture::new().await;
    let outcomes = Outcomes::of((["OK", "OK"], 2), (["CALLER_INACTIVE", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let (admin, acme) = (fixture.new_user(number).await, fixture.acme().await);
        fixture.ada.clone().add(&acme, &admin, "admin").await;
        let mut clients = fixture.server.user(&admin);
        clients.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        let write = super::side(async move { clients.organizations.add_member(add(&acme, "another user", "")).await });
        Sides { calls: [write, fixture.deactivate(&admin)], row: ContendedRow::User(admin) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reinstatement_against_deletion_and_addition_of_the_user_and_itself() {
    let fixture = Fixture::new().await;
    let deleted = async |number: usize| {
        let user = fixture.new_user(number).await;
        fixture.delete_user(&user).await.unwrap();
        user
    };
    let outcomes = Outcomes::of((["OK", "OK"], 2), (["OK", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let user = deleted(number).await;
        Sides { calls: [fixture.reinstate(&user), fixture.delete_user(&user)], row: ContendedRow::User(user) }
    })
    .await;
    let outcomes = Outcomes::of((["OK", "OK"], 2), (["OK", "USER_DELETED"], 1));
    run(&fixture.server, outcomes, async |number| {
        let (user, acme) = (deleted(1000 + number).await, fixture.acme().await);
        let add = call!(fixture.ada.organizations.add_member(add(&acme, &user, "member")));
        Sides { calls: [fixture.reinstate(&user), add], row: ContendedRow::User(user) }
    })
    .await;
    // Only the first one of two reinstates.
    let outcomes = Outcomes::of((["OK", "OK"], 1), (["OK", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let user = deleted(2000 + number).await;
        Sides { calls: [fixture.reinstate(&user), fixture.reinstate(&user)], row: ContendedRow::User(user) }
    })
    .await;
}

fn purge(fixture: &Fixture, acme: &str) -> Call {
    let request = pb::DeleteOrganizationRequest { organization: acme.to_owned(), purge: true, ..Default::default() };
    call!(fixture.operator.organizations.delete_organization(request))
}

/// Every write in an organization by an authorized user, with the number of its events.
fn writes(fixture: &Fixture, acme: &str) -> Vec<(Call, i64)> {
    let organization = acme.to_owned();
    let batch = pb::BatchAddMembersRequest {
        organization: organization.clone(),
        items: ["new-1", "new-2"]
            .map(|user| pb::BatchAddMembersItem {
                person: Some(pb::batch_add_members_item::Person::UserId(user.to_owned())),
                ..Default::default()
            })
            .into(),
        ..Default::default()
    };
    let ensure = pb::EnsureMemberRequest {
        organization: organization.clone(),
        person: Some(pb::ensure_member_request::Person::UserId("new".to_owned())),
        ..Default::default()
    };
    let rename =
        pb::UpdateOrganizationRequest { organization: organization.clone(), name: "Apex".into(), ..Default::default() };
    let off = pb::DeactivateOrganizationRequest { organization: organization.clone(), ..Default::default() };
    let on = pb::ActivateOrganizationRequest { organization: organization.clone(), ..Default::default() };
    let delete = pb::DeleteOrganizationRequest { organization: organization.clone(), ..Default::default() };
    let leave = pb::LeaveOrganizationRequest { organization, ..Default::default() };
    vec![
        (call!(fixture.grace.organizations.add_member(add(acme, "new", "member"))), 1),
        (call!(fixture.grace.organizations.ensure_member(ensure)), 1),
        (call!(fixture.grace.organizations.batch_add_members(batch)), 2),
        (call!(fixture.ada.organizations.update_member(set_role(acme, "grace", "member"))), 1),
        (call!(fixture.grace.organizations.remove_member(remove(acme, "alan"))), 1),
        (call!(fixture.alan.organizations.leave_organization(leave)), 1),
        (call!(fixture.ada.organizations.transfer_ownership(transfer(acme, "grace"))), 1),
        (call!(fixture.grace.organizations.update_organization(rename)), 1),
        (call!(fixture.ada.organizations.deactivate_organization(off)), 1),
        (call!(fixture.ada.organizations.activate_organization(on)), 0),
        (call!(fixture.ada.organizations.delete_organization(delete)), 1),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_against_every_write() {
    let fixture = Fixture::new().await;
    let kinds = writes(&fixture, "nowhere").len();
    // The rounds are divided among the writes, and each write runs against the purge with every schedule.
    for kind in 0..kinds {
        let events = writes(&fixture, "nowhere").swap_remove(kind).1;
        let outcomes = Outcomes::of((["OK", "PERMISSION_DENIED"], 1), (["OK", "OK"], 1 + events));
        super::run_for(super::rounds().div_ceil(4), &fixture.server, outcomes, async |_| {
            let acme = fixture.acme().await;
            let write = writes(&fixture, &acme).swap_remove(kind).0;
            Sides { calls: [purge(&fixture, &acme), write], row: ContendedRow::Organization(acme) }
        })
        .await;
    }
    assert_eq!(fixture.server.database.count("SELECT count(*) FROM organizations").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_against_purge_undeletion_and_deletion_of_a_member() {
    let fixture = Fixture::new().await;
    let undelete = |acme: &str| {
        let request = pb::UndeleteOrganizationRequest { organization: acme.to_owned(), ..Default::default() };
        call!(fixture.operator.organizations.undelete_organization(request))
    };
    let deleted = async || {
        let acme = fixture.acme().await;
        let request = pb::DeleteOrganizationRequest { organization: acme.clone(), ..Default::default() };
        fixture.ada.clone().organizations.delete_organization(request).await.unwrap();
        acme
    };
    let outcomes = Outcomes::of((["OK", "ORGANIZATION_NOT_FOUND"], 1), (["ORGANIZATION_NOT_FOUND", "OK"], 1));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        Sides { calls: [purge(&fixture, &acme), purge(&fixture, &acme)], row: ContendedRow::Organization(acme) }
    })
    .await;
    let outcomes = Outcomes::of((["OK", "ORGANIZATION_NOT_FOUND"], 1), (["OK", "OK"], 2));
    run(&fixture.server, outcomes, async |_| {
        let acme = deleted().await;
        Sides { calls: [purge(&fixture, &acme), undelete(&acme)], row: ContendedRow::Organization(acme) }
    })
    .await;
    // The scheduled purge checks under the lock that the organization is still due.
    let outcomes = Outcomes::of((["OK", "ORGANIZATION_NOT_FOUND"], 1), (["OK", "OK"], 1));
    run(&fixture.server, outcomes, async |_| {
        let acme = deleted().await;
        let mut connection = fixture.server.database.pool.acquire().await.unwrap();
        let overdue = format!("UPDATE organizations SET purge_time = delete_time WHERE id = '{acme}'");
        assert_eq!(execute(&mut connection, &overdue).await.unwrap(), 1);
        let roster = fixture.server.roster.clone();
        let tidy: Call = Box::pin(async move { roster.tidy().await.map(|_| ()).map_err(Into::into) });
        Sides { calls: [tidy, undelete(&acme)], row: ContendedRow::Organization(acme) }
    })
    .await;
    // The deletion of a member makes one more event, the removal, if it is first.
    run(&fixture.server, Outcomes::of((["OK", "OK"], 2), (["OK", "OK"], 3)), async |number| {
        let acme = fixture.acme().await;
        let user = fixture.new_user(number).await;
        fixture.ada.clone().add(&acme, &user, "admin").await;
        Sides { calls: [purge(&fixture, &acme), fixture.delete_user(&user)], row: ContendedRow::Organization(acme) }
    })
    .await;
}
