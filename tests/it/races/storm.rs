//! Everything at once: random writes by everybody in few organizations, so that locks of every kind are waited for.

use super::{Call, Cast, side, told};
use crate::harness::{add, organization, remove, set_role, transfer};
use roster::grpc::pb;

/// What a write of the storm may be told. Nothing of roster's own fault, and no race that was lost too often.
const NAMED: &[&str] = &[
    "OK",
    "ALREADY_MEMBER",
    "MEMBER_NOT_FOUND",
    "ORGANIZATION_DELETED",
    "ORGANIZATION_INACTIVE",
    "ORGANIZATION_NOT_FOUND",
    "OWNERSHIP_REQUIRED",
    "SLUG_TAKEN",
    "TARGET_NOT_MEMBER",
    "USER_DELETED",
    "USER_INACTIVE",
    "USER_NOT_FOUND",
];

const WRITERS: u64 = 8;
const WRITES: u64 = 12;

/// Small numbers that look random and are the same in every run (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick<'a>(&mut self, of: &'a [String]) -> &'a str {
        &of[usize::try_from(self.roll(of.len().try_into().unwrap())).unwrap()]
    }
}

/// One random write, by an operator: nothing but other writes stands in its way.
fn write(cast: &Cast, dice: &mut Dice, places: &[String], users: &[String], request_id: &str) -> Call {
    let (place, user) = (dice.pick(places).to_owned(), dice.pick(users).to_owned());
    let request_id = request_id.to_owned();
    let (mut organizations, mut accounts) = (cast.operator.organizations.clone(), cast.operator.users.clone());
    match dice.roll(12) {
        0 | 1 => {
            let role = if dice.roll(2) == 0 { "admin" } else { "member" };
            let request = pb::AddMemberRequest { request_id, ..add(&place, &user, role) };
            side(async move { organizations.add_member(request).await })
        }
        2 => {
            let item = |user: &str| pb::BatchAddMembersItem {
                person: Some(pb::batch_add_members_item::Person::UserId(user.to_owned())),
                ..Default::default()
            };
            let items = vec![item(dice.pick(users)), item(dice.pick(users)), item(&user)];
            let request = pb::BatchAddMembersRequest { organization: place, items, request_id, ..Default::default() };
            side(async move { organizations.batch_add_members(request).await })
        }
        3 => {
            let request = pb::RemoveMemberRequest { request_id, ..remove(&place, &user) };
            side(async move { organizations.remove_member(request).await })
        }
        4 => {
            let request = pb::UpdateMemberRequest { request_id, ..set_role(&place, &user, "member") };
            side(async move { organizations.update_member(request).await })
        }
        5 | 6 => {
            let request = pb::TransferOwnershipRequest { request_id, ..transfer(&place, &user) };
            side(async move { organizations.transfer_ownership(request).await })
        }
        7 => {
            let slug = format!("slug-{}", dice.roll(4));
            let request = pb::UpdateOrganizationRequest { organization: place, slug, request_id, ..Default::default() };
            side(async move { organizations.update_organization(request).await })
        }
        8 => {
            let request = pb::CreateOrganizationRequest { owner_user_id: user, request_id, ..organization("Storm") };
            side(async move { organizations.create_organization(request).await })
        }
        9 => {
            let request = pb::DeactivateUserRequest { user_id: user, request_id, ..Default::default() };
            side(async move { accounts.deactivate_user(request).await })
        }
        10 => {
            let request = pb::ReactivateUserRequest { user_id: user, request_id, ..Default::default() };
            side(async move { accounts.reactivate_user(request).await })
        }
        _ => {
            let request = pb::DeleteUserRequest { user_id: user, request_id, ..Default::default() };
            side(async move { accounts.delete_user(request).await })
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once_keeps_every_rule_without_a_deadlock() {
    const DEADLOCKS: &str = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let cast = Cast::new().await;
    let database = cast.server.database.clone();
    let mut places = Vec::new();
    for _ in 0..3 {
        places.push(cast.acme().await);
    }
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..super::rounds() {
        // Deleted users do not come back, so each round has new ones.
        let users: Vec<String> = (0..6).map(|number| format!("storm-{round}-{number}")).collect();
        let writers = (0..WRITERS).map(|writer| {
            let seed = u64::try_from(round).unwrap() * WRITERS + writer + 1;
            let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let calls: Vec<(String, Call)> = (0..WRITES)
                .map(|_| {
                    let id = roster::random::uuid().to_string();
                    let call = write(&cast, &mut dice, &places, &users, &id);
                    (id, call)
                })
                .collect();
            tokio::spawn(async move {
                let mut done = Vec::new();
                for (id, call) in calls {
                    let told = told(&call.await);
                    assert!(NAMED.contains(&told.as_str()), "{told}");
                    if told == "OK" {
                        done.push(id);
                    }
                }
                done
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            acknowledged.extend(writer.await.unwrap());
        }
        database.assert_invariants().await;
    }
    // Each acknowledged write is on record, no refused one has left anything.
    let left: Vec<String> = sqlx::query_scalar(
        "SELECT request_id::text FROM events WHERE request_id IS NOT NULL
         UNION SELECT request_id::text FROM user_events WHERE request_id IS NOT NULL
         UNION SELECT request_id::text FROM requests",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    assert!(acknowledged.len() > super::rounds() * 20, "too few writes were let: {}", acknowledged.len());
    assert_eq!(sorted(left), sorted(acknowledged));
    // Postgres counts deadlocks when a connection ends: one order of locks means none, not even one that a repetition hides.
    database.assert_no_open_transactions().await;
    cast.server.roster.pool().close().await;
    assert_eq!(database.count(DEADLOCKS).await, 0);
}
