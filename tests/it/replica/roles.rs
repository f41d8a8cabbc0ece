//! Checks by roles and permissions of the application: from memory and by the primary, with tokens, and while the access
//! model and the roles of organizations change.

use super::until;
use crate::harness::server::Clients;
use crate::harness::{Database, Server, is_member};
use crate::roles::apply;
use roster::domain::change::{ChangeDetail, LogEntry};
use roster::domain::ids::MODEL_BUCKET;
use roster::domain::{self, ActorKind, Attributes, OrganizationId, RoleName, UserId};
use roster::grpc::pb;
use roster::service::ReplicaSettings;
use roster::service::consistency_token::ConsistencyToken;
use roster::store::access_model::{self, DeploymentRoleRow};
use roster::store::events::Cause;
use roster::store::{log, memberships, organizations};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;
use tonic::codegen::tokio_stream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use pb::CheckReason::{Allowed, NotAMember, RoleLacksPermission, RoleNotFound, RoleTooLow};
use pb::CheckSource::{Memory, Primary};
use pb::check_membership_request::Question::{self, Permission, Role};
use pb::consistency::Requirement;

#[expect(clippy::unnecessary_wraps, reason = "the field of the request is optional")]
fn role(name: &str) -> Option<Question> {
    Some(Role(name.to_owned()))
}

#[expect(clippy::unnecessary_wraps, reason = "the field of the request is optional")]
fn permission(word: &str) -> Option<Question> {
    Some(Permission(word.to_owned()))
}

/// A model in which the accountant holds these words.
fn model(accountant: &[&str]) -> Value {
    json!({
        "permissions": [{ "name": "billing.read" }, { "name": "billing.pay" }],
        "roles": [{ "name": "accountant", "permissions": accountant }, { "name": "clerk", "permissions": [] }],
        "delegable": ["members.list"],
    })
}

async fn put(operator: &mut Clients, model: Value) -> String {
    operator.models.apply_access_model(apply(model)).await.unwrap().into_inner().consistency_token
}

async fn check(
    clients: &Clients,
    organization: &str,
    user: &str,
    question: Option<Question>,
    requirement: Option<Requirement>,
) -> Result<pb::CheckResult, Status> {
    let consistency = requirement.map(|requirement| pb::Consistency { requirement: Some(requirement) });
    let request = pb::CheckMembershipRequest { question, consistency, ..is_member(organization, user) };
    Ok(clients.checks.clone().check_membership(request).await?.into_inner().result.unwrap())
}

async fn create_role(operator: &mut Clients, organization: &str, name: &str, words: &[&str]) -> String {
    let request = pb::CreateRoleRequest {
        organization: organization.to_owned(),
        name: name.to_owned(),
        permissions: words.iter().map(|word| (*word).to_owned()).collect(),
        ..Default::default()
    };
    operator.roles.create_role(request).await.unwrap().into_inner().consistency_token
}

async fn update_role(operator: &mut Clients, organization: &str, name: &str, words: &[&str]) -> String {
    let request = pb::UpdateRoleRequest {
        organization: organization.to_owned(),
        name: name.to_owned(),
        permissions: words.iter().map(|word| (*word).to_owned()).collect(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["permissions".to_owned()] }),
        ..Default::default()
    };
    operator.roles.update_role(request).await.unwrap().into_inner().consistency_token
}

/// A server, and an organization of `ada` with the accountant `grace` and the auditor `alan`, whose role is the
/// organization's own.
async fn fixture() -> (Server, String) {
    let server = Server::start_generous().await;
    let mut operator = server.operator();
    put(&mut operator, model(&["billing.read", "members.list"])).await;
    let acme = server.user("ada").create("Acme").await;
    create_role(&mut operator, &acme, "org:auditor", &["billing.read"]).await;
    for (user, role) in [("grace", "accountant"), ("alan", "org:auditor"), ("joan", "admin")] {
        operator.add(&acme, user, role).await;
    }
    (server, acme)
}

/// Questions about the organization of [`fixture`], with the reasons of the answers.
fn questions() -> Vec<(&'static str, Option<Question>, pb::CheckReason)> {
    vec![
        ("grace", None, Allowed),
        ("grace", permission("billing.read"), Allowed),
        ("grace", permission("billing.pay"), RoleLacksPermission),
        ("grace", permission("members.list"), Allowed),
        ("grace", permission("members.add"), RoleLacksPermission),
        ("grace", role("accountant"), Allowed),
        ("grace", role("clerk"), Allowed),
        ("grace", role("member"), RoleTooLow),
        ("grace", role("org:auditor"), Allowed),
        ("grace", role("org:ghost"), RoleNotFound),
        ("alan", permission("billing.read"), Allowed),
        ("alan", permission("members.list"), RoleLacksPermission),
        ("alan", role("org:auditor"), Allowed),
        ("alan", role("accountant"), RoleTooLow),
        ("joan", permission("billing.read"), RoleLacksPermission),
        ("joan", role("org:auditor"), RoleTooLow),
        ("ada", permission("billing.pay"), Allowed),
        ("ada", role("owner"), Allowed),
        ("joan", role("owner"), RoleTooLow),
        ("nobody", permission("billing.read"), NotAMember),
        ("nobody", role("org:auditor"), NotAMember),
        ("nobody", role("org:ghost"), RoleNotFound),
    ]
}

fn role_of(user: &str) -> &'static str {
    match user {
        "ada" => "owner",
        "grace" => "accountant",
        "alan" => "org:auditor",
        "joan" => "admin",
        _ => "",
    }
}

/// Whether a token covers the access model.
fn covers_model(token: &str) -> bool {
    ConsistencyToken::decode(token).unwrap().positions().any(|at| at.bucket == MODEL_BUCKET)
}

async fn assert_answers(server: &Server, acme: &str) {
    let backend = server.operator();
    server.roster.replica().loaded().await;
    server.roster.replica().caught_up().await;
    for name in [acme, "acme"] {
        for (user, question, reason) in questions() {
            let ask = async |requirement| check(&backend, name, user, question.clone(), requirement).await.unwrap();
            let mut result = pb::CheckResult::default();
            until("memory answers", async || {
                result = ask(None).await;
                result.source() == Memory
            })
            .await;
            let full = ask(Some(Requirement::FullyConsistent(true))).await;
            let with_token = ask(Some(Requirement::AtLeastAsFresh(full.consistency_token.clone()))).await;
            for answer in [&result, &full, &with_token] {
                let found = (answer.reason(), answer.allowed, answer.role.as_str());
                assert_eq!(found, (reason, reason == Allowed, role_of(user)), "{user} {question:?}");
                assert_eq!(covers_model(&answer.consistency_token), question.is_some(), "{user} {question:?}");
            }
            assert_eq!((full.source(), with_token.source()), (Primary, Memory));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_role_and_permission_is_answered_from_memory_and_by_the_primary() {
    let (server, acme) = fixture().await;
    assert_answers(&server, &acme).await;
    // A server that loads the roles from the rows.
    let second = Server::with_replica_over(server.database.clone(), ReplicaSettings::default()).await;
    assert_answers(&second, &acme).await;
    // A batch and a stream give the same answers.
    let items = questions().into_iter().map(|(user, question, _)| item(&acme, user, question)).collect();
    let request = pb::BatchCheckMembershipRequest { items, consistency: None };
    let answer = second.operator().checks.batch_check_membership(request).await.unwrap().into_inner();
    let reasons = answer.results.iter().map(pb::CheckResult::reason);
    assert!(reasons.eq(questions().into_iter().map(|(_, _, reason)| reason)));
    assert!(covers_model(&answer.consistency_token));
    let items = vec![item(&acme, "grace", None), item(&acme, "alan", None)];
    let request = pb::BatchCheckMembershipRequest { items, consistency: None };
    let answer = second.operator().checks.batch_check_membership(request).await.unwrap().into_inner();
    assert!(!covers_model(&answer.consistency_token));
}

fn item(organization: &str, user: &str, question: Option<Question>) -> pb::CheckItem {
    let question = question.map(|question| match question {
        Role(name) => pb::check_item::Question::Role(name),
        Permission(word) => pb::check_item::Question::Permission(word),
    });
    pb::CheckItem { organization: organization.to_owned(), user_id: user.to_owned(), question }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_sees_a_change_of_a_role_that_the_token_covers() {
    let (server, acme) = fixture().await;
    let second = Server::with_replica_over(server.database.clone(), ReplicaSettings::default()).await;
    let mut operator = server.operator();
    let servers = [server.operator(), second.operator()];
    let assert_reason = async |token: &str, user: &str, question: Option<Question>, reason| {
        for clients in &servers {
            let requirement = Some(Requirement::AtLeastAsFresh(token.to_owned()));
            let answer = check(clients, &acme, user, question.clone(), requirement).await.unwrap();
            assert_eq!(answer.reason(), reason, "{user} {question:?}");
        }
    };
    for _ in 0..20 {
        let token = update_role(&mut operator, &acme, "org:auditor", &["billing.pay"]).await;
        assert_reason(&token, "alan", permission("billing.pay"), Allowed).await;
        assert_reason(&token, "alan", permission("billing.read"), RoleLacksPermission).await;
        let token = update_role(&mut operator, &acme, "org:auditor", &["billing.read"]).await;
        assert_reason(&token, "alan", permission("billing.pay"), RoleLacksPermission).await;
        let token = put(&mut operator, model(&["billing.pay"])).await;
        assert!(covers_model(&token));
        assert_reason(&token, "grace", permission("billing.pay"), Allowed).await;
        assert_reason(&token, "grace", role("org:auditor"), RoleTooLow).await;
        let token = put(&mut operator, model(&["billing.read", "members.list"])).await;
        assert_reason(&token, "grace", permission("billing.pay"), RoleLacksPermission).await;
        // The server that acknowledged the write has it, without a token.
        let answer = check(&operator, &acme, "grace", role("org:auditor"), None).await.unwrap();
        assert_eq!(answer.reason(), Allowed);
    }
    let request = pb::DeleteRoleRequest {
        organization: acme.clone(),
        name: "org:auditor".to_owned(),
        replace_with: "clerk".to_owned(),
        ..Default::default()
    };
    let token = operator.roles.delete_role(request).await.unwrap().into_inner().consistency_token;
    assert_reason(&token, "alan", permission("billing.read"), RoleLacksPermission).await;
    assert_reason(&token, "alan", role("org:auditor"), RoleNotFound).await;
    assert_reason(&token, "alan", role("clerk"), Allowed).await;
}

/// The fields that an error names.
fn violations(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_details_bad_request().unwrap_or_else(|| panic!("{status:?}"));
    details.field_violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_model_declares_is_refused_with_its_field() {
    let (server, acme) = fixture().await;
    let clients = server.operator();
    for (question, field) in [
        (permission("billing.fly"), "permission"),
        (permission("members.fly"), "permission"),
        (permission("Billing"), "permission"),
        (role("king"), "role"),
        (role("King"), "role"),
        (role("org:King"), "role"),
    ] {
        for organization in [acme.as_str(), "nowhere"] {
            let status = check(&clients, organization, "grace", question.clone(), None).await.unwrap_err();
            assert_eq!(violations(&status), [field], "{question:?}");
        }
    }
    let items = vec![
        item(&acme, "grace", permission("billing.read")),
        item(&acme, "grace", permission("billing.fly")),
        item(&acme, "grace", role("org:ghost")),
        item(&acme, "grace", role("king")),
    ];
    let request = pb::BatchCheckMembershipRequest { items, consistency: None };
    let status = clients.checks.clone().batch_check_membership(request).await.unwrap_err();
    assert_eq!(violations(&status), ["items[1].permission", "items[3].role"]);

    let question = |question: Question| pb::StreamChecksRequest {
        organization: acme.clone(),
        user_id: "grace".to_owned(),
        question: Some(match question {
            Role(name) => pb::stream_checks_request::Question::Role(name),
            Permission(word) => pb::stream_checks_request::Question::Permission(word),
        }),
        ..Default::default()
    };
    let requests = ["billing.read", "billing.fly", "billing.pay"].map(|word| question(Permission(word.to_owned())));
    let answers = clients.checks.clone().stream_checks(tokio_stream::iter(requests)).await;
    let mut answers = answers.unwrap().into_inner();
    let mut outcomes = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        outcomes.push(matches!(answer.outcome, Some(pb::stream_checks_response::Outcome::Result(_))));
    }
    assert_eq!(outcomes, [true, false, true]);
}

/// A word is declared on one server, and asked about on another one that has not read the model yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_is_known_everywhere_as_soon_as_it_is_declared() {
    let (server, acme) = fixture().await;
    let second = Server::with_replica_over(server.database.clone(), ReplicaSettings::default()).await;
    let mut operator = server.operator();
    for number in 0..20 {
        let word = format!("billing.new-{number}");
        let mut next = model(&["billing.read", "members.list"]);
        next["permissions"].as_array_mut().unwrap().push(json!({ "name": word }));
        put(&mut operator, next).await;
        for clients in [&operator, &second.operator()] {
            let answer = check(clients, &acme, "grace", permission(&word), None).await.unwrap();
            assert_eq!(answer.reason(), RoleLacksPermission);
        }
    }
    let status = check(&operator, &acme, "grace", permission("billing.new-0"), None).await.unwrap_err();
    assert_eq!(violations(&status), ["permission"]);
}

/// Replaces the model and the role of `grace` in one transaction.
async fn switch(database: &Database, organization: OrganizationId, accountant: &[&str], grace: &str) {
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let roles = ["accountant", "clerk"].map(|name| DeploymentRoleRow {
        name: RoleName::parse(name).unwrap(),
        kind: None,
        replaced_by: None,
    });
    let cause = Cause {
        actor_kind: ActorKind::Operator,
        actor_id: "ops".to_owned(),
        actor_issuer: None,
        actor_via: None,
        reason: None,
        request_id: None,
    };
    access_model::lock(&mut transaction).await.unwrap();
    let at = access_model::apply(&mut transaction, &model(accountant), &roles, &cause).await.unwrap();
    access_model::write_to_heads(&mut transaction, at).await.unwrap();
    let mut stored = organizations::lock(&mut transaction, organization).await.unwrap().unwrap().organization;
    stored.revision += 1;
    let (user, attributes) = (UserId::parse("grace").unwrap(), Attributes::default());
    let role = domain::Role { name: RoleName::parse(grace).unwrap(), permissions: None };
    memberships::update(&mut transaction, &stored, &user, &role, &attributes).await.unwrap();
    organizations::set_revision(&mut transaction, organization, stored.revision).await.unwrap();
    let detail = ChangeDetail::Membership { user, role: Some(role) };
    let entry = LogEntry { organization, kind: stored.kind, revision: stored.revision, detail };
    log::append(&mut transaction, organization.bucket(), &[entry]).await.unwrap();
    transaction.commit().await.unwrap();
}

/// `grace` is an accountant only while accountants do not pay. In a second organization she always is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_and_the_rows_of_its_transaction_take_effect_together() {
    let (server, acme) = fixture().await;
    let mut operator = server.operator();
    let mut others = Vec::new();
    for number in 0..6 {
        let other = server.user("ada").create(&format!("Other {number}")).await;
        operator.add(&other, "grace", "accountant").await;
        others.push(other);
    }
    let id = OrganizationId::from_uuid(acme.parse().unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let mut checkers = JoinSet::new();
    for number in 0..3 {
        let (clients, acme, others, stop) = (server.operator(), acme.clone(), others.clone(), stop.clone());
        checkers.spawn(async move {
            let (mut answers, mut from_memory) = (BTreeSet::new(), 0);
            while !stop.load(Ordering::Relaxed) {
                if number == 0 {
                    let answer = check(&clients, &acme, "grace", permission("billing.pay"), None).await.unwrap();
                    assert_eq!(answer.reason(), RoleLacksPermission);
                    continue;
                }
                let full = (number == 2).then_some(Requirement::FullyConsistent(true));
                let consistency = full.map(|requirement| pb::Consistency { requirement: Some(requirement) });
                let names = others.iter().chain([&acme]);
                let items = names.map(|name| item(name, "grace", permission("billing.pay"))).collect();
                let request = pb::BatchCheckMembershipRequest { items, consistency };
                let answer = clients.checks.clone().batch_check_membership(request).await.unwrap().into_inner();
                let (of_acme, of_others) = answer.results.split_last().unwrap();
                assert_eq!(of_acme.reason(), RoleLacksPermission);
                let reasons: BTreeSet<_> = of_others.iter().map(|result| result.reason).collect();
                assert_eq!(reasons.len(), 1, "a batch sees one model");
                answers.extend(reasons);
                from_memory += usize::from(of_acme.source() == Memory);
            }
            assert!(number == 0 || answers.len() == 2, "both models were seen");
            assert!(number != 1 || from_memory > 0);
        });
    }
    for _ in 0..40 {
        switch(&server.database, id, &["billing.pay"], "clerk").await;
        server.roster.replica().caught_up().await;
        switch(&server.database, id, &["billing.read"], "accountant").await;
        server.roster.replica().caught_up().await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(checker) = checkers.join_next().await {
        checker.unwrap();
    }
}

/// Several models in one poll, more than the poll reads, with rows that the last one has decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_the_log_of_the_model_reads_it_again() {
    let (server, acme) = fixture().await;
    let mut operator = server.operator();
    for round in 0..3 {
        for number in 0..40 {
            let mut next = model(if number % 2 == 0 { &["billing.pay"] } else { &["billing.read"] });
            next["permissions"]
                .as_array_mut()
                .unwrap()
                .push(json!({ "name": format!("billing.gap-{round}-{number}") }));
            put(&mut operator, next).await;
        }
        sqlx::query("DELETE FROM access_model_revisions").execute(&server.database.pool).await.unwrap();
        server.roster.replica().caught_up().await;
        let mut result = pb::CheckResult::default();
        until("memory answers", async || {
            result = check(&operator, &acme, "grace", permission("billing.read"), None).await.unwrap();
            result.source() == Memory
        })
        .await;
        assert_eq!(result.reason(), Allowed);
    }
    assert_eq!(server.roster.replica().statistics().lost, 0);
}
