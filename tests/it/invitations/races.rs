//! Races for an invitation: one outcome, and whoever loses is told what it lost to.

use super::{Made, Scene, accept, decline, invite, invite_by_mail, invite_other, preview, remind, revoke, roomy};
use crate::harness::add;
use crate::harness::server::Clients;
use crate::races::{
    Call, Held, Outcomes, Sides, events, from_barrier, one_behind_the_other, rounds, run, side, told, until_waiting,
};
use roster::grpc::pb;
use roster::service::InvitationSettings;
use std::collections::BTreeMap;
use std::time::Duration;

/// People who are known, so that no call of theirs has a profile to write down first.
async fn known(scene: &Scene, id: &str) -> Clients {
    let mut person = scene.server.user_with_email(id);
    person.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    person
}

fn accepting(who: &Clients, token: &str) -> Call {
    let (mut client, request) = (who.invitations.clone(), accept(token));
    side(async move { client.accept_invitation(request).await })
}

fn declining(who: &Clients, token: &str) -> Call {
    let (mut client, request) = (who.invitations.clone(), decline(token));
    side(async move { client.decline_invitation(request).await })
}

fn creating(who: &Clients, request: pb::CreateInvitationRequest) -> Call {
    let mut client = who.invitations.clone();
    side(async move { client.create_invitation(request).await })
}

fn reminding(who: &Clients, organization: &str, id: &str, rotate: bool) -> Call {
    let (mut client, request) = (who.invitations.clone(), remind(organization, id, rotate));
    side(async move { client.remind_invitation(request).await })
}

/// How often each thing was told.
fn tally(answers: &[Result<(), tonic::Status>]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for answer in answers {
        *tally.entry(told(answer)).or_default() += 1;
    }
    tally
}

fn expect<const N: usize>(told: [(&str, usize); N]) -> BTreeMap<String, usize> {
    told.into_iter().map(|(told, number)| (told.to_owned(), number)).collect()
}

/// A fresh organization, and grace invited to it.
async fn invited(scene: &Scene, number: usize) -> (String, Made) {
    let here = scene.ada.clone().create(&format!("Round {number}")).await;
    let made = scene.make(invite(&here, "grace@example.com")).await;
    (here, made)
}

#[tokio::test]
async fn accept_against_revoke() {
    let scene = Scene::new().await;
    let grace = known(&scene, "grace").await;
    let outcomes = Outcomes {
        free: &[(["INVITATION_NOT_FOUND", "OK"], 1)],
        ..Outcomes::of((["OK", "INVITATION_NOT_PENDING ACCEPTED"], 2), (["INVITATION_NOT_PENDING REVOKED", "OK"], 1))
    };
    run(&scene.server, outcomes, async |number| {
        let (here, made) = invited(&scene, number).await;
        let (mut client, request) = (scene.backend.invitations.clone(), revoke(&here, &made.id));
        let revoking = side(async move { client.revoke_invitation(request).await });
        Sides { held: Held::Organization(here), calls: [accepting(&grace, &made.token), revoking] }
    })
    .await;
}

#[tokio::test]
async fn accept_against_remind_that_rotates() {
    let scene = Scene::new().await;
    let grace = known(&scene, "grace").await;
    let outcomes = Outcomes::of((["OK", "INVITATION_NOT_PENDING ACCEPTED"], 2), (["INVITATION_NOT_FOUND", "OK"], 1));
    run(&scene.server, outcomes, async |number| {
        let (here, made) = invited(&scene, number).await;
        let reminding = reminding(&scene.backend, &here, &made.id, true);
        Sides { held: Held::Organization(here), calls: [accepting(&grace, &made.token), reminding] }
    })
    .await;
}

#[tokio::test]
async fn accept_against_decline() {
    let scene = Scene::new().await;
    let grace = known(&scene, "grace").await;
    let outcomes = Outcomes {
        free: &[(["INVITATION_NOT_FOUND", "OK"], 1)],
        ..Outcomes::of((["OK", "INVITATION_NOT_PENDING ACCEPTED"], 2), (["INVITATION_NOT_PENDING DECLINED", "OK"], 1))
    };
    run(&scene.server, outcomes, async |number| {
        let (here, made) = invited(&scene, number).await;
        let calls = [accepting(&grace, &made.token), declining(&grace, &made.token)];
        Sides { held: Held::Organization(here), calls }
    })
    .await;
}

#[tokio::test]
async fn accept_against_deletion_of_the_organization() {
    let scene = Scene::new().await;
    let grace = known(&scene, "grace").await;
    let outcomes = Outcomes::of((["OK", "OK"], 3), (["INVITATION_NOT_FOUND", "OK"], 2));
    run(&scene.server, outcomes, async |number| {
        let (here, made) = invited(&scene, number).await;
        let mut client = scene.ada.organizations.clone();
        let request = pb::DeleteOrganizationRequest { organization: here.clone(), ..Default::default() };
        let deleting = side(async move { client.delete_organization(request).await });
        Sides { held: Held::Organization(here), calls: [accepting(&grace, &made.token), deleting] }
    })
    .await;
}

#[tokio::test]
async fn accept_against_direct_add() {
    let scene = Scene::new().await;
    let grace = known(&scene, "grace").await;
    // Whoever comes first decides the role; accepting never changes it.
    let outcomes = Outcomes::of((["OK", "ALREADY_MEMBER"], 2), (["OK", "OK"], 2));
    run(&scene.server, outcomes, async |number| {
        let (here, made) = invited(&scene, number).await;
        let (mut client, request) = (scene.ada.organizations.clone(), add(&here, "grace", "admin"));
        let adding = side(async move { client.add_member(request).await });
        Sides { held: Held::Organization(here), calls: [accepting(&grace, &made.token), adding] }
    })
    .await;
    let roles = "SELECT count(*) FROM invitations i JOIN events e ON e.organization_id = i.organization_id
        AND e.type = 'member.added' AND e.user_id = 'grace' JOIN memberships m ON m.organization_id = i.organization_id
        AND m.user_id = 'grace' AND m.role = e.new ->> 'role' WHERE i.state = 'ACCEPTED'";
    assert_eq!(scene.server.database.count(roles).await, i64::try_from(rounds() * 3).unwrap());
}

#[tokio::test]
async fn two_users_with_one_token_that_names_no_address() {
    let scene = Scene::new().await;
    let (grace, alan) = (known(&scene, "grace").await, known(&scene, "alan").await);
    let outcomes = Outcomes {
        free: &[(["OK", "INVITATION_NOT_FOUND"], 2), (["INVITATION_NOT_FOUND", "OK"], 2)],
        ..Outcomes::of((["OK", "INVITATION_NOT_PENDING ACCEPTED"], 2), (["INVITATION_NOT_PENDING ACCEPTED", "OK"], 2))
    };
    run(&scene.server, outcomes, async |number| {
        let here = scene.ada.clone().create(&format!("Round {number}")).await;
        let made = scene.make(invite_other(&here, "@the-one-with-the-handle")).await;
        let calls = [accepting(&grace, &made.token), accepting(&alan, &made.token)];
        Sides { held: Held::Organization(here), calls }
    })
    .await;
}

#[tokio::test]
async fn accept_against_the_clock() {
    let scene = Scene::new().await;
    let database = &scene.server.database;
    let grace = known(&scene, "grace").await;
    for number in 0..rounds() {
        // It was good when it was looked up; its time is over while the acceptance waits for the organization.
        let (here, made) = invited(&scene, number).await;
        let before = events(database).await;
        let mut holder = database.pool.begin().await.unwrap();
        let lock = "SELECT FROM organizations WHERE id::text = $1 FOR NO KEY UPDATE";
        sqlx::query(lock).bind(&here).execute(&mut *holder).await.unwrap();
        let waiting = tokio::spawn(accepting(&grace, &made.token));
        until_waiting(database, 1).await;
        scene.expire(&made.id).await;
        holder.rollback().await.unwrap();
        assert_eq!(told(&waiting.await.unwrap()), "INVITATION_NOT_PENDING EXPIRED");

        // It was good even when it was read under the organization's lock: the one statement that settles it judges.
        let (_, made) = invited(&scene, number).await;
        let mut holder = database.pool.begin().await.unwrap();
        let expire = "UPDATE invitations SET expire_time = clock_timestamp() WHERE id::text = $1";
        sqlx::query(expire).bind(&made.id).execute(&mut *holder).await.unwrap();
        let waiting = tokio::spawn(accepting(&grace, &made.token));
        until_waiting(database, 1).await;
        holder.commit().await.unwrap();
        assert_eq!(told(&waiting.await.unwrap()), "INVITATION_NOT_PENDING EXPIRED");
        // The second round's organization and invitation are all that happened.
        assert_eq!(events(database).await - before, 3);
        database.assert_invariants().await;
    }
}

#[tokio::test]
async fn twenty_accepts_of_one_token_by_one_user() {
    let scene = Scene::new().await;
    let grace = known(&scene, "grace").await;
    for number in 0..rounds() {
        let (here, made) = invited(&scene, number).await;
        let before = events(&scene.server.database).await;
        let calls = (0..20).map(|_| accepting(&grace, &made.token)).collect();
        let answers = if number % 2 == 0 {
            from_barrier(calls).await
        } else {
            // As many as the server has connections for can wait at once.
            let held = Held::Organization(here);
            let mut calls = calls;
            calls.truncate(10);
            one_behind_the_other(&scene.server.database, &held, calls).await
        };
        assert_eq!(tally(&answers), expect([("OK", answers.len())]));
        assert_eq!(events(&scene.server.database).await - before, 2);
        scene.server.database.assert_invariants().await;
    }
}

#[tokio::test]
async fn twenty_equal_invitations() {
    let scene = Scene::new().await;
    for number in 0..rounds() {
        let here = scene.ada.clone().create(&format!("Round {number}")).await;
        let before = events(&scene.server.database).await;
        let address = |call: usize| ["grace@example.com", "GRACE@Example.COM"][call % 2];
        let calls = (0..20).map(|call| creating(&scene.backend, invite(&here, address(call)))).collect();
        let answers = from_barrier(calls).await;
        assert_eq!(tally(&answers), expect([("OK", 1), ("INVITATION_PENDING", 19)]));
        assert_eq!(events(&scene.server.database).await - before, 1);
        scene.server.database.assert_invariants().await;
    }
}

const MOST: u32 = 4;

/// Sends all at once; as many as the limit allows are answered so, and the others are told of the limit.
async fn burst(scene: &Scene, calls: Vec<Call>, answer: &str) {
    let over = calls.len() - MOST as usize;
    let answers = from_barrier(calls).await;
    assert_eq!(tally(&answers), expect([(answer, MOST as usize), ("QUOTA_EXCEEDED", over)]));
    scene.server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_burst_does_not_overshoot_what_an_organization_may_have() {
    for settings in [
        InvitationSettings { pending_per_organization: MOST, ..roomy() },
        InvitationSettings { per_organization_and_day: MOST, ..roomy() },
    ] {
        let scene = Scene::with(settings).await;
        for number in 0..rounds() {
            let here = scene.ada.clone().create(&format!("Round {number}")).await;
            let address = |call: usize| format!("person-{call}@example.com");
            let calls = (0..16).map(|call| creating(&scene.backend, invite(&here, &address(call)))).collect();
            burst(&scene, calls, "OK").await;
        }
    }
}

#[tokio::test]
async fn a_burst_does_not_overshoot_what_an_invitation_may_be_sent() {
    let scene = Scene::with(InvitationSettings { sends_per_invitation: MOST + 1, ..roomy() }).await;
    for number in 0..rounds() {
        let (here, made) = invited(&scene, number).await;
        let calls = (0..16).map(|call| reminding(&scene.backend, &here, &made.id, call % 3 == 0)).collect();
        burst(&scene, calls, "OK").await;
    }
    // The cooldown lets one through, however many come at once.
    let cooldown = Duration::from_mins(1);
    let scene = Scene::with(InvitationSettings { cooldown, ..roomy() }).await;
    for number in 0..rounds() {
        let (here, made) = invited(&scene, number).await;
        scene.sql("UPDATE invitations SET send_time = clock_timestamp() - interval '60 seconds'").await;
        let calls = (0..16).map(|call| reminding(&scene.backend, &here, &made.id, call % 3 == 0)).collect();
        let answers = from_barrier(calls).await;
        assert_eq!(tally(&answers), expect([("OK", 1), ("QUOTA_EXCEEDED", 15)]));
    }
}

#[tokio::test]
async fn a_burst_does_not_overshoot_the_mails_of_a_recipient() {
    let scene = Scene::with(InvitationSettings { mails_per_recipient_and_day: MOST, ..roomy() }).await;
    for number in 0..rounds() {
        let mut calls = Vec::new();
        for call in 0..12 {
            // Each in an organization of its own: no lock that they share.
            let here = scene.ada.clone().create(&format!("Organization {call}")).await;
            calls.push(creating(&scene.backend, invite_by_mail(&here, &format!("round-{number}+{call}@example.com"))));
        }
        burst(&scene, calls, "OK").await;
    }
    let mails = i64::try_from(rounds() * MOST as usize).unwrap();
    assert_eq!(scene.server.database.count("SELECT count(*) FROM outbox").await, mails);
}

#[tokio::test]
async fn a_burst_does_not_overshoot_the_failed_tokens_of_a_caller() {
    let scene = Scene::with(InvitationSettings { failed_tokens_per_minute: MOST, ..roomy() }).await;
    for number in 0..rounds() {
        let person = known(&scene, &format!("person-{number}")).await;
        let calls = (0..16).map(|_| {
            let mut client = person.invitations.clone();
            side(async move { client.preview_invitation(preview("no token")).await })
        });
        burst(&scene, calls.collect(), "INVITATION_NOT_FOUND").await;
    }
}

#[tokio::test]
async fn batches_that_invite_the_same_mailboxes_do_not_wait_in_a_circle() {
    const DEADLOCKS: &str = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let scene = Scene::new().await;
    // What counts mails is one row for each mailbox. Sorted as they are written, the two batches would take the two rows
    // in opposite orders: '+' < '.' < '@'.
    let batches = [["a+b@example.com", "a.b@example.com"], ["a@example.com", "a.b@example.com"]];
    for number in 0..rounds() * 4 {
        let mut calls = Vec::new();
        for batch in batches {
            let organization = scene.ada.clone().create(&format!("Round {number}")).await;
            let items = batch.map(|address| pb::BatchCreateInvitationsItem {
                recipient: Some(pb::batch_create_invitations_item::Recipient::Email(address.to_owned())),
                ..Default::default()
            });
            let delivery = pb::InvitationDelivery::Email.into();
            let request =
                pb::BatchCreateInvitationsRequest { organization, items: items.into(), delivery, ..Default::default() };
            let mut client = scene.backend.invitations.clone();
            calls.push(side(async move {
                let answer = client.batch_create_invitations(request).await?;
                assert!(answer.get_ref().results.iter().all(|result| result.invitation.is_some()));
                Ok(answer)
            }));
        }
        let answers = from_barrier(calls).await;
        assert!(answers.iter().all(Result::is_ok), "{:?}", tally(&answers));
    }
    assert_eq!(scene.server.database.count(DEADLOCKS).await, 0);
}
