//! Batches with many invalid items, too many items, or none.

use super::{Fixture, violations};
use roster::grpc::pb;
use tonic_types::StatusExt;

fn invalid_item() -> pb::BatchAddMembersItem {
    pb::BatchAddMembersItem { role: "King".to_owned(), ..Default::default() }
}

#[tokio::test]
async fn an_error_names_at_most_twenty_invalid_fields() {
    let fixture = Fixture::new().await;
    let request = pb::BatchAddMembersRequest {
        organization: fixture.organization.clone(),
        items: vec![invalid_item(); 30],
        request_id: "x".to_owned(),
        ..Default::default()
    };
    let status = fixture.server.operator().organizations.batch_add_members(request).await.unwrap_err();
    let fields = violations(&status);
    assert_eq!(fields.len(), 20);
    // In the order of the items: ten items with two invalid fields each.
    let mut expected: Vec<String> =
        (0..10).flat_map(|index| [format!("items[{index}].role"), format!("items[{index}].user_id")]).collect();
    expected.sort();
    assert_eq!(fields, expected);
    assert!(status.details().len() < 10 * 1024, "{}", status.details().len());
    assert!(status.get_details_error_info().is_some());

    let item = pb::CheckItem { organization: "é".repeat(1000), user_id: "\0".repeat(300), ..Default::default() };
    let request = pb::BatchCheckMembershipRequest { items: vec![item; 100], ..Default::default() };
    let status = fixture.server.operator().checks.batch_check_membership(request).await.unwrap_err();
    assert_eq!(violations(&status).len(), 20);
    assert!(status.details().len() < 10 * 1024, "{}", status.details().len());
    let request = pb::BatchGetEffectivePermissionsRequest {
        items: vec![pb::EffectivePermissionsItem::default(); 1_001],
        consistency: Some(pb::Consistency {
            requirement: Some(pb::consistency::Requirement::AtLeastAsFresh("x".to_owned())),
        }),
    };
    let status = fixture.server.operator().checks.batch_get_effective_permissions(request).await.unwrap_err();
    assert_eq!(violations(&status), ["consistency.at_least_as_fresh", "items"]);
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn invalid_fields_outside_the_items_have_no_item_prefix() {
    let fixture = Fixture::new().await;
    let request = pb::BatchAddMembersRequest {
        organization: fixture.organization.clone(),
        items: vec![pb::BatchAddMembersItem::default()],
        request_id: "x".to_owned(),
        reason: "\0".to_owned(),
        ..Default::default()
    };
    let status = fixture.server.operator().organizations.batch_add_members(request).await.unwrap_err();
    assert_eq!(violations(&status), ["items[0].user_id", "reason", "request_id"]);
}

#[tokio::test]
async fn batch_sizes_are_limited() {
    let fixture = Fixture::new().await;
    let mut operator = fixture.server.operator();
    for size in [0, 101] {
        let request = pb::BatchAddMembersRequest {
            organization: fixture.organization.clone(),
            items: vec![invalid_item(); size],
            ..Default::default()
        };
        let status = operator.organizations.batch_add_members(request).await.unwrap_err();
        assert_eq!(violations(&status), ["items"], "{size}");
    }
    let item = pb::CheckItem { organization: "acme".to_owned(), user_id: "ada".to_owned(), ..Default::default() };
    for size in [0, 10_001] {
        let request = pb::BatchCheckMembershipRequest { items: vec![item.clone(); size], ..Default::default() };
        let status = operator.checks.batch_check_membership(request).await.unwrap_err();
        assert_eq!(violations(&status), ["items"], "{size}");
    }
    let request = pb::BatchCheckMembershipRequest { items: vec![item; 10_000], ..Default::default() };
    let answer = operator.checks.batch_check_membership(request).await.unwrap().into_inner();
    assert_eq!(answer.results.len(), 10_000);
    let item = pb::EffectivePermissionsItem { organization: "acme".to_owned(), user_id: "ada".to_owned() };
    for size in [0, 1_001] {
        let request = pb::BatchGetEffectivePermissionsRequest { items: vec![item.clone(); size], consistency: None };
        let status = operator.checks.batch_get_effective_permissions(request).await.unwrap_err();
        assert_eq!(violations(&status), ["items"], "{size}");
    }
    let request = pb::BatchGetEffectivePermissionsRequest { items: vec![item; 1_000], consistency: None };
    let answer = operator.checks.batch_get_effective_permissions(request).await.unwrap().into_inner();
    assert_eq!((answer.results.len(), answer.permission_sets.len()), (1_000, 1));
    fixture.assert_unchanged().await;
}
