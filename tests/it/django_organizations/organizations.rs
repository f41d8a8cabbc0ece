//! Organizations: creation, slugs, kinds, states and lists.

use super::object;
use crate::harness::{Server, add, assert_refused, is_member, organization, refused, remove, transfer};
use roster::domain::Scope;
use roster::grpc::pb;
use tonic::Code;

#[tokio::test]
async fn the_creator_becomes_member_admin_and_owner_at_once() {
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
    // Beyond -100, random digits.
    for number in 4..=100 {
        let made = ada.organizations.create_organization(organization("Acme")).await.unwrap().into_inner();
        assert_eq!(made.organization.unwrap().slug, format!("acme-{number}"));
    }
    let made = ada.organizations.create_organization(organization("Acme")).await.unwrap().into_inner();
    let slug = made.organization.unwrap().slug;
    let digits = slug.strip_prefix("acme-").unwrap();
    assert!(digits.len() == 10 && digits.chars().all(|c| c.is_ascii_hexdigit()), "{slug}");

    let request = pb::UpdateOrganizationRequest {
        organization: "acme".to_owned(),
        name: "Apex".to_owned(),
        ..Default::default()
    };
    let renamed = ada.organizations.update_organization(request).await.unwrap().into_inner().organization.unwrap();
    assert_eq!((renamed.name.as_str(), renamed.slug.as_str()), ("Apex", "acme"));

    // Names without ASCII letters still get a usable slug, and names without any letter a random one.
    for (name, beginning) in [("株式会社", ""), ("!!!", "org-")] {
        let made = ada.organizations.create_organization(organization(name)).await.unwrap().into_inner();
        let slug = made.organization.unwrap().slug;
        assert!(slug.starts_with(beginning) && roster::domain::Slug::parse(&slug).is_ok(), "{slug}");
    }
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_given_slug_is_used_or_refused_with_a_named_reason() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let request = |slug: &str| pb::CreateOrganizationRequest { slug: slug.to_owned(), ..organization("Acme") };
    let made = ada.organizations.create_organization(request("The-One")).await.unwrap().into_inner();
    assert_eq!(made.organization.unwrap().slug, "the-one");
    let taken = ada.organizations.create_organization(request("THE-ONE")).await;
    assert_refused(taken, Code::AlreadyExists, "SLUG_TAKEN");
    let shaped = ada.organizations.create_organization(request("7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11")).await;
    assert_refused(shaped, Code::InvalidArgument, "INVALID_REQUEST");
    // A slug names its organization as well as the id does, without regard to case.
    let request = pb::GetOrganizationRequest { organization: "The-ONE".to_owned() };
    assert!(ada.organizations.get_organization(request).await.is_ok());
}

#[tokio::test]
async fn listings_of_one_kind_contain_no_other_kind() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    for (name, kind) in [("A", "account"), ("B", "vendor"), ("C", "account")] {
        let name = format!("{name} organization");
        let request = pb::CreateOrganizationRequest { kind: kind.to_owned(), ..organization(&name) };
        ada.organizations.create_organization(request).await.unwrap();
    }
    let request = pb::ListUserOrganizationsRequest { kind: "account".to_owned(), ..Default::default() };
    let page = ada.organizations.list_user_organizations(request).await.unwrap().into_inner().organizations;
    let mut names: Vec<String> = page.into_iter().map(|entry| entry.organization.unwrap().name).collect();
    names.sort();
    assert_eq!(names, ["A organization", "C organization"]);
    let request = pb::ListOrganizationsRequest { kind: "vendor".to_owned(), ..Default::default() };
    let vendors = server.operator().organizations.list_organizations(request).await.unwrap().into_inner().organizations;
    assert_eq!(vendors.iter().map(|vendor| vendor.name.as_str()).collect::<Vec<_>>(), ["B organization"]);
}

#[tokio::test]
async fn backends_create_organizations_for_another_owner_or_without_an_owner() {
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

    // The first member becomes the owner, regardless of the requested role, and activates the organization.
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
async fn the_owner_deletes_softly_and_restores_and_an_operator_purges() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "admin").await;
    let delete = || pb::DeleteOrganizationRequest { organization: acme.clone(), ..Default::default() };
    let mut grace = server.user("grace");
    let by_admin = grace.organizations.delete_organization(delete()).await;
    assert_refused(by_admin, Code::PermissionDenied, "ROLE_LACKS_PERMISSION");
    let deleted = ada.organizations.delete_organization(delete()).await.unwrap().into_inner().organization.unwrap();
    assert_eq!(deleted.state(), pb::OrganizationState::Deleted);
    assert!(deleted.purge_time.is_some());
    // Hidden at once.
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

    let purge = pb::DeleteOrganizationRequest { purge: true, ..delete() };
    let by_owner = ada.organizations.delete_organization(purge.clone()).await;
    assert_refused(by_owner, Code::PermissionDenied, "OPERATOR_REQUIRED");
    server.operator().organizations.delete_organization(purge).await.unwrap();
    assert_eq!(server.database.count("SELECT count(*) FROM memberships").await, 0);
    assert_eq!(server.database.count("SELECT count(*) FROM slugs").await, 0);
    // Users outlive their organizations.
    assert_eq!(server.database.count("SELECT count(*) FROM users").await, 2);
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn an_inactive_organization_is_readable_but_not_writable() {
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
    // Exceptions: transfer, activation and deletion.
    ada.organizations.transfer_ownership(transfer(&acme, "grace")).await.unwrap();
    let mut grace = server.user("grace");
    grace.organizations.activate_organization(on.clone()).await.unwrap();
    assert!(checker.is_member(&acme, "ada").await);
    // Only an operator reactivates an organization that an operator deactivated.
    server.operator().organizations.deactivate_organization(off).await.unwrap();
    let by_owner = grace.organizations.activate_organization(on.clone()).await;
    assert_refused(by_owner, Code::PermissionDenied, "OPERATOR_REQUIRED");
    server.operator().organizations.activate_organization(on).await.unwrap();
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
    let mut listed_ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListUserOrganizationsRequest { page_size: 2, page_token, ..Default::default() };
        let page = ada.organizations.list_user_organizations(request).await.unwrap().into_inner();
        assert!(page.organizations.len() <= 2);
        listed_ids.extend(page.organizations.into_iter().map(|entry| entry.organization.unwrap().id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    ids.sort();
    assert_eq!(listed_ids, ids);
    // A page token belongs to its request.
    let request = pb::ListUserOrganizationsRequest { page_size: 1, ..Default::default() };
    let token = ada.organizations.list_user_organizations(request).await.unwrap().into_inner().next_page_token;
    let request =
        pb::ListUserOrganizationsRequest { kind: "account".to_owned(), page_token: token, ..Default::default() };
    assert_refused(ada.organizations.list_user_organizations(request).await, Code::InvalidArgument, "INVALID_REQUEST");
}
