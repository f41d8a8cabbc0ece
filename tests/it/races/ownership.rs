//! Races about who owns, who is in, and who may.

use super::{Cast, Held, Outcomes, Sides, call, from_barrier, one_behind_the_other, row, run, side, told};
use crate::harness::{add, organization, remove, set_role, transfer};
use roster::grpc::pb;
use sqlx::Row;

fn sides(acme: String, calls: [super::Call; 2]) -> Sides {
    Sides { held: Held::Organization(acme), calls }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_transfers_to_different_targets() {
    let cast = Cast::new().await;
    // Whoever comes second no longer owns it.
    let outcomes = Outcomes::of((["OK", "ROLE_LACKS_PERMISSION"], 1), (["ROLE_LACKS_PERMISSION", "OK"], 2));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        let to_grace = call!(cast.ada.organizations.transfer_ownership(transfer(&acme, "grace")));
        let to_alan = call!(cast.ada.organizations.transfer_ownership(transfer(&acme, "alan")));
        sides(acme, [to_grace, to_alan])
    })
    .await;
    // An operator may transfer what others own: then both happen, one after the other.
    run(&cast.server, Outcomes::of((["OK", "OK"], 3), (["OK", "OK"], 3)), async |_| {
        let acme = cast.acme().await;
        let to_grace = call!(cast.operator.organizations.transfer_ownership(transfer(&acme, "grace")));
        let to_alan = call!(cast.operator.organizations.transfer_ownership(transfer(&acme, "alan")));
        sides(acme, [to_grace, to_alan])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_against_removal_of_the_target() {
    let cast = Cast::new().await;
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["TARGET_NOT_MEMBER", "OK"], 1));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        let transfer = call!(cast.ada.organizations.transfer_ownership(transfer(&acme, "alan")));
        let remove = call!(cast.grace.organizations.remove_member(remove(&acme, "alan")));
        sides(acme, [transfer, remove])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_against_demotion_of_the_target() {
    let cast = Cast::new().await;
    // A demoted target is promoted again by the transfer, with an event of its own.
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 1), (["OK", "OK"], 3));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        let transfer = call!(cast.ada.organizations.transfer_ownership(transfer(&acme, "grace")));
        let demote = call!(cast.operator.organizations.update_member(set_role(&acme, "grace", "member")));
        sides(acme, [transfer, demote])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_against_leaving_of_the_target() {
    let cast = Cast::new().await;
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["TARGET_NOT_MEMBER", "OK"], 1));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        let transfer = call!(cast.ada.organizations.transfer_ownership(transfer(&acme, "alan")));
        let leave = pb::LeaveOrganizationRequest { organization: acme.clone(), ..Default::default() };
        let leave = call!(cast.alan.organizations.leave_organization(leave));
        sides(acme, [transfer, leave])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_against_deactivation_and_deletion_of_the_target() {
    let cast = Cast::new().await;
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["USER_INACTIVE", "OK"], 1));
    run(&cast.server, outcomes, async |number| {
        let acme = cast.acme().await;
        let target = cast.somebody(number).await;
        cast.ada.clone().add(&acme, &target, "member").await;
        let transfer = call!(cast.ada.organizations.transfer_ownership(transfer(&acme, &target)));
        Sides { calls: [transfer, cast.deactivate(&target)], held: Held::User(target) }
    })
    .await;
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 2), (["TARGET_NOT_MEMBER", "OK"], 2));
    run(&cast.server, outcomes, async |number| {
        let acme = cast.acme().await;
        let target = cast.somebody(1000 + number).await;
        cast.ada.clone().add(&acme, &target, "member").await;
        let transfer = call!(cast.ada.organizations.transfer_ownership(transfer(&acme, &target)));
        sides(acme, [transfer, cast.delete_user(&target)])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_against_demotion() {
    let cast = Cast::new().await;
    // Of the one who removes.
    let outcomes = Outcomes::of((["OK", "OK"], 2), (["ROLE_LACKS_PERMISSION", "OK"], 1));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        let remove = call!(cast.grace.organizations.remove_member(remove(&acme, "alan")));
        let demote = call!(cast.ada.organizations.update_member(set_role(&acme, "grace", "member")));
        sides(acme, [remove, demote])
    })
    .await;
    // Of the one who is removed.
    let outcomes = Outcomes::of((["OK", "MEMBER_NOT_FOUND"], 1), (["OK", "OK"], 2));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        let remove = call!(cast.ada.organizations.remove_member(remove(&acme, "grace")));
        let demote = call!(cast.operator.organizations.update_member(set_role(&acme, "grace", "member")));
        sides(acme, [remove, demote])
    })
    .await;
    // Two admins remove each other.
    let outcomes = Outcomes::of((["OK", "PERMISSION_DENIED"], 1), (["PERMISSION_DENIED", "OK"], 1));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        cast.ada.clone().organizations.update_member(set_role(&acme, "alan", "admin")).await.unwrap();
        let by_grace = call!(cast.grace.organizations.remove_member(remove(&acme, "alan")));
        let by_alan = call!(cast.alan.organizations.remove_member(remove(&acme, "grace")));
        sides(acme, [by_grace, by_alan])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_first_members_of_a_pending_organization() {
    const LATER: &str = "SELECT count(*) FROM organizations o JOIN events e ON e.organization_id = o.id
        WHERE o.name = 'Waiting' AND e.revision = 2 AND (e.type <> 'member.added' OR e.user_id <> o.owner_id)";
    let cast = Cast::new().await;
    let pending = async || cast.operator.clone().create("Waiting").await;
    // The first becomes owner, which is an event of its own.
    run(&cast.server, Outcomes::of((["OK", "OK"], 3), (["OK", "OK"], 3)), async |_| {
        let waiting = pending().await;
        let one = call!(cast.operator.organizations.add_member(add(&waiting, "ada", "member")));
        let two = call!(cast.operator.organizations.add_member(add(&waiting, "grace", "member")));
        sides(waiting, [one, two])
    })
    .await;
    let outcomes = Outcomes::of((["OK", "ALREADY_MEMBER"], 2), (["ALREADY_MEMBER", "OK"], 2));
    run(&cast.server, outcomes, async |_| {
        let waiting = pending().await;
        let one = call!(cast.operator.organizations.add_member(add(&waiting, "ada", "member")));
        let two = call!(cast.operator.organizations.add_member(add(&waiting, "ada", "member")));
        sides(waiting, [one, two])
    })
    .await;
    // Sixteen at once, from the barrier and behind a lock: one of them owns, the others are what was wished for.
    for held in [true, false] {
        let waiting = pending().await;
        let adds = (0..16).map(|number| {
            call!(cast.operator.organizations.add_member(add(&waiting, &format!("member-{number}"), "member")))
        });
        let adds: Vec<_> = adds.collect();
        let answers = if held {
            one_behind_the_other(&cast.server.database, &Held::Organization(waiting.clone()), adds).await
        } else {
            from_barrier(adds).await
        };
        assert!(answers.iter().all(|answer| told(answer) == "OK"));
        let mut connection = cast.server.database.pool.acquire().await.unwrap();
        let query = format!(
            "SELECT count(*) FILTER (WHERE m.user_id = o.owner_id AND m.role = 'admin') AS owners,
                    count(*) FILTER (WHERE m.role = 'member') AS members
             FROM organizations o JOIN memberships m ON m.organization_id = o.id WHERE o.id = '{waiting}'"
        );
        let found = row(&mut connection, &query).await;
        assert_eq!((found.get::<i64, _>("owners"), found.get::<i64, _>("members")), (1, 15));
    }
    // In every one of them the owner is who came first.
    assert_eq!(cast.server.database.count(LATER).await, 0);
    cast.server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_against_add() {
    let cast = Cast::new().await;
    let delete = |acme: &str| {
        let request = pb::DeleteOrganizationRequest { organization: acme.to_owned(), ..Default::default() };
        call!(cast.ada.organizations.delete_organization(request))
    };
    let outcomes = Outcomes::of((["OK", "PERMISSION_DENIED"], 1), (["OK", "OK"], 2));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        let add = call!(cast.grace.organizations.add_member(add(&acme, "new", "member")));
        sides(acme.clone(), [delete(&acme), add])
    })
    .await;
    // Operators see what is deleted, and are told that it is.
    let outcomes = Outcomes::of((["OK", "ORGANIZATION_DELETED"], 1), (["OK", "OK"], 2));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        let add = call!(cast.operator.organizations.add_member(add(&acme, "new", "member")));
        sides(acme.clone(), [delete(&acme), add])
    })
    .await;
    let outcomes = Outcomes::of((["OK", "ORGANIZATION_INACTIVE"], 1), (["OK", "OK"], 2));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        let add = call!(cast.grace.organizations.add_member(add(&acme, "new", "member")));
        let off = pb::DeactivateOrganizationRequest { organization: acme.clone(), ..Default::default() };
        sides(acme, [call!(cast.ada.organizations.deactivate_organization(off)), add])
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
    let cast = Cast::new().await;
    let database = &cast.server.database;
    let demote = |acme: &str| call!(cast.ada.organizations.update_member(set_role(acme, "grace", "member")));
    let write = |acme: &str, new: &str| call!(cast.grace.organizations.add_member(add(acme, new, "member")));
    // One write, let in by a role that is gone when the lock comes.
    let outcomes = Outcomes::of((["OK", "ROLE_LACKS_PERMISSION"], 1), (["OK", "OK"], 2));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        Sides { calls: [demote(&acme), write(&acme, "new")], held: Held::Organization(acme) }
    })
    .await;
    // Many writes, and the demotion somewhere among them.
    let mut acknowledged = usize::try_from(database.count(WRITTEN).await).unwrap();
    for round in 0..super::rounds() {
        let acme = cast.acme().await;
        let mut calls: Vec<_> = (0..WRITES).map(|number| write(&acme, &format!("new-{number}"))).collect();
        calls.insert(round % (WRITES + 1), demote(&acme));
        let answers = if round % 2 == 0 {
            one_behind_the_other(database, &Held::Organization(acme), calls).await
        } else {
            from_barrier(calls).await
        };
        let seen: Vec<String> = answers.iter().map(told).collect();
        assert!(seen.iter().all(|told| told == "OK" || told == "ROLE_LACKS_PERMISSION"), "{seen:?}");
        acknowledged += seen.iter().filter(|told| *told == "OK").count() - 1;
        database.assert_invariants().await;
    }
    // Every acknowledged write is there, and none has a revision behind the demotion's.
    assert_eq!(database.count(WRITTEN).await, i64::try_from(acknowledged).unwrap());
    assert_eq!(database.count(AFTER).await, 0, "written after the demotion");
}

#[tokio::test(flavor = "multi_thread")]
async fn undeletion_against_deactivation_of_the_owner() {
    let cast = Cast::new().await;
    let outcomes = Outcomes::of((["OK", "OWNERSHIP_REQUIRED"], 1), (["USER_INACTIVE", "OK"], 1));
    run(&cast.server, outcomes, async |number| {
        let owner = cast.somebody(number).await;
        let mut operator = cast.operator.clone();
        let create = pb::CreateOrganizationRequest { owner_user_id: owner.clone(), ..organization("Acme") };
        let acme = operator.organizations.create_organization(create).await.unwrap().into_inner().organization.unwrap();
        let delete = pb::DeleteOrganizationRequest { organization: acme.id.clone(), ..Default::default() };
        operator.organizations.delete_organization(delete).await.unwrap();
        let undelete = pb::UndeleteOrganizationRequest { organization: acme.id, ..Default::default() };
        let undelete = side(async move { operator.organizations.undelete_organization(undelete).await });
        Sides { calls: [undelete, cast.deactivate(&owner)], held: Held::User(owner) }
    })
    .await;
}
