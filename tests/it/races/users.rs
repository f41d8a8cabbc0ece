//! Races between a user's state and what others do to that user, and between a purge and everything.

use super::{Call, Cast, Held, Outcomes, Sides, call, execute, run};
use crate::harness::{add, organization, remove, set_role, transfer};
use roster::grpc::pb;

#[tokio::test(flavor = "multi_thread")]
async fn deletion_of_a_user_against_adding_them_elsewhere() {
    let cast = Cast::new().await;
    // Added in time, they are found again and removed there too: two removals, one addition, one deletion.
    let outcomes = Outcomes::of((["OK", "USER_DELETED"], 2), (["OK", "OK"], 4));
    run(&cast.server, outcomes, async |number| {
        let user = cast.somebody(number).await;
        let (here, elsewhere) = (cast.acme().await, cast.acme().await);
        cast.ada.clone().add(&here, &user, "member").await;
        let add = call!(cast.ada.organizations.add_member(add(&elsewhere, &user, "admin")));
        Sides { calls: [cast.delete_user(&user), add], held: Held::User(user) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deactivation_and_deletion_of_a_user_against_an_organization_for_them() {
    let cast = Cast::new().await;
    let create = |user: &str| {
        let request = pb::CreateOrganizationRequest { owner_user_id: user.to_owned(), ..organization("Theirs") };
        call!(cast.operator.organizations.create_organization(request))
    };
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["USER_INACTIVE", "OK"], 1));
    run(&cast.server, outcomes, async |number| {
        let user = cast.somebody(number).await;
        Sides { calls: [create(&user), cast.deactivate(&user)], held: Held::User(user) }
    })
    .await;
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["USER_DELETED", "OK"], 1));
    run(&cast.server, outcomes, async |number| {
        let user = cast.somebody(1000 + number).await;
        Sides { calls: [create(&user), cast.delete_user(&user)], held: Held::User(user) }
    })
    .await;
    // By the user's own hand: once switched off, they are not let in at all.
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["CALLER_INACTIVE", "OK"], 1));
    run(&cast.server, outcomes, async |number| {
        let user = cast.somebody(2000 + number).await;
        let mut own = cast.server.user(&user);
        own.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        let create = super::side(async move { own.organizations.create_organization(organization("Mine")).await });
        Sides { calls: [create, cast.deactivate(&user)], held: Held::User(user) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deactivation_of_who_is_writing() {
    let cast = Cast::new().await;
    let outcomes = Outcomes::of((["OK", "OK"], 2), (["CALLER_INACTIVE", "OK"], 1));
    run(&cast.server, outcomes, async |number| {
        let (admin, acme) = (cast.somebody(number).await, cast.acme().await);
        cast.ada.clone().add(&acme, &admin, "admin").await;
        let mut own = cast.server.user(&admin);
        own.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        let write = super::side(async move { own.organizations.add_member(add(&acme, "somebody else", "")).await });
        Sides { calls: [write, cast.deactivate(&admin)], held: Held::User(admin) }
    })
    .await;
}

fn purge(cast: &Cast, acme: &str) -> Call {
    let request = pb::DeleteOrganizationRequest { organization: acme.to_owned(), purge: true, ..Default::default() };
    call!(cast.operator.organizations.delete_organization(request))
}

/// Every write in an organization, by a user who may: each makes this many events.
fn writes(cast: &Cast, acme: &str) -> Vec<(Call, i64)> {
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
        (call!(cast.grace.organizations.add_member(add(acme, "new", "member"))), 1),
        (call!(cast.grace.organizations.ensure_member(ensure)), 1),
        (call!(cast.grace.organizations.batch_add_members(batch)), 2),
        (call!(cast.ada.organizations.update_member(set_role(acme, "grace", "member"))), 1),
        (call!(cast.grace.organizations.remove_member(remove(acme, "alan"))), 1),
        (call!(cast.alan.organizations.leave_organization(leave)), 1),
        (call!(cast.ada.organizations.transfer_ownership(transfer(acme, "grace"))), 1),
        (call!(cast.grace.organizations.update_organization(rename)), 1),
        (call!(cast.ada.organizations.deactivate_organization(off)), 1),
        (call!(cast.ada.organizations.activate_organization(on)), 0),
        (call!(cast.ada.organizations.delete_organization(delete)), 1),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_against_every_write() {
    let cast = Cast::new().await;
    let kinds = writes(&cast, "nowhere").len();
    // All the writes in turn, so the rounds are shared among them: every one meets the purge in every way.
    for kind in 0..kinds {
        let events = writes(&cast, "nowhere").swap_remove(kind).1;
        let outcomes = Outcomes::of((["OK", "PERMISSION_DENIED"], 1), (["OK", "OK"], 1 + events));
        super::run_for(super::rounds().div_ceil(4), &cast.server, outcomes, async |_| {
            let acme = cast.acme().await;
            let write = writes(&cast, &acme).swap_remove(kind).0;
            Sides { calls: [purge(&cast, &acme), write], held: Held::Organization(acme) }
        })
        .await;
    }
    assert_eq!(cast.server.database.count("SELECT count(*) FROM organizations").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_against_purge_undeletion_and_deletion_of_a_member() {
    let cast = Cast::new().await;
    let undelete = |acme: &str| {
        let request = pb::UndeleteOrganizationRequest { organization: acme.to_owned(), ..Default::default() };
        call!(cast.operator.organizations.undelete_organization(request))
    };
    let deleted = async || {
        let acme = cast.acme().await;
        let request = pb::DeleteOrganizationRequest { organization: acme.clone(), ..Default::default() };
        cast.ada.clone().organizations.delete_organization(request).await.unwrap();
        acme
    };
    let outcomes = Outcomes::of((["OK", "ORGANIZATION_NOT_FOUND"], 1), (["ORGANIZATION_NOT_FOUND", "OK"], 1));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        Sides { calls: [purge(&cast, &acme), purge(&cast, &acme)], held: Held::Organization(acme) }
    })
    .await;
    let outcomes = Outcomes::of((["OK", "ORGANIZATION_NOT_FOUND"], 1), (["OK", "OK"], 2));
    run(&cast.server, outcomes, async |_| {
        let acme = deleted().await;
        Sides { calls: [purge(&cast, &acme), undelete(&acme)], held: Held::Organization(acme) }
    })
    .await;
    // The purge that comes by itself asks under the lock whether its time has still come.
    let outcomes = Outcomes::of((["OK", "ORGANIZATION_NOT_FOUND"], 1), (["OK", "OK"], 1));
    run(&cast.server, outcomes, async |_| {
        let acme = deleted().await;
        let mut connection = cast.server.database.pool.acquire().await.unwrap();
        let overdue = format!("UPDATE organizations SET purge_time = delete_time WHERE id = '{acme}'");
        assert_eq!(execute(&mut connection, &overdue).await.unwrap(), 1);
        let roster = cast.server.roster.clone();
        let tidy: Call = Box::pin(async move { roster.tidy().await.map(|_| ()).map_err(Into::into) });
        Sides { calls: [tidy, undelete(&acme)], held: Held::Organization(acme) }
    })
    .await;
    // A member's deletion has a removal the more if it comes before.
    run(&cast.server, Outcomes::of((["OK", "OK"], 2), (["OK", "OK"], 3)), async |number| {
        let acme = cast.acme().await;
        let user = cast.somebody(number).await;
        cast.ada.clone().add(&acme, &user, "admin").await;
        Sides { calls: [purge(&cast, &acme), cast.delete_user(&user)], held: Held::Organization(acme) }
    })
    .await;
}
