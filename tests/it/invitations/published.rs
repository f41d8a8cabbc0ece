//! Faults that were published of other systems, each as it would look here.

use super::{Scene, accept, accept_id, hex, invite, invite_by_mail, invite_other, revoke};
use crate::harness::{assert_refused, remove};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use roster::grpc::pb;
use serde_json::json;
use tonic::Code;

/// A token that says what it is for, in claims that nobody checks the signature of.
#[tokio::test]
async fn cve_2026_1529_a_token_that_describes_itself_cannot_be_forged() {
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    let shown = scene.get(&made.id).await;
    // A token says nothing: none of the invitation is in it, and no two have anything in common.
    let bytes = URL_SAFE_NO_PAD.decode(&made.token).unwrap();
    let second = URL_SAFE_NO_PAD.decode(scene.remind(&made.id, false).await).unwrap();
    assert_eq!((bytes.len(), second.len()), (32, 32));
    assert!(bytes.iter().zip(&second).filter(|(one, other)| one == other).count() < 8);
    for known in [&made.id, &scene.acme] {
        let known = known.replace('-', "");
        let hex = hex(&bytes);
        assert!(!known.as_bytes().windows(8).any(|part| hex.contains(std::str::from_utf8(part).unwrap())));
    }
    // And whatever says something is no token.
    let claims = json!({ "org": scene.acme, "inv": made.id, "email": "mallory@example.com", "role": "admin",
        "exp": shown.expire_time.unwrap().seconds });
    let (header, claims) = (json!({ "alg": "none" }).to_string(), claims.to_string());
    let (header, claims) = (URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mut mallory = scene.server.user_with_email("mallory");
    let id = uuid::Uuid::parse_str(&made.id).unwrap();
    let padded = [id.as_bytes().as_slice(), id.as_bytes()].concat();
    for forged in [
        format!("{header}.{claims}."),
        claims,
        made.id.clone(),
        URL_SAFE_NO_PAD.encode(id),
        URL_SAFE_NO_PAD.encode(padded),
    ] {
        let answer = mallory.invitations.accept_invitation(accept(&forged)).await;
        assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
    }
}

/// The stored link readable through the API by those who manage invitations.
#[tokio::test]
async fn cve_2026_16072_no_answer_but_the_first_holds_the_token() {
    let scene = Scene::new().await;
    let request_id = roster::random::uuid().to_string();
    let request = pb::CreateInvitationRequest { request_id, ..invite(&scene.acme, "grace@example.com") };
    let mut backend = scene.backend.clone();
    let first = backend.invitations.create_invitation(request.clone()).await.unwrap().into_inner();
    let (id, token) = (first.invitation.unwrap().invitation_id, first.token);
    assert_eq!(token.len(), 43);
    // Not the very same request once more.
    let again = backend.invitations.create_invitation(request).await.unwrap().into_inner();
    assert_eq!((again.invitation.as_ref().unwrap().invitation_id.as_str(), again.token.as_str()), (id.as_str(), ""));
    let mut answers = vec![format!("{again:?}")];
    for mut who in [backend, scene.ada.clone(), scene.server.operator()] {
        let get = pb::GetInvitationRequest { organization: scene.acme.clone(), invitation_id: id.clone() };
        answers.push(format!("{:?}", who.invitations.get_invitation(get).await.unwrap()));
        let list = pb::ListInvitationsRequest { organization: scene.acme.clone(), ..Default::default() };
        answers.push(format!("{:?}", who.invitations.list_invitations(list).await.unwrap()));
        let pending = who.invitations.create_invitation(invite_by_mail(&scene.acme, "grace@example.com")).await;
        answers.push(format!("{:?}", pending.unwrap_err()));
    }
    let mut grace = scene.server.user_with_email("grace");
    let received = pb::ListReceivedInvitationsRequest::default();
    answers.push(format!("{:?}", grace.invitations.list_received_invitations(received).await.unwrap()));
    answers.push(format!("{:?}", scene.preview(&token).await.unwrap()));
    let revoked = scene.backend.clone().invitations.revoke_invitation(revoke(&scene.acme, &id)).await.unwrap();
    answers.push(format!("{revoked:?}"));
    for answer in answers {
        assert!(!answer.contains(&token), "{answer}");
        assert!(answer.contains(&id), "this is not about the invitation: {answer}");
    }
}

/// Whoever registers with the victim's address, without verifying it, is shown and may accept what is the victim's.
#[tokio::test]
async fn ghsa_fmh4_wcc4_5jm3_an_unverified_account_sees_and_accepts_nothing() {
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    let mut mallory = scene.server.person("mallory", "grace@example.com", false);
    let received = pb::ListReceivedInvitationsRequest::default();
    let listed = mallory.invitations.list_received_invitations(received.clone()).await.unwrap().into_inner();
    assert_eq!(listed.invitations, []);
    let by_id = mallory.invitations.accept_invitation(accept_id(&made.id)).await;
    assert_refused(by_id, Code::NotFound, "INVITATION_NOT_FOUND");
    let by_token = mallory.invitations.accept_invitation(accept(&made.token)).await;
    assert_refused(by_token, Code::PermissionDenied, "NOT_YOUR_INVITATION");
    // Once it is verified it is theirs, and the very same calls work: the verification alone made the difference.
    let mut mallory = scene.server.person("mallory", "grace@example.com", true);
    let listed = mallory.invitations.list_received_invitations(received).await.unwrap().into_inner();
    assert_eq!(listed.invitations.len(), 1);
    mallory.invitations.accept_invitation(accept_id(&made.id)).await.unwrap();
}

/// A link that lets in any address, not the invited one only.
#[tokio::test]
async fn cve_2022_39306_cve_2026_34389_a_link_lets_in_the_invited_address_only() {
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    for address in ["mallory@example.com", "grace@example.org", "grace+1@example.com", "g.race@example.com"] {
        let mut mallory = scene.server.person("mallory", address, true);
        let answer = mallory.invitations.accept_invitation(accept(&made.token)).await;
        assert_refused(answer, Code::PermissionDenied, "NOT_YOUR_INVITATION");
    }
    let inside = "SELECT count(*) FROM memberships WHERE user_id = 'mallory'";
    assert_eq!(scene.server.database.count(inside).await, 0);
    // There is no way to say at acceptance which address one has: it is the verified one. And the link stays good.
    let mut grace = scene.server.person("g", "GRACE@Example.com", true);
    grace.invitations.accept_invitation(accept(&made.token)).await.unwrap();
}

/// An admin of one organization deletes another's invitation by naming it with their own organization.
#[tokio::test]
async fn cve_2024_10452_an_admin_cannot_reach_another_organizations_invitation() {
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    let mut mallory = scene.server.user_with_email("mallory");
    let theirs = mallory.create("Theirs").await;
    let foreign = mallory.invitations.revoke_invitation(revoke(&theirs, &made.id)).await.unwrap_err();
    let unknown = roster::random::uuid().to_string();
    let unknown = mallory.invitations.revoke_invitation(revoke(&theirs, &unknown)).await.unwrap_err();
    assert_eq!((foreign.code(), foreign.details()), (unknown.code(), unknown.details()));
    assert_refused::<()>(Err(foreign), Code::NotFound, "INVITATION_NOT_FOUND");
    let named = mallory.invitations.revoke_invitation(revoke(&scene.acme, &made.id)).await;
    assert_refused(named, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_eq!(scene.get(&made.id).await.state(), pb::InvitationState::Pending);
}

/// One link used by many, and used again by one who was removed.
#[tokio::test]
async fn cve_2022_23485_cve_2025_13324_a_link_is_used_once() {
    let scene = Scene::new().await;
    let made = scene.make(invite_other(&scene.acme, "@grace")).await;
    let mut grace = scene.server.user_with_email("grace");
    grace.invitations.accept_invitation(accept(&made.token)).await.unwrap();
    for other in ["mallory", "eve"] {
        let answer = scene.server.user_with_email(other).invitations.accept_invitation(accept(&made.token)).await;
        assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
    }
    // Removed is removed, though it was their own link.
    scene.ada.clone().organizations.remove_member(remove(&scene.acme, "grace")).await.unwrap();
    let replay = grace.invitations.accept_invitation(accept(&made.token)).await;
    assert_refused(replay, Code::FailedPrecondition, "INVITATION_NOT_PENDING");
    assert_eq!(scene.server.database.count("SELECT count(*) FROM memberships").await, 1);
}

/// What has expired on one path is accepted on another.
#[tokio::test]
async fn cve_2023_48220_every_way_to_accept_knows_of_expiry() {
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    let older = scene.remind(&made.id, false).await;
    let request_id = roster::random::uuid().to_string();
    scene.expire(&made.id).await;
    let mut grace = scene.server.user_with_email("grace");
    for token in [&made.token, &older] {
        for validate_only in [false, true] {
            let request_id = request_id.clone();
            let request = pb::AcceptInvitationRequest { validate_only, request_id, ..accept(token) };
            let answer = grace.invitations.accept_invitation(request).await;
            assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
        }
        assert!(scene.preview(token).await.is_err());
    }
    let by_id = grace.invitations.accept_invitation(accept_id(&made.id)).await;
    assert_refused(by_id, Code::FailedPrecondition, "INVITATION_NOT_PENDING");
    let received = pb::ListReceivedInvitationsRequest::default();
    let listed = grace.invitations.list_received_invitations(received).await.unwrap().into_inner();
    assert_eq!(listed.invitations, []);
    // By a service that acts for her neither, nor by sending it again.
    let mut for_her = scene.server.on_behalf_of("grace");
    let answer = for_her.invitations.accept_invitation(accept(&made.token)).await;
    assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
    let reminded =
        scene.backend.clone().invitations.remind_invitation(super::remind(&scene.acme, &made.id, false)).await;
    assert_refused(reminded, Code::FailedPrecondition, "INVITATION_NOT_PENDING");
    // The owner's invitation of a pending organization neither.
    let request = pb::CreateOrganizationRequest {
        owner_email: "grace@example.com".to_owned(),
        owner_delivery: pb::InvitationDelivery::Token.into(),
        ..crate::harness::organization("Navy")
    };
    let navy = scene.backend.clone().organizations.create_organization(request).await.unwrap().into_inner();
    scene.expire(&navy.owner_invitation.unwrap().invitation_id).await;
    let answer = grace.invitations.accept_invitation(accept(&navy.owner_token)).await;
    assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
    assert_eq!(scene.server.database.count("SELECT count(*) FROM memberships WHERE user_id = 'grace'").await, 0);
}

/// Expiry that takes effect when some job has run, or is rounded.
#[tokio::test]
async fn cve_2025_64708_expiry_takes_effect_at_its_moment() {
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    scene.expire(&made.id).await;
    // Nothing has run since, and the row still says PENDING.
    let stored = "SELECT count(*) FROM invitations WHERE state = 'PENDING'";
    assert_eq!(scene.server.database.count(stored).await, 1);
    assert!(scene.preview(&made.token).await.is_err());
    assert_eq!(scene.get(&made.id).await.state(), pb::InvitationState::Expired);
    // It no longer stands in the way of another one, which says so in the history.
    let second = scene.invite("grace@example.com").await;
    assert!(scene.preview(&made.token).await.is_err() && scene.preview(&second.token).await.is_ok());
    let told = "SELECT count(*) FROM events WHERE type = 'invitation.expired'";
    assert_eq!(scene.server.database.count(told).await, 1);
}

/// Unicode folding makes two mailboxes one.
#[tokio::test]
async fn cve_2019_19844_folding_does_not_merge_mailboxes() {
    let scene = Scene::new().await;
    // The Kelvin sign, which lower-casing makes a k, and a dotless i, which upper-casing makes an I.
    for (number, (invited, other)) in
        [("mike@example.com", "mi\u{212a}e@example.com"), ("mike@example.net", "m\u{131}ke@example.net")]
            .into_iter()
            .enumerate()
    {
        let made = scene.invite(invited).await;
        let mut mallory = scene.server.person(&format!("mallory-{number}"), other, true);
        let received = pb::ListReceivedInvitationsRequest::default();
        let listed = mallory.invitations.list_received_invitations(received).await.unwrap().into_inner();
        assert_eq!(listed.invitations, []);
        let answer = mallory.invitations.accept_invitation(accept(&made.token)).await;
        assert_refused(answer, Code::PermissionDenied, "NOT_YOUR_INVITATION");
        let answer = mallory.invitations.accept_invitation(accept_id(&made.id)).await;
        assert_refused(answer, Code::NotFound, "INVITATION_NOT_FOUND");
        // They are two mailboxes to whoever invites as well.
        scene.invite(other).await;
    }
}
