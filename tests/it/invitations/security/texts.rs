//! Names that could inject markup or headers, and addresses that look alike.

use super::NOT_YOURS;
use crate::harness::{assert_refused, organization};
use crate::invitations::{Fixture, accept, invite, invite_by_mail, revoke};
use roster::grpc::pb;
use tonic::Code;

#[tokio::test]
async fn names_cannot_inject_markup_or_headers() {
    let fixture = Fixture::new().await;
    let mut ada = fixture.ada.clone();
    // Characters that could end a header, or hide or reverse text, are refused in names of organizations and users.
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
        let organization = fixture.acme.clone();
        let rename = pb::UpdateOrganizationRequest { organization, name: bad.to_owned(), ..Default::default() };
        let refused = ada.organizations.update_organization(rename).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_REQUEST");
        let display_name = bad.to_owned();
        let put = pb::PutUserRequest { user_id: "eve".to_owned(), display_name, ..Default::default() };
        let refused = fixture.server.operator().users.put_user(put).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_REQUEST");
        let mut backend = fixture.backend.clone();
        let refused = backend.invitations.create_invitation(invite(&fixture.acme, &format!("{bad}@x.example"))).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_REQUEST");
    }
    // Everything else is plain text: the API and the mail contain it unchanged.
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
        let named = ada.create(name).await;
        let address = format!("person-{number}@example.com");
        let invitation = fixture.create(invite(&named, &address)).await;
        assert_eq!(fixture.preview(&invitation.token).await.unwrap().organization_name, name);
        fixture.revoke_in(&named, &invitation.id).await;
        fixture.create(invite_by_mail(&named, &address)).await;
        let mail = fixture.server.roster.claim_letter().await.unwrap().unwrap();
        assert_eq!(mail.organization.as_str(), name);
    }
}

impl Fixture {
    async fn revoke_in(&self, organization: &str, id: &str) {
        self.backend.clone().invitations.revoke_invitation(revoke(organization, id)).await.unwrap();
    }
}

#[tokio::test]
async fn addresses_that_look_alike_are_different_mailboxes() {
    let fixture = Fixture::new().await;
    let mut backend = fixture.backend.clone();
    for bad in [
        ".a@example.com",
        "a@b@example.com",
        "a@example..com",
        "a@-x.example",
        "\u{212a}im@example.com",
        "ki\u{200d}m@example.com",
    ] {
        let refused = backend.invitations.create_invitation(invite(&fixture.acme, bad)).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_REQUEST");
    }
    // The Kelvin sign, full-width letters, a dotless i, a Cyrillic a, dots: different mailboxes.
    for (number, (invited, other)) in [
        ("kim@example.com", "\u{212a}im@example.com"),
        ("ada.l@example.com", "\u{ff41}da.l@example.com"),
        ("info@example.com", "\u{131}nfo@example.com"),
        ("alan@example.com", "\u{430}lan@example.com"),
        ("ren\u{e9}e@example.com", "renee@example.com"),
        ("a.b@example.com", "ab@example.com"),
        ("a.c@example.com", "a..c@example.com"),
        ("a.d@example.com", "a.d.@example.com"),
        ("a+b@example.com", "a@example.com"),
    ]
    .into_iter()
    .enumerate()
    {
        let invitation = fixture.invite(invited).await;
        let mut mallory = fixture.server.person(&format!("mallory-{number}"), other, true);
        let refused = mallory.invitations.accept_invitation(accept(&invitation.token)).await;
        assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
        let mut recipient =
            fixture.server.person(&format!("recipient-{number}"), &invited.to_uppercase().replace('É', "é"), true);
        recipient.invitations.accept_invitation(accept(&invitation.token)).await.unwrap();
    }
    // The Unicode and the punycode form of a domain are one domain; a domain that looks similar is another one.
    let invitation = fixture.invite("grace@b\u{fc}cher.example").await;
    let again = backend.invitations.create_invitation(invite(&fixture.acme, "Grace@XN--BCHER-KVA.example")).await;
    assert_refused(again, Code::AlreadyExists, "INVITATION_PENDING");
    let mut other = fixture.server.person("other", "grace@bucher.example", true);
    let refused = other.invitations.accept_invitation(accept(&invitation.token)).await;
    assert_refused(refused, NOT_YOURS.0, NOT_YOURS.1);
    let mut grace = fixture.server.person("grace", "grace@xn--bcher-kva.example", true);
    grace.invitations.accept_invitation(accept(&invitation.token)).await.unwrap();
}
