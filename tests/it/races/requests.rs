//! One request id, many calls at once: one effect, one answer.

use super::{Cast, Held, Outcomes, Sides, call, run, until_waiting};
use crate::harness::samples::call as raw_call;
use crate::harness::{add, organization, reason, set_role};
use prost::Message;
use roster::grpc::pb;
use sqlx::AssertSqlSafe;
use std::sync::Arc;
use tokio::sync::Barrier;
use tonic::Status;

const AT_ONCE: usize = 16;
const ADD: &str = "/roster.v1.OrganizationService/AddMember";
const CREATE: &str = "/roster.v1.OrganizationService/CreateOrganization";

/// Makes the calls at once: held before a row that they must lock, or from a barrier.
async fn at_once(
    cast: &Cast,
    held: Option<Held>,
    path: &'static str,
    messages: Vec<Vec<u8>>,
) -> Vec<Result<Vec<u8>, Status>> {
    let token = Arc::new(cast.server.mint(&crate::harness::Server::claims("ada")));
    let warm = pb::GetCallerRequest {}.encode_to_vec();
    raw_call(cast.server.channel(), &token, "/roster.v1.UserService/GetCaller", warm).await.unwrap();
    let mut holder = cast.server.database.pool.begin().await.unwrap();
    if let Some(held) = &held {
        sqlx::query(AssertSqlSafe(held.statement())).execute(&mut *holder).await.unwrap();
    }
    let (count, barrier) = (messages.len(), Arc::new(Barrier::new(messages.len())));
    let tasks: Vec<_> = messages
        .into_iter()
        .map(|message| {
            let (channel, token, barrier) = (cast.server.channel(), token.clone(), barrier.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                raw_call(channel, &token, path, message).await
            })
        })
        .collect();
    if held.is_some() {
        until_waiting(&cast.server.database, count).await;
    }
    holder.rollback().await.unwrap();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

fn fresh_id() -> String {
    roster::random::uuid().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_sixteen_times_at_once() {
    let cast = Cast::new().await;
    let database = &cast.server.database;
    for round in 0..super::rounds() {
        for held in [true, false] {
            let acme = cast.acme().await;
            let before = super::events(database).await;
            let request = pb::AddMemberRequest { request_id: fresh_id(), ..add(&acme, "new", "admin") };
            let held_row = held.then(|| Held::Organization(acme.clone()));
            let answers = at_once(&cast, held_row, ADD, vec![request.encode_to_vec(); AT_ONCE]).await;
            let first = answers[0].as_ref().unwrap();
            assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == first));
            assert_eq!(super::events(database).await - before, 1);

            let slug = format!("once-{round}-{held}");
            let request =
                pb::CreateOrganizationRequest { slug: slug.clone(), request_id: fresh_id(), ..organization("Once") };
            let held_row = held.then_some(Held::Slug(slug));
            let answers = at_once(&cast, held_row, CREATE, vec![request.encode_to_vec(); AT_ONCE]).await;
            let first = answers[0].as_ref().unwrap();
            assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == first));
            assert_eq!(super::events(database).await - before, 3);
            database.assert_invariants().await;
        }
    }
    database.assert_no_open_transactions().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_id_for_two_bodies_at_once() {
    let cast = Cast::new().await;
    let database = &cast.server.database;
    for _ in 0..super::rounds() {
        for held in [true, false] {
            let acme = cast.acme().await;
            let before = super::events(database).await;
            let request_id = fresh_id();
            let body = |user: &str| {
                pb::AddMemberRequest { request_id: request_id.clone(), ..add(&acme, user, "member") }.encode_to_vec()
            };
            let bodies = (0..AT_ONCE).map(|number| body(if number % 2 == 0 { "even" } else { "odd" })).collect();
            let answers = at_once(&cast, held.then(|| Held::Organization(acme.clone())), ADD, bodies).await;
            // One body won, and everybody who sent it has its answer; the others are told that the id is taken.
            let winner = usize::from(answers[1].is_ok());
            for (number, answer) in answers.iter().enumerate() {
                if number % 2 == winner {
                    assert_eq!(answer.as_ref().unwrap(), answers[winner].as_ref().unwrap());
                } else {
                    assert_eq!(reason(answer.as_ref().unwrap_err()), "REQUEST_ID_REUSED");
                }
            }
            assert_eq!(super::events(database).await - before, 1);
            database.assert_invariants().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_request_sixteen_times_at_once() {
    let cast = Cast::new().await;
    let acme = cast.acme().await;
    let request = pb::AddMemberRequest { request_id: fresh_id(), ..add(&acme, "grace", "admin") };
    let kept = "SELECT count(*) FROM requests";
    let held = Some(Held::Organization(acme.clone()));
    for answer in at_once(&cast, held, ADD, vec![request.encode_to_vec(); AT_ONCE]).await {
        assert_eq!(reason(&answer.unwrap_err()), "ALREADY_MEMBER");
    }
    assert_eq!(cast.server.database.count(kept).await, 0);
    cast.server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_against_the_demotion_of_who_repeats_it() {
    let cast = Cast::new().await;
    // Let in as an admin, grace is none any more when the answer is found: it is not given.
    let outcomes = Outcomes::of((["OK", "ROLE_LACKS_PERMISSION"], 1), (["OK", "OK"], 1));
    run(&cast.server, outcomes, async |_| {
        let acme = cast.acme().await;
        let request = pb::AddMemberRequest { request_id: fresh_id(), ..add(&acme, "new", "member") };
        cast.grace.clone().organizations.add_member(request.clone()).await.unwrap();
        let demote = call!(cast.ada.organizations.update_member(set_role(&acme, "grace", "member")));
        let again = call!(cast.grace.organizations.add_member(request));
        Sides { calls: [demote, again], held: Held::Organization(acme) }
    })
    .await;
}
