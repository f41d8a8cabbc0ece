//! The outbox, without a mail server: what is claimed, by whom, and what becomes of it.

use super::{Made, Scene, accept, decline, invite_by_mail, remind};
use crate::harness::assert_refused;
use crate::races::{side, told, until_waiting};
use roster::grpc::pb;
use roster::service::outbox::{DeliveryOutcome, Letter, Occasion};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Barrier;
use tonic::Code;

impl Scene {
    async fn claim(&self) -> Option<Letter> {
        self.server.roster.claim_letter().await.unwrap()
    }

    async fn claimed(&self) -> (Letter, String) {
        let letter = self.claim().await.unwrap();
        let token = letter.token.as_ref().unwrap().expose().to_owned();
        (letter, token)
    }

    async fn settle(&self, letter: &Letter, sent: DeliveryOutcome) {
        self.server.roster.settle_letter(letter.id, sent).await.unwrap();
    }

    async fn mail_grace(&self) -> Made {
        self.make(invite_by_mail(&self.acme, "grace@example.com")).await
    }

    /// Lets every pause be over.
    async fn all_due(&self) {
        self.sql("UPDATE outbox SET next_attempt_time = clock_timestamp()").await;
    }

    async fn waiting(&self) -> i64 {
        self.server.database.count("SELECT count(*) FROM outbox").await
    }
}

#[tokio::test]
async fn a_claimed_letter_has_a_token_that_works() {
    let scene = Scene::new().await;
    let mut admin = scene.admin("alan").await;
    let made = make_by(&mut admin, &scene.acme).await;
    assert_eq!(scene.server.database.count("SELECT count(*) FROM invitation_tokens").await, 0);
    let (letter, token) = scene.claimed().await;
    assert_eq!(letter.occasion, Occasion::Invitation);
    assert_eq!((letter.to.given(), letter.organization.as_str()), ("grace@example.com", "Acme"));
    assert_eq!(letter.reply_to.as_ref().unwrap().given(), "alan@example.com");
    assert!(letter.expire_time.is_some());
    // It has a lease: nobody else gets it meanwhile.
    assert!(scene.claim().await.is_none());
    scene.settle(&letter, DeliveryOutcome::Delivered).await;
    assert_eq!(scene.waiting().await, 0);
    let shown = scene.get(&made).await;
    assert_eq!((shown.mail_state(), shown.mail_error.as_str(), shown.sends), (pb::MailState::Sent, "", 1));
    let mut grace = scene.server.user_with_email("grace");
    let member = grace.invitations.accept_invitation(accept(&token)).await.unwrap().into_inner().member.unwrap();
    assert_eq!(member.user_id, "grace");
}

/// Invites grace by mail, as a person does.
async fn make_by(who: &mut crate::harness::server::Clients, organization: &str) -> String {
    let made = who.invitations.create_invitation(invite_by_mail(organization, "grace@example.com")).await.unwrap();
    let made = made.into_inner();
    assert_eq!(made.token, "");
    made.invitation.unwrap().invitation_id
}

#[tokio::test]
async fn nothing_is_claimed_for_what_is_no_longer_pending() {
    let scene = Scene::new().await;
    let mut grace = scene.server.user_with_email("grace");
    // Taken back.
    let made = scene.mail_grace().await;
    scene.revoke(&made.id).await;
    assert!(scene.claim().await.is_none());
    // Accepted by its id, before any mail.
    let made = scene.mail_grace().await;
    grace.invitations.accept_invitation(super::accept_id(&made.id)).await.unwrap();
    assert!(scene.claim().await.is_none());
    // Declined by a token of another delivery.
    let made = scene.make(invite_by_mail(&scene.acme, "hopper@example.com")).await;
    let token = scene.remind(&made.id, false).await;
    scene.server.user_with_email("hopper").invitations.decline_invitation(decline(&token)).await.unwrap();
    assert!(scene.claim().await.is_none());
    // Expired, which no job writes down: dropped by whoever claims.
    let made = scene.make(invite_by_mail(&scene.acme, "alan@example.com")).await;
    scene.expire(&made.id).await;
    assert_eq!(scene.waiting().await, 1);
    assert!(scene.claim().await.is_none());
    // Of an organization that is switched off, or deleted.
    scene.make(invite_by_mail(&scene.acme, "alan@example.com")).await;
    let organization = scene.acme.clone();
    let request = pb::DeactivateOrganizationRequest { organization: organization.clone(), ..Default::default() };
    scene.ada.clone().organizations.deactivate_organization(request).await.unwrap();
    assert!(scene.claim().await.is_none());
    let request = pb::ActivateOrganizationRequest { organization: organization.clone(), ..Default::default() };
    scene.ada.clone().organizations.activate_organization(request).await.unwrap();
    scene.make(invite_by_mail(&scene.acme, "kay@example.com")).await;
    let request = pb::DeleteOrganizationRequest { organization, ..Default::default() };
    scene.ada.clone().organizations.delete_organization(request).await.unwrap();
    assert!(scene.claim().await.is_none());
    assert_eq!(scene.waiting().await, 0);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_claimed_again_under_the_same_id() {
    let scene = Scene::new().await;
    let made = scene.mail_grace().await;
    let mut tokens = Vec::new();
    let (first, token) = scene.claimed().await;
    tokens.push(token);
    for _ in 0..6 {
        assert!(scene.claim().await.is_none());
        scene.all_due().await;
        let (again, token) = scene.claimed().await;
        assert_eq!(again.id, first.id);
        tokens.push(token);
    }
    // Each carries a token of its own, of which the last five are good.
    let mut good = Vec::new();
    for token in &tokens {
        good.push(scene.preview(token).await.is_ok());
    }
    assert_eq!(good, [false, false, true, true, true, true, true]);
    // Only one of them may say that it was sent, and then it is over.
    scene.settle(&first, DeliveryOutcome::Delivered).await;
    scene.settle(&first, DeliveryOutcome::Transient("too late".to_owned())).await;
    assert_eq!(scene.waiting().await, 0);
    let shown = scene.get(&made.id).await;
    assert_eq!((shown.mail_state(), shown.mail_error.as_str()), (pb::MailState::Sent, ""));
}

#[tokio::test]
async fn what_is_transient_waits_longer_each_time_and_is_shown() {
    const PAUSE: &str = "SELECT round(extract(epoch FROM next_attempt_time - clock_timestamp()))::bigint FROM outbox";
    let scene = Scene::new().await;
    let made = scene.mail_grace().await;
    for pause in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
        let (letter, _) = scene.claimed().await;
        scene.settle(&letter, DeliveryOutcome::Transient("the mail server is busy".to_owned())).await;
        let shown = scene.get(&made.id).await;
        assert_eq!(
            (shown.mail_state(), shown.mail_error.as_str()),
            (pb::MailState::Waiting, "the mail server is busy")
        );
        assert!(scene.claim().await.is_none());
        let left = scene.server.database.count(PAUSE).await;
        assert!((pause - 5..=pause).contains(&left), "{left} s instead of {pause} s");
        scene.all_due().await;
    }
    // Then it is taken after all, and the error is history.
    let (letter, _) = scene.claimed().await;
    scene.settle(&letter, DeliveryOutcome::Delivered).await;
    let shown = scene.get(&made.id).await;
    assert_eq!((shown.mail_state(), shown.mail_error.as_str()), (pb::MailState::Sent, ""));
}

#[tokio::test]
async fn what_is_final_or_too_old_is_given_up_with_an_event() {
    const EVENTS: &str = "SELECT count(*) FROM events WHERE type = 'invitation.mail_failed' AND actor_kind = 'system'";
    let scene = Scene::new().await;
    let made = scene.mail_grace().await;
    let (letter, token) = scene.claimed().await;
    scene.settle(&letter, DeliveryOutcome::Final("no such mailbox".to_owned())).await;
    let shown = scene.get(&made.id).await;
    assert_eq!((shown.mail_state(), shown.mail_error.as_str()), (pb::MailState::Failed, "no such mailbox"));
    assert_eq!((scene.waiting().await, scene.server.database.count(EVENTS).await), (0, 1));
    let about = format!(
        "UPDATE events SET reason = reason WHERE type = 'invitation.mail_failed' AND new ->> 'invitation' = '{}'",
        made.id
    );
    scene.sql(&about).await;
    // The invitation itself stays good, and can be sent again.
    assert!(scene.preview(&token).await.is_ok());
    let mut by_mail = remind(&scene.acme, &made.id, false);
    by_mail.delivery = pb::InvitationDelivery::Email.into();
    scene.backend.clone().invitations.remind_invitation(by_mail).await.unwrap();
    let shown = scene.get(&made.id).await;
    assert_eq!((shown.mail_state(), shown.mail_error.as_str(), shown.sends), (pb::MailState::Waiting, "", 2));

    let (letter, _) = scene.claimed().await;
    assert_eq!(letter.occasion, Occasion::Reminder);
    // A minute before its time it waits once more; after a day it is given up.
    scene.sql("UPDATE outbox SET create_time = clock_timestamp() - interval '23 hours 59 minutes'").await;
    scene.settle(&letter, DeliveryOutcome::Transient("busy".to_owned())).await;
    assert_eq!(scene.get(&made.id).await.mail_state(), pb::MailState::Waiting);
    scene.all_due().await;
    let (letter, _) = scene.claimed().await;
    scene.sql("UPDATE outbox SET create_time = clock_timestamp() - interval '24 hours'").await;
    scene.settle(&letter, DeliveryOutcome::Transient("still busy".to_owned())).await;
    let shown = scene.get(&made.id).await;
    assert_eq!((shown.mail_state(), shown.mail_error.as_str()), (pb::MailState::Failed, "still busy"));
    assert_eq!((scene.waiting().await, scene.server.database.count(EVENTS).await), (0, 2));
    scene.server.database.assert_invariants().await;
}

#[tokio::test]
async fn two_claimers_never_get_one_letter() {
    const CLAIMERS: usize = 8;
    const LETTERS: usize = 40;
    let scene = Scene::new().await;
    for number in 0..LETTERS {
        scene.make(invite_by_mail(&scene.acme, &format!("person-{number}@example.com"))).await;
    }
    let barrier = Arc::new(Barrier::new(CLAIMERS));
    let claimers: Vec<_> = (0..CLAIMERS)
        .map(|_| {
            let (roster, barrier) = (scene.server.roster.clone(), barrier.clone());
            tokio::spawn(async move {
                let mut got = Vec::new();
                barrier.wait().await;
                while let Some(letter) = roster.claim_letter().await.unwrap() {
                    got.push((letter.id, letter.to.given().to_owned()));
                }
                got
            })
        })
        .collect();
    let (mut got, mut busy) = (Vec::new(), 0);
    for claimer in claimers {
        let theirs = claimer.await.unwrap();
        busy += usize::from(!theirs.is_empty());
        got.extend(theirs);
    }
    assert_eq!(got.len(), LETTERS);
    let (ids, recipients): (BTreeSet<_>, BTreeSet<_>) = got.into_iter().unzip();
    assert_eq!((ids.len(), recipients.len()), (LETTERS, LETTERS));
    assert!(busy > 1, "one claimer got everything: nothing was tried");
    scene.server.database.assert_no_open_transactions().await;
}

#[tokio::test]
async fn a_token_minted_while_older_ones_are_rotated_away_dies_with_them() {
    let scene = Scene::new().await;
    let database = &scene.server.database;
    for _ in 0..5 {
        let made = scene.mail_grace().await;
        // The claim comes to a stop at the very moment of writing its token down.
        let mut holder = database.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE invitation_tokens IN SHARE MODE").execute(&mut *holder).await.unwrap();
        let roster = scene.server.roster.clone();
        let claiming = tokio::spawn(async move { roster.claim_letter().await.unwrap() });
        until_waiting(database, 1).await;
        let mut client = scene.backend.invitations.clone();
        let mut request = remind(&scene.acme, &made.id, true);
        request.delivery = pb::InvitationDelivery::None.into();
        let rotating = tokio::spawn(side(async move { client.remind_invitation(request).await }));
        until_waiting(database, 2).await;
        holder.rollback().await.unwrap();
        let letter = claiming.await.unwrap().unwrap();
        assert_eq!(told(&rotating.await.unwrap()), "OK");
        let token = letter.token.as_ref().unwrap().expose();
        assert_refused(scene.preview(token).await, Code::NotFound, "INVITATION_NOT_FOUND");
        let alive = "SELECT count(*) FROM invitation_tokens";
        assert_eq!((database.count(alive).await, scene.waiting().await), (0, 0));
        scene.revoke(&made.id).await;
    }
}

#[tokio::test]
async fn two_claims_at_once_leave_no_more_than_five_tokens() {
    const ALIVE: &str = "SELECT count(*) FROM invitation_tokens";
    let scene = Scene::new().await;
    let database = &scene.server.database;
    for _ in 0..5 {
        let made = scene.mail_grace().await;
        let mut by_mail = remind(&scene.acme, &made.id, false);
        by_mail.delivery = pb::InvitationDelivery::Email.into();
        scene.backend.clone().invitations.remind_invitation(by_mail).await.unwrap();
        for _ in 0..5 {
            scene.remind(&made.id, false).await;
        }
        assert_eq!((database.count(ALIVE).await, scene.waiting().await), (5, 2));
        let mut holder = database.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE invitation_tokens IN SHARE MODE").execute(&mut *holder).await.unwrap();
        let mut claims = Vec::new();
        for number in 1..=2 {
            let roster = scene.server.roster.clone();
            claims.push(tokio::spawn(async move { roster.claim_letter().await.unwrap().is_some() }));
            until_waiting(database, number).await;
        }
        holder.rollback().await.unwrap();
        for claim in claims {
            assert!(claim.await.unwrap());
        }
        assert_eq!(database.count(ALIVE).await, 5);
        scene.revoke(&made.id).await;
        sqlx::query("DELETE FROM invitation_tokens").execute(&database.pool).await.unwrap();
    }
}

#[tokio::test]
async fn what_became_of_a_letter_and_a_revocation_do_not_wait_in_a_circle() {
    const DEADLOCKS: &str = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let scene = Scene::new().await;
    let database = &scene.server.database;
    for _ in 0..3 {
        let made = scene.mail_grace().await;
        let (letter, _) = scene.claimed().await;
        // Both come to a stop before the invitation, the revocation first.
        let mut holder = database.pool.begin().await.unwrap();
        let lock = "SELECT FROM invitations WHERE id::text = $1 FOR NO KEY UPDATE";
        sqlx::query(lock).bind(&made.id).execute(&mut *holder).await.unwrap();
        let (mut client, request) = (scene.backend.invitations.clone(), super::revoke(&scene.acme, &made.id));
        let revoking = tokio::spawn(side(async move { client.revoke_invitation(request).await }));
        until_waiting(database, 1).await;
        let roster = scene.server.roster.clone();
        let settling = tokio::spawn(async move { roster.settle_letter(letter.id, DeliveryOutcome::Delivered).await });
        until_waiting(database, 2).await;
        holder.rollback().await.unwrap();
        assert_eq!(told(&revoking.await.unwrap()), "OK");
        settling.await.unwrap().unwrap();
        assert_eq!(scene.waiting().await, 0);
        assert_eq!(scene.get(&made.id).await.state(), pb::InvitationState::Revoked);
    }
    assert_eq!(database.count(DEADLOCKS).await, 0);
}

#[tokio::test]
async fn who_is_added_by_address_is_told_and_an_owner_to_be_is_asked() {
    let scene = Scene::new().await;
    let mut admin = scene.admin("alan").await;
    // Known and active: added at once, and told.
    scene.server.user_with_email("grace").users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    let by_address = pb::AddMemberRequest {
        organization: scene.acme.clone(),
        person: Some(pb::add_member_request::Person::Email("grace@example.com".to_owned())),
        ..Default::default()
    };
    admin.organizations.add_member(by_address).await.unwrap();
    let letter = scene.claim().await.unwrap();
    assert_eq!((letter.occasion, letter.to.given()), (Occasion::Added, "grace@example.com"));
    assert!(letter.token.is_none() && letter.expire_time.is_none());
    scene.settle(&letter, DeliveryOutcome::Delivered).await;
    // Added by id: by a backend that knows them, and told by it.
    admin.add(&scene.acme, "joan", "member").await;
    assert!(scene.claim().await.is_none());
    // Added and removed again before the mail left: then there is nothing to tell.
    scene.server.user_with_email("mary").users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    let by_address = pb::AddMemberRequest {
        organization: scene.acme.clone(),
        person: Some(pb::add_member_request::Person::Email("mary@example.com".to_owned())),
        ..Default::default()
    };
    admin.organizations.add_member(by_address).await.unwrap();
    admin.organizations.remove_member(crate::harness::remove(&scene.acme, "mary")).await.unwrap();
    assert!(scene.claim().await.is_none());

    // An owner by address gets a mail of its own kind, whose token makes the owner.
    let request = pb::CreateOrganizationRequest {
        owner_email: "ida@example.com".to_owned(),
        ..crate::harness::organization("Navy")
    };
    scene.server.operator().organizations.create_organization(request).await.unwrap();
    let (letter, token) = scene.claimed().await;
    assert_eq!((letter.occasion, letter.role.as_str()), (Occasion::OwnerActivation, "owner"));
    let mut ida = scene.server.user_with_email("ida");
    let member = ida.invitations.accept_invitation(accept(&token)).await.unwrap().into_inner().member.unwrap();
    assert_eq!(member.role, "owner");
    scene.server.database.assert_invariants().await;
}
