//! Batches with too many mistakes, too many items, or none.

use super::{World, violations};
use roster::grpc::pb;
use tonic_types::StatusExt;

fn wrong_item() -> pb::BatchAddMembersItem {
    pb::BatchAddMembersItem { role: "king".to_owned(), ..Default::default() }
}

#[tokio::test]
async fn of_many_mistakes_twenty_arrive() {
    let world = World::new().await;
    let request = pb::BatchAddMembersRequest {
        organization: world.organization.clone(),
        items: vec![wrong_item(); 30],
        request_id: "x".to_owned(),
        ..Default::default()
    };
    let status = world.server.operator().organizations.batch_add_members(request).await.unwrap_err();
    let named = violations(&status);
    assert_eq!(named.len(), 20);
    // In the order of the items: ten of them, with two mistakes each.
    let mut expected: Vec<String> =
        (0..10).flat_map(|index| [format!("items[{index}].role"), format!("items[{index}].user_id")]).collect();
    expected.sort();
    assert_eq!(named, expected);
    assert!(status.details().len() < 10 * 1024, "{}", status.details().len());
    assert!(status.get_details_error_info().is_some());

    let item = pb::CheckItem { organization: "é".repeat(1000), user_id: "\0".repeat(300), ..Default::default() };
    let request = pb::BatchCheckMembershipRequest { items: vec![item; 100], ..Default::default() };
    let status = world.server.operator().checks.batch_check_membership(request).await.unwrap_err();
    assert_eq!(violations(&status).len(), 20);
    assert!(status.details().len() < 10 * 1024, "{}", status.details().len());
    world.assert_unchanged().await;
}

#[tokio::test]
async fn what_is_wrong_beside_the_items_is_not_called_an_item() {
    let world = World::new().await;
    let request = pb::BatchAddMembersRequest {
        organization: world.organization.clone(),
        items: vec![pb::BatchAddMembersItem::default()],
        request_id: "x".to_owned(),
        reason: "\0".to_owned(),
        ..Default::default()
    };
    let status = world.server.operator().organizations.batch_add_members(request).await.unwrap_err();
    assert_eq!(violations(&status), ["items[0].user_id", "reason", "request_id"]);
}

#[tokio::test]
async fn a_batch_has_its_size() {
    let world = World::new().await;
    let mut operator = world.server.operator();
    for size in [0, 101] {
        let request = pb::BatchAddMembersRequest {
            organization: world.organization.clone(),
            items: vec![wrong_item(); size],
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
    world.assert_unchanged().await;
}
