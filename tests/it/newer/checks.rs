//! Checks, one and many, from memory and on the primary.

use super::{Fixture, assert_unknown, assert_unknown_status};
use crate::harness::is_member;
use crate::harness::server::Clients;
use crate::replica::until;
use roster::grpc::pb;
use std::collections::BTreeMap;
use tonic::Status;
use tonic::codegen::tokio_stream;

use pb::CheckReason::{Allowed, NotAMember, OrganizationInactive};
use pb::CheckSource::{Memory, Primary};

fn consistency(full: bool) -> Option<pb::Consistency> {
    full.then_some(pb::Consistency { requirement: Some(pb::consistency::Requirement::FullyConsistent(true)) })
}

async fn check(clients: &Clients, organization: &str, user: &str, full: bool) -> Result<pb::CheckResult, Status> {
    let request = pb::CheckMembershipRequest { consistency: consistency(full), ..is_member(organization, user) };
    Ok(clients.checks.clone().check_membership(request).await?.into_inner().result.unwrap())
}

/// The answer from memory, as soon as there is one.
async fn check_in_memory(fixture: &Fixture, organization: &str, user: &str) -> pb::CheckResult {
    let mut result = pb::CheckResult::default();
    until("memory answers", async || {
        result = check(&fixture.backend(), organization, user, false).await.unwrap();
        result.source() == Memory
    })
    .await;
    result
}

/// The questions, by organization and user, that have an answer, with the reason of the answer.
fn answered(fixture: &Fixture) -> BTreeMap<(&str, &str), pb::CheckReason> {
    let (acme, gamma) = (fixture.acme.as_str(), fixture.gamma.as_str());
    BTreeMap::from([
        ((acme, "ada"), Allowed),
        ((acme, "grace"), Allowed),
        ((acme, "alan"), Allowed),
        ((acme, "nobody"), NotAMember),
        (("acme", "ada"), Allowed),
        (("acme", "alan"), Allowed),
        (("acme", "nobody"), NotAMember),
        ((gamma, "eve"), Allowed),
        (("gamma", "eve"), Allowed),
        ((gamma, "nobody"), NotAMember),
    ])
}

/// The questions that have no answer, with the kind of the value that is not known.
fn unanswered(fixture: &Fixture) -> BTreeMap<(&str, &str), &'static str> {
    let (acme, beta) = (fixture.acme.as_str(), fixture.beta.as_str());
    BTreeMap::from([
        ((acme, "eve"), "role"),
        (("acme", "eve"), "role"),
        ((beta, "ada"), "organization_state"),
        ((beta, "alan"), "organization_state"),
        ((beta, "nobody"), "organization_state"),
        (("beta", "ada"), "organization_state"),
        ((acme, "joan"), "user_state"),
        (("gamma", "joan"), "user_state"),
    ])
}

async fn assert_each(fixture: &Fixture) {
    let backend = fixture.backend();
    for full in [false, true] {
        for ((organization, user), reason) in answered(fixture) {
            let result = check(&backend, organization, user, full).await.unwrap();
            assert_eq!((result.reason(), result.allowed), (reason, reason == Allowed), "{organization} {user}");
        }
        for ((organization, user), value) in unanswered(fixture) {
            assert_unknown(check(&backend, organization, user, full).await, value);
        }
    }
}

async fn assert_batch(fixture: &Fixture) {
    let questions: Vec<(&str, &str)> = answered(fixture).into_keys().chain(unanswered(fixture).into_keys()).collect();
    let item = |(organization, user): &(&str, &str)| pb::CheckItem {
        organization: (*organization).to_owned(),
        user_id: (*user).to_owned(),
        question: None,
    };
    for full in [false, true] {
        let items = questions.iter().map(item).collect();
        let request = pb::BatchCheckMembershipRequest { items, consistency: consistency(full) };
        let answer = fixture.backend().checks.batch_check_membership(request).await.unwrap().into_inner();
        for (question, result) in questions.iter().zip(&answer.results) {
            let reason = answered(fixture).get(question).copied().unwrap_or(pb::CheckReason::ValueUnknown);
            assert_eq!((result.reason(), result.allowed), (reason, reason == Allowed), "{question:?}");
            if reason == pb::CheckReason::ValueUnknown {
                assert_eq!((result.role.as_str(), result.revision), ("", 0));
            }
        }
        assert_eq!(answer.results.len(), questions.len());
        assert!(!answer.consistency_token.is_empty());
    }
}

async fn assert_stream(fixture: &Fixture) {
    use pb::stream_checks_response::Outcome;
    let (answered, unanswered) = (answered(fixture), unanswered(fixture));
    let questions: Vec<(&str, &str)> = answered.keys().chain(unanswered.keys()).copied().collect();
    let requests: Vec<pb::StreamChecksRequest> = [false, true]
        .into_iter()
        .flat_map(|full| {
            questions.iter().map(move |(organization, user)| pb::StreamChecksRequest {
                organization: (*organization).to_owned(),
                user_id: (*user).to_owned(),
                consistency: consistency(full),
                question: None,
            })
        })
        .collect();
    let answers = fixture.backend().checks.stream_checks(tokio_stream::iter(requests)).await;
    let mut answers = answers.unwrap().into_inner();
    for question in questions.iter().chain(&questions) {
        match answers.message().await.unwrap().unwrap().outcome.unwrap() {
            Outcome::Result(result) => assert_eq!(Some(&result.reason()), answered.get(question), "{question:?}"),
            Outcome::Error(status) => {
                let details = prost::Message::encode_to_vec(&status).into();
                let status = Status::with_details(status.code.into(), status.message, details);
                assert_unknown_status(&status, unanswered[question]);
            }
        }
    }
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_checks_that_depend_on_an_unknown_value_have_no_answer() {
    let mut fixture = Fixture::new().await;
    fixture.roll_forward().await;
    for round in 0..2 {
        assert_each(&fixture).await;
        assert_batch(&fixture).await;
        assert_stream(&fixture).await;
        // Memory holds the unknown values too: such checks do not reach the primary. On a busy machine, the lease may
        // just have run out.
        until("the unknown values are found in memory", async || {
            fixture.caught_up().await;
            let primary_answers = || fixture.server.roster.replica().statistics().primary_answers;
            let before = primary_answers();
            for (organization, user) in unanswered(&fixture).into_keys().filter(|(name, _)| *name != "gamma") {
                assert!(check(&fixture.backend(), organization, user, false).await.is_err());
            }
            primary_answers() == before
        })
        .await;
        // The neighbours are answered from memory, whose lease goes on.
        for (organization, user) in [(&fixture.acme, "alan"), (&fixture.acme, "ada")] {
            assert!(check_in_memory(&fixture, organization, user).await.allowed);
        }
        // The unknown change of Gamma leaves its checks to the primary, until its bucket is loaded again.
        if round == 0 {
            let result = check(&fixture.backend(), &fixture.gamma, "alan", false).await.unwrap();
            assert_eq!(result.source(), Primary);
        } else {
            check_in_memory(&fixture, &fixture.gamma, "alan").await;
        }
        fixture.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_unknown_values_go_away_everything_is_answered_from_memory() {
    let mut fixture = Fixture::new().await;
    for round in 0..2 {
        fixture.roll_forward().await;
        if round == 1 {
            // The replica loads the values from the rows.
            fixture.restart().await;
        }
        assert_each(&fixture).await;
        fixture.roll_back().await;
        let backend = fixture.backend();
        for (organization, user, reason) in [
            (&fixture.acme, "eve", Allowed),
            (&fixture.acme, "joan", Allowed),
            (&fixture.beta, "ada", OrganizationInactive),
            (&fixture.beta, "nobody", OrganizationInactive),
        ] {
            assert_eq!(check_in_memory(&fixture, organization, user).await.reason(), reason, "{organization} {user}");
            let result = check(&backend, organization, user, true).await.unwrap();
            assert_eq!((result.reason(), result.source()), (reason, Primary));
        }
        assert_eq!(check(&backend, &fixture.acme, "eve", false).await.unwrap().role, "admin");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organization_that_an_unknown_change_created_is_answered_by_the_primary() {
    let fixture = Fixture::new().await;
    // The rows of an organization, of which the log has an unknown change only.
    let id = format!("{}ffffff-5a39-4d0c-9a53-3a0f2c8f7a11", &fixture.acme[..2]);
    fixture
        .sql(&format!(
            "WITH slug AS (
                 INSERT INTO slugs (slug, bucket, organization_id)
                 VALUES ('newer', organization_bucket_of('{id}'), '{id}') RETURNING *),
             organization AS (
                 INSERT INTO organizations (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator,
                     owner_id, revision, row_revision, create_time, update_time)
                 SELECT bucket, '{id}', 'newer', 'Newer', 'organization', '{{}}', 'ACTIVE', false, 'ada', 1, 1, now(), now()
                 FROM slug RETURNING *)
             INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time)
             SELECT bucket, id, 'ada', 'admin', '{{}}', 1, now(), now() FROM organization"
        ))
        .await;
    let mut connection = fixture.database().pool.acquire().await.unwrap();
    let values = format!("'{id}', 'IMPORT'");
    super::append(&mut connection, &fixture.acme, 1, "organization_id, entry", &values).await;
    fixture.caught_up().await;
    for name in [id.as_str(), "newer"] {
        let result = check(&fixture.backend(), name, "ada", false).await.unwrap();
        assert_eq!((result.reason(), result.role.as_str(), result.source()), (Allowed, "owner", Primary), "{name}");
    }
}
