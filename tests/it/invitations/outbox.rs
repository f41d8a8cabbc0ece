//! The outbox without a mail server: claiming mails and recording their delivery.

use super::{Fixture, accept, decline, invite_by_mail, remind};
use crate::harness::{IssuedInvitation, assert_refused};
use crate::races::{outcome, side, until_waiting};
use roster::grpc::pb;
use roster::service::outbox::{DeliveryOutcome, Letter, Occasion};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Barrier;
use tonic::Code;

impl Fixture {
    async fn claim(&self) -> Option<Letter> {
        self.server.roster.claim_letter().await.unwrap()
    }

    async fn claim_with_token(&self) -> (Letter, String) {
        let letter = self.claim().await.unwrap();
        let token = letter.token.as_ref().unwrap().expose().to_owned();
        (letter, token)
    }

    async fn settle(&self, letter: &Letter, outcome: DeliveryOutcome) {
        self.server.roster.settle_letter(letter.id, outcome).await.unwrap();
    }

    async fn mail_grace(&self) -> IssuedInvitation {
        self.create(invite_by_mail(&self.acme, "grace@example.com")).await
    }

    /// Makes every waiting mail due.
    async fn make_all_due(&self) {
        self.sql("UPDATE outbox SET next_attempt_time = clock_timestamp()").await;
    }

    async fn waiting(&self) -> i64 {
        self.server.database.count("SELECT count(*) FROM outbox").await
    }
}

#[tokio::test]
async fn a_claimed_mail_has_a_valid_token() {
    let fixture = Fixture::new().await;
    let mut admin = fixture.admin("alan").await;
    let id = invite_grace_as(&mut admin, &fixture.acme).await;
    assert_eq!(fixture.server.database.count("SELECT count(*) FROM invitation_tokens").await, 0);
    let (letter, token) = fixture.claim_with_token().await;
    assert_eq!(letter.occasion, Occasion::Invitation);
    assert_eq!((letter.to.given(), letter.organization.as_str()), ("grace@example.com", "Acme"));
    assert_eq!(letter.reply_to.as_ref().unwrap().given(), "alan@example.com");
    assert!(letter.expire_time.is_some());
    // The claim has a lease, so no other claim gets the mail.
    assert!(fixture.claim().await.is_none());
    fixture.settle(&letter, DeliveryOutcome::Delivered).await;
    assert_eq!(fixture.waiting().await, 0);
    let current = fixture.get(&id).await;
    assert_eq!((current.mail_state(), current.mail_error.as_str(), current.sends), (pb::MailState::Sent, "", 1));
    let mut grace = fixture.server.user_with_email("grace");
    let member = grace.invitations.accept_invitation(accept(&token)).await.unwrap().into_inner().member.unwrap();
    assert_eq!(member.user_id, "grace");
}

/// Invites `grace` by mail, as a user.
async fn invite_grace_as(caller: &mut crate::harness::server::Clients, organization: &str) -> String {
    let created =
        caller.invitations.create_invitation(invite_by_mail(organization, "grace@example.com")).await.unwrap();
    let created = created.into_inner();
    assert_eq!(created.token, "");
    created.invitation.unwrap().invitation_id
}

#[tokio::test]
async fn mails_about_ended_invitations_are_not_claimed() {
    let fixture = Fixture::new().await;
    let mut grace = fixture.server.user_with_email("grace");
    // Revoked.
    let invitation = fixture.mail_grace().await;
    fixture.revoke(&invitation.id).await;
    assert!(fixture.claim().await.is_none());
    // Accepted by its id before the mail was sent.
    let invitation = fixture.mail_grace().await;
    grace.invitations.accept_invitation(super::accept_id(&invitation.id)).await.unwrap();
    assert!(fixture.claim().await.is_none());
    // Declined by the token of another delivery.
    let invitation = fixture.create(invite_by_mail(&fixture.acme, "hopper@example.com")).await;
    let token = fixture.remind(&invitation.id, false).await;
    fixture.server.user_with_email("hopper").invitations.decline_invitation(decline(&token)).await.unwrap();
    assert!(fixture.claim().await.is_none());
    // Expired, before housekeeping records it: the claim removes the mail.
    let invitation = fixture.create(invite_by_mail(&fixture.acme, "alan@example.com")).await;
    fixture.expire(&invitation.id).await;
    assert_eq!(fixture.waiting().await, 1);
    assert!(fixture.claim().await.is_none());
    // Into an inactive or a deleted organization.
    fixture.create(invite_by_mail(&fixture.acme, "alan@example.com")).await;
    let organization = fixture.acme.clone();
    let request = pb::DeactivateOrganizationRequest { organization: organization.clone(), ..Default::default() };
    fixture.ada.clone().organizations.deactivate_organization(request).await.unwrap();
    assert!(fixture.claim().await.is_none());
    let request = pb::ActivateOrganizationRequest { organization: organization.clone(), ..Default::default() };
    fixture.ada.clone().organizations.activate_organization(request).await.unwrap();
    fixture.create(invite_by_mail(&fixture.acme, "kay@example.com")).await;
    let request = pb::DeleteOrganizationRequest { organization, ..Default::default() };
    fixture.ada.clone().organizations.delete_organization(request).await.unwrap();
    assert!(fixture.claim().await.is_none());
    assert_eq!(fixture.waiting().await, 0);
}

#[tokio::test]
async fn a_mail_whose_lease_expired_is_claimed_again_under_the_same_id() {
    let fixture = Fixture::new().await;
    let invitation = fixture.mail_grace().await;
    let mut tokens = Vec::new();
    let (first, token) = fixture.claim_with_token().await;
    tokens.push(token);
    for _ in 0..6 {
        assert!(fixture.claim().await.is_none());
        fixture.make_all_due().await;
        let (again, token) = fixture.claim_with_token().await;
        assert_eq!(again.id, first.id);
        tokens.push(token);
    }
    // Each claim has a new token, and the last five are valid.
    let mut valid = Vec::new();
    for token in &tokens {
        valid.push(fixture.preview(token).await.is_ok());
    }
    assert_eq!(valid, [false, false, true, true, true, true, true]);
    // The first recorded outcome counts; later ones change nothing.
    fixture.settle(&first, DeliveryOutcome::Delivered).await;
    fixture.settle(&first, DeliveryOutcome::Transient("too late".to_owned())).await;
    assert_eq!(fixture.waiting().await, 0);
    let current = fixture.get(&invitation.id).await;
    assert_eq!((current.mail_state(), current.mail_error.as_str()), (pb::MailState::Sent, ""));
}

#[tokio::test]
async fn transient_failures_are_shown_and_retried_after_growing_pauses() {
    const PAUSE: &str = "SELECT round(extract(epoch FROM next_attempt_time - clock_timestamp()))::bigint FROM outbox";
    let fixture = Fixture::new().await;
    let invitation = fixture.mail_grace().await;
    for pause in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
        let (letter, _) = fixture.claim_with_token().await;
        fixture.settle(&letter, DeliveryOutcome::Transient("the mail server is busy".to_owned())).await;
        let current = fixture.get(&invitation.id).await;
        assert_eq!(
            (current.mail_state(), current.mail_error.as_str()),
            (pb::MailState::Waiting, "the mail server is busy")
        );
        assert!(fixture.claim().await.is_none());
        let pause_left = fixture.server.database.count(PAUSE).await;
        assert!((pause - 5..=pause).contains(&pause_left), "{pause_left} s instead of {pause} s");
        fixture.make_all_due().await;
    }
    // After a delivery the error is gone.
    let (letter, _) = fixture.claim_with_token().await;
    fixture.settle(&letter, DeliveryOutcome::Delivered).await;
    let current = fixture.get(&invitation.id).await;
    assert_eq!((current.mail_state(), current.mail_error.as_str()), (pb::MailState::Sent, ""));
}

#[tokio::test]
async fn final_failures_and_mails_older_than_a_day_end_with_an_event() {
    const EVENTS: &str = "SELECT count(*) FROM events WHERE type = 'invitation.mail_failed' AND actor_kind = 'system'";
    let fixture = Fixture::new().await;
    let invitation = fixture.mail_grace().await;
    let (letter, token) = fixture.claim_with_token().await;
    fixture.settle(&letter, DeliveryOutcome::Final("no such mailbox".to_owned())).await;
    let current = fixture.get(&invitation.id).await;
    assert_eq!((current.mail_state(), current.mail_error.as_str()), (pb::MailState::Failed, "no such mailbox"));
    assert_eq!((fixture.waiting().await, fixture.server.database.count(EVENTS).await), (0, 1));
    let touch = format!(
        "UPDATE events SET reason = reason WHERE type = 'invitation.mail_failed' AND new ->> 'invitation' = '{}'",
        invitation.id
    );
    fixture.sql(&touch).await;
    // The invitation itself stays valid, and can be sent again.
    assert!(fixture.preview(&token).await.is_ok());
    let mut by_mail = remind(&fixture.acme, &invitation.id, false);
    by_mail.delivery = pb::InvitationDelivery::Email.into();
    fixture.backend.clone().invitations.remind_invitation(by_mail).await.unwrap();
    let current = fixture.get(&invitation.id).await;
    assert_eq!((current.mail_state(), current.mail_error.as_str(), current.sends), (pb::MailState::Waiting, "", 2));

    let (letter, _) = fixture.claim_with_token().await;
    assert_eq!(letter.occasion, Occasion::Reminder);
    // A minute before the age of a day it waits once more; at a day it has failed.
    fixture.sql("UPDATE outbox SET create_time = clock_timestamp() - interval '23 hours 59 minutes'").await;
    fixture.settle(&letter, DeliveryOutcome::Transient("busy".to_owned())).await;
    assert_eq!(fixture.get(&invitation.id).await.mail_state(), pb::MailState::Waiting);
    fixture.make_all_due().await;
    let (letter, _) = fixture.claim_with_token().await;
    fixture.sql("UPDATE outbox SET create_time = clock_timestamp() - interval '24 hours'").await;
    fixture.settle(&letter, DeliveryOutcome::Transient("still busy".to_owned())).await;
    let current = fixture.get(&invitation.id).await;
    assert_eq!((current.mail_state(), current.mail_error.as_str()), (pb::MailState::Failed, "still busy"));
    assert_eq!((fixture.waiting().await, fixture.server.database.count(EVENTS).await), (0, 2));
    fixture.server.database.assert_invariants().await;
}

#[tokio::test]
async fn concurrent_claims_never_return_the_same_mail() {
    const CLAIMERS: usize = 8;
    const MAILS: usize = 40;
    let fixture = Fixture::new().await;
    for number in 0..MAILS {
        fixture.create(invite_by_mail(&fixture.acme, &format!("person-{number}@example.com"))).await;
    }
    let barrier = Arc::new(Barrier::new(CLAIMERS));
    let claimers: Vec<_> = (0..CLAIMERS)
        .map(|_| {
            let (roster, barrier) = (fixture.server.roster.clone(), barrier.clone());
            tokio::spawn(async move {
                let mut claimed = Vec::new();
                barrier.wait().await;
                while let Some(letter) = roster.claim_letter().await.unwrap() {
                    claimed.push((letter.id, letter.to.given().to_owned()));
                }
                claimed
            })
        })
        .collect();
    let (mut claimed, mut busy) = (Vec::new(), 0);
    for claimer in claimers {
        let mails = claimer.await.unwrap();
        busy += usize::from(!mails.is_empty());
        claimed.extend(mails);
    }
    assert_eq!(claimed.len(), MAILS);
    let (ids, recipients): (BTreeSet<_>, BTreeSet<_>) = claimed.into_iter().unzip();
    assert_eq!((ids.len(), recipients.len()), (MAILS, MAILS));
    assert!(busy > 1, "one claimer got every mail: no claims competed");
    fixture.server.database.assert_no_open_transactions().await;
}

#[tokio::test]
async fn a_token_created_during_a_rotation_is_rotated_away_too() {
    let fixture = Fixture::new().await;
    let database = &fixture.server.database;
    for _ in 0..5 {
        let invitation = fixture.mail_grace().await;
        // The lock stops the claim when it inserts its token.
        let mut holder = database.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE invitation_tokens IN SHARE MODE").execute(&mut *holder).await.unwrap();
        let roster = fixture.server.roster.clone();
        let claiming = tokio::spawn(async move { roster.claim_letter().await.unwrap() });
        until_waiting(database, 1).await;
        let mut client = fixture.backend.invitations.clone();
        let mut request = remind(&fixture.acme, &invitation.id, true);
        request.delivery = pb::InvitationDelivery::None.into();
        let rotating = tokio::spawn(side(async move { client.remind_invitation(request).await }));
        until_waiting(database, 2).await;
        holder.rollback().await.unwrap();
        let letter = claiming.await.unwrap().unwrap();
        assert_eq!(outcome(&rotating.await.unwrap()), "OK");
        let token = letter.token.as_ref().unwrap().expose();
        assert_refused(fixture.preview(token).await, Code::NotFound, "INVITATION_NOT_FOUND");
        let valid = "SELECT count(*) FROM invitation_tokens";
        assert_eq!((database.count(valid).await, fixture.waiting().await), (0, 0));
        fixture.revoke(&invitation.id).await;
    }
}

#[tokio::test]
async fn concurrent_claims_leave_at_most_five_tokens() {
    const VALID: &str = "SELECT count(*) FROM invitation_tokens";
    let fixture = Fixture::new().await;
    let database = &fixture.server.database;
    for _ in 0..5 {
        let invitation = fixture.mail_grace().await;
        let mut by_mail = remind(&fixture.acme, &invitation.id, false);
        by_mail.delivery = pb::InvitationDelivery::Email.into();
        fixture.backend.clone().invitations.remind_invitation(by_mail).await.unwrap();
        for _ in 0..5 {
            fixture.remind(&invitation.id, false).await;
        }
        assert_eq!((database.count(VALID).await, fixture.waiting().await), (5, 2));
        let mut holder = database.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE invitation_tokens IN SHARE MODE").execute(&mut *holder).await.unwrap();
        let mut claims = Vec::new();
        for number in 1..=2 {
            let roster = fixture.server.roster.clone();
            claims.push(tokio::spawn(async move { roster.claim_letter().await.unwrap().is_some() }));
            until_waiting(database, number).await;
        }
        holder.rollback().await.unwrap();
        for claim in claims {
            assert!(claim.await.unwrap());
        }
        assert_eq!(database.count(VALID).await, 5);
        fixture.revoke(&invitation.id).await;
        sqlx::query("DELETE FROM invitation_tokens").execute(&database.pool).await.unwrap();
    }
}

#[tokio::test]
async fn recording_a_delivery_does_not_deadlock_with_a_revocation() {
    const DEADLOCKS: &str = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let fixture = Fixture::new().await;
    let database = &fixture.server.database;
    for _ in 0..3 {
        let invitation = fixture.mail_grace().await;
        let (letter, _) = fixture.claim_with_token().await;
        // Both wait for the row of the invitation, the revocation first.
        let mut holder = database.pool.begin().await.unwrap();
        let lock = "SELECT FROM invitations WHERE id::text = $1 FOR NO KEY UPDATE";
        sqlx::query(lock).bind(&invitation.id).execute(&mut *holder).await.unwrap();
        let (mut client, request) = (fixture.backend.invitations.clone(), super::revoke(&fixture.acme, &invitation.id));
        let revoking = tokio::spawn(side(async move { client.revoke_invitation(request).await }));
        until_waiting(database, 1).await;
        let roster = fixture.server.roster.clone();
        let settling = tokio::spawn(async move { roster.settle_letter(letter.id, DeliveryOutcome::Delivered).await });
        until_waiting(database, 2).await;
        holder.rollback().await.unwrap();
        assert_eq!(outcome(&revoking.await.unwrap()), "OK");
        settling.await.unwrap().unwrap();
        assert_eq!(fixture.waiting().await, 0);
        assert_eq!(fixture.get(&invitation.id).await.state(), pb::InvitationState::Revoked);
    }
    assert_eq!(database.count(DEADLOCKS).await, 0);
}

#[tokio::test]
async fn a_member_added_by_address_is_notified_and_an_owner_by_address_is_invited() {
    let fixture = Fixture::new().await;
    let mut admin = fixture.admin("alan").await;
    // A known active user is added at once and notified.
    fixture.server.user_with_email("grace").users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    let by_address = pb::AddMemberRequest {
        organization: fixture.acme.clone(),
        person: Some(pb::add_member_request::Person::Email("grace@example.com".to_owned())),
        ..Default::default()
    };
    admin.organizations.add_member(by_address).await.unwrap();
    let letter = fixture.claim().await.unwrap();
    assert_eq!((letter.occasion, letter.to.given()), (Occasion::Added, "grace@example.com"));
    assert!(letter.token.is_none() && letter.expire_time.is_none());
    fixture.settle(&letter, DeliveryOutcome::Delivered).await;
    // A user added by id is not notified: the backend that knows the id does that.
    admin.add(&fixture.acme, "joan", "member").await;
    assert!(fixture.claim().await.is_none());
    // A user removed again before the mail was sent is not notified.
    fixture.server.user_with_email("mary").users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    let by_address = pb::AddMemberRequest {
        organization: fixture.acme.clone(),
        person: Some(pb::add_member_request::Person::Email("mary@example.com".to_owned())),
        ..Default::default()
    };
    admin.organizations.add_member(by_address).await.unwrap();
    admin.organizations.remove_member(crate::harness::remove(&fixture.acme, "mary")).await.unwrap();
    assert!(fixture.claim().await.is_none());

    // An owner by address gets another kind of mail, and its token makes them the owner.
    let request = pb::CreateOrganizationRequest {
        owner_email: "ida@example.com".to_owned(),
        ..crate::harness::organization("Navy")
    };
    fixture.server.operator().organizations.create_organization(request).await.unwrap();
    let (letter, token) = fixture.claim_with_token().await;
    assert_eq!((letter.occasion, letter.role.as_str()), (Occasion::OwnerActivation, "owner"));
    let mut ida = fixture.server.user_with_email("ida");
    let member = ida.invitations.accept_invitation(accept(&token)).await.unwrap().into_inner().member.unwrap();
    assert_eq!(member.role, "owner");
    fixture.server.database.assert_invariants().await;
}
