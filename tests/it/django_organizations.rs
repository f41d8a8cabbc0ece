//! Parity: each row of what the original does about organizations, types, memberships, owners, access, exceptions,
//! ordering and slugs, as a test by way of the wire.

use crate::harness::{
    Server, add, assert_refused, is_member, organization, reason, refused, remove, set_role, transfer,
};
use roster::domain::Scope;
use roster::grpc::pb;
use tonic::Code;

fn text(value: &str) -> prost_types::Value {
    prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(value.to_owned())) }
}

fn object(key: &str, value: &str) -> prost_types::Struct {
    prost_types::Struct { fields: [(key.to_owned(), text(value))].into() }
}

#[tokio::test]
async fn creating_makes_the_caller_member_admin_and_owner_at_once() {
    let server = Server::start().await;
    let mut ada = server.user_with_email("ada");
    let request = pb::CreateOrganizationRequest {
        kind: "vendor".to_owned(),
        attributes: Some(object("plan", "gold")),
        owner_attributes: Some(object("desk", "4")),
        ..organization("  Acme, Inc. ")
    };
    let made = ada.organizations.create_organization(request).await.unwrap().into_inner();
    assert!(!made.consistency_token.is_empty());
    let acme = made.organization.unwrap();
    assert_eq!((acme.name.as_str(), acme.slug.as_str(), acme.kind.as_str()), ("Acme, Inc.", "acme-inc", "vendor"));
    assert_eq!((acme.state(), acme.owner_user_id.as_str()), (pb::OrganizationState::Active, "ada"));
    assert_eq!(acme.attributes, Some(object("plan", "gold")));
    assert!(acme.create_time.is_some() && acme.update_time.is_some());

    let request = pb::GetMemberRequest { organization: acme.slug.clone(), user_id: String::new() };
    let member = ada.organizations.get_member(request).await.unwrap().into_inner().member.unwrap();
    assert_eq!((member.user_id.as_str(), member.role.as_str()), ("ada", "owner"));
    assert_eq!(member.attributes, Some(object("desk", "4")));
    let kinds: Vec<String> =
        sqlx::query_scalar("SELECT type FROM events ORDER BY revision").fetch_all(&server.database.pool).await.unwrap();
    assert_eq!(kinds, ["organization.created", "member.added"]);
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_slug_is_made_from_the_name_numbered_when_taken_and_kept_on_rename() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let mut slugs = Vec::new();
    for _ in 0..3 {
        let made = ada.organizations.create_organization(organization("Acme")).await.unwrap().into_inner();
        slugs.push(made.organization.unwrap().slug);
    }
    assert_eq!(slugs, ["acme", "acme-2", "acme-3"]);

    let request = pb::UpdateOrganizationRequest {
        organization: "acme".to_owned(),
        name: "Apex".to_owned(),
        ..Default::default()
    };
    let renamed = ada.organizations.update_organization(request).await.unwrap().into_inner().organization.unwrap();
    assert_eq!((renamed.name.as_str(), renamed.slug.as_str()), ("Apex", "acme"));

    // Names without ASCII letters still get a usable slug, and names of which nothing is left a random one.
    for name in ["株式会社", "!!!"] {
        let made = ada.organizations.create_organization(organization(name)).await.unwrap().into_inner();
        assert!(roster::domain::Slug::parse(&made.organization.unwrap().slug).is_ok());
    }
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_given_slug_is_honoured_or_refused_by_name() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let wish = |slug: &str| pb::CreateOrganizationRequest { slug: slug.to_owned(), ..organization("Acme") };
    let made = ada.organizations.create_organization(wish("The-One")).await.unwrap().into_inner();
    assert_eq!(made.organization.unwrap().slug, "the-one");
    let taken = ada.organizations.create_organization(wish("THE-ONE")).await;
    assert_refused(taken, Code::AlreadyExists, "SLUG_TAKEN");
    let shaped = ada.organizations.create_organization(wish("7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11")).await;
    assert_refused(shaped, Code::InvalidArgument, "INVALID_REQUEST");
    // A slug names its organization as well as the id does, without regard to case.
    let request = pb::GetOrganizationRequest { organization: "The-ONE".to_owned() };
    assert!(ada.organizations.get_organization(request).await.is_ok());
}

#[tokio::test]
async fn kinds_never_mix_in_listings() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    for (name, kind) in [("A", "account"), ("B", "vendor"), ("C", "account")] {
        let name = format!("{name} organization");
        let request = pb::CreateOrganizationRequest { kind: kind.to_owned(), ..organization(&name) };
        ada.organizations.create_organization(request).await.unwrap();
    }
    let request = pb::ListUserOrganizationsRequest { kind: "account".to_owned(), ..Default::default() };
    let mine = ada.organizations.list_user_organizations(request).await.unwrap().into_inner().organizations;
    let mut names: Vec<String> = mine.into_iter().map(|mine| mine.organization.unwrap().name).collect();
    names.sort();
    assert_eq!(names, ["A organization", "C organization"]);
    let request = pb::ListOrganizationsRequest { kind: "vendor".to_owned(), ..Default::default() };
    let all = server.operator().organizations.list_organizations(request).await.unwrap().into_inner().organizations;
    assert_eq!(all.iter().map(|all| all.name.as_str()).collect::<Vec<_>>(), ["B organization"]);
}

#[tokio::test]
async fn backends_create_for_another_owner_or_for_nobody_yet() {
    let server = Server::start().await;
    let mut backend = server.service(&[Scope::Manage]);
    let request = pb::CreateOrganizationRequest { owner_user_id: "grace".to_owned(), ..organization("Navy") };
    let navy = backend.organizations.create_organization(request.clone()).await.unwrap().into_inner();
    assert_eq!(navy.organization.unwrap().owner_user_id, "grace");
    let by_user = server.user("ada").organizations.create_organization(request).await;
    assert_refused(by_user, Code::PermissionDenied, "CALLER_NOT_ALLOWED");

    let waiting = backend.organizations.create_organization(organization("Waiting")).await.unwrap().into_inner();
    let waiting = waiting.organization.unwrap();
    assert_eq!((waiting.state(), waiting.owner_user_id.as_str()), (pb::OrganizationState::Pending, ""));
    let mut checker = server.service(&[Scope::Check]);
    let answer = checker.checks.check_membership(is_member(&waiting.id, "ada")).await.unwrap().into_inner();
    assert_eq!(answer.result.unwrap().reason(), pb::CheckReason::OrganizationPending);

    // The first member becomes its owner, whatever role was wished for, and activates it.
    backend.add(&waiting.id, "ada", "member").await;
    let request = pb::GetOrganizationRequest { organization: waiting.id.clone() };
    let now = backend.organizations.get_organization(request).await.unwrap().into_inner().organization.unwrap();
    assert_eq!((now.state(), now.owner_user_id.as_str()), (pb::OrganizationState::Active, "ada"));
    backend.add(&waiting.id, "alan", "member").await;
    let request = pb::GetMemberRequest { organization: waiting.id, user_id: "alan".to_owned() };
    let alan = backend.organizations.get_member(request).await.unwrap().into_inner().member.unwrap();
    assert_eq!(alan.role, "member");
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_display_name_is_never_empty_and_addresses_are_for_those_who_may() {
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
    let seen = |members: Vec<pb::Member>| -> Vec<(String, String)> {
        members.into_iter().map(|member| (member.display_name, member.email)).collect()
    };
    let by_owner = ada.organizations.list_members(request.clone()).await.unwrap().into_inner().members;
    assert_eq!(
        seen(by_owner),
        [
            ("ada@example.com".to_owned(), "ada@example.com".to_owned()),
            ("Grace Hopper".to_owned(), "grace@example.com".to_owned()),
            ("id-only".to_owned(), String::new()),
        ]
    );
    let by_member = server.user("id-only").organizations.list_members(request).await.unwrap().into_inner().members;
    assert!(by_member.iter().all(|member| member.attributes.is_none() || member.user_id == "id-only"));
    assert_eq!(
        seen(by_member),
        [
            ("ada".to_owned(), String::new()),
            ("Grace Hopper".to_owned(), String::new()),
            ("id-only".to_owned(), String::new()),
        ]
    );
}

#[tokio::test]
async fn adding_twice_is_named_and_ensuring_changes_nothing() {
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
        ("nobody@example.com", Code::NotFound, "USER_NOT_FOUND"),
        ("twin@example.com", Code::FailedPrecondition, "EMAIL_AMBIGUOUS"),
    ] {
        assert_refused(ada.organizations.add_member(by_email(email)).await, code, reason);
    }
}

#[tokio::test]
async fn removing_and_leaving_and_the_owner_who_stays() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "admin").await;
    ada.add(&acme, "alan", "member").await;
    let mut grace = server.user("grace");
    let mut alan = server.user("alan");

    assert_refused(ada.organizations.remove_member(remove(&acme, "nobody")).await, Code::NotFound, "MEMBER_NOT_FOUND");
    // The owner is not removed, demoted, deactivated or deleted, and does not leave.
    let required = |answer| assert_eq!(answer, (Code::FailedPrecondition, "OWNERSHIP_REQUIRED".to_owned()));
    required(refused(grace.organizations.remove_member(remove(&acme, "ada")).await));
    required(refused(ada.organizations.remove_member(remove(&acme, "ada")).await));
    required(refused(grace.organizations.update_member(set_role(&acme, "ada", "member")).await));
    required(refused(ada.organizations.update_member(set_role(&acme, "ada", "admin")).await));
    let leave = pb::LeaveOrganizationRequest { organization: acme.clone(), ..Default::default() };
    required(refused(ada.organizations.leave_organization(leave.clone()).await));
    let mut operator = server.operator();
    let whom = "ada".to_owned();
    let deactivate = pb::DeactivateUserRequest { user_id: whom.clone(), ..Default::default() };
    required(refused(operator.users.deactivate_user(deactivate).await));
    let delete = pb::DeleteUserRequest { user_id: whom, ..Default::default() };
    required(refused(operator.users.delete_user(delete).await));

    alan.organizations.leave_organization(leave.clone()).await.unwrap();
    assert_refused(alan.organizations.leave_organization(leave).await, Code::PermissionDenied, "PERMISSION_DENIED");
    grace.organizations.remove_member(remove(&acme, "grace")).await.unwrap();
    let mut checker = server.service(&[Scope::Check]);
    for gone in ["alan", "grace"] {
        assert!(!checker.is_member(&acme, gone).await);
        // Users survive their memberships.
        let request = pb::GetUserRequest { user_id: gone.to_owned() };
        assert!(operator.users.get_user(request).await.is_ok());
    }
    assert!(checker.is_member(&acme, "ada").await);
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn ownership_moves_to_an_active_member_by_owner_or_operator() {
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
    // To the present owner: succeeds, changes nothing, emits nothing.
    ada.organizations.transfer_ownership(transfer(&acme, "ada")).await.unwrap();
    assert_eq!(server.database.count("SELECT revision FROM organizations").await, before);

    let moved = ada.organizations.transfer_ownership(transfer(&acme, "grace")).await.unwrap().into_inner();
    assert_eq!(moved.organization.unwrap().owner_user_id, "grace");
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
async fn nobody_grants_or_takes_what_they_do_not_have() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "admin").await;
    ada.add(&acme, "alan", "member").await;
    let mut grace = server.user("grace");
    grace.organizations.update_member(set_role(&acme, "alan", "admin")).await.unwrap();
    grace.organizations.update_member(set_role(&acme, "alan", "member")).await.unwrap();
    // The owner's attributes are above an admin.
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
    // `owner` is not a role to hand out.
    assert_refused(
        ada.organizations.update_member(set_role(&acme, "grace", "owner")).await,
        Code::InvalidArgument,
        "INVALID_REQUEST",
    );
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn deleting_is_soft_undone_by_its_owner_and_final_by_an_operator() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "admin").await;
    let named = || pb::DeleteOrganizationRequest { organization: acme.clone(), ..Default::default() };
    let mut grace = server.user("grace");
    let by_admin = grace.organizations.delete_organization(named()).await;
    assert_refused(by_admin, Code::PermissionDenied, "ROLE_LACKS_PERMISSION");
    let deleted = ada.organizations.delete_organization(named()).await.unwrap().into_inner().organization.unwrap();
    assert_eq!(deleted.state(), pb::OrganizationState::Deleted);
    assert!(deleted.purge_time.is_some());
    // Out of sight at once.
    let get = pb::GetOrganizationRequest { organization: acme.clone() };
    for mut member in [ada.clone(), grace.clone()] {
        let answer = member.organizations.get_organization(get.clone()).await;
        assert_refused(answer, Code::PermissionDenied, "PERMISSION_DENIED");
    }
    let mut checker = server.service(&[Scope::Check]);
    let answer = checker.checks.check_membership(is_member(&acme, "ada")).await.unwrap().into_inner().result.unwrap();
    assert_eq!((answer.allowed, answer.reason()), (false, pb::CheckReason::OrganizationNotFound));

    let undelete = pb::UndeleteOrganizationRequest { organization: acme.clone(), ..Default::default() };
    let by_admin = grace.organizations.undelete_organization(undelete.clone()).await;
    assert_refused(by_admin, Code::PermissionDenied, "PERMISSION_DENIED");
    ada.organizations.undelete_organization(undelete).await.unwrap();
    assert!(checker.is_member(&acme, "grace").await);

    let purge = pb::DeleteOrganizationRequest { purge: true, ..named() };
    let by_owner = ada.organizations.delete_organization(purge.clone()).await;
    assert_refused(by_owner, Code::PermissionDenied, "OPERATOR_REQUIRED");
    server.operator().organizations.delete_organization(purge).await.unwrap();
    assert_eq!(server.database.count("SELECT count(*) FROM memberships").await, 0);
    assert_eq!(server.database.count("SELECT count(*) FROM slugs").await, 0);
    // Users survive their organizations.
    assert_eq!(server.database.count("SELECT count(*) FROM users").await, 2);
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn an_inactive_organization_is_read_but_not_changed() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "member").await;
    let off = pb::DeactivateOrganizationRequest { organization: acme.clone(), ..Default::default() };
    let on = pb::ActivateOrganizationRequest { organization: acme.clone(), ..Default::default() };
    ada.organizations.deactivate_organization(off.clone()).await.unwrap();
    let get = pb::GetOrganizationRequest { organization: acme.clone() };
    assert!(server.user("grace").organizations.get_organization(get).await.is_ok());
    let listed = ada.organizations.list_user_organizations(pb::ListUserOrganizationsRequest::default()).await.unwrap();
    assert!(listed.into_inner().organizations.is_empty());
    let mut checker = server.service(&[Scope::Check]);
    let answer = checker.checks.check_membership(is_member(&acme, "ada")).await.unwrap().into_inner().result.unwrap();
    assert_eq!((answer.allowed, answer.reason()), (false, pb::CheckReason::OrganizationInactive));
    let inactive = |answer| assert_eq!(answer, (Code::FailedPrecondition, "ORGANIZATION_INACTIVE".to_owned()));
    inactive(refused(ada.organizations.add_member(add(&acme, "alan", "")).await));
    inactive(refused(ada.organizations.remove_member(remove(&acme, "grace")).await));
    // Save transfer, activation and deletion.
    ada.organizations.transfer_ownership(transfer(&acme, "grace")).await.unwrap();
    let mut grace = server.user("grace");
    grace.organizations.activate_organization(on.clone()).await.unwrap();
    assert!(checker.is_member(&acme, "ada").await);
    // What an operator switched off only an operator switches on.
    server.operator().organizations.deactivate_organization(off).await.unwrap();
    let by_owner = grace.organizations.activate_organization(on.clone()).await;
    assert_refused(by_owner, Code::PermissionDenied, "OPERATOR_REQUIRED");
    server.operator().organizations.activate_organization(on).await.unwrap();
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_deleted_user_loses_memberships_and_profile_and_the_id_is_never_taken_again() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    let mut grace = server.user_with_email("grace");
    let club = grace.create("Club").await;
    ada.add(&acme, "grace", "admin").await;
    let mut operator = server.operator();
    let delete = pb::DeleteUserRequest { user_id: "grace".to_owned(), ..Default::default() };
    let dry = pb::DeleteUserRequest { validate_only: true, ..delete.clone() };
    let told = operator.users.delete_user(dry.clone()).await.unwrap().into_inner();
    assert_eq!((told.owned_organizations, told.removed_memberships), (vec![club.clone()], 1));
    let refused = operator.users.delete_user(delete.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "OWNERSHIP_REQUIRED");
    grace.add(&club, "ada", "admin").await;
    grace.organizations.transfer_ownership(transfer(&club, "ada")).await.unwrap();
    let told = operator.users.delete_user(dry).await.unwrap().into_inner();
    assert!(told.owned_organizations.is_empty());
    let gone = operator.users.delete_user(delete).await.unwrap().into_inner();
    assert_eq!(gone.removed_memberships, 2);
    let user = gone.user.unwrap();
    assert_eq!((user.state(), user.email.as_str()), (pb::UserState::Deleted, ""));
    let answer = ada.organizations.add_member(add(&acme, "grace", "")).await;
    assert_refused(answer, Code::FailedPrecondition, "USER_DELETED");
    let answer = grace.users.get_caller(pb::GetCallerRequest {}).await;
    assert_refused(answer, Code::PermissionDenied, "CALLER_INACTIVE");
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn lists_are_totally_ordered_and_paged() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let mut ids = Vec::new();
    for number in 0..7 {
        ids.push(ada.create(if number % 2 == 0 { "Same" } else { "Other" }).await);
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListUserOrganizationsRequest { page_size: 2, page_token, ..Default::default() };
        let page = ada.organizations.list_user_organizations(request).await.unwrap().into_inner();
        assert!(page.organizations.len() <= 2);
        seen.extend(page.organizations.into_iter().map(|mine| mine.organization.unwrap().id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    ids.sort();
    assert_eq!(seen, ids);
    // A token belongs to its request.
    let request = pb::ListUserOrganizationsRequest { page_size: 1, ..Default::default() };
    let token = ada.organizations.list_user_organizations(request).await.unwrap().into_inner().next_page_token;
    let request =
        pb::ListUserOrganizationsRequest { kind: "account".to_owned(), page_token: token, ..Default::default() };
    assert_refused(ada.organizations.list_user_organizations(request).await, Code::InvalidArgument, "INVALID_REQUEST");
}

#[tokio::test]
async fn a_superuser_passes_every_rule_and_is_a_member_of_nothing_by_that() {
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
async fn a_page_ends_early_rather_than_be_larger_than_clients_take() {
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
    let mut seen = Vec::new();
    loop {
        // The client takes 4 MiB: a larger page would be an error here.
        let page = ada.organizations.list_members(request.clone()).await.unwrap().into_inner();
        seen.extend(page.members.into_iter().map(|member| member.user_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let mut expected: Vec<String> =
        (0..6).flat_map(|batch| (0..100).map(move |number| format!("user-{batch}-{number:03}"))).collect();
    expected.insert(0, "ada".to_owned());
    assert_eq!(seen, expected);
}
