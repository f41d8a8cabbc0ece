//! Races about roles: definitions, assignments and the access model.

use super::{ContendedRow, Fixture, Outcomes, Sides, call, run};
use crate::harness::{add, set_role};
use crate::roles::apply;
use roster::grpc::pb;
use serde_json::json;

fn role(organization: &str, name: &str, permissions: &[&str]) -> pb::CreateRoleRequest {
    pb::CreateRoleRequest {
        organization: organization.to_owned(),
        name: name.to_owned(),
        permissions: permissions.iter().map(|word| (*word).to_owned()).collect(),
        ..Default::default()
    }
}

fn delete(organization: &str, name: &str, replace_with: &str) -> pb::DeleteRoleRequest {
    pb::DeleteRoleRequest {
        organization: organization.to_owned(),
        name: name.to_owned(),
        replace_with: replace_with.to_owned(),
        ..Default::default()
    }
}

/// A model with the roles `clerk-0` to `clerk-N`, without the last one.
fn clerks(count: usize) -> pb::ApplyAccessModelRequest {
    let roles: Vec<_> =
        (0..count).map(|number| json!({ "name": format!("clerk-{number}"), "permissions": [] })).collect();
    apply(json!({ "roles": roles, "delegable": ["roles.manage"] }))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_models_with_one_etag() {
    let fixture = Fixture::new().await;
    let outcomes = Outcomes::of((["OK", "ETAG_MISMATCH"], 1), (["ETAG_MISMATCH", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let mut models = fixture.operator.models.clone();
        let present = models.get_access_model(pb::GetAccessModelRequest {}).await.unwrap().into_inner();
        let model = |word: String| pb::ApplyAccessModelRequest {
            etag: present.etag.clone(),
            ..apply(json!({ "permissions": [{ "name": word }] }))
        };
        let first = call!(fixture.operator.models.apply_access_model(model(format!("first.of-{number}"))));
        let second = call!(fixture.operator.models.apply_access_model(model(format!("second.of-{number}"))));
        Sides { row: ContendedRow::Model, calls: [first, second] }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_removes_a_role_against_its_assignment() {
    let fixture = Fixture::new().await;
    let outcomes = Outcomes::of((["OK", "INVALID_REQUEST"], 1), (["ROLE_IN_USE", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let acme = fixture.acme().await;
        fixture.operator.models.clone().apply_access_model(clerks(number + 1)).await.unwrap();
        let remove = call!(fixture.operator.models.apply_access_model(clerks(number)));
        let assign = call!(fixture.ada.organizations.add_member(add(&acme, "joan", &format!("clerk-{number}"))));
        Sides { row: ContendedRow::Head(acme), calls: [remove, assign] }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_takes_a_role_from_a_kind_against_its_assignment() {
    let fixture = Fixture::new().await;
    let outcomes = Outcomes::of((["OK", "INVALID_REQUEST"], 1), (["ROLE_IN_USE", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let acme = fixture.acme().await;
        fixture.operator.models.clone().apply_access_model(clerks(number + 1)).await.unwrap();
        let mut request = clerks(number + 1);
        request.model.as_mut().unwrap().roles[number].kind = "vendor".to_owned();
        let take = call!(fixture.operator.models.apply_access_model(request));
        let assign = call!(fixture.ada.organizations.add_member(add(&acme, "joan", &format!("clerk-{number}"))));
        Sides { row: ContendedRow::Head(acme), calls: [take, assign] }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_of_a_role_against_its_assignment() {
    let fixture = Fixture::new().await;
    let outcomes = Outcomes::of((["OK", "INVALID_REQUEST"], 1), (["ROLE_IN_USE", "OK"], 1));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        fixture.ada.roles.clone().create_role(role(&acme, "org:auditor", &[])).await.unwrap();
        let delete = call!(fixture.ada.roles.delete_role(delete(&acme, "org:auditor", "")));
        let assign = call!(fixture.ada.organizations.add_member(add(&acme, "joan", "org:auditor")));
        Sides { row: ContendedRow::Organization(acme), calls: [delete, assign] }
    })
    .await;
    // With a replacement, a member who was added first moves.
    let outcomes = Outcomes::of((["OK", "INVALID_REQUEST"], 1), (["OK", "OK"], 3));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        fixture.ada.roles.clone().create_role(role(&acme, "org:auditor", &[])).await.unwrap();
        let delete = call!(fixture.ada.roles.delete_role(delete(&acme, "org:auditor", "member")));
        let assign = call!(fixture.ada.organizations.add_member(add(&acme, "joan", "org:auditor")));
        Sides { row: ContendedRow::Organization(acme), calls: [delete, assign] }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definition_of_a_role_against_the_loss_of_the_right_to() {
    let fixture = Fixture::new().await;
    fixture.operator.models.clone().apply_access_model(clerks(0)).await.unwrap();
    let outcomes = Outcomes::of((["OK", "OK"], 2), (["ROLE_LACKS_PERMISSION", "OK"], 1));
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        fixture.ada.roles.clone().create_role(role(&acme, "org:keeper", &["roles.manage"])).await.unwrap();
        fixture.ada.organizations.clone().update_member(set_role(&acme, "grace", "org:keeper")).await.unwrap();
        let define = call!(fixture.grace.roles.create_role(role(&acme, "org:new", &["roles.manage"])));
        let demote = call!(fixture.ada.organizations.update_member(set_role(&acme, "grace", "member")));
        Sides { row: ContendedRow::Organization(acme), calls: [define, demote] }
    })
    .await;
    // The role itself loses the permission.
    run(&fixture.server, outcomes, async |_| {
        let acme = fixture.acme().await;
        fixture.ada.roles.clone().create_role(role(&acme, "org:keeper", &["roles.manage"])).await.unwrap();
        fixture.ada.organizations.clone().update_member(set_role(&acme, "grace", "org:keeper")).await.unwrap();
        let define = call!(fixture.grace.roles.create_role(role(&acme, "org:new", &["roles.manage"])));
        let request = pb::UpdateRoleRequest {
            organization: acme.clone(),
            name: "org:keeper".to_owned(),
            update_mask: Some(prost_types::FieldMask { paths: vec!["permissions".to_owned()] }),
            ..Default::default()
        };
        let take = call!(fixture.ada.roles.update_role(request));
        Sides { row: ContendedRow::Organization(acme), calls: [define, take] }
    })
    .await;
}
