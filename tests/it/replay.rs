//! Repeated requests and dry runs: `request_id` and `validate_only`.

mod profiles;
mod refusals;
mod repeated;

use crate::harness::samples::{Fixture, SampleCaller, Target, Write, call, sample};
use crate::harness::server::Clients;
use crate::harness::{Database, add, assert_refused, organization, reason, remove, set_role, transfer};
use crate::invitations::invite;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};
use roster::authz::rules::{METHODS, Method};
use roster::grpc::pb;
use sqlx::AssertSqlSafe;
use std::collections::BTreeMap;
use tonic::Code;

fn writes() -> impl Iterator<Item = &'static Method> {
    METHODS.iter().filter(|method| method.write)
}

fn request(method: &Method, place: &Target, write: &Write) -> (SampleCaller, Vec<u8>) {
    sample(method, place, write).unwrap_or_else(|| panic!("{} has no sample request", method.path))
}

fn fresh_id() -> String {
    roster::random::uuid().to_string()
}

/// The contents of the database, table by table.
async fn dump(database: &Database) -> BTreeMap<String, String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    let mut dumped = BTreeMap::new();
    for table in tables {
        let query = format!("SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM {table} t");
        let rows: String = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&database.pool).await.unwrap();
        dumped.insert(table, rows);
    }
    assert!(dumped.len() > 10 && dumped["organizations"].contains("Place"));
    dumped
}

fn decode(pool: &DescriptorPool, method: &Method, answer: &[u8]) -> DynamicMessage {
    let service = pool.get_service_by_name(method.service).unwrap();
    let output = service.methods().find(|described| described.name() == method.name).unwrap().output();
    DynamicMessage::decode(output, answer).unwrap()
}

/// The consistency token of a write's answer.
fn token(pool: &DescriptorPool, method: &Method, answer: &[u8]) -> String {
    let message = decode(pool, method, answer);
    message.get_field_by_name("consistency_token").unwrap().as_str().unwrap().to_owned()
}

/// An answer without the values that differ in every run: times, tokens, and the ids of new resources.
fn comparable(pool: &DescriptorPool, method: &Method, answer: &[u8]) -> DynamicMessage {
    let mut message = decode(pool, method, answer);
    blank(&mut message, method.name.contains("Create"));
    message
}

fn blank(message: &mut DynamicMessage, new: bool) {
    // The etag of a member is made of its update time.
    let of_member = message.descriptor().name() == "Member";
    let volatile = |name: &str| {
        let is_new_id = new && (name == "id" || name == "invitation_id");
        is_new_id || name.ends_with("_time") || name.ends_with("token") || (of_member && name == "etag")
    };
    let fields: Vec<_> = message.fields().map(|(field, _)| field).collect();
    for field in fields {
        if volatile(field.name()) {
            message.clear_field(&field);
            continue;
        }
        match message.get_field_mut(&field) {
            Value::Message(inner) => blank(inner, new),
            Value::List(items) => {
                for item in items {
                    if let Value::Message(inner) = item {
                        blank(inner, new);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Removes the invitation tokens from an answer, and returns them.
fn take_tokens(message: &mut DynamicMessage) -> Vec<String> {
    let mut tokens = Vec::new();
    let fields: Vec<_> = message.fields().map(|(field, _)| field).collect();
    for field in fields {
        match (field.name(), message.get_field_mut(&field)) {
            ("token" | "owner_token", Value::String(token)) => tokens.push(std::mem::take(token)),
            (_, Value::Message(inner)) => tokens.extend(take_tokens(inner)),
            (_, Value::List(items)) => {
                for item in items {
                    if let Value::Message(inner) = item {
                        tokens.extend(take_tokens(inner));
                    }
                }
            }
            _ => {}
        }
    }
    tokens.retain(|token| !token.is_empty());
    tokens
}

/// The number of invitation tokens in the answer to a method's sample request.
fn tokens_of(method: &Method) -> usize {
    match method.name {
        "BatchCreateInvitations" => 2,
        "RemindInvitation" => 1,
        _ => 0,
    }
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_answer_byte_for_byte_and_changes_nothing() {
    let pool = DescriptorPool::decode(roster::grpc::FILE_DESCRIPTOR_SET).unwrap();
    let stage = Fixture::new().await;
    for method in writes() {
        let (place, write) = (stage.target(method).await, Write::fresh());
        let mut first = stage.call(method, request(method, &place, &write)).await.unwrap();
        // An invitation token is in the first answer only, not in the repeated one.
        let mut message = decode(&pool, method, &first);
        let tokens = take_tokens(&mut message);
        assert_eq!(tokens.len(), tokens_of(method), "{}", method.path);
        if !tokens.is_empty() {
            first = message.encode_to_vec();
        }
        let after = dump(stage.database()).await;
        for (table, rows) in &after {
            assert!(tokens.iter().all(|token| !rows.contains(token)), "{}: {table} contains a token", method.path);
        }
        for _ in 0..2 {
            let again = stage.call(method, request(method, &place, &write)).await;
            assert_eq!(again.unwrap(), first, "{}", method.path);
        }
        // Another body under the same id. Where the first request ended the caller's access, that is the error instead.
        let other = Write { reason: "another body".to_owned(), ..write.clone() };
        let refused = reason(&stage.call(method, request(method, &place, &other)).await.unwrap_err());
        let expected = match method.name {
            "DeleteOrganization" | "LeaveOrganization" => "PERMISSION_DENIED",
            "TransferOwnership" => "ROLE_LACKS_PERMISSION",
            "DeclineInvitation" => "INVITATION_NOT_FOUND",
            _ => "REQUEST_ID_REUSED",
        };
        assert_eq!(refused, expected, "{}", method.path);
        let (mut after, mut now) = (after, dump(stage.database()).await);
        if refused == "INVITATION_NOT_FOUND" {
            // An invalid token counts against the caller's quota.
            assert_ne!(after.remove("quotas"), now.remove("quotas"));
        }
        assert_eq!(now, after, "{}", method.path);
    }
    stage.database().assert_invariants().await;
}

#[tokio::test]
async fn request_ids_belong_to_one_caller_and_one_method() {
    let stage = Fixture::new().await;
    let mut ada = stage.ada.clone();
    let request = pb::CreateOrganizationRequest { request_id: fresh_id(), ..organization("Acme") };
    let id = |made: tonic::Response<pb::CreateOrganizationResponse>| made.into_inner().organization.unwrap().id;
    let by_ada = id(ada.organizations.create_organization(request.clone()).await.unwrap());
    // Each caller has separate ids, and ada through a service is another caller than ada.
    let by_grace = id(stage.server.user("grace").organizations.create_organization(request.clone()).await.unwrap());
    let by_service =
        id(stage.server.on_behalf_of("ada").organizations.create_organization(request.clone()).await.unwrap());
    assert!(by_ada != by_grace && by_ada != by_service && by_grace != by_service);
    assert_eq!(id(ada.organizations.create_organization(request.clone()).await.unwrap()), by_ada);
    // Another method is another request, even with the same fields.
    let on = pb::ActivateOrganizationRequest {
        organization: by_ada.clone(),
        request_id: request.request_id.clone(),
        ..Default::default()
    };
    assert_refused(ada.organizations.activate_organization(on).await, Code::AlreadyExists, "REQUEST_ID_REUSED");
    let request_id = fresh_id();
    let off = pb::DeactivateOrganizationRequest {
        organization: by_ada.clone(),
        request_id: request_id.clone(),
        ..Default::default()
    };
    let on = pb::ActivateOrganizationRequest { organization: by_ada, request_id, ..Default::default() };
    ada.organizations.deactivate_organization(off).await.unwrap();
    assert_refused(ada.organizations.activate_organization(on).await, Code::AlreadyExists, "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_request_id_is_a_uuid_in_any_spelling() {
    let stage = Fixture::new().await;
    let mut ada = stage.ada.clone();
    let request = pb::CreateOrganizationRequest { request_id: fresh_id(), ..organization("Acme") };
    let first = ada.organizations.create_organization(request.clone()).await.unwrap().into_inner();
    let mixed = request.request_id.char_indices().map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c });
    for request_id in [request.request_id.to_uppercase(), mixed.collect()] {
        let repeated = pb::CreateOrganizationRequest { request_id, ..request.clone() };
        let answer = ada.organizations.create_organization(repeated).await.unwrap().into_inner();
        assert_eq!(answer.organization, first.organization);
    }
    let other =
        pb::CreateOrganizationRequest { request_id: request.request_id.to_uppercase(), ..organization("Other") };
    assert_refused(ada.organizations.create_organization(other).await, Code::AlreadyExists, "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn refusals_are_not_stored() {
    let stage = Fixture::new().await;
    let mut ada = stage.ada.clone();
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "member").await;
    let request = pb::AddMemberRequest { request_id: fresh_id(), ..add(&acme, "grace", "admin") };
    let refused = ada.organizations.add_member(request.clone()).await;
    assert_refused(refused, Code::AlreadyExists, "ALREADY_MEMBER");
    assert_eq!(stage.database().count("SELECT count(*) FROM requests").await, 0);
    ada.organizations.remove_member(remove(&acme, "grace")).await.unwrap();
    // After a refusal the id is free, for the same request and for another one.
    let other = pb::AddMemberRequest { role: "member".to_owned(), ..request.clone() };
    let added = ada.organizations.add_member(other).await.unwrap().into_inner();
    assert_eq!(added.member.unwrap().role, "member");
    assert_refused(ada.organizations.add_member(request).await, Code::AlreadyExists, "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn permissions_are_checked_again_before_an_answer_is_repeated() {
    let stage = Fixture::new().await;
    let mut ada = stage.ada.clone();
    let mut grace = stage.server.user("grace");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "admin").await;
    let request = pb::AddMemberRequest { request_id: fresh_id(), ..add(&acme, "alan", "member") };
    let first = grace.organizations.add_member(request.clone()).await.unwrap().into_inner();
    let denied = async |grace: &mut Clients, reason: &str| {
        let answer = grace.organizations.add_member(request.clone()).await;
        assert_refused(answer, Code::PermissionDenied, reason);
    };
    ada.organizations.update_member(set_role(&acme, "grace", "member")).await.unwrap();
    denied(&mut grace, "ROLE_LACKS_PERMISSION").await;
    ada.organizations.remove_member(remove(&acme, "grace")).await.unwrap();
    denied(&mut grace, "PERMISSION_DENIED").await;
    let user_id = || "grace".to_owned();
    let off = pb::DeactivateUserRequest { user_id: user_id(), ..Default::default() };
    stage.operator.clone().users.deactivate_user(off).await.unwrap();
    denied(&mut grace, "CALLER_INACTIVE").await;
    let on = pb::ReactivateUserRequest { user_id: user_id(), ..Default::default() };
    stage.operator.clone().users.reactivate_user(on).await.unwrap();
    // With the permission back, the answer is repeated again.
    ada.add(&acme, "grace", "admin").await;
    assert_eq!(grace.organizations.add_member(request.clone()).await.unwrap().into_inner(), first);
    let deleted = pb::DeleteOrganizationRequest { organization: acme.clone(), ..Default::default() };
    ada.organizations.delete_organization(deleted).await.unwrap();
    denied(&mut grace, "PERMISSION_DENIED").await;
}

#[tokio::test]
async fn a_request_that_ended_its_callers_own_access_is_answered_again() {
    let stage = Fixture::new().await;
    let mut ada = stage.ada.clone();
    let acme = ada.create("Acme").await;
    let mut people = ["grace", "alan", "joan"].map(|id| stage.server.user(id));
    for id in ["grace", "alan", "joan"] {
        ada.add(&acme, id, "admin").await;
    }
    let [grace, alan, joan] = &mut people;
    // Removing oneself.
    let request = pb::RemoveMemberRequest { request_id: fresh_id(), ..remove(&acme, "grace") };
    let first = grace.organizations.remove_member(request.clone()).await.unwrap().into_inner();
    assert_eq!(grace.organizations.remove_member(request.clone()).await.unwrap().into_inner(), first);
    // The answer belongs to one caller and one request.
    assert_refused(alan.organizations.remove_member(request.clone()).await, Code::NotFound, "MEMBER_NOT_FOUND");
    let other = pb::RemoveMemberRequest { reason: "another body".to_owned(), ..request };
    assert_refused(grace.organizations.remove_member(other).await, Code::PermissionDenied, "PERMISSION_DENIED");
    // Demoting oneself.
    let request = pb::UpdateMemberRequest { request_id: fresh_id(), ..set_role(&acme, "alan", "member") };
    let first = alan.organizations.update_member(request.clone()).await.unwrap().into_inner();
    assert_eq!(alan.organizations.update_member(request.clone()).await.unwrap().into_inner(), first);
    let fresh = pb::UpdateMemberRequest { request_id: fresh_id(), ..request };
    assert_refused(alan.organizations.update_member(fresh).await, Code::PermissionDenied, "ROLE_LACKS_PERMISSION");
    // Leaving, and a repetition after being added again: the first answer, without another leave.
    let leave =
        pb::LeaveOrganizationRequest { organization: acme.clone(), request_id: fresh_id(), ..Default::default() };
    let first = joan.organizations.leave_organization(leave.clone()).await.unwrap().into_inner();
    assert_eq!(joan.organizations.leave_organization(leave.clone()).await.unwrap().into_inner(), first);
    ada.add(&acme, "joan", "admin").await;
    assert_eq!(joan.organizations.leave_organization(leave).await.unwrap().into_inner(), first);
    assert!(stage.operator.clone().is_member(&acme, "joan").await);
    // Transferring the ownership, and being removed afterwards.
    let request = pb::TransferOwnershipRequest { request_id: fresh_id(), ..transfer(&acme, "joan") };
    let first = ada.organizations.transfer_ownership(request.clone()).await.unwrap().into_inner();
    assert_eq!(ada.organizations.transfer_ownership(request.clone()).await.unwrap().into_inner(), first);
    joan.organizations.remove_member(remove(&acme, "ada")).await.unwrap();
    assert_eq!(ada.organizations.transfer_ownership(request).await.unwrap().into_inner(), first);
    // Deleting and purging.
    let delete =
        pb::DeleteOrganizationRequest { organization: acme.clone(), request_id: fresh_id(), ..Default::default() };
    let first = joan.organizations.delete_organization(delete.clone()).await.unwrap().into_inner();
    assert_eq!(joan.organizations.delete_organization(delete.clone()).await.unwrap().into_inner(), first);
    let purge = pb::DeleteOrganizationRequest { purge: true, request_id: fresh_id(), ..delete };
    let mut operator = stage.operator.clone();
    let first = operator.organizations.delete_organization(purge.clone()).await.unwrap().into_inner();
    assert_eq!(operator.organizations.delete_organization(purge).await.unwrap().into_inner(), first);
    stage.database().assert_invariants().await;
}

#[tokio::test]
async fn validate_only_changes_nothing_and_answers_like_the_write() {
    let pool = DescriptorPool::decode(roster::grpc::FILE_DESCRIPTOR_SET).unwrap();
    let stage = Fixture::new().await;
    for method in writes() {
        let place = stage.target(method).await;
        let write = Write { validate_only: true, ..Write::fresh() };
        let before = dump(stage.database()).await;
        let dry_run = stage.call(method, request(method, &place, &write)).await.unwrap();
        assert_eq!(dump(stage.database()).await, before, "{}", method.path);
        let write = Write { validate_only: false, ..write };
        let done = stage.call(method, request(method, &place, &write)).await.unwrap();
        assert_ne!(dump(stage.database()).await, before, "{}: the sample changes nothing", method.path);
        let [dry_tokens, done_tokens] =
            [&dry_run, &done].map(|answer| take_tokens(&mut decode(&pool, method, answer)).len());
        assert_eq!((dry_tokens, done_tokens), (0, tokens_of(method)), "{}", method.path);
        let [dry_message, done_message] = [&dry_run, &done].map(|answer| comparable(&pool, method, answer));
        // Not assert_eq: a message prints all its descriptors.
        assert!(dry_message == done_message, "{}: {dry_run:?} against {done:?}", method.path);
        // A dry run returns no consistency token.
        assert!(
            token(&pool, method, &dry_run).is_empty() && !token(&pool, method, &done).is_empty(),
            "{}",
            method.path
        );
    }
    stage.database().assert_invariants().await;
}

#[tokio::test]
async fn invitation_tokens_are_valid_and_returned_once() {
    let stage = Fixture::new().await;
    let acme = stage.ada.clone().create("Place").await;
    let mut operator = stage.operator.clone();
    let mut anonymous = stage.server.anonymous().invitations;
    let mut works = async |token: &str| {
        let preview = pb::PreviewInvitationRequest { token: token.to_owned() };
        anonymous.preview_invitation(preview).await.is_ok()
    };
    let request = pb::CreateInvitationRequest { request_id: fresh_id(), ..invite(&acme, "eve@example.com") };
    let first = operator.invitations.create_invitation(request.clone()).await.unwrap().into_inner();
    assert!(works(&first.token).await);
    let again = operator.invitations.create_invitation(request).await.unwrap().into_inner();
    assert_eq!(again, pb::CreateInvitationResponse { token: String::new(), ..first.clone() });

    let invitation_id = first.invitation.as_ref().unwrap().invitation_id.clone();
    let request = pb::RemindInvitationRequest {
        organization: acme.clone(),
        invitation_id,
        delivery: pb::InvitationDelivery::Token.into(),
        rotate: true,
        request_id: fresh_id(),
        ..Default::default()
    };
    // A dry run returns no token and leaves the present one valid.
    let tried = pb::RemindInvitationRequest { validate_only: true, ..request.clone() };
    let tried = operator.invitations.remind_invitation(tried).await.unwrap().into_inner();
    assert!(tried.token.is_empty() && works(&first.token).await);
    let reminded = operator.invitations.remind_invitation(request.clone()).await.unwrap().into_inner();
    assert!(works(&reminded.token).await && !works(&first.token).await);
    let again = operator.invitations.remind_invitation(request).await.unwrap().into_inner();
    assert_eq!(again, pb::RemindInvitationResponse { token: String::new(), ..reminded.clone() });
    assert!(works(&reminded.token).await, "a repeated reminder does not rotate again");

    let request = pb::CreateOrganizationRequest {
        owner_email: "eve@example.com".to_owned(),
        owner_delivery: pb::InvitationDelivery::Token.into(),
        request_id: fresh_id(),
        ..organization("Navy")
    };
    let tried = pb::CreateOrganizationRequest { validate_only: true, ..request.clone() };
    let tried = operator.organizations.create_organization(tried).await.unwrap().into_inner();
    assert!(tried.owner_token.is_empty() && tried.owner_invitation.is_some());
    let first = operator.organizations.create_organization(request.clone()).await.unwrap().into_inner();
    assert!(works(&first.owner_token).await);
    let again = operator.organizations.create_organization(request).await.unwrap().into_inner();
    assert_eq!(again, pb::CreateOrganizationResponse { owner_token: String::new(), ..first });
    stage.database().assert_invariants().await;
}

#[tokio::test]
async fn validate_only_refuses_like_the_write() {
    let stage = Fixture::new().await;
    let mut ada = stage.ada.clone();
    let acme = ada.create("Place").await;
    ada.add(&acme, "grace", "admin").await;
    ada.add(&acme, "alan", "member").await;
    let mut grace = stage.server.user("grace");
    grace.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    let mut operator = stage.operator.clone();
    let before = dump(stage.database()).await;
    let validate_only = true;
    let taken = pb::CreateOrganizationRequest { slug: "place".to_owned(), validate_only, ..organization("Place") };
    assert_refused(ada.organizations.create_organization(taken).await, Code::AlreadyExists, "SLUG_TAKEN");
    let again = pb::AddMemberRequest { validate_only, ..add(&acme, "grace", "admin") };
    assert_refused(ada.organizations.add_member(again).await, Code::AlreadyExists, "ALREADY_MEMBER");
    let stranger = pb::TransferOwnershipRequest { validate_only, ..transfer(&acme, "stranger") };
    let answer = ada.organizations.transfer_ownership(stranger).await;
    assert_refused(answer, Code::FailedPrecondition, "TARGET_NOT_MEMBER");
    let owner = pb::RemoveMemberRequest { validate_only, ..remove(&acme, "ada") };
    let answer = grace.organizations.remove_member(owner).await;
    assert_refused(answer, Code::FailedPrecondition, "OWNERSHIP_REQUIRED");
    let by_admin = pb::TransferOwnershipRequest { validate_only, ..transfer(&acme, "alan") };
    let answer = grace.organizations.transfer_ownership(by_admin).await;
    assert_refused(answer, Code::PermissionDenied, "ROLE_LACKS_PERMISSION");
    let off = pb::DeactivateUserRequest { user_id: "ada".to_owned(), validate_only, ..Default::default() };
    assert_refused(operator.users.deactivate_user(off).await, Code::FailedPrecondition, "OWNERSHIP_REQUIRED");
    assert_eq!(dump(stage.database()).await, before);
}

#[tokio::test]
async fn an_id_is_remembered_for_a_day() {
    let stage = Fixture::new().await;
    let mut ada = stage.ada.clone();
    let acme = ada.create("Acme").await;
    let request = pb::AddMemberRequest { request_id: fresh_id(), ..add(&acme, "grace", "member") };
    let first = ada.organizations.add_member(request.clone()).await.unwrap().into_inner();
    let age = async |minutes: i32| {
        let aged = "UPDATE requests SET create_time = create_time - make_interval(mins => $1)";
        let done = sqlx::query(aged).bind(minutes).execute(&stage.database().pool).await.unwrap();
        assert_eq!(done.rows_affected(), 1);
    };
    age(24 * 60 - 1).await;
    assert_eq!(ada.organizations.add_member(request.clone()).await.unwrap().into_inner(), first);
    assert_eq!(stage.server.roster.tidy().await.unwrap().forgotten, 0);
    age(1).await;
    // The id is free again, for the same request and for another one.
    let again = ada.organizations.add_member(request.clone()).await;
    assert_refused(again, Code::AlreadyExists, "ALREADY_MEMBER");
    let other = pb::AddMemberRequest { request_id: request.request_id.clone(), ..add(&acme, "alan", "member") };
    let second = ada.organizations.add_member(other.clone()).await.unwrap().into_inner();
    assert_eq!(second.member.as_ref().unwrap().user_id, "alan");
    assert_eq!(ada.organizations.add_member(other).await.unwrap().into_inner(), second);
    assert_refused(ada.organizations.add_member(request).await, Code::AlreadyExists, "REQUEST_ID_REUSED");
    // Housekeeping deletes requests past their day.
    age(24 * 60).await;
    assert_eq!(stage.server.roster.tidy().await.unwrap().forgotten, 1);
    assert_eq!(stage.database().count("SELECT count(*) FROM requests").await, 0);
}

#[tokio::test]
async fn the_answer_to_a_request_that_ended_its_callers_access_is_kept_for_a_day_too() {
    let stage = Fixture::new().await;
    let mut ada = stage.ada.clone();
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "member").await;
    let mut grace = stage.server.user("grace");
    let leave = pb::LeaveOrganizationRequest { organization: acme, request_id: fresh_id(), ..Default::default() };
    grace.organizations.leave_organization(leave.clone()).await.unwrap();
    grace.organizations.leave_organization(leave.clone()).await.unwrap();
    let aged = "UPDATE requests SET create_time = create_time - interval '24 hours'";
    sqlx::query(aged).execute(&stage.database().pool).await.unwrap();
    let answer = grace.organizations.leave_organization(leave).await;
    assert_refused(answer, Code::PermissionDenied, "PERMISSION_DENIED");
}

#[tokio::test]
async fn reads_ignore_a_request_id() {
    // No field of a request makes a read store anything.
    let stage = Fixture::new().await;
    let mut places = Vec::new();
    for method in METHODS.iter().filter(|method| !method.write) {
        places.push((method, stage.target(method).await));
    }
    let before = dump(stage.database()).await;
    for (method, place) in places {
        let (who, message) = request(method, &place, &Write::default());
        // Fields that reads do not have, with the numbers that writes use.
        let unknown = pb::LeaveOrganizationRequest {
            reason: "a reason".to_owned(),
            request_id: fresh_id(),
            ..Default::default()
        };
        let message = [message, unknown.encode_to_vec()].concat();
        let answer = call(stage.server.channel(), stage.token(who), method.path, message).await;
        assert!(answer.is_ok(), "{}: {answer:?}", method.path);
    }
    assert_eq!(dump(stage.database()).await, before);
}
