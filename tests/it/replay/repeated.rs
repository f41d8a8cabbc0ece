//! What the comment of each write promises about a repeated call, tried with a second call under no `request_id`.

use super::{decode, dump, request, writes};
use crate::harness::dynamic::{self, comment};
use crate::harness::samples::{Fixture, Write};
use crate::harness::{assert_refused, reason};
use crate::invitations::invite;
use prost_reflect::{DescriptorPool, Value};
use roster::authz::rules::Method;
use roster::grpc::pb;
use std::collections::BTreeMap;
use tonic::{Code, Status};

/// The sentences of a method's comment about a repeated call.
fn promise(method: &Method) -> String {
    let described = dynamic::methods().into_iter().find(|described| dynamic::path(described) == method.path).unwrap();
    let text = comment(&described.parent_file(), described.path());
    let (_, promise) = text.split_once("epeated call").unwrap_or_else(|| panic!("{}: no promise", method.path));
    promise.split("Fails with: ").next().unwrap().to_owned()
}

/// The first reason that a promise says the call fails with.
fn failure(promise: &str) -> Option<&str> {
    let (_, list) = promise.split_once("fails with ")?;
    list.split(|c: char| !c.is_ascii_uppercase() && c != '_').find(|word| !word.is_empty())
}

/// The reason of a failed call, or of each item of a batch; `None` for success.
fn outcomes(pool: &DescriptorPool, method: &Method, answer: &Result<Vec<u8>, Status>) -> Vec<Option<String>> {
    let answer = match answer {
        Ok(answer) => decode(pool, method, answer),
        Err(status) => return vec![Some(reason(status))],
    };
    let Some(results) = answer.get_field_by_name("results") else { return vec![None] };
    let of_item = |result: &Value| {
        let status = result.as_message().unwrap().get_field_by_name("status").unwrap().into_owned();
        let status: tonic_types::pb::Status = status.as_message().unwrap().transcode_to().unwrap();
        (status.code != 0).then(|| reason(&dynamic::status(&status)))
    };
    results.as_list().unwrap().iter().map(of_item).collect()
}

/// The contents of the database, without the counts of attempts with invalid invitation tokens.
async fn resources(fixture: &Fixture) -> BTreeMap<String, String> {
    let mut tables = dump(fixture.database()).await;
    tables.remove("quotas");
    tables
}

#[tokio::test]
async fn a_repeated_call_has_the_outcome_that_the_comment_promises() {
    let pool = DescriptorPool::decode(roster::grpc::FILE_DESCRIPTOR_SET).unwrap();
    let fixture = Fixture::new().await;
    let (mut refused, mut unchanged) = (0, 0);
    for method in writes() {
        let promise = promise(method);
        let target = fixture.target(method).await;
        let first = fixture.call(method, request(method, &target, &Write::default())).await;
        let first = outcomes(&pool, method, &first);
        let before = resources(&fixture).await;
        let second = fixture.call(method, request(method, &target, &Write::default())).await;
        let promised = failure(&promise);
        refused += usize::from(promised.is_some());
        assert!(first.contains(&None), "{}: {first:?}", method.path);
        for (first, second) in first.iter().zip(outcomes(&pool, method, &second)) {
            // An item that failed before fails again.
            let expected = first.as_deref().or(promised);
            assert_eq!(second.as_deref(), expected, "{}: {promise}", method.path);
        }
        // Each of the other two makes something again.
        if !["CreateOrganization", "RemindInvitation"].contains(&method.name) {
            let is_same = resources(&fixture).await == before;
            assert!(is_same, "{} changes something: {promise}", method.path);
            unchanged += 1;
        }
    }
    assert!(refused >= 12 && unchanged > 25, "{refused} refused, {unchanged} changed nothing");
}

#[tokio::test]
async fn a_second_purge_finds_no_organization() {
    let fixture = Fixture::new().await;
    let acme = fixture.ada.clone().create("Acme").await;
    let mut operator = fixture.operator.clone().organizations;
    let delete = pb::DeleteOrganizationRequest { organization: acme, ..Default::default() };
    for _ in 0..2 {
        let answer = operator.delete_organization(delete.clone()).await.unwrap().into_inner();
        assert_eq!(answer.organization.unwrap().state(), pb::OrganizationState::Deleted);
    }
    let request_id = super::fresh_id();
    let purge = pb::DeleteOrganizationRequest { purge: true, request_id, ..delete };
    let first = operator.delete_organization(purge.clone()).await.unwrap().into_inner();
    assert_eq!(operator.delete_organization(purge.clone()).await.unwrap().into_inner(), first);
    let another = pb::DeleteOrganizationRequest { request_id: String::new(), ..purge };
    assert_refused(operator.delete_organization(another).await, Code::NotFound, "ORGANIZATION_NOT_FOUND");
}

#[tokio::test]
async fn a_second_organization_with_a_given_slug_is_refused() {
    let fixture = Fixture::new().await;
    let mut ada = fixture.ada.clone().organizations;
    let request = pb::CreateOrganizationRequest { slug: "acme".to_owned(), ..crate::harness::organization("Acme") };
    ada.create_organization(request.clone()).await.unwrap();
    assert_refused(ada.create_organization(request).await, Code::AlreadyExists, "SLUG_TAKEN");
}

#[tokio::test]
async fn a_restored_organization_has_its_members_and_none_of_its_invitations() {
    let fixture = Fixture::new().await;
    let mut ada = fixture.ada.clone();
    let organization = ada.create("Acme").await;
    ada.add(&organization, "grace", "admin").await;
    let mut operator = fixture.operator.clone();
    operator.invitations.create_invitation(invite(&organization, "eve@example.com")).await.unwrap();
    let delete = pb::DeleteOrganizationRequest { organization: organization.clone(), ..Default::default() };
    ada.organizations.delete_organization(delete).await.unwrap();
    let undelete = pb::UndeleteOrganizationRequest { organization: organization.clone(), ..Default::default() };
    ada.organizations.undelete_organization(undelete).await.unwrap();
    let members = pb::ListMembersRequest { organization: organization.clone(), ..Default::default() };
    assert_eq!(ada.organizations.list_members(members).await.unwrap().into_inner().members.len(), 2);
    let pending = pb::ListInvitationsRequest { organization: organization.clone(), ..Default::default() };
    assert_eq!(ada.invitations.list_invitations(pending.clone()).await.unwrap().into_inner().invitations, []);
    let states = vec![pb::InvitationState::Revoked.into()];
    let revoked = pb::ListInvitationsRequest { states, ..pending };
    assert_eq!(ada.invitations.list_invitations(revoked).await.unwrap().into_inner().invitations.len(), 1);
}
