//! `WatchEvents`: the audit trail as a stream.

use super::soon;
use super::writers::Writers;
use crate::harness::server::Clients;
use crate::harness::{Server, assert_refused, organization, remove};
use roster::domain::Scope;
use roster::grpc::pb;
use std::collections::{BTreeMap, BTreeSet};
use tonic::Code;
use tonic::codec::Streaming;

async fn open(clients: &Clients, request: pb::WatchEventsRequest) -> Streaming<pb::WatchEventsResponse> {
    clients.events.clone().watch_events(request).await.unwrap().into_inner()
}

async fn next(watch: &mut Streaming<pb::WatchEventsResponse>) -> pb::WatchEventsResponse {
    soon(watch.message()).await.unwrap().expect("the watch ended")
}

/// The key of an event: the organization or the user, the revision, and the type.
pub(super) type Key = (String, i64, String);

pub(super) fn key(event: &pb::Event) -> Key {
    let subject = if event.organization_id.is_empty() { &event.user_id } else { &event.organization_id };
    (subject.clone(), event.revision, event.r#type.clone())
}

/// The keys of all events of organizations, and of the events of users that change their state.
pub(super) async fn table(server: &Server) -> BTreeSet<Key> {
    let all: Vec<Key> = sqlx::query_as(
        "SELECT organization_id::text, revision, type FROM events
         UNION ALL SELECT e.user_id, e.revision, e.type FROM user_events e
         JOIN user_log l ON l.user_id = e.user_id AND l.revision = e.revision",
    )
    .fetch_all(&server.database.pool)
    .await
    .unwrap();
    all.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_disconnected_and_resumed_delivers_every_event() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Manage]);
    let mut cursor = next(&mut open(&clients, pb::WatchEventsRequest::default()).await).await.cursor;
    let writers = Writers::begin(&server, 3);
    let mut received: BTreeSet<Key> = BTreeSet::new();
    let resume = |cursor: &str| pb::WatchEventsRequest { cursor: cursor.to_owned(), ..Default::default() };
    for disconnected in 0..40 {
        let clients = Clients::new(&server.connect().await, server.credential(&[Scope::Manage]));
        let mut watch = open(&clients, resume(&cursor)).await;
        let mut last: BTreeMap<String, i64> = BTreeMap::new();
        for _ in 0..disconnected % 6 {
            let message = next(&mut watch).await;
            for event in &message.events {
                // The events of an organization arrive in the order of their revisions.
                let (subject, revision, _) = key(event);
                let before = last.insert(subject, revision);
                assert!(before.is_none_or(|before| before < revision));
                assert!(event.actor.is_some() && event.create_time.is_some());
                received.insert(key(event));
            }
            if !message.cursor.is_empty() {
                cursor = message.cursor;
            }
        }
    }
    writers.end().await;
    let expected = table(&server).await;
    let mut watch = open(&clients, resume(&cursor)).await;
    let all = async {
        while received.len() < expected.len() {
            received.extend(next(&mut watch).await.events.iter().map(key));
        }
    };
    soon(all).await;
    assert_eq!(received, expected);
}

#[tokio::test]
async fn a_watch_delivers_the_events_of_its_filter() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Manage]);
    let mut operator = server.operator();
    let mut created = Vec::new();
    for (name, kind) in [("Acme", "account"), ("Beta", "vendor")] {
        let request = pb::CreateOrganizationRequest {
            kind: kind.to_owned(),
            owner_user_id: "ada".to_owned(),
            ..organization(name)
        };
        created.push(
            operator.organizations.create_organization(request).await.unwrap().into_inner().organization.unwrap(),
        );
    }
    let request = |organization: &str, kind: &str, types: &[&str]| pb::WatchEventsRequest {
        organization: organization.to_owned(),
        kind: kind.to_owned(),
        types: types.iter().map(|one| (*one).to_owned()).collect(),
        ..Default::default()
    };
    let all = ["Acme member.added", "Acme member.removed", "Beta member.added", "Beta member.removed"];
    let filters = [
        (request("", "", &[]), [&all[..], &["alan user.deactivated"]].concat()),
        (request(&created[0].id, "", &[]), all[..2].to_vec()),
        (request(&created[1].slug, "", &[]), all[2..].to_vec()),
        (request("", "vendor", &[]), [&all[2..], &["alan user.deactivated"]].concat()),
        (request("", "", &["member.added"]), vec![all[0], all[2]]),
        (request(&created[0].id, "", &["member.removed", "user.deactivated"]), vec![all[1]]),
        (request("", "", &["user.deactivated"]), vec!["alan user.deactivated"]),
    ];
    let mut watches = Vec::new();
    for (request, expected) in filters {
        let mut watch = open(&clients, request.clone()).await;
        let begin = next(&mut watch).await;
        assert!(begin.events.is_empty() && !begin.cursor.is_empty());
        watches.push((request, expected, watch));
    }
    for organization in &created {
        operator.add(&organization.id, "alan", "member").await;
        operator.organizations.remove_member(remove(&organization.id, "alan")).await.unwrap();
    }
    let request =
        pb::DeactivateUserRequest { user_id: "alan".to_owned(), reason: "on request".to_owned(), ..Default::default() };
    operator.users.deactivate_user(request).await.unwrap();
    for (request, expected, mut watch) in watches {
        let mut received = Vec::new();
        // Reads the expected events and then two further messages, which must have none.
        let mut quiet = 0;
        while received.len() < expected.len() || quiet < 2 {
            let message = next(&mut watch).await;
            quiet = if received.len() < expected.len() { 0 } else { quiet + 1 };
            for event in message.events {
                let name = created.iter().find(|one| one.id == event.organization_id);
                let subject = name.map_or(event.user_id.clone(), |one| one.name.clone());
                if event.r#type == "user.deactivated" {
                    assert_eq!(event.reason, "on request");
                    assert_eq!(event.actor.unwrap().kind, "operator");
                }
                received.push(format!("{subject} {}", event.r#type));
            }
        }
        received.sort();
        assert_eq!(received, expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_watch_with_an_invalid_start_is_refused() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Manage]);
    let other = Server::of_another_datastore().await;
    let foreign = next(&mut open(&other.service(&[Scope::Manage]), pb::WatchEventsRequest::default()).await).await;
    let first = |request| async { open(&clients, request).await.message().await };
    let expired = pb::WatchEventsRequest { cursor: foreign.cursor, ..Default::default() };
    assert_refused(first(expired).await, Code::OutOfRange, "CURSOR_EXPIRED");
    let unknown = pb::WatchEventsRequest { organization: "nowhere".to_owned(), ..Default::default() };
    assert_refused(first(unknown).await, Code::NotFound, "ORGANIZATION_NOT_FOUND");
    // A cursor of memberships is valid for events too.
    let (_, cursor) = super::memberships::Memberships::export(&server.service(&[Scope::Check]), "").await;
    server.user("ada").create("Acme").await;
    let mut watch = open(&clients, pb::WatchEventsRequest { cursor, ..Default::default() }).await;
    let mut types = Vec::new();
    while types.len() < 2 {
        types.extend(next(&mut watch).await.events.into_iter().map(|event| event.r#type));
    }
    assert_eq!(types, ["organization.created", "member.added"]);
}
