//! Writes: none is made about what this program does not know, and those beside it go on.

use super::{Fixture, assert_unknown};
use crate::harness::{add, assert_refused, remove, set_role, transfer};
use roster::grpc::pb;
use sqlx::AssertSqlSafe;
use tonic::Code;

fn of(organization: &str) -> String {
    organization.to_owned()
}

/// Every row that holds a value of a newer roster.
async fn unknown_rows(fixture: &Fixture) -> i64 {
    fixture
        .database()
        .count(
            "SELECT (SELECT count(*) FROM memberships WHERE role = 'auditor')
                + (SELECT count(*) FROM organizations WHERE state = 'SUSPENDED')
                + (SELECT count(*) FROM users WHERE state = 'LOCKED')",
        )
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_whose_own_role_or_state_is_unknown_is_neither_allowed_nor_denied() {
    let fixture = Fixture::new().await;
    fixture.roll_forward().await;
    let acme = &fixture.acme;
    let mut eve = fixture.server.user("eve");
    let list = |id: &str| pb::ListMembersRequest { organization: of(id), ..Default::default() };
    let get = |id: &str| pb::GetOrganizationRequest { organization: of(id) };
    let leave = |id: &str| pb::LeaveOrganizationRequest { organization: of(id), ..Default::default() };
    for name in [acme.as_str(), "acme"] {
        assert_unknown(eve.organizations.list_members(list(name)).await, "role");
        assert_unknown(eve.organizations.get_organization(get(name)).await, "role");
        assert_unknown(eve.organizations.add_member(add(name, "mallory", "member")).await, "role");
        assert_unknown(eve.organizations.remove_member(remove(name, "alan")).await, "role");
        assert_unknown(eve.organizations.leave_organization(leave(name)).await, "role");
    }
    eve.organizations.list_members(list(&fixture.gamma)).await.unwrap();
    let mut joan = fixture.server.user("joan");
    assert_unknown(joan.organizations.list_members(list(acme)).await, "user_state");
    assert_unknown(joan.organizations.leave_organization(leave(acme)).await, "user_state");
    assert_unknown(joan.organizations.create_organization(crate::harness::organization("New")).await, "user_state");
    assert_unknown(
        joan.organizations.list_user_organizations(pb::ListUserOrganizationsRequest::default()).await,
        "user_state",
    );
    // Callers outside of an organization do not learn that it exists.
    let mut mallory = fixture.server.user("mallory");
    for name in [fixture.beta.as_str(), "beta", "no-such"] {
        assert_refused(
            mallory.organizations.get_organization(get(name)).await,
            Code::PermissionDenied,
            "PERMISSION_DENIED",
        );
    }
    assert_eq!(unknown_rows(&fixture).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_an_unknown_role_is_not_changed_and_can_be_removed() {
    let fixture = Fixture::new().await;
    fixture.roll_forward().await;
    let (server, acme) = (&fixture.server, &fixture.acme);
    let mut ada = server.user("ada");
    for mut caller in [server.user("grace"), fixture.backend(), server.user("ada"), server.operator()] {
        for role in ["member", "admin"] {
            assert_unknown(caller.organizations.update_member(set_role(acme, "eve", role)).await, "role");
        }
        let again = caller.organizations.add_member(add(acme, "eve", "member")).await;
        assert_refused(again, Code::AlreadyExists, "ALREADY_MEMBER");
        let person = Some(pb::ensure_member_request::Person::UserId("eve".to_owned()));
        let ensure = pb::EnsureMemberRequest { organization: of(acme), person, ..Default::default() };
        let ensured = caller.organizations.ensure_member(ensure).await.unwrap().into_inner();
        assert_eq!((ensured.created, ensured.member.unwrap().role.as_str()), (false, "auditor"));
    }
    assert_unknown(ada.organizations.transfer_ownership(transfer(acme, "eve")).await, "role");
    // An admin or a service cannot tell whether the role is above its own rights.
    assert_unknown(server.user("grace").organizations.remove_member(remove(acme, "eve")).await, "role");
    assert_unknown(fixture.backend().organizations.remove_member(remove(acme, "eve")).await, "role");
    // Writes about the other members go on.
    let mut grace = server.user("grace");
    grace.organizations.update_member(set_role(acme, "alan", "admin")).await.unwrap();
    grace.organizations.add_member(add(acme, "new", "member")).await.unwrap();
    grace.organizations.remove_member(remove(acme, "new")).await.unwrap();
    // The state of this user is unknown, the role is known.
    grace.organizations.remove_member(remove(acme, "joan")).await.unwrap();
    assert_eq!(unknown_rows(&fixture).await, 3);
    // The owner and operators hold every permission.
    let removed = ada.organizations.remove_member(remove(acme, "eve")).await.unwrap().into_inner();
    assert_eq!(removed.member.unwrap().role, "auditor");
    fixture.caught_up().await;
    assert!(!fixture.backend().is_member(acme, "eve").await);
    ada.organizations.transfer_ownership(transfer(acme, "grace")).await.unwrap();
    fixture.set_role(&fixture.gamma, "eve", "auditor").await;
    server.operator().organizations.remove_member(remove(&fixture.gamma, "eve")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organization_or_a_user_in_an_unknown_state_is_not_changed() {
    let fixture = Fixture::new().await;
    fixture.roll_forward().await;
    let beta = &fixture.beta;
    for mut caller in [fixture.server.user("ada"), fixture.server.operator()] {
        let unknown = "organization_state";
        assert_unknown(caller.organizations.add_member(add(beta, "new", "member")).await, unknown);
        assert_unknown(caller.organizations.remove_member(remove(beta, "alan")).await, unknown);
        assert_unknown(caller.organizations.transfer_ownership(transfer(beta, "grace")).await, unknown);
        let request = pb::UpdateOrganizationRequest { organization: of(beta), name: of("New"), ..Default::default() };
        assert_unknown(caller.organizations.update_organization(request).await, unknown);
        let request = pb::ActivateOrganizationRequest { organization: of(beta), ..Default::default() };
        assert_unknown(caller.organizations.activate_organization(request).await, unknown);
        let request = pb::DeleteOrganizationRequest { organization: of(beta), ..Default::default() };
        assert_unknown(caller.organizations.delete_organization(request).await, unknown);
    }
    let mut operator = fixture.server.operator();
    let joan = || "joan".to_owned();
    let request = pb::DeactivateUserRequest { user_id: joan(), ..Default::default() };
    assert_unknown(operator.users.deactivate_user(request).await, "user_state");
    let request = pb::ReactivateUserRequest { user_id: joan(), ..Default::default() };
    assert_unknown(operator.users.reactivate_user(request).await, "user_state");
    let request = pb::ReinstateUserRequest { user_id: joan(), ..Default::default() };
    assert_unknown(operator.users.reinstate_user(request).await, "user_state");
    let request = pb::PutUserRequest { user_id: joan(), display_name: of("Joan"), ..Default::default() };
    assert_unknown(operator.users.put_user(request).await, "user_state");
    // The deletion of a user is a write to all organizations of the user.
    let delete = |user: &str| pb::DeleteUserRequest { user_id: user.to_owned(), ..Default::default() };
    assert_unknown(operator.users.delete_user(delete("alan")).await, "organization_state");
    assert_eq!(unknown_rows(&fixture).await, 3);

    // In a batch only the item fails.
    operator.add(&fixture.gamma, "locked", "member").await;
    fixture.set_user_state("locked", "LOCKED").await;
    let item = |user: &str| pb::BatchAddMembersItem {
        person: Some(pb::batch_add_members_item::Person::UserId(user.to_owned())),
        ..Default::default()
    };
    let items = ["first", "locked", "last"].map(item).to_vec();
    let request = pb::BatchAddMembersRequest { organization: of(&fixture.acme), items, ..Default::default() };
    let results = operator.organizations.batch_add_members(request).await.unwrap().into_inner().results;
    let codes: Vec<i32> = results.iter().map(|result| result.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [0, Code::Unavailable as i32, 0]);

    fixture.roll_back().await;
    fixture.set_role(&fixture.acme, "alan", "auditor").await;
    operator.users.delete_user(delete("alan")).await.unwrap();
    assert_eq!(fixture.database().count("SELECT count(*) FROM memberships WHERE user_id = 'alan'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_organization_in_an_unknown_state_is_purged_and_not_restored() {
    let fixture = Fixture::new().await;
    let (beta, gamma) = (&fixture.beta, &fixture.gamma);
    let mut operator = fixture.server.operator();
    for id in [beta, gamma] {
        let request = pb::DeleteOrganizationRequest { organization: of(id), ..Default::default() };
        operator.organizations.delete_organization(request).await.unwrap();
    }
    fixture.sql(&format!("UPDATE organizations SET state = 'SUSPENDED' WHERE id = '{beta}'")).await;
    let request = pb::UndeleteOrganizationRequest { organization: of(beta), ..Default::default() };
    assert_unknown(operator.organizations.undelete_organization(request).await, "organization_state");
    fixture.sql("UPDATE organizations SET purge_time = now() - interval '1 hour' WHERE delete_time IS NOT NULL").await;
    assert_eq!(fixture.server.roster.tidy().await.unwrap().purged, 2);
    assert_eq!(fixture.database().count("SELECT count(*) FROM organizations").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_answer_of_a_newer_roster_is_repeated_or_unavailable() {
    let fixture = Fixture::new().await;
    let mut ada = fixture.server.user("ada");
    let request_id = roster::random::uuid().to_string();
    let request = pb::AddMemberRequest { request_id, ..add(&fixture.acme, "new", "member") };
    ada.organizations.add_member(request.clone()).await.unwrap();
    let rewrite = async |expression: &str| {
        let statement = format!("UPDATE requests SET answer = {expression}");
        let done = sqlx::query(AssertSqlSafe(statement)).execute(&fixture.database().pool).await.unwrap();
        assert_eq!(done.rows_affected(), 1);
    };
    rewrite(
        "jsonb_set(jsonb_set(answer, '{answer,membership,role}', '\"auditor\"'), '{answer,user,state}', '\"Locked\"')",
    )
    .await;
    let member = ada.organizations.add_member(request.clone()).await.unwrap().into_inner().member.unwrap();
    assert_eq!((member.role.as_str(), member.user_state()), ("auditor", pb::UserState::Unspecified));
    rewrite("'{\"form\": 2}'").await;
    assert_unknown(ada.organizations.add_member(request).await, "answer");
    // Other requests go on.
    let request_id = roster::random::uuid().to_string();
    let request = pb::AddMemberRequest { request_id, ..add(&fixture.acme, "other", "member") };
    ada.organizations.add_member(request).await.unwrap();
}
