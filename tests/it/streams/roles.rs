//! The access model and the roles of organizations in watches and exports.

use super::memberships::{Memberships, Model};
use super::writers::{apply_model, define};
use super::{Watch, soon};
use crate::harness::server::Clients;
use crate::harness::{Server, organization};
use crate::roles::apply;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pb::memberships_change::Change;
use prost::Message;
use roster::domain::Scope;
use roster::grpc::pb;
use serde_json::json;
use std::time::Duration;

/// The documented size of an access model in a message, in bytes.
const MODEL_LIMIT: usize = 1024 * 1024;
/// The documented size of a message of a watch, in bytes.
const LIMIT: usize = 3 * 1024 * 1024;

fn watch_of(organization: &str, user: &str, cursor: &str) -> pb::WatchMembershipsRequest {
    pb::WatchMembershipsRequest {
        organization: organization.to_owned(),
        user_id: user.to_owned(),
        cursor: cursor.to_owned(),
        ..Default::default()
    }
}

/// The revisions of the access models in messages.
fn models(messages: &[pb::WatchMembershipsResponse]) -> Vec<i64> {
    let changes = messages.iter().flat_map(|message| &message.changes);
    changes.filter_map(|change| Some(model(change)?.revision)).collect()
}

fn model(change: &pb::MembershipsChange) -> Option<&pb::AccessModelChange> {
    match change.change.as_ref()? {
        Change::AccessModel(model) => Some(model),
        Change::Membership(_) | Change::Organization(_) | Change::User(_) | Change::Role(_) => None,
    }
}

/// The cursor in the last message.
fn cursor(messages: &[pb::WatchMembershipsResponse]) -> String {
    messages.last().unwrap().checkpoint.as_ref().unwrap().cursor.clone()
}

/// Creates an organization of this kind.
async fn create(operator: &mut Clients, kind: &str) -> String {
    let request = pb::CreateOrganizationRequest {
        kind: kind.to_owned(),
        owner_user_id: "ada".to_owned(),
        ..organization("Acme")
    };
    operator.organizations.create_organization(request).await.unwrap().into_inner().organization.unwrap().id
}

#[tokio::test]
async fn a_watch_delivers_the_definition_the_change_and_the_deletion_of_a_role() {
    let server = Server::start().await;
    let mut operator = server.operator();
    operator.models.apply_access_model(apply_model(0)).await.unwrap();
    let acme = create(&mut operator, "vendor").await;
    let mut live = Watch::open(&server.service(&[Scope::Check]), watch_of("", "", "")).await;
    let start = cursor(&[live.next().await]);
    operator.roles.create_role(define(&acme, "org:payer", &["billing.read", "billing.pay"])).await.unwrap();
    let name = "org:payer".to_owned();
    let request = pb::UpdateRoleRequest {
        organization: acme.clone(),
        name: name.clone(),
        title: "Payer".to_owned(),
        permissions: vec!["billing.pay".to_owned()],
        ..Default::default()
    };
    operator.roles.update_role(request).await.unwrap();
    let request = pb::DeleteRoleRequest { organization: acme.clone(), name: name.clone(), ..Default::default() };
    operator.roles.delete_role(request).await.unwrap();

    let role = |permissions: &[&str], deleted, revision| pb::OrganizationRoleChange {
        organization_id: acme.clone(),
        kind: "vendor".to_owned(),
        role: name.clone(),
        permissions: permissions.iter().map(|word| (*word).to_owned()).collect(),
        deleted,
        replaced_by: String::new(),
        revision,
    };
    let expected =
        [role(&["billing.pay", "billing.read"], false, 3), role(&["billing.pay"], false, 4), role(&[], true, 5)];
    for mut watch in [live, Watch::from(&server.service(&[Scope::Check]), &start).await] {
        let changes: Vec<_> = watch.until(1).await.into_iter().flat_map(|message| message.changes).collect();
        for change in &changes {
            assert_an_older_client_sees_an_unknown_change(change, &acme);
        }
        let roles: Vec<_> = changes.into_iter().map(|change| change.change.unwrap()).collect();
        assert_eq!(roles, expected.clone().map(Change::Role));
    }
}

/// The messages of release 0.3, as far as a change of a role fills them.
#[derive(Clone, PartialEq, prost::Message)]
struct OlderChange {
    #[prost(message, optional, tag = "1")]
    change_time: Option<prost_types::Timestamp>,
    #[prost(oneof = "OlderKind", tags = "2, 3, 4")]
    change: Option<OlderKind>,
    #[prost(string, tag = "5")]
    organization_id: String,
    #[prost(int64, tag = "6")]
    revision: i64,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OlderKind {
    #[prost(message, tag = "2")]
    Membership(pb::MembershipChange),
    #[prost(message, tag = "3")]
    Organization(pb::OrganizationChange),
    #[prost(message, tag = "4")]
    User(pb::UserChange),
}

/// Release 0.3 does not answer about an organization that such a change names, at the next revision, until it is
/// exported.
fn assert_an_older_client_sees_an_unknown_change(change: &pb::MembershipsChange, organization: &str) {
    let older = OlderChange::decode(change.encode_to_vec().as_slice()).unwrap();
    let Some(Change::Role(role)) = &change.change else { panic!("{change:?}") };
    let expected = OlderChange {
        change_time: change.change_time,
        change: None,
        organization_id: organization.to_owned(),
        revision: role.revision,
    };
    assert_eq!(older, expected);
}

#[tokio::test]
async fn an_older_client_sees_nothing_in_an_access_model() {
    let server = Server::start().await;
    let mut watch = Watch::open(&server.service(&[Scope::Check]), watch_of("", "", "")).await;
    let message = watch.next().await;
    assert_eq!(models(std::slice::from_ref(&message)), [0]);
    let older = OlderChange::decode(message.changes[0].encode_to_vec().as_slice()).unwrap();
    assert_eq!((older.change, older.organization_id, older.revision), (None, String::new(), 0));
}

#[tokio::test]
async fn a_watch_whose_cursor_does_not_cover_the_model_begins_with_it() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let mut operator = server.operator();
    let acme = create(&mut operator, "vendor").await;
    let of = async |organization: &str, user: &str, cursor: &str| {
        Watch::open(&clients, watch_of(organization, user, cursor)).await.until(1).await
    };
    // Without a model, the built-in roles are sent.
    let begin = of("", "", "").await;
    let expected = Model::of(&server.database).await;
    assert_eq!(Model::of_message(model(&begin[0].changes[0]).unwrap()), expected);
    let (_, export) = Memberships::export(&clients, "").await;
    let older = without_model(&cursor(&begin));
    for number in 0..3 {
        operator.models.apply_access_model(apply_model(number)).await.unwrap();
    }
    operator.add(&acme, "alan", "clerk").await;

    for (name, messages, revisions) in [
        ("empty", of("", "", "").await, vec![3]),
        ("empty, of an organization", of(&acme, "", "").await, vec![3]),
        ("of release 0.3", of("", "", &older).await, vec![3]),
        ("of a watch", of("", "", &cursor(&begin)).await, vec![1, 2, 3]),
        ("of an export", of("", "", &export).await, vec![1, 2, 3]),
        ("empty, of a user", of("", "alan", "").await, vec![]),
        ("empty, of a member", of(&acme, "alan", "").await, vec![]),
    ] {
        assert_eq!(models(&messages), revisions, "{name}");
        let changes: Vec<_> = messages.iter().flat_map(|message| &message.changes).collect();
        if revisions == [3] {
            assert!(model(changes[0]).is_some(), "{name}: the model precedes all changes");
        }
        assert_eq!(changes.len() - revisions.len(), usize::from(name.starts_with("of ")), "{name}");
        if name.starts_with("of ") {
            // The next watch does not repeat it.
            assert_eq!(models(&of("", "", &cursor(&messages)).await), [0; 0], "{name}");
        }
    }
    // The cursor of a watch of a member covers the organization, but not the model.
    let narrow = cursor(&of(&acme, "alan", "").await);
    assert_eq!(models(&of(&acme, "", &narrow).await), [3]);
}

/// The cursor of a release up to 0.3: without the last bucket, that of the access model.
fn without_model(cursor: &str) -> String {
    const ENTRY: usize = 2 + 8 + 4;
    let mut bytes = URL_SAFE_NO_PAD.decode(cursor).unwrap();
    let last = bytes.len() - ENTRY;
    assert_eq!(bytes[last..last + 2], 288_u16.to_be_bytes());
    bytes.truncate(last);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The largest access model, nearly: each list and each name has its largest size.
fn largest_model(words: &[String]) -> serde_json::Value {
    let declared: Vec<_> = words.iter().map(|word| json!({ "name": word })).collect();
    let role = |number: usize| {
        let held = if number.is_multiple_of(1_000) { words } else { &words[number % 1_000..][..1] };
        json!({ "name": format!("r{number:x<63}"), "kind": format!("k{:x<63}", number / 100), "permissions": held })
    };
    let own = ["organization.read", "members.list", "membership.leave"].map(str::to_owned);
    let admin = json!({ "name": "admin", "permissions": words.iter().chain(&own).collect::<Vec<_>>() });
    let roles: Vec<_> = (0..2_000).map(role).chain([admin]).collect();
    json!({ "permissions": declared, "roles": roles })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_model_and_roles_are_sent_within_the_limits() {
    const ROLES: usize = 50;
    let server = Server::start_generous().await;
    let clients = server.service(&[Scope::Check]);
    let mut operator = server.operator();
    let words: Vec<String> = (0..1_000).map(|number| format!("area.w{number:x<94}")).collect();
    let acme = create(&mut operator, "vendor").await;
    let mut live = Watch::open(&clients, watch_of("", "", "")).await;
    let start = cursor(&[live.next().await]);
    let json = largest_model(&words);
    assert!(json.to_string().len() > 900 * 1024);
    let mut request = tonic::Request::new(pb::ApplyAccessModelRequest { older_clients_gone: true, ..apply(json) });
    request.set_timeout(Duration::from_mins(1));
    operator.models.apply_access_model(request).await.unwrap();
    let all: Vec<&str> = words.iter().map(String::as_str).collect();
    for number in 0..ROLES {
        operator.roles.create_role(define(&acme, &format!("org:r{number:x<63}"), &all)).await.unwrap();
    }
    let table = Memberships::of(&server.database).await;
    assert_eq!((table.roles.len(), table.model.as_ref().unwrap().roles.len()), (ROLES, 2_002));

    for (name, mut watch) in [("live", live), ("replayed", Watch::from(&clients, &start).await)] {
        let mut received = Memberships::default();
        for message in watch.until(1).await {
            assert!(message.encoded_len() <= LIMIT, "{name}: {} bytes", message.encoded_len());
            for model in message.changes.iter().filter_map(model) {
                assert!((300 * 1024..MODEL_LIMIT).contains(&model.encoded_len()), "{} bytes", model.encoded_len());
            }
            received.apply(&message);
        }
        assert!(received.roles == table.roles && received.model == table.model, "{name}");
    }
    let present = Watch::open(&clients, watch_of("", "", "")).await.next().await;
    assert_eq!(models(&[present]), [1]);

    let (exported, _) = Memberships::export(&clients, "").await;
    assert!(exported == table);
    let request = pb::ExportMembershipsRequest::default();
    let mut parts = clients.checks.clone().export_memberships(request).await.unwrap().into_inner();
    let mut sizes = Vec::new();
    while let Some(part) = soon(parts.message()).await.unwrap() {
        sizes.push(part.encoded_len());
    }
    // The model, then the roles: each word is sent once in a message.
    assert!(sizes.len() >= 3 && sizes[0] < MODEL_LIMIT && sizes[1..].iter().all(|size| *size < 180_000), "{sizes:?}");
}

#[tokio::test]
async fn an_export_leaves_out_what_the_server_does_not_know_and_names_a_replacement() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let mut operator = server.operator();
    operator.models.apply_access_model(apply_model(0)).await.unwrap();
    let acme = create(&mut operator, "vendor").await;
    for role in ["org:known", "org:newer", "org:old"] {
        operator.roles.create_role(define(&acme, role, &["billing.read"])).await.unwrap();
    }
    // A newer server stored a permission of roster's own, a role moves its members, and the model has a newer word.
    for statement in [
        "UPDATE organization_roles SET permissions = '{members.fly}' WHERE name = 'org:newer'",
        "UPDATE organization_roles SET replaced_by = 'clerk' WHERE name = 'org:old'",
        r#"UPDATE access_model SET model = jsonb_set(model, '{roles,0,permissions}', '["members.fly"]')"#,
    ] {
        sqlx::query(statement).execute(&server.database.pool).await.unwrap();
    }
    let request = pb::ExportMembershipsRequest::default();
    let mut parts = clients.checks.clone().export_memberships(request).await.unwrap().into_inner();
    let part = soon(parts.message()).await.unwrap().unwrap();
    let exported = |name: &str, permissions: &[u32], replaced_by: &str| pb::ExportedRole {
        name: name.to_owned(),
        permissions: permissions.to_vec(),
        replaced_by: replaced_by.to_owned(),
    };
    assert_eq!(part.organizations[0].roles, [exported("org:known", &[0], ""), exported("org:old", &[], "clerk")]);
    assert_eq!(part.permissions, ["billing.read"]);
    let model = part.access_model.unwrap();
    let names: Vec<_> = model.roles.iter().map(|role| role.name.as_str()).collect();
    assert_eq!(names.len(), 3, "one of the four roles is unknown: {names:?}");
    assert!(!model.permissions.contains(&"members.fly".to_owned()));
    // A model in a form that this release does not know: no role is known but the owner.
    sqlx::query(r#"UPDATE access_model SET model = '{"roles": {}}'"#).execute(&server.database.pool).await.unwrap();
    let message = Watch::open(&clients, watch_of("", "", "")).await.next().await;
    let model = model_of(&message);
    assert!(model.roles.is_empty() && model.revision == 1 && !model.permissions.is_empty());
}

fn model_of(message: &pb::WatchMembershipsResponse) -> &pb::AccessModelChange {
    message.changes.iter().find_map(model).unwrap()
}
