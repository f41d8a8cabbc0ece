//! Batches of invitations under limits: the items are taken in their order, whatever the order of the locks.

use super::{Fixture, high_limits, invite_by_mail};
use crate::harness::server::Clients;
use crate::races::{Call, from_barrier, rounds, side, until_waiting};
use roster::grpc::pb;
use roster::service::InvitationSettings;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use tonic::Code;
use tonic_types::StatusExt;

fn item(recipient: &str) -> pb::BatchCreateInvitationsItem {
    use pb::batch_create_invitations_item::Recipient::{Email, Identifier};
    let kind = if recipient.contains("@example") { Email } else { Identifier };
    pb::BatchCreateInvitationsItem { recipient: Some(kind(recipient.to_owned())), ..Default::default() }
}

fn batch(organization: &str, recipients: &[String]) -> pb::BatchCreateInvitationsRequest {
    pb::BatchCreateInvitationsRequest {
        organization: organization.to_owned(),
        items: recipients.iter().map(|recipient| item(recipient)).collect(),
        ..Default::default()
    }
}

/// The outcome of an item: `OK`, the limit that it exceeds, or the reason of its error.
fn outcome(result: &pb::BatchCreateInvitationsResult) -> String {
    let status = result.status.as_ref().unwrap();
    if status.code == 0 {
        return "OK".to_owned();
    }
    let code = Code::from(status.code);
    let details = prost::Message::encode_to_vec(status).into();
    let info = tonic::Status::with_details(code, &status.message, details).get_details_error_info().unwrap();
    info.metadata.get("limit").unwrap_or(&info.reason).clone()
}

fn mailbox(recipient: &str) -> String {
    let (local, domain) = recipient.rsplit_once('@').unwrap();
    format!("{}@{domain}", local.split('+').next().unwrap())
}

/// The limits of a deployment and what is used of them, item by item.
struct Model {
    limits: InvitationSettings,
    /// The mails of the sender and those of all senders, by mailbox; `None` for a sender without a share.
    own: Option<BTreeMap<String, u32>>,
    all: BTreeMap<String, u32>,
    passes: bool,
    invited: BTreeSet<String>,
}

impl Model {
    fn invite(&mut self, recipient: &str) -> &'static str {
        let count = u32::try_from(self.invited.len()).unwrap();
        if self.invited.contains(recipient) {
            return "INVITATION_PENDING";
        }
        if count >= self.limits.pending_per_organization {
            return "pending_per_organization";
        }
        if count >= self.limits.per_organization_and_day {
            return "per_organization_and_day";
        }
        if recipient.contains("@example") && !self.passes {
            let mailbox = mailbox(recipient);
            let used = |mails: &BTreeMap<String, u32>| mails.get(&mailbox).copied().unwrap_or(0);
            let most = self.limits.mails_per_sender_to_recipient_and_day;
            if self.own.as_ref().is_some_and(|own| used(own) >= most) {
                return "mails_per_sender_to_recipient_and_day";
            }
            if used(&self.all) >= self.limits.mails_per_recipient_and_day {
                return "mails_per_recipient_and_day";
            }
            for mails in self.own.iter_mut().chain([&mut self.all]) {
                *mails.entry(mailbox.clone()).or_default() += 1;
            }
        }
        self.invited.insert(recipient.to_owned());
        "OK"
    }

    /// The mails that are counted.
    fn used(&self) -> u32 {
        self.all.values().chain(self.own.iter().flat_map(BTreeMap::values)).sum()
    }
}

/// Some permutations: each rotation, forwards and backwards.
fn permutations(items: &[String]) -> Vec<Vec<String>> {
    let rotate = |by: usize| {
        let mut items = items.to_vec();
        items.rotate_left(by);
        let reversed = items.iter().rev().cloned().collect();
        [items, reversed]
    };
    (0..items.len()).flat_map(rotate).collect()
}

#[tokio::test]
async fn the_items_of_a_batch_are_taken_in_their_order() {
    let mails = InvitationSettings {
        mails_per_sender_to_recipient_and_day: 2,
        mails_per_recipient_and_day: 3,
        ..high_limits()
    };
    // `a` is wanted more often than the sender may, and from `b` others have taken two of three mails.
    let wanted = ["a@", "b@", "a+1@", "c@", "a@", "b+1@", "a+2@", "@handle", "b+2@", "d@", "@handle"];
    let mut number = 0;
    for limits in [
        mails.clone(),
        InvitationSettings { pending_per_organization: 4, ..mails.clone() },
        InvitationSettings { per_organization_and_day: 5, ..mails },
    ] {
        let fixture = Fixture::with(limits.clone()).await;
        let operator = fixture.server.operator();
        for sender in ["user", "service", "operator"] {
            for mut recipients in permutations(&wanted.map(str::to_owned)) {
                number += 1;
                let domain = format!("example{number}.com");
                for recipient in recipients.iter_mut().filter(|recipient| recipient.ends_with('@')) {
                    recipient.push_str(&domain);
                }
                let organization = fixture.ada.clone().create(&format!("Team {number}")).await;
                let other = fixture.ada.clone().create(&format!("Other {number}")).await;
                let taken = format!("b@{domain}");
                for address in [taken.clone(), format!("b+0@{domain}")] {
                    super::create(&fixture.backend, invite_by_mail(&other, &address)).await;
                }
                let mut model = Model {
                    limits: limits.clone(),
                    own: (sender == "user").then(BTreeMap::new),
                    all: [(taken, 2)].into(),
                    passes: sender == "operator",
                    invited: BTreeSet::new(),
                };
                let mut caller = match sender {
                    "user" => fixture.ada.clone(),
                    "service" => fixture.backend.clone(),
                    _ => operator.clone(),
                };
                let request = batch(&organization, &recipients);
                let used = "SELECT coalesce(sum(used), 0)::bigint FROM quotas";
                let before = fixture.server.database.count(used).await - 2;
                let answer = caller.invitations.batch_create_invitations(request).await.unwrap().into_inner();
                let outcomes: Vec<_> = answer.results.iter().map(outcome).collect();
                let expected: Vec<_> = recipients.iter().map(|recipient| model.invite(recipient)).collect();
                assert_eq!(outcomes, expected, "{sender}: {recipients:?}");
                // What is not sent does not count.
                let after = fixture.server.database.count(used).await;
                assert_eq!(after - before, i64::from(model.used()), "{sender}: {recipients:?}");
            }
        }
        let unused = "SELECT count(*) FROM quotas WHERE used = 0";
        assert_eq!(fixture.server.database.count(unused).await, 0);
        fixture.server.database.assert_invariants().await;
    }
}

/// The subject of the share of all senders, as release 0.3 computes it.
fn subject(mailbox: &str) -> Vec<u8> {
    Sha256::digest(format!("mail\0{mailbox}")).to_vec()
}

#[tokio::test]
async fn a_batch_locks_the_shares_in_the_order_of_release_0_3() {
    let fixture = Fixture::new().await;
    let database = &fixture.server.database;
    let mut mailboxes = ["a@example.com", "b@example.com"].map(str::to_owned);
    mailboxes.sort_by_key(|mailbox| subject(mailbox));
    let [first, second] = &mailboxes;
    let insert = "INSERT INTO quotas (subject, used, window_start) VALUES ($1, 1, now())";
    for mailbox in [first, second] {
        sqlx::query(insert).bind(subject(mailbox)).execute(&database.pool).await.unwrap();
    }
    for sender in [&fixture.ada, &fixture.backend] {
        for recipients in [[first, second], [second, first]] {
            let organization = fixture.ada.clone().create("Team").await;
            let lock = "SELECT FROM quotas WHERE subject = $1 FOR UPDATE";
            let mut holder = database.pool.begin().await.unwrap();
            sqlx::query(lock).bind(subject(first)).execute(&mut *holder).await.unwrap();
            let (mut client, request) =
                (sender.invitations.clone(), batch(&organization, &recipients.map(String::clone)));
            let call = tokio::spawn(async move { client.batch_create_invitations(request).await.unwrap() });
            until_waiting(database, 1).await;
            // The batch waits for the first share, and has not locked the second one.
            let lock = "SELECT FROM quotas WHERE subject = $1 FOR UPDATE NOWAIT";
            sqlx::query(lock).bind(subject(second)).execute(&mut *holder).await.unwrap();
            holder.rollback().await.unwrap();
            let answer = call.await.unwrap().into_inner();
            assert!(answer.results.iter().all(|result| result.invitation.is_some()));
        }
    }
}

#[tokio::test]
async fn concurrent_batches_in_opposite_orders_share_a_limit() {
    const DEADLOCKS: &str = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    const MAILBOXES: usize = 6;
    const LIMIT: u32 = 3;
    let limits = InvitationSettings {
        mails_per_recipient_and_day: LIMIT,
        mails_per_sender_to_recipient_and_day: LIMIT - 1,
        ..high_limits()
    };
    let fixture = Fixture::with(limits).await;
    let database = &fixture.server.database;
    let grace = fixture.admin("grace").await;
    for round in 0..rounds() * 2 {
        let addresses: Vec<String> = (0..MAILBOXES).map(|number| format!("{round}.{number}@example.com")).collect();
        let reversed: Vec<String> = addresses.iter().rev().cloned().collect();
        let mut calls: Vec<Call> = Vec::new();
        let senders: [&Clients; 3] = [&fixture.ada, &grace, &fixture.backend];
        for (number, sender) in senders.into_iter().cycle().take(6).enumerate() {
            let organization = fixture.ada.clone().create(&format!("Round {round}, {number}")).await;
            fixture.ada.clone().add(&organization, "grace", "admin").await;
            let request = batch(&organization, if number % 2 == 0 { &addresses } else { &reversed });
            let mut client = sender.invitations.clone();
            calls.push(side(async move { client.batch_create_invitations(request).await }));
        }
        assert!(from_barrier(calls).await.iter().all(Result::is_ok));
        // Each mailbox has got as many mails as all senders may send to it, and no sender has sent more than its share.
        let mails = "SELECT count(*) FROM (SELECT i.identifier_normal FROM outbox o JOIN invitations i \
                     ON i.bucket = o.bucket AND i.organization_id = o.organization_id AND i.id = o.invitation_id \
                     GROUP BY i.identifier_normal HAVING count(*) = 3) full_mailboxes";
        let full = i64::try_from((round + 1) * MAILBOXES).unwrap();
        assert_eq!(database.count(mails).await, full);
        let excess = "SELECT count(*) FROM (SELECT FROM outbox o JOIN invitations i \
                      ON i.bucket = o.bucket AND i.organization_id = o.organization_id AND i.id = o.invitation_id \
                      WHERE o.sender_kind = 'user' GROUP BY i.identifier_normal, o.sender_id HAVING count(*) > 2) e";
        assert_eq!(database.count(excess).await, 0);
    }
    // The shares of all senders are full, and those of users hold what the outbox has.
    let used = "SELECT sum(used)::bigint - (SELECT count(*) FROM outbox) -
                (SELECT count(*) FROM outbox WHERE sender_kind = 'user') FROM quotas";
    assert_eq!(database.count(used).await, 0);
    assert_eq!(database.count(DEADLOCKS).await, 0);
    database.assert_invariants().await;
}
