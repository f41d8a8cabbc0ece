//! The versions of memberships whose role is deleted with more members than one transaction moves.

use super::apply;
use super::define::{create, fixture, get};
use super::replacement::{MANY, add_many, decide, move_all};
use crate::harness::server::Clients;
use crate::harness::{Server, assert_refused, set_role};
use roster::grpc::pb;
use serde_json::json;
use tonic::Code;

async fn member(caller: &mut Clients, organization: &str, user: &str) -> pb::Member {
    let request = pb::GetMemberRequest { organization: organization.to_owned(), user_id: user.to_owned() };
    let one = caller.organizations.get_member(request).await.unwrap().into_inner().member.unwrap();
    let (organization, page_size) = (organization.to_owned(), 1_000);
    let request = pb::ListMembersRequest { organization, page_size, ..Default::default() };
    let listed = caller.organizations.list_members(request).await.unwrap().into_inner().members;
    assert!(listed.iter().filter(|listed| listed.user_id == user).all(|listed| *listed == one), "{listed:?}");
    one
}

/// Asserts that the decision to replace a role is a change of its member, and the move of the member is none.
async fn assert_changed_once(server: &Server, acme: &str, user: &str, [before, decided]: [&pb::Member; 2]) {
    assert_ne!(before.etag, decided.etag);
    let time = |member: &pb::Member| member.update_time.map(|time| (time.seconds, time.nanos));
    assert!(time(decided) > time(before));
    let mut ada = server.user("ada");
    let stale = pb::UpdateMemberRequest { etag: before.etag.clone(), ..set_role(acme, user, "admin") };
    assert_refused(ada.organizations.update_member(stale).await, Code::Aborted, "ETAG_MISMATCH");
    move_all(server).await;
    while server.roster.tidy().await.unwrap().moved > 0 {}
    assert_eq!(member(&mut ada, acme, user).await, *decided);
    let fresh = pb::UpdateMemberRequest { etag: decided.etag.clone(), ..set_role(acme, user, "admin") };
    ada.organizations.update_member(fresh).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_role_of_the_organization_changes_its_members_when_it_is_deleted() {
    let (server, acme) = fixture().await;
    let mut ada = server.user("ada");
    ada.roles.create_role(create(&acme, "org:auditor", &["billing.read"])).await.unwrap();
    add_many(&server.database, &acme, "org:auditor", MANY).await;
    let before = member(&mut ada, &acme, "auditor-1").await;
    decide(&mut ada, &acme, "org:auditor", "member").await;
    let decided = member(&mut ada, &acme, "auditor-1").await;
    assert_eq!([before.role.as_str(), decided.role.as_str()], ["org:auditor", "member"]);
    // The deleted role shows what another role holds, and has no version any more.
    let role = get(&mut ada, &acme, "org:auditor").await.unwrap();
    assert_eq!((role.etag.as_str(), role.update_time, role.create_time.is_some()), ("", None, true));
    assert_changed_once(&server, &acme, "auditor-1", [&before, &decided]).await;
    server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_role_of_the_deployment_changes_its_members_when_it_is_removed() {
    let (server, acme) = fixture().await;
    let mut ada = server.user("ada");
    add_many(&server.database, &acme, "accountant", MANY).await;
    let before = member(&mut ada, &acme, "accountant-1").await;
    let mut request = apply(json!({ "roles": [{ "name": "clerk", "permissions": [] }] }));
    request.replace_roles.insert("accountant".to_owned(), "clerk".to_owned());
    let applied = server.operator().models.apply_access_model(request).await.unwrap().into_inner();
    assert_eq!(applied.roles_moving_later, ["accountant"]);
    let decided = member(&mut ada, &acme, "accountant-1").await;
    assert_eq!([before.role.as_str(), decided.role.as_str()], ["accountant", "clerk"]);
    // A later model leaves the time of the replacement.
    let later = apply(json!({ "roles": [{ "name": "clerk", "title": "Clerk", "permissions": [] }] }));
    server.operator().models.apply_access_model(later).await.unwrap();
    assert_eq!(member(&mut ada, &acme, "accountant-1").await, decided);
    assert_changed_once(&server, &acme, "accountant-1", [&before, &decided]).await;
    server.database.assert_invariants().await;
}
