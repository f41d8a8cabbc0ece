//! What can be wrong with invitations beyond one field, and tokens that are none.

use super::{World, assert_same, violations};
use crate::harness::raw::{Call, path};
use crate::harness::reason;
use crate::invitations::{accept, invite};
use prost::Message;
use roster::grpc::pb;
use tonic::{Code, Status};

fn identifier(organization: &str, identifier: &str) -> pb::CreateInvitationRequest {
    let recipient = Some(pb::create_invitation_request::Recipient::Identifier(identifier.to_owned()));
    pb::CreateInvitationRequest { recipient, ..invite(organization, "") }
}

#[tokio::test]
async fn what_goes_together_and_what_does_not() {
    let world = World::new().await;
    let (mut operator, mut ada) = (world.server.operator(), world.ada.clone());
    let here = world.organization.clone();

    let nobody = pb::CreateInvitationRequest { recipient: None, ..invite(&here, "") };
    let status = operator.invitations.create_invitation(nobody).await.unwrap_err();
    assert_eq!(violations(&status), ["email"]);
    let by_mail = pb::InvitationDelivery::Email.into();
    let mail = pb::CreateInvitationRequest { delivery: by_mail, ..identifier(&here, "@nina") };
    let status = operator.invitations.create_invitation(mail).await.unwrap_err();
    assert_eq!(violations(&status), ["delivery"]);
    let remind = pb::RemindInvitationRequest {
        organization: here.clone(),
        invitation_id: world.invitation.clone(),
        delivery: by_mail,
        ..Default::default()
    };
    let status = operator.invitations.remind_invitation(remind).await.unwrap_err();
    assert_eq!(violations(&status), ["delivery"]);

    let item = pb::BatchCreateInvitationsItem { role: "king".to_owned(), ..Default::default() };
    for size in [0, 101] {
        let items = vec![item.clone(); size];
        let batch = pb::BatchCreateInvitationsRequest { organization: here.clone(), items, ..Default::default() };
        let status = operator.invitations.batch_create_invitations(batch).await.unwrap_err();
        assert_eq!(violations(&status), ["items"], "{size}");
    }
    let batch = pb::BatchCreateInvitationsRequest {
        organization: here.clone(),
        items: vec![item; 2],
        delivery: 99,
        lifetime: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        reason: "\0".to_owned(),
        ..Default::default()
    };
    let status = operator.invitations.batch_create_invitations(batch).await.unwrap_err();
    let all = ["delivery", "items[0].email", "items[0].role", "items[1].email", "items[1].role", "lifetime", "reason"];
    assert_eq!(violations(&status), all);

    let status = ada.invitations.accept_invitation(pb::AcceptInvitationRequest::default()).await.unwrap_err();
    assert_eq!(violations(&status), ["token"]);
    let status = ada.invitations.decline_invitation(pb::DeclineInvitationRequest::default()).await.unwrap_err();
    assert_eq!(violations(&status), ["token"]);

    let two_owners = pb::CreateOrganizationRequest {
        owner_user_id: "grace".to_owned(),
        owner_email: "grace@example.com".to_owned(),
        ..crate::harness::organization("Gamma")
    };
    let status = operator.organizations.create_organization(two_owners).await.unwrap_err();
    assert_eq!(violations(&status), ["owner_email"]);
    let off = pb::CreateOrganizationRequest {
        owner_email: "grace@example.com".to_owned(),
        inactive: true,
        ..crate::harness::organization("Gamma")
    };
    let status = operator.organizations.create_organization(off).await.unwrap_err();
    assert_eq!(violations(&status), ["inactive"]);
    world.assert_unchanged().await;
}

#[tokio::test]
async fn invitations_just_within_the_limits_are_made() {
    let world = World::new().await;
    let mut operator = world.server.operator();
    let here = &world.organization;
    let lasting = |seconds, nanos, request| pb::CreateInvitationRequest {
        lifetime: Some(prost_types::Duration { seconds, nanos }),
        validate_only: true,
        ..request
    };
    let domain = format!("{}.example", ["x".repeat(63), "y".repeat(63), "z".repeat(53)].join("."));
    let longest = format!("{}@{domain}", "a".repeat(64));
    assert_eq!(longest.len(), 254);
    for request in [
        lasting(3600, 0, identifier(here, &"é".repeat(1000))),
        lasting(30 * 24 * 3600, 0, identifier(here, "7")),
        lasting(7200, 1, invite(here, &longest)),
    ] {
        let made = operator.invitations.create_invitation(request).await.unwrap().into_inner().invitation.unwrap();
        let lasts = made.expire_time.unwrap().seconds - made.create_time.unwrap().seconds;
        assert!([3600, 7200, 30 * 24 * 3600].contains(&lasts), "{lasts}");
    }
    let items = (0..100).map(|number| pb::BatchCreateInvitationsItem {
        recipient: Some(pb::batch_create_invitations_item::Recipient::Identifier(format!("@{number}"))),
        ..Default::default()
    });
    let batch = pb::BatchCreateInvitationsRequest {
        organization: here.clone(),
        items: items.collect(),
        validate_only: true,
        ..Default::default()
    };
    let made = operator.invitations.batch_create_invitations(batch).await.unwrap().into_inner();
    assert!(made.results.len() == 100 && made.results.iter().all(|result| result.invitation.is_some()));
    let list =
        pb::ListInvitationsRequest { organization: here.clone(), states: vec![1, 2, 3, 4, 5], ..Default::default() };
    assert_eq!(operator.invitations.list_invitations(list).await.unwrap().into_inner().invitations.len(), 1);
    world.assert_unchanged().await;
}

#[tokio::test]
async fn a_page_of_invitations_goes_on_where_it_was_asked_for() {
    let world = World::new().await;
    let mut operator = world.server.operator();
    let here = &world.organization;
    operator.invitations.create_invitation(identifier(here, "@nina")).await.unwrap();
    let first = pb::ListInvitationsRequest { organization: here.clone(), page_size: 1, ..Default::default() };
    let page = operator.invitations.list_invitations(first.clone()).await.unwrap().into_inner();
    let next = pb::ListInvitationsRequest { page_token: page.next_page_token.clone(), ..first.clone() };
    let second = operator.invitations.list_invitations(next.clone()).await.unwrap().into_inner();
    assert_eq!((second.invitations[0].identifier.as_str(), second.next_page_token.as_str()), ("@nina", ""));
    // Another filter, another organization, another method.
    let other = pb::ListInvitationsRequest { states: vec![1, 2], ..next.clone() };
    let status = operator.invitations.list_invitations(other).await.unwrap_err();
    assert_eq!(violations(&status), ["page_token"]);
    let elsewhere = pb::ListInvitationsRequest { organization: "beta".to_owned(), ..next };
    let status = operator.invitations.list_invitations(elsewhere).await.unwrap_err();
    assert_eq!(violations(&status), ["page_token"]);
    let mine = pb::ListReceivedInvitationsRequest { page_token: page.next_page_token, ..Default::default() };
    let mut ada = world.ada.clone();
    let status = ada.invitations.list_received_invitations(mine).await.unwrap_err();
    assert_eq!(violations(&status), ["page_token"]);
}

/// What is no token, and what was nearly one.
fn garbage(world: &World) -> Vec<String> {
    let good = &world.token;
    let mut bad: Vec<String> = [
        good[..42].to_owned(),
        good[1..].to_owned(),
        format!("{good}A"),
        format!("{good}="),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{good}\0"),
        good.to_ascii_uppercase(),
        good.to_ascii_lowercase(),
        good.chars().rev().collect(),
        world.invitation.clone(),
        "A".repeat(43),
        "é".repeat(43),
        "\0".repeat(43),
        "x".repeat(100_000),
        "' OR true --".to_owned(),
        // Signed by nobody, and meaning what its bearer likes.
        "eyJhbGciOiJub25lIn0.eyJpbnZpdGF0aW9uIjoiMSJ9.".to_owned(),
    ]
    .into();
    bad.extend(["", " ", "\0", "null", "%00"].map(str::to_owned));
    bad.retain(|token| token != good);
    bad
}

#[tokio::test]
async fn what_is_no_token_is_one_and_the_same_not_found() {
    let world = World::new().await;
    let mut ada = world.ada.clone().invitations;
    let mut nobody = world.server.nobody().invitations;
    let told = |status: Status| {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "INVITATION_NOT_FOUND"));
        (status.message().to_owned(), status.details().to_vec())
    };
    let mut first = None;
    for token in garbage(&world) {
        let decline = pb::DeclineInvitationRequest {
            invitation: Some(pb::decline_invitation_request::Invitation::Token(token.clone())),
            ..Default::default()
        };
        let preview = pb::PreviewInvitationRequest { token: token.clone() };
        let answers = [
            ada.accept_invitation(accept(&token)).await.unwrap_err(),
            ada.decline_invitation(decline).await.unwrap_err(),
            ada.preview_invitation(preview.clone()).await.unwrap_err(),
            nobody.preview_invitation(preview).await.unwrap_err(),
        ];
        for told in answers.map(told) {
            assert_eq!(&told, first.get_or_insert_with(|| told.clone()), "{token:?}");
        }
    }
    // Nothing of it but the counting of tries, and the good one is as good as before.
    let good = pb::PreviewInvitationRequest { token: world.token.clone() };
    assert!(nobody.preview_invitation(good).await.is_ok());
    let mut now = world.server.database.dump().await;
    now.remove("quotas");
    assert_same(&now, &world.before);
    // Bytes that are no text are no message.
    let token = [&[0x0a, 43][..], &[0xff; 43]].concat();
    assert!(pb::PreviewInvitationRequest::decode(token.as_slice()).is_err());
    let answer = world.server.send(Call::grpc(&path("InvitationService/PreviewInvitation"), &token)).await;
    assert_eq!(answer.reason.as_deref(), Some("MALFORMED_MESSAGE"));
}
