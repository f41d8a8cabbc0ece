//! `WatchMemberships`: every change, in order, at least once, and never half of a write.

use super::copy::Copy;
use super::writers::{BATCH, Writers};
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

/// What went wrong with a watch that begins like this, before it told anything.
async fn error(clients: &Clients, first: pb::WatchMembershipsRequest) -> Status {
    Watch::open(clients, first).await.try_next().await.unwrap_err()
}

fn from(cursor: &str) -> pb::WatchMembershipsRequest {
    pb::WatchMembershipsRequest { cursor: cursor.to_owned(), ..Default::default() }
}

/// The first checkpoint, which comes at once.
async fn now(clients: &Clients) -> String {
    let message = Watch::open(clients, pb::WatchMembershipsRequest::default()).await.next().await;
    message.checkpoint.unwrap().cursor
}

/// Asserts that what belongs together came together, and in order.
fn assert_whole(message: &pb::WatchMembershipsResponse) {
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
            Change::User(_) => continue,
        };
        let before = revisions.insert(organization, revision);
        assert!(before.is_none_or(|before| before < revision), "{organization}: {before:?} before {revision}");
    }
    assert!(batches.values().all(|count| *count == BATCH), "half a write: {batches:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_torn_and_resumed_again_and_again_is_the_table() {
    let server = Server::start().await;
    let writers = Writers::begin(&server, 3);
    let (mut copy, mut cursor) = Copy::export(&server.service(&[Scope::Check]), "").await;
    let (mut torn, mut repeated) = (0_u32, 0_u32);
    while torn < 60 {
        // A connection of its own, which is torn down with everything on it.
        let clients = Clients::new(&server.connect().await, server.credential(&[Scope::Check]));
        let mut watch = Watch::from(&clients, &cursor).await;
        let mut since = 0;
        for _ in 0..torn % 7 {
            let message = watch.next().await;
            assert_whole(&message);
            copy.apply(&message);
            since += message.changes.len();
            if let Some(checkpoint) = message.checkpoint {
                cursor = checkpoint.cursor;
                since = 0;
            }
        }
        repeated += u32::from(since > 0);
        torn += 1;
    }
    writers.end().await;
    let mut watch = Watch::from(&server.service(&[Scope::Check]), &cursor).await;
    for message in watch.until(1).await {
        assert_whole(&message);
        copy.apply(&message);
    }
    assert_eq!(copy, Copy::of(&server.database).await);
    // Some were torn between what they told and its checkpoint: those were told again.
    assert!(repeated > 3, "{repeated}");
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn each_change_is_told_for_what_it_is() {
    let server = Server::start().await;
    let mut watch = Watch::open(&server.service(&[Scope::Manage]), pb::WatchMembershipsRequest::default()).await;
    watch.next().await;
    let mut operator = server.operator();
    let wish = pb::CreateOrganizationRequest {
        kind: "vendor".to_owned(),
        slug: "acme".to_owned(),
        owner_user_id: "ada".to_owned(),
        ..organization("Acme")
    };
    let made = operator.organizations.create_organization(wish).await.unwrap().into_inner().organization.unwrap();
    operator.add(&made.id, "alan", "member").await;
    operator.organizations.remove_member(remove(&made.id, "alan")).await.unwrap();
    let request = pb::DeactivateUserRequest { user_id: "alan".to_owned(), ..Default::default() };
    operator.users.deactivate_user(request).await.unwrap();
    let request = pb::DeleteOrganizationRequest { organization: made.id.clone(), purge: true, ..Default::default() };
    operator.organizations.delete_organization(request).await.unwrap();

    let messages = watch.until(1).await;
    let changes: Vec<Change> =
        messages.into_iter().flat_map(|message| message.changes).map(|change| change.change.unwrap()).collect();
    let (id, kind) = (made.id.clone(), "vendor".to_owned());
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

#[tokio::test]
async fn a_watch_tells_what_it_is_asked_for_and_no_more() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
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
    let [acme, beta] = made.as_slice() else { panic!("two were made") };
    let request = |organization: &str, user: &str, kind: &str| pb::WatchMembershipsRequest {
        organization: organization.to_owned(),
        user_id: user.to_owned(),
        kind: kind.to_owned(),
        ..Default::default()
    };
    // Each filter, with what it lets through: by organization, member, and whether users' states and the renaming.
    let both = ["Acme alan", "Acme grace", "Acme itself", "Beta alan", "Beta itself"];
    let filters = [
        (request("", "", ""), vec!["alan off", "grace off"], both.to_vec()),
        (request(&acme.id, "", ""), vec![], both[..3].to_vec()),
        (request(&beta.slug, "", ""), vec![], both[3..].to_vec()),
        (request("", "alan", ""), vec!["alan off"], vec!["Acme alan", "Beta alan"]),
        (request("", "", "vendor"), vec!["alan off", "grace off"], both[3..].to_vec()),
        (request(&acme.id, "alan", ""), vec![], vec!["Acme alan"]),
        (request("", "alan", "vendor"), vec!["alan off"], vec!["Beta alan"]),
        (request(&acme.id, "", "vendor"), vec![], vec![]),
        (request("", "", "no-such-kind"), vec!["alan off", "grace off"], vec![]),
        (request("", "nobody", ""), vec![], vec![]),
    ];
    let mut watches = Vec::new();
    for (first, users, organizations) in filters {
        let mut watch = Watch::open(&clients, first.clone()).await;
        watch.next().await;
        watches.push((first, users, organizations, watch));
    }
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
    for user in ["alan", "grace"] {
        let request = pb::DeactivateUserRequest { user_id: user.to_owned(), ..Default::default() };
        operator.users.deactivate_user(request).await.unwrap();
    }
    for (first, users, organizations, mut watch) in watches {
        let mut seen = (Vec::new(), Vec::new());
        let messages = watch.until(1).await;
        for change in messages.iter().flat_map(|message| &message.changes) {
            let name = |id: &String| if *id == acme.id { "Acme" } else { "Beta" };
            match change.change.as_ref().unwrap() {
                Change::Membership(change) => {
                    seen.1.push(format!("{} {}", name(&change.organization_id), change.user_id));
                }
                Change::Organization(change) => seen.1.push(format!("{} itself", name(&change.organization_id))),
                Change::User(change) => seen.0.push(format!("{} off", change.user_id)),
            }
        }
        seen.0.sort();
        seen.1.sort();
        let expected: (Vec<String>, Vec<String>) =
            (users.into_iter().map(str::to_owned).collect(), organizations.into_iter().map(str::to_owned).collect());
        assert_eq!(seen, expected, "{first:?}");
        // A cursor of a watch is good for one like it.
        let cursor = messages.last().unwrap().checkpoint.clone().unwrap().cursor;
        let mut again = pb::WatchMembershipsRequest { cursor: cursor.clone(), ..first.clone() };
        if again.organization == beta.slug {
            // It has another one by now.
            again.organization.clone_from(&beta.id);
        }
        assert!(Watch::open(&clients, again).await.next().await.changes.is_empty());
        // And for one of all only if it covers all.
        let narrow = !first.organization.is_empty() || !first.user_id.is_empty();
        let all = Watch::from(&clients, &cursor).await.try_next().await;
        assert_eq!(all.is_err(), narrow, "{first:?}");
        if narrow {
            assert_refused(all, Code::InvalidArgument, "INVALID_REQUEST");
        }
    }
}

#[tokio::test]
async fn a_watch_of_no_organization_is_refused() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    for organization in ["nowhere", "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11"] {
        let first = pb::WatchMembershipsRequest { organization: organization.to_owned(), ..Default::default() };
        let status = error(&clients, first).await;
        assert_eq!(refused::<()>(Err(status)), (Code::NotFound, "ORGANIZATION_NOT_FOUND".to_owned()));
    }
}

#[tokio::test]
async fn a_checkpoint_comes_every_second() {
    let server = Server::start().await;
    let mut watch = Watch::open(&server.service(&[Scope::Check]), pb::WatchMembershipsRequest::default()).await;
    let begin = Instant::now();
    for number in 0..4 {
        let message = watch.next().await;
        assert!(message.changes.is_empty() && message.checkpoint.is_some_and(|checkpoint| checkpoint.ping == 0));
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(900) * number, "{number} after {took:?}");
        assert!(took < Duration::from_secs(1) * number + Duration::from_secs(3), "{number} after {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_ping_is_told_before_its_answer() {
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
        let told = watch.until(number).await;
        let found = told
            .iter()
            .flat_map(|message| &message.changes)
            .any(|change| matches!(&change.change, Some(Change::Membership(change)) if change.user_id == user));
        assert!(found, "ping {number} was answered before {user} was told");
    }
    // Answered when they can be, not once a second.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn later_messages_only_ping() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let mut watch = Watch::open(&clients, pb::WatchMembershipsRequest { ping: 5, ..Default::default() }).await;
    let first = async { while watch.next().await.checkpoint.is_none_or(|checkpoint| checkpoint.ping != 5) {} };
    soon(first).await;
    let late = pb::WatchMembershipsRequest { kind: "vendor".to_owned(), ping: 6, ..Default::default() };
    watch.say.as_ref().unwrap().send(late).await.unwrap();
    let status = loop {
        match watch.try_next().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(refused::<()>(Err(status)), (Code::InvalidArgument, "INVALID_REQUEST".to_owned()));
    // Who has nothing more to say goes on listening.
    let mut watch = Watch::open(&clients, pb::WatchMembershipsRequest::default()).await;
    watch.say = None;
    for _ in 0..3 {
        assert!(watch.next().await.checkpoint.is_some());
    }
    // Who never says anything watches nothing.
    let (say, requests) = tokio::sync::mpsc::channel::<pb::WatchMembershipsRequest>(1);
    drop(say);
    let requests = tonic::codegen::tokio_stream::wrappers::ReceiverStream::new(requests);
    let answer = clients.checks.clone().watch_memberships(requests).await.unwrap().into_inner().message().await;
    assert_refused(answer, Code::InvalidArgument, "MALFORMED_MESSAGE");
}

async fn run(database: &Database, statement: &'static str) {
    sqlx::query(AssertSqlSafe(statement)).execute(&database.pool).await.unwrap();
}

#[tokio::test]
async fn a_cursor_that_the_log_no_longer_reaches_has_expired() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let begin = now(&clients).await;
    let acme = server.user("ada").create("Acme").await;
    for number in 0..5 {
        server.user("ada").add(&acme, &format!("user-{number}"), "member").await;
    }
    let end = now(&clients).await;
    // Good, as long as the log is whole.
    let mut watch = Watch::from(&clients, &begin).await;
    assert!(watch.until(1).await.iter().map(|message| message.changes.len()).sum::<usize>() >= 7);

    let expired = (Code::OutOfRange, "CURSOR_EXPIRED".to_owned());
    // What retention does: the oldest rows go.
    run(&server.database, "DELETE FROM log WHERE position <= 3").await;
    assert_eq!(refused::<()>(Err(error(&clients, from(&begin)).await)), expired);
    assert!(Watch::from(&clients, &end).await.next().await.checkpoint.is_some());
    // All of them: then the head alone tells that there were some.
    run(&server.database, "DELETE FROM log").await;
    assert_eq!(refused::<()>(Err(error(&clients, from(&begin)).await)), expired);
    assert!(Watch::from(&clients, &end).await.next().await.checkpoint.is_some());

    // Of another datastore.
    let other = Server::of_another_datastore().await;
    let foreign = now(&other.service(&[Scope::Check])).await;
    assert_eq!(refused::<()>(Err(error(&clients, from(&foreign)).await)), expired);
    // Of a time before writes were lost.
    run(&other.database, "UPDATE datastore SET epoch = epoch + 1").await;
    assert_eq!(refused::<()>(Err(error(&other.service(&[Scope::Check]), from(&foreign)).await)), expired);
}

#[tokio::test]
async fn a_watch_that_writes_were_lost_under_has_no_future() {
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
async fn a_write_of_any_size_comes_whole() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let acme = server.user("ada").create("Acme").await;
    let cursor = now(&clients).await;
    // Three writes, the middle one of more rows than are read at once.
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
    let mut told = Vec::new();
    while told.iter().sum::<usize>() < 3002 {
        let message = watch.next().await;
        let users = message.changes.iter().map(|change| match change.change.as_ref().unwrap() {
            Change::Membership(change) => change.user_id.as_str(),
            other => panic!("{other:?}"),
        });
        let users: Vec<_> = users.collect();
        // Those of the middle write are all there, or none of them.
        let middle = users.iter().filter(|user| !["user-1", "user-3002"].contains(user)).count();
        assert!(middle == 0 || middle == 3000, "{middle}");
        told.push(users.len());
    }
    assert_eq!(told.iter().sum::<usize>(), 3002);
}
