//! Invalid combinations of fields in requests about invitations, and invalid invitation tokens.

use super::{Fixture, violations};
use crate::harness::dump::assert_same;
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
async fn invalid_combinations_of_fields_are_named() {
    let fixture = Fixture::new().await;
    let (mut operator, mut ada) = (fixture.server.operator(), fixture.ada.clone());
    let organization = fixture.organization.clone();

    let no_recipient = pb::CreateInvitationRequest { recipient: None, ..invite(&organization, "") };
    let status = operator.invitations.create_invitation(no_recipient).await.unwrap_err();
    assert_eq!(violations(&status), ["email"]);
    let by_mail = pb::InvitationDelivery::Email.into();
    let mail = pb::CreateInvitationRequest { delivery: by_mail, ..identifier(&organization, "@nina") };
    let status = operator.invitations.create_invitation(mail).await.unwrap_err();
    assert_eq!(violations(&status), ["delivery"]);
    let remind = pb::RemindInvitationRequest {
        organization: organization.clone(),
        invitation_id: fixture.invitation.clone(),
        delivery: by_mail,
        ..Default::default()
    };
    let status = operator.invitations.remind_invitation(remind).await.unwrap_err();
    assert_eq!(violations(&status), ["delivery"]);

    let item = pb::BatchCreateInvitationsItem { role: "King".to_owned(), ..Default::default() };
    for size in [0, 101] {
        let items = vec![item.clone(); size];
        let batch =
            pb::BatchCreateInvitationsRequest { organization: organization.clone(), items, ..Default::default() };
        let status = operator.invitations.batch_create_invitations(batch).await.unwrap_err();
        assert_eq!(violations(&status), ["items"], "{size}");
    }
    let batch = pb::BatchCreateInvitationsRequest {
        organization: organization.clone(),
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
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn invalid_combinations_of_fields_about_an_owner_are_named() {
    let fixture = Fixture::new().await;
    let mut operator = fixture.server.operator();
    let two_owners = pb::CreateOrganizationRequest {
        owner_user_id: "grace".to_owned(),
        owner_email: "grace@example.com".to_owned(),
        ..crate::harness::organization("Gamma")
    };
    let status = operator.organizations.create_organization(two_owners).await.unwrap_err();
    assert_eq!(violations(&status), ["owner_email"]);
    let lifetime = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    for (owner_email, owner_user_id, seconds, expected) in [
        // A lifetime without an invitation has no effect.
        ("", "", 7200, &["owner_lifetime"][..]),
        ("", "grace", 7200, &["owner_lifetime"]),
        ("grace@example.com", "", 3599, &["owner_lifetime"]),
        ("grace@example.com", "", 30 * 24 * 3600 + 1, &["owner_lifetime"]),
        ("grace", "", 0, &["owner_email", "owner_lifetime"]),
        ("grace@example.com", "grace", -1, &["owner_email", "owner_lifetime"]),
    ] {
        let request = pb::CreateOrganizationRequest {
            owner_email: owner_email.to_owned(),
            owner_user_id: owner_user_id.to_owned(),
            owner_lifetime: lifetime(seconds),
            ..crate::harness::organization("Gamma")
        };
        let status = operator.organizations.create_organization(request).await.unwrap_err();
        assert_eq!(violations(&status), expected);
    }
    let off = pb::CreateOrganizationRequest {
        owner_email: "grace@example.com".to_owned(),
        inactive: true,
        ..crate::harness::organization("Gamma")
    };
    let status = operator.organizations.create_organization(off).await.unwrap_err();
    assert_eq!(violations(&status), ["inactive"]);
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn invitations_at_the_limits_are_created() {
    let fixture = Fixture::new().await;
    let mut operator = fixture.server.operator();
    let organization = &fixture.organization;
    let with_lifetime = |seconds, nanos, request| pb::CreateInvitationRequest {
        lifetime: Some(prost_types::Duration { seconds, nanos }),
        validate_only: true,
        ..request
    };
    let domain = format!("{}.example", ["x".repeat(63), "y".repeat(63), "z".repeat(53)].join("."));
    let longest = format!("{}@{domain}", "a".repeat(64));
    assert_eq!(longest.len(), 254);
    for request in [
        with_lifetime(3600, 0, identifier(organization, &"é".repeat(1000))),
        with_lifetime(30 * 24 * 3600, 0, identifier(organization, "7")),
        with_lifetime(7200, 1, invite(organization, &longest)),
    ] {
        let created = operator.invitations.create_invitation(request).await.unwrap().into_inner().invitation.unwrap();
        let lifetime = created.expire_time.unwrap().seconds - created.create_time.unwrap().seconds;
        assert!([3600, 7200, 30 * 24 * 3600].contains(&lifetime), "{lifetime}");
    }
    let items = (0..100).map(|number| pb::BatchCreateInvitationsItem {
        recipient: Some(pb::batch_create_invitations_item::Recipient::Identifier(format!("@{number}"))),
        ..Default::default()
    });
    let batch = pb::BatchCreateInvitationsRequest {
        organization: organization.clone(),
        items: items.collect(),
        validate_only: true,
        ..Default::default()
    };
    let created = operator.invitations.batch_create_invitations(batch).await.unwrap().into_inner();
    assert!(created.results.len() == 100 && created.results.iter().all(|result| result.invitation.is_some()));
    let list = pb::ListInvitationsRequest {
        organization: organization.clone(),
        states: vec![1, 2, 3, 4, 5],
        ..Default::default()
    };
    assert_eq!(operator.invitations.list_invitations(list).await.unwrap().into_inner().invitations.len(), 1);
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn a_page_token_of_invitations_belongs_to_its_request() {
    let fixture = Fixture::new().await;
    let mut operator = fixture.server.operator();
    let organization = &fixture.organization;
    operator.invitations.create_invitation(identifier(organization, "@nina")).await.unwrap();
    let first = pb::ListInvitationsRequest { organization: organization.clone(), page_size: 1, ..Default::default() };
    let page = operator.invitations.list_invitations(first.clone()).await.unwrap().into_inner();
    let next = pb::ListInvitationsRequest { page_token: page.next_page_token.clone(), ..first.clone() };
    let second = operator.invitations.list_invitations(next.clone()).await.unwrap().into_inner();
    assert_eq!((second.invitations[0].identifier.as_str(), second.next_page_token.as_str()), ("@nina", ""));
    // It is invalid with another filter, another organization or another method.
    let other = pb::ListInvitationsRequest { states: vec![1, 2], ..next.clone() };
    let status = operator.invitations.list_invitations(other).await.unwrap_err();
    assert_eq!(violations(&status), ["page_token"]);
    let other = pb::ListInvitationsRequest { organization: "beta".to_owned(), ..next };
    let status = operator.invitations.list_invitations(other).await.unwrap_err();
    assert_eq!(violations(&status), ["page_token"]);
    let received = pb::ListReceivedInvitationsRequest { page_token: page.next_page_token, ..Default::default() };
    let mut ada = fixture.ada.clone();
    let status = ada.invitations.list_received_invitations(received).await.unwrap_err();
    assert_eq!(violations(&status), ["page_token"]);
}

/// Texts that are not a valid token, among them variants of a valid one.
fn invalid_tokens(fixture: &Fixture) -> Vec<String> {
    let good = &fixture.token;
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
        fixture.invitation.clone(),
        "A".repeat(43),
        "é".repeat(43),
        "\0".repeat(43),
        "x".repeat(100_000),
        "' OR true --".to_owned(),
        // An unsigned JWT, whose claims the bearer can choose.
        "eyJhbGciOiJub25lIn0.eyJpbnZpdGF0aW9uIjoiMSJ9.".to_owned(),
    ]
    .into();
    bad.extend(["", " ", "\0", "null", "%00"].map(str::to_owned));
    bad.retain(|token| token != good);
    bad
}

#[tokio::test]
async fn every_invalid_token_gets_the_same_not_found_error() {
    let fixture = Fixture::new().await;
    let mut ada = fixture.ada.clone().invitations;
    let mut anonymous = fixture.server.anonymous().invitations;
    let content = |status: Status| {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "INVITATION_NOT_FOUND"));
        (status.message().to_owned(), status.details().to_vec())
    };
    let mut first = None;
    for token in invalid_tokens(&fixture) {
        let decline = pb::DeclineInvitationRequest {
            invitation: Some(pb::decline_invitation_request::Invitation::Token(token.clone())),
            ..Default::default()
        };
        let preview = pb::PreviewInvitationRequest { token: token.clone() };
        let answers = [
            ada.accept_invitation(accept(&token)).await.unwrap_err(),
            ada.decline_invitation(decline).await.unwrap_err(),
            ada.preview_invitation(preview.clone()).await.unwrap_err(),
            anonymous.preview_invitation(preview).await.unwrap_err(),
        ];
        for answer in answers.map(content) {
            assert_eq!(&answer, first.get_or_insert_with(|| answer.clone()), "{token:?}");
        }
    }
    // Only the count of failed tokens changed, and the valid token still works.
    let good = pb::PreviewInvitationRequest { token: fixture.token.clone() };
    assert!(anonymous.preview_invitation(good).await.is_ok());
    let mut now = fixture.server.database.dump().await;
    now.remove("quotas");
    assert_same(&now, &fixture.before);
    // A token that is not UTF-8 makes the message malformed.
    let token = [&[0x0a, 43][..], &[0xff; 43]].concat();
    assert!(pb::PreviewInvitationRequest::decode(token.as_slice()).is_err());
    let answer = fixture.server.send(Call::grpc(&path("InvitationService/PreviewInvitation"), &token)).await;
    assert_eq!(answer.reason.as_deref(), Some("MALFORMED_MESSAGE"));
}
