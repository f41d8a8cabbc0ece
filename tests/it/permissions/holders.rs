//! `ListMembersWithPermission`.

use super::{Fixture, WORDS, apply, model};
use crate::harness::{Server, assert_refused, transfer};
use roster::domain::{Permission, Scope};
use roster::grpc::pb;
use roster::server::ServerSettings;
use tonic::{Code, Status};
use tonic_types::StatusExt;

fn request(organization: &str, permission: &str) -> pb::ListMembersWithPermissionRequest {
    pb::ListMembersWithPermissionRequest {
        organization: organization.to_owned(),
        permission: permission.to_owned(),
        ..Default::default()
    }
}

/// The user ids of all pages of this size.
async fn holders(server: &Server, organization: &str, permission: &str, page_size: i32) -> Result<Vec<String>, Status> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            pb::ListMembersWithPermissionRequest { page_size, page_token, ..request(organization, permission) };
        let page = server.service(&[Scope::Check]).organizations.list_members_with_permission(request).await?;
        let page = page.into_inner();
        assert!(page.members.len() <= usize::try_from(page_size).unwrap());
        all.extend(page.members.into_iter().map(|member| member.user_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// The descriptions of the violations of an invalid request, by field.
fn violations(status: &Status) -> Vec<(String, String)> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_details_bad_request().unwrap();
    details.field_violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

#[tokio::test]
async fn the_members_whose_role_holds_the_permission_are_listed_in_pages() {
    let fixture = Fixture::new().await;
    for (permission, expected) in [
        ("billing.pay", &["ada", "ivan", "joan"][..]),
        ("billing.read", &["ada", "eve", "ivan", "joan"]),
        ("reports.view", &["ada", "eve", "max"]),
        ("members.list", &["ada", "alan", "grace", "ivan", "joan"]),
        ("members.add", &["ada", "grace"]),
        ("ownership.transfer", &["ada"]),
    ] {
        for page_size in [1, 2, 50] {
            let found = holders(&fixture.server, &fixture.acme, permission, page_size).await.unwrap();
            assert_eq!(found, expected, "{permission} by {page_size}");
        }
        // Whatever the state of the organization is.
        assert_eq!(holders(&fixture.server, &fixture.closed, permission, 50).await.unwrap(), expected);
    }
    assert_eq!(holders(&fixture.server, "acme", "billing.pay", 50).await.unwrap(), ["ada", "ivan", "joan"]);
    let gone = holders(&fixture.server, &fixture.gone, "billing.pay", 50).await;
    assert_refused(gone, Code::NotFound, "ORGANIZATION_NOT_FOUND");
}

#[tokio::test]
async fn the_owner_is_listed_by_ownership_and_not_by_the_stored_role() {
    let fixture = Fixture::new().await;
    let mut ada = fixture.server.user("ada");
    ada.organizations.transfer_ownership(transfer(&fixture.acme, "max")).await.unwrap();
    assert_eq!(holders(&fixture.server, &fixture.acme, "billing.pay", 50).await.unwrap(), ["ivan", "joan", "max"]);
    assert_eq!(holders(&fixture.server, &fixture.acme, "members.add", 50).await.unwrap(), ["ada", "grace", "max"]);
}

#[tokio::test]
async fn every_member_sees_names_and_only_some_see_addresses() {
    let fixture = Fixture::new().await;
    // `max` has a role without `members.list`, and `alan` one with it.
    let ask = async |user: &str| {
        let mut clients = fixture.server.user(user);
        clients.organizations.list_members_with_permission(request(&fixture.acme, "billing.pay")).await
    };
    assert_refused(ask("max").await, Code::PermissionDenied, "ROLE_LACKS_PERMISSION");
    assert_refused(ask("stranger").await, Code::PermissionDenied, "PERMISSION_DENIED");
    for (user, sees) in [("alan", false), ("grace", true), ("ada", true)] {
        let members = ask(user).await.unwrap().into_inner().members;
        let joan = members.iter().find(|member| member.user_id == "joan").unwrap();
        assert_eq!((joan.attributes.is_some(), joan.role.as_str()), (sees, "accountant"), "{user}");
        // The same as in ListMembers.
        let request = pb::ListMembersRequest {
            organization: fixture.acme.clone(),
            role: "accountant".to_owned(),
            ..Default::default()
        };
        let listed = fixture.server.user(user).organizations.list_members(request).await.unwrap().into_inner();
        assert!(listed.members.contains(joan), "{user}");
    }
}

#[tokio::test]
async fn a_page_token_belongs_to_its_permission() {
    let fixture = Fixture::new().await;
    let mut backend = fixture.server.service(&[Scope::Check]);
    let first = pb::ListMembersWithPermissionRequest { page_size: 1, ..request(&fixture.acme, "billing.pay") };
    let page = backend.organizations.list_members_with_permission(first.clone()).await.unwrap().into_inner();
    let page_token = page.next_page_token;
    for other in [
        request(&fixture.acme, "billing.read"),
        request(&fixture.closed, "billing.pay"),
        request("acme", "billing.pay"),
    ] {
        let other = pb::ListMembersWithPermissionRequest { page_token: page_token.clone(), ..other };
        let status = backend.organizations.list_members_with_permission(other).await.unwrap_err();
        assert_eq!(violations(&status)[0].0, "page_token");
    }
    // Nor to ListMembers.
    let list = pb::ListMembersRequest { organization: fixture.acme.clone(), page_token, ..Default::default() };
    assert_eq!(violations(&backend.organizations.list_members(list).await.unwrap_err())[0].0, "page_token");
}

#[tokio::test]
async fn the_primary_decides_which_permissions_exist() {
    let fixture = Fixture::new().await;
    // Another server of the same datastore applies a model. It is as new as the answer to this call.
    let second = Server::over(fixture.server.database.clone(), ServerSettings::default()).await;
    let words = [&WORDS[..], &["holders.new-word"]].concat();
    let roles: [(&str, &[&str]); 2] = [("accountant", &["holders.new-word"]), ("auditor@team", &["reports.view"])];
    for _ in 0..5 {
        apply(&second, model(&words, &roles)).await;
        let found = holders(&fixture.server, &fixture.acme, "holders.new-word", 50).await.unwrap();
        assert_eq!(found, ["ada", "ivan", "joan"]);
        assert_eq!(holders(&fixture.server, &fixture.acme, "billing.pay", 50).await.unwrap(), ["ada"]);
        let former: [(&str, &[&str]); 2] = [("accountant", &["billing.pay"]), ("auditor@team", &["reports.view"])];
        apply(&second, model(&WORDS, &former)).await;
        // The process has seen the word, and the model does not declare it any more.
        assert!(Permission::find("holders.new-word").is_some());
        let status = holders(&fixture.server, &fixture.acme, "holders.new-word", 50).await.unwrap_err();
        assert_eq!(violations(&status), [("permission".to_owned(), "no such permission".to_owned())]);
    }
}

#[tokio::test]
async fn hostile_words_are_refused_without_the_datastore() {
    let fixture = Fixture::new().await;
    let long = "a.".repeat(5_000) + "b";
    for word in
        ["", " ", "billing", "billing.", ".pay", "Billing.pay", "billing.pay\0", "members.fly", "owner", "é.a", &long]
    {
        let bad = pb::ListMembersWithPermissionRequest { page_size: -1, ..request(&fixture.acme, word) };
        let mut backend = fixture.server.service(&[Scope::Check]);
        let status = backend.organizations.list_members_with_permission(bad).await.unwrap_err();
        let mut fields: Vec<String> = violations(&status).into_iter().map(|(field, _)| field).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["page_size", "permission"], "{word:?}");
        assert!(Permission::find(word).is_none(), "{word:?}");
    }
    // Well-formed words that no model declares leave nothing behind.
    let status = holders(&fixture.server, &fixture.acme, "holders.never-declared", 50).await.unwrap_err();
    assert_eq!(violations(&status)[0].0, "permission");
    assert!(Permission::find("holders.never-declared").is_none());
}
