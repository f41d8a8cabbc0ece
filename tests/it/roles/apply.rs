//! The access model over the network: its plan, what it refuses, and its events.

use super::{apply, connect, metadata, name, run, until_waiting};
use crate::harness::dump::assert_same;
use crate::harness::server::Clients;
use crate::harness::{Server, add, assert_refused};
use roster::domain::change::{ChangeDetail, LogEntry};
use roster::domain::{OrganizationId, Scope};
use roster::grpc::pb;
use roster::store::{log, organizations};
use serde_json::{Value, json};
use sqlx::Connection;
use std::collections::BTreeMap;
use tonic::{Code, Status};

async fn put(caller: &mut Clients, json: Value) -> Result<pb::ApplyAccessModelResponse, Status> {
    caller.models.apply_access_model(apply(json)).await.map(tonic::Response::into_inner)
}

async fn present(caller: &mut Clients) -> pb::GetAccessModelResponse {
    caller.models.get_access_model(pb::GetAccessModelRequest {}).await.unwrap().into_inner()
}

async fn role_of(caller: &mut Clients, organization: &str, user: &str) -> String {
    let request = pb::GetMemberRequest { organization: organization.to_owned(), user_id: user.to_owned() };
    caller.organizations.get_member(request).await.unwrap().into_inner().member.unwrap().role
}

/// The billing application.
fn billing() -> Value {
    json!({
        "permissions": [{ "name": "billing.read", "title": "Read bills" }, { "name": "billing.pay" }],
        "roles": [
            { "name": "accountant", "permissions": ["billing.pay", "billing.read"] },
            { "name": "seller", "kind": "vendor", "permissions": ["billing.read"] },
        ],
        "delegable": ["members.list"],
    })
}

#[tokio::test]
async fn a_model_is_applied_and_the_plan_says_what_it_changes() {
    let server = Server::start().await;
    let mut backend = server.service(&[Scope::Model]);
    let empty = present(&mut backend).await;
    assert_eq!((empty.etag.as_str(), empty.update_time, empty.roles_enabled), ("0", None, true));
    assert_eq!(empty.model, Some(pb::AccessModel::default()));

    let applied = put(&mut backend, billing()).await.unwrap();
    let plan = applied.plan.unwrap();
    let change = pb::ModelChange::Added.into();
    let names: Vec<_> =
        plan.permissions.iter().map(|permission| (permission.name.as_str(), permission.change)).collect();
    assert_eq!(names, [("billing.pay", change), ("billing.read", change)]);
    assert_eq!(plan.roles[0].gained, ["billing.pay", "billing.read"]);
    assert_eq!(
        (plan.newly_delegable, applied.etag.as_str(), applied.moved_members),
        (vec!["members.list".to_owned()], "1", 0)
    );
    // `admin` holds neither permission, so admins cannot manage these roles.
    assert_eq!(plan.warnings.len(), 2);
    assert!(plan.warnings[0].contains("accountant") && plan.warnings[0].contains("billing.pay"), "{:?}", plan.warnings);
    // Every caller with a credential reads it.
    let read = present(&mut server.user("ada")).await;
    assert_eq!((read.etag.as_str(), read.update_time.is_some()), ("1", true));
    let model = read.model.unwrap();
    assert_eq!(model.permissions[1].title, "Read bills");
    assert_eq!(model.roles[1].kind, "vendor");

    // The same model again changes nothing.
    let same = put(&mut backend, billing()).await.unwrap();
    assert_eq!(
        (same.etag.as_str(), same.plan),
        ("1", Some(pb::AccessModelPlan { warnings: plan.warnings, ..Default::default() }))
    );
    assert!(!same.consistency_token.is_empty());

    // A changed role counts its members, by organization.
    let mut operator = server.operator();
    for number in 0..3 {
        let acme = operator.create(&format!("Acme {number}")).await;
        operator.add(&acme, "ada", "member").await;
        operator.add(&acme, "grace", "accountant").await;
        operator.add(&acme, "alan", "accountant").await;
    }
    let mut changed = billing();
    changed["roles"][0] = json!({ "name": "accountant", "permissions": ["billing.read", "members.list"] });
    changed["permissions"][0]["title"] = json!("Read all bills");
    let plan = put(&mut backend, changed).await.unwrap().plan.unwrap();
    let expected = pb::RoleChange {
        name: "accountant".to_owned(),
        change: pb::ModelChange::Changed.into(),
        gained: vec!["members.list".to_owned()],
        lost: vec!["billing.pay".to_owned()],
        members: 6,
        organizations: 3,
        ..Default::default()
    };
    assert_eq!(plan.roles, [expected]);
    assert_eq!((plan.permissions.len(), plan.permissions[0].change), (1, pb::ModelChange::Changed.into()));
}

#[tokio::test]
async fn a_role_that_members_hold_is_removed_only_with_a_replacement() {
    let server = Server::start().await;
    let mut operator = server.operator();
    put(&mut operator, billing()).await.unwrap();
    let mut organizations = Vec::new();
    for number in 0..3 {
        let organization = operator.create(&format!("Acme {number}")).await;
        operator.add(&organization, "ada", "member").await;
        operator.add(&organization, "grace", "accountant").await;
        organizations.push(organization);
    }
    operator.add(&organizations[0], "alan", "accountant").await;
    let before = server.database.dump().await;
    let mut without = billing();
    without["roles"].as_array_mut().unwrap().remove(0);
    for validate_only in [false, true] {
        let request = pb::ApplyAccessModelRequest { validate_only, ..apply(without.clone()) };
        let status = operator.models.apply_access_model(request).await.unwrap_err();
        assert_eq!(
            (metadata(&status, "roles"), metadata(&status, "members")),
            ("accountant".to_owned(), "4".to_owned())
        );
        assert!(status.message().contains("accountant: 4"), "{status:?}");
        assert_refused(Err::<(), _>(status), Code::FailedPrecondition, "ROLE_IN_USE");
    }
    assert_same(&server.database.dump().await, &before);

    let mut with = without.clone();
    with["roles"].as_array_mut().unwrap().push(json!({ "name": "clerk", "permissions": ["billing.read"] }));
    let request = pb::ApplyAccessModelRequest {
        replace_roles: [("accountant".to_owned(), "clerk".to_owned())].into(),
        reason: "a new name".to_owned(),
        ..apply(with)
    };
    let dry = pb::ApplyAccessModelRequest { validate_only: true, ..request.clone() };
    let dry = operator.models.apply_access_model(dry).await.unwrap().into_inner();
    assert_same(&server.database.dump().await, &before);
    let applied = operator.models.apply_access_model(request).await.unwrap().into_inner();
    assert_eq!((&applied.plan, &applied.etag, applied.moved_members), (&dry.plan, &dry.etag, 4));
    let plan = applied.plan.unwrap();
    let replaced = plan.roles.iter().find(|change| change.name == "accountant").unwrap();
    assert_eq!((replaced.members, replaced.organizations, replaced.replaced_by.as_str()), (4, 3, "clerk"));
    for organization in &organizations {
        assert_eq!(role_of(&mut operator, organization, "grace").await, "clerk");
    }
    // Each move is an event of its organization, with the reason of the request.
    let request = pb::ListEventsRequest {
        organization: organizations[0].clone(),
        types: vec!["member.updated".to_owned()],
        ..Default::default()
    };
    let events = operator.events.list_events(request).await.unwrap().into_inner().events;
    let moved: Vec<_> = events.iter().map(|event| (event.user_id.as_str(), event.reason.as_str())).collect();
    assert_eq!(moved, [("grace", "a new name"), ("alan", "a new name")]);
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_role_taken_from_a_kind_is_in_use_by_members_of_other_kinds_only() {
    let server = Server::start().await;
    let mut operator = server.operator();
    put(&mut operator, billing()).await.unwrap();
    let mut create = async |name: &str, kind: &str| {
        let request = pb::CreateOrganizationRequest { kind: kind.to_owned(), ..crate::harness::organization(name) };
        let created = operator.organizations.create_organization(request).await.unwrap().into_inner();
        let id = created.organization.unwrap().id;
        operator.add(&id, "ada", "member").await;
        operator.add(&id, "grace", "accountant").await;
        id
    };
    let (vendor, other) = (create("Vendor", "vendor").await, create("Other", "account").await);
    let mut taken = billing();
    taken["roles"][0]["kind"] = json!("vendor");
    let status = put(&mut operator, taken.clone()).await.unwrap_err();
    assert_eq!(metadata(&status, "members"), "1");
    let replace_roles = [("accountant".to_owned(), "member".to_owned())].into();
    let request = pb::ApplyAccessModelRequest { replace_roles, ..apply(taken.clone()) };
    let applied = operator.models.apply_access_model(request).await.unwrap().into_inner();
    assert_eq!(applied.moved_members, 1);
    assert_eq!(role_of(&mut operator, &vendor, "grace").await, "accountant");
    assert_eq!(role_of(&mut operator, &other, "grace").await, "member");
    let refused = operator.organizations.add_member(add(&other, "alan", "accountant")).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_REQUEST");
    operator.add(&vendor, "alan", "accountant").await;
    // From one kind to another.
    taken["roles"][0]["kind"] = json!("account");
    assert_eq!(metadata(&put(&mut operator, taken).await.unwrap_err(), "members"), "2");
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn more_members_than_one_transaction_moves_are_refused() {
    let server = Server::start().await;
    let mut operator = server.operator();
    put(&mut operator, billing()).await.unwrap();
    let acme = operator.create("Acme").await;
    operator.add(&acme, "ada", "member").await;
    let members = |first: usize, last: usize| {
        format!(
            "INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email_verified, profile_issued_at, revision,
                                create_time, update_time)
             SELECT user_bucket_of(id), id, 'ACTIVE', false, false, 0, 1, now(), now()
             FROM generate_series({first}, {last}) n, LATERAL (SELECT 'user-' || n AS id) i;
             INSERT INTO memberships (bucket, organization_id, user_id, role, deployment_role, attributes, revision,
                                      create_time, update_time)
             SELECT organization_bucket_of('{acme}'), '{acme}', 'user-' || n, 'accountant', 'accountant', '{{}}', 1, now(), now()
             FROM generate_series({first}, {last}) n"
        )
    };
    run(&server.database, &members(1, 10_001)).await;
    let request = || pb::ApplyAccessModelRequest {
        replace_roles: [("accountant".to_owned(), "member".to_owned())].into(),
        ..apply(json!({}))
    };
    let refused = operator.models.apply_access_model(request()).await;
    assert_refused(refused, Code::FailedPrecondition, "ROLE_IN_USE");
    run(&server.database, "DELETE FROM memberships WHERE user_id = 'user-1'").await;
    let mut patient = tonic::Request::new(request());
    patient.set_timeout(std::time::Duration::from_mins(1));
    let applied = operator.models.apply_access_model(patient).await.unwrap().into_inner();
    assert_eq!(applied.moved_members, 10_000);
    let left =
        server.database.count("SELECT count(*) FROM memberships WHERE role <> 'member' AND user_id <> 'ada'").await;
    let events =
        server.database.count("SELECT count(DISTINCT revision) FROM events WHERE type = 'member.updated'").await;
    let rows = server.database.count("SELECT count(*) FROM log WHERE role = 'member' AND user_id LIKE 'user-%'").await;
    assert_eq!((left, events, rows), (0, 10_000, 10_000));
}

#[tokio::test]
async fn permissions_that_roles_of_organizations_hold_stay() {
    let server = Server::start().await;
    let mut operator = server.operator();
    put(&mut operator, billing()).await.unwrap();
    let acme = operator.create("Acme").await;
    let request = pb::CreateRoleRequest {
        organization: acme,
        name: "org:auditor".to_owned(),
        permissions: vec!["billing.read".to_owned(), "members.list".to_owned()],
        ..Default::default()
    };
    operator.roles.create_role(request).await.unwrap();
    let before = server.database.dump().await;
    let status = put(&mut operator, json!({ "permissions": [{ "name": "billing.pay" }] })).await.unwrap_err();
    assert_eq!(metadata(&status, "permissions"), "billing.read,members.list");
    assert_eq!(metadata(&status, "roles"), "1,1");
    assert_refused(Err::<(), _>(status), Code::FailedPrecondition, "PERMISSION_IN_USE");
    assert_same(&server.database.dump().await, &before);
    let mut without = billing();
    without["permissions"] = json!([{ "name": "billing.read" }]);
    without["roles"] = json!([]);
    put(&mut operator, without).await.unwrap();
}

/// A role of an organization gets the permission after its uses were counted, and before the change log is locked.
#[tokio::test]
async fn a_permission_that_a_role_gets_while_a_model_takes_it_away_stays() {
    let server = Server::start().await;
    let mut operator = server.operator();
    put(&mut operator, billing()).await.unwrap();
    let acme = operator.create("Acme").await;
    let id = OrganizationId::from_uuid(acme.parse().unwrap());
    let mut writer = connect(&server.database).await;
    let mut write = writer.begin().await.unwrap();
    let organization = organizations::lock(&mut write, id).await.unwrap().unwrap().organization;
    let insert =
        "INSERT INTO organization_roles (bucket, organization_id, name, title, description, permissions, revision,
                                                  create_time, update_time)
         SELECT bucket, id, 'org:auditor', '', '', '{billing.pay}', revision + 1, now(), now() FROM organizations
         WHERE id = $1";
    sqlx::query(insert).bind(id.as_uuid()).execute(&mut *write).await.unwrap();
    let role = ChangeDetail::Role {
        name: name("org:auditor"),
        permissions: Some(vec!["billing.pay".to_owned()]),
        replaced_by: None,
    };
    let (revision, kind) = (organization.revision + 1, organization.kind);
    let entry = LogEntry { organization: id, kind, revision, detail: role };
    organizations::set_revision(&mut write, id, revision).await.unwrap();
    log::append(&mut write, id.bucket(), &[entry]).await.unwrap();

    let without = json!({ "permissions": [{ "name": "billing.read" }] });
    let mut backend = operator.clone();
    let applied = tokio::spawn(async move { put(&mut backend, without).await });
    until_waiting(&server.database, 1).await;
    write.commit().await.unwrap();
    let status = applied.await.unwrap().unwrap_err();
    assert_eq!((metadata(&status, "permissions"), metadata(&status, "roles")), ("billing.pay".into(), "1".into()));
    assert_refused(Err::<(), _>(status), Code::FailedPrecondition, "PERMISSION_IN_USE");
}

#[tokio::test]
async fn what_admin_and_member_hold_changes_only_when_older_clients_are_gone() {
    let server = Server::start().await;
    let mut operator = server.operator();
    let acme = operator.create("Acme").await;
    operator.add(&acme, "ada", "member").await;
    operator.add(&acme, "grace", "admin").await;
    let member = ["organization.read", "membership.leave"];
    let json = json!({ "roles": [{ "name": "member", "permissions": member }] });
    let status = put(&mut operator, json.clone()).await.unwrap_err();
    assert_eq!(metadata(&status, "roles"), "member");
    assert_refused(Err::<(), _>(status), Code::FailedPrecondition, "OLDER_CLIENTS_GONE_REQUIRED");
    let request = pb::ApplyAccessModelRequest { older_clients_gone: true, ..apply(json.clone()) };
    let plan = operator.models.apply_access_model(request).await.unwrap().into_inner().plan.unwrap();
    assert_eq!((plan.roles[0].lost.as_slice(), plan.roles[0].members), (&["members.list".to_owned()][..], 0));
    assert!(plan.warnings.iter().any(|warning| warning.contains("older")), "{:?}", plan.warnings);
    // A title changes nothing for older clients, and back to the built-in permissions is safe.
    let mut titled = json;
    titled["roles"][0]["title"] = json!("Member");
    put(&mut operator, titled).await.unwrap();
    put(&mut operator, json!({})).await.unwrap();
}

#[tokio::test]
async fn an_etag_and_a_request_id_belong_to_one_change() {
    let server = Server::start().await;
    let mut operator = server.operator();
    put(&mut operator, billing()).await.unwrap();
    let request = pb::ApplyAccessModelRequest {
        etag: "1".to_owned(),
        request_id: roster::random::uuid().to_string(),
        ..apply(json!({ "permissions": [{ "name": "billing.read" }] }))
    };
    let first = operator.models.apply_access_model(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.etag, "2");
    let again = operator.models.apply_access_model(request.clone()).await.unwrap().into_inner();
    assert_eq!(again, first);
    let fresh = pb::ApplyAccessModelRequest { request_id: String::new(), ..request.clone() };
    assert_refused(operator.models.apply_access_model(fresh).await, Code::Aborted, "ETAG_MISMATCH");
    let other = pb::ApplyAccessModelRequest { reason: "another".to_owned(), ..request };
    assert_refused(operator.models.apply_access_model(other).await, Code::AlreadyExists, "REQUEST_ID_REUSED");
    assert_eq!(present(&mut operator).await.etag, "2");
}

#[tokio::test]
async fn nothing_custom_is_accepted_until_roles_are_enabled() {
    let server = Server::start().await;
    let mut operator = server.operator();
    let acme = operator.create("Acme").await;
    run(&server.database, "UPDATE access_model SET enabled = false").await;
    let create = pb::CreateRoleRequest { organization: acme, name: "org:a".to_owned(), ..Default::default() };
    let before = server.database.dump().await;
    assert_refused(put(&mut operator, billing()).await, Code::FailedPrecondition, "ROLES_NOT_ENABLED");
    assert_refused(operator.roles.create_role(create.clone()).await, Code::FailedPrecondition, "ROLES_NOT_ENABLED");
    assert!(!present(&mut operator).await.roles_enabled);
    let dry = pb::EnableRolesRequest { validate_only: true, ..Default::default() };
    assert!(operator.models.enable_roles(dry).await.unwrap().into_inner().newly_enabled);
    assert_same(&server.database.dump().await, &before);
    let refused =
        server.service(&[Scope::Model, Scope::Manage]).models.enable_roles(pb::EnableRolesRequest::default()).await;
    assert_refused(refused, Code::PermissionDenied, "SCOPE_MISSING");

    let request = pb::EnableRolesRequest { reason: "all servers are new".to_owned(), ..Default::default() };
    assert!(operator.models.enable_roles(request.clone()).await.unwrap().into_inner().newly_enabled);
    assert!(!operator.models.enable_roles(request).await.unwrap().into_inner().newly_enabled);
    put(&mut operator, billing()).await.unwrap();
    operator.roles.create_role(create).await.unwrap();
    let events =
        operator.models.list_model_events(pb::ListModelEventsRequest::default()).await.unwrap().into_inner().events;
    assert_eq!(events.len(), 2);
    assert_eq!(events[1].reason, "all servers are new");
    assert_eq!(events[1].new.as_ref().unwrap().fields.keys().collect::<Vec<_>>(), ["roles_enabled"]);
}

#[tokio::test]
async fn every_change_is_an_event_with_the_names_of_what_differs() {
    let server = Server::start().await;
    let mut backend = server.service(&[Scope::Model]);
    put(&mut backend, billing()).await.unwrap();
    let mut changed = billing();
    changed["permissions"][0]["title"] = json!("");
    changed["roles"] = json!([{ "name": "seller", "permissions": [] }, { "name": "clerk", "permissions": [] }]);
    changed["delegable"] = json!(["members.add"]);
    let request = pb::ApplyAccessModelRequest { reason: "a reason".to_owned(), ..apply(changed) };
    backend.models.apply_access_model(request).await.unwrap();
    put(&mut server.operator(), json!({})).await.unwrap();
    let mut list = async |page_size, page_token: String| {
        let request = pb::ListModelEventsRequest { page_size, page_token };
        backend.models.list_model_events(request).await.unwrap().into_inner()
    };
    let all = list(0, String::new()).await;
    let revisions: Vec<_> = all.events.iter().map(|event| (event.revision, event.r#type.as_str())).collect();
    assert_eq!(revisions, [(3, "model.changed"), (2, "model.changed"), (1, "model.changed")]);
    let second = &all.events[1];
    assert_eq!((second.reason.as_str(), second.actor.as_ref().unwrap().kind.as_str()), ("a reason", "service"));
    let names = |event: &pb::Event| names(event.new.as_ref().unwrap());
    let expected = [
        ("delegable added", "members.add"),
        ("delegable removed", "members.list"),
        ("permissions changed", "billing.read"),
        ("roles added", "clerk"),
        ("roles changed", "seller"),
        ("roles removed", "accountant"),
    ];
    assert_eq!(names(second), expected.map(|(list, names)| (list.to_owned(), names.to_owned())).into());
    assert_eq!(names(&all.events[2])["permissions added"], "billing.pay billing.read");
    // In pages of one, each event is the same.
    let (mut token, mut events) = (String::new(), Vec::new());
    loop {
        let page = list(1, token).await;
        events.extend(page.events);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(events, all.events);
}

#[tokio::test]
async fn a_watch_of_all_events_has_the_changes_of_the_model() {
    let server = Server::start().await;
    let mut operator = server.operator();
    let acme = operator.create("Acme").await;
    let mut backend = server.service(&[Scope::Manage]);
    let mut open = async |request: pb::WatchEventsRequest| {
        let mut watch = backend.events.watch_events(request).await.unwrap().into_inner();
        let cursor = watch.message().await.unwrap().unwrap().cursor;
        (watch, cursor)
    };
    let only = |types: &[&str]| types.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (mut all, cursor) = open(pb::WatchEventsRequest::default()).await;
    let (mut of_acme, _) = open(pb::WatchEventsRequest { organization: acme.clone(), ..Default::default() }).await;
    let (mut members, _) = open(pb::WatchEventsRequest { types: only(&["member.added"]), ..Default::default() }).await;
    for number in 0..3 {
        put(&mut operator, json!({ "permissions": [{ "name": format!("area.word-{number}") }] })).await.unwrap();
    }
    operator.add(&acme, "ada", "member").await;
    let listed = operator.models.list_model_events(pb::ListModelEventsRequest::default()).await.unwrap().into_inner();
    let expected: Vec<pb::Event> = listed.events.into_iter().rev().collect();
    let (mut resumed, _) = open(pb::WatchEventsRequest { cursor, ..Default::default() }).await;
    for watch in [&mut all, &mut resumed] {
        let mut events = Vec::new();
        while events.len() < 3 {
            let message = watch.message().await.unwrap().unwrap();
            events.extend(message.events.into_iter().filter(|event| event.organization_id.is_empty()));
        }
        events.retain(|event| event.r#type == "model.changed");
        assert_eq!(events, expected);
    }
    for watch in [&mut of_acme, &mut members] {
        let mut types = Vec::new();
        while types.is_empty() {
            types.extend(watch.message().await.unwrap().unwrap().events.into_iter().map(|event| event.r#type));
        }
        assert!(types.iter().all(|text| text != "model.changed"), "{types:?}");
    }
}

/// The lists of a summary, by their path, with spaces between the names.
fn names(summary: &prost_types::Struct) -> BTreeMap<String, String> {
    use prost_types::value::Kind;
    let mut names = BTreeMap::new();
    for (of, lists) in &summary.fields {
        let Some(Kind::StructValue(lists)) = &lists.kind else { panic!("{of} is no object") };
        for (kind, list) in &lists.fields {
            let Some(Kind::ListValue(list)) = &list.kind else { panic!("{kind} is no list") };
            let text = |value: &prost_types::Value| match &value.kind {
                Some(Kind::StringValue(text)) => text.clone(),
                other => panic!("{other:?}"),
            };
            names.insert(format!("{of} {kind}"), list.values.iter().map(text).collect::<Vec<_>>().join(" "));
        }
    }
    names
}
