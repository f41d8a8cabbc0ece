//! Who may not accept what, and what nobody learns.

mod quiet;
mod timing;

use super::{Made, Scene, accept, accept_id, decline, hex, invite, invite_other, make, remind, revoke};
use crate::harness::{assert_refused, organization, remove, set_role};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use roster::grpc::pb;
use sqlx::types::time::OffsetDateTime;
use tonic::Code;

const NOT_FOUND: (Code, &str) = (Code::NotFound, "INVITATION_NOT_FOUND");
const NOT_YOURS: (Code, &str) = (Code::PermissionDenied, "NOT_YOUR_INVITATION");

impl Scene {
    /// What becomes of a person's accepting by this token.
    async fn accepts(&self, id: &str, token: &str) -> Result<pb::Member, tonic::Status> {
        let mut person = self.server.user_with_email(id);
        Ok(person.invitations.accept_invitation(accept(token)).await?.into_inner().member.unwrap())
    }

    /// Asserts that grace's token is good for nothing any more, by no method.
    async fn assert_dead(&self, token: &str) {
        assert_refused(self.preview(token).await, NOT_FOUND.0, NOT_FOUND.1);
        assert_refused(self.accepts("grace", token).await, NOT_FOUND.0, NOT_FOUND.1);
        let declined = self.server.user_with_email("grace").invitations.decline_invitation(decline(token)).await;
        assert_refused(declined, NOT_FOUND.0, NOT_FOUND.1);
    }
}

#[tokio::test]
async fn another_user_with_the_token() {
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    assert_refused(scene.accepts("mallory", &made.token).await, NOT_YOURS.0, NOT_YOURS.1);
    let mut mallory = scene.server.user_with_email("mallory");
    let declined = mallory.invitations.decline_invitation(decline(&made.token)).await;
    assert_refused(declined, NOT_YOURS.0, NOT_YOURS.1);
    // Who has no address at all neither; by the id they do not even learn that it is there.
    let mut bare = scene.server.user("bare");
    let refused = bare.invitations.accept_invitation(accept(&made.token)).await;
    assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
    for person in [&mut mallory, &mut bare] {
        let refused = person.invitations.accept_invitation(accept_id(&made.id)).await;
        assert_refused(refused, NOT_FOUND.0, NOT_FOUND.1);
    }
    // Who is not a person cannot accept, and nobody without a credential.
    let refused = scene.backend.clone().invitations.accept_invitation(accept(&made.token)).await;
    assert_refused(refused, Code::PermissionDenied, "SCOPE_MISSING");
    let refused = scene.server.operator().invitations.accept_invitation(accept(&made.token)).await;
    assert_refused(refused, Code::PermissionDenied, "CALLER_NOT_ALLOWED");
    let refused = scene.server.nobody().invitations.accept_invitation(accept(&made.token)).await;
    assert_refused(refused, Code::Unauthenticated, "CREDENTIAL_MISSING");
    // The token stays good.
    scene.accepts("grace", &made.token).await.unwrap();
}

#[tokio::test]
async fn the_right_address_not_verified() {
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    let mut grace = scene.server.person("grace", "grace@example.com", false);
    let refused = grace.invitations.accept_invitation(accept(&made.token)).await;
    assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
    let refused = grace.invitations.decline_invitation(decline(&made.token)).await;
    assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
    let refused = grace.invitations.accept_invitation(accept_id(&made.id)).await;
    assert_refused(refused, NOT_FOUND.0, NOT_FOUND.1);
    scene.accepts("grace", &made.token).await.unwrap();
}

#[tokio::test]
async fn the_inviter() {
    let scene = Scene::new().await;
    scene.admin("grace").await;
    let mut for_grace = scene.server.on_behalf_of("grace");
    // To a second account's address, to one of no address, and to their own after they have left.
    let other = make(&for_grace, invite_other(&scene.acme, "@grace")).await;
    assert_refused(scene.accepts("grace", &other.token).await, NOT_YOURS.0, NOT_YOURS.1);
    let own = for_grace.invitations.create_invitation(invite(&scene.acme, "grace@example.com")).await;
    assert_refused(own, Code::AlreadyExists, "ALREADY_MEMBER");
    let second = make(&for_grace, invite(&scene.acme, "second@example.com")).await;
    let mut moved = scene.server.person("grace", "second@example.com", true);
    let refused = moved.invitations.accept_invitation(accept(&second.token)).await;
    assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
    let refused = moved.invitations.accept_invitation(accept_id(&second.id)).await;
    assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
    // For others it is good.
    scene.accepts("hopper", &other.token).await.unwrap();
}

#[tokio::test]
async fn the_invitation_of_another_organization() {
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    let mut mallory = scene.server.user_with_email("mallory");
    let theirs = mallory.create("Theirs").await;
    for mut who in [mallory, scene.server.operator(), scene.backend.clone(), scene.ada.clone()] {
        let not_ada = who.organizations.get_organization(pb::GetOrganizationRequest { organization: theirs.clone() });
        if not_ada.await.is_err() {
            continue;
        }
        let get = pb::GetInvitationRequest { organization: theirs.clone(), invitation_id: made.id.clone() };
        assert_refused(who.invitations.get_invitation(get).await, NOT_FOUND.0, NOT_FOUND.1);
        let revoked = who.invitations.revoke_invitation(revoke(&theirs, &made.id)).await;
        assert_refused(revoked, NOT_FOUND.0, NOT_FOUND.1);
        let by_nothing = pb::InvitationDelivery::None.into();
        let request = pb::RemindInvitationRequest { delivery: by_nothing, ..remind(&theirs, &made.id, true) };
        assert_refused(who.invitations.remind_invitation(request).await, NOT_FOUND.0, NOT_FOUND.1);
    }
    scene.accepts("grace", &made.token).await.unwrap();
}

#[tokio::test]
async fn a_token_used_again() {
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    let further = scene.remind(&made.id, false).await;
    let first = scene.accepts("grace", &made.token).await.unwrap();
    let events = crate::races::events(&scene.server.database).await;
    // By the same user: the same answer, also by its other link, and nothing happens.
    for token in [&made.token, &further, &made.token] {
        assert_eq!(scene.accepts("grace", token).await.unwrap(), first);
    }
    assert_eq!(crate::races::events(&scene.server.database).await, events);
    // By anybody else it was never there; nor can it be declined any more.
    for token in [&made.token, &further] {
        assert_refused(scene.accepts("mallory", token).await, NOT_FOUND.0, NOT_FOUND.1);
        assert_refused(scene.preview(token).await, NOT_FOUND.0, NOT_FOUND.1);
    }
    let declined = scene.server.user_with_email("grace").invitations.decline_invitation(decline(&made.token)).await;
    assert_refused(declined, Code::FailedPrecondition, "INVITATION_NOT_PENDING");
    // Accepting never changes the role of one who is in already.
    scene.ada.clone().organizations.update_member(set_role(&scene.acme, "grace", "admin")).await.unwrap();
    assert_eq!(scene.accepts("grace", &made.token).await.unwrap().role, "admin");
}

#[tokio::test]
async fn a_token_that_is_not_quite_the_same() {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    let token = made.token.clone();
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    let (front, last) = token.split_at(42);
    // 43 characters have two bits more than 32 bytes: the same bytes can be written in four ways.
    let place = ALPHABET.find(last).unwrap();
    let sisters = (1..4).map(|bits| format!("{front}{}", &ALPHABET[place + bits..=place + bits]));
    let mut others: Vec<String> = sisters.collect();
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
        assert_refused(scene.preview(&other).await, NOT_FOUND.0, NOT_FOUND.1);
        assert_refused(scene.accepts("grace", &other).await, NOT_FOUND.0, NOT_FOUND.1);
    }
    scene.accepts("grace", &token).await.unwrap();
}

#[tokio::test]
async fn tokens_after_reminders() {
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    let mut tokens = vec![made.token.clone()];
    for _ in 0..6 {
        tokens.push(scene.remind(&made.id, false).await);
        // Older links keep working, five in all.
        let dead = tokens.len().saturating_sub(5);
        for (number, token) in tokens.iter().enumerate() {
            assert_eq!(scene.preview(token).await.is_ok(), number >= dead, "{number} of {}", tokens.len());
        }
    }
    scene.assert_dead(&tokens[0]).await;
    // With `rotate` they die, and only the new one is good.
    let rotated = scene.remind(&made.id, true).await;
    for token in &tokens {
        scene.assert_dead(token).await;
    }
    assert_eq!(scene.server.database.count("SELECT count(*) FROM invitation_tokens").await, 1);
    scene.accepts("grace", &rotated).await.unwrap();
}

#[tokio::test]
async fn tokens_after_the_end() {
    let scene = Scene::new().await;
    for end in ["revoked", "declined", "expired", "address removed"] {
        let made = scene.invite("grace@example.com").await;
        let further = scene.remind(&made.id, false).await;
        match end {
            "revoked" => scene.revoke(&made.id).await,
            "declined" => {
                let mut grace = scene.server.user_with_email("grace");
                grace.invitations.decline_invitation(decline(&made.token)).await.unwrap();
            }
            "expired" => scene.expire(&made.id).await,
            _ => {
                // Who is removed, having been added otherwise, does not come back by an old link.
                scene.ada.clone().add(&scene.acme, "grace", "member").await;
                scene.ada.clone().organizations.remove_member(remove(&scene.acme, "grace")).await.unwrap();
            }
        }
        for token in [&made.token, &further] {
            scene.assert_dead(token).await;
        }
        let by_id = scene.server.user_with_email("grace").invitations.accept_invitation(accept_id(&made.id)).await;
        assert_refused(by_id, Code::FailedPrecondition, "INVITATION_NOT_PENDING");
    }
    scene.server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_decline_whose_answer_was_lost_is_repeated() {
    let scene = Scene::new().await;
    let made = scene.invite("grace@example.com").await;
    let request_id = roster::random::uuid().to_string();
    let request = pb::DeclineInvitationRequest { request_id, ..decline(&made.token) };
    let mut grace = scene.server.user_with_email("grace");
    let first = grace.invitations.decline_invitation(request.clone()).await.unwrap().into_inner();
    let again = grace.invitations.decline_invitation(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, again);
    // By the same caller only.
    let other = scene.server.user_with_email("mallory").invitations.decline_invitation(request).await;
    assert_refused(other, NOT_FOUND.0, NOT_FOUND.1);
}

/// The database's clock.
async fn now(scene: &Scene) -> OffsetDateTime {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&scene.server.database.pool).await.unwrap()
}

#[tokio::test]
async fn expiry_to_the_millisecond() {
    let scene = Scene::new().await;
    let mut grace = scene.server.user_with_email("grace");
    let (mut good, mut over) = (0, 0);
    for round in 0..10 {
        let made = scene.make(invite_other(&scene.acme, &format!("@grace-{round}"))).await;
        let set = "UPDATE invitations SET expire_time = clock_timestamp() + interval '40 ms' WHERE id::text = $1
            RETURNING expire_time";
        let end: OffsetDateTime =
            sqlx::query_scalar(set).bind(&made.id).fetch_one(&scene.server.database.pool).await.unwrap();
        // Asked until it is over, each time between two looks at the clock by which it is judged. Half of the rounds
        // only look; the others try to accept, without its being done.
        loop {
            let before = now(&scene).await;
            let answer = if round % 2 == 0 {
                scene.preview(&made.token).await.map(|_| ())
            } else {
                let request = pb::AcceptInvitationRequest { validate_only: true, ..accept(&made.token) };
                grace.invitations.accept_invitation(request).await.map(|_| ())
            };
            let after = now(&scene).await;
            if answer.is_ok() {
                assert!(before < end, "good {} after its end", before - end);
                good += 1;
            } else {
                assert!(after >= end, "over {} before its end", end - after);
                over += 1;
            }
            if before > end {
                break;
            }
        }
        assert!(grace.invitations.accept_invitation(accept(&made.token)).await.is_err());
    }
    assert!(good >= 10 && over >= 10, "{good} good, {over} over: nothing was tried");
}

#[tokio::test]
async fn accepting_in_an_organization_that_is_inactive_or_deleted() {
    let scene = Scene::new().await;
    let (mut ada, here) = (scene.ada.clone(), scene.acme.clone());
    let made = scene.invite("grace@example.com").await;
    let request = pb::DeactivateOrganizationRequest { organization: here.clone(), ..Default::default() };
    ada.organizations.deactivate_organization(request).await.unwrap();
    assert_refused(scene.accepts("grace", &made.token).await, Code::FailedPrecondition, "ORGANIZATION_INACTIVE");
    let mut backend = scene.backend.clone();
    let created = backend.invitations.create_invitation(invite(&here, "alan@example.com")).await;
    assert_refused(created, Code::FailedPrecondition, "ORGANIZATION_INACTIVE");
    let reminded = backend.invitations.remind_invitation(remind(&here, &made.id, false)).await;
    assert_refused(reminded, Code::FailedPrecondition, "ORGANIZATION_INACTIVE");
    // Switched on again it is as it was.
    let request = pb::ActivateOrganizationRequest { organization: here.clone(), ..Default::default() };
    ada.organizations.activate_organization(request).await.unwrap();
    scene.preview(&made.token).await.unwrap();
    let request = pb::DeleteOrganizationRequest { organization: here.clone(), ..Default::default() };
    ada.organizations.delete_organization(request).await.unwrap();
    scene.assert_dead(&made.token).await;
    // Restoring it does not bring what was taken back with it.
    let request = pb::UndeleteOrganizationRequest { organization: here, ..Default::default() };
    scene.server.operator().organizations.undelete_organization(request).await.unwrap();
    scene.assert_dead(&made.token).await;
    assert_eq!(scene.get(&made.id).await.state(), pb::InvitationState::Revoked);
    scene.server.database.assert_invariants().await;
}

#[tokio::test]
async fn the_inviter_removed_demoted_or_switched_off_since() {
    let scene = Scene::new().await;
    let mut ada = scene.ada.clone();
    for what in ["removed", "demoted", "switched off"] {
        scene.admin("alan").await;
        let made = make(&scene.server.on_behalf_of("alan"), invite(&scene.acme, "grace@example.com")).await;
        match what {
            "removed" => drop(ada.organizations.remove_member(remove(&scene.acme, "alan")).await.unwrap()),
            "demoted" => drop(ada.organizations.update_member(set_role(&scene.acme, "alan", "member")).await.unwrap()),
            _ => {
                let request = pb::DeactivateUserRequest { user_id: "alan".to_owned(), ..Default::default() };
                scene.server.operator().users.deactivate_user(request).await.unwrap();
            }
        }
        assert_refused(scene.accepts("grace", &made.token).await, Code::FailedPrecondition, "INVITER_NOT_ALLOWED");
        let mut grace = scene.server.user_with_email("grace");
        let by_id = grace.invitations.accept_invitation(accept_id(&made.id)).await;
        assert_refused(by_id, Code::FailedPrecondition, "INVITER_NOT_ALLOWED");
        // It may still be declined, and is as pending as before.
        assert_eq!(scene.get(&made.id).await.state(), pb::InvitationState::Pending);
        grace.invitations.decline_invitation(decline(&made.token)).await.unwrap();
        if what == "demoted" {
            ada.organizations.remove_member(remove(&scene.acme, "alan")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_role_above_the_inviters_on_every_path() {
    let scene = Scene::new().await;
    let (mut ada, here) = (scene.ada.clone(), scene.acme.clone());
    let made = make(
        &scene.backend,
        pb::CreateInvitationRequest { role: "admin".to_owned(), ..invite(&here, "x@example.com") },
    );
    let made: Made = made.await;
    scene.admin("alan").await;
    ada.add(&here, "grace", "member").await;
    // Nobody hands out ownership by inviting: it is no role that can be given.
    for mut who in [scene.server.user_with_email("alan"), scene.ada.clone(), scene.backend.clone()] {
        let request = pb::CreateInvitationRequest {
            role: "owner".to_owned(),
            delivery: pb::InvitationDelivery::None.into(),
            ..invite(&here, "y@example.com")
        };
        assert_refused(who.invitations.create_invitation(request).await, Code::InvalidArgument, "INVALID_REQUEST");
        let items = vec![pb::BatchCreateInvitationsItem {
            recipient: Some(pb::batch_create_invitations_item::Recipient::Email("y@example.com".to_owned())),
            role: "owner".to_owned(),
            ..Default::default()
        }];
        let request = pb::BatchCreateInvitationsRequest { organization: here.clone(), items, ..Default::default() };
        assert_refused(
            who.invitations.batch_create_invitations(request).await,
            Code::InvalidArgument,
            "INVALID_REQUEST",
        );
    }
    // A member gives no role at all, not even their own, by no path.
    let mut grace = scene.server.user_with_email("grace");
    let lacks = (Code::PermissionDenied, "ROLE_LACKS_PERMISSION");
    for role in ["member", "admin"] {
        let none = pb::InvitationDelivery::None.into();
        let request =
            pb::CreateInvitationRequest { role: role.to_owned(), delivery: none, ..invite(&here, "z@example.com") };
        assert_refused(grace.invitations.create_invitation(request).await, lacks.0, lacks.1);
        let items = vec![pb::BatchCreateInvitationsItem { role: role.to_owned(), ..Default::default() }];
        let request = pb::BatchCreateInvitationsRequest { organization: here.clone(), items, ..Default::default() };
        assert_refused(grace.invitations.batch_create_invitations(request).await, lacks.0, lacks.1);
    }
    assert_refused(grace.invitations.remind_invitation(remind(&here, &made.id, false)).await, lacks.0, lacks.1);
    assert_refused(grace.invitations.revoke_invitation(revoke(&here, &made.id)).await, lacks.0, lacks.1);
    // What an admin gave is judged by what they are when it is accepted.
    let request = pb::CreateInvitationRequest { role: "admin".to_owned(), ..invite(&here, "hopper@example.com") };
    let given = make(&scene.server.on_behalf_of("alan"), request).await;
    ada.organizations.update_member(set_role(&here, "alan", "member")).await.unwrap();
    assert_refused(scene.accepts("hopper", &given.token).await, Code::FailedPrecondition, "INVITER_NOT_ALLOWED");
    ada.organizations.update_member(set_role(&here, "alan", "admin")).await.unwrap();
    assert_eq!(scene.accepts("hopper", &given.token).await.unwrap().role, "admin");
    // And the datastore holds no invitation to be owner by its role either.
    let forged = "UPDATE invitations SET role = 'owner'";
    assert!(sqlx::query(forged).execute(&scene.server.database.pool).await.is_err());
}

#[tokio::test]
async fn names_that_are_meant_to_do_something() {
    let scene = Scene::new().await;
    let mut ada = scene.ada.clone();
    // What could end a header, hide or turn around text is refused, in an organization's name and in a person's.
    for bad in [
        "Acme\r\nBcc: all@example.com",
        "Acme\nX: y",
        "Acme\rX",
        "Ac\0me",
        "Ac\u{85}me",
        "Acme\u{2028}Bcc: x",
        "\u{202e}emcA",
        "Ac\u{2066}me\u{2069}",
        "Ac\u{200b}me",
        "Ac\u{feff}me",
        "Ac\u{ad}me",
        "Ac\u{1b}[31mme",
    ] {
        let refused = ada.organizations.create_organization(organization(bad)).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_REQUEST");
        let organization = scene.acme.clone();
        let rename = pb::UpdateOrganizationRequest { organization, name: bad.to_owned(), ..Default::default() };
        let refused = ada.organizations.update_organization(rename).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_REQUEST");
        let display_name = bad.to_owned();
        let put = pb::PutUserRequest { user_id: "eve".to_owned(), display_name, ..Default::default() };
        let refused = scene.server.operator().users.put_user(put).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_REQUEST");
        let mut backend = scene.backend.clone();
        let refused = backend.invitations.create_invitation(invite(&scene.acme, &format!("{bad}@x.example"))).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_REQUEST");
    }
    // What is only text stays text: told as it was given, by the API and to the mail.
    let emoji = "\u{1f680}".repeat(200);
    for (number, name) in [
        "<script>alert(1)</script>",
        "\"Acme\" <a href=https://evil.example>",
        "{{ 7 * 7 }} {% raw %} {# #}",
        "Your account is locked, call +1 555 0100",
        "=?utf-8?q?Acme?=",
        emoji.as_str(),
    ]
    .into_iter()
    .enumerate()
    {
        let here = ada.create(name).await;
        let address = format!("person-{number}@example.com");
        let made = scene.make(invite(&here, &address)).await;
        assert_eq!(scene.preview(&made.token).await.unwrap().organization_name, name);
        scene.revoke_in(&here, &made.id).await;
        scene.make(super::invite_by_mail(&here, &address)).await;
        let letter = scene.server.roster.claim_letter().await.unwrap().unwrap();
        assert_eq!(letter.organization.as_str(), name);
    }
}

impl Scene {
    async fn revoke_in(&self, organization: &str, id: &str) {
        self.backend.clone().invitations.revoke_invitation(revoke(organization, id)).await.unwrap();
    }
}

#[tokio::test]
async fn addresses_that_look_alike() {
    let scene = Scene::new().await;
    let mut backend = scene.backend.clone();
    for bad in
        ["a..b@example.com", ".a@example.com", "a.@example.com", "a@b@example.com", "a@example..com", "a@-x.example"]
    {
        let refused = backend.invitations.create_invitation(invite(&scene.acme, bad)).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_REQUEST");
    }
    // The Kelvin sign, full-width letters, a dotless i, a Cyrillic a, a composed and a decomposed é: mailboxes of their own.
    for (number, (invited, other)) in [
        ("kim@example.com", "\u{212a}im@example.com"),
        ("ada.l@example.com", "\u{ff41}da.l@example.com"),
        ("info@example.com", "\u{131}nfo@example.com"),
        ("alan@example.com", "\u{430}lan@example.com"),
        ("ren\u{e9}e@example.com", "rene\u{301}e@example.com"),
        ("a.b@example.com", "ab@example.com"),
        ("a+b@example.com", "a@example.com"),
    ]
    .into_iter()
    .enumerate()
    {
        let made = scene.invite(invited).await;
        let mut mallory = scene.server.person(&format!("mallory-{number}"), other, true);
        let refused = mallory.invitations.accept_invitation(accept(&made.token)).await;
        assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
        let mut right =
            scene.server.person(&format!("right-{number}"), &invited.to_uppercase().replace('É', "é"), true);
        right.invitations.accept_invitation(accept(&made.token)).await.unwrap();
    }
    // A domain written in Unicode and in punycode is one domain; one that merely looks like it is not.
    let made = scene.invite("grace@b\u{fc}cher.example").await;
    let again = backend.invitations.create_invitation(invite(&scene.acme, "Grace@XN--BCHER-KVA.example")).await;
    assert_refused(again, Code::AlreadyExists, "INVITATION_PENDING");
    let mut other = scene.server.person("other", "grace@bucher.example", true);
    let refused = other.invitations.accept_invitation(accept(&made.token)).await;
    assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
    let mut grace = scene.server.person("grace", "grace@xn--bcher-kva.example", true);
    grace.invitations.accept_invitation(accept(&made.token)).await.unwrap();
}
