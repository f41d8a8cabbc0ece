//! Roles with more members than one transaction moves: the decision is one write, and the members move afterwards.

use super::define::{create, delete, fixture, get, texts, update, violations};
use super::{apply, metadata, run};
use crate::harness::server::Clients;
use crate::harness::{Database, Server, add, assert_refused, remove, set_role};
use pb::check_membership_request::Question;
use pb::consistency::Requirement;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use serde_json::json;
use tonic::{Code, Response, Status};

/// One more member than one transaction moves.
pub(super) const MANY: usize = 10_001;

/// Adds members with a role, named after it, as that many calls would: with their events and in the change log.
pub(super) async fn add_many(database: &Database, organization: &str, role: &str, members: usize) {
    let prefix = role.trim_start_matches("org:");
    let column = if prefix == role { "deployment_role" } else { "organization_role" };
    run(
        database,
        &format!(
            "CREATE TEMPORARY TABLE added ON COMMIT DROP AS
             SELECT n, '{prefix}-' || n AS id FROM generate_series(1, {members}) n;
             INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email_verified, profile_issued_at,
                                revision, create_time, update_time)
             SELECT user_bucket_of(id), id, 'ACTIVE', false, false, 0, 1, now(), now() FROM added;
             INSERT INTO user_events (user_bucket, user_id, revision, type, actor_kind, actor_id, create_time)
             SELECT user_bucket_of(id), id, 1, 'user.created', 'operator', 'ops', now() FROM added;
             WITH o AS (
                 UPDATE organizations SET revision = revision + {members} WHERE id = '{organization}'
                 RETURNING bucket, id, kind, revision - {members} AS before
             ), h AS (
                 UPDATE log_heads h SET position = position + {members},
                        write_time = greatest(clock_timestamp(), write_time + interval '1 microsecond')
                 FROM o WHERE h.bucket = o.bucket RETURNING h.position - {members} AS before, h.position, h.write_time
             ), m AS (
                 INSERT INTO memberships (bucket, organization_id, user_id, role, {column}, attributes, revision,
                                          create_time, update_time)
                 SELECT o.bucket, o.id, added.id, '{role}', '{role}', '{{}}', o.before + n, now(), now() FROM o, added
             ), e AS (
                 INSERT INTO events (bucket, organization_id, revision, type, actor_kind, actor_id, user_id, create_time)
                 SELECT o.bucket, o.id, o.before + n, 'member.added', 'operator', 'ops', added.id, now() FROM o, added
             )
             INSERT INTO log (bucket, position, commit_position, organization_id, revision, kind, entry, user_id, role,
                              write_time)
             SELECT o.bucket, h.before + n, h.position, o.id, o.before + n, o.kind, 'MEMBERSHIP', added.id, '{role}',
                    h.write_time
             FROM o, h, added"
        ),
    )
    .await;
}

pub(super) fn replace(organization: &str, name: &str, with: &str) -> pb::DeleteRoleRequest {
    pb::DeleteRoleRequest { replace_with: with.to_owned(), ..delete(organization, name) }
}

/// Deletes a role with more members than one transaction moves. Returns the consistency token.
pub(super) async fn decide(caller: &mut Clients, organization: &str, name: &str, with: &str) -> String {
    let deleted = caller.roles.delete_role(replace(organization, name, with)).await.unwrap().into_inner();
    assert_eq!((deleted.moved_members, deleted.members_move_later), (0, true));
    deleted.consistency_token
}

/// Whether a user has a permission, by memory if it covers the token, and by the primary. Both must agree.
pub(super) async fn may(backend: &mut Clients, organization: &str, user: &str, word: &str, token: &str) -> bool {
    let mut answers = Vec::new();
    for requirement in [Requirement::AtLeastAsFresh(token.to_owned()), Requirement::FullyConsistent(true)] {
        let request = pb::CheckMembershipRequest {
            organization: organization.to_owned(),
            user_id: user.to_owned(),
            question: Some(Question::Permission(word.to_owned())),
            consistency: Some(pb::Consistency { requirement: Some(requirement) }),
        };
        let answer = backend.checks.check_membership(request).await.unwrap().into_inner().result.unwrap();
        answers.push((answer.allowed, answer.role));
    }
    assert_eq!(answers[0], answers[1], "{user} {word}");
    answers[0].0
}

pub(super) async fn role_of(caller: &mut Clients, organization: &str, user: &str) -> String {
    let request = pb::GetMemberRequest { organization: organization.to_owned(), user_id: user.to_owned() };
    caller.organizations.get_member(request).await.unwrap().into_inner().member.unwrap().role
}

/// The first members with a role.
pub(super) async fn with_role(caller: &mut Clients, organization: &str, role: &str) -> Vec<(String, String)> {
    let (organization, role) = (organization.to_owned(), role.to_owned());
    let request = pb::ListMembersRequest { organization, role, page_size: 3, ..Default::default() };
    let members = caller.organizations.list_members(request).await.unwrap().into_inner().members;
    members.into_iter().map(|member| (member.user_id, member.role)).collect()
}

/// The first members with a permission.
pub(super) async fn holders(caller: &mut Clients, organization: &str, word: &str) -> Vec<String> {
    let (organization, permission) = (organization.to_owned(), word.to_owned());
    let request = pb::ListMembersWithPermissionRequest { organization, permission, page_size: 3, ..Default::default() };
    let members = caller.organizations.list_members_with_permission(request).await.unwrap().into_inner().members;
    members.into_iter().map(|member| member.user_id).collect()
}

/// Runs rounds of housekeeping until no role is being replaced. Returns the number of members moved.
pub(super) async fn move_all(server: &Server) -> u64 {
    let mut moved = 0;
    while server.database.count("SELECT count(*) FROM organization_roles WHERE replaced_by IS NOT NULL").await > 0 {
        moved += server.roster.tidy().await.unwrap().moved;
    }
    moved
}

pub(super) fn invalid_role<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, field: &str) {
    assert_eq!(violations(&answer.unwrap_err()), [field]);
}

/// Asserts that explanations and lists show the role `org:clerk` of the auditors, who have not moved yet.
async fn assert_clerk_is_shown(server: &Server, acme: &str) {
    let (mut ada, mut backend) = (server.user("ada"), server.service(&[Scope::Check, Scope::Manage]));
    let request = pb::ExplainCheckRequest {
        organization: acme.to_owned(),
        user_id: "auditor-7".to_owned(),
        ..Default::default()
    };
    let explained = backend.checks.explain_check(request).await.unwrap().into_inner();
    let path = explained.role.unwrap();
    assert_eq!((path.role.as_str(), path.replaced_by.as_str()), ("org:auditor", "org:clerk"));
    assert_eq!(explained.result.unwrap().role, "org:clerk");
    // The old role in a question is the new one.
    for (role, user, allowed) in [("org:auditor", "auditor-7", true), ("org:auditor", "alan", false)] {
        let request = pb::CheckMembershipRequest {
            organization: acme.to_owned(),
            user_id: user.to_owned(),
            question: Some(Question::Role(role.to_owned())),
            ..Default::default()
        };
        let result = backend.checks.check_membership(request).await.unwrap().into_inner().result.unwrap();
        assert_eq!(result.allowed, allowed, "{user}");
    }

    assert_eq!(role_of(&mut ada, acme, "auditor-7").await, "org:clerk");
    let clerks = ["auditor-1", "auditor-10", "auditor-100"].map(|user| (user.to_owned(), "org:clerk".to_owned()));
    assert_eq!(with_role(&mut ada, acme, "org:clerk").await, clerks);
    assert_eq!(with_role(&mut ada, acme, "org:auditor").await, []);
    assert_eq!(holders(&mut backend, acme, "stock.read").await, ["ada", "auditor-1", "auditor-10"]);
    assert_eq!(holders(&mut backend, acme, "billing.read").await, ["ada"]);
    let request = pb::ListUserOrganizationsRequest { user_id: "auditor-7".to_owned(), ..Default::default() };
    let listed = backend.organizations.list_user_organizations(request).await.unwrap().into_inner();
    assert_eq!(listed.organizations[0].role, "org:clerk");
    let auditor = get(&mut ada, acme, "org:auditor").await.unwrap();
    assert_eq!((auditor.replaced_by.as_str(), &auditor.permissions), ("org:clerk", &texts(&["stock.read"])));
    let request = pb::ListRolesRequest { organization: acme.to_owned(), ..Default::default() };
    let roles = ada.roles.list_roles(request).await.unwrap().into_inner().roles;
    assert!(roles.contains(&auditor));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_members_of_a_deleted_role_hold_the_other_one_before_they_move() {
    let (server, acme) = fixture().await;
    let mut ada = server.user("ada");
    for (role, words) in [("org:auditor", ["billing.read"]), ("org:clerk", ["stock.read"])] {
        ada.roles.create_role(create(&acme, role, &words)).await.unwrap();
    }
    add_many(&server.database, &acme, "org:auditor", MANY).await;
    let token = decide(&mut ada, &acme, "org:auditor", "org:clerk").await;

    let changed = "SELECT count(*) FROM memberships WHERE role = 'org:clerk'";
    assert_eq!(server.database.count(changed).await, 0);
    let other = Server::over(server.database.clone(), ServerSettings::default()).await;
    for server in [&server, &other] {
        let mut backend = server.service(&[Scope::Check, Scope::Manage]);
        assert!(may(&mut backend, &acme, "auditor-7", "stock.read", &token).await);
        assert!(!may(&mut backend, &acme, "auditor-7", "billing.read", &token).await);
        let request = pb::GetEffectivePermissionsRequest {
            organization: acme.clone(),
            user_id: "auditor-7".to_owned(),
            ..Default::default()
        };
        let effective = backend.checks.get_effective_permissions(request).await.unwrap().into_inner();
        assert_eq!((effective.role.as_str(), effective.permissions), ("org:clerk", texts(&["stock.read"])));
    }
    assert_clerk_is_shown(&server, &acme).await;

    // A change of the new role is a change for them.
    let updated = ada.roles.update_role(update(&acme, "org:clerk", &["billing.pay"])).await.unwrap().into_inner();
    for server in [&server, &other] {
        let mut backend = server.service(&[Scope::Check, Scope::Manage]);
        assert!(may(&mut backend, &acme, "auditor-7", "billing.pay", &updated.consistency_token).await);
        assert!(!may(&mut backend, &acme, "auditor-7", "stock.read", &updated.consistency_token).await);
    }
    // The members can be changed and removed before they move.
    let attributes = prost_types::Struct::default();
    let keep = pb::UpdateMemberRequest {
        organization: acme.clone(),
        user_id: "auditor-7".to_owned(),
        attributes: Some(attributes),
        update_mask: Some(prost_types::FieldMask { paths: vec!["attributes".to_owned()] }),
        ..Default::default()
    };
    let kept = ada.organizations.update_member(keep).await.unwrap().into_inner().member.unwrap();
    assert_eq!(kept.role, "org:clerk");
    ada.organizations.update_member(set_role(&acme, "auditor-8", "member")).await.unwrap();
    ada.organizations.remove_member(remove(&acme, "auditor-9")).await.unwrap();

    let rounds = futures_util::future::join_all([&server, &other].map(|server| server.roster.tidy())).await;
    let moved: u64 = rounds.into_iter().map(|round| round.unwrap().moved).sum();
    let left = server.database.count("SELECT count(*) FROM memberships WHERE role = 'org:auditor'").await;
    assert!(left == 0 && (9_998..=9_999).contains(&moved), "{left} left, {moved} moved");
    assert_refused(get(&mut ada, &acme, "org:auditor").await, Code::NotFound, "ROLE_NOT_FOUND");
    let again = ada.roles.create_role(create(&acme, "org:auditor", &[])).await.unwrap().into_inner();
    for server in [&server, &other] {
        let mut backend = server.service(&[Scope::Check, Scope::Manage]);
        assert!(may(&mut backend, &acme, "auditor-7", "billing.pay", &again.consistency_token).await);
        assert!(!may(&mut backend, &acme, "auditor-8", "billing.pay", &again.consistency_token).await);
    }
    assert_eq!(server.database.count("SELECT count(*) FROM events WHERE type = 'role.deleted'").await, 1);
    server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_being_replaced_cannot_be_given_or_changed() {
    let (server, acme) = fixture().await;
    let mut ada = server.user("ada");
    for role in ["org:auditor", "org:clerk"] {
        ada.roles.create_role(create(&acme, role, &["billing.read"])).await.unwrap();
    }
    let invitation = crate::invitations::invite(&acme, "joan@example.com");
    let invitation = pb::CreateInvitationRequest {
        role: "org:auditor".to_owned(),
        delivery: pb::InvitationDelivery::Token.into(),
        ..invitation
    };
    let mut operator = server.operator();
    let invited = operator.invitations.create_invitation(invitation.clone()).await.unwrap().into_inner();
    add_many(&server.database, &acme, "org:auditor", MANY).await;
    let request_id = roster::random::uuid().to_string();
    let request = pb::DeleteRoleRequest { request_id, ..replace(&acme, "org:auditor", "org:clerk") };
    let dry = pb::DeleteRoleRequest { validate_only: true, request_id: String::new(), ..request.clone() };
    assert!(ada.roles.delete_role(dry).await.unwrap().into_inner().members_move_later);
    let role = get(&mut ada, &acme, "org:auditor").await.unwrap();
    assert!(role.replaced_by.is_empty());
    let first = ada.roles.delete_role(request.clone()).await.unwrap().into_inner();
    assert_eq!((first.role.as_ref(), first.members_move_later), (Some(&role), true));
    let before = server.database.dump().await;
    assert_eq!(ada.roles.delete_role(request).await.unwrap().into_inner(), first);

    invalid_role(ada.organizations.add_member(add(&acme, "joan", "org:auditor")).await, "role");
    invalid_role(ada.organizations.update_member(set_role(&acme, "alan", "org:auditor")).await, "role");
    let other = pb::CreateInvitationRequest {
        recipient: Some(pb::create_invitation_request::Recipient::Email("max@example.com".to_owned())),
        ..invitation
    };
    invalid_role(operator.invitations.create_invitation(other).await, "role");
    invalid_role(ada.roles.delete_role(replace(&acme, "org:clerk", "org:auditor")).await, "replace_with");
    let refused = ada.roles.create_role(create(&acme, "org:auditor", &[])).await;
    assert_refused(refused, Code::AlreadyExists, "ROLE_EXISTS");
    let refused = ada.roles.update_role(update(&acme, "org:auditor", &["stock.read"])).await;
    assert_refused(refused, Code::NotFound, "ROLE_NOT_FOUND");
    for request in [delete(&acme, "org:auditor"), replace(&acme, "org:auditor", "member")] {
        assert_refused(ada.roles.delete_role(request).await, Code::NotFound, "ROLE_NOT_FOUND");
    }
    assert!(server.database.dump().await == before);

    let accept = crate::invitations::accept(&invited.token);
    let mut joan = server.person("joan", "joan@example.com", true);
    let refused = joan.invitations.accept_invitation(accept).await;
    assert_refused(refused, Code::NotFound, "ROLE_NOT_FOUND");
    // It counts as one of the roles of the organization until its members have moved.
    for number in 0..48 {
        ada.roles.create_role(create(&acme, &format!("org:role-{number}"), &[])).await.unwrap();
    }
    let refused = ada.roles.create_role(create(&acme, "org:one-more", &[])).await;
    assert_refused(refused, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    assert_eq!(move_all(&server).await, u64::try_from(MANY).unwrap());
    ada.roles.create_role(create(&acme, "org:one-more", &[])).await.unwrap();
    server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replacement_of_a_role_is_replaced_and_kept_by_the_model() {
    let (server, acme) = fixture().await;
    let (mut ada, mut operator) = (server.user("ada"), server.operator());
    let mut backend = server.service(&[Scope::Check, Scope::Manage]);
    for (role, words) in [("org:auditor", ["billing.read"]), ("org:clerk", ["stock.read"])] {
        ada.roles.create_role(create(&acme, role, &words)).await.unwrap();
    }
    ada.add(&acme, "joan", "org:clerk").await;
    add_many(&server.database, &acme, "org:auditor", MANY).await;
    decide(&mut ada, &acme, "org:auditor", "org:clerk").await;

    // The members of the first role are members of the second one.
    let status = ada.roles.delete_role(delete(&acme, "org:clerk")).await.unwrap_err();
    assert_eq!(metadata(&status, "members"), "10001");
    assert_refused(Err::<(), _>(status), Code::FailedPrecondition, "ROLE_IN_USE");
    let deleted = ada.roles.delete_role(replace(&acme, "org:clerk", "accountant")).await.unwrap().into_inner();
    assert_eq!((deleted.moved_members, deleted.members_move_later), (1, false));
    let token = deleted.consistency_token;
    for user in ["joan", "auditor-7"] {
        assert_eq!(role_of(&mut ada, &acme, user).await, "accountant");
        assert!(may(&mut backend, &acme, user, "billing.read", &token).await);
        assert!(!may(&mut backend, &acme, user, "stock.read", &token).await);
    }
    assert_eq!(get(&mut ada, &acme, "org:auditor").await.unwrap().replaced_by, "accountant");

    // The model can change the role, and neither remove it nor take it from the kind.
    let words = json!([{ "name": "billing.read" }, { "name": "billing.pay" }]);
    let with = |permissions: serde_json::Value, kind: &str| {
        let role = json!({ "name": "accountant", "kind": kind, "permissions": permissions });
        apply(json!({ "permissions": words, "roles": [role] }))
    };
    let applied = operator.models.apply_access_model(with(json!(["billing.pay"]), "")).await.unwrap().into_inner();
    assert!(may(&mut backend, &acme, "auditor-7", "billing.pay", &applied.consistency_token).await);
    assert!(!may(&mut backend, &acme, "auditor-7", "billing.read", &applied.consistency_token).await);
    let before = server.database.dump().await;
    let without = apply(json!({ "permissions": words }));
    let replacing = |request: pb::ApplyAccessModelRequest| pb::ApplyAccessModelRequest {
        replace_roles: [("accountant".to_owned(), "member".to_owned())].into(),
        ..request
    };
    let of_vendors = with(json!(["billing.pay"]), "vendor");
    for (request, members) in [
        (without.clone(), "10002"),
        (replacing(without.clone()), "10001"),
        (of_vendors.clone(), "10002"),
        (replacing(of_vendors), "10001"),
    ] {
        let status = operator.models.apply_access_model(request).await.unwrap_err();
        assert_eq!(
            (metadata(&status, "roles"), metadata(&status, "members")),
            ("accountant".to_owned(), members.to_owned())
        );
        assert_refused(Err::<(), _>(status), Code::FailedPrecondition, "ROLE_IN_USE");
    }
    assert!(server.database.dump().await == before);
    run(&server.database, "DELETE FROM memberships WHERE role = 'org:auditor' AND user_id <> 'auditor-7'").await;
    assert_eq!(move_all(&server).await, 1);
    let applied = operator.models.apply_access_model(replacing(without)).await.unwrap().into_inner();
    assert_eq!(applied.moved_members, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_whose_members_have_left_goes_with_its_replacement() {
    let (server, acme) = fixture().await;
    let mut ada = server.user("ada");
    for role in ["org:auditor", "org:clerk", "org:intern"] {
        ada.roles.create_role(create(&acme, role, &[])).await.unwrap();
    }
    let members =
        "INSERT INTO memberships (bucket, organization_id, user_id, role, organization_role, attributes, revision,
                                            create_time, update_time)
                   SELECT bucket, organization_id, name || n, name, name, '{}', 1, now(), now()
                   FROM organization_roles, generate_series(1, 10001) n WHERE name IN ('org:auditor', 'org:clerk')";
    run(&server.database, members).await;
    // Both have many members: the first one follows the second one.
    decide(&mut ada, &acme, "org:auditor", "org:clerk").await;
    decide(&mut ada, &acme, "org:clerk", "org:intern").await;
    let replaced = "SELECT count(*) FROM organization_roles WHERE replaced_by = 'org:intern'";
    assert_eq!(server.database.count(replaced).await, 2);
    run(&server.database, "DELETE FROM memberships WHERE role LIKE 'org:%'").await;
    ada.roles.delete_role(delete(&acme, "org:intern")).await.unwrap();
    assert_eq!(server.database.count("SELECT count(*) FROM organization_roles").await, 0);
    assert_eq!(server.roster.tidy().await.unwrap().moved, 0);
}
