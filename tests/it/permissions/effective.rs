//! `GetEffectivePermissions` and its batch.

use super::{
    ACCOUNTANT, AUDITOR, CLERK, Fixture, apply, at_least, define, everything, fully_consistent, model, reserved, sorted,
};
use crate::harness::bulk::Bulk;
use crate::harness::{Database, Server, is_member, reason};
use crate::replica::until;
use pb::CheckReason::{
    Allowed, NotAMember, OrganizationInactive, OrganizationNotFound, OrganizationPending, UserInactive,
};
use pb::CheckSource::{Memory, Primary};
use pb::check_membership_request::Question;
use prost::Message;
use roster::domain::role::{ADMIN_PERMISSIONS, MEMBER_PERMISSIONS};
use roster::domain::{ActorKind, RoleName, Scope};
use roster::grpc::{limits, pb};
use roster::server::ServerSettings;
use roster::store::access_model::{self, DeploymentRoleRow};
use roster::store::events::Cause;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection};
use std::collections::BTreeSet;

/// A question, and its answer: the reason, the role and the permissions.
type Case<'a> = (&'a str, &'a str, pb::CheckReason, &'a str, Vec<String>);

/// Users in every state of organizations and users.
fn cases(fixture: &Fixture) -> Vec<Case<'_>> {
    let words = |words: &[&str]| sorted(words.iter().map(|word| (*word).to_owned()));
    let (acme, closed, gone) = (fixture.acme.as_str(), fixture.closed.as_str(), fixture.gone.as_str());
    vec![
        (acme, "ada", Allowed, "owner", everything()),
        ("acme", "ada", Allowed, "owner", everything()),
        (acme, "grace", Allowed, "admin", reserved(&ADMIN_PERMISSIONS)),
        (acme, "alan", Allowed, "member", reserved(&MEMBER_PERMISSIONS)),
        (acme, "joan", Allowed, "accountant", words(&ACCOUNTANT)),
        (acme, "max", Allowed, "auditor", words(&AUDITOR)),
        (acme, "eve", Allowed, "org:clerk", words(&CLERK)),
        (acme, "nobody", NotAMember, "", Vec::new()),
        (acme, "ivan", UserInactive, "accountant", Vec::new()),
        (closed, "ada", OrganizationInactive, "owner", Vec::new()),
        (closed, "eve", OrganizationInactive, "org:clerk", Vec::new()),
        (closed, "nobody", OrganizationInactive, "", Vec::new()),
        (gone, "ada", OrganizationNotFound, "", Vec::new()),
        ("no-such-place", "ada", OrganizationNotFound, "", Vec::new()),
        ("7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11", "eve", OrganizationNotFound, "", Vec::new()),
    ]
}

async fn get(
    fixture: &Fixture,
    organization: &str,
    user: &str,
    consistency: Option<pb::Consistency>,
) -> pb::GetEffectivePermissionsResponse {
    let request = pb::GetEffectivePermissionsRequest {
        organization: organization.to_owned(),
        user_id: user.to_owned(),
        consistency,
    };
    fixture.backend.checks.clone().get_effective_permissions(request).await.unwrap().into_inner()
}

fn item(organization: &str, user: &str) -> pb::EffectivePermissionsItem {
    pb::EffectivePermissionsItem { organization: organization.to_owned(), user_id: user.to_owned() }
}

async fn get_batch(
    fixture: &Fixture,
    items: Vec<pb::EffectivePermissionsItem>,
    consistency: Option<pb::Consistency>,
) -> pb::BatchGetEffectivePermissionsResponse {
    let request = pb::BatchGetEffectivePermissionsRequest { items, consistency };
    fixture.backend.checks.clone().batch_get_effective_permissions(request).await.unwrap().into_inner()
}

/// The permissions of a result of a batch.
fn unpacked(batch: &pb::BatchGetEffectivePermissionsResponse, result: usize) -> Vec<String> {
    let set = usize::try_from(batch.results[result].permission_set).unwrap();
    let word = |index: &u32| batch.permissions[usize::try_from(*index).unwrap()].clone();
    batch.permission_sets[set].permissions.iter().map(word).collect()
}

/// Waits until memory answers about every organization.
async fn until_in_memory(fixture: &Fixture) {
    until("memory answers", async || {
        let items = cases(fixture).iter().map(|(organization, user, ..)| item(organization, user)).collect();
        let batch = get_batch(fixture, items, None).await;
        batch.results.iter().filter(|result| result.reason() != OrganizationNotFound).all(|r| r.source() == Memory)
    })
    .await;
}

#[tokio::test]
async fn memory_and_the_primary_answer_with_what_each_user_may_do() {
    let fixture = Fixture::new().await;
    until_in_memory(&fixture).await;
    for consistency in [None, fully_consistent()] {
        let cases = cases(&fixture);
        let items = cases.iter().map(|(organization, user, ..)| item(organization, user)).collect();
        let batch = get_batch(&fixture, items, consistency.clone()).await;
        assert_eq!(batch.results.len(), cases.len());
        assert!(batch.permissions.is_sorted(), "{:?}", batch.permissions);
        for (index, (organization, user, reason, role, permissions)) in cases.into_iter().enumerate() {
            let answer = get(&fixture, organization, user, consistency.clone()).await;
            let context = format!("{organization} {user} {:?}", answer.source());
            assert_eq!((answer.reason(), answer.role.as_str()), (reason, role), "{context}");
            assert_eq!(answer.permissions, permissions, "{context}");
            assert_eq!(answer.revision > 0, reason != OrganizationNotFound, "{context}");
            assert!(!answer.consistency_token.is_empty(), "{context}");
            if consistency.is_some() {
                assert_eq!(answer.source(), Primary, "{context}");
            }
            let result = &batch.results[index];
            let same = (result.reason(), result.role.as_str(), result.revision);
            assert_eq!(same, (reason, role, answer.revision), "{context}");
            assert_eq!(unpacked(&batch, index), permissions, "{context}");
        }
    }
}

#[tokio::test]
async fn a_permission_is_effective_exactly_if_a_check_says_yes() {
    let fixture = Fixture::new().await;
    for consistency in [None, fully_consistent()] {
        for (organization, user, ..) in cases(&fixture) {
            let answer = get(&fixture, organization, user, consistency.clone()).await;
            let effective: BTreeSet<String> = answer.permissions.into_iter().collect();
            let mut allowed = BTreeSet::new();
            for word in everything() {
                let question = Some(Question::Permission(word.clone()));
                let consistency = consistency.clone();
                let request = pb::CheckMembershipRequest { question, consistency, ..is_member(organization, user) };
                let answer = fixture.backend.checks.clone().check_membership(request).await.unwrap().into_inner();
                if answer.result.unwrap().allowed {
                    allowed.insert(word);
                }
            }
            assert_eq!(effective, allowed, "{organization} {user}");
        }
    }
}

#[tokio::test]
async fn an_organization_without_an_owner_gives_nobody_a_permission() {
    let fixture = Fixture::new().await;
    let mut operator = fixture.server.operator();
    let request = pb::CreateOrganizationRequest {
        owner_email: "ada@example.com".to_owned(),
        owner_delivery: pb::InvitationDelivery::Token.into(),
        ..crate::harness::organization("Pending")
    };
    operator.organizations.create_organization(request).await.unwrap();
    for consistency in [None, fully_consistent()] {
        let answer = get(&fixture, "pending", "ada", consistency).await;
        assert_eq!((answer.reason(), answer.permissions), (OrganizationPending, Vec::new()));
    }
}

#[tokio::test]
async fn the_token_of_a_change_brings_the_change() {
    let fixture = Fixture::new().await;
    let second = Server::over(fixture.server.database.clone(), ServerSettings::default()).await;
    let mut backend = second.service(&[Scope::Check]);
    let mut has = async |user: &str, word: &str, consistency: Option<pb::Consistency>| {
        let request = pb::GetEffectivePermissionsRequest {
            organization: fixture.acme.clone(),
            user_id: user.to_owned(),
            consistency,
        };
        let answer = backend.checks.get_effective_permissions(request).await.unwrap().into_inner();
        answer.permissions.iter().any(|held| held == word)
    };
    // A new permission and a changed role, asked for at another server.
    let words = ["billing.pay", "billing.read", "reports.view", "effective.fresh"];
    let mut holds = ACCOUNTANT.to_vec();
    holds.push("effective.fresh");
    let token = apply(&fixture.server, model(&words, &[("accountant", &holds), ("auditor@team", &AUDITOR)])).await;
    assert!(has("joan", "effective.fresh", at_least(&token)).await);
    assert!(has("ada", "effective.fresh", at_least(&token)).await);
    assert!(has("ada", "effective.fresh", fully_consistent()).await);
    assert!(!has("grace", "effective.fresh", at_least(&token)).await);
    // The permission goes away, and its word stays in the table of words.
    let former: [(&str, &[&str]); 2] = [("accountant", &ACCOUNTANT), ("auditor@team", &AUDITOR)];
    let token = apply(&fixture.server, model(&super::WORDS, &former)).await;
    for user in ["ada", "joan"] {
        assert!(!has(user, "effective.fresh", at_least(&token)).await, "{user}");
        assert!(!has(user, "effective.fresh", fully_consistent()).await, "{user}");
    }
    // A changed role of the organization.
    let request = pb::UpdateRoleRequest {
        organization: fixture.acme.clone(),
        name: "org:clerk".to_owned(),
        permissions: vec!["billing.pay".to_owned()],
        ..Default::default()
    };
    let changed = super::roles(&fixture.server).update_role(request).await.unwrap().into_inner();
    assert!(has("eve", "billing.pay", at_least(&changed.consistency_token)).await);
    assert!(!has("eve", "reports.view", at_least(&changed.consistency_token)).await);
}

#[tokio::test]
async fn a_batch_has_one_token_that_covers_every_answer() {
    let fixture = Fixture::new().await;
    let beta = fixture.server.user("ada").create("Beta").await;
    define(&fixture.server, &beta, "org:clerk", &CLERK).await;
    fixture.server.user("ada").add(&beta, "eve", "org:clerk").await;
    let items = vec![item(&fixture.acme, "eve"), item(&beta, "eve"), item(&beta, "nobody")];
    let batch = get_batch(&fixture, items, fully_consistent()).await;
    assert_eq!((batch.results.len(), batch.permission_sets.len()), (3, 2));
    // The answers with this token are as fresh.
    for organization in [&fixture.acme, &beta] {
        let answer = get(&fixture, organization, "eve", at_least(&batch.consistency_token)).await;
        assert_eq!(answer.permissions, CLERK);
    }
}

/// A database with 1 000 permissions of 100 characters, 20 organizations with 50 roles each, and a member with each role. No
/// two roles hold the same: each lacks one permission. `ada` owns every organization.
async fn large_database() -> Database {
    let database = Database::new().await;
    let word = |number: usize| format!("{:x<100}", format!("batch.large-{number:04}-"));
    let permissions: Vec<_> = (0..1_000).map(|number| json!({ "name": word(number) })).collect();
    let mut connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    access_model::lock(&mut transaction).await.unwrap();
    let cause = Cause {
        actor_kind: ActorKind::Operator,
        actor_id: "ops".to_owned(),
        actor_issuer: None,
        actor_via: None,
        reason: None,
        request_id: None,
    };
    let everything: Vec<String> = (0..1_000).map(word).collect();
    let model = json!({ "permissions": permissions, "roles": [{ "name": "everything", "permissions": everything }] });
    let role = DeploymentRoleRow { name: RoleName::parse("everything").unwrap(), kind: None, replaced_by: None };
    let at = access_model::apply(&mut transaction, &model, &[role], &cause).await.unwrap();
    access_model::write_to_heads(&mut transaction, at).await.unwrap();
    transaction.commit().await.unwrap();
    let id = "('10000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid";
    Bulk {
        users: "SELECT 'ada' AS id UNION ALL SELECT 'user-' || n FROM generate_series(0, 49) n",
        organizations: &format!(
            "SELECT {id} AS id, 'acme-' || n AS slug, 'ada' AS owner FROM generate_series(1, 20) n"
        ),
        memberships: &format!(
            "SELECT {id} AS id, 'ada' AS user_id FROM generate_series(1, 20) n
             UNION ALL SELECT {id}, 'user-' || m FROM generate_series(1, 20) n, generate_series(0, 49) m"
        ),
    }
    .insert(&database)
    .await;
    let roles = "INSERT INTO organization_roles (bucket, organization_id, name, title, description, permissions, revision,
                                                  create_time, update_time)
         SELECT o.bucket, o.id, 'org:role-' || m, '', '',
                ARRAY(SELECT p->>'name' FROM access_model, jsonb_array_elements(model->'permissions') p
                      WHERE p->>'name' NOT LIKE
                            'batch.large-' || lpad((o.number * 50 + m)::text, 4, '0') || '-%' ORDER BY 1), 1, now(), now()
         FROM (SELECT bucket, id, row_number() OVER (ORDER BY id) - 1 AS number FROM organizations) o,
              generate_series(0, 49) m;
         UPDATE memberships SET role = 'org:role-' || substring(user_id FROM 6),
                                organization_role = 'org:role-' || substring(user_id FROM 6) WHERE user_id <> 'ada'";
    sqlx::raw_sql(AssertSqlSafe(roles)).execute(&database.pool).await.unwrap();
    database
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_the_largest_sets_is_one_message_that_a_default_client_receives() {
    let server = Server::over(large_database().await, ServerSettings::default()).await;
    let mut backend = server.service(&[Scope::Check]);
    let organizations: Vec<String> = (1..=20).map(|n| format!("10000000-0000-4000-8000-{n:0>12}")).collect();
    let users = (0..50).map(|n| format!("user-{n}")).collect::<Vec<_>>();
    let different: Vec<_> =
        organizations.iter().flat_map(|organization| users.iter().map(|user| item(organization, user))).collect();
    let owners: Vec<_> = (0..1_000).map(|n| item(&organizations[n % 20], "ada")).collect();
    // The members of one organization alone from the primary: the roles of all of them have 100 MB there.
    for (items, consistency, sets, held, largest) in [
        (owners.clone(), fully_consistent(), 1, 1_000, 256 * 1024),
        (different[..50].to_vec(), fully_consistent(), 50, 999, 512 * 1024),
        (owners, None, 1, 1_000, 256 * 1024),
        (different, None, 1_000, 999, limits::PAGE_BYTES),
    ] {
        let request = pb::BatchGetEffectivePermissionsRequest { items, consistency };
        let mut answer = pb::BatchGetEffectivePermissionsResponse::default();
        until("each answer has the source that the request chooses", async || {
            let expected = if request.consistency.is_some() { Primary } else { Memory };
            answer = match backend.checks.batch_get_effective_permissions(request.clone()).await {
                Ok(answer) => answer.into_inner(),
                Err(_) if expected == Memory => return false,
                Err(status) => panic!("{status:?}"),
            };
            answer.results.iter().all(|result| result.source() == expected)
        })
        .await;
        assert!(answer.encoded_len() <= largest, "{sets} sets: {} bytes", answer.encoded_len());
        assert_eq!((answer.results.len(), answer.permission_sets.len()), (request.items.len(), sets));
        for (result, message) in answer.results.iter().enumerate() {
            let permissions = unpacked(&answer, result);
            let application = permissions.iter().filter(|word| word.starts_with("batch.")).count();
            assert_eq!((message.reason(), application), (Allowed, held));
            assert!(permissions.is_sorted());
        }
    }
}

#[tokio::test]
async fn users_and_other_services_get_no_answer() {
    let fixture = Fixture::new().await;
    let request = || pb::GetEffectivePermissionsRequest {
        organization: fixture.acme.clone(),
        user_id: "ada".to_owned(),
        consistency: None,
    };
    for (mut clients, expected) in [
        (fixture.server.user("ada"), "CALLER_NOT_ALLOWED"),
        (fixture.server.anonymous(), "CREDENTIAL_MISSING"),
        (fixture.server.service(&[Scope::ActAs]), "SCOPE_MISSING"),
    ] {
        let status = clients.checks.get_effective_permissions(request()).await.unwrap_err();
        assert_eq!(reason(&status), expected);
    }
    let mut manager = fixture.server.service(&[Scope::Manage]);
    assert_eq!(manager.checks.get_effective_permissions(request()).await.unwrap().into_inner().role, "owner");
}
