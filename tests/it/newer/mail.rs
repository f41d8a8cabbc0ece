//! The outbox and invitations: what is not known waits for a newer roster, and the rest goes on.

use super::{Fixture, assert_unknown};
use crate::harness::{IssuedInvitation, assert_refused};
use crate::invitations::{accept, accept_id, create, invite, invite_by_mail, remind, revoke};
use roster::service::outbox::DeliveryOutcome;
use tonic::Code;

impl Fixture {
    /// Claims and delivers the letters that are due. Returns their recipients.
    async fn deliver_all(&self) -> Vec<String> {
        let mut recipients = Vec::new();
        while let Some(letter) = self.server.roster.claim_letter().await.unwrap() {
            recipients.push(letter.to.given().to_owned());
            self.server.roster.settle_letter(letter.id, DeliveryOutcome::Delivered).await.unwrap();
        }
        recipients.sort_unstable();
        recipients
    }

    async fn mail_in(&self, organization: &str, email: &str) -> IssuedInvitation {
        create(&self.backend(), invite_by_mail(organization, email)).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_depends_on_an_unknown_value_waits_and_the_others_are_sent() {
    let fixture = Fixture::new().await;
    let (acme, beta) = (&fixture.acme, &fixture.beta);
    for name in ["first", "last"] {
        fixture.mail_in(acme, &format!("{name}@example.com")).await;
    }
    let digest = fixture.mail_in(acme, "digest@example.com").await.id;
    let role = fixture.mail_in(acme, "role@example.com").await.id;
    let state = fixture.mail_in(acme, "state@example.com").await.id;
    fixture.mail_in(beta, "suspended@example.com").await;
    fixture.sql(&format!("UPDATE outbox SET occasion = 'DIGEST' WHERE invitation_id = '{digest}'")).await;
    fixture.sql(&format!("UPDATE invitations SET role = 'auditor' WHERE id = '{role}'")).await;
    fixture.sql(&format!("UPDATE invitations SET state = 'PAUSED' WHERE id = '{state}'")).await;
    fixture.set_state(beta, "SUSPENDED").await;
    // A sender of an unknown kind is left out of the letter.
    fixture.sql("UPDATE outbox SET sender_kind = 'agent'").await;
    // The longest due: they must not stop the others.
    let ids = format!("'{digest}', '{state}'");
    fixture
        .sql(&format!(
            "UPDATE outbox SET next_attempt_time = now() - interval '1 hour'
             WHERE invitation_id IN ({ids}) OR organization_id = '{beta}'"
        ))
        .await;
    // A letter names the role as it is stored.
    assert_eq!(fixture.deliver_all().await, ["first@example.com", "last@example.com", "role@example.com"]);
    assert_eq!(fixture.database().count("SELECT count(*) FROM outbox").await, 3);
    // The mail of an unknown occasion is left to a newer roster, which may claim it at any time.
    let due = "SELECT count(*) FROM outbox WHERE next_attempt_time <= now() AND attempts = 0 AND occasion = 'DIGEST'";
    assert_eq!(fixture.database().count(due).await, 1);

    fixture.sql("UPDATE outbox SET occasion = 'INVITATION', next_attempt_time = now()").await;
    fixture.sql(&format!("UPDATE invitations SET role = 'admin', state = 'PENDING' WHERE id IN ({ids})")).await;
    fixture.set_state(beta, "ACTIVE").await;
    let late = ["digest@example.com", "state@example.com", "suspended@example.com"];
    assert_eq!(fixture.deliver_all().await, late);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_with_an_unknown_value_is_neither_accepted_nor_denied() {
    let fixture = Fixture::new().await;
    let (acme, beta) = (&fixture.acme, &fixture.beta);
    let mut backend = fixture.backend();
    let mut issued = Vec::new();
    for name in ["state", "role", "inviter", "known"] {
        issued.push(create(&backend, invite(acme, &format!("{name}@example.com"))).await);
    }
    let [state, role, inviter, known] = &issued[..] else { panic!("four invitations") };
    let suspended = create(&backend, invite(beta, "suspended@example.com")).await;
    fixture.sql(&format!("UPDATE invitations SET state = 'PAUSED' WHERE id = '{}'", state.id)).await;
    fixture.sql(&format!("UPDATE invitations SET role = 'auditor' WHERE id = '{}'", role.id)).await;
    fixture.sql(&format!("UPDATE invitations SET inviter_kind = 'agent' WHERE id = '{}'", inviter.id)).await;
    fixture.set_state(beta, "SUSPENDED").await;
    fixture.caught_up().await;

    let user = |name: &str| fixture.server.user_with_email(name);
    assert_unknown(user("state").invitations.accept_invitation(accept_id(&state.id)).await, "invitation_state");
    let accepted = user("role").invitations.accept_invitation(accept(&role.token)).await;
    assert_refused(accepted, Code::NotFound, "ROLE_NOT_FOUND");
    assert_unknown(user("inviter").invitations.accept_invitation(accept(&inviter.token)).await, "inviter_kind");
    let accepted = user("suspended").invitations.accept_invitation(accept(&suspended.token)).await;
    assert_unknown(accepted, "organization_state");
    assert_unknown(backend.invitations.remind_invitation(remind(acme, &role.id, false)).await, "role");
    assert_unknown(backend.invitations.remind_invitation(remind(acme, &state.id, false)).await, "invitation_state");
    assert_unknown(backend.invitations.revoke_invitation(revoke(acme, &state.id)).await, "invitation_state");
    assert_unknown(backend.invitations.create_invitation(invite(beta, "x@example.com")).await, "organization_state");
    assert_eq!(fixture.database().count("SELECT count(*) FROM memberships").await, 15);
    // A revocation does not depend on the role.
    backend.invitations.revoke_invitation(revoke(acme, &role.id)).await.unwrap();
    user("known").invitations.accept_invitation(accept(&known.token)).await.unwrap();
    create(&backend, invite(acme, "next@example.com")).await;
    fixture.server.roster.tidy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_waits_while_the_role_or_the_state_of_its_inviter_is_unknown() {
    let fixture = Fixture::new().await;
    let acme = &fixture.acme;
    let id = create(&fixture.server.user("grace"), invite_by_mail(acme, "late@example.com")).await.id;
    let mut late = fixture.server.user_with_email("late");
    fixture.set_role(acme, "grace", "auditor").await;
    assert_unknown(late.invitations.accept_invitation(accept_id(&id)).await, "role");
    fixture.set_role(acme, "grace", "admin").await;
    fixture.set_user_state("grace", "LOCKED").await;
    assert_unknown(late.invitations.accept_invitation(accept_id(&id)).await, "user_state");
    fixture.set_user_state("grace", "ACTIVE").await;
    late.invitations.accept_invitation(accept_id(&id)).await.unwrap();
}
