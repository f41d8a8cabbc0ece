//! Refused requests: they store no answer for their `request_id`, so the same request can succeed later.

use super::{decode, fresh_id, request, writes};
use crate::harness::samples::{Fixture, Write};
use crate::harness::{add, assert_refused};
use crate::invitations::{invite, revoke};
use prost_reflect::{DescriptorPool, Value};
use roster::authz::rules::Method;
use roster::grpc::pb;
use std::collections::BTreeSet;
use tonic::Code;

/// Whether an answer reports no success: each item of a batch was refused.
fn is_refused(pool: &DescriptorPool, method: &Method, answer: &[u8]) -> bool {
    let message = decode(pool, method, answer);
    let Some(results) = message.get_field_by_name("results") else { return false };
    let refused = |result: &Value| {
        let status = result.as_message().unwrap().get_field_by_name("status").unwrap().into_owned();
        let code = status.as_message().and_then(|status| status.get_field_by_name("code")?.as_i32());
        code.is_some_and(|code| code != 0)
    };
    results.as_list().unwrap().iter().all(refused)
}

#[tokio::test]
async fn a_refused_request_of_any_method_stores_no_answer() {
    const STORED: &str = "SELECT count(*) FROM requests";
    let pool = DescriptorPool::decode(roster::grpc::FILE_DESCRIPTOR_SET).unwrap();
    let stage = Fixture::new().await;
    let mut refused_methods = BTreeSet::new();
    for method in writes() {
        let place = stage.target(method).await;
        stage.call(method, request(method, &place, &Write::fresh())).await.unwrap();
        let before = stage.database().count(STORED).await;
        // The same change again, under another id. Where it is refused, the id stays free.
        let again = stage.call(method, request(method, &place, &Write::fresh())).await;
        let is_refused = again.map_or(true, |answer| is_refused(&pool, method, &answer));
        if is_refused {
            refused_methods.insert(method.name);
        }
        let stored = stage.database().count(STORED).await - before;
        assert_eq!(stored, i64::from(!is_refused), "{}", method.path);
    }
    for method in ["AddMember", "BatchAddMembers", "BatchCreateInvitations", "CreateInvitation", "RevokeInvitation"] {
        assert!(refused_methods.contains(method), "{method} is not among {refused_methods:?}");
    }
}

#[tokio::test]
async fn a_refused_invitation_succeeds_under_the_same_request_id_once_its_cause_is_gone() {
    let stage = Fixture::new().await;
    let acme = stage.ada.clone().create("Acme").await;
    let mut operator = stage.operator.clone().invitations;
    let first = operator.create_invitation(invite(&acme, "eve@example.com")).await.unwrap().into_inner();
    let request = pb::CreateInvitationRequest { request_id: fresh_id(), ..invite(&acme, "eve@example.com") };
    let refused = operator.create_invitation(request.clone()).await;
    assert_refused(refused, Code::AlreadyExists, "INVITATION_PENDING");
    operator.revoke_invitation(revoke(&acme, &first.invitation.unwrap().invitation_id)).await.unwrap();
    let second = operator.create_invitation(request.clone()).await.unwrap().into_inner();
    // From now on the answer is stored.
    let again = operator.create_invitation(request).await.unwrap().into_inner();
    assert_eq!(again, pb::CreateInvitationResponse { token: String::new(), ..second });
}

#[tokio::test]
async fn a_batch_stores_its_answer_if_one_item_succeeded() {
    let stage = Fixture::new().await;
    let mut ada = stage.ada.clone();
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "member").await;
    let item = |user: &str| pb::BatchAddMembersItem {
        person: Some(pb::batch_add_members_item::Person::UserId(user.to_owned())),
        ..Default::default()
    };
    let batch = |items: Vec<pb::BatchAddMembersItem>| pb::BatchAddMembersRequest {
        organization: acme.clone(),
        items,
        request_id: fresh_id(),
        ..Default::default()
    };
    let (partial, refused) = (batch(vec![item("grace"), item("alan")]), batch(vec![item("grace")]));
    let aborted = pb::BatchAddMembersRequest { all_or_nothing: true, ..batch(vec![item("grace"), item("joan")]) };
    let first = ada.organizations.batch_add_members(partial.clone()).await.unwrap().into_inner();
    let codes = |answer: &pb::BatchAddMembersResponse| {
        answer.results.iter().map(|result| result.status.as_ref().map_or(0, |status| status.code)).collect::<Vec<_>>()
    };
    assert_eq!(codes(&first), [i32::from(Code::AlreadyExists), 0]);
    for request in [&refused, &aborted] {
        let answer = ada.organizations.batch_add_members(request.clone()).await.unwrap().into_inner();
        assert!(!codes(&answer).contains(&0) && !answer.consistency_token.is_empty());
    }
    ada.organizations.remove_member(crate::harness::remove(&acme, "grace")).await.unwrap();
    let again = ada.organizations.batch_add_members(partial).await.unwrap().into_inner();
    assert_eq!(again, first);
    let answer = ada.organizations.batch_add_members(refused).await.unwrap().into_inner();
    assert_eq!(codes(&answer), [0]);
    ada.organizations.remove_member(crate::harness::remove(&acme, "grace")).await.unwrap();
    let answer = ada.organizations.batch_add_members(aborted).await.unwrap().into_inner();
    assert_eq!(codes(&answer), [0, 0]);
}

#[tokio::test]
async fn a_refusal_that_an_earlier_release_stored_does_not_count() {
    let stage = Fixture::new().await;
    let mut ada = stage.ada.clone();
    let acme = ada.create("Acme").await;
    let mut operator = stage.operator.clone().invitations;
    let request = pb::CreateInvitationRequest { request_id: fresh_id(), ..invite(&acme, "eve@example.com") };
    let made = operator.create_invitation(request.clone()).await.unwrap().into_inner();
    let id = made.invitation.unwrap().invitation_id;
    // As release 0.3 stores it.
    let answer =
        format!(r#"{{"answer": [{{"Err": {{"InvitationPending": {{"invitation_id": "{id}"}}}}}}], "token": ""}}"#);
    let store = "UPDATE requests SET answer = $1::jsonb WHERE request_id = $2::uuid";
    let store = sqlx::query(store).bind(answer).bind(&request.request_id);
    assert_eq!(store.execute(&stage.database().pool).await.unwrap().rows_affected(), 1);
    let refused = operator.create_invitation(request.clone()).await;
    assert_refused(refused, Code::AlreadyExists, "INVITATION_PENDING");
    assert_eq!(stage.database().count("SELECT count(*) FROM requests").await, 0);
    operator.revoke_invitation(revoke(&acme, &id)).await.unwrap();
    let second = operator.create_invitation(request).await.unwrap().into_inner().invitation.unwrap();
    assert_ne!(second.invitation_id, id);
    // The answers of other requests are not touched.
    let kept = pb::AddMemberRequest { request_id: fresh_id(), ..add(&acme, "grace", "member") };
    let first = ada.organizations.add_member(kept.clone()).await.unwrap().into_inner();
    assert_eq!(ada.organizations.add_member(kept).await.unwrap().into_inner(), first);
}
