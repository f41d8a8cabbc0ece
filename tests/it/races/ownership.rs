//! Races about ownership, memberships and permissions.

use super::{ContendedRow, Fixture, Outcomes, Sides, call, from_barrier, in_lock_order, outcome, row, run, side};
use crate::harness::{add, organization, remove, set_role, transfer};
use roster::grpc::pb;
use sqlx::Row;

fn sides(acme: String, calls: [super::Call; 2]) -> Sides {
    Sides { row: ContendedRow::Organization(acme), calls }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_transfers_to_different_targets() {
    let fixture = Fixture::new().await;
    // The caller of the second transfer no longer owns the organization.
    let outcomes = Outcomes::of((["OK", "ROLE_LACKS_PERMISSION"], 1), (["ROLE_LACKS_PERMISSION", "OK"], 2));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        let to_grace = call!(fixture.ada.organizations.transfer_ownership(transfer(&acme, "grace")));
        let to_alan = call!(fixture.ada.organizations.transfer_ownership(transfer(&acme, "alan")));
        sides(acme, [to_grace, to_alan])
    })
    .await;
    // An operator may transfer any organization: both transfers happen, one after the other.
    run(&fixture.server, Outcomes::of((["OK", "OK"], 3), (["OK", "OK"], 3)), async |_| {
        let acme = fixture.acme().await;
        let to_grace = call!(fixture.operator.organizations.transfer_ownership(transfer(&acme, "grace")));
        let to_alan = call!(fixture.operator.organizations.transfer_ownership(transfer(&acme, "alan")));
        sides(acme, [to_grace, to_alan])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_against_removal_of_the_target() {
    let fixture = Fixture::new().await;
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["TARGET_NOT_MEMBER", "OK"], 1));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        let transfer = call!(fixture.ada.organizations.transfer_ownership(transfer(&acme, "alan")));
        let remove = call!(fixture.grace.organizations.remove_member(remove(&acme, "alan")));
        sides(acme, [transfer, remove])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_against_demotion_of_the_target() {
    let fixture = Fixture::new().await;
    // The transfer promotes a demoted target again, with a separate event.
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 1), (["OK", "OK"], 3));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        let transfer = call!(fixture.ada.organizations.transfer_ownership(transfer(&acme, "grace")));
        let demote = call!(fixture.operator.organizations.update_member(set_role(&acme, "grace", "member")));
        sides(acme, [transfer, demote])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_against_leaving_of_the_target() {
    let fixture = Fixture::new().await;
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["TARGET_NOT_MEMBER", "OK"], 1));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        let transfer = call!(fixture.ada.organizations.transfer_ownership(transfer(&acme, "alan")));
        let leave = pb::LeaveOrganizationRequest { organization: acme.clone(), ..Default::default() };
        let leave = call!(fixture.alan.organizations.leave_organization(leave));
        sides(acme, [transfer, leave])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_against_deactivation_and_deletion_of_the_target() {
    let fixture = Fixture::new().await;
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["USER_INACTIVE", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let acme = fixture.acme().await;
        let target = fixture.new_user(number).await;
        fixture.ada.clone().add(&acme, &target, "member").await;
        let transfer = call!(fixture.ada.organizations.transfer_ownership(transfer(&acme, &target)));
        Sides { calls: [transfer, fixture.deactivate(&target)], row: ContendedRow::User(target) }
    })
    .await;
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["TARGET_NOT_MEMBER", "OK"], 2));
    run(&fixture.server, outcomes, async |number| {
        let acme = fixture.acme().await;
        let target = fixture.new_user(1000 + number).await;
        fixture.ada.clone().add(&acme, &target, "member").await;
        let transfer = call!(fixture.ada.organizations.transfer_ownership(transfer(&acme, &target)));
        sides(acme, [transfer, fixture.delete_user(&target)])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_against_demotion() {
    let fixture = Fixture::new().await;
    // The demotion of the caller who removes.
    let outcomes = Outcomes::of((["OK", "OK"], 2), (["ROLE_LACKS_PERMISSION", "OK"], 1));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        let remove = call!(fixture.grace.organizations.remove_member(remove(&acme, "alan")));
        let demote = call!(fixture.ada.organizations.update_member(set_role(&acme, "grace", "member")));
        sides(acme, [remove, demote])
    })
    .await;
    // The demotion of the member who is removed.
    let outcomes = Outcomes::of((["OK", "MEMBER_NOT_FOUND"], 1), (["OK", "OK"], 2));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        let remove = call!(fixture.ada.organizations.remove_member(remove(&acme, "grace")));
        let demote = call!(fixture.operator.organizations.update_member(set_role(&acme, "grace", "member")));
        sides(acme, [remove, demote])
    })
    .await;
    // Two admins remove each other.
    let outcomes = Outcomes::of((["OK", "PERMISSION_DENIED"], 1), (["PERMISSION_DENIED", "OK"], 1));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        fixture.ada.clone().organizations.update_member(set_role(&acme, "alan", "admin")).await.unwrap();
        let by_grace = call!(fixture.grace.organizations.remove_member(remove(&acme, "alan")));
        let by_alan = call!(fixture.alan.organizations.remove_member(remove(&acme, "grace")));
        sides(acme, [by_grace, by_alan])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_first_members_of_a_pending_organization() {
    const LATER: &str = "SELECT count(*) FROM organizations o JOIN events e ON e.organization_id = o.id
        WHERE o.name = 'Waiting' AND e.revision = 2 AND (e.type <> 'member.added' OR e.user_id <> o.owner_id)";
    let fixture = Fixture::new().await;
    let pending = async || fixture.operator.clone().create("Waiting").await;
    // The first member becomes the owner, which is a separate event.
    run(&fixture.server, Outcomes::of((["OK", "OK"], 3), (["OK", "OK"], 3)), async |_| {
        let waiting = pending().await;
        let one = call!(fixture.operator.organizations.add_member(add(&waiting, "ada", "member")));
        let two = call!(fixture.operator.organizations.add_member(add(&waiting, "grace", "member")));
        sides(waiting, [one, two])
    })
    .await;
    let outcomes = Outcomes::of((["OK", "ALREADY_MEMBER"], 2), (["ALREADY_MEMBER", "OK"], 2));
    run(&fixture.server, outcomes, async |_| {
        let waiting = pending().await;
        let one = call!(fixture.operator.organizations.add_member(add(&waiting, "ada", "member")));
        let two = call!(fixture.operator.organizations.add_member(add(&waiting, "ada", "member")));
        sides(waiting, [one, two])
    })
    .await;
    // Sixteen at once, from the barrier and behind a lock: one becomes the owner, the others get the requested role.
    for locked in [true, false] {
        let waiting = pending().await;
        let adds = (0..16).map(|number| {
            call!(fixture.operator.organizations.add_member(add(&waiting, &format!("member-{number}"), "member")))
        });
        let adds: Vec<_> = adds.collect();
        let answers = if locked {
            in_lock_order(&fixture.server.database, &ContendedRow::Organization(waiting.clone()), adds).await
        } else {
            from_barrier(adds).await
        };
        assert!(answers.iter().all(|answer| outcome(answer) == "OK"));
        let mut connection = fixture.server.database.pool.acquire().await.unwrap();
        let query = format!(
            "SELECT count(*) FILTER (WHERE m.user_id = o.owner_id AND m.role = 'admin') AS owners,
                    count(*) FILTER (WHERE m.role = 'member') AS members
             FROM organizations o JOIN memberships m ON m.organization_id = o.id WHERE o.id = '{waiting}'"
        );
        let counts = row(&mut connection, &query).await;
        assert_eq!((counts.get::<i64, _>("owners"), counts.get::<i64, _>("members")), (1, 15));
    }
    // In each organization the owner is the first member.
    assert_eq!(fixture.server.database.count(LATER).await, 0);
    fixture.server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_against_add() {
    let fixture = Fixture::new().await;
    let delete = |acme: &str| {
        let request = pb::DeleteOrganizationRequest { organization: acme.to_owned(), ..Default::default() };
        call!(fixture.ada.organizations.delete_organization(request))
    };
    let outcomes = Outcomes::of((["OK", "PERMISSION_DENIED"], 1), (["OK", "OK"], 2));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        let add = call!(fixture.grace.organizations.add_member(add(&acme, "new", "member")));
        sides(acme.clone(), [delete(&acme), add])
    })
    .await;
    // Operators see deleted organizations, and their error says that the organization is deleted.
    let outcomes = Outcomes::of((["OK", "ORGANIZATION_DELETED"], 1), (["OK", "OK"], 2));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        let add = call!(fixture.operator.organizations.add_member(add(&acme, "new", "member")));
        sides(acme.clone(), [delete(&acme), add])
    })
    .await;
    let outcomes = Outcomes::of((["OK", "ORGANIZATION_INACTIVE"], 1), (["OK", "OK"], 2));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        let add = call!(fixture.grace.organizations.add_member(add(&acme, "new", "member")));
        let off = pb::DeactivateOrganizationRequest { organization: acme.clone(), ..Default::default() };
        sides(acme, [call!(fixture.ada.organizations.deactivate_organization(off)), add])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_demoted_while_writing() {
    const WRITES: usize = 8;
    const AFTER: &str = "SELECT count(*) FROM events written JOIN events demoted USING (organization_id)
        WHERE written.actor_id = 'grace' AND demoted.type = 'member.updated' AND demoted.user_id = 'grace'
          AND written.revision > demoted.revision";
    const WRITTEN: &str = "SELECT count(*) FROM events WHERE actor_id = 'grace'";
    let fixture = Fixture::new().await;
    let database = &fixture.server.database;
    let demote = |acme: &str| call!(fixture.ada.organizations.update_member(set_role(acme, "grace", "member")));
    let write = |acme: &str, new: &str| call!(fixture.grace.organizations.add_member(add(acme, new, "member")));
    // One write, authorized by a role that is gone when the write gets the lock.
    let outcomes = Outcomes::of((["OK", "ROLE_LACKS_PERMISSION"], 1), (["OK", "OK"], 2));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        Sides { calls: [demote(&acme), write(&acme, "new")], row: ContendedRow::Organization(acme) }
    })
    .await;
    // Many writes, with the demotion at each position among them.
    let mut acknowledged = usize::try_from(database.count(WRITTEN).await).unwrap();
    for round in 0..super::rounds() {
        let acme = fixture.acme().await;
        let mut calls: Vec<_> = (0..WRITES).map(|number| write(&acme, &format!("new-{number}"))).collect();
        calls.insert(round % (WRITES + 1), demote(&acme));
        let answers = if round % 2 == 0 {
            in_lock_order(database, &ContendedRow::Organization(acme), calls).await
        } else {
            from_barrier(calls).await
        };
        let outcomes: Vec<String> = answers.iter().map(outcome).collect();
        assert!(outcomes.iter().all(|outcome| outcome == "OK" || outcome == "ROLE_LACKS_PERMISSION"), "{outcomes:?}");
        acknowledged += outcomes.iter().filter(|outcome| *outcome == "OK").count() - 1;
        database.assert_invariants().await;
    }
    // Every acknowledged write is stored, and none has a later revision than the demotion.
    assert_eq!(database.count(WRITTEN).await, i64::try_from(acknowledged).unwrap());
    assert_eq!(database.count(AFTER).await, 0, "a write follows the demotion");
}

#[tokio::test(flavor = "multi_thread")]
async fn undeletion_against_deactivation_of_the_owner() {
    let fixture = Fixture::new().await;
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 1), (["USER_INACTIVE", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let owner = fixture.new_user(number).await;
        let mut operator = fixture.operator.clone();
        let create = pb::CreateOrganizationRequest { owner_user_id: owner.clone(), ..organization("Acme") };
        let acme = operator.organizations.create_organization(create).await.unwrap().into_inner().organization.unwrap();
        let delete = pb::DeleteOrganizationRequest { organization: acme.id.clone(), ..Default::default() };
        operator.organizations.delete_organization(delete).await.unwrap();
        let undelete = pb::UndeleteOrganizationRequest { organization: acme.id, ..Default::default() };
        let undelete = side(async move { operator.organizations.undelete_organization(undelete).await });
        Sides { calls: [undelete, fixture.deactivate(&owner)], row: ContendedRow::User(owner) }
    })
    .await;
}
