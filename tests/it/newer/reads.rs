//! Lists show what this program does not know; a method that reads one thing does not answer about it.

use super::{Fixture, assert_unknown};
use crate::invitations::{create, invite};
use roster::grpc::pb;
use std::collections::BTreeMap;

fn get_member(organization: &str, user: &str) -> pb::GetMemberRequest {
    pb::GetMemberRequest { organization: organization.to_owned(), user_id: user.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_listed_with_their_role_as_stored_and_an_unspecified_state() {
    let fixture = Fixture::new().await;
    fixture.roll_forward().await;
    for mut caller in
        [fixture.backend(), fixture.server.operator(), fixture.server.user("ada"), fixture.server.user("alan")]
    {
        let mut members = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let organization = fixture.acme.clone();
            let request = pb::ListMembersRequest { organization, page_size: 2, page_token, ..Default::default() };
            let page = caller.organizations.list_members(request).await.unwrap().into_inner();
            for member in page.members {
                let state = member.user_state();
                members.insert(member.user_id, (member.role, state));
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let active = |role: &str| (role.to_owned(), pb::UserState::Active);
        let expected = BTreeMap::from([
            ("ada".to_owned(), active("owner")),
            ("alan".to_owned(), active("member")),
            ("eve".to_owned(), active("auditor")),
            ("grace".to_owned(), active("admin")),
            ("joan".to_owned(), ("member".to_owned(), pb::UserState::Unspecified)),
        ]);
        assert_eq!(members, expected);
    }
    let mut backend = fixture.backend();
    // A role is a name, whether this server knows it or not.
    let eve = backend.organizations.get_member(get_member(&fixture.acme, "eve")).await.unwrap().into_inner();
    assert_eq!(eve.member.unwrap().role, "auditor");
    assert_unknown(backend.organizations.get_member(get_member(&fixture.acme, "joan")).await, "user_state");
    assert_unknown(backend.organizations.get_member(get_member(&fixture.beta, "ada")).await, "organization_state");
    for user in ["ada", "alan", "grace"] {
        backend.organizations.get_member(get_member(&fixture.acme, user)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn organizations_and_users_in_an_unknown_state_are_in_every_list() {
    let fixture = Fixture::new().await;
    fixture.roll_forward().await;
    let (unknown, active) = (pb::OrganizationState::Unspecified, pb::OrganizationState::Active);
    for states in [vec![], vec![active.into()], vec![pb::OrganizationState::Inactive.into()]] {
        let is_active = states != [i32::from(pb::OrganizationState::Inactive)];
        let mut expected = vec![(fixture.beta.clone(), unknown)];
        if is_active {
            expected.extend([(fixture.acme.clone(), active), (fixture.gamma.clone(), active)]);
        }
        expected.sort_unstable();
        let request = pb::ListOrganizationsRequest { states: states.clone(), ..Default::default() };
        let listed = fixture.backend().organizations.list_organizations(request).await.unwrap().into_inner();
        let mut listed: Vec<_> =
            listed.organizations.into_iter().map(|listed| (listed.id.clone(), listed.state())).collect();
        listed.sort_unstable();
        assert_eq!(listed, expected);
        let mut eve = fixture.server.user("eve");
        let request = pb::ListUserOrganizationsRequest { states, ..Default::default() };
        let listed = eve.organizations.list_user_organizations(request).await.unwrap().into_inner();
        for listed in listed.organizations {
            let organization = listed.organization.unwrap();
            assert!(expected.contains(&(organization.id.clone(), organization.state())));
            assert_eq!(listed.role, if organization.id == fixture.acme { "auditor" } else { "member" });
        }
    }
    for (states, others) in [(vec![], 4), (vec![pb::UserState::Inactive.into()], 0)] {
        let request = pb::ListUsersRequest { states, ..Default::default() };
        let listed = fixture.backend().users.list_users(request).await.unwrap().into_inner().users;
        let joan: Vec<_> = listed.iter().filter(|user| user.user_id == "joan").map(pb::User::state).collect();
        assert_eq!((joan, listed.len() - 1), (vec![pb::UserState::Unspecified], others));
    }
    let mut backend = fixture.backend();
    let get = |organization: &str| pb::GetOrganizationRequest { organization: organization.to_owned() };
    assert_unknown(backend.organizations.get_organization(get(&fixture.beta)).await, "organization_state");
    assert_unknown(backend.organizations.get_organization(get("beta")).await, "organization_state");
    backend.organizations.get_organization(get("gamma")).await.unwrap();
    let get = |user: &str| pb::GetUserRequest { user_id: user.to_owned() };
    assert_unknown(backend.users.get_user(get("joan")).await, "user_state");
    backend.users.get_user(get("eve")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invitations_are_listed_with_their_role_as_stored_and_an_unspecified_state() {
    let fixture = Fixture::new().await;
    let mut backend = fixture.backend();
    let mut ids = Vec::new();
    for name in ["state", "role", "inviter", "mail", "known"] {
        ids.push(create(&backend, invite(&fixture.acme, &format!("{name}@example.com"))).await.id);
    }
    let [state, role, inviter, mail, known] = &ids[..] else { panic!("five invitations") };
    for (id, column, value) in [
        (state, "state", "PAUSED"),
        (role, "role", "auditor"),
        (inviter, "inviter_kind", "agent"),
        (mail, "mail_state", "DEFERRED"),
    ] {
        fixture.sql(&format!("UPDATE invitations SET {column} = '{value}' WHERE id = '{id}'")).await;
    }
    let list = pb::ListInvitationsRequest { organization: fixture.acme.clone(), ..Default::default() };
    let listed = backend.invitations.list_invitations(list).await.unwrap().into_inner().invitations;
    let listed: BTreeMap<_, _> =
        listed.iter().map(|invitation| (invitation.invitation_id.as_str(), invitation)).collect();
    assert_eq!(listed.len(), 5);
    assert_eq!(listed[state.as_str()].state(), pb::InvitationState::Unspecified);
    assert_eq!(listed[role.as_str()].role, "auditor");
    assert_eq!(listed[inviter.as_str()].inviter_kind, "agent");
    assert_eq!(listed[mail.as_str()].mail_state(), pb::MailState::Unspecified);
    assert_eq!(listed[known.as_str()].state(), pb::InvitationState::Pending);
    let get = |id: &str| pb::GetInvitationRequest { organization: fixture.acme.clone(), invitation_id: id.to_owned() };
    assert_unknown(backend.invitations.get_invitation(get(state)).await, "invitation_state");
    for id in [role, inviter, mail, known] {
        backend.invitations.get_invitation(get(id)).await.unwrap();
    }
    // The recipient of an invitation with an unknown role sees it in the list of received invitations.
    let mut recipient = fixture.server.user_with_email("role");
    let received = recipient
        .invitations
        .list_received_invitations(pb::ListReceivedInvitationsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(received.invitations[0].role, "auditor");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_whose_texts_break_the_rules_of_this_program_are_read() {
    let fixture = Fixture::new().await;
    let mut backend = fixture.backend();
    // A newer roster may allow longer names, other kinds and other addresses.
    let name = "x".repeat(201);
    for statement in ["DROP CONSTRAINT organizations_name", "DROP CONSTRAINT organizations_kind"] {
        let statement = format!("ALTER TABLE organizations {statement}");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&fixture.database().pool).await.unwrap();
    }
    fixture
        .sql(&format!("UPDATE organizations SET name = '{name}', kind = 'Firma!' WHERE id = '{}'", fixture.acme))
        .await;
    fixture.sql("UPDATE users SET email = 'eve@localhost', email_normal = 'eve@localhost' WHERE id = 'eve'").await;
    let listed =
        backend.organizations.list_organizations(pb::ListOrganizationsRequest::default()).await.unwrap().into_inner();
    assert!(listed.organizations.iter().any(|listed| listed.name == name && listed.kind == "Firma!"));
    let listed = backend.users.list_users(pb::ListUsersRequest::default()).await.unwrap().into_inner();
    assert!(listed.users.iter().any(|user| user.email == "eve@localhost"));
}
