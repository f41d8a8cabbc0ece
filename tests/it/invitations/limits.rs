//! Every limit: reached, and reported by its name and with when to try again.

use super::{Scene, invite, invite_by_mail, invite_other, preview, remind, roomy};
use crate::harness::{assert_refused, reason};
use roster::service::InvitationSettings;
use std::time::Duration;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

/// Asserts that an answer says which limit was reached, how much it allows, and to try again within this time.
#[track_caller]
fn assert_limited<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, limit: &str, most: u32, within: Duration) {
    let status = answer.expect_err("this is beyond the limit");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    assert_eq!(status.get_details_error_info().unwrap().metadata["limit"], limit);
    let failure = status.get_details_quota_failure().unwrap();
    let told: Vec<_> = failure.violations.iter().map(|one| (one.subject.as_str(), one.description.as_str())).collect();
    assert_eq!(told, [(limit, format!("at most {most}").as_str())]);
    let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(retry > Duration::ZERO && retry <= within, "{retry:?}");
}

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn pending_invitations_of_an_organization() {
    let scene = Scene::with(InvitationSettings { pending_per_organization: 2, ..roomy() }).await;
    let mut backend = scene.backend.clone();
    let first = scene.invite("one@example.com").await;
    scene.make(invite_other(&scene.acme, "+44 20 7946 0001")).await;
    let refused = backend.invitations.create_invitation(invite(&scene.acme, "three@example.com")).await;
    assert_limited(refused, "pending_per_organization", 2, DAY);
    // Another organization has its own.
    let other = scene.ada.clone().create("Other").await;
    scene.make(invite(&other, "three@example.com")).await;
    // What is no longer pending does not count, whatever became of it.
    scene.revoke(&first.id).await;
    let third = scene.invite("three@example.com").await;
    scene.expire(&third.id).await;
    scene.invite("four@example.com").await;
}

#[tokio::test]
async fn invitations_of_an_organization_in_a_day() {
    let scene = Scene::with(InvitationSettings { per_organization_and_day: 2, ..roomy() }).await;
    let mut backend = scene.backend.clone();
    let first = scene.invite("one@example.com").await;
    // Taking them back does not help.
    scene.revoke(&first.id).await;
    scene.invite("two@example.com").await;
    let request = invite(&scene.acme, "three@example.com");
    let refused = backend.invitations.create_invitation(request.clone()).await;
    assert_limited(refused, "per_organization_and_day", 2, DAY);
    let day = "UPDATE invitations SET create_time = clock_timestamp() - interval '24 hours' WHERE id = ";
    scene.sql(&format!("{day}'{}'", first.id)).await;
    backend.invitations.create_invitation(request).await.unwrap();
}

#[tokio::test]
async fn sends_of_an_invitation() {
    let scene = Scene::with(InvitationSettings { sends_per_invitation: 3, ..roomy() }).await;
    let made = scene.invite("grace@example.com").await;
    scene.remind(&made.id, false).await;
    scene.remind(&made.id, true).await;
    let refused = scene.backend.clone().invitations.remind_invitation(remind(&scene.acme, &made.id, false)).await;
    assert_limited(refused, "sends_per_invitation", 3, DAY);
    assert_eq!(scene.get(&made.id).await.sends, 3);
}

#[tokio::test]
async fn the_cooldown_between_two_sends() {
    let cooldown = Duration::from_mins(1);
    let scene = Scene::with(InvitationSettings { cooldown, ..roomy() }).await;
    let mut backend = scene.backend.clone();
    let made = scene.invite("grace@example.com").await;
    let request = remind(&scene.acme, &made.id, false);
    let refused = backend.invitations.remind_invitation(request.clone()).await;
    assert_limited(refused, "cooldown", 1, cooldown);
    let back = "UPDATE invitations SET send_time = clock_timestamp() - interval '59 seconds' WHERE id = ";
    scene.sql(&format!("{back}'{}'", made.id)).await;
    let refused = backend.invitations.remind_invitation(request.clone()).await;
    assert_limited(refused, "cooldown", 1, Duration::from_secs(1));
    let back = "UPDATE invitations SET send_time = clock_timestamp() - interval '60 seconds' WHERE id = ";
    scene.sql(&format!("{back}'{}'", made.id)).await;
    backend.invitations.remind_invitation(request.clone()).await.unwrap();
    // It begins again.
    let refused = backend.invitations.remind_invitation(request).await;
    assert_limited(refused, "cooldown", 1, cooldown);
}

#[tokio::test]
async fn mails_to_a_recipient_in_a_day_over_all_organizations() {
    let scene = Scene::with(InvitationSettings { mails_per_recipient_and_day: 3, ..roomy() }).await;
    let (mut ada, mut backend) = (scene.ada.clone(), scene.backend.clone());
    for (name, address) in [("A", "grace@example.com"), ("B", "Grace+news@example.com"), ("C", "grace+1+2@EXAMPLE.com")]
    {
        let organization = ada.create(name).await;
        scene.make(invite_by_mail(&organization, address)).await;
    }
    let request = invite_by_mail(&scene.acme, "grace+yet-another@example.com");
    let refused = backend.invitations.create_invitation(request.clone()).await;
    assert_limited(refused, "mails_per_recipient_and_day", 3, DAY);
    // Nothing is left of what was refused; others have their own; and without a mail none is taken.
    assert_eq!(scene.server.database.count("SELECT count(*) FROM outbox").await, 3);
    scene.make(invite_by_mail(&scene.acme, "grace.hopper@example.com")).await;
    let made = scene.invite("grace+yet-another@example.com").await;
    // A reminder is a mail too.
    let mut by_mail = remind(&scene.acme, &made.id, false);
    by_mail.delivery = roster::grpc::pb::InvitationDelivery::Email.into();
    let refused = backend.invitations.remind_invitation(by_mail.clone()).await;
    assert_limited(refused, "mails_per_recipient_and_day", 3, DAY);
    // The count tells no address, and ends with the day.
    let dump = scene.server.database.dump().await;
    assert!(!dump["quotas"].is_empty() && !dump["quotas"].iter().any(|row| row.contains("grace")));
    scene.sql("UPDATE quotas SET window_start = clock_timestamp() - interval '24 hours'").await;
    backend.invitations.remind_invitation(by_mail).await.unwrap();
}

#[tokio::test]
async fn failed_tokens_of_a_caller_in_a_minute() {
    let minute = Duration::from_mins(1);
    let scene = Scene::with(InvitationSettings { failed_tokens_per_minute: 3, ..roomy() }).await;
    let made = scene.invite("grace@example.com").await;
    let mut grace = scene.server.user_with_email("grace");
    // Good ones are not counted, the very first one neither.
    for _ in 0..5 {
        grace.invitations.preview_invitation(preview(&made.token)).await.unwrap();
    }
    for _ in 0..3 {
        let bad = grace.invitations.preview_invitation(preview(&"x".repeat(43))).await;
        assert_refused(bad, Code::NotFound, "INVITATION_NOT_FOUND");
    }
    // Then none is looked at any more, by no method; not even a good one, which would tell that it is.
    let refused = grace.invitations.preview_invitation(preview("x")).await;
    assert_limited(refused, "failed_tokens_per_minute", 3, minute);
    let refused = grace.invitations.accept_invitation(super::accept(&made.token)).await;
    assert_limited(refused, "failed_tokens_per_minute", 3, minute);
    let refused = grace.invitations.decline_invitation(super::decline(&made.token)).await;
    assert_limited(refused, "failed_tokens_per_minute", 3, minute);
    // Others have their own.
    let mut mallory = scene.server.user_with_email("mallory");
    mallory.invitations.preview_invitation(preview(&made.token)).await.unwrap();
    scene.sql("UPDATE quotas SET window_start = clock_timestamp() - interval '60 seconds'").await;
    grace.invitations.accept_invitation(super::accept(&made.token)).await.unwrap();
}
