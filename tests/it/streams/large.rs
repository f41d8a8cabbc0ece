//! Writes whose changes or events are too large for one message: they arrive in parts, and no message is larger than 3 MiB.

use super::{Watch, soon};
use crate::client::client;
use crate::harness::program::Serve;
use crate::harness::server::Clients;
use crate::harness::{Database, Server, add, organization};
use pb::memberships_change::Change;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use roster::client::{CacheSettings, Check, Consistency, MembershipCache};
use roster::domain::Scope;
use roster::grpc::pb;
use std::collections::BTreeMap;
use tonic::codec::Streaming;
use tonic_health::pb::health_check_response::ServingStatus;

/// The documented size of a message, in bytes.
const LIMIT: usize = 3 * 1024 * 1024;

/// Attributes of 8 kB, whose messages take 45 kB.
fn attributes() -> Struct {
    let values = vec![Value { kind: Some(Kind::NumberValue(7.0)) }; 4_000];
    let list = Value { kind: Some(Kind::ListValue(ListValue { values })) };
    Struct { fields: BTreeMap::from([("n".to_owned(), list)]) }
}

fn from(cursor: &str) -> pb::WatchEventsRequest {
    pb::WatchEventsRequest { cursor: cursor.to_owned(), ..Default::default() }
}

async fn open(clients: &Clients, request: pb::WatchEventsRequest) -> Streaming<pb::WatchEventsResponse> {
    clients.events.clone().watch_events(request).await.unwrap().into_inner()
}

/// The next message of events, which obeys the limits.
async fn next(watch: &mut Streaming<pb::WatchEventsResponse>) -> pb::WatchEventsResponse {
    let message = soon(watch.message()).await.unwrap().expect("the watch ended");
    assert!(message.encoded_len() <= LIMIT, "{} bytes", message.encoded_len());
    assert!(!message.continued || (message.cursor.is_empty() && !message.events.is_empty()));
    message
}

/// The cursor of a watch that starts now.
async fn cursor(clients: &Clients) -> String {
    next(&mut open(clients, pb::WatchEventsRequest::default()).await).await.cursor
}

/// The messages of a watch until a cursor follows this many events.
async fn messages(watch: &mut Streaming<pb::WatchEventsResponse>, count: usize) -> Vec<pb::WatchEventsResponse> {
    let (mut all, mut events) = (Vec::new(), 0);
    loop {
        let message = next(watch).await;
        events += message.events.len();
        let is_last = events >= count && !message.cursor.is_empty();
        all.push(message);
        if is_last {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_was_away_receives_every_event_of_the_largest_size() {
    const UPDATES: usize = 320;
    let server = Server::start().await;
    let clients = server.service(&[Scope::Manage]);
    let acme = server.user("ada").create("Acme").await;
    let mut operator = server.operator();
    let start = cursor(&clients).await;
    for number in 0..UPDATES {
        let text = Value { kind: Some(Kind::StringValue(format!("{number:08100}"))) };
        let request = pb::UpdateMemberRequest {
            organization: acme.clone(),
            user_id: "ada".to_owned(),
            attributes: Some(Struct { fields: BTreeMap::from([("text".to_owned(), text)]) }),
            reason: "\u{1f600}".repeat(480),
            ..Default::default()
        };
        operator.organizations.update_member(request).await.unwrap();
    }
    // Lists of small numbers take five times their text in a message. Such calls are slow.
    let enlarge = "UPDATE events SET old = v.value, new = v.value
        FROM (SELECT jsonb_build_object('n', jsonb_agg(7)) AS value FROM generate_series(1, 4092)) v
        WHERE revision BETWEEN 100 AND 160";
    sqlx::query(enlarge).execute(&server.database.pool).await.unwrap();
    let received = messages(&mut open(&clients, from(&start)).await, UPDATES).await;
    let revisions: Vec<i64> = received.iter().flat_map(|message| &message.events).map(|event| event.revision).collect();
    assert_eq!(revisions, (3..).take(UPDATES).collect::<Vec<i64>>());
    assert!(received.iter().all(|message| !message.continued), "a write that fits into a message came in parts");
    // The cursor has advanced behind the events.
    let last = received.last().unwrap().cursor.clone();
    assert!(next(&mut open(&clients, from(&last)).await).await.events.is_empty());
}

/// Adds pending invitations directly, since quotas make calls slow.
async fn invite(database: &Database, organization: &str, count: i64) {
    sqlx::query(
        "INSERT INTO invitations (bucket, organization_id, id, identifier, identifier_normal, is_email, role, makes_owner,
                                  attributes, state, inviter_kind, inviter_id, expire_time, sends, send_time, create_time,
                                  update_time)
         SELECT organization_bucket_of($1::uuid), $1::uuid, gen_random_uuid(), 'guest-' || n, 'guest-' || n, false,
                'member', false, '{}', 'PENDING', 'user', 'ada', now() + interval '1 day', 0, now(), now(), now()
         FROM generate_series(1, $2) n",
    )
    .bind(organization)
    .bind(count)
    .execute(&database.pool)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_a_large_write_arrive_in_parts_with_a_cursor_behind_the_last() {
    // Each event has a reason of 2 000 bytes.
    const INVITATIONS: usize = 3_200;
    let server = Server::start().await;
    let clients = server.service(&[Scope::Manage]);
    let mut operator = server.operator();
    let [acme, beta] = [server.user("ada").create("Acme").await, server.user("ada").create("Beta").await];
    invite(&server.database, &acme, i64::try_from(INVITATIONS).unwrap()).await;
    let start = cursor(&clients).await;
    let mut watch = open(&clients, from(&start)).await;
    operator.add(&acme, "alan", "member").await;
    let request = pb::DeleteOrganizationRequest {
        organization: acme.clone(),
        reason: "\u{1f600}".repeat(500),
        ..Default::default()
    };
    operator.organizations.delete_organization(request).await.unwrap();
    operator.add(&beta, "alan", "member").await;
    let filtered = pb::WatchEventsRequest { types: vec!["invitation.revoked".to_owned()], ..from(&start) };
    // Opened one after the other: what a connection does not read is bounded for all its streams together.
    for (name, request, count) in [
        ("live", None, INVITATIONS + 3),
        ("resumed", Some(from(&start)), INVITATIONS + 3),
        ("filtered", Some(filtered), INVITATIONS),
    ] {
        if let Some(request) = request {
            watch = open(&clients, request).await;
        }
        let received = messages(&mut watch, count).await;
        let parts = received.iter().filter(|message| message.continued).count();
        assert_eq!(parts, 2, "{name}");
        let events = received.iter().flat_map(|message| &message.events);
        let revisions: Vec<i64> =
            events.filter(|event| event.organization_id == acme).map(|event| event.revision).collect();
        assert!(revisions.is_sorted() && revisions.len() + 1 >= count, "{name}");
        // A part begins with the write, and all parts but the last are marked.
        for (message, following) in received.iter().zip(&received[1..]).filter(|(message, _)| message.continued) {
            assert!(message.events.iter().all(|event| event.r#type.starts_with("invitation.revoked")), "{name}");
            assert!(following.events.iter().any(|event| event.organization_id == acme), "{name}");
        }
    }
    // A consumer that stops between two parts receives the whole write again, from the cursor before it.
    watch = open(&clients, from(&start)).await;
    let before = cursor_before_a_part(&mut watch).await.unwrap_or(start);
    let received = messages(&mut open(&clients, from(&before)).await, INVITATIONS + 1).await;
    let events = received.iter().flat_map(|message| &message.events);
    assert_eq!(events.filter(|event| event.r#type == "invitation.revoked").count(), INVITATIONS);
}

/// Reads up to the first part of a write. Returns the latest cursor, if there was one.
async fn cursor_before_a_part(watch: &mut Streaming<pb::WatchEventsResponse>) -> Option<String> {
    let mut latest = None;
    loop {
        let message = next(watch).await;
        if message.continued {
            return latest;
        }
        latest = Some(message.cursor).filter(|cursor| !cursor.is_empty()).or(latest);
    }
}

/// Appends one write of this many new members to the log, each with an id of 255 bytes.
async fn write_members(database: &Database, organization: &str, count: i64) {
    sqlx::query(
        "WITH head AS (
             UPDATE log_heads SET position = position + $2, write_time = clock_timestamp()
             WHERE bucket = organization_bucket_of($1::uuid) RETURNING bucket, position - $2 AS before, write_time)
         INSERT INTO log (bucket, position, commit_position, organization_id, revision, kind, entry, user_id, role,
                          write_time)
         SELECT head.bucket, before + n, before + $2, $1::uuid, o.revision + n, 'organization', 'MEMBERSHIP',
                rpad(n || '-', 255, 'x'), 'member', write_time
         FROM head, organizations o, generate_series(1, $2) n WHERE o.id = $1::uuid",
    )
    .bind(organization)
    .bind(count)
    .execute(&database.pool)
    .await
    .unwrap();
}

fn member(number: usize) -> String {
    format!("{:x<255}", format!("{number}-"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_changes_of_a_large_write_arrive_in_parts_and_the_cache_applies_them_together() {
    const MEMBERS: usize = 20_000;
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let acme = server.user("ada").create("Acme").await;
    let cache = MembershipCache::start(&client(&server).await, CacheSettings::default());
    soon(cache.caught_up()).await;
    let mut live = Watch::open(&clients, pb::WatchMembershipsRequest::default()).await;
    let start = live.next().await.checkpoint.unwrap().cursor;
    write_members(&server.database, &acme, i64::try_from(MEMBERS).unwrap()).await;
    let checks = [1, MEMBERS / 2, MEMBERS].map(|number| Check::member(&acme, &member(number)).unwrap());
    let applied = async {
        loop {
            let answers = cache.check_batch(&checks, &Consistency::Recent).await.unwrap();
            let allowed = answers.iter().filter(|answer| answer.is_allowed()).count();
            assert!(allowed == 0 || allowed == 3, "{allowed} members of one write: {answers:?}");
            if allowed == 3 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    soon(applied).await;
    let statistics = cache.statistics();
    assert_eq!((statistics.exports, statistics.gaps, statistics.interruptions), (1, 0, 0), "{statistics:?}");
    for mut watch in [live, Watch::from(&clients, &start).await] {
        let (mut users, mut parts) = (Vec::new(), 0);
        for message in watch.until(7).await {
            assert!(message.encoded_len() <= LIMIT, "{} bytes", message.encoded_len());
            assert!(!message.continued || message.checkpoint.is_none());
            parts += usize::from(message.continued);
            for change in message.changes {
                match change.change.unwrap() {
                    Change::Membership(change) => users.push(change.user_id),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(users, (1..=MEMBERS).map(member).collect::<Vec<_>>());
        assert_eq!(parts, 2, "6.9 MB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_of_a_large_write_do_not_hold_it() {
    const MEMBERS: usize = 60_000;
    const WATCHES: usize = 6;
    let database = Database::new().await;
    let serve = Serve::start(&database.url, "").await;
    serve.until(ServingStatus::Serving).await;
    let request = pb::CreateOrganizationRequest { owner_user_id: "ada".to_owned(), ..organization("Acme") };
    let created = serve.clients.clone().organizations.create_organization(request).await.unwrap().into_inner();
    let acme = created.organization.unwrap().id;
    let mut first = Watch::open(&serve.clients, pb::WatchMembershipsRequest::default()).await;
    let start = first.next().await.checkpoint.unwrap().cursor;
    write_members(&database, &acme, i64::try_from(MEMBERS).unwrap()).await;
    // The follower has applied the write when the watch has delivered it.
    first.until(1).await;
    let before = serve.peak_memory();
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        let connection = crate::harness::program::channel(&serve.address.to_string());
        let clients = crate::harness::program::clients(&connection, &serve.key);
        watches.push(Watch::from(&clients, &start).await);
    }
    let count =
        async |watch: &mut Watch| -> usize { watch.until(1).await.iter().map(|message| message.changes.len()).sum() };
    let counts = futures_util::future::join_all(watches.iter_mut().map(count)).await;
    assert_eq!(counts, [MEMBERS; WATCHES]);
    let grown = serve.peak_memory().saturating_sub(before);
    assert!(grown < 150 * 1024 * 1024, "{WATCHES} watches of 20 MB took {grown} bytes");
}

#[tokio::test]
async fn a_batch_of_the_largest_members_is_one_message_of_events() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Manage]);
    let mut operator = server.operator();
    let acme = server.user("ada").create("Acme").await;
    let start = cursor(&clients).await;
    let item = |number| pb::BatchAddMembersItem {
        person: Some(pb::batch_add_members_item::Person::UserId(format!("user-{number}"))),
        attributes: Some(attributes()),
        ..Default::default()
    };
    let request = pb::BatchAddMembersRequest {
        organization: acme.clone(),
        items: (0..23).map(item).collect(),
        reason: "\u{1f600}".repeat(500),
        ..Default::default()
    };
    assert!(request.encoded_len() > 1_000_000);
    operator.organizations.batch_add_members(request).await.unwrap();
    operator.organizations.add_member(add(&acme, "last", "member")).await.unwrap();
    let received = messages(&mut open(&clients, from(&start)).await, 24).await;
    let counts: Vec<usize> = received.iter().map(|message| message.events.len()).filter(|count| *count > 0).collect();
    assert!(counts == [23, 1] || counts == [24], "{counts:?}");
    assert!(received.iter().all(|message| !message.continued));
}
