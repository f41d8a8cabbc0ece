//! Concurrent random writes in few organizations, so that writes wait for locks of every kind.

use super::{Call, Fixture, outcome, side};
use crate::harness::{self, add, remove, set_role, transfer};
use prost::Message;
use roster::grpc::pb;
use tonic::Status;

/// The allowed outcomes of a write. They include no internal error, and no transaction that was retried too often.
const OUTCOMES: &[&str] = &[
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

/// Pseudorandom numbers, the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn pick<'a>(&mut self, of: &'a [String]) -> &'a str {
        &of[usize::try_from(self.below(of.len().try_into().unwrap())).unwrap()]
    }
}

/// One random write of an operator, which can fail only because of other writes.
fn write(fixture: &Fixture, random: &mut Random, organizations: &[String], users: &[String], request_id: &str) -> Call {
    let (organization, user) = (random.pick(organizations).to_owned(), random.pick(users).to_owned());
    let request_id = request_id.to_owned();
    let (mut organization_client, mut user_client) =
        (fixture.operator.organizations.clone(), fixture.operator.users.clone());
    match random.below(13) {
        0 | 1 => {
            let role = if random.below(2) == 0 { "admin" } else { "member" };
            let request = pb::AddMemberRequest { request_id, ..add(&organization, &user, role) };
            side(async move { organization_client.add_member(request).await })
        }
        2 => {
            let item = |user: &str| pb::BatchAddMembersItem {
                person: Some(pb::batch_add_members_item::Person::UserId(user.to_owned())),
                ..Default::default()
            };
            let items = vec![item(random.pick(users)), item(random.pick(users)), item(&user)];
            let request = pb::BatchAddMembersRequest { organization, items, request_id, ..Default::default() };
            side(async move {
                let answer = organization_client.batch_add_members(request).await?;
                let results = &answer.get_ref().results;
                if results.iter().any(|result| result.member.is_some()) {
                    return Ok(answer);
                }
                // A batch without a success is a refusal: its answer is not stored.
                let first = results[0].status.clone().unwrap();
                Err(Status::with_details(first.code.into(), first.message.clone(), first.encode_to_vec().into()))
            })
        }
        3 => {
            let request = pb::RemoveMemberRequest { request_id, ..remove(&organization, &user) };
            side(async move { organization_client.remove_member(request).await })
        }
        4 => {
            let request = pb::UpdateMemberRequest { request_id, ..set_role(&organization, &user, "member") };
            side(async move { organization_client.update_member(request).await })
        }
        5 | 6 => {
            let request = pb::TransferOwnershipRequest { request_id, ..transfer(&organization, &user) };
            side(async move { organization_client.transfer_ownership(request).await })
        }
        7 => {
            let slug = format!("slug-{}", random.below(4));
            let request = pb::UpdateOrganizationRequest { organization, slug, request_id, ..Default::default() };
            side(async move { organization_client.update_organization(request).await })
        }
        8 => {
            let request =
                pb::CreateOrganizationRequest { owner_user_id: user, request_id, ..harness::organization("New") };
            side(async move { organization_client.create_organization(request).await })
        }
        9 => {
            let request = pb::DeactivateUserRequest { user_id: user, request_id, ..Default::default() };
            side(async move { user_client.deactivate_user(request).await })
        }
        10 => {
            let request = pb::ReactivateUserRequest { user_id: user, request_id, ..Default::default() };
            side(async move { user_client.reactivate_user(request).await })
        }
        11 => {
            let request = pb::ReinstateUserRequest { user_id: user, request_id, ..Default::default() };
            side(async move { user_client.reinstate_user(request).await })
        }
        _ => {
            let request = pb::DeleteUserRequest { user_id: user, request_id, ..Default::default() };
            side(async move { user_client.delete_user(request).await })
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_random_writes_keep_every_invariant_without_a_deadlock() {
    const DEADLOCKS: &str = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let fixture = Fixture::new().await;
    let database = fixture.server.database.clone();
    let mut organizations = Vec::new();
    for _ in 0..3 {
        organizations.push(fixture.acme().await);
    }
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..super::rounds() {
        // Many users end deleted, so each round has new ones.
        let users: Vec<String> = (0..6).map(|number| format!("user-{round}-{number}")).collect();
        let writers = (0..WRITERS).map(|writer| {
            let seed = u64::try_from(round).unwrap() * WRITERS + writer + 1;
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let calls: Vec<(String, Call)> = (0..WRITES)
                .map(|_| {
                    let id = roster::random::uuid().to_string();
                    let call = write(&fixture, &mut random, &organizations, &users, &id);
                    (id, call)
                })
                .collect();
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for (id, call) in calls {
                    let outcome = outcome(&call.await);
                    assert!(OUTCOMES.contains(&outcome.as_str()), "{outcome}");
                    if outcome == "OK" {
                        acknowledged.push(id);
                    }
                }
                acknowledged
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            acknowledged.extend(writer.await.unwrap());
        }
        database.assert_invariants().await;
    }
    // Each acknowledged write is recorded, and no refused write is.
    let recorded: Vec<String> = sqlx::query_scalar(
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
    assert!(acknowledged.len() > super::rounds() * 20, "too few writes succeeded: {}", acknowledged.len());
    assert_eq!(sorted(recorded), sorted(acknowledged));
    // Postgres publishes its count of deadlocks when a connection ends. With one order of locks there are none, not
    // even one that a retry would hide.
    database.assert_no_open_transactions().await;
    let end_sessions = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'roster'";
    sqlx::query(end_sessions).execute(&database.pool).await.unwrap();
    assert_eq!(database.count(DEADLOCKS).await, 0);
}
