//! Every limit of the invitations: the error has the name of the limit and the time until a retry.

use super::{Fixture, high_limits, invite, invite_by_mail, invite_identifier, preview, remind};
use crate::harness::server::Clients;
use crate::harness::{assert_refused, reason};
use roster::grpc::pb;
use roster::service::InvitationSettings;
use std::time::Duration;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

/// Asserts that an error names the limit, its value, and a retry delay of at most `within`.
#[track_caller]
fn assert_limited<T: std::fmt::Debug>(
    answer: Result<Response<T>, Status>,
    limit: &str,
    maximum: u32,
    within: Duration,
) {
    let status = answer.expect_err("the call exceeds the limit");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    assert_eq!(status.get_details_error_info().unwrap().metadata["limit"], limit);
    let failure = status.get_details_quota_failure().unwrap();
    let violations: Vec<_> =
        failure.violations.iter().map(|one| (one.subject.as_str(), one.description.as_str())).collect();
    assert_eq!(violations, [(limit, format!("at most {maximum}").as_str())]);
    let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(retry > Duration::ZERO && retry <= within, "{retry:?}");
}

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn pending_invitations_of_an_organization_are_limited() {
    let fixture = Fixture::with(InvitationSettings { pending_per_organization: 2, ..high_limits() }).await;
    let mut backend = fixture.backend.clone();
    let first = fixture.invite("one@example.com").await;
    fixture.create(invite_identifier(&fixture.acme, "+44 20 7946 0001")).await;
    let refused = backend.invitations.create_invitation(invite(&fixture.acme, "three@example.com")).await;
    assert_limited(refused, "pending_per_organization", 2, DAY);
    // Each organization has its own limit.
    let other = fixture.ada.clone().create("Other").await;
    fixture.create(invite(&other, "three@example.com")).await;
    // Invitations that are no longer pending do not count.
    fixture.revoke(&first.id).await;
    let third = fixture.invite("three@example.com").await;
    fixture.expire(&third.id).await;
    fixture.invite("four@example.com").await;
}

#[tokio::test]
async fn invitations_of_an_organization_in_a_day_are_limited() {
    let fixture = Fixture::with(InvitationSettings { per_organization_and_day: 2, ..high_limits() }).await;
    let mut backend = fixture.backend.clone();
    let first = fixture.invite("one@example.com").await;
    // Revoked invitations count too.
    fixture.revoke(&first.id).await;
    fixture.invite("two@example.com").await;
    let request = invite(&fixture.acme, "three@example.com");
    let refused = backend.invitations.create_invitation(request.clone()).await;
    assert_limited(refused, "per_organization_and_day", 2, DAY);
    let day = "UPDATE invitations SET create_time = clock_timestamp() - interval '24 hours' WHERE id = ";
    fixture.sql(&format!("{day}'{}'", first.id)).await;
    backend.invitations.create_invitation(request).await.unwrap();
}

#[tokio::test]
async fn sends_of_an_invitation_are_limited() {
    let fixture = Fixture::with(InvitationSettings { sends_per_invitation: 3, ..high_limits() }).await;
    let invitation = fixture.invite("grace@example.com").await;
    fixture.remind(&invitation.id, false).await;
    fixture.remind(&invitation.id, true).await;
    let refused =
        fixture.backend.clone().invitations.remind_invitation(remind(&fixture.acme, &invitation.id, false)).await;
    assert_limited(refused, "sends_per_invitation", 3, DAY);
    assert_eq!(fixture.get(&invitation.id).await.sends, 3);
}

#[tokio::test]
async fn sends_of_an_invitation_have_a_cooldown() {
    let cooldown = Duration::from_mins(1);
    let fixture = Fixture::with(InvitationSettings { cooldown, ..high_limits() }).await;
    let mut backend = fixture.backend.clone();
    let invitation = fixture.invite("grace@example.com").await;
    let request = remind(&fixture.acme, &invitation.id, false);
    let refused = backend.invitations.remind_invitation(request.clone()).await;
    assert_limited(refused, "cooldown", 1, cooldown);
    let back = "UPDATE invitations SET send_time = clock_timestamp() - interval '59 seconds' WHERE id = ";
    fixture.sql(&format!("{back}'{}'", invitation.id)).await;
    let refused = backend.invitations.remind_invitation(request.clone()).await;
    assert_limited(refused, "cooldown", 1, Duration::from_secs(1));
    let back = "UPDATE invitations SET send_time = clock_timestamp() - interval '60 seconds' WHERE id = ";
    fixture.sql(&format!("{back}'{}'", invitation.id)).await;
    backend.invitations.remind_invitation(request.clone()).await.unwrap();
    // The cooldown starts again.
    let refused = backend.invitations.remind_invitation(request).await;
    assert_limited(refused, "cooldown", 1, cooldown);
}

#[tokio::test]
async fn mails_to_a_recipient_in_a_day_are_limited_over_all_organizations() {
    let fixture = Fixture::with(InvitationSettings { mails_per_recipient_and_day: 3, ..high_limits() }).await;
    let (mut ada, mut backend) = (fixture.ada.clone(), fixture.backend.clone());
    for (name, address) in [("A", "grace@example.com"), ("B", "Grace+news@example.com"), ("C", "grace+1+2@EXAMPLE.com")]
    {
        let organization = ada.create(name).await;
        fixture.create(invite_by_mail(&organization, address)).await;
    }
    let request = invite_by_mail(&fixture.acme, "grace+yet-another@example.com");
    let refused = backend.invitations.create_invitation(request.clone()).await;
    assert_limited(refused, "mails_per_recipient_and_day", 3, DAY);
    // A refused call leaves no mail. Each recipient has a separate limit. An invitation without a mail does not count.
    assert_eq!(fixture.server.database.count("SELECT count(*) FROM outbox").await, 3);
    fixture.create(invite_by_mail(&fixture.acme, "grace.hopper@example.com")).await;
    let invitation = fixture.invite("grace+yet-another@example.com").await;
    // The mail of a reminder counts.
    let mut by_mail = remind(&fixture.acme, &invitation.id, false);
    by_mail.delivery = pb::InvitationDelivery::Email.into();
    let refused = backend.invitations.remind_invitation(by_mail.clone()).await;
    assert_limited(refused, "mails_per_recipient_and_day", 3, DAY);
    // The counters contain no address, and expire after a day.
    let dump = fixture.server.database.dump().await;
    assert!(!dump["quotas"].is_empty() && !dump["quotas"].iter().any(|row| row.contains("grace")));
    fixture.sql("UPDATE quotas SET window_start = clock_timestamp() - interval '24 hours'").await;
    backend.invitations.remind_invitation(by_mail).await.unwrap();
}

#[tokio::test]
async fn each_user_has_a_share_of_a_mailbox_and_operators_pass() {
    let defaults = InvitationSettings::default();
    let fixture = Fixture::with(InvitationSettings {
        mails_per_recipient_and_day: defaults.mails_per_recipient_and_day,
        mails_per_sender_to_recipient_and_day: defaults.mails_per_sender_to_recipient_and_day,
        ..high_limits()
    })
    .await;
    let mut number = 0;
    // Each mail goes to another address of one mailbox.
    let mut send = async |sender: &Clients| {
        number += 1;
        let request = invite_by_mail(&fixture.acme, &format!("grace+{number}@example.com"));
        sender.clone().invitations.create_invitation(request).await
    };
    let strangers = [fixture.admin("alan").await, fixture.admin("joan").await, fixture.admin("kay").await];
    for stranger in &strangers {
        for _ in 0..3 {
            send(stranger).await.unwrap();
        }
        assert_limited(send(stranger).await, "mails_per_sender_to_recipient_and_day", 3, DAY);
    }
    // The share is one user's with one mailbox.
    super::create(&strangers[0], invite_by_mail(&fixture.acme, "hopper@example.com")).await;
    // A reminder counts as a mail of the user who sends it.
    let hopper = super::create(&strangers[1], invite_by_mail(&fixture.acme, "mary@example.com")).await;
    let mut by_mail = remind(&fixture.acme, &hopper.id, false);
    by_mail.delivery = pb::InvitationDelivery::Email.into();
    for expected in [Some(()), Some(()), None] {
        let answer = strangers[1].clone().invitations.remind_invitation(by_mail.clone()).await;
        match expected {
            Some(()) => drop(answer.unwrap()),
            None => assert_limited(answer, "mails_per_sender_to_recipient_and_day", 3, DAY),
        }
    }
    // A service counts in the total only: the tenth mail is its own, and there is no eleventh.
    send(&fixture.backend).await.unwrap();
    assert_limited(send(&fixture.backend).await, "mails_per_recipient_and_day", 10, DAY);
    let mary = fixture.admin("mary").await;
    let used = "SELECT sum(used)::bigint FROM quotas";
    let before = fixture.server.database.count(used).await;
    assert_limited(send(&mary).await, "mails_per_recipient_and_day", 10, DAY);
    // What is not sent counts in no share, in a batch neither.
    let item = |email: &str| pb::BatchCreateInvitationsItem {
        recipient: Some(pb::batch_create_invitations_item::Recipient::Email(email.to_owned())),
        ..Default::default()
    };
    let batch = pb::BatchCreateInvitationsRequest {
        organization: fixture.acme.clone(),
        items: vec![item("grace+batch@example.com"), item("fresh@example.com")],
        ..Default::default()
    };
    let results = mary.clone().invitations.batch_create_invitations(batch).await.unwrap().into_inner().results;
    assert_eq!(results.iter().map(|result| result.invitation.is_some()).collect::<Vec<_>>(), [false, true]);
    // One mail in two shares: mary's and that of all senders to the fresh mailbox.
    assert_eq!(fixture.server.database.count(used).await, before + 2);
    // Operators pass, and use up nothing.
    let operator = fixture.server.operator();
    for _ in 0..4 {
        send(&operator).await.unwrap();
    }
    assert_eq!(fixture.server.database.count(used).await, before + 2);
}

#[tokio::test]
async fn failed_tokens_of_a_caller_in_a_minute_are_limited() {
    let minute = Duration::from_mins(1);
    let fixture = Fixture::with(InvitationSettings { failed_tokens_per_minute: 3, ..high_limits() }).await;
    let invitation = fixture.invite("grace@example.com").await;
    let mut grace = fixture.server.user_with_email("grace");
    // Valid tokens are not counted.
    for _ in 0..5 {
        grace.invitations.preview_invitation(preview(&invitation.token)).await.unwrap();
    }
    for _ in 0..3 {
        let bad = grace.invitations.preview_invitation(preview(&"x".repeat(43))).await;
        assert_refused(bad, Code::NotFound, "INVITATION_NOT_FOUND");
    }
    // Then every method refuses every token, also a valid one, which would otherwise be distinguishable.
    let refused = grace.invitations.preview_invitation(preview("x")).await;
    assert_limited(refused, "failed_tokens_per_minute", 3, minute);
    let refused = grace.invitations.accept_invitation(super::accept(&invitation.token)).await;
    assert_limited(refused, "failed_tokens_per_minute", 3, minute);
    let refused = grace.invitations.decline_invitation(super::decline(&invitation.token)).await;
    assert_limited(refused, "failed_tokens_per_minute", 3, minute);
    // Each caller has a separate limit.
    let mut mallory = fixture.server.user_with_email("mallory");
    mallory.invitations.preview_invitation(preview(&invitation.token)).await.unwrap();
    fixture.sql("UPDATE quotas SET window_start = clock_timestamp() - interval '60 seconds'").await;
    grace.invitations.accept_invitation(super::accept(&invitation.token)).await.unwrap();
}
