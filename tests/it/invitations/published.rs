//! Vulnerabilities published for other systems, each translated to roster.

use super::{Fixture, accept, accept_id, hex, invite, invite_by_mail, invite_identifier, revoke};
use crate::harness::{assert_refused, remove};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use roster::grpc::pb;
use serde_json::json;
use tonic::Code;

/// A token with claims whose signature is not verified.
#[tokio::test]
async fn cve_2026_1529_a_token_that_describes_itself_cannot_be_forged() {
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    let details = fixture.get(&invitation.id).await;
    // A token is random: it contains no part of the invitation, and two tokens have no common bytes.
    let bytes = URL_SAFE_NO_PAD.decode(&invitation.token).unwrap();
    let second = URL_SAFE_NO_PAD.decode(fixture.remind(&invitation.id, false).await).unwrap();
    assert_eq!((bytes.len(), second.len()), (32, 32));
    assert!(bytes.iter().zip(&second).filter(|(one, other)| one == other).count() < 8);
    for known in [&invitation.id, &fixture.acme] {
        let known = known.replace('-', "");
        let hex = hex(&bytes);
        assert!(!known.as_bytes().windows(8).any(|part| hex.contains(std::str::from_utf8(part).unwrap())));
    }
    // A text with claims is not a token.
    let claims = json!({ "org": fixture.acme, "inv": invitation.id, "email": "mallory@example.com", "role": "admin",
        "exp": details.expire_time.unwrap().seconds });
    let (header, claims) = (json!({ "alg": "none" }).to_string(), claims.to_string());
    let (header, claims) = (URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mut mallory = fixture.server.user_with_email("mallory");
    let id = uuid::Uuid::parse_str(&invitation.id).unwrap();
    let padded = [id.as_bytes().as_slice(), id.as_bytes()].concat();
    for forged in [
        format!("{header}.{claims}."),
        claims,
        invitation.id.clone(),
        URL_SAFE_NO_PAD.encode(id),
        URL_SAFE_NO_PAD.encode(padded),
    ] {
        let answer = mallory.invitations.accept_invitation(accept(&forged)).await;
        assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
    }
}

/// Managers of invitations can read the stored token through the API.
#[tokio::test]
async fn cve_2026_16072_only_the_first_answer_contains_the_token() {
    let fixture = Fixture::new().await;
    let request_id = roster::random::uuid().to_string();
    let request = pb::CreateInvitationRequest { request_id, ..invite(&fixture.acme, "grace@example.com") };
    let mut backend = fixture.backend.clone();
    let first = backend.invitations.create_invitation(request.clone()).await.unwrap().into_inner();
    let (id, token) = (first.invitation.unwrap().invitation_id, first.token);
    assert_eq!(token.len(), 43);
    // A repeated request does not return it either.
    let again = backend.invitations.create_invitation(request).await.unwrap().into_inner();
    assert_eq!((again.invitation.as_ref().unwrap().invitation_id.as_str(), again.token.as_str()), (id.as_str(), ""));
    let mut answers = vec![format!("{again:?}")];
    for mut caller in [backend, fixture.ada.clone(), fixture.server.operator()] {
        let get = pb::GetInvitationRequest { organization: fixture.acme.clone(), invitation_id: id.clone() };
        answers.push(format!("{:?}", caller.invitations.get_invitation(get).await.unwrap()));
        let list = pb::ListInvitationsRequest { organization: fixture.acme.clone(), ..Default::default() };
        answers.push(format!("{:?}", caller.invitations.list_invitations(list).await.unwrap()));
        let pending = caller.invitations.create_invitation(invite_by_mail(&fixture.acme, "grace@example.com")).await;
        answers.push(format!("{:?}", pending.unwrap_err()));
    }
    let mut grace = fixture.server.user_with_email("grace");
    let received = pb::ListReceivedInvitationsRequest::default();
    answers.push(format!("{:?}", grace.invitations.list_received_invitations(received).await.unwrap()));
    answers.push(format!("{:?}", fixture.preview(&token).await.unwrap()));
    let revoked = fixture.backend.clone().invitations.revoke_invitation(revoke(&fixture.acme, &id)).await.unwrap();
    answers.push(format!("{revoked:?}"));
    for answer in answers {
        assert!(!answer.contains(&token), "{answer}");
        assert!(answer.contains(&id), "the answer is not about the invitation: {answer}");
    }
}

/// An attacker registers with the victim's address, without verifying it, and sees and accepts the victim's
/// invitations.
#[tokio::test]
async fn ghsa_fmh4_wcc4_5jm3_an_unverified_account_sees_and_accepts_nothing() {
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    let mut mallory = fixture.server.person("mallory", "grace@example.com", false);
    let received = pb::ListReceivedInvitationsRequest::default();
    let listed = mallory.invitations.list_received_invitations(received.clone()).await.unwrap().into_inner();
    assert_eq!(listed.invitations, []);
    let by_id = mallory.invitations.accept_invitation(accept_id(&invitation.id)).await;
    assert_refused(by_id, Code::NotFound, "INVITATION_NOT_FOUND");
    let by_token = mallory.invitations.accept_invitation(accept(&invitation.token)).await;
    assert_refused(by_token, Code::PermissionDenied, "NOT_YOUR_INVITATION");
    // With the address verified the same calls succeed, so the verification alone makes the difference.
    let mut mallory = fixture.server.person("mallory", "grace@example.com", true);
    let listed = mallory.invitations.list_received_invitations(received).await.unwrap().into_inner();
    assert_eq!(listed.invitations.len(), 1);
    mallory.invitations.accept_invitation(accept_id(&invitation.id)).await.unwrap();
}

/// A link that any address can accept, not only the invited one.
#[tokio::test]
async fn cve_2022_39306_cve_2026_34389_a_link_lets_in_the_invited_address_only() {
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    for address in ["mallory@example.com", "grace@example.org", "grace+1@example.com", "g.race@example.com"] {
        let mut mallory = fixture.server.person("mallory", address, true);
        let answer = mallory.invitations.accept_invitation(accept(&invitation.token)).await;
        assert_refused(answer, Code::PermissionDenied, "NOT_YOUR_INVITATION");
    }
    let memberships = "SELECT count(*) FROM memberships WHERE user_id = 'mallory'";
    assert_eq!(fixture.server.database.count(memberships).await, 0);
    // The request has no address: the verified one of the caller counts. The link stays valid.
    let mut grace = fixture.server.person("g", "GRACE@Example.com", true);
    grace.invitations.accept_invitation(accept(&invitation.token)).await.unwrap();
}

/// An admin of one organization deletes another's invitation by naming it with their own organization.
#[tokio::test]
async fn cve_2024_10452_an_admin_cannot_reach_another_organizations_invitation() {
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    let mut mallory = fixture.server.user_with_email("mallory");
    let own = mallory.create("Theirs").await;
    let foreign = mallory.invitations.revoke_invitation(revoke(&own, &invitation.id)).await.unwrap_err();
    let unknown = roster::random::uuid().to_string();
    let unknown = mallory.invitations.revoke_invitation(revoke(&own, &unknown)).await.unwrap_err();
    assert_eq!((foreign.code(), foreign.details()), (unknown.code(), unknown.details()));
    assert_refused::<()>(Err(foreign), Code::NotFound, "INVITATION_NOT_FOUND");
    let named = mallory.invitations.revoke_invitation(revoke(&fixture.acme, &invitation.id)).await;
    assert_refused(named, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_eq!(fixture.get(&invitation.id).await.state(), pb::InvitationState::Pending);
}

/// A link used by several users, and used again by a removed member.
#[tokio::test]
async fn cve_2022_23485_cve_2025_13324_a_link_is_used_once() {
    let fixture = Fixture::new().await;
    let invitation = fixture.create(invite_identifier(&fixture.acme, "@grace")).await;
    let mut grace = fixture.server.user_with_email("grace");
    grace.invitations.accept_invitation(accept(&invitation.token)).await.unwrap();
    for other in ["mallory", "eve"] {
        let answer =
            fixture.server.user_with_email(other).invitations.accept_invitation(accept(&invitation.token)).await;
        assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
    }
    // A removed member cannot return by their own link.
    fixture.ada.clone().organizations.remove_member(remove(&fixture.acme, "grace")).await.unwrap();
    let replay = grace.invitations.accept_invitation(accept(&invitation.token)).await;
    assert_refused(replay, Code::FailedPrecondition, "INVITATION_NOT_PENDING");
    assert_eq!(fixture.server.database.count("SELECT count(*) FROM memberships").await, 1);
}

/// One path checks the expiry and another does not.
#[tokio::test]
async fn cve_2023_48220_every_way_to_accept_checks_the_expiry() {
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    let older = fixture.remind(&invitation.id, false).await;
    let request_id = roster::random::uuid().to_string();
    fixture.expire(&invitation.id).await;
    let mut grace = fixture.server.user_with_email("grace");
    for token in [&invitation.token, &older] {
        for validate_only in [false, true] {
            let request_id = request_id.clone();
            let request = pb::AcceptInvitationRequest { validate_only, request_id, ..accept(token) };
            let answer = grace.invitations.accept_invitation(request).await;
            assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
        }
        assert!(fixture.preview(token).await.is_err());
    }
    let by_id = grace.invitations.accept_invitation(accept_id(&invitation.id)).await;
    assert_refused(by_id, Code::FailedPrecondition, "INVITATION_NOT_PENDING");
    let received = pb::ListReceivedInvitationsRequest::default();
    let listed = grace.invitations.list_received_invitations(received).await.unwrap().into_inner();
    assert_eq!(listed.invitations, []);
    // Neither a service on her behalf nor a reminder changes that.
    let mut for_her = fixture.server.on_behalf_of("grace");
    let answer = for_her.invitations.accept_invitation(accept(&invitation.token)).await;
    assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
    let reminded = fixture
        .backend
        .clone()
        .invitations
        .remind_invitation(super::remind(&fixture.acme, &invitation.id, false))
        .await;
    assert_refused(reminded, Code::FailedPrecondition, "INVITATION_NOT_PENDING");
    // The same holds for the owner's invitation into a pending organization.
    let request = pb::CreateOrganizationRequest {
        owner_email: "grace@example.com".to_owned(),
        owner_delivery: pb::InvitationDelivery::Token.into(),
        ..crate::harness::organization("Navy")
    };
    let navy = fixture.backend.clone().organizations.create_organization(request).await.unwrap().into_inner();
    fixture.expire(&navy.owner_invitation.unwrap().invitation_id).await;
    let answer = grace.invitations.accept_invitation(accept(&navy.owner_token)).await;
    assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
    assert_eq!(fixture.server.database.count("SELECT count(*) FROM memberships WHERE user_id = 'grace'").await, 0);
}

/// Expiry that takes effect only after a job has run, or that is rounded.
#[tokio::test]
async fn cve_2025_64708_expiry_takes_effect_at_its_moment() {
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    fixture.expire(&invitation.id).await;
    // No job has run since, and the row is still PENDING.
    let stored = "SELECT count(*) FROM invitations WHERE state = 'PENDING'";
    assert_eq!(fixture.server.database.count(stored).await, 1);
    assert!(fixture.preview(&invitation.token).await.is_err());
    assert_eq!(fixture.get(&invitation.id).await.state(), pb::InvitationState::Expired);
    // It no longer blocks a new invitation, whose creation records the expiry in the events.
    let second = fixture.invite("grace@example.com").await;
    assert!(fixture.preview(&invitation.token).await.is_err() && fixture.preview(&second.token).await.is_ok());
    let expired = "SELECT count(*) FROM events WHERE type = 'invitation.expired'";
    assert_eq!(fixture.server.database.count(expired).await, 1);
}

/// Unicode case folding merges two mailboxes.
#[tokio::test]
async fn cve_2019_19844_folding_does_not_merge_mailboxes() {
    let fixture = Fixture::new().await;
    // The Kelvin sign, which lower-casing makes a k, and a dotless i, which upper-casing makes an I.
    for (number, (invited, other)) in
        [("mike@example.com", "mi\u{212a}e@example.com"), ("mike@example.net", "m\u{131}ke@example.net")]
            .into_iter()
            .enumerate()
    {
        let invitation = fixture.invite(invited).await;
        let mut mallory = fixture.server.person(&format!("mallory-{number}"), other, true);
        let received = pb::ListReceivedInvitationsRequest::default();
        let listed = mallory.invitations.list_received_invitations(received).await.unwrap().into_inner();
        assert_eq!(listed.invitations, []);
        let answer = mallory.invitations.accept_invitation(accept(&invitation.token)).await;
        assert_refused(answer, Code::PermissionDenied, "NOT_YOUR_INVITATION");
        let answer = mallory.invitations.accept_invitation(accept_id(&invitation.id)).await;
        assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
        // An inviter can invite the other mailbox, except one whose normalization form C would be this one.
        let mut backend = fixture.backend.clone();
        let invited = backend.invitations.create_invitation(invite(&fixture.acme, other)).await;
        assert_eq!(invited.is_ok(), !other.contains('\u{212a}'));
    }
}
