//! The deletion of a user erases the recipients of invitations to them.

use super::{
    Fixture, accept, accept_id, decline, hex, high_limits, invite, invite_by_mail, invite_identifier, preview,
};
use crate::harness::server::Clients;
use crate::harness::{IssuedInvitation, assert_refused, organization};
use roster::domain::{EmailAddress, UserId};
use roster::grpc::pb;
use roster::service::InvitationSettings;
use roster::store::invitations;
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};
use std::collections::BTreeSet;
use tonic::Code;

const ADDRESS: &str = "joan@example.com";
const EVERY_STATE: [pb::InvitationState; 5] = [
    pb::InvitationState::Pending,
    pb::InvitationState::Accepted,
    pb::InvitationState::Declined,
    pb::InvitationState::Revoked,
    pb::InvitationState::Expired,
];

/// An invitation in an organization that only this invitation is about.
struct Place {
    what: &'static str,
    organization: String,
    invitation: IssuedInvitation,
    /// The state after the deletion, and the type of the last event of the organization.
    after: (pb::InvitationState, &'static str),
}

async fn get(fixture: &Fixture, organization: &str, id: &str) -> pb::Invitation {
    let request = pb::GetInvitationRequest { organization: organization.to_owned(), invitation_id: id.to_owned() };
    fixture.server.operator().invitations.get_invitation(request).await.unwrap().into_inner().invitation.unwrap()
}

async fn list(fixture: &Fixture, organization: &str) -> Vec<pb::Invitation> {
    let states = EVERY_STATE.map(i32::from).to_vec();
    let request = pb::ListInvitationsRequest { organization: organization.to_owned(), states, ..Default::default() };
    fixture.server.operator().invitations.list_invitations(request).await.unwrap().into_inner().invitations
}

async fn last_event(fixture: &Fixture, organization: &str) -> pb::Event {
    let request = pb::ListEventsRequest { organization: organization.to_owned(), ..Default::default() };
    let mut events = fixture.server.operator().events.list_events(request).await.unwrap().into_inner().events;
    events.sort_by_key(|event| event.revision);
    events.pop().unwrap()
}

/// A user with this verified address, which replaces a former one.
async fn known(fixture: &Fixture, id: &str, email: &str) -> Clients {
    let (user_id, email) = (id.to_owned(), email.to_owned());
    let request = pb::PutUserRequest { user_id, email, email_verified: true, ..Default::default() };
    fixture.backend.clone().users.put_user(request).await.unwrap();
    fixture.server.user(id)
}

/// Invitations to `joan` in every state.
async fn places(fixture: &Fixture) -> Vec<Place> {
    use pb::InvitationState::{Accepted, Declined, Expired, Revoked};
    let mut places = Vec::new();
    for (what, after) in [
        ("pending", (Revoked, "invitation.revoked")),
        ("with a mail", (Revoked, "invitation.revoked")),
        ("of an inactive organization", (Revoked, "invitation.revoked")),
        ("of the owner", (Revoked, "invitation.revoked")),
        ("expired", (Expired, "invitation.expired")),
        ("past its time", (Expired, "invitation.expired")),
        ("declined", (Declined, "invitation.declined")),
        ("revoked", (Revoked, "invitation.revoked")),
        ("accepted", (Accepted, "member.removed")),
        ("accepted, and the member left", (Accepted, "member.removed")),
        ("accepted with a former address", (Accepted, "member.removed")),
        ("accepted with an identifier", (Accepted, "member.removed")),
    ] {
        let former = if what.ends_with("former address") { "former@example.com" } else { "Joan@Example.com" };
        let mut joan = known(fixture, "joan", former).await;
        let (organization, invitation) = if what == "of the owner" {
            let request = pb::CreateOrganizationRequest { owner_email: ADDRESS.to_owned(), ..organization(what) };
            let made = fixture.backend.clone().organizations.create_organization(request).await.unwrap().into_inner();
            let (id, token) = (made.owner_invitation.unwrap().invitation_id, made.owner_token);
            (made.organization.unwrap().id, IssuedInvitation { id, token })
        } else {
            let organization = fixture.ada.clone().create(what).await;
            let request = match what {
                "with a mail" => invite_by_mail(&organization, ADDRESS),
                "accepted with an identifier" => invite_identifier(&organization, "+44 20 7946 0018"),
                _ => invite(&organization, former),
            };
            let invitation = fixture.create(request).await;
            (organization, invitation)
        };
        let leave = pb::LeaveOrganizationRequest { organization: organization.clone(), ..Default::default() };
        let off = pb::DeactivateOrganizationRequest { organization: organization.clone(), ..Default::default() };
        match what.split([' ', ',']).next().unwrap() {
            "accepted" => drop(joan.invitations.accept_invitation(accept(&invitation.token)).await.unwrap()),
            "declined" => drop(joan.invitations.decline_invitation(decline(&invitation.token)).await.unwrap()),
            "revoked" => {
                let request = super::revoke(&organization, &invitation.id);
                fixture.backend.clone().invitations.revoke_invitation(request).await.unwrap();
            }
            "expired" | "past" => fixture.expire(&invitation.id).await,
            _ => {}
        }
        if what == "expired" {
            assert_eq!(fixture.server.roster.tidy().await.unwrap().expired, 1);
        }
        if what.ends_with("left") {
            joan.organizations.leave_organization(leave).await.unwrap();
        }
        if what.ends_with("inactive organization") {
            fixture.ada.clone().organizations.deactivate_organization(off).await.unwrap();
        }
        places.push(Place { what, organization, invitation, after });
    }
    known(fixture, "joan", "Joan@Example.com").await;
    places
}

#[tokio::test]
async fn the_deletion_of_a_user_erases_the_recipients_of_their_invitations() {
    let fixture = Fixture::new().await;
    let places = places(&fixture).await;
    // These may be another person's.
    let former = fixture.invite("former@example.com").await;
    let plus = fixture.invite("joan+news@example.com").await;
    let mut before = Vec::new();
    for Place { organization, invitation, .. } in &places {
        before.push(get(&fixture, organization, &invitation.id).await);
    }
    let request = pb::DeleteUserRequest {
        user_id: "joan".to_owned(),
        reason: "asked for it".to_owned(),
        request_id: roster::random::uuid().to_string(),
        ..Default::default()
    };
    let mut backend = fixture.backend.clone();
    let dry_run = pb::DeleteUserRequest { validate_only: true, ..request.clone() };
    let tried = backend.users.delete_user(dry_run).await.unwrap().into_inner();
    for (Place { organization, invitation, .. }, before) in places.iter().zip(&before) {
        assert_eq!(get(&fixture, organization, &invitation.id).await, *before);
    }
    let deleted = backend.users.delete_user(request.clone()).await.unwrap().into_inner();
    assert_eq!((deleted.removed_memberships, tried.removed_memberships), (3, 3));

    for (Place { what, organization, invitation, after }, before) in places.iter().zip(&before) {
        let found = get(&fixture, organization, &invitation.id).await;
        assert_eq!((found.email.as_str(), found.identifier.as_str(), found.state()), ("", "", after.0), "{what}");
        assert!(seconds(&found) > seconds(before), "{what}: the update time does not move");
        assert_eq!(list(&fixture, organization).await, [found], "{what}");
        let event = last_event(&fixture, organization).await;
        assert_eq!(event.r#type, after.1, "{what}");
        // The other ones ended before.
        let by_deletion = before.state() == pb::InvitationState::Pending || *what == "past its time";
        let by_deletion = by_deletion || (after.1 == "member.removed" && !what.ends_with("left"));
        let expected = if by_deletion { (request.reason.as_str(), request.request_id.as_str()) } else { ("", "") };
        assert_eq!((event.reason.as_str(), event.request_id.as_str()), expected, "{what}");
        if by_deletion {
            assert_eq!(event.actor.unwrap().id, "backend");
        }
    }
    assert_eq!(fixture.get(&former.id).await.email, "former@example.com");
    assert_eq!(fixture.get(&plus.id).await.email, "joan+news@example.com");
    assert_eq!(fixture.server.database.count("SELECT count(*) FROM outbox").await, 0);
    assert_hidden(&fixture).await;
    assert_forgotten(&fixture, &places).await;
    let again = backend.users.delete_user(request).await.unwrap().into_inner();
    assert_eq!(again, deleted);
    fixture.server.database.assert_invariants().await;
}

fn seconds(invitation: &pb::Invitation) -> (i64, i32) {
    invitation.update_time.map(|time| (time.seconds, time.nanos)).unwrap()
}

/// No table holds the address, and the hashes in its place cannot be found by trying addresses.
async fn assert_hidden(fixture: &Fixture) {
    let texts: Vec<String> = fixture.server.database.dump().await.into_values().flatten().collect();
    assert!(texts.iter().all(|row| !row.to_lowercase().contains(ADDRESS) && !row.contains("7946 0018")));
    assert_eq!(texts.iter().filter(|row| row.contains("former@example.com")).count(), 1);
    let hashes: Vec<String> = sqlx::query_scalar("SELECT identifier_normal FROM invitations WHERE recipient_erased")
        .fetch_all(&fixture.server.database.pool)
        .await
        .unwrap();
    let distinct: BTreeSet<&String> = hashes.iter().collect();
    assert_eq!((hashes.len(), distinct.len()), (12, 12));
    assert!(!hashes.contains(&hex(Sha256::digest(ADDRESS))));
}

/// The next user of the address sees none of the erased invitations, and can be invited.
async fn assert_forgotten(fixture: &Fixture, places: &[Place]) {
    let mut next = known(fixture, "joan-2", ADDRESS).await;
    let request = pb::ListReceivedInvitationsRequest::default();
    let received = next.invitations.list_received_invitations(request).await.unwrap().into_inner();
    assert_eq!(received.invitations, []);
    for Place { what, organization, invitation, .. } in places {
        let by_id = next.invitations.accept_invitation(accept_id(&invitation.id)).await;
        assert_refused(by_id, Code::NotFound, "INVITATION_NOT_FOUND");
        let by_token = next.invitations.preview_invitation(preview(&invitation.token)).await;
        assert_refused(by_token, Code::NotFound, "INVITATION_NOT_FOUND");
        if !what.starts_with("of ") {
            let invited = fixture.create(invite(organization, ADDRESS)).await;
            assert_eq!(get(fixture, organization, &invited.id).await.email, ADDRESS);
        }
    }
}

#[tokio::test]
async fn the_deletion_of_another_user_of_the_address_leaves_an_accepted_invitation_accepted() {
    let fixture = Fixture::new().await;
    let mut second = known(&fixture, "second", ADDRESS).await;
    known(&fixture, "first", ADDRESS).await;
    let invitation = fixture.invite(ADDRESS).await;
    second.invitations.accept_invitation(accept(&invitation.token)).await.unwrap();
    let request = pb::DeleteUserRequest { user_id: "first".to_owned(), ..Default::default() };
    fixture.backend.clone().users.delete_user(request).await.unwrap();
    assert_eq!(fixture.get(&invitation.id).await.email, "");
    // A repeated call by the user who accepted has the same answer.
    let again = second.invitations.accept_invitation(accept(&invitation.token)).await.unwrap().into_inner();
    assert_eq!(again.member.unwrap().user_id, "second");
    let shown = second.invitations.preview_invitation(preview(&invitation.token)).await.unwrap().into_inner();
    assert_eq!(shown.invitation.unwrap().recipient, "");
}

#[tokio::test]
async fn the_deletion_of_a_user_without_a_verified_address_leaves_the_invitations_to_it() {
    let fixture = Fixture::new().await;
    let mut joan = fixture.server.person("joan", ADDRESS, false);
    joan.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    let (pending, revoked) = (fixture.invite(ADDRESS).await, fixture.invite("other@example.com").await);
    fixture.revoke(&revoked.id).await;
    let request = pb::DeleteUserRequest { user_id: "joan".to_owned(), ..Default::default() };
    fixture.backend.clone().users.delete_user(request).await.unwrap();
    let found = fixture.get(&pending.id).await;
    assert_eq!((found.email.as_str(), found.state()), (ADDRESS, pb::InvitationState::Pending));
    assert_eq!(fixture.get(&revoked.id).await.email, "other@example.com");
}

#[tokio::test]
async fn the_quota_of_a_mailbox_outlives_its_user() {
    let fixture = Fixture::with(InvitationSettings { mails_per_recipient_and_day: 2, ..high_limits() }).await;
    known(&fixture, "joan", ADDRESS).await;
    for name in ["A", "B"] {
        let organization = fixture.ada.clone().create(name).await;
        fixture.create(invite_by_mail(&organization, ADDRESS)).await;
    }
    let request = pb::DeleteUserRequest { user_id: "joan".to_owned(), ..Default::default() };
    fixture.backend.clone().users.delete_user(request).await.unwrap();
    let request = invite_by_mail(&fixture.acme, ADDRESS);
    let refused = fixture.backend.clone().invitations.create_invitation(request).await;
    assert_refused(refused, Code::ResourceExhausted, "QUOTA_EXCEEDED");
}

#[tokio::test]
async fn a_repeated_deletion_erases_what_a_server_of_release_0_3_left() {
    let fixture = Fixture::new().await;
    let mut joan = known(&fixture, "joan", ADDRESS).await;
    let invitation = fixture.invite(ADDRESS).await;
    joan.invitations.accept_invitation(accept(&invitation.token)).await.unwrap();
    joan.organizations
        .leave_organization(pb::LeaveOrganizationRequest { organization: fixture.acme.clone(), ..Default::default() })
        .await
        .unwrap();
    // As release 0.3 deletes a user, without the events.
    let delete = "UPDATE users SET state = 'ERASED', email = NULL, email_normal = NULL, email_verified = false
        WHERE id = 'joan'";
    fixture.sql(delete).await;
    assert_eq!(get(&fixture, &fixture.acme, &invitation.id).await.email, ADDRESS);
    let request = pb::DeleteUserRequest { user_id: "joan".to_owned(), ..Default::default() };
    fixture.backend.clone().users.delete_user(request).await.unwrap();
    assert_eq!(get(&fixture, &fixture.acme, &invitation.id).await.email, "");
}

/// The pages of the invitations and their indexes that were touched so far.
async fn pages(connection: &mut PgConnection) -> i64 {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    let touched = "SELECT heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read FROM pg_statio_user_tables
        WHERE relname = 'invitations'";
    sqlx::query_scalar(touched).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn the_invitations_to_a_user_are_found_by_indexes() {
    let fixture = Fixture::new().await;
    let mut joan = known(&fixture, "joan", ADDRESS).await;
    let invitation = fixture.invite(ADDRESS).await;
    joan.invitations.accept_invitation(accept(&invitation.token)).await.unwrap();
    let copy = "INSERT INTO invitations (bucket, organization_id, id, identifier, identifier_normal, is_email, role,
            makes_owner, attributes, state, inviter_kind, inviter_id, accepted_by, expire_time, sends, send_time,
            create_time, update_time)
        SELECT bucket, organization_id, gen_random_uuid(), n || identifier, n || identifier, true, role, false, '{}',
            state, inviter_kind, inviter_id, n || accepted_by, expire_time, 0, send_time, create_time, update_time
        FROM invitations, generate_series(1, 20000) n";
    fixture.sql(copy).await;
    let mut connection = PgConnection::connect(&fixture.server.database.url).await.unwrap();
    sqlx::query("ANALYZE invitations").execute(&mut connection).await.unwrap();
    let (user, address) = (UserId::parse("joan").unwrap(), EmailAddress::parse(ADDRESS).unwrap());
    // After a few calls Postgres may use one plan for all parameters.
    let mut rounds = [Vec::new(), Vec::new()];
    for address in [Some(&address), None].into_iter().cycle().take(24) {
        let before = pages(&mut connection).await;
        let found = invitations::inviting(&mut connection, &user, address).await.unwrap();
        assert_eq!(found.len(), 1);
        rounds[usize::from(address.is_some())].push(pages(&mut connection).await - before);
    }
    // Vacuum and the flush of another connection count too, in single rounds. A plan that reads the table counts in
    // all.
    for touched in &rounds {
        let least = touched[6..].iter().min().unwrap();
        assert!(*least < 30, "{touched:?} pages");
    }
}
