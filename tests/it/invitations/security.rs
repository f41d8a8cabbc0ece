//! Callers who must not accept an invitation, and information that no caller must obtain.

mod secrecy;
mod texts;
mod timing;
mod unverified;

use super::{Fixture, accept, accept_id, create, decline, hex, invite, invite_identifier, remind, revoke};
use crate::harness::{IssuedInvitation, assert_refused, remove, set_role};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use roster::grpc::pb;
use sqlx::types::time::OffsetDateTime;
use tonic::Code;

const NOT_FOUND: (Code, &str) = (Code::NotFound, "INVITATION_NOT_FOUND");
const NOT_YOURS: (Code, &str) = (Code::PermissionDenied, "NOT_YOUR_INVITATION");

impl Fixture {
    /// Accepts by a token, as a user with a verified address.
    async fn accept_as(&self, id: &str, token: &str) -> Result<pb::Member, tonic::Status> {
        let mut person = self.server.user_with_email(id);
        Ok(person.invitations.accept_invitation(accept(token)).await?.into_inner().member.unwrap())
    }

    /// Asserts that no method finds the token of `grace` any more.
    async fn assert_invalid(&self, token: &str) {
        assert_refused(self.preview(token).await, NOT_FOUND.0, NOT_FOUND.1);
        assert_refused(self.accept_as("grace", token).await, NOT_FOUND.0, NOT_FOUND.1);
        let declined = self.server.user_with_email("grace").invitations.decline_invitation(decline(token)).await;
        assert_refused(declined, NOT_FOUND.0, NOT_FOUND.1);
    }
}

#[tokio::test]
async fn a_token_of_another_recipient_is_refused() {
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    assert_refused(fixture.accept_as("mallory", &invitation.token).await, NOT_YOURS.0, NOT_YOURS.1);
    let mut mallory = fixture.server.user_with_email("mallory");
    let declined = mallory.invitations.decline_invitation(decline(&invitation.token)).await;
    assert_refused(declined, NOT_YOURS.0, NOT_YOURS.1);
    // A user without an address is refused too. By the id, neither user learns that the invitation exists.
    let mut without_address = fixture.server.user("without-address");
    let refused = without_address.invitations.accept_invitation(accept(&invitation.token)).await;
    assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
    for person in [&mut mallory, &mut without_address] {
        let refused = person.invitations.accept_invitation(accept_id(&invitation.id)).await;
        assert_refused(refused, NOT_FOUND.0, NOT_FOUND.1);
    }
    // Services, operators and anonymous callers cannot accept.
    let refused = fixture.backend.clone().invitations.accept_invitation(accept(&invitation.token)).await;
    assert_refused(refused, Code::PermissionDenied, "SCOPE_MISSING");
    let refused = fixture.server.operator().invitations.accept_invitation(accept(&invitation.token)).await;
    assert_refused(refused, Code::PermissionDenied, "CALLER_NOT_ALLOWED");
    let refused = fixture.server.anonymous().invitations.accept_invitation(accept(&invitation.token)).await;
    assert_refused(refused, Code::Unauthenticated, "CREDENTIAL_MISSING");
    // The token stays valid.
    fixture.accept_as("grace", &invitation.token).await.unwrap();
}

#[tokio::test]
async fn an_unverified_address_is_refused() {
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    let mut grace = fixture.server.person("grace", "grace@example.com", false);
    let refused = grace.invitations.accept_invitation(accept(&invitation.token)).await;
    assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
    let refused = grace.invitations.decline_invitation(decline(&invitation.token)).await;
    assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
    let refused = grace.invitations.accept_invitation(accept_id(&invitation.id)).await;
    assert_refused(refused, NOT_FOUND.0, NOT_FOUND.1);
    fixture.accept_as("grace", &invitation.token).await.unwrap();
}

#[tokio::test]
async fn inviters_cannot_accept_their_own_invitations() {
    let fixture = Fixture::new().await;
    fixture.admin("grace").await;
    let mut for_grace = fixture.server.on_behalf_of("grace");
    // An invitation to an identifier, to the own address of a member, and to a second address of the inviter.
    let other = create(&for_grace, invite_identifier(&fixture.acme, "@grace")).await;
    assert_refused(fixture.accept_as("grace", &other.token).await, NOT_YOURS.0, NOT_YOURS.1);
    let own = for_grace.invitations.create_invitation(invite(&fixture.acme, "grace@example.com")).await;
    assert_refused(own, Code::AlreadyExists, "ALREADY_MEMBER");
    let second = create(&for_grace, invite(&fixture.acme, "second@example.com")).await;
    let mut second_address = fixture.server.person("grace", "second@example.com", true);
    let refused = second_address.invitations.accept_invitation(accept(&second.token)).await;
    assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
    let refused = second_address.invitations.accept_invitation(accept_id(&second.id)).await;
    assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
    // Another user can accept it.
    fixture.accept_as("hopper", &other.token).await.unwrap();
}

#[tokio::test]
async fn an_invitation_of_another_organization_is_not_found() {
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    let mut mallory = fixture.server.user_with_email("mallory");
    let foreign = mallory.create("Theirs").await;
    for mut caller in [mallory, fixture.server.operator(), fixture.backend.clone(), fixture.ada.clone()] {
        let visible =
            caller.organizations.get_organization(pb::GetOrganizationRequest { organization: foreign.clone() });
        if visible.await.is_err() {
            continue;
        }
        let get = pb::GetInvitationRequest { organization: foreign.clone(), invitation_id: invitation.id.clone() };
        assert_refused(caller.invitations.get_invitation(get).await, NOT_FOUND.0, NOT_FOUND.1);
        let revoked = caller.invitations.revoke_invitation(revoke(&foreign, &invitation.id)).await;
        assert_refused(revoked, NOT_FOUND.0, NOT_FOUND.1);
        let delivery = pb::InvitationDelivery::None.into();
        let request = pb::RemindInvitationRequest { delivery, ..remind(&foreign, &invitation.id, true) };
        assert_refused(caller.invitations.remind_invitation(request).await, NOT_FOUND.0, NOT_FOUND.1);
    }
    fixture.accept_as("grace", &invitation.token).await.unwrap();
}

#[tokio::test]
async fn a_token_is_used_once() {
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    let second_token = fixture.remind(&invitation.id, false).await;
    let first = fixture.accept_as("grace", &invitation.token).await.unwrap();
    let events = crate::races::events(&fixture.server.database).await;
    // For the same user: the same answer, also by another token of the invitation, and no change.
    for token in [&invitation.token, &second_token, &invitation.token] {
        assert_eq!(fixture.accept_as("grace", token).await.unwrap(), first);
    }
    assert_eq!(crate::races::events(&fixture.server.database).await, events);
    // Other users get not found, and it can no longer be declined.
    for token in [&invitation.token, &second_token] {
        assert_refused(fixture.accept_as("mallory", token).await, NOT_FOUND.0, NOT_FOUND.1);
        assert_refused(fixture.preview(token).await, NOT_FOUND.0, NOT_FOUND.1);
    }
    let declined =
        fixture.server.user_with_email("grace").invitations.decline_invitation(decline(&invitation.token)).await;
    assert_refused(declined, Code::FailedPrecondition, "INVITATION_NOT_PENDING");
    // Accepting never changes the role of a member.
    fixture.ada.clone().organizations.update_member(set_role(&fixture.acme, "grace", "admin")).await.unwrap();
    assert_eq!(fixture.accept_as("grace", &invitation.token).await.unwrap().role, "admin");
}

#[tokio::test]
async fn variants_of_a_token_are_not_found() {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    let token = invitation.token.clone();
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    let (front, last) = token.split_at(42);
    // 43 characters encode two bits more than 32 bytes, so four texts decode to the same bytes.
    let index = ALPHABET.find(last).unwrap();
    let same_bytes = (1..4).map(|bits| format!("{front}{}", &ALPHABET[index + bits..=index + bits]));
    let mut others: Vec<String> = same_bytes.collect();
    others.extend((0..43).map(|length| token[..length].to_owned()));
    others.extend([
        format!("{token}A"),
        format!("{token}="),
        format!("A{token}"),
        format!("{token} "),
        format!(" {token}"),
        format!("{token}\0"),
        token.repeat(2),
        token.repeat(1000),
        URL_SAFE.encode(&bytes),
        hex(&bytes),
        URL_SAFE_NO_PAD.encode(&token),
        format!("%{:02X}{}", token.as_bytes()[0], &token[1..]),
        format!("https://app.example/invitations/{token}"),
    ]);
    let changes = [token.to_uppercase(), token.to_lowercase(), token.chars().rev().collect(), STANDARD.encode(&bytes)];
    others.extend(changes.into_iter().filter(|changed| *changed != token));
    for other in others {
        assert_refused(fixture.preview(&other).await, NOT_FOUND.0, NOT_FOUND.1);
        assert_refused(fixture.accept_as("grace", &other).await, NOT_FOUND.0, NOT_FOUND.1);
    }
    fixture.accept_as("grace", &token).await.unwrap();
}

#[tokio::test]
async fn reminders_keep_the_last_five_tokens_unless_they_rotate() {
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    let mut tokens = vec![invitation.token.clone()];
    for _ in 0..6 {
        tokens.push(fixture.remind(&invitation.id, false).await);
        // The last five tokens stay valid.
        let invalid = tokens.len().saturating_sub(5);
        for (number, token) in tokens.iter().enumerate() {
            assert_eq!(fixture.preview(token).await.is_ok(), number >= invalid, "{number} of {}", tokens.len());
        }
    }
    fixture.assert_invalid(&tokens[0]).await;
    // With `rotate`, only the new token is valid.
    let rotated = fixture.remind(&invitation.id, true).await;
    for token in &tokens {
        fixture.assert_invalid(token).await;
    }
    assert_eq!(fixture.server.database.count("SELECT count(*) FROM invitation_tokens").await, 1);
    fixture.accept_as("grace", &rotated).await.unwrap();
}

#[tokio::test]
async fn the_tokens_of_an_ended_invitation_are_not_found() {
    let fixture = Fixture::new().await;
    for end in ["revoked", "declined", "expired", "address removed"] {
        let invitation = fixture.invite("grace@example.com").await;
        let second_token = fixture.remind(&invitation.id, false).await;
        match end {
            "revoked" => fixture.revoke(&invitation.id).await,
            "declined" => {
                let mut grace = fixture.server.user_with_email("grace");
                grace.invitations.decline_invitation(decline(&invitation.token)).await.unwrap();
            }
            "expired" => fixture.expire(&invitation.id).await,
            _ => {
                // A user who was added directly and then removed cannot return by an old invitation.
                fixture.ada.clone().add(&fixture.acme, "grace", "member").await;
                fixture.ada.clone().organizations.remove_member(remove(&fixture.acme, "grace")).await.unwrap();
            }
        }
        for token in [&invitation.token, &second_token] {
            fixture.assert_invalid(token).await;
        }
        let by_id =
            fixture.server.user_with_email("grace").invitations.accept_invitation(accept_id(&invitation.id)).await;
        assert_refused(by_id, Code::FailedPrecondition, "INVITATION_NOT_PENDING");
    }
    fixture.server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_decline_whose_answer_was_lost_is_repeated() {
    let fixture = Fixture::new().await;
    let invitation = fixture.invite("grace@example.com").await;
    let request_id = roster::random::uuid().to_string();
    let request = pb::DeclineInvitationRequest { request_id, ..decline(&invitation.token) };
    let mut grace = fixture.server.user_with_email("grace");
    let first = grace.invitations.decline_invitation(request.clone()).await.unwrap().into_inner();
    let again = grace.invitations.decline_invitation(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, again);
    // For the same caller only.
    let other = fixture.server.user_with_email("mallory").invitations.decline_invitation(request).await;
    assert_refused(other, NOT_FOUND.0, NOT_FOUND.1);
}

/// The database's clock.
async fn now(fixture: &Fixture) -> OffsetDateTime {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&fixture.server.database.pool).await.unwrap()
}

#[tokio::test]
async fn expiry_is_exact_to_the_millisecond() {
    let fixture = Fixture::new().await;
    let mut grace = fixture.server.user_with_email("grace");
    let (mut valid, mut expired) = (0, 0);
    for round in 0..10 {
        let invitation = fixture.create(invite_identifier(&fixture.acme, &format!("@grace-{round}"))).await;
        let set = "UPDATE invitations SET expire_time = clock_timestamp() + interval '40 ms' WHERE id::text = $1
            RETURNING expire_time";
        let end: OffsetDateTime =
            sqlx::query_scalar(set).bind(&invitation.id).fetch_one(&fixture.server.database.pool).await.unwrap();
        // Called until the invitation has expired, each time between two readings of the database clock. Half of the
        // rounds preview; the others accept with `validate_only`.
        loop {
            let before = now(&fixture).await;
            let answer = if round % 2 == 0 {
                fixture.preview(&invitation.token).await.map(|_| ())
            } else {
                let request = pb::AcceptInvitationRequest { validate_only: true, ..accept(&invitation.token) };
                grace.invitations.accept_invitation(request).await.map(|_| ())
            };
            let after = now(&fixture).await;
            if answer.is_ok() {
                assert!(before < end, "valid {} after its end", before - end);
                valid += 1;
            } else {
                assert!(after >= end, "expired {} before its end", end - after);
                expired += 1;
            }
            if before > end {
                break;
            }
        }
        assert!(grace.invitations.accept_invitation(accept(&invitation.token)).await.is_err());
    }
    assert!(valid >= 10 && expired >= 10, "too few samples: {valid} valid, {expired} expired");
}

#[tokio::test]
async fn invitations_into_an_inactive_organization_wait_and_into_a_deleted_one_end() {
    let fixture = Fixture::new().await;
    let (mut ada, acme) = (fixture.ada.clone(), fixture.acme.clone());
    let invitation = fixture.invite("grace@example.com").await;
    let request = pb::DeactivateOrganizationRequest { organization: acme.clone(), ..Default::default() };
    ada.organizations.deactivate_organization(request).await.unwrap();
    assert_refused(
        fixture.accept_as("grace", &invitation.token).await,
        Code::FailedPrecondition,
        "ORGANIZATION_INACTIVE",
    );
    let mut backend = fixture.backend.clone();
    let created = backend.invitations.create_invitation(invite(&acme, "alan@example.com")).await;
    assert_refused(created, Code::FailedPrecondition, "ORGANIZATION_INACTIVE");
    let reminded = backend.invitations.remind_invitation(remind(&acme, &invitation.id, false)).await;
    assert_refused(reminded, Code::FailedPrecondition, "ORGANIZATION_INACTIVE");
    // After the activation it is valid as before.
    let request = pb::ActivateOrganizationRequest { organization: acme.clone(), ..Default::default() };
    ada.organizations.activate_organization(request).await.unwrap();
    fixture.preview(&invitation.token).await.unwrap();
    let request = pb::DeleteOrganizationRequest { organization: acme.clone(), ..Default::default() };
    ada.organizations.delete_organization(request).await.unwrap();
    fixture.assert_invalid(&invitation.token).await;
    // Undeletion does not restore the revoked invitation.
    let request = pb::UndeleteOrganizationRequest { organization: acme, ..Default::default() };
    fixture.server.operator().organizations.undelete_organization(request).await.unwrap();
    fixture.assert_invalid(&invitation.token).await;
    assert_eq!(fixture.get(&invitation.id).await.state(), pb::InvitationState::Revoked);
    fixture.server.database.assert_invariants().await;
}

#[tokio::test]
async fn an_invitation_cannot_be_accepted_after_its_inviter_lost_the_permission() {
    let fixture = Fixture::new().await;
    let mut ada = fixture.ada.clone();
    for what in ["removed", "demoted", "deactivated"] {
        fixture.admin("alan").await;
        let invitation = create(&fixture.server.on_behalf_of("alan"), invite(&fixture.acme, "grace@example.com")).await;
        match what {
            "removed" => drop(ada.organizations.remove_member(remove(&fixture.acme, "alan")).await.unwrap()),
            "demoted" => {
                drop(ada.organizations.update_member(set_role(&fixture.acme, "alan", "member")).await.unwrap());
            }
            _ => {
                let request = pb::DeactivateUserRequest { user_id: "alan".to_owned(), ..Default::default() };
                fixture.server.operator().users.deactivate_user(request).await.unwrap();
            }
        }
        assert_refused(
            fixture.accept_as("grace", &invitation.token).await,
            Code::FailedPrecondition,
            "INVITER_NOT_ALLOWED",
        );
        let mut grace = fixture.server.user_with_email("grace");
        let by_id = grace.invitations.accept_invitation(accept_id(&invitation.id)).await;
        assert_refused(by_id, Code::FailedPrecondition, "INVITER_NOT_ALLOWED");
        // It stays pending, and may still be declined.
        assert_eq!(fixture.get(&invitation.id).await.state(), pb::InvitationState::Pending);
        grace.invitations.decline_invitation(decline(&invitation.token)).await.unwrap();
        if what == "demoted" {
            ada.organizations.remove_member(remove(&fixture.acme, "alan")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn invitations_never_give_a_role_above_the_inviters() {
    let fixture = Fixture::new().await;
    let (mut ada, acme) = (fixture.ada.clone(), fixture.acme.clone());
    let invited = create(
        &fixture.backend,
        pb::CreateInvitationRequest { role: "admin".to_owned(), ..invite(&acme, "x@example.com") },
    );
    let invitation: IssuedInvitation = invited.await;
    fixture.admin("alan").await;
    ada.add(&acme, "grace", "member").await;
    // The role `owner` cannot be given by an invitation.
    for mut caller in [fixture.server.user_with_email("alan"), fixture.ada.clone(), fixture.backend.clone()] {
        let request = pb::CreateInvitationRequest {
            role: "owner".to_owned(),
            delivery: pb::InvitationDelivery::None.into(),
            ..invite(&acme, "y@example.com")
        };
        assert_refused(caller.invitations.create_invitation(request).await, Code::InvalidArgument, "INVALID_REQUEST");
        let items = vec![pb::BatchCreateInvitationsItem {
            recipient: Some(pb::batch_create_invitations_item::Recipient::Email("y@example.com".to_owned())),
            role: "owner".to_owned(),
            ..Default::default()
        }];
        let request = pb::BatchCreateInvitationsRequest { organization: acme.clone(), items, ..Default::default() };
        assert_refused(
            caller.invitations.batch_create_invitations(request).await,
            Code::InvalidArgument,
            "INVALID_REQUEST",
        );
    }
    // A plain member cannot give any role, by no method.
    let mut grace = fixture.server.user_with_email("grace");
    let lacks = (Code::PermissionDenied, "ROLE_LACKS_PERMISSION");
    for role in ["member", "admin"] {
        let none = pb::InvitationDelivery::None.into();
        let request =
            pb::CreateInvitationRequest { role: role.to_owned(), delivery: none, ..invite(&acme, "z@example.com") };
        assert_refused(grace.invitations.create_invitation(request).await, lacks.0, lacks.1);
        let items = vec![pb::BatchCreateInvitationsItem { role: role.to_owned(), ..Default::default() }];
        let request = pb::BatchCreateInvitationsRequest { organization: acme.clone(), items, ..Default::default() };
        assert_refused(grace.invitations.batch_create_invitations(request).await, lacks.0, lacks.1);
    }
    assert_refused(grace.invitations.remind_invitation(remind(&acme, &invitation.id, false)).await, lacks.0, lacks.1);
    assert_refused(grace.invitations.revoke_invitation(revoke(&acme, &invitation.id)).await, lacks.0, lacks.1);
    // The role of the inviter at the time of the acceptance decides.
    let request = pb::CreateInvitationRequest { role: "admin".to_owned(), ..invite(&acme, "hopper@example.com") };
    let by_alan = create(&fixture.server.on_behalf_of("alan"), request).await;
    ada.organizations.update_member(set_role(&acme, "alan", "member")).await.unwrap();
    assert_refused(fixture.accept_as("hopper", &by_alan.token).await, Code::FailedPrecondition, "INVITER_NOT_ALLOWED");
    ada.organizations.update_member(set_role(&acme, "alan", "admin")).await.unwrap();
    assert_eq!(fixture.accept_as("hopper", &by_alan.token).await.unwrap().role, "admin");
    // The datastore also rejects an invitation with the role `owner`.
    let forged = "UPDATE invitations SET role = 'owner'";
    assert!(sqlx::query(forged).execute(&fixture.server.database.pool).await.is_err());
}
