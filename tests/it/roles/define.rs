//! The roles of organizations over the network: definitions within the ceiling, deletion, lists.

use super::{apply, metadata, run};
use crate::harness::dump::assert_same;
use crate::harness::server::Clients;
use crate::harness::{Server, assert_refused, set_role};
use roster::grpc::pb;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

pub(super) fn texts(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(super) fn create(organization: &str, name: &str, permissions: &[&str]) -> pb::CreateRoleRequest {
    pb::CreateRoleRequest {
        organization: organization.to_owned(),
        name: name.to_owned(),
        permissions: texts(permissions),
        ..Default::default()
    }
}

pub(super) fn delete(organization: &str, name: &str) -> pb::DeleteRoleRequest {
    pb::DeleteRoleRequest { organization: organization.to_owned(), name: name.to_owned(), ..Default::default() }
}

pub(super) fn update(organization: &str, name: &str, permissions: &[&str]) -> pb::UpdateRoleRequest {
    pb::UpdateRoleRequest {
        organization: organization.to_owned(),
        name: name.to_owned(),
        permissions: texts(permissions),
        update_mask: Some(prost_types::FieldMask { paths: vec!["permissions".to_owned()] }),
        ..Default::default()
    }
}

pub(super) async fn get(caller: &mut Clients, organization: &str, name: &str) -> Result<pb::Role, Status> {
    let request = pb::GetRoleRequest { organization: organization.to_owned(), name: name.to_owned() };
    caller.roles.get_role(request).await.map(|answer| answer.into_inner().role.unwrap())
}

/// The fields that the error names.
pub(super) fn violations(status: &Status) -> Vec<String> {
    let details = status.get_details_bad_request().unwrap_or_else(|| panic!("{status:?}"));
    details.field_violations.into_iter().map(|violation| violation.field).collect()
}

/// A server with a model, and an organization of `ada` with the admin `grace` and the member `alan`.
pub(super) async fn fixture() -> (Server, String) {
    let server = Server::start_generous().await;
    let model = json!({
        "permissions": [{ "name": "billing.read" }, { "name": "billing.pay" }, { "name": "stock.read" }],
        "roles": [
            { "name": "accountant", "title": "Accountant", "permissions": ["billing.read"] },
            { "name": "seller", "kind": "vendor", "permissions": [] },
        ],
        "delegable": ["roles.manage", "roles.read", "members.list", "members.add", "members.update", "organization.read"],
    });
    server.operator().models.apply_access_model(apply(model)).await.unwrap();
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "admin").await;
    ada.add(&acme, "alan", "member").await;
    (server, acme)
}

#[tokio::test]
async fn a_role_is_defined_changed_and_deleted_with_its_events() {
    let (server, acme) = fixture().await;
    let mut ada = server.user("ada");
    let request = pb::CreateRoleRequest {
        title: "Auditor".to_owned(),
        description: "Reads.\nNothing else.".to_owned(),
        ..create(&acme, "org:auditor", &["stock.read", "billing.read", "members.list"])
    };
    let created = ada.roles.create_role(request.clone()).await.unwrap().into_inner();
    let role = created.role.unwrap();
    assert_eq!(role.permissions, ["billing.read", "members.list", "stock.read"]);
    assert_eq!((role.origin(), role.organization.as_str()), (pb::RoleOrigin::Organization, acme.as_str()));
    assert!(!created.consistency_token.is_empty() && role.create_time == role.update_time && !role.etag.is_empty());
    assert_eq!(get(&mut ada, &acme, "org:auditor").await.unwrap(), role);
    assert_refused(ada.roles.create_role(request).await, Code::AlreadyExists, "ROLE_EXISTS");

    let changed = pb::UpdateRoleRequest { etag: role.etag.clone(), ..update(&acme, "org:auditor", &["stock.read"]) };
    let after = ada.roles.update_role(changed.clone()).await.unwrap().into_inner().role.unwrap();
    assert_eq!((after.permissions.as_slice(), after.title.as_str()), (&["stock.read".to_owned()][..], "Auditor"));
    assert_ne!(after.etag, role.etag);
    assert_refused(ada.roles.update_role(changed).await, Code::Aborted, "ETAG_MISMATCH");
    // The same content again changes nothing.
    let same = ada.roles.update_role(update(&acme, "org:auditor", &["stock.read"])).await.unwrap().into_inner();
    assert_eq!(same.role.unwrap(), after);
    // Without a mask, the fields that are not empty change.
    let request =
        pb::UpdateRoleRequest { title: "Reader".to_owned(), update_mask: None, ..update(&acme, "org:auditor", &[]) };
    let titled = ada.roles.update_role(request).await.unwrap().into_inner().role.unwrap();
    assert_eq!((titled.title.as_str(), titled.permissions.len(), titled.description.lines().count()), ("Reader", 1, 2));

    let stale = pb::DeleteRoleRequest { etag: after.etag, ..delete(&acme, "org:auditor") };
    assert_refused(ada.roles.delete_role(stale).await, Code::Aborted, "ETAG_MISMATCH");
    let deleted = ada.roles.delete_role(delete(&acme, "org:auditor")).await.unwrap().into_inner();
    assert_eq!((deleted.role.unwrap(), deleted.moved_members), (titled, 0));
    assert_refused(ada.roles.delete_role(delete(&acme, "org:auditor")).await, Code::NotFound, "ROLE_NOT_FOUND");
    assert_refused(get(&mut ada, &acme, "org:auditor").await, Code::NotFound, "ROLE_NOT_FOUND");

    let types = texts(&["role.created", "role.updated", "role.deleted"]);
    let request = pb::ListEventsRequest { organization: acme, types, ..Default::default() };
    let events = ada.events.list_events(request).await.unwrap().into_inner().events;
    let types: Vec<_> = events.iter().map(|event| event.r#type.as_str()).collect();
    assert_eq!(types, ["role.deleted", "role.updated", "role.updated", "role.created"]);
    let keys =
        |values: &Option<prost_types::Struct>| values.as_ref().unwrap().fields.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        (keys(&events[1].old), keys(&events[2].new)),
        (texts(&["name", "title"]), texts(&["name", "permissions"]))
    );
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_role_holds_what_the_model_allows() {
    let (server, acme) = fixture().await;
    let mut ada = server.user("ada");
    // The first call with a token that was issued in a later second stores that second.
    ada.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    let before = server.database.dump().await;
    for (words, places) in [
        (&["billing.read", "billing.gone"][..], &["permissions[1]"][..]),
        (&["organization.delete"], &["permissions[0]"]),
        (&["x.y", "members.list", "ownership.transfer"], &["permissions[0]", "permissions[2]"]),
        (&["billing.read", "billing.read"], &["permissions[1]"]),
        (&["billing"], &["permissions[0]"]),
        (&["members.fly"], &["permissions[0]"]),
    ] {
        let status = ada.roles.create_role(create(&acme, "org:a", words)).await.unwrap_err();
        assert_eq!(violations(&status), places, "{words:?}");
    }
    let many: Vec<String> = (0..1_001).map(|number| format!("a.b{number}")).collect();
    let request = pb::CreateRoleRequest { permissions: many, ..create(&acme, "org:a", &[]) };
    assert_eq!(violations(&ada.roles.create_role(request).await.unwrap_err()), ["permissions"]);
    let dry = pb::CreateRoleRequest { validate_only: true, ..create(&acme, "org:a", &["billing.read"]) };
    let role = ada.roles.create_role(dry).await.unwrap().into_inner();
    assert!(role.consistency_token.is_empty() && role.role.is_some());
    assert_same(&server.database.dump().await, &before);
}

#[tokio::test]
async fn nobody_defines_or_changes_a_role_beyond_their_own_permissions() {
    let (server, acme) = fixture().await;
    let (mut ada, mut alan) = (server.user("ada"), server.user("alan"));
    let keeper = ["roles.manage", "roles.read", "members.list", "members.update", "organization.read", "billing.read"];
    ada.roles.create_role(create(&acme, "org:keeper", &keeper)).await.unwrap();
    ada.roles.create_role(create(&acme, "org:payer", &["billing.pay"])).await.unwrap();
    ada.roles.create_role(create(&acme, "org:reader", &["billing.read"])).await.unwrap();
    ada.organizations.update_member(set_role(&acme, "alan", "org:keeper")).await.unwrap();
    ada.add(&acme, "joan", "org:reader").await;
    // The first call of a user stores the profile.
    alan.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    let before = server.database.dump().await;
    let denied = |status: Status, role: &str| {
        assert_eq!(metadata(&status, "role"), role);
        assert_refused(Err::<(), _>(status), Code::PermissionDenied, "ROLE_ABOVE_CALLER");
    };
    // Defines more than the caller holds.
    denied(alan.roles.create_role(create(&acme, "org:more", &["stock.read"])).await.unwrap_err(), "org:more");
    // Adds to a role; takes from a role what the caller lacks; adds to the caller's own role.
    denied(alan.roles.update_role(update(&acme, "org:reader", &["billing.pay"])).await.unwrap_err(), "org:reader");
    denied(alan.roles.update_role(update(&acme, "org:payer", &[])).await.unwrap_err(), "org:payer");
    denied(alan.roles.update_role(update(&acme, "org:keeper", &["stock.read"])).await.unwrap_err(), "org:keeper");
    // Deletes a role beyond the caller, and replaces one by a role beyond the caller.
    denied(alan.roles.delete_role(delete(&acme, "org:payer")).await.unwrap_err(), "org:payer");
    for beyond in ["org:payer", "admin"] {
        let request = pb::DeleteRoleRequest { replace_with: beyond.to_owned(), ..delete(&acme, "org:reader") };
        denied(alan.roles.delete_role(request).await.unwrap_err(), beyond);
    }
    assert_same(&server.database.dump().await, &before);
    // Within the caller's permissions.
    alan.roles.create_role(create(&acme, "org:new", &["billing.read", "roles.manage"])).await.unwrap();
    alan.roles.update_role(update(&acme, "org:reader", &["billing.read", "members.list"])).await.unwrap();
    let request = pb::DeleteRoleRequest { replace_with: "org:new".to_owned(), ..delete(&acme, "org:reader") };
    assert_eq!(alan.roles.delete_role(request).await.unwrap().into_inner().moved_members, 1);
    // An admin holds none of the application's permissions and may not manage roles.
    let refused = server.user("grace").roles.create_role(create(&acme, "org:x", &[])).await;
    assert_refused(refused, Code::PermissionDenied, "ROLE_LACKS_PERMISSION");
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_change_that_ends_the_callers_own_right_is_answered_again() {
    let (server, acme) = fixture().await;
    let (mut ada, mut alan) = (server.user("ada"), server.user("alan"));
    for end in ["update", "delete"] {
        ada.roles.create_role(create(&acme, "org:keeper", &["roles.manage"])).await.unwrap();
        ada.organizations.update_member(set_role(&acme, "alan", "org:keeper")).await.unwrap();
        let request_id = roster::random::uuid().to_string();
        if end == "update" {
            let request = pb::UpdateRoleRequest { request_id, ..update(&acme, "org:keeper", &[]) };
            let first = alan.roles.update_role(request.clone()).await.unwrap().into_inner();
            assert_eq!(alan.roles.update_role(request).await.unwrap().into_inner(), first);
            let refused = alan.roles.update_role(update(&acme, "org:keeper", &[])).await;
            assert_refused(refused, Code::PermissionDenied, "ROLE_LACKS_PERMISSION");
            ada.organizations.update_member(set_role(&acme, "alan", "member")).await.unwrap();
            ada.roles.delete_role(delete(&acme, "org:keeper")).await.unwrap();
        } else {
            ada.roles.create_role(create(&acme, "org:none", &[])).await.unwrap();
            let replace_with = "org:none".to_owned();
            let request = pb::DeleteRoleRequest { request_id, replace_with, ..delete(&acme, "org:keeper") };
            let first = alan.roles.delete_role(request.clone()).await.unwrap().into_inner();
            assert_eq!((first.moved_members, alan.roles.delete_role(request).await.unwrap().into_inner()), (1, first));
        }
    }
}

#[tokio::test]
async fn a_role_that_members_hold_is_deleted_only_with_a_replacement() {
    let (server, acme) = fixture().await;
    let mut ada = server.user("ada");
    ada.roles.create_role(create(&acme, "org:auditor", &["billing.read"])).await.unwrap();
    for number in 0..3 {
        ada.add(&acme, &format!("user-{number}"), "org:auditor").await;
    }
    let status = ada.roles.delete_role(delete(&acme, "org:auditor")).await.unwrap_err();
    assert_eq!((metadata(&status, "roles"), metadata(&status, "members")), ("org:auditor".to_owned(), "3".to_owned()));
    assert_refused(Err::<(), _>(status), Code::FailedPrecondition, "ROLE_IN_USE");
    let replace = |name: &str| pb::DeleteRoleRequest { replace_with: name.to_owned(), ..delete(&acme, "org:auditor") };
    // A role of another kind, roles that do not exist, the role itself, and the owner.
    for bad in ["seller", "org:gone", "gone", "org:auditor", "owner"] {
        let status = ada.roles.delete_role(replace(bad)).await.unwrap_err();
        assert_eq!(violations(&status), ["replace_with"], "{bad}");
    }
    let deleted = ada.roles.delete_role(replace("accountant")).await.unwrap().into_inner();
    assert_eq!(deleted.moved_members, 3);
    let request = pb::ListMembersRequest { organization: acme, role: "accountant".to_owned(), ..Default::default() };
    assert_eq!(ada.organizations.list_members(request).await.unwrap().into_inner().members.len(), 3);
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn an_organization_defines_fifty_roles() {
    let (server, acme) = fixture().await;
    let mut ada = server.user("ada");
    for number in 0..50 {
        ada.roles.create_role(create(&acme, &format!("org:role-{number}"), &[])).await.unwrap();
    }
    let refused = ada.roles.create_role(create(&acme, "org:one-more", &[])).await.unwrap_err();
    assert_eq!(metadata(&refused, "limit"), "roles_per_organization");
    assert_refused(Err::<(), _>(refused), Code::ResourceExhausted, "QUOTA_EXCEEDED");
    ada.roles.delete_role(delete(&acme, "org:role-7")).await.unwrap();
    ada.roles.create_role(create(&acme, "org:one-more", &[])).await.unwrap();
    // Another organization has its own.
    let beta = ada.create("Beta").await;
    ada.roles.create_role(create(&beta, "org:role-1", &[])).await.unwrap();
}

#[tokio::test]
async fn a_list_has_every_role_that_exists_for_the_organization() {
    use pb::RoleOrigin::{BuiltIn, Deployment, Organization};
    let (server, acme) = fixture().await;
    let (mut ada, mut grace) = (server.user("ada"), server.user("grace"));
    let beta = ada.create("Beta").await;
    ada.roles.create_role(create(&beta, "org:hidden", &[])).await.unwrap();
    for name in ["org:b", "org:a"] {
        ada.roles.create_role(create(&acme, name, &["billing.read"])).await.unwrap();
    }
    let (mut token, mut roles) = (String::new(), Vec::new());
    loop {
        let request = pb::ListRolesRequest { organization: acme.clone(), page_size: 2, page_token: token };
        let page = grace.roles.list_roles(request).await.unwrap().into_inner();
        assert!(page.roles.len() <= 2);
        roles.extend(page.roles);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let listed: Vec<_> = roles.iter().map(|role| (role.name.as_str(), role.origin())).collect();
    let expected = [
        ("accountant", Deployment),
        ("admin", BuiltIn),
        ("member", BuiltIn),
        ("org:a", Organization),
        ("org:b", Organization),
        ("owner", BuiltIn),
    ];
    assert_eq!(listed, expected);
    for role in roles {
        assert_eq!(get(&mut grace, &acme, &role.name).await.unwrap(), role);
    }
    let owner = get(&mut grace, &acme, "owner").await.unwrap();
    assert!(["billing.pay", "ownership.transfer"].iter().all(|word| owner.permissions.contains(&(*word).to_owned())));
    assert_eq!(get(&mut grace, &acme, "accountant").await.unwrap().title, "Accountant");
    for gone in ["seller", "org:hidden", "nothing"] {
        assert_refused(get(&mut grace, &acme, gone).await, Code::NotFound, "ROLE_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_role_of_a_newer_release_is_managed_by_callers_with_every_permission_only() {
    let (server, acme) = fixture().await;
    let (mut ada, mut alan) = (server.user("ada"), server.user("alan"));
    ada.roles.create_role(create(&acme, "org:keeper", &["roles.manage"])).await.unwrap();
    ada.organizations.update_member(set_role(&acme, "alan", "org:keeper")).await.unwrap();
    ada.roles.create_role(create(&acme, "org:new", &[])).await.unwrap();
    let newer = "UPDATE organization_roles SET permissions = ARRAY['roster.manage'] WHERE name = 'org:new'";
    run(&server.database, newer).await;
    let refused = alan.roles.delete_role(delete(&acme, "org:new")).await;
    assert_refused(refused, Code::Unavailable, "VALUE_UNKNOWN");
    ada.roles.delete_role(delete(&acme, "org:new")).await.unwrap();
}
