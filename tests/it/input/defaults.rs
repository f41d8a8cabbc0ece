//! The defaults that the comments of request fields name.

use crate::harness::dynamic::{self, comment};
use crate::harness::server::Clients;
use crate::harness::{Server, add, organization};
use crate::invitations::invite;
use prost_reflect::MessageDescriptor;
use roster::grpc::pb;
use std::collections::BTreeMap;

/// The defaults that a comment names as a value: a word in backticks, a state, a number or a time.
fn named_default(text: &str) -> Option<String> {
    let (_, default) = text.split_once("Default: ")?;
    let default = default.split(['.', ';']).next()?;
    let is_value = default.starts_with('`')
        || default.starts_with(|c: char| c.is_ascii_digit())
        || default.chars().all(|c| c.is_ascii_uppercase());
    is_value.then(|| default.trim_matches('`').to_owned())
}

/// The named defaults of every field of every request message, with the names of the messages that have each.
fn documented() -> BTreeMap<(String, String), usize> {
    let mut defaults = BTreeMap::new();
    let mut messages: Vec<MessageDescriptor> = dynamic::descriptors().all_messages().collect();
    messages.retain(|message| message.package_name() == "roster.v1" && !message.is_map_entry());
    for field in messages.iter().flat_map(MessageDescriptor::fields) {
        let text = comment(&field.parent_message().parent_file(), field.path());
        if let Some(default) = named_default(&text) {
            *defaults.entry((field.name().to_owned(), default)).or_default() += 1;
        }
    }
    defaults
}

fn default(field: &str, value: &str, count: usize) -> ((String, String), usize) {
    ((field.to_owned(), value.to_owned()), count)
}

#[tokio::test]
async fn each_default_is_the_value_that_the_comment_names() {
    let server = Server::start_generous().await;
    let mut operator = server.operator();
    let request = pb::CreateOrganizationRequest { owner_user_id: "ada".to_owned(), ..organization("Acme") };
    let acme = operator.organizations.create_organization(request).await.unwrap().into_inner().organization.unwrap();
    assert_eq!(acme.kind, "organization");
    assert_eq!(days(&registered(&mut operator).await), 7);
    // Both are left out of lists without states.
    let inactive = operator.create("Off").await;
    operator.organizations.add_member(add(&inactive, "ada", "")).await.unwrap();
    let request = pb::DeactivateOrganizationRequest { organization: inactive, ..Default::default() };
    operator.organizations.deactivate_organization(request).await.unwrap();
    operator.create("Pending").await;

    assert!(added(&mut operator, &acme.id).await.into_iter().all(|member| member.role == "member"));
    for invitation in invited(&mut operator, &acme.id).await {
        assert_eq!(invitation.role, "member");
        assert_eq!(days(&invitation), 7);
    }

    let revoke = crate::invitations::revoke(&acme.id, &pending(&server, &acme.id).await.remove(0));
    operator.invitations.revoke_invitation(revoke).await.unwrap();
    assert_eq!(pending(&server, &acme.id).await.len(), 1);
    let listed = operator.organizations.list_organizations(pb::ListOrganizationsRequest::default()).await.unwrap();
    let ids: Vec<_> = listed.into_inner().organizations.into_iter().map(|organization| organization.id).collect();
    assert_eq!(ids, [acme.id.as_str()]);
    let own = pb::ListUserOrganizationsRequest { user_id: "ada".to_owned(), ..Default::default() };
    let own = operator.organizations.list_user_organizations(own).await.unwrap().into_inner().organizations;
    let own: Vec<_> = own.into_iter().map(|entry| entry.organization.unwrap().id).collect();
    assert_eq!(own, [acme.id.as_str()]);
    let off = pb::DeactivateUserRequest { user_id: "user-0".to_owned(), ..Default::default() };
    operator.users.deactivate_user(off).await.unwrap();
    let users = pb::ListUsersRequest { page_size: 1000, ..Default::default() };
    assert_eq!(operator.users.list_users(users).await.unwrap().into_inner().users.len(), 62);
    // Every list reads its page size by the same code.
    let page = pb::ListMembersRequest { organization: acme.id, ..Default::default() };
    assert_eq!(operator.organizations.list_members(page).await.unwrap().into_inner().members.len(), 50);

    let tried = [
        default("kind", "organization", 1),
        default("lifetime", "7 days", 2),
        default("owner_lifetime", "7 days", 1),
        default("page_size", "50", documented()[&("page_size".to_owned(), "50".to_owned())]),
        default("role", "member", 5),
        default("states", "ACTIVE", 3),
        default("states", "PENDING", 1),
    ];
    assert_eq!(documented(), tried.into());
}

/// The days for which an invitation is valid.
fn days(invitation: &pb::Invitation) -> i64 {
    let (created, expires) = (invitation.create_time.as_ref().unwrap(), invitation.expire_time.as_ref().unwrap());
    (expires.seconds - created.seconds) / (24 * 3600)
}

/// Creates an organization for an address, and deletes it. Returns the invitation of its owner.
async fn registered(operator: &mut Clients) -> pb::Invitation {
    let request = pb::CreateOrganizationRequest {
        owner_email: "eve@example.com".to_owned(),
        owner_delivery: pb::InvitationDelivery::None.into(),
        ..organization("Registered")
    };
    let created = operator.organizations.create_organization(request).await.unwrap().into_inner();
    let organization = created.organization.unwrap().id;
    let delete = pb::DeleteOrganizationRequest { organization, ..Default::default() };
    operator.organizations.delete_organization(delete).await.unwrap();
    created.owner_invitation.unwrap()
}

/// Adds 62 members without naming a role.
async fn added(operator: &mut Clients, organization: &str) -> Vec<pb::Member> {
    let member = operator.organizations.add_member(add(organization, "grace", "")).await.unwrap().into_inner().member;
    let ensure = pb::EnsureMemberRequest {
        organization: organization.to_owned(),
        person: Some(pb::ensure_member_request::Person::UserId("alan".to_owned())),
        ..Default::default()
    };
    let ensured = operator.organizations.ensure_member(ensure).await.unwrap().into_inner().member;
    let item = |number: usize| pb::BatchAddMembersItem {
        person: Some(pb::batch_add_members_item::Person::UserId(format!("user-{number}"))),
        ..Default::default()
    };
    let items = (0..60).map(item).collect();
    let batch = pb::BatchAddMembersRequest { organization: organization.to_owned(), items, ..Default::default() };
    let results = operator.organizations.batch_add_members(batch).await.unwrap().into_inner().results;
    results.into_iter().map(|result| result.member).chain([member, ensured]).map(Option::unwrap).collect()
}

/// Invites two recipients without naming a role or a lifetime.
async fn invited(operator: &mut Clients, organization: &str) -> [pb::Invitation; 2] {
    let created = operator.invitations.create_invitation(invite(organization, "eve@example.com")).await.unwrap();
    let item = pb::BatchCreateInvitationsItem {
        recipient: Some(pb::batch_create_invitations_item::Recipient::Email("mal@example.com".to_owned())),
        ..Default::default()
    };
    let delivery = pb::InvitationDelivery::None.into();
    let batch = pb::BatchCreateInvitationsRequest {
        organization: organization.to_owned(),
        items: vec![item],
        delivery,
        ..Default::default()
    };
    let mut results = operator.invitations.batch_create_invitations(batch).await.unwrap().into_inner().results;
    [created.into_inner().invitation, results.remove(0).invitation].map(Option::unwrap)
}

/// The ids of the invitations of a list without states.
async fn pending(server: &Server, organization: &str) -> Vec<String> {
    let request = pb::ListInvitationsRequest { organization: organization.to_owned(), ..Default::default() };
    let listed = server.operator().invitations.list_invitations(request).await.unwrap().into_inner();
    listed.invitations.into_iter().map(|invitation| invitation.invitation_id).collect()
}
