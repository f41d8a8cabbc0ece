//! Locales of invitations and of mails, from the request to the letter.

use super::{Fixture, invite, invite_by_mail, invite_identifier, remind};
use crate::harness::assert_refused;
use roster::domain::Locale;
use roster::grpc::pb;
use roster::service::outbox::{DeliveryOutcome, Occasion};
use tonic::Code;

impl Fixture {
    /// The recipients and the locales of the letters that are due, in the order of the recipients. Delivers the letters.
    async fn letters(&self) -> Vec<(Occasion, String, Option<String>)> {
        let mut letters = Vec::new();
        while let Some(letter) = self.server.roster.claim_letter().await.unwrap() {
            self.server.roster.settle_letter(letter.id, DeliveryOutcome::Delivered).await.unwrap();
            let locale = letter.locale.as_ref().map(ToString::to_string);
            letters.push((letter.occasion, letter.to.given().to_owned(), locale));
        }
        letters.sort_by(|one, other| one.1.cmp(&other.1));
        letters
    }

    /// Makes users known by their verified addresses.
    async fn know(&self, users: &[&str]) {
        for user in users {
            self.server.user_with_email(user).users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        }
    }
}

fn letter(occasion: Occasion, user: &str, locale: Option<&str>) -> (Occasion, String, Option<String>) {
    (occasion, format!("{user}@example.com"), locale.map(ToOwned::to_owned))
}

#[tokio::test]
async fn an_invitation_keeps_its_locale_in_every_mail() {
    let fixture = Fixture::new().await;
    for (given, kept) in [("DE-at", "de-AT"), ("ja", "ja"), ("tlh", "tlh"), ("", "")] {
        let wanted = Some(kept).filter(|kept| !kept.is_empty());
        let request = pb::CreateInvitationRequest {
            locale: given.to_owned(),
            ..invite_by_mail(&fixture.acme, "grace@example.com")
        };
        let created = fixture.backend.clone().invitations.create_invitation(request).await.unwrap().into_inner();
        let created = created.invitation.unwrap();
        assert_eq!(created.locale, kept);
        assert_eq!(fixture.letters().await, [letter(Occasion::Invitation, "grace", wanted)]);
        let email = pb::InvitationDelivery::Email.into();
        let request =
            pb::RemindInvitationRequest { delivery: email, ..remind(&fixture.acme, &created.invitation_id, true) };
        let reminded = fixture.backend.clone().invitations.remind_invitation(request).await.unwrap().into_inner();
        assert_eq!(reminded.invitation.unwrap().locale, kept);
        assert_eq!(fixture.letters().await, [letter(Occasion::Reminder, "grace", wanted)]);
        assert_eq!(fixture.get(&created.invitation_id).await.locale, kept);
        let list = pb::ListInvitationsRequest { organization: fixture.acme.clone(), ..Default::default() };
        let listed = fixture.backend.clone().invitations.list_invitations(list).await.unwrap().into_inner();
        assert_eq!(listed.invitations[0].locale, kept);
        fixture.revoke(&created.invitation_id).await;
    }
    // Without a mail too: the application may deliver the token in that language.
    let request =
        pb::CreateInvitationRequest { locale: "pt-br".to_owned(), ..invite_identifier(&fixture.acme, "@grace") };
    assert_eq!(fixture.get(&fixture.create(request).await.id).await.locale, "pt-BR");
    fixture.server.database.assert_invariants().await;
}

#[tokio::test]
async fn each_item_of_a_batch_has_its_locale() {
    let fixture = Fixture::new().await;
    let item = |user: &str, locale: &str| pb::BatchCreateInvitationsItem {
        recipient: Some(pb::batch_create_invitations_item::Recipient::Email(format!("{user}@example.com"))),
        locale: locale.to_owned(),
        ..Default::default()
    };
    let request = pb::BatchCreateInvitationsRequest {
        organization: fixture.acme.clone(),
        items: vec![item("alan", "de"), item("grace", ""), item("joan", "JA-jp")],
        ..Default::default()
    };
    let results = fixture.backend.clone().invitations.batch_create_invitations(request).await.unwrap().into_inner();
    let locales: Vec<String> = results.results.into_iter().map(|result| result.invitation.unwrap().locale).collect();
    assert_eq!(locales, ["de", "", "ja-JP"]);
    let invitation = |user, locale| letter(Occasion::Invitation, user, locale);
    let expected = [invitation("alan", Some("de")), invitation("grace", None), invitation("joan", Some("ja-JP"))];
    assert_eq!(fixture.letters().await, expected);
}

#[tokio::test]
async fn the_mail_to_an_owner_or_an_added_member_has_a_locale() {
    let fixture = Fixture::new().await;
    fixture.know(&["alan", "grace", "joan", "mary"]).await;
    let (organization, mut organizations) = (fixture.acme.clone(), fixture.backend.clone().organizations);
    let address = |user: &str| format!("{user}@example.com");

    let owner = pb::CreateOrganizationRequest {
        owner_email: address("ida"),
        owner_locale: "de-ch".to_owned(),
        ..crate::harness::organization("Navy")
    };
    let created = organizations.create_organization(owner).await.unwrap().into_inner();
    assert_eq!(created.owner_invitation.unwrap().locale, "de-CH");
    let add = pb::AddMemberRequest {
        organization: organization.clone(),
        person: Some(pb::add_member_request::Person::Email(address("alan"))),
        locale: "JA".to_owned(),
        ..Default::default()
    };
    organizations.add_member(add).await.unwrap();
    let ensure = pb::EnsureMemberRequest {
        organization: organization.clone(),
        person: Some(pb::ensure_member_request::Person::Email(address("grace"))),
        locale: "fr-ca".to_owned(),
        ..Default::default()
    };
    organizations.ensure_member(ensure).await.unwrap();
    let item = |user: &str, locale: &str| pb::BatchAddMembersItem {
        person: Some(pb::batch_add_members_item::Person::Email(address(user))),
        locale: locale.to_owned(),
        ..Default::default()
    };
    let items = vec![item("joan", "de"), item("mary", "")];
    let batch = pb::BatchAddMembersRequest { organization, items, ..Default::default() };
    organizations.batch_add_members(batch).await.unwrap();

    let added = |user, locale| letter(Occasion::Added, user, locale);
    let expected = [
        added("alan", Some("ja")),
        added("grace", Some("fr-CA")),
        letter(Occasion::OwnerActivation, "ida", Some("de-CH")),
        added("joan", Some("de")),
        added("mary", None),
    ];
    assert_eq!(fixture.letters().await, expected);
}

#[tokio::test]
async fn a_repeated_request_answers_with_the_same_locale() {
    let fixture = Fixture::new().await;
    let mut backend = fixture.backend.clone().invitations;
    let request_id = roster::random::uuid().to_string();
    let request = pb::CreateInvitationRequest {
        request_id,
        locale: "de-AT".to_owned(),
        ..invite(&fixture.acme, "grace@example.com")
    };
    let first = backend.create_invitation(request.clone()).await.unwrap().into_inner().invitation;
    let again = backend.create_invitation(request.clone()).await.unwrap().into_inner().invitation;
    assert_eq!(again, first);
    let other = pb::CreateInvitationRequest { locale: "de".to_owned(), ..request.clone() };
    assert_refused(backend.create_invitation(other).await, Code::AlreadyExists, "REQUEST_ID_REUSED");
    // A server of release 0.3 stores answers without a locale.
    fixture.sql("UPDATE requests SET answer = answer #- '{answer,0,Ok,invitation,locale}'").await;
    let mut old = backend.create_invitation(request).await.unwrap().into_inner().invitation;
    assert_eq!(old.as_mut().map(|old| std::mem::replace(&mut old.locale, "de-AT".to_owned())), Some(String::new()));
    assert_eq!(old, first);
}

/// What a server of release 0.3 writes has no locale, and what a newer one writes may have another form.
#[tokio::test]
async fn mails_of_other_releases_are_sent() {
    let fixture = Fixture::new().await;
    fixture.know(&["alan"]).await;
    let request =
        pb::CreateInvitationRequest { locale: "de".to_owned(), ..invite_by_mail(&fixture.acme, "grace@example.com") };
    let id = fixture.create(request).await.id;
    let add = pb::AddMemberRequest {
        organization: fixture.acme.clone(),
        person: Some(pb::add_member_request::Person::Email("alan@example.com".to_owned())),
        locale: "de".to_owned(),
        ..Default::default()
    };
    fixture.backend.clone().organizations.add_member(add).await.unwrap();
    fixture.sql("UPDATE invitations SET locale = NULL").await;
    fixture.sql("UPDATE outbox SET locale = 'zz-a-b-c' WHERE occasion = 'ADDED'").await;
    let expected = [letter(Occasion::Added, "alan", Some("zz-a-b-c")), letter(Occasion::Invitation, "grace", None)];
    assert_eq!(fixture.letters().await, expected);
    assert_eq!(fixture.get(&id).await.locale, "");
    let unusual: Vec<Locale> = Locale::from_stored("zz-a-b-c".to_owned()).fallbacks().collect();
    assert_eq!(unusual.last(), Some(&Locale::parse("zz").unwrap()));
}
