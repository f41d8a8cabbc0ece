//! `ExplainCheck`: the answer of a check, and the facts behind it.

use super::{Fixture, apply, at_least, model};
use crate::harness::{assert_refused, set_role};
use pb::CheckReason::{
    Allowed, NotAMember, OrganizationInactive, OrganizationNotFound, RoleLacksPermission, RoleTooLow, UserInactive,
};
use pb::RoleOrigin::{BuiltIn, Deployment, Organization};
use pb::explain_check_request::Question;
use roster::grpc::pb;
use std::collections::BTreeMap;
use tonic::Code;

fn request(organization: &str, user: &str, question: Option<Question>) -> pb::ExplainCheckRequest {
    pb::ExplainCheckRequest {
        organization: organization.to_owned(),
        user_id: user.to_owned(),
        question,
        consistency: None,
    }
}

async fn explain(
    fixture: &Fixture,
    organization: &str,
    user: &str,
    question: Option<Question>,
) -> pb::ExplainCheckResponse {
    let request = request(organization, user, question);
    fixture.backend.checks.clone().explain_check(request).await.unwrap().into_inner()
}

#[expect(clippy::unnecessary_wraps, reason = "the field of the request is optional")]
fn permission(word: &str) -> Option<Question> {
    Some(Question::Permission(word.to_owned()))
}

#[expect(clippy::unnecessary_wraps, reason = "the field of the request is optional")]
fn role(name: &str) -> Option<Question> {
    Some(Question::Role(name.to_owned()))
}

/// The revision of the organization that the latest change of a membership made.
async fn revision_of(fixture: &Fixture, organization: &str, user: &str) -> i64 {
    let revision = "SELECT revision FROM memberships WHERE organization_id = $1::uuid AND user_id = $2";
    sqlx::query_scalar(revision).bind(organization).bind(user).fetch_one(&fixture.server.database.pool).await.unwrap()
}

#[tokio::test]
async fn the_path_names_the_role_its_definition_and_since_when_the_user_has_it() {
    let fixture = Fixture::new().await;
    let role_revision = "SELECT revision FROM organization_roles WHERE organization_id = $1::uuid";
    let pool = &fixture.server.database.pool;
    let clerk: i64 = sqlx::query_scalar(role_revision).bind(&fixture.acme).fetch_one(pool).await.unwrap();
    for (user, role, origin, origin_revision) in [
        ("ada", "owner", BuiltIn, 1),
        ("grace", "admin", BuiltIn, 1),
        ("alan", "member", BuiltIn, 1),
        ("joan", "accountant", Deployment, 1),
        ("max", "auditor", Deployment, 1),
        ("eve", "org:clerk", Organization, clerk),
    ] {
        let answer = explain(&fixture, &fixture.acme, user, None).await;
        let result = answer.result.clone().unwrap();
        assert_eq!((result.allowed, result.reason(), result.role.as_str()), (true, Allowed, role), "{user}");
        assert_eq!(result.source(), pb::CheckSource::Primary);
        let path = answer.role.clone().unwrap();
        assert_eq!(
            (path.role.as_str(), path.origin(), path.origin_revision),
            (role, origin, origin_revision),
            "{user}"
        );
        assert_eq!(path.membership_revision, revision_of(&fixture, &fixture.acme, user).await, "{user}");
        assert!(path.membership_revision <= result.revision && path.replaced_by.is_empty(), "{user}");
        assert!(answer.role_suffices);
        let states = (answer.organization_state(), answer.user_state());
        assert_eq!(states, (pb::OrganizationState::Active, pb::UserState::Active), "{user}");
    }
    // The answer covers its own token.
    let answer = explain(&fixture, "acme", "eve", None).await.result.unwrap();
    let again = pb::ExplainCheckRequest {
        consistency: at_least(&answer.consistency_token),
        ..request(&fixture.acme, "eve", None)
    };
    let again = fixture.backend.checks.clone().explain_check(again).await.unwrap().into_inner();
    assert_eq!(again.result.unwrap().revision, answer.revision);
}

#[tokio::test]
async fn every_state_in_the_way_is_named_beside_what_the_role_would_allow() {
    use pb::{OrganizationState as Place, UserState as User};
    let fixture = Fixture::new().await;
    let (acme, closed, gone) = (fixture.acme.as_str(), fixture.closed.as_str(), fixture.gone.as_str());
    for (organization, user, question, reason, suffices, states) in [
        (acme, "eve", permission("billing.read"), Allowed, true, (Place::Active, User::Active)),
        (acme, "eve", permission("billing.pay"), RoleLacksPermission, false, (Place::Active, User::Active)),
        (acme, "eve", role("org:clerk"), Allowed, true, (Place::Active, User::Active)),
        (acme, "eve", role("member"), RoleTooLow, false, (Place::Active, User::Active)),
        (acme, "joan", role("auditor"), RoleTooLow, false, (Place::Active, User::Active)),
        (acme, "ada", role("auditor"), Allowed, true, (Place::Active, User::Active)),
        (acme, "ivan", permission("billing.pay"), UserInactive, true, (Place::Active, User::Inactive)),
        (acme, "ivan", permission("reports.view"), UserInactive, false, (Place::Active, User::Inactive)),
        (acme, "nobody", None, NotAMember, false, (Place::Active, User::Active)),
        (closed, "eve", permission("billing.read"), OrganizationInactive, true, (Place::Inactive, User::Active)),
        (closed, "ivan", permission("billing.pay"), OrganizationInactive, true, (Place::Inactive, User::Inactive)),
        (gone, "eve", permission("billing.read"), OrganizationNotFound, false, (Place::Unspecified, User::Active)),
        ("nowhere", "ivan", None, OrganizationNotFound, false, (Place::Unspecified, User::Inactive)),
    ] {
        let answer = explain(&fixture, organization, user, question).await;
        let result = answer.result.clone().unwrap();
        let context = format!("{organization} {user} {answer:?}");
        assert_eq!((result.reason(), result.allowed), (reason, reason == Allowed), "{context}");
        assert_eq!(answer.role_suffices, suffices, "{context}");
        assert_eq!((answer.organization_state(), answer.user_state()), states, "{context}");
        assert_eq!(answer.role.map(|path| path.role).unwrap_or_default(), result.role);
    }
    // Operators see deleted organizations.
    let deleted = request(gone, "eve", permission("billing.read"));
    let deleted = fixture.server.operator().checks.explain_check(deleted).await.unwrap().into_inner();
    assert_eq!((deleted.organization_state(), deleted.role_suffices), (Place::Deleted, true));
    assert_eq!(deleted.role.unwrap().role, "org:clerk");
    assert_eq!(deleted.result.unwrap().reason(), OrganizationNotFound);
}

#[tokio::test]
async fn the_revision_of_the_definition_follows_the_model() {
    let fixture = Fixture::new().await;
    let roles: [(&str, &[&str]); 2] = [("accountant", &["reports.view"]), ("auditor@team", &["reports.view"])];
    apply(&fixture.server, model(&super::WORDS, &roles)).await;
    let answer = explain(&fixture, &fixture.acme, "joan", permission("billing.pay")).await;
    assert_eq!(answer.result.unwrap().reason(), RoleLacksPermission);
    assert_eq!(answer.role.unwrap().origin_revision, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_is_of_one_state_while_the_role_changes() {
    let fixture = Fixture::new().await;
    let mut ada = fixture.server.user("ada");
    let acme = fixture.acme.clone();
    let writes = tokio::spawn(async move {
        for role in ["admin", "accountant", "org:clerk", "member"].into_iter().cycle().take(40) {
            ada.organizations.update_member(set_role(&acme, "alan", role)).await.unwrap();
        }
    });
    let mut seen = BTreeMap::new();
    while !writes.is_finished() {
        let explained = fixture.backend.checks.clone().explain_check(request(&fixture.acme, "alan", None)).await;
        let answer = match explained {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                assert_refused(Err::<(), _>(status), Code::Aborted, "CONFLICT");
                continue;
            }
        };
        let (result, path) = (answer.result.unwrap(), answer.role.unwrap());
        assert_eq!((&result.role, result.revision), (&path.role, path.membership_revision));
        seen.insert(result.revision, result.role);
    }
    writes.await.unwrap();
    assert!(seen.len() > 3, "{seen:?}");
}

#[tokio::test]
async fn what_does_not_exist_is_an_invalid_request() {
    let fixture = Fixture::new().await;
    for question in [permission("explain.undeclared"), permission("members.fly"), role("no-such-role"), role("King")] {
        let request = request(&fixture.acme, "eve", question);
        let answer = fixture.backend.checks.clone().explain_check(request).await;
        assert_refused(answer, Code::InvalidArgument, "INVALID_REQUEST");
    }
    // An organization without the role has no member who holds it.
    let answer = explain(&fixture, &fixture.acme, "ada", role("org:no-such-role")).await;
    assert!(!answer.result.unwrap().allowed);
}
