//! Access models that are refused: every violation has its place, and nothing changes.

use super::{apply, model};
use crate::harness::Server;
use crate::harness::dump::assert_same;
use roster::grpc::pb;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The fields that the error names, in its order.
fn violations(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_details_bad_request().unwrap();
    details.field_violations.into_iter().map(|violation| violation.field).collect()
}

fn permissions(count: usize) -> Vec<Value> {
    (0..count).map(|number| json!({ "name": format!("area.word-{number}") })).collect()
}

fn roles(count: usize, kind: &str) -> Vec<Value> {
    let name = |number| format!("role-{number}{kind}");
    (0..count).map(|number| json!({ "name": name(number), "kind": kind, "permissions": [] })).collect()
}

/// Models with one violation each, and its place.
fn bad_models() -> Vec<(Value, &'static str)> {
    let role = |name: &str, permissions: &[&str]| json!({ "roles": [{ "name": name, "permissions": permissions }] });
    let permission = |name: &str| json!({ "permissions": [{ "name": name }] });
    let (long, longer) = ("a".repeat(65), format!("a.{}", "b".repeat(99)));
    let many_kinds = (0..21).flat_map(|number| roles(if number < 20 { 100 } else { 1 }, &format!("k{number}")));
    let both = [roles(60, ""), roles(41, "vendor")].concat();
    let large =
        (0..1_000).map(|number| json!({ "name": format!("area.word-{number}"), "description": "é".repeat(480) }));
    vec![
        (permission(""), "model.permissions[0].name"),
        (permission("billing"), "model.permissions[0].name"),
        (permission("Billing.read"), "model.permissions[0].name"),
        (permission("a.b.c.d.e"), "model.permissions[0].name"),
        (permission("members.add"), "model.permissions[0].name"),
        (permission("roles.fly"), "model.permissions[0].name"),
        (permission("roster.read"), "model.permissions[0].name"),
        (permission(&longer), "model.permissions[0].name"),
        (
            json!({ "permissions": [{ "name": "a.b" }, { "name": "a.c" }, { "name": "a.b" }] }),
            "model.permissions[2].name",
        ),
        (json!({ "permissions": [{ "name": "a.b", "title": "é".repeat(201) }] }), "model.permissions[0].title"),
        (json!({ "permissions": [{ "name": "a.b", "description": "a\0" }] }), "model.permissions[0].description"),
        (role("", &[]), "model.roles[0].name"),
        (role("owner", &[]), "model.roles[0].name"),
        (role("org:auditor", &[]), "model.roles[0].name"),
        (role("Auditor", &[]), "model.roles[0].name"),
        (role(&long, &[]), "model.roles[0].name"),
        (role("a", &["billing.read"]), "model.roles[0].permissions[0]"),
        (role("a", &["members.add", "members.fly"]), "model.roles[0].permissions[1]"),
        (role("a", &["members.add", "members.add"]), "model.roles[0].permissions[1]"),
        (role("a", &[""]), "model.roles[0].permissions[0]"),
        (
            json!({ "roles": [{ "name": "a", "permissions": [] }, { "name": "a", "permissions": [] }] }),
            "model.roles[1].name",
        ),
        (json!({ "roles": [{ "name": "a", "kind": "Vendor", "permissions": [] }] }), "model.roles[0].kind"),
        (json!({ "roles": [{ "name": "admin", "kind": "vendor", "permissions": [] }] }), "model.roles[0].kind"),
        (
            json!({ "roles": [{ "name": "a", "description": "é".repeat(1001), "permissions": [] }] }),
            "model.roles[0].description",
        ),
        (role("admin", &["organization.read"]), "model.roles[0].permissions"),
        (role("member", &["organization.delete"]), "model.roles[0].permissions"),
        (json!({ "delegable": ["billing.read"] }), "model.delegable[0]"),
        (json!({ "delegable": ["members.add", "members.add"] }), "model.delegable[1]"),
        (json!({ "permissions": permissions(1_001) }), "model.permissions"),
        (json!({ "roles": roles(101, "") }), "model.roles"),
        (json!({ "roles": roles(101, "vendor") }), "model.roles"),
        (json!({ "roles": both }), "model.roles"),
        (json!({ "roles": many_kinds.collect::<Vec<_>>() }), "model.roles"),
        (json!({ "permissions": large.collect::<Vec<_>>() }), "model"),
    ]
}

/// A model with a role, and a member who holds it.
async fn in_use() -> (Server, Value) {
    let server = Server::start_generous().await;
    let mut operator = server.operator();
    let present = json!({
        "permissions": [{ "name": "billing.read" }],
        "roles": [{ "name": "accountant", "permissions": ["billing.read"] }, { "name": "clerk", "permissions": [] }],
    });
    operator.models.apply_access_model(apply(present.clone())).await.unwrap();
    let acme = operator.create("Acme").await;
    operator.add(&acme, "ada", "member").await;
    operator.add(&acme, "grace", "accountant").await;
    (server, present)
}

#[tokio::test]
async fn every_bad_model_is_refused_with_the_place_of_the_violation() {
    let (server, _) = in_use().await;
    let mut operator = server.operator();
    let before = server.database.dump().await;
    for (bad, place) in bad_models() {
        let context: String = bad.to_string().chars().take(200).collect();
        for validate_only in [false, true] {
            let request = pb::ApplyAccessModelRequest { validate_only, ..apply(bad.clone()) };
            let status = operator.models.apply_access_model(request).await.expect_err(&context);
            assert_eq!(violations(&status), [place], "{context}");
        }
    }
    assert_same(&server.database.dump().await, &before);
}

#[tokio::test]
async fn all_violations_are_named_up_to_twenty() {
    let (server, _) = in_use().await;
    let bad = json!({
        "permissions": [{ "name": "a" }, { "name": "b.c", "title": "a\0" }],
        "roles": [{ "name": "owner", "permissions": ["x.y", "b.c"] }],
        "delegable": ["b.c"],
    });
    let status = server.operator().models.apply_access_model(apply(bad)).await.unwrap_err();
    let places = [
        "model.delegable[0]",
        "model.permissions[0].name",
        "model.permissions[1].title",
        "model.roles[0].name",
        "model.roles[0].permissions[0]",
    ];
    assert_eq!(violations(&status), places);
    let many: Vec<Value> = (0..1_000).map(|_| json!({ "name": "A" })).collect();
    let status = server.operator().models.apply_access_model(apply(json!({ "permissions": many }))).await.unwrap_err();
    assert_eq!(violations(&status).len(), 20);
}

#[tokio::test]
async fn every_bad_replacement_is_refused() {
    let (server, present) = in_use().await;
    let mut operator = server.operator();
    let before = server.database.dump().await;
    let without = json!({ "permissions": [{ "name": "billing.read" }], "roles": [
        { "name": "clerk", "permissions": [] },
        { "name": "seller", "kind": "vendor", "permissions": [] },
    ] });
    for (json, former, new, place) in [
        (&without, "accountant", "gone", "replace_roles[accountant]"),
        (&without, "accountant", "owner", "replace_roles[accountant]"),
        (&without, "accountant", "accountant", "replace_roles[accountant]"),
        (&without, "accountant", "org:auditor", "replace_roles[accountant]"),
        (&without, "accountant", "", "replace_roles[accountant]"),
        // A role of another kind than the organization of the member.
        (&without, "accountant", "seller", "replace_roles[accountant]"),
        (&without, "clerk", "member", "replace_roles[clerk]"),
        (&without, "unknown", "member", "replace_roles[unknown]"),
        (&without, "admin", "member", "replace_roles"),
        (&without, "owner", "member", "replace_roles"),
        (&without, "org:a", "member", "replace_roles"),
        (&without, "A\0", "member", "replace_roles"),
        (&present, "accountant", "clerk", "replace_roles[accountant]"),
    ] {
        let replace_roles = [(former.to_owned(), new.to_owned())].into();
        let request = pb::ApplyAccessModelRequest { replace_roles, ..apply(json.clone()) };
        let status = operator.models.apply_access_model(request).await.unwrap_err();
        assert_eq!(violations(&status), [place], "{former} -> {new}");
    }
    let replace_roles = (0..2_001).map(|number| (format!("role-{number}"), "member".to_owned())).collect();
    let request = pb::ApplyAccessModelRequest { replace_roles, ..apply(without) };
    let status = operator.models.apply_access_model(request).await.unwrap_err();
    assert_eq!(violations(&status), ["replace_roles"]);
    assert_same(&server.database.dump().await, &before);
}

#[tokio::test]
async fn the_largest_model_is_accepted() {
    let server = Server::start_generous().await;
    let mut operator = server.operator();
    let words: Vec<String> = (0..1_000).map(|number| format!("area.w{number:x<90}")).collect();
    let declared: Vec<Value> = words.iter().map(|word| json!({ "name": word })).collect();
    let kinds = (0..20).flat_map(|kind| (0..100).map(move |number| (kind, number)));
    let roles = kinds.map(|(kind, number)| {
        json!({ "name": format!("role-{kind}-{number}"), "kind": format!("k{kind}"), "permissions": words[number..number + 3] })
    });
    let json = json!({ "permissions": declared, "roles": roles.collect::<Vec<_>>() });
    let mut request = tonic::Request::new(apply(json.clone()));
    request.set_timeout(std::time::Duration::from_mins(1));
    let applied = operator.models.apply_access_model(request).await.unwrap().into_inner();
    let plan = applied.plan.unwrap();
    assert_eq!((plan.permissions.len(), plan.roles.len(), applied.etag.as_str()), (1_000, 2_000, "1"));
    // More warnings than a message holds are counted.
    assert_eq!(plan.warnings.len(), 101);
    let read = operator.models.get_access_model(pb::GetAccessModelRequest {}).await.unwrap().into_inner();
    let mut expected = model(json);
    expected.permissions.sort_by(|one, other| one.name.cmp(&other.name));
    expected.roles.sort_by(|one, other| one.name.cmp(&other.name));
    for role in &mut expected.roles {
        role.permissions.sort();
    }
    assert!(read.model == Some(expected));
}
