//! User ids that look like other ones: refused in credentials and where a user is made or added, and still taken where a
//! stored user is read, changed or removed.

use crate::harness::bulk::Bulk;
use crate::harness::{Database, Server, assert_refused};
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use tonic::Code;

const SIMILAR_IDS: [&str; 9] = [
    " ada",
    "ada ",
    "ada\u{a0}",
    "\u{3000}ada",
    "ada\u{2800}",
    "a\u{200b}da",
    "ada\u{200d}",
    "\u{202e}ada",
    "ada\u{fe0f}",
];

#[tokio::test]
async fn similar_ids_cannot_sign_in() {
    let server = Server::start().await;
    for id in SIMILAR_IDS {
        let request = pb::ListUserOrganizationsRequest::default();
        let refused = server.user(id).organizations.list_user_organizations(request).await;
        assert_refused(refused, Code::Unauthenticated, "CREDENTIAL_INVALID");
        let mut service = server.with_token(&server.service_token(id, &[Scope::Manage]));
        let refused = service.users.list_users(pb::ListUsersRequest::default()).await;
        assert_refused(refused, Code::Unauthenticated, "CREDENTIAL_INVALID");
    }
    assert_eq!(server.database.count("SELECT count(*) FROM users").await, 0);
}

#[tokio::test]
async fn similar_ids_are_neither_made_nor_added() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    let mut operator = server.operator();
    let invalid = (Code::InvalidArgument, "INVALID_REQUEST");
    for id in SIMILAR_IDS {
        let (organization, id) = (acme.clone(), id.to_owned());
        let person = Some(pb::add_member_request::Person::UserId(id.clone()));
        let add = pb::AddMemberRequest { organization: organization.clone(), person, ..Default::default() };
        assert_refused(ada.organizations.add_member(add).await, invalid.0, invalid.1);
        let person = Some(pb::ensure_member_request::Person::UserId(id.clone()));
        let ensure = pb::EnsureMemberRequest { organization: organization.clone(), person, ..Default::default() };
        assert_refused(ada.organizations.ensure_member(ensure).await, invalid.0, invalid.1);
        let person = Some(pb::batch_add_members_item::Person::UserId(id.clone()));
        let items = vec![pb::BatchAddMembersItem { person, ..Default::default() }];
        let batch = pb::BatchAddMembersRequest { organization: organization.clone(), items, ..Default::default() };
        assert_refused(ada.organizations.batch_add_members(batch).await, invalid.0, invalid.1);
        let person = Some(pb::transfer_ownership_request::Person::UserId(id.clone()));
        let transfer = pb::TransferOwnershipRequest { organization, person, ..Default::default() };
        assert_refused(ada.organizations.transfer_ownership(transfer).await, invalid.0, invalid.1);
        let create =
            pb::CreateOrganizationRequest { name: "Beta".to_owned(), owner_user_id: id.clone(), ..Default::default() };
        assert_refused(operator.organizations.create_organization(create).await, invalid.0, invalid.1);
        let put = pb::PutUserRequest { user_id: id.clone(), ..Default::default() };
        assert_refused(operator.users.put_user(put).await, invalid.0, invalid.1);
        let reinstate = pb::ReinstateUserRequest { user_id: id, ..Default::default() };
        assert_refused(operator.users.reinstate_user(reinstate).await, invalid.0, invalid.1);
    }
    assert_eq!(server.database.count("SELECT count(*) FROM users").await, 1);
}

/// A datastore of a former release: `ada` owns an organization in which every look-alike is an admin.
async fn former() -> Database {
    let database = Database::new().await;
    let ids = SIMILAR_IDS.map(|id| format!("('{id}')")).join(", ");
    let users = format!("SELECT * FROM (VALUES ('ada'), {ids}) ids (id)");
    let organizations = "SELECT '07000000-0000-4000-8000-000000000001'::uuid AS id, 'acme' AS slug, 'ada' AS owner";
    let memberships =
        format!("SELECT '07000000-0000-4000-8000-000000000001'::uuid AS id, id AS user_id FROM ({users}) u");
    Bulk { users: &users, organizations, memberships: &memberships }.insert(&database).await;
    database
}

#[tokio::test]
async fn stored_similar_ids_are_read_changed_and_removed() {
    let server = Server::over(former().await, ServerSettings::default()).await;
    let (mut ada, mut operator) = (server.user("ada"), server.operator());
    let acme = || "acme".to_owned();
    for id in SIMILAR_IDS {
        let user_id = id.to_owned();
        let get = pb::GetUserRequest { user_id: user_id.clone() };
        assert_eq!(operator.users.get_user(get).await.unwrap().into_inner().user.unwrap().user_id, id);
        let get = pb::GetMemberRequest { organization: acme(), user_id: user_id.clone() };
        assert_eq!(ada.organizations.get_member(get).await.unwrap().into_inner().member.unwrap().user_id, id);
        let check = pb::CheckMembershipRequest { organization: acme(), user_id: user_id.clone(), ..Default::default() };
        assert!(operator.checks.check_membership(check).await.unwrap().into_inner().result.unwrap().allowed, "{id:?}");
        let list = pb::ListUserOrganizationsRequest { user_id: user_id.clone(), ..Default::default() };
        let listed = operator.organizations.list_user_organizations(list).await.unwrap().into_inner();
        assert_eq!(listed.organizations.len(), 1);
        let update = pb::UpdateMemberRequest {
            organization: acme(),
            user_id: user_id.clone(),
            role: "member".to_owned(),
            ..Default::default()
        };
        ada.organizations.update_member(update).await.unwrap();
        let list = pb::ListEventsRequest { organization: acme(), user_id: user_id.clone(), ..Default::default() };
        assert_eq!(ada.events.list_events(list).await.unwrap().into_inner().events.len(), 1);
        let remove = pb::RemoveMemberRequest { organization: acme(), user_id: user_id.clone(), ..Default::default() };
        ada.organizations.remove_member(remove).await.unwrap();
        let deactivate = pb::DeactivateUserRequest { user_id: user_id.clone(), ..Default::default() };
        operator.users.deactivate_user(deactivate).await.unwrap();
        let reactivate = pb::ReactivateUserRequest { user_id: user_id.clone(), ..Default::default() };
        operator.users.reactivate_user(reactivate).await.unwrap();
        let delete = pb::DeleteUserRequest { user_id, ..Default::default() };
        operator.users.delete_user(delete).await.unwrap();
    }
    // Pages continue behind each of them.
    let mut request =
        pb::ListUsersRequest { page_size: 1, states: vec![pb::UserState::Deleted.into()], ..Default::default() };
    let mut listed = Vec::new();
    loop {
        let page = operator.users.list_users(request.clone()).await.unwrap().into_inner();
        listed.extend(page.users.into_iter().map(|user| user.user_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    listed.sort();
    let mut wanted = SIMILAR_IDS.map(str::to_owned);
    wanted.sort();
    assert_eq!(listed, wanted);
}
