//! Races for an invitation: one call wins, and the losers get an error with the state that they lost to.

use super::{
    Fixture, accept, decline, high_limits, invite, invite_by_mail, invite_identifier, preview, remind, revoke,
};
use crate::harness::server::Clients;
use crate::harness::{IssuedInvitation, add};
use crate::races::{
    Call, ContendedRow, Outcomes, Sides, events, from_barrier, in_lock_order, outcome, rounds, run, side, until_waiting,
};
use roster::grpc::pb;
use roster::service::InvitationSettings;
use std::collections::BTreeMap;
use std::time::Duration;

/// Clients of a user who has called before, so that no later call has a profile to store.
async fn known_user(fixture: &Fixture, id: &str) -> Clients {
    let mut person = fixture.server.user_with_email(id);
    person.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    person
}

fn accepting(caller: &Clients, token: &str) -> Call {
    let (mut client, request) = (caller.invitations.clone(), accept(token));
    side(async move { client.accept_invitation(request).await })
}

fn declining(caller: &Clients, token: &str) -> Call {
    let (mut client, request) = (caller.invitations.clone(), decline(token));
    side(async move { client.decline_invitation(request).await })
}

fn creating(caller: &Clients, request: pb::CreateInvitationRequest) -> Call {
    let mut client = caller.invitations.clone();
    side(async move { client.create_invitation(request).await })
}

fn reminding(caller: &Clients, organization: &str, id: &str, rotate: bool) -> Call {
    let (mut client, request) = (caller.invitations.clone(), remind(organization, id, rotate));
    side(async move { client.remind_invitation(request).await })
}

/// The number of answers with each outcome.
fn tally(answers: &[Result<(), tonic::Status>]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for answer in answers {
        *tally.entry(outcome(answer)).or_default() += 1;
    }
    tally
}

fn expect<const N: usize>(outcomes: [(&str, usize); N]) -> BTreeMap<String, usize> {
    outcomes.into_iter().map(|(outcome, number)| (outcome.to_owned(), number)).collect()
}

/// Creates an organization and invites `grace` into it.
async fn organization_with_invitation(fixture: &Fixture, number: usize) -> (String, IssuedInvitation) {
    let organization = fixture.ada.clone().create(&format!("Round {number}")).await;
    let invitation = fixture.create(invite(&organization, "grace@example.com")).await;
    (organization, invitation)
}

#[tokio::test]
async fn accept_against_revoke() {
    let fixture = Fixture::new().await;
    let grace = known_user(&fixture, "grace").await;
    let outcomes = Outcomes {
        free: &[(["INVITATION_NOT_FOUND", "OK"], 1)],
        ..Outcomes::of((["OK", "INVITATION_NOT_PENDING ACCEPTED"], 2), (["INVITATION_NOT_PENDING REVOKED", "OK"], 1))
    };
    run(&fixture.server, outcomes, async |number| {
        let (organization, invitation) = organization_with_invitation(&fixture, number).await;
        let (mut client, request) = (fixture.backend.invitations.clone(), revoke(&organization, &invitation.id));
        let revoking = side(async move { client.revoke_invitation(request).await });
        Sides { row: ContendedRow::Organization(organization), calls: [accepting(&grace, &invitation.token), revoking] }
    })
    .await;
}

#[tokio::test]
async fn accept_against_remind_that_rotates() {
    let fixture = Fixture::new().await;
    let grace = known_user(&fixture, "grace").await;
    let outcomes = Outcomes::of((["OK", "INVITATION_NOT_PENDING ACCEPTED"], 2), (["INVITATION_NOT_FOUND", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let (organization, invitation) = organization_with_invitation(&fixture, number).await;
        let reminding = reminding(&fixture.backend, &organization, &invitation.id, true);
        Sides {
            row: ContendedRow::Organization(organization),
            calls: [accepting(&grace, &invitation.token), reminding],
        }
    })
    .await;
}

#[tokio::test]
async fn accept_against_decline() {
    let fixture = Fixture::new().await;
    let grace = known_user(&fixture, "grace").await;
    let outcomes = Outcomes {
        free: &[(["INVITATION_NOT_FOUND", "OK"], 1)],
        ..Outcomes::of((["OK", "INVITATION_NOT_PENDING ACCEPTED"], 2), (["INVITATION_NOT_PENDING DECLINED", "OK"], 1))
    };
    run(&fixture.server, outcomes, async |number| {
        let (organization, invitation) = organization_with_invitation(&fixture, number).await;
        let calls = [accepting(&grace, &invitation.token), declining(&grace, &invitation.token)];
        Sides { row: ContendedRow::Organization(organization), calls }
    })
    .await;
}

#[tokio::test]
async fn accept_against_deletion_of_the_organization() {
    let fixture = Fixture::new().await;
    let grace = known_user(&fixture, "grace").await;
    let outcomes = Outcomes::of((["OK", "OK"], 3), (["INVITATION_NOT_FOUND", "OK"], 2));
    run(&fixture.server, outcomes, async |number| {
        let (organization, invitation) = organization_with_invitation(&fixture, number).await;
        let mut client = fixture.ada.organizations.clone();
        let request = pb::DeleteOrganizationRequest { organization: organization.clone(), ..Default::default() };
        let deleting = side(async move { client.delete_organization(request).await });
        Sides { row: ContendedRow::Organization(organization), calls: [accepting(&grace, &invitation.token), deleting] }
    })
    .await;
}

#[tokio::test]
async fn accept_against_direct_add() {
    let fixture = Fixture::new().await;
    let grace = known_user(&fixture, "grace").await;
    // The first call decides the role; accepting never changes it.
    let outcomes = Outcomes::of((["OK", "ALREADY_MEMBER"], 2), (["OK", "OK"], 2));
    run(&fixture.server, outcomes, async |number| {
        let (organization, invitation) = organization_with_invitation(&fixture, number).await;
        let (mut client, request) = (fixture.ada.organizations.clone(), add(&organization, "grace", "admin"));
        let adding = side(async move { client.add_member(request).await });
        Sides { row: ContendedRow::Organization(organization), calls: [accepting(&grace, &invitation.token), adding] }
    })
    .await;
    let roles = "SELECT count(*) FROM invitations i JOIN events e ON e.organization_id = i.organization_id
        AND e.type = 'member.added' AND e.user_id = 'grace' JOIN memberships m ON m.organization_id = i.organization_id
        AND m.user_id = 'grace' AND m.role = e.new ->> 'role' WHERE i.state = 'ACCEPTED'";
    assert_eq!(fixture.server.database.count(roles).await, i64::try_from(rounds() * 3).unwrap());
}

#[tokio::test]
async fn accept_of_the_ownership_against_direct_add() {
    let fixture = Fixture::new().await;
    let grace = known_user(&fixture, "grace").await;
    // The first call decides the owner. The other user becomes a member, or finds the invitation revoked.
    let outcomes = Outcomes {
        free: &[(["INVITATION_NOT_FOUND", "OK"], 3)],
        ..Outcomes::of((["OK", "OK"], 4), (["INVITATION_NOT_PENDING REVOKED", "OK"], 3))
    };
    run(&fixture.server, outcomes, async |number| {
        let request = pb::CreateOrganizationRequest {
            owner_email: "grace@example.com".to_owned(),
            owner_delivery: pb::InvitationDelivery::Token.into(),
            ..crate::harness::organization(&format!("Round {number}"))
        };
        let made = fixture.backend.clone().organizations.create_organization(request).await.unwrap().into_inner();
        let organization = made.organization.unwrap().id;
        let (mut client, request) = (fixture.backend.organizations.clone(), add(&organization, "alan", "member"));
        let adding = side(async move { client.add_member(request).await });
        Sides { row: ContendedRow::Organization(organization), calls: [accepting(&grace, &made.owner_token), adding] }
    })
    .await;
}

#[tokio::test]
async fn two_users_accept_one_token_without_an_address() {
    let fixture = Fixture::new().await;
    let (grace, alan) = (known_user(&fixture, "grace").await, known_user(&fixture, "alan").await);
    let outcomes = Outcomes {
        free: &[(["OK", "INVITATION_NOT_FOUND"], 2), (["INVITATION_NOT_FOUND", "OK"], 2)],
        ..Outcomes::of((["OK", "INVITATION_NOT_PENDING ACCEPTED"], 2), (["INVITATION_NOT_PENDING ACCEPTED", "OK"], 2))
    };
    run(&fixture.server, outcomes, async |number| {
        let organization = fixture.ada.clone().create(&format!("Round {number}")).await;
        let invitation = fixture.create(invite_identifier(&organization, "@handle")).await;
        let calls = [accepting(&grace, &invitation.token), accepting(&alan, &invitation.token)];
        Sides { row: ContendedRow::Organization(organization), calls }
    })
    .await;
}

#[tokio::test]
async fn accept_against_expiry() {
    let fixture = Fixture::new().await;
    let database = &fixture.server.database;
    let grace = known_user(&fixture, "grace").await;
    for number in 0..rounds() {
        // The token is valid at the lookup, and the invitation expires while the acceptance waits for the organization.
        let (organization, invitation) = organization_with_invitation(&fixture, number).await;
        let before = events(database).await;
        let mut holder = database.pool.begin().await.unwrap();
        let lock = "SELECT FROM organizations WHERE id::text = $1 FOR NO KEY UPDATE";
        sqlx::query(lock).bind(&organization).execute(&mut *holder).await.unwrap();
        let waiting = tokio::spawn(accepting(&grace, &invitation.token));
        until_waiting(database, 1).await;
        fixture.expire(&invitation.id).await;
        holder.rollback().await.unwrap();
        assert_eq!(outcome(&waiting.await.unwrap()), "INVITATION_NOT_PENDING EXPIRED");

        // The invitation is valid when it is read under the organization's lock, and expires before the statement that
        // accepts it, which checks the time again.
        let (_, invitation) = organization_with_invitation(&fixture, number).await;
        let mut holder = database.pool.begin().await.unwrap();
        let expire = "UPDATE invitations SET expire_time = clock_timestamp() WHERE id::text = $1";
        sqlx::query(expire).bind(&invitation.id).execute(&mut *holder).await.unwrap();
        let waiting = tokio::spawn(accepting(&grace, &invitation.token));
        until_waiting(database, 1).await;
        holder.commit().await.unwrap();
        assert_eq!(outcome(&waiting.await.unwrap()), "INVITATION_NOT_PENDING EXPIRED");
        // The only events are those of the second organization and its invitation.
        assert_eq!(events(database).await - before, 3);
        database.assert_invariants().await;
    }
}

#[tokio::test]
async fn twenty_accepts_of_one_token_by_one_user() {
    let fixture = Fixture::new().await;
    let grace = known_user(&fixture, "grace").await;
    for number in 0..rounds() {
        let (organization, invitation) = organization_with_invitation(&fixture, number).await;
        let before = events(&fixture.server.database).await;
        let calls = (0..20).map(|_| accepting(&grace, &invitation.token)).collect();
        let answers = if number % 2 == 0 {
            from_barrier(calls).await
        } else {
            // As many calls as the server has connections for can wait at once.
            let row = ContendedRow::Organization(organization);
            let mut calls = calls;
            calls.truncate(10);
            in_lock_order(&fixture.server.database, &row, calls).await
        };
        assert_eq!(tally(&answers), expect([("OK", answers.len())]));
        assert_eq!(events(&fixture.server.database).await - before, 2);
        fixture.server.database.assert_invariants().await;
    }
}

#[tokio::test]
async fn twenty_equal_invitations() {
    let fixture = Fixture::new().await;
    for number in 0..rounds() {
        let organization = fixture.ada.clone().create(&format!("Round {number}")).await;
        let before = events(&fixture.server.database).await;
        let address = |call: usize| ["grace@example.com", "GRACE@Example.COM"][call % 2];
        let calls = (0..20).map(|call| creating(&fixture.backend, invite(&organization, address(call)))).collect();
        let answers = from_barrier(calls).await;
        assert_eq!(tally(&answers), expect([("OK", 1), ("INVITATION_PENDING", 19)]));
        assert_eq!(events(&fixture.server.database).await - before, 1);
        fixture.server.database.assert_invariants().await;
    }
}

const LIMIT: u32 = 4;

/// Sends all calls at once. Asserts that the limit's number of calls gets this answer, and the others the quota error.
async fn burst(fixture: &Fixture, calls: Vec<Call>, answer: &str) {
    let over = calls.len() - LIMIT as usize;
    let answers = from_barrier(calls).await;
    assert_eq!(tally(&answers), expect([(answer, LIMIT as usize), ("QUOTA_EXCEEDED", over)]));
    fixture.server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_burst_does_not_exceed_the_limits_of_an_organization() {
    for settings in [
        InvitationSettings { pending_per_organization: LIMIT, ..high_limits() },
        InvitationSettings { per_organization_and_day: LIMIT, ..high_limits() },
    ] {
        let fixture = Fixture::with(settings).await;
        for number in 0..rounds() {
            let organization = fixture.ada.clone().create(&format!("Round {number}")).await;
            let address = |call: usize| format!("person-{call}@example.com");
            let calls = (0..16).map(|call| creating(&fixture.backend, invite(&organization, &address(call)))).collect();
            burst(&fixture, calls, "OK").await;
        }
    }
}

#[tokio::test]
async fn a_burst_does_not_exceed_the_sends_of_an_invitation() {
    let fixture = Fixture::with(InvitationSettings { sends_per_invitation: LIMIT + 1, ..high_limits() }).await;
    for number in 0..rounds() {
        let (organization, invitation) = organization_with_invitation(&fixture, number).await;
        let calls =
            (0..16).map(|call| reminding(&fixture.backend, &organization, &invitation.id, call % 3 == 0)).collect();
        burst(&fixture, calls, "OK").await;
    }
    // The cooldown permits one of the concurrent calls.
    let cooldown = Duration::from_mins(1);
    let fixture = Fixture::with(InvitationSettings { cooldown, ..high_limits() }).await;
    for number in 0..rounds() {
        let (organization, invitation) = organization_with_invitation(&fixture, number).await;
        fixture.sql("UPDATE invitations SET send_time = clock_timestamp() - interval '60 seconds'").await;
        let calls =
            (0..16).map(|call| reminding(&fixture.backend, &organization, &invitation.id, call % 3 == 0)).collect();
        let answers = from_barrier(calls).await;
        assert_eq!(tally(&answers), expect([("OK", 1), ("QUOTA_EXCEEDED", 15)]));
    }
}

#[tokio::test]
async fn a_burst_does_not_exceed_the_mails_of_a_recipient() {
    // The limit of all senders for a service, and that of one sender for a user.
    for (is_user, settings) in [
        (false, InvitationSettings { mails_per_recipient_and_day: LIMIT, ..high_limits() }),
        (true, InvitationSettings { mails_per_sender_to_recipient_and_day: LIMIT, ..high_limits() }),
    ] {
        let fixture = Fixture::with(settings).await;
        let sender = if is_user { &fixture.ada } else { &fixture.backend };
        for number in 0..rounds() {
            let mut calls = Vec::new();
            for call in 0..12 {
                // Each in another organization, so that the calls share no lock.
                let organization = fixture.ada.clone().create(&format!("Organization {call}")).await;
                let address = format!("round-{number}+{call}@example.com");
                calls.push(creating(sender, invite_by_mail(&organization, &address)));
            }
            burst(&fixture, calls, "OK").await;
        }
        let mails = i64::try_from(rounds() * LIMIT as usize).unwrap();
        assert_eq!(fixture.server.database.count("SELECT count(*) FROM outbox").await, mails);
    }
}

#[tokio::test]
async fn a_burst_does_not_exceed_the_failed_tokens_of_a_caller() {
    let fixture = Fixture::with(InvitationSettings { failed_tokens_per_minute: LIMIT, ..high_limits() }).await;
    for number in 0..rounds() {
        let person = known_user(&fixture, &format!("person-{number}")).await;
        let calls = (0..16).map(|_| {
            let mut client = person.invitations.clone();
            side(async move { client.preview_invitation(preview("no token")).await })
        });
        burst(&fixture, calls.collect(), "INVITATION_NOT_FOUND").await;
    }
}

#[tokio::test]
async fn batches_that_invite_the_same_mailboxes_do_not_deadlock() {
    const DEADLOCKS: &str = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let fixture = Fixture::new().await;
    // The mails of each mailbox are counted in one row. Sorted by their spelling, the two batches would lock the two
    // rows in opposite orders: '+' < '.' < '@'.
    let batches = [["a+b@example.com", "a.b@example.com"], ["a@example.com", "a.b@example.com"]];
    // A user has a share of each mailbox beside that of all senders.
    let senders = [&fixture.ada, &fixture.ada, &fixture.backend];
    for number in 0..rounds() * 4 {
        let mut calls = Vec::new();
        for (batch, sender) in batches.iter().cycle().zip(senders) {
            let organization = fixture.ada.clone().create(&format!("Round {number}")).await;
            let items = batch.map(|address| pb::BatchCreateInvitationsItem {
                recipient: Some(pb::batch_create_invitations_item::Recipient::Email(address.to_owned())),
                ..Default::default()
            });
            let delivery = pb::InvitationDelivery::Email.into();
            let request =
                pb::BatchCreateInvitationsRequest { organization, items: items.into(), delivery, ..Default::default() };
            let mut client = sender.invitations.clone();
            calls.push(side(async move {
                let answer = client.batch_create_invitations(request).await?;
                assert!(answer.get_ref().results.iter().all(|result| result.invitation.is_some()));
                Ok(answer)
            }));
        }
        let answers = from_barrier(calls).await;
        assert!(answers.iter().all(Result::is_ok), "{:?}", tally(&answers));
    }
    assert_eq!(fixture.server.database.count(DEADLOCKS).await, 0);
}
