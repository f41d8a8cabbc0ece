//! Concurrent calls with one request id have one effect and one answer.

use super::{ContendedRow, Fixture, Outcomes, Sides, call, run, until_waiting};
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

/// Makes concurrent calls from a barrier. With a row, which they all must lock, all wait for its lock first.
async fn at_once(
    fixture: &Fixture,
    row: Option<ContendedRow>,
    path: &'static str,
    messages: Vec<Vec<u8>>,
) -> Vec<Result<Vec<u8>, Status>> {
    let token = Arc::new(fixture.server.mint(&crate::harness::Server::claims("ada")));
    let profile_call = pb::GetCallerRequest {}.encode_to_vec();
    raw_call(fixture.server.channel(), &token, "/roster.v1.UserService/GetCaller", profile_call).await.unwrap();
    let mut holder = fixture.server.database.pool.begin().await.unwrap();
    if let Some(row) = &row {
        sqlx::query(AssertSqlSafe(row.statement())).execute(&mut *holder).await.unwrap();
    }
    let (count, barrier) = (messages.len(), Arc::new(Barrier::new(messages.len())));
    let tasks: Vec<_> = messages
        .into_iter()
        .map(|message| {
            let (channel, token, barrier) = (fixture.server.channel(), token.clone(), barrier.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                raw_call(channel, &token, path, message).await
            })
        })
        .collect();
    if row.is_some() {
        until_waiting(&fixture.server.database, count).await;
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
async fn one_request_sent_sixteen_times_at_once() {
    let fixture = Fixture::new().await;
    let database = &fixture.server.database;
    for round in 0..super::rounds() {
        for locked in [true, false] {
            let acme = fixture.acme().await;
            let before = super::events(database).await;
            let request = pb::AddMemberRequest { request_id: fresh_id(), ..add(&acme, "new", "admin") };
            let row = locked.then(|| ContendedRow::Organization(acme.clone()));
            let answers = at_once(&fixture, row, ADD, vec![request.encode_to_vec(); AT_ONCE]).await;
            let first = answers[0].as_ref().unwrap();
            assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == first));
            assert_eq!(super::events(database).await - before, 1);

            let slug = format!("once-{round}-{locked}");
            let request =
                pb::CreateOrganizationRequest { slug: slug.clone(), request_id: fresh_id(), ..organization("Once") };
            let row = locked.then_some(ContendedRow::Slug(slug));
            let answers = at_once(&fixture, row, CREATE, vec![request.encode_to_vec(); AT_ONCE]).await;
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
    let fixture = Fixture::new().await;
    let database = &fixture.server.database;
    for _ in 0..super::rounds() {
        for locked in [true, false] {
            let acme = fixture.acme().await;
            let before = super::events(database).await;
            let request_id = fresh_id();
            let body = |user: &str| {
                pb::AddMemberRequest { request_id: request_id.clone(), ..add(&acme, user, "member") }.encode_to_vec()
            };
            let bodies = (0..AT_ONCE).map(|number| body(if number % 2 == 0 { "even" } else { "odd" })).collect();
            let answers =
                at_once(&fixture, locked.then(|| ContendedRow::Organization(acme.clone())), ADD, bodies).await;
            // One body wins: every call with it gets its answer, and the others an error that the id was used.
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
async fn one_refused_request_sent_sixteen_times_at_once() {
    let fixture = Fixture::new().await;
    let acme = fixture.acme().await;
    let request = pb::AddMemberRequest { request_id: fresh_id(), ..add(&acme, "grace", "admin") };
    let stored = "SELECT count(*) FROM requests";
    let row = Some(ContendedRow::Organization(acme.clone()));
    for answer in at_once(&fixture, row, ADD, vec![request.encode_to_vec(); AT_ONCE]).await {
        assert_eq!(reason(&answer.unwrap_err()), "ALREADY_MEMBER");
    }
    assert_eq!(fixture.server.database.count(stored).await, 0);
    fixture.server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_against_the_demotion_of_its_caller() {
    let fixture = Fixture::new().await;
    // `grace` is authorized as an admin, but demoted when the stored answer is found: the call is refused.
    let outcomes = Outcomes::of((["OK", "ROLE_LACKS_PERMISSION"], 1), (["OK", "OK"], 1));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        let request = pb::AddMemberRequest { request_id: fresh_id(), ..add(&acme, "new", "member") };
        fixture.grace.clone().organizations.add_member(request.clone()).await.unwrap();
        let demote = call!(fixture.ada.organizations.update_member(set_role(&acme, "grace", "member")));
        let again = call!(fixture.grace.organizations.add_member(request));
        Sides { calls: [demote, again], row: ContendedRow::Organization(acme) }
    })
    .await;
}
