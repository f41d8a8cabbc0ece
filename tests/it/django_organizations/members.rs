//! Members: profiles, additions, removals, roles, ownership and deleted users.

use super::object;
use crate::harness::{Server, add, assert_refused, reason, refused, remove, set_role, transfer};
use roster::domain::Scope;
use roster::grpc::pb;
use tonic::Code;

#[tokio::test]
async fn a_display_name_is_never_empty_and_addresses_need_a_permission() {
    let server = Server::start().await;
    let mut ada = server.user_with_email("ada");
    let acme = ada.create("Acme").await;
    let put = pb::PutUserRequest {
        user_id: "grace".to_owned(),
        email: "grace@example.com".to_owned(),
        display_name: "Grace Hopper".to_owned(),
        ..Default::default()
    };
    server.service(&[Scope::Manage]).users.put_user(put).await.unwrap();
    ada.add(&acme, "grace", "member").await;
    ada.add(&acme, "id-only", "member").await;
    let request = pb::ListMembersRequest { organization: acme.clone(), ..Default::default() };
    let names = |members: Vec<pb::Member>| -> Vec<(String, String)> {
        members.into_iter().map(|member| (member.display_name, member.email)).collect()
    };
    let by_owner = ada.organizations.list_members(request.clone()).await.unwrap().into_inner().members;
    assert_eq!(
        names(by_owner),
        [
            ("ada@example.com".to_owned(), "ada@example.com".to_owned()),
            ("Grace Hopper".to_owned(), "grace@example.com".to_owned()),
            ("id-only".to_owned(), String::new()),
        ]
    );
    let by_member = server.user("id-only").organizations.list_members(request).await.unwrap().into_inner().members;
    assert!(by_member.iter().all(|member| member.attributes.is_none() || member.user_id == "id-only"));
    assert_eq!(
        names(by_member),
        [
            ("ada".to_owned(), String::new()),
            ("Grace Hopper".to_owned(), String::new()),
            ("id-only".to_owned(), String::new()),
        ]
    );
}

#[tokio::test]
async fn adding_twice_is_refused_and_ensuring_changes_nothing() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "admin").await;
    assert_refused(
        ada.organizations.add_member(add(&acme, "grace", "member")).await,
        Code::AlreadyExists,
        "ALREADY_MEMBER",
    );
    let ensure = |user: &str, role: &str| pb::EnsureMemberRequest {
        organization: acme.clone(),
        person: Some(pb::ensure_member_request::Person::UserId(user.to_owned())),
        role: role.to_owned(),
        ..Default::default()
    };
    let found = ada.organizations.ensure_member(ensure("grace", "member")).await.unwrap().into_inner();
    assert_eq!((found.created, found.member.unwrap().role.as_str()), (false, "admin"));
    let made = ada.organizations.ensure_member(ensure("alan", "")).await.unwrap().into_inner();
    assert_eq!((made.created, made.member.unwrap().role.as_str()), (true, "member"));
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn members_are_added_by_verified_address_of_one_active_user() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    let mut backend = server.service(&[Scope::Manage]);
    let mut put = async |id: &str, email: &str, email_verified: bool| {
        let request = pb::PutUserRequest {
            user_id: id.to_owned(),
            email: email.to_owned(),
            email_verified,
            ..Default::default()
        };
        backend.users.put_user(request).await.unwrap();
    };
    put("grace", "Grace@Example.com", true).await;
    put("mallory", "ada@example.com", false).await;
    put("twin-1", "twin@example.com", true).await;
    put("twin-2", "twin@example.com", true).await;
    let by_email = |email: &str| pb::AddMemberRequest {
        organization: acme.clone(),
        person: Some(pb::add_member_request::Person::Email(email.to_owned())),
        ..Default::default()
    };
    let added = ada.organizations.add_member(by_email("grace@EXAMPLE.com")).await.unwrap().into_inner();
    assert_eq!(added.member.unwrap().user_id, "grace");
    for (email, code, reason) in [
        ("ada@example.com", Code::NotFound, "USER_NOT_FOUND"),
        ("unknown@example.com", Code::NotFound, "USER_NOT_FOUND"),
        ("twin@example.com", Code::FailedPrecondition, "EMAIL_AMBIGUOUS"),
    ] {
        assert_refused(ada.organizations.add_member(by_email(email)).await, code, reason);
    }
}

#[tokio::test]
async fn members_are_removed_and_leave_but_the_owner_stays() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "admin").await;
    ada.add(&acme, "alan", "member").await;
    let mut grace = server.user("grace");
    let mut alan = server.user("alan");

    assert_refused(
        ada.organizations.remove_member(remove(&acme, "stranger")).await,
        Code::NotFound,
        "MEMBER_NOT_FOUND",
    );
    // The owner cannot be removed, demoted, deactivated or deleted, and cannot leave.
    let required = |answer| assert_eq!(answer, (Code::FailedPrecondition, "OWNERSHIP_REQUIRED".to_owned()));
    required(refused(grace.organizations.remove_member(remove(&acme, "ada")).await));
    required(refused(ada.organizations.remove_member(remove(&acme, "ada")).await));
    required(refused(grace.organizations.update_member(set_role(&acme, "ada", "member")).await));
    required(refused(ada.organizations.update_member(set_role(&acme, "ada", "admin")).await));
    let leave = pb::LeaveOrganizationRequest { organization: acme.clone(), ..Default::default() };
    required(refused(ada.organizations.leave_organization(leave.clone()).await));
    let mut operator = server.operator();
    let user_id = "ada".to_owned();
    let deactivate = pb::DeactivateUserRequest { user_id: user_id.clone(), ..Default::default() };
    required(refused(operator.users.deactivate_user(deactivate).await));
    let delete = pb::DeleteUserRequest { user_id, ..Default::default() };
    required(refused(operator.users.delete_user(delete).await));

    alan.organizations.leave_organization(leave.clone()).await.unwrap();
    assert_refused(alan.organizations.leave_organization(leave).await, Code::PermissionDenied, "PERMISSION_DENIED");
    grace.organizations.remove_member(remove(&acme, "grace")).await.unwrap();
    let mut checker = server.service(&[Scope::Check]);
    for former in ["alan", "grace"] {
        assert!(!checker.is_member(&acme, former).await);
        // Users outlive their memberships.
        let request = pb::GetUserRequest { user_id: former.to_owned() };
        assert!(operator.users.get_user(request).await.is_ok());
    }
    assert!(checker.is_member(&acme, "ada").await);
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn the_owner_or_an_operator_transfers_the_ownership_to_an_active_member() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "member").await;
    ada.add(&acme, "alan", "admin").await;
    assert_refused(
        ada.organizations.transfer_ownership(transfer(&acme, "stranger")).await,
        Code::FailedPrecondition,
        "TARGET_NOT_MEMBER",
    );
    let mut alan = server.user("alan");
    assert_refused(
        alan.organizations.transfer_ownership(transfer(&acme, "alan")).await,
        Code::PermissionDenied,
        "ROLE_LACKS_PERMISSION",
    );
    let mut operator = server.operator();
    let deactivate = pb::DeactivateUserRequest { user_id: "alan".to_owned(), ..Default::default() };
    operator.users.deactivate_user(deactivate).await.unwrap();
    assert_refused(
        ada.organizations.transfer_ownership(transfer(&acme, "alan")).await,
        Code::FailedPrecondition,
        "USER_INACTIVE",
    );

    let before = server.database.count("SELECT revision FROM organizations").await;
    // A transfer to the present owner succeeds, changes nothing and emits no event.
    ada.organizations.transfer_ownership(transfer(&acme, "ada")).await.unwrap();
    assert_eq!(server.database.count("SELECT revision FROM organizations").await, before);

    let transferred = ada.organizations.transfer_ownership(transfer(&acme, "grace")).await.unwrap().into_inner();
    assert_eq!(transferred.organization.unwrap().owner_user_id, "grace");
    let role = async |user: &str| {
        let request = pb::GetMemberRequest { organization: acme.clone(), user_id: user.to_owned() };
        server.operator().organizations.get_member(request).await.unwrap().into_inner().member.unwrap().role
    };
    assert_eq!((role("ada").await, role("grace").await), ("admin".to_owned(), "owner".to_owned()));
    operator.organizations.transfer_ownership(transfer(&acme, "ada")).await.unwrap();
    assert_eq!((role("ada").await, role("grace").await), ("owner".to_owned(), "admin".to_owned()));
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_caller_cannot_change_a_role_above_their_own() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "admin").await;
    ada.add(&acme, "alan", "member").await;
    let mut grace = server.user("grace");
    grace.organizations.update_member(set_role(&acme, "alan", "admin")).await.unwrap();
    grace.organizations.update_member(set_role(&acme, "alan", "member")).await.unwrap();
    // An admin cannot change the owner's attributes.
    let request = pb::UpdateMemberRequest {
        organization: acme.clone(),
        user_id: "ada".to_owned(),
        attributes: Some(object("desk", "1")),
        ..Default::default()
    };
    assert_refused(
        grace.organizations.update_member(request.clone()).await,
        Code::PermissionDenied,
        "ROLE_ABOVE_CALLER",
    );
    assert!(ada.organizations.update_member(request).await.is_ok());
    // `owner` is not a role that an update can grant.
    assert_refused(
        ada.organizations.update_member(set_role(&acme, "grace", "owner")).await,
        Code::InvalidArgument,
        "INVALID_REQUEST",
    );
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_deleted_user_loses_memberships_and_profile_and_the_id_is_never_reused() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    let mut grace = server.user_with_email("grace");
    let club = grace.create("Club").await;
    ada.add(&acme, "grace", "admin").await;
    let mut operator = server.operator();
    let delete = pb::DeleteUserRequest { user_id: "grace".to_owned(), ..Default::default() };
    let dry_run = pb::DeleteUserRequest { validate_only: true, ..delete.clone() };
    let answer = operator.users.delete_user(dry_run.clone()).await.unwrap().into_inner();
    assert_eq!((answer.owned_organizations, answer.removed_memberships), (vec![club.clone()], 1));
    let refused = operator.users.delete_user(delete.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "OWNERSHIP_REQUIRED");
    grace.add(&club, "ada", "admin").await;
    grace.organizations.transfer_ownership(transfer(&club, "ada")).await.unwrap();
    let answer = operator.users.delete_user(dry_run).await.unwrap().into_inner();
    assert!(answer.owned_organizations.is_empty());
    let deleted = operator.users.delete_user(delete).await.unwrap().into_inner();
    assert_eq!(deleted.removed_memberships, 2);
    let user = deleted.user.unwrap();
    assert_eq!((user.state(), user.email.as_str()), (pb::UserState::Deleted, ""));
    let answer = ada.organizations.add_member(add(&acme, "grace", "")).await;
    assert_refused(answer, Code::FailedPrecondition, "USER_DELETED");
    let answer = grace.users.get_caller(pb::GetCallerRequest {}).await;
    assert_refused(answer, Code::PermissionDenied, "CALLER_INACTIVE");
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn an_operator_passes_every_rule_without_being_a_member() {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let mut operator = server.operator();
    operator.add(&acme, "grace", "admin").await;
    let request = pb::ListUserOrganizationsRequest::default();
    let mine = operator.organizations.list_user_organizations(request).await;
    assert_refused(mine, Code::InvalidArgument, "INVALID_REQUEST");
    assert!(!operator.is_member(&acme, "root").await);
    let leave = pb::LeaveOrganizationRequest { organization: acme, ..Default::default() };
    let left = operator.organizations.leave_organization(leave).await;
    assert_refused(left, Code::PermissionDenied, "CALLER_NOT_ALLOWED");
}

#[tokio::test]
async fn a_page_ends_early_before_it_exceeds_the_message_size_of_clients() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    let heavy = object("note", &"x".repeat(8000));
    for batch in 0..6 {
        let items = (0..100).map(|number| pb::BatchAddMembersItem {
            person: Some(pb::batch_add_members_item::Person::UserId(format!("user-{batch}-{number:03}"))),
            attributes: Some(heavy.clone()),
            ..Default::default()
        });
        let request =
            pb::BatchAddMembersRequest { organization: acme.clone(), items: items.collect(), ..Default::default() };
        ada.organizations.batch_add_members(request).await.unwrap();
    }
    let mut request = pb::ListMembersRequest { organization: acme.clone(), page_size: 1000, ..Default::default() };
    let mut user_ids = Vec::new();
    loop {
        // The client accepts 4 MiB: a larger page would be an error here.
        let page = ada.organizations.list_members(request.clone()).await.unwrap().into_inner();
        user_ids.extend(page.members.into_iter().map(|member| member.user_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let mut expected: Vec<String> =
        (0..6).flat_map(|batch| (0..100).map(move |number| format!("user-{batch}-{number:03}"))).collect();
    expected.insert(0, "ada".to_owned());
    assert_eq!(user_ids, expected);
}
