//! `WatchMemberships`: every change, in order, at least once, and each write in one message.

use super::memberships::Memberships;
use super::writers::{BATCH, Writers, apply_model, define};
use super::{Watch, soon};
use crate::harness::server::Clients;
use crate::harness::{Database, Server, add, assert_refused, organization, refused, remove};
use pb::memberships_change::Change;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use sqlx::AssertSqlSafe;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// The error of a watch that starts with this request, instead of its first message.
async fn error(clients: &Clients, first: pb::WatchMembershipsRequest) -> Status {
    Watch::open(clients, first).await.try_next().await.unwrap_err()
}

fn from(cursor: &str) -> pb::WatchMembershipsRequest {
    pb::WatchMembershipsRequest { cursor: cursor.to_owned(), ..Default::default() }
}

/// The cursor of the first checkpoint, which arrives at once.
async fn current_cursor(clients: &Clients) -> String {
    let message = Watch::open(clients, pb::WatchMembershipsRequest::default()).await.next().await;
    message.checkpoint.unwrap().cursor
}

/// Asserts that a message has whole writes, in the order of their revisions.
fn assert_whole_writes(message: &pb::WatchMembershipsResponse) {
    let mut revisions: BTreeMap<&str, i64> = BTreeMap::new();
    let mut batches: BTreeMap<&str, usize> = BTreeMap::new();
    for change in &message.changes {
        let (organization, revision) = match change.change.as_ref().unwrap() {
            Change::Membership(change) => {
                if !change.role.is_empty()
                    && change.user_id.starts_with("batch-")
                    && let Some((batch, _)) = change.user_id.rsplit_once('-')
                {
                    *batches.entry(batch).or_default() += 1;
                }
                (&change.organization_id, change.revision)
            }
            Change::Organization(change) => (&change.organization_id, change.revision),
            Change::Role(change) => (&change.organization_id, change.revision),
            Change::AccessModel(_) | Change::User(_) => continue,
        };
        let before = revisions.insert(organization, revision);
        assert!(before.is_none_or(|before| before < revision), "{organization}: {before:?} before {revision}");
    }
    assert!(batches.values().all(|count| *count == BATCH), "the message splits a write: {batches:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_disconnected_and_resumed_repeatedly_equals_the_tables() {
    let server = Server::start().await;
    let writers = Writers::with_roles(&server, 3);
    let (mut memberships, mut cursor) = Memberships::export(&server.service(&[Scope::Check]), "").await;
    let (mut disconnects, mut repeated) = (0_u32, 0_u32);
    while disconnects < 60 {
        // A new connection, which is closed together with its stream.
        let clients = Clients::new(&server.connect().await, server.credential(&[Scope::Check]));
        let mut watch = Watch::from(&clients, &cursor).await;
        let mut since = 0;
        for _ in 0..disconnects % 7 {
            let message = watch.next().await;
            assert_whole_writes(&message);
            memberships.apply(&message);
            since += message.changes.len();
            if let Some(checkpoint) = message.checkpoint {
                cursor = checkpoint.cursor;
                since = 0;
            }
        }
        repeated += u32::from(since > 0);
        disconnects += 1;
    }
    writers.end().await;
    let mut watch = Watch::from(&server.service(&[Scope::Check]), &cursor).await;
    for message in watch.until(1).await {
        assert_whole_writes(&message);
        memberships.apply(&message);
    }
    assert_eq!(memberships, Memberships::of(&server.database).await);
    // Some disconnects happened between changes and their checkpoint, so those changes were delivered again.
    assert!(repeated > 3, "{repeated}");
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn each_kind_of_change_is_delivered() {
    let server = Server::start().await;
    let mut watch = Watch::open(&server.service(&[Scope::Manage]), pb::WatchMembershipsRequest::default()).await;
    watch.next().await;
    let mut operator = server.operator();
    let request = pb::CreateOrganizationRequest {
        kind: "vendor".to_owned(),
        slug: "acme".to_owned(),
        owner_user_id: "ada".to_owned(),
        ..organization("Acme")
    };
    let created = operator.organizations.create_organization(request).await.unwrap().into_inner().organization.unwrap();
    operator.add(&created.id, "alan", "member").await;
    operator.organizations.remove_member(remove(&created.id, "alan")).await.unwrap();
    let request = pb::DeactivateUserRequest { user_id: "alan".to_owned(), ..Default::default() };
    operator.users.deactivate_user(request).await.unwrap();
    let request = pb::DeleteOrganizationRequest { organization: created.id.clone(), purge: true, ..Default::default() };
    operator.organizations.delete_organization(request).await.unwrap();

    let messages = watch.until(1).await;
    let changes: Vec<Change> =
        messages.into_iter().flat_map(|message| message.changes).map(|change| change.change.unwrap()).collect();
    let (id, kind) = (created.id.clone(), "vendor".to_owned());
    let of = |state: pb::OrganizationState, owner: &str, revision, purged| {
        Change::Organization(pb::OrganizationChange {
            organization_id: id.clone(),
            slug: "acme".to_owned(),
            kind: kind.clone(),
            state: state.into(),
            owner_id: owner.to_owned(),
            revision,
            purged,
        })
    };
    let member = |user: &str, role: &str, revision| {
        Change::Membership(pb::MembershipChange {
            organization_id: id.clone(),
            user_id: user.to_owned(),
            role: role.to_owned(),
            revision,
            kind: kind.clone(),
        })
    };
    let user =
        Change::User(pb::UserChange { user_id: "alan".to_owned(), state: pb::UserState::Inactive.into(), revision: 2 });
    let (users, organizations): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|change| matches!(change, Change::User(_)));
    assert_eq!(users, [user]);
    assert_eq!(
        organizations,
        [
            of(pb::OrganizationState::Active, "ada", 1, false),
            member("ada", "admin", 2),
            member("alan", "member", 3),
            member("alan", "", 4),
            of(pb::OrganizationState::Unspecified, "", 5, true),
        ]
    );
}

/// Adds members to two organizations, renames both, defines a role in each, applies an access model, and deactivates the
/// members.
async fn change_everything(operator: &mut Clients, acme: &pb::Organization, beta: &pb::Organization) {
    for (organization, user) in [(acme, "alan"), (acme, "grace"), (beta, "alan")] {
        operator.add(&organization.id, user, "member").await;
    }
    for organization in [acme, beta] {
        let name = format!("{} and sons", organization.name);
        let request = pb::UpdateOrganizationRequest {
            organization: organization.id.clone(),
            name,
            slug: format!("{}-and-sons", organization.slug),
            ..Default::default()
        };
        operator.organizations.update_organization(request).await.unwrap();
    }
    for organization in [acme, beta] {
        operator.roles.create_role(define(&organization.id, "org:own", &[])).await.unwrap();
    }
    operator.models.apply_access_model(apply_model(0)).await.unwrap();
    for user in ["alan", "grace"] {
        let request = pb::DeactivateUserRequest { user_id: user.to_owned(), ..Default::default() };
        operator.users.deactivate_user(request).await.unwrap();
    }
}

/// The changes in messages, by name and sorted: the model and states of users, then the others.
fn names_of(messages: &[pb::WatchMembershipsResponse], acme: &str) -> (Vec<String>, Vec<String>) {
    let mut received = (Vec::new(), Vec::new());
    for change in messages.iter().flat_map(|message| &message.changes) {
        let name = |id: &String| if id == acme { "Acme" } else { "Beta" };
        match change.change.as_ref().unwrap() {
            Change::Membership(change) => {
                received.1.push(format!("{} {}", name(&change.organization_id), change.user_id));
            }
            Change::Organization(change) => received.1.push(format!("{} renamed", name(&change.organization_id))),
            Change::Role(change) => received.1.push(format!("{} {}", name(&change.organization_id), change.role)),
            Change::AccessModel(change) => received.0.push(format!("model {}", change.revision)),
            Change::User(change) => received.0.push(format!("{} inactive", change.user_id)),
        }
    }
    received.0.sort();
    received.1.sort();
    received
}

#[tokio::test]
async fn a_watch_delivers_the_changes_of_its_filter_only() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
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
    let [acme, beta] = created.as_slice() else { panic!("two organizations were created") };
    let request = |organization: &str, user: &str, kind: &str| pb::WatchMembershipsRequest {
        organization: organization.to_owned(),
        user_id: user.to_owned(),
        kind: kind.to_owned(),
        ..Default::default()
    };
    // Each filter, with the changes that it delivers: the model and states of users, then the others.
    let both = ["Acme alan", "Acme grace", "Acme org:own", "Acme renamed", "Beta alan", "Beta org:own", "Beta renamed"];
    let all = vec!["alan inactive", "grace inactive", "model 1"];
    let filters = [
        (request("", "", ""), all.clone(), both.to_vec()),
        (request(&acme.id, "", ""), vec!["model 1"], both[..4].to_vec()),
        (request(&beta.slug, "", ""), vec!["model 1"], both[4..].to_vec()),
        (request("", "alan", ""), vec!["alan inactive"], vec!["Acme alan", "Beta alan"]),
        (request("", "", "vendor"), all.clone(), both[4..].to_vec()),
        (request(&acme.id, "alan", ""), vec![], vec!["Acme alan"]),
        (request("", "alan", "vendor"), vec!["alan inactive"], vec!["Beta alan"]),
        (request(&acme.id, "", "vendor"), vec!["model 1"], vec![]),
        (request("", "", "no-such-kind"), all, vec![]),
        (request("", "unknown", ""), vec![], vec![]),
    ];
    let mut watches = Vec::new();
    for (first, users, organizations) in filters {
        let mut watch = Watch::open(&clients, first.clone()).await;
        let present = names_of(&[watch.next().await], &acme.id).0;
        assert_eq!(present.is_empty(), !first.user_id.is_empty(), "{present:?}");
        watches.push((first, users, organizations, watch));
    }
    change_everything(&mut operator, acme, beta).await;
    for (first, users, organizations, mut watch) in watches {
        let messages = watch.until(1).await;
        let received = names_of(&messages, &acme.id);
        let expected: (Vec<String>, Vec<String>) =
            (users.into_iter().map(str::to_owned).collect(), organizations.into_iter().map(str::to_owned).collect());
        assert_eq!(received, expected, "{first:?}");
        // The cursor of a watch is valid for a watch with the same filter.
        let cursor = messages.last().unwrap().checkpoint.clone().unwrap().cursor;
        let mut again = pb::WatchMembershipsRequest { cursor: cursor.clone(), ..first.clone() };
        if again.organization == beta.slug {
            // Its slug has changed.
            again.organization.clone_from(&beta.id);
        }
        assert!(Watch::open(&clients, again).await.next().await.changes.is_empty());
        // It is valid for an unfiltered watch unless the filter names an organization or a user.
        let narrow = !first.organization.is_empty() || !first.user_id.is_empty();
        let all = Watch::from(&clients, &cursor).await.try_next().await;
        assert_eq!(all.is_err(), narrow, "{first:?}");
        if narrow {
            assert_refused(all, Code::InvalidArgument, "INVALID_REQUEST");
        }
    }
}

#[tokio::test]
async fn a_watch_of_an_unknown_organization_is_refused() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    for organization in ["nowhere", "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11"] {
        let first = pb::WatchMembershipsRequest { organization: organization.to_owned(), ..Default::default() };
        let status = error(&clients, first).await;
        assert_eq!(refused::<()>(Err(status)), (Code::NotFound, "ORGANIZATION_NOT_FOUND".to_owned()));
    }
}

#[tokio::test]
async fn a_checkpoint_arrives_every_second() {
    let server = Server::start().await;
    let mut watch = Watch::open(&server.service(&[Scope::Check]), pb::WatchMembershipsRequest::default()).await;
    let begin = Instant::now();
    for number in 0..4 {
        let message = watch.next().await;
        // The first message has the access model.
        assert_eq!(message.changes.len(), usize::from(number == 0));
        assert!(message.checkpoint.is_some_and(|checkpoint| checkpoint.ping == 0));
        let elapsed = begin.elapsed();
        assert!(elapsed >= Duration::from_millis(900) * number, "{number} after {elapsed:?}");
        assert!(elapsed < Duration::from_secs(1) * number + Duration::from_secs(3), "{number} after {elapsed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_acknowledged_before_a_ping_are_delivered_before_its_answer() {
    let server = Server::start().await;
    // Written through one process, watched through another.
    let other = Server::over(server.database.clone(), ServerSettings::default()).await;
    let acme = server.user("ada").create("Acme").await;
    let mut backend = server.service(&[Scope::Manage]);
    let mut watch = Watch::open(&other.service(&[Scope::Check]), pb::WatchMembershipsRequest::default()).await;
    watch.next().await;
    let begin = Instant::now();
    for number in 1..=40 {
        let user = format!("user-{number}");
        backend.organizations.add_member(add(&acme, &user, "member")).await.unwrap();
        let messages = watch.until(number).await;
        let delivered = messages
            .iter()
            .flat_map(|message| &message.changes)
            .any(|change| matches!(&change.change, Some(Change::Membership(change)) if change.user_id == user));
        assert!(delivered, "ping {number} was answered before the change of {user} arrived");
    }
    // Pings are answered as soon as possible, not once a second.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn later_requests_can_only_ping() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let mut watch = Watch::open(&clients, pb::WatchMembershipsRequest { ping: 5, ..Default::default() }).await;
    let first = async { while watch.next().await.checkpoint.is_none_or(|checkpoint| checkpoint.ping != 5) {} };
    soon(first).await;
    let late = pb::WatchMembershipsRequest { kind: "vendor".to_owned(), ping: 6, ..Default::default() };
    watch.requests.as_ref().unwrap().send(late).await.unwrap();
    let status = loop {
        match watch.try_next().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(refused::<()>(Err(status)), (Code::InvalidArgument, "INVALID_REQUEST".to_owned()));
    // The watch goes on after the client has ended its side.
    let mut watch = Watch::open(&clients, pb::WatchMembershipsRequest::default()).await;
    watch.requests = None;
    for _ in 0..3 {
        assert!(watch.next().await.checkpoint.is_some());
    }
    // A watch without a first request is refused.
    let (sender, requests) = tokio::sync::mpsc::channel::<pb::WatchMembershipsRequest>(1);
    drop(sender);
    let requests = tonic::codegen::tokio_stream::wrappers::ReceiverStream::new(requests);
    let answer = clients.checks.clone().watch_memberships(requests).await.unwrap().into_inner().message().await;
    let status = answer.unwrap_err();
    assert!(status.message().contains("first message"), "{status:?}");
    assert_refused::<()>(Err(status), Code::InvalidArgument, "INVALID_REQUEST");
}

async fn run(database: &Database, statement: &'static str) {
    sqlx::query(AssertSqlSafe(statement)).execute(&database.pool).await.unwrap();
}

#[tokio::test]
async fn a_cursor_older_than_the_log_has_expired() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let begin = current_cursor(&clients).await;
    let acme = server.user("ada").create("Acme").await;
    for number in 0..5 {
        server.user("ada").add(&acme, &format!("user-{number}"), "member").await;
    }
    let end = current_cursor(&clients).await;
    // Valid while the log is complete.
    let mut watch = Watch::from(&clients, &begin).await;
    assert!(watch.until(1).await.iter().map(|message| message.changes.len()).sum::<usize>() >= 7);

    let expired = (Code::OutOfRange, "CURSOR_EXPIRED".to_owned());
    // The retention deletes the oldest rows.
    run(&server.database, "DELETE FROM log WHERE position <= 3").await;
    assert_eq!(refused::<()>(Err(error(&clients, from(&begin)).await)), expired);
    assert!(Watch::from(&clients, &end).await.next().await.checkpoint.is_some());
    // Without any rows, only the head shows that rows existed.
    run(&server.database, "DELETE FROM log").await;
    assert_eq!(refused::<()>(Err(error(&clients, from(&begin)).await)), expired);
    assert!(Watch::from(&clients, &end).await.next().await.checkpoint.is_some());

    // A cursor of another datastore.
    let other = Server::of_another_datastore().await;
    let foreign = current_cursor(&other.service(&[Scope::Check])).await;
    assert_eq!(refused::<()>(Err(error(&clients, from(&foreign)).await)), expired);
    // A cursor from before a loss of writes.
    run(&other.database, "UPDATE datastore SET epoch = epoch + 1").await;
    assert_eq!(refused::<()>(Err(error(&other.service(&[Scope::Check]), from(&foreign)).await)), expired);
}

#[tokio::test]
async fn a_loss_of_writes_ends_open_watches() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let mut watch = Watch::open(&clients, pb::WatchMembershipsRequest::default()).await;
    watch.next().await;
    sqlx::query("UPDATE datastore SET epoch = epoch + 1").execute(&server.database.pool).await.unwrap();
    server.user("ada").create("Acme").await;
    let status = loop {
        match watch.try_next().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(refused::<()>(Err(status)), (Code::OutOfRange, "CURSOR_EXPIRED".to_owned()));
}

#[tokio::test]
async fn a_write_of_any_size_is_delivered_in_one_message() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let acme = server.user("ada").create("Acme").await;
    let cursor = current_cursor(&clients).await;
    // Three writes, the middle one with more rows than one read returns.
    sqlx::query(
        "WITH head AS (
             UPDATE log_heads SET position = position + 3002, write_time = clock_timestamp()
             WHERE bucket = organization_bucket_of($1::uuid) RETURNING bucket, position - 3002 AS before, write_time)
         INSERT INTO log (bucket, position, commit_position, organization_id, revision, kind, entry, user_id, role,
                          write_time)
         SELECT bucket, before + n, before + CASE n WHEN 1 THEN 1 WHEN 3002 THEN 3002 ELSE 3001 END, $1::uuid, 10 + n,
                'organization', 'MEMBERSHIP', 'user-' || n, 'member', write_time
         FROM head, generate_series(1, 3002) n",
    )
    .bind(&acme)
    .execute(&server.database.pool)
    .await
    .unwrap();
    let mut watch = Watch::from(&clients, &cursor).await;
    let mut counts = Vec::new();
    while counts.iter().sum::<usize>() < 3002 {
        let message = watch.next().await;
        let users = message.changes.iter().map(|change| match change.change.as_ref().unwrap() {
            Change::Membership(change) => change.user_id.as_str(),
            other => panic!("{other:?}"),
        });
        let users: Vec<_> = users.collect();
        // A message has all users of the middle write or none.
        let middle = users.iter().filter(|user| !["user-1", "user-3002"].contains(user)).count();
        assert!(middle == 0 || middle == 3000, "{middle}");
        counts.push(users.len());
    }
    assert_eq!(counts.iter().sum::<usize>(), 3002);
}
