//! Writes that wait for one row, and reads that wait, leave connections to Postgres to other calls.

use crate::harness::raw::{self, Call};
use crate::harness::server::Clients;
use crate::harness::{Database, Server, add, is_member, organization};
use roster::domain::Scope;
use roster::grpc::pb;
use sqlx::{AssertSqlSafe, Postgres, Transaction};
use std::future::Future;
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::{Code, Request, Status};

/// The connections of the server's pool.
const CONNECTIONS: u32 = 4;
const WRITES: usize = 256;

/// A request whose deadline no wait of these tests reaches.
fn patient<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(30));
    request
}

/// Clients over a connection of their own: a connection has at most 256 calls under way.
async fn writer(server: &Server) -> Clients {
    Clients::new(&server.connect().await, server.credential(&[Scope::Operator]))
}

/// Locks rows until the transaction ends.
async fn hold<'p>(database: &'p Database, statement: &str) -> Transaction<'p, Postgres> {
    let mut transaction = database.pool.begin().await.unwrap();
    sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut *transaction).await.unwrap();
    transaction
}

/// The sessions of the server that wait for a lock.
async fn waiting(database: &Database) -> i64 {
    database
        .count(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'roster'
             AND wait_event_type = 'Lock'",
        )
        .await
}

/// Waits until this many sessions of the server wait for a lock.
async fn until_waiting(database: &Database, sessions: i64) {
    let reached = async {
        while waiting(database).await < sessions {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), reached).await.is_ok(), "the calls do not wait for the lock");
}

/// Runs many writes that wait for a row which this statement locks. While they wait, a write to another row and reads succeed.
async fn assert_others_go_on<F>(server: &Server, lock: &str, write: impl Fn(usize) -> F)
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let mut operator = server.operator();
    let other = operator.create("Other").await;
    let held = hold(&server.database, lock).await;
    let mut writes = JoinSet::new();
    for number in 0..WRITES {
        writes.spawn(write(number));
    }
    until_waiting(&server.database, 2).await;
    for number in 0..8 {
        operator.add(&other, &format!("user-{number}"), "member").await;
        let list = pb::ListMembersRequest { organization: other.clone(), ..Default::default() };
        operator.organizations.list_members(list).await.unwrap();
        let consistency = pb::Consistency { requirement: Some(pb::consistency::Requirement::FullyConsistent(true)) };
        let check = pb::CheckMembershipRequest {
            consistency: Some(consistency),
            ..is_member(&other, &format!("user-{number}"))
        };
        assert!(operator.checks.check_membership(check).await.unwrap().into_inner().result.unwrap().allowed);
    }
    assert_eq!(waiting(&server.database).await, 2, "the writes hold more connections than their queue admits");
    held.rollback().await.unwrap();
    for outcome in writes.join_all().await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn writes_to_one_organization_leave_connections_to_others() {
    let server = Server::with_connections(CONNECTIONS).await;
    let id = server.operator().create("Acme").await;
    let lock = format!("SELECT FROM organizations WHERE id = '{id}' FOR UPDATE");
    let clients = writer(&server).await;
    let write = |number| {
        let (mut clients, request) = (clients.clone(), add(&id, &format!("user-{number}"), "member"));
        async move { clients.organizations.add_member(patient(request)).await.map(drop) }
    };
    assert_others_go_on(&server, &lock, write).await;
    let members = "SELECT count(*) FROM memberships WHERE user_id LIKE 'user-%' AND organization_id =
        (SELECT id FROM organizations WHERE name = 'Acme')";
    assert_eq!(server.database.count(members).await, 256);
}

#[tokio::test]
async fn writes_to_one_user_leave_connections_to_others() {
    let server = Server::with_connections(CONNECTIONS).await;
    let put = pb::PutUserRequest { user_id: "ada".to_owned(), display_name: "Ada".to_owned(), ..Default::default() };
    server.operator().users.put_user(put.clone()).await.unwrap();
    let clients = writer(&server).await;
    let write = |number| {
        let (mut clients, name) = (clients.clone(), format!("Ada {number}"));
        let request = pb::PutUserRequest { display_name: name, ..put.clone() };
        async move { clients.users.put_user(patient(request)).await.map(drop) }
    };
    assert_others_go_on(&server, "SELECT FROM users WHERE id = 'ada' FOR UPDATE", write).await;
}

#[tokio::test]
async fn writes_that_claim_one_slug_leave_connections_to_others() {
    let server = Server::with_connections(CONNECTIONS).await;
    let clients = writer(&server).await;
    let write = |number| {
        let mut clients = clients.clone();
        let request =
            pb::CreateOrganizationRequest { slug: "acme".to_owned(), ..organization(&format!("Acme {number}")) };
        async move {
            match clients.organizations.create_organization(patient(request)).await {
                Err(status) if crate::harness::reason(&status) != "SLUG_TAKEN" => Err(status),
                _ => Ok(()),
            }
        }
    };
    let lock = "INSERT INTO slugs (slug, bucket, organization_id)
        VALUES ('acme', 7, '07000000-0000-4000-8000-000000000000')";
    assert_others_go_on(&server, lock, write).await;
    assert_eq!(server.database.count("SELECT count(*) FROM organizations WHERE slug = 'acme'").await, 1);
}

#[tokio::test]
async fn writes_with_one_request_id_leave_connections_to_others() {
    let server = Server::with_connections(CONNECTIONS).await;
    let mut operator = server.operator();
    let id = operator.create("Acme").await;
    let request = pb::AddMemberRequest {
        request_id: "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11".to_owned(),
        ..add(&id, "ada", "member")
    };
    // The first write claims the id, and waits for the organization. The others wait for the first.
    let lock = format!("SELECT FROM organizations WHERE id = '{id}' FOR UPDATE");
    let clients = writer(&server).await;
    let write = |_| {
        let (mut clients, request) = (clients.clone(), request.clone());
        async move { clients.organizations.add_member(patient(request)).await.map(drop) }
    };
    assert_others_go_on(&server, &lock, write).await;
}

#[tokio::test]
async fn a_write_waits_in_its_queue_until_its_deadline() {
    let server = Server::with_connections(CONNECTIONS).await;
    let mut operator = server.operator();
    let id = operator.create("Acme").await;
    let held = hold(&server.database, &format!("SELECT FROM organizations WHERE id = '{id}' FOR UPDATE")).await;
    let mut writes = JoinSet::new();
    for number in 0..4 {
        let (path, message) = raw::add(&id, &format!("user-{number}"), "");
        let call = Call::grpc(&path, &message).bearer(&server.service_token("root", &[Scope::Operator]));
        writes.spawn(raw::send(server.address, call.with("grpc-timeout", "500m")));
    }
    for answer in writes.join_all().await {
        assert_eq!(answer.reason.as_deref(), Some("DEADLINE_EXCEEDED"));
    }
    held.rollback().await.unwrap();
    operator.add(&id, "ada", "member").await;
    let added = "SELECT count(*) FROM memberships WHERE user_id LIKE 'user-%'";
    assert_eq!(server.database.count(added).await, 0);
}

#[tokio::test]
async fn reads_leave_a_connection_to_writes() {
    let server = Server::with_connections(CONNECTIONS).await;
    let mut operator = server.operator();
    let id = operator.create("Acme").await;
    let held = hold(&server.database, "LOCK TABLE invitations IN ACCESS EXCLUSIVE MODE").await;
    let mut reads = JoinSet::new();
    for _ in 0..64 {
        let mut clients = operator.clone();
        let request = pb::ListInvitationsRequest { organization: id.clone(), ..Default::default() };
        reads.spawn(async move { clients.invitations.list_invitations(patient(request)).await.map(drop) });
    }
    until_waiting(&server.database, 3).await;
    // Creating an organization by an operator touches neither invitations nor a read of the pool.
    for number in 0..8 {
        operator.create(&format!("Beta {number}")).await;
    }
    assert_eq!(waiting(&server.database).await, 3, "reads hold more than their share of the connections");
    held.rollback().await.unwrap();
    while let Some(read) = reads.join_next().await {
        match read.unwrap() {
            Ok(()) => {}
            // No connection in time, or no room for the answer.
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
}
