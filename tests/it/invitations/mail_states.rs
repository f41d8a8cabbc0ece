//! The mail state of an invitation whose mail is not sent.

use super::{Fixture, accept_id, decline, invite_by_mail, remind};
use crate::harness::{IssuedInvitation, add, assert_refused};
use roster::grpc::pb;
use roster::service::outbox::DeliveryOutcome;
use tonic::Code;

const MAIL_FAILED: &str = "SELECT count(*) FROM events WHERE type = 'invitation.mail_failed'";

/// The ways in which an invitation of `grace` ends, or its mail becomes impossible, while its mail is in the outbox.
const ENDS: [&str; 11] = [
    "accepted",
    "declined",
    "revoked",
    "expired, and found by the mail worker",
    "expired, and found by housekeeping",
    "expired, and invited again",
    "a member with the address removed",
    "the organization deleted",
    "the token replaced by one in the answer",
    "the tokens ended",
    "the ownership taken",
];

/// Brings about an end, and returns the invitation.
async fn ended(fixture: &Fixture, how: &str, organization: &str, id: &str) {
    let (mut ada, mut backend) = (fixture.ada.clone(), fixture.backend.clone());
    let mut grace = fixture.server.user_with_email("grace");
    let organization = organization.to_owned();
    match how {
        "accepted" => drop(grace.invitations.accept_invitation(accept_id(id)).await.unwrap()),
        "declined" => {
            let by_id = pb::decline_invitation_request::Invitation::InvitationId(id.to_owned());
            let request = pb::DeclineInvitationRequest { invitation: Some(by_id), ..decline("") };
            grace.invitations.decline_invitation(request).await.unwrap();
        }
        "revoked" => drop(backend.invitations.revoke_invitation(super::revoke(&organization, id)).await.unwrap()),
        "expired, and found by the mail worker" => {
            fixture.expire(id).await;
            assert!(fixture.server.roster.claim_letter().await.unwrap().is_none());
        }
        "expired, and found by housekeeping" => {
            fixture.expire(id).await;
            assert_eq!(fixture.server.roster.tidy().await.unwrap().expired, 1);
        }
        "expired, and invited again" => {
            fixture.expire(id).await;
            fixture.create(super::invite(&organization, "grace@example.com")).await;
        }
        "a member with the address removed" => {
            grace.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
            ada.add(&organization, "grace", "member").await;
            ada.organizations.remove_member(crate::harness::remove(&organization, "grace")).await.unwrap();
        }
        "the organization deleted" => {
            let request = pb::DeleteOrganizationRequest { organization, ..Default::default() };
            ada.organizations.delete_organization(request).await.unwrap();
        }
        "the token replaced by one in the answer" => {
            backend.invitations.remind_invitation(remind(&organization, id, true)).await.unwrap();
        }
        "the tokens ended" => {
            let none = pb::InvitationDelivery::None.into();
            let request = pb::RemindInvitationRequest { delivery: none, ..remind(&organization, id, true) };
            backend.invitations.remind_invitation(request).await.unwrap();
        }
        "the ownership taken" => {
            backend.organizations.add_member(add(&organization, "alan", "member")).await.unwrap();
        }
        other => panic!("{other}"),
    }
}

/// An invitation of `grace` by mail: to own a pending organization, or to an active one.
async fn invited(fixture: &Fixture, how: &str, name: &str) -> (String, IssuedInvitation) {
    if how == "the ownership taken" {
        let request = pb::CreateOrganizationRequest {
            owner_email: "grace@example.com".to_owned(),
            ..crate::harness::organization(name)
        };
        let made = fixture.backend.clone().organizations.create_organization(request).await.unwrap().into_inner();
        let id = made.owner_invitation.unwrap().invitation_id;
        return (made.organization.unwrap().id, IssuedInvitation { id, token: String::new() });
    }
    let organization = fixture.ada.clone().create(name).await;
    let made = fixture.create(invite_by_mail(&organization, "grace@example.com")).await;
    (organization, made)
}

#[tokio::test]
async fn a_mail_that_is_not_sent_does_not_wait() {
    for how in ENDS {
        for is_sent in [false, true] {
            let fixture = Fixture::new().await;
            let (organization, made) = invited(&fixture, how, "Place").await;
            assert_eq!(fixture.mail_of(&made.id).await, "WAITING", "{how}");
            if is_sent {
                let letter = fixture.server.roster.claim_letter().await.unwrap().unwrap();
                fixture.server.roster.settle_letter(letter.id, DeliveryOutcome::Delivered).await.unwrap();
            }
            ended(&fixture, how, &organization, &made.id).await;
            // A mail that has left stays sent.
            let expected = if is_sent { "SENT" } else { "NOT_SENT" };
            assert_eq!(fixture.mail_of(&made.id).await, expected, "{how}");
            assert_eq!(fixture.server.database.count("SELECT count(*) FROM outbox").await, 0, "{how}");
            assert_eq!(fixture.server.database.count(MAIL_FAILED).await, 0, "{how}");
            fixture.server.database.assert_invariants().await;
        }
    }
}

impl Fixture {
    /// The mail state as it is stored.
    async fn mail_of(&self, id: &str) -> String {
        let query = "SELECT mail_state FROM invitations WHERE id = $1::uuid";
        sqlx::query_scalar(query).bind(id).fetch_one(&self.server.database.pool).await.unwrap()
    }
}

#[tokio::test]
async fn a_reminder_by_mail_after_a_mail_that_was_not_sent_waits_again() {
    let fixture = Fixture::new().await;
    let made = fixture.create(invite_by_mail(&fixture.acme, "grace@example.com")).await;
    fixture.remind(&made.id, true).await;
    assert_eq!(fixture.get(&made.id).await.mail_state(), pb::MailState::NotSent);
    for rotate in [false, true] {
        let email = pb::InvitationDelivery::Email.into();
        let request = pb::RemindInvitationRequest { delivery: email, ..remind(&fixture.acme, &made.id, rotate) };
        fixture.backend.clone().invitations.remind_invitation(request).await.unwrap();
        assert_eq!(fixture.get(&made.id).await.mail_state(), pb::MailState::Waiting);
    }
    fixture.server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_mail_that_is_due_in_an_inactive_organization_fails_with_an_event() {
    let fixture = Fixture::new().await;
    let mut ada = fixture.ada.clone();
    let made = fixture.create(invite_by_mail(&fixture.acme, "grace@example.com")).await;
    let organization = fixture.acme.clone();
    let off = pb::DeactivateOrganizationRequest { organization: organization.clone(), ..Default::default() };
    ada.organizations.deactivate_organization(off).await.unwrap();
    assert!(fixture.server.roster.claim_letter().await.unwrap().is_none());
    let current = fixture.get(&made.id).await;
    assert_eq!((current.state(), current.mail_state()), (pb::InvitationState::Pending, pb::MailState::Failed));
    assert_eq!(current.mail_error, "the organization was inactive when the mail was due");
    assert_eq!(fixture.server.database.count(MAIL_FAILED).await, 1);
    assert_eq!(fixture.server.database.count("SELECT count(*) FROM invitation_tokens").await, 0);
    // It can be sent again.
    let on = pb::ActivateOrganizationRequest { organization: organization.clone(), ..Default::default() };
    ada.organizations.activate_organization(on).await.unwrap();
    let email = pb::InvitationDelivery::Email.into();
    let request = pb::RemindInvitationRequest { delivery: email, ..remind(&organization, &made.id, false) };
    fixture.backend.clone().invitations.remind_invitation(request).await.unwrap();
    assert!(fixture.server.roster.claim_letter().await.unwrap().is_some());
    fixture.server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_reminder_needs_a_delivery_or_replaces_the_tokens() {
    let fixture = Fixture::new().await;
    let mut backend = fixture.backend.clone().invitations;
    let identifier = fixture.create(super::invite_identifier(&fixture.acme, "@grace")).await;
    let address = fixture.invite("grace@example.com").await;
    let before = fixture.server.database.dump().await;
    for (id, delivery) in [
        (&identifier.id, pb::InvitationDelivery::Unspecified),
        (&identifier.id, pb::InvitationDelivery::None),
        (&address.id, pb::InvitationDelivery::None),
    ] {
        let request = pb::RemindInvitationRequest { delivery: delivery.into(), ..remind(&fixture.acme, id, false) };
        let refused = backend.remind_invitation(request).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_REQUEST");
    }
    assert_eq!(fixture.server.database.dump().await, before);
    let none = pb::InvitationDelivery::None.into();
    let request = pb::RemindInvitationRequest { delivery: none, ..remind(&fixture.acme, &identifier.id, true) };
    backend.remind_invitation(request).await.unwrap();
    assert_refused(fixture.preview(&identifier.token).await, Code::NotFound, "INVITATION_NOT_FOUND");
}

#[tokio::test]
async fn housekeeping_records_each_expiry_once() {
    const EXPIRED: &str =
        "SELECT count(*) FROM events WHERE type = 'invitation.expired' AND actor_kind = 'system' AND reason IS NULL";
    let fixture = Fixture::new().await;
    let database = &fixture.server.database;
    let mut organizations = vec![fixture.acme.clone()];
    for name in ["Inactive", "Deleted", "Pending"] {
        organizations.push(fixture.ada.clone().create(name).await);
    }
    let mut ids = Vec::new();
    for organization in &organizations {
        for email in ["grace@example.com", "alan@example.com"] {
            ids.push(fixture.create(invite_by_mail(organization, email)).await.id);
        }
    }
    let kept = fixture.invite("joan@example.com").await;
    for id in &ids {
        let past = format!(
            "UPDATE invitations SET create_time = now() - interval '2 hours', update_time = now() - interval '2 hours',
                 expire_time = now() - interval '1 hour' WHERE id = '{id}'"
        );
        fixture.sql(&past).await;
    }
    let mut ada = fixture.ada.clone().organizations;
    let off = pb::DeactivateOrganizationRequest { organization: organizations[1].clone(), ..Default::default() };
    ada.deactivate_organization(off).await.unwrap();
    let delete = pb::DeleteOrganizationRequest { organization: organizations[2].clone(), ..Default::default() };
    ada.delete_organization(delete).await.unwrap();
    let rounds = futures_util::future::join_all((0..4).map(|_| fixture.server.roster.tidy())).await;
    assert_eq!(rounds.into_iter().map(|round| round.unwrap().expired).sum::<usize>(), ids.len());
    assert_eq!(database.count(EXPIRED).await, i64::try_from(ids.len()).unwrap());
    // The invitation ended when it expired, whenever housekeeping runs: it is forgotten 90 days later.
    let recorded = "SELECT count(*) FROM invitations WHERE state = 'EXPIRED' AND mail_state = 'NOT_SENT'
        AND update_time = expire_time";
    assert_eq!(database.count(recorded).await, i64::try_from(ids.len()).unwrap());
    assert_eq!(database.count("SELECT count(*) FROM outbox").await, 0);
    assert_eq!(fixture.get(&kept.id).await.state(), pb::InvitationState::Pending);
    assert_eq!(fixture.server.roster.tidy().await.unwrap().expired, 0);
    database.assert_invariants().await;
}
