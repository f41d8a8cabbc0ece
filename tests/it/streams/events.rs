//! `WatchEvents`: the audit trail, as it is written.

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

/// Which events: the organization or the user, the revision, and what.
type Key = (String, i64, String);

fn key(event: &pb::Event) -> Key {
    let whose = if event.organization_id.is_empty() { &event.user_id } else { &event.organization_id };
    (whose.clone(), event.revision, event.r#type.clone())
}

/// All events of organizations, and those of users that change their state.
async fn table(server: &Server) -> BTreeSet<Key> {
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
async fn a_watch_that_is_torn_and_resumed_has_told_every_event() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Manage]);
    let mut cursor = next(&mut open(&clients, pb::WatchEventsRequest::default()).await).await.cursor;
    let writers = Writers::begin(&server, 3);
    let mut seen: BTreeSet<Key> = BTreeSet::new();
    let resume = |cursor: &str| pb::WatchEventsRequest { cursor: cursor.to_owned(), ..Default::default() };
    for torn in 0..40 {
        let clients = Clients::new(&server.connect().await, server.credential(&[Scope::Manage]));
        let mut watch = open(&clients, resume(&cursor)).await;
        let mut last: BTreeMap<String, i64> = BTreeMap::new();
        for _ in 0..torn % 6 {
            let message = next(&mut watch).await;
            for event in &message.events {
                // Each organization's in their order, each the next one.
                let (whose, revision, _) = key(event);
                let before = last.insert(whose, revision);
                assert!(before.is_none_or(|before| before < revision));
                assert!(event.actor.is_some() && event.create_time.is_some());
                seen.insert(key(event));
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
        while seen.len() < expected.len() {
            seen.extend(next(&mut watch).await.events.iter().map(key));
        }
    };
    soon(all).await;
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_watch_tells_the_events_it_is_asked_for() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Manage]);
    let mut operator = server.operator();
    let mut made = Vec::new();
    for (name, kind) in [("Acme", "account"), ("Beta", "vendor")] {
        let wish = pb::CreateOrganizationRequest {
            kind: kind.to_owned(),
            owner_user_id: "ada".to_owned(),
            ..organization(name)
        };
        made.push(operator.organizations.create_organization(wish).await.unwrap().into_inner().organization.unwrap());
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
        (request(&made[0].id, "", &[]), all[..2].to_vec()),
        (request(&made[1].slug, "", &[]), all[2..].to_vec()),
        (request("", "vendor", &[]), [&all[2..], &["alan user.deactivated"]].concat()),
        (request("", "", &["member.added"]), vec![all[0], all[2]]),
        (request(&made[0].id, "", &["member.removed", "user.deactivated"]), vec![all[1]]),
        (request("", "", &["user.deactivated"]), vec!["alan user.deactivated"]),
    ];
    let mut watches = Vec::new();
    for (request, expected) in filters {
        let mut watch = open(&clients, request.clone()).await;
        let begin = next(&mut watch).await;
        assert!(begin.events.is_empty() && !begin.cursor.is_empty());
        watches.push((request, expected, watch));
    }
    for organization in &made {
        operator.add(&organization.id, "alan", "member").await;
        operator.organizations.remove_member(remove(&organization.id, "alan")).await.unwrap();
    }
    let request = pb::DeactivateUserRequest {
        user_id: "alan".to_owned(),
        reason: "he asked for it".to_owned(),
        ..Default::default()
    };
    operator.users.deactivate_user(request).await.unwrap();
    for (request, expected, mut watch) in watches {
        let mut seen = Vec::new();
        // What is expected, and then two messages in which nothing more comes.
        let mut quiet = 0;
        while seen.len() < expected.len() || quiet < 2 {
            let message = next(&mut watch).await;
            quiet = if seen.len() < expected.len() { 0 } else { quiet + 1 };
            for event in message.events {
                let name = made.iter().find(|one| one.id == event.organization_id);
                let whose = name.map_or(event.user_id.clone(), |one| one.name.clone());
                if event.r#type == "user.deactivated" {
                    assert_eq!(event.reason, "he asked for it");
                    assert_eq!(event.actor.unwrap().kind, "operator");
                }
                seen.push(format!("{whose} {}", event.r#type));
            }
        }
        seen.sort();
        assert_eq!(seen, expected, "{request:?}");
    }
}

#[tokio::test]
async fn events_are_watched_from_where_there_is_something() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Manage]);
    let other = Server::of_another_datastore().await;
    let foreign = next(&mut open(&other.service(&[Scope::Manage]), pb::WatchEventsRequest::default()).await).await;
    let first = |request| async { open(&clients, request).await.message().await };
    let expired = pb::WatchEventsRequest { cursor: foreign.cursor, ..Default::default() };
    assert_refused(first(expired).await, Code::OutOfRange, "CURSOR_EXPIRED");
    let nowhere = pb::WatchEventsRequest { organization: "nowhere".to_owned(), ..Default::default() };
    assert_refused(first(nowhere).await, Code::NotFound, "ORGANIZATION_NOT_FOUND");
    // A cursor of memberships is one of events.
    let (_, cursor) = super::copy::Copy::export(&server.service(&[Scope::Check]), "").await;
    server.user("ada").create("Acme").await;
    let mut watch = open(&clients, pb::WatchEventsRequest { cursor, ..Default::default() }).await;
    let mut types = Vec::new();
    while types.len() < 2 {
        types.extend(next(&mut watch).await.events.into_iter().map(|event| event.r#type));
    }
    assert_eq!(types, ["organization.created", "member.added"]);
}
