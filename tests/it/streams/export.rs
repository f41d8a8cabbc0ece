//! `ExportMemberships`: the content of the tables as of the cursor.

use super::memberships::Memberships;
use super::writers::{Writers, apply_model, define};
use super::{Watch, soon};
use crate::harness::bulk;
use crate::harness::server::Clients;
use crate::harness::{Server, organization};
use roster::domain::Scope;
use roster::grpc::pb;
use roster::service::limits;

#[tokio::test]
async fn an_export_equals_the_tables() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let (empty, _) = Memberships::export(&clients, "").await;
    assert_eq!(empty, Memberships::of(&server.database).await);
    assert_eq!(empty.model.unwrap().revision, 0);

    let mut operator = server.operator();
    operator.models.apply_access_model(apply_model(0)).await.unwrap();
    for (name, kind) in [("Acme", "account"), ("Beta", "vendor"), ("Gone", "vendor"), ("Pending", "account")] {
        let owner_user_id = if name == "Pending" { String::new() } else { "ada".to_owned() };
        let request = pb::CreateOrganizationRequest { kind: kind.to_owned(), owner_user_id, ..organization(name) };
        let created = operator.organizations.create_organization(request).await.unwrap().into_inner();
        let id = created.organization.unwrap().id;
        if name != "Pending" {
            for (role, words) in [("org:reader", vec!["billing.read"]), ("org:none", vec![])] {
                operator.roles.create_role(define(&id, role, &words)).await.unwrap();
            }
            operator.add(&id, "grace", "admin").await;
            operator.add(&id, "alan", "org:reader").await;
            operator.add(&id, "eve", "clerk").await;
        }
        if name == "Gone" {
            let request = pb::DeleteOrganizationRequest { organization: id, ..Default::default() };
            operator.organizations.delete_organization(request).await.unwrap();
        }
    }
    let request = pb::DeactivateUserRequest { user_id: "alan".to_owned(), ..Default::default() };
    operator.users.deactivate_user(request).await.unwrap();
    let request = pb::DeleteUserRequest { user_id: "grace".to_owned(), ..Default::default() };
    operator.users.delete_user(request).await.unwrap();

    let table = Memberships::of(&server.database).await;
    assert_eq!((table.organizations.len(), table.users.len(), table.roles.len()), (4, 2, 6));
    assert_eq!(table.model.as_ref().unwrap().roles["clerk"].1, ["billing.read".to_owned()].into());
    let (memberships, _) = Memberships::export(&clients, "").await;
    assert_eq!(memberships, table);
    // An export of one kind has its organizations and every inactive user.
    let (vendors, _) = Memberships::export(&clients, "vendor").await;
    let of_kind = |id: &String| table.organizations[id].1 == "vendor";
    let expected = Memberships {
        model: table.model.clone(),
        roles: table.roles.clone().into_iter().filter(|((id, _), _)| of_kind(id)).collect(),
        organizations: table.organizations.clone().into_iter().filter(|(id, _)| of_kind(id)).collect(),
        members: table.members.clone().into_iter().filter(|((id, _), _)| of_kind(id)).collect(),
        users: table.users.clone(),
    };
    assert_eq!(vendors, expected);
    assert_eq!(
        Memberships::export(&clients, "no-such-kind").await.0,
        Memberships { users: table.users, model: table.model, ..Memberships::default() }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_during_writes_and_a_watch_from_its_cursor_equal_the_tables() {
    let server = Server::start().await;
    let clients = server.service(&[Scope::Check]);
    let writers = Writers::with_roles(&server, 3);
    soon(writers.until(100)).await;
    for round in 0..4 {
        let (mut memberships, cursor) = Memberships::export(&clients, "").await;
        soon(writers.until(writers.written() + 50)).await;
        let mut watch = Watch::from(&clients, &cursor).await;
        // The client applies changes while the writers go on, and compares after they have stopped.
        if round == 3 {
            writers.end().await;
            for message in watch.until(9).await {
                memberships.apply(&message);
            }
            assert_eq!(memberships, Memberships::of(&server.database).await);
            assert!(memberships.members.len() > 20 && memberships.model.unwrap().revision > 0);
            break;
        }
        for message in watch.until(1).await {
            memberships.apply(&message);
        }
    }
    server.database.assert_invariants().await;
}

/// Creates an organization and inserts this many members directly, since adding them by calls takes long.
async fn create_with_members(server: &Server, members: i64) -> String {
    let id = server.user("ada").create("Large").await;
    bulk::add_members(&server.database, &id, members).await;
    id
}

#[tokio::test]
async fn a_large_organization_is_split_into_parts() {
    let server = Server::start().await;
    let id = create_with_members(&server, 30_000).await;
    let clients = server.service(&[Scope::Check]);
    let request = pb::ExportMembershipsRequest::default();
    let mut parts = clients.checks.clone().export_memberships(request).await.unwrap().into_inner();
    let (mut count, mut sizes) = (0, Vec::new());
    while let Some(part) = soon(parts.message()).await.unwrap() {
        sizes.push(prost::Message::encoded_len(&part));
        for exported in part.organizations {
            let organization = exported.organization.unwrap();
            assert_eq!((organization.organization_id, organization.owner_id), (id.clone(), "ada".to_owned()));
            count += exported.members.len();
        }
    }
    assert_eq!(count, 30_001);
    assert!(sizes.len() >= 80 && sizes.iter().all(|size| *size < 70_000), "{sizes:?}");
}

#[tokio::test]
async fn exports_wait_for_their_turn_without_a_connection_or_a_snapshot() {
    let server = Server::start().await;
    create_with_members(&server, 20_000).await;
    // Each over a new connection: an unread stream blocks the other streams of its connection.
    let open = || async {
        let clients = Clients::new(&server.connect().await, server.credential(&[Scope::Check]));
        let request = pb::ExportMembershipsRequest::default();
        clients.checks.clone().export_memberships(request).await.unwrap().into_inner()
    };
    let mut started = Vec::new();
    for _ in 0..6 {
        started.push(open().await);
    }
    let snapshots = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()";
    let most: i64 = sqlx::query_scalar(snapshots).fetch_one(&server.database.pool).await.unwrap();
    assert!(most <= i64::try_from(limits::EXPORTS_PER_CALLER).unwrap(), "{most} snapshots");
    // The first ones do not read, and lose their turns.
    let mut last = started.pop().unwrap();
    let mut count = 0;
    while let Some(part) = soon(last.message()).await.unwrap() {
        count += part.organizations.iter().map(|organization| organization.members.len()).sum::<usize>();
    }
    assert_eq!(count, 20_001);
    drop(started);
    server.database.assert_no_open_transactions().await;
}
