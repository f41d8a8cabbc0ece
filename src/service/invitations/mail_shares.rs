//! The daily shares of mailboxes: how many mails one user, and all senders together, may send to each.

use super::InvitationSettings;
use crate::domain::{ActorKind, Inviter, Quota, Refusal};
use crate::service::ServiceError;
use crate::service::write::unit_of_work::UnitOfWork;
use crate::store::quotas;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

/// What is left of one share.
struct Share {
    subject: [u8; 32],
    limit: Quota,
    most: u32,
    left: u32,
}

impl Share {
    /// Counts up to `wanted` mails to a mailbox, as many as the share leaves, and locks the share.
    async fn take(
        tx: &mut UnitOfWork<'_>,
        subject: [u8; 32],
        limit: Quota,
        most: u32,
        wanted: u32,
    ) -> Result<Self, ServiceError> {
        let left = quotas::take_up_to(tx.connection, &subject, wanted, most, DAY).await?;
        Ok(Self { subject, limit, most, left })
    }
}

/// The mails that one write may send. They are counted for all recipients at once, in the order of the locks; then the
/// write takes them in the order of its items, and gives back the rest.
pub(in crate::service) struct MailReservation {
    /// The shares of each mailbox by its subject, that of the sender first; `None` for an operator, who has no limit.
    mailboxes: Option<BTreeMap<[u8; 32], Vec<Share>>>,
}

impl MailReservation {
    /// Counts a mail to each of these addresses, in their normal form, as far as the shares allow. A user has a share of
    /// each mailbox beside that of all senders, a service has none, and an operator passes.
    pub(in crate::service) async fn new<'a>(
        tx: &mut UnitOfWork<'_>,
        settings: &InvitationSettings,
        sender: &Inviter,
        addresses: impl Iterator<Item = &'a str>,
    ) -> Result<Self, ServiceError> {
        let user = match sender.kind.known() {
            Some(ActorKind::Operator) => return Ok(Self { mailboxes: None }),
            Some(ActorKind::User) => Some(sender.id.as_str()),
            Some(ActorKind::Service | ActorKind::System) | None => None,
        };
        let mut mails: BTreeMap<[u8; 32], (String, u32)> = BTreeMap::new();
        for address in addresses {
            let mailbox = mailbox(address);
            mails.entry(mailbox_subject(&mailbox)).or_insert((mailbox, 0)).1 += 1;
        }
        let mut mailboxes = BTreeMap::new();
        // In this order, as in release 0.3, which knows the share of all senders only: two writes must not deadlock.
        for (subject, (mailbox, mut wanted)) in mails {
            let mut shares = Vec::with_capacity(2);
            if let Some(user) = user {
                let (limit, most) =
                    (Quota::MailsPerSenderToRecipientAndDay, settings.mails_per_sender_to_recipient_and_day);
                let own = Share::take(tx, sender_subject(user, &mailbox), limit, most, wanted).await?;
                wanted = own.left;
                shares.push(own);
            }
            let (limit, most) = (Quota::MailsPerRecipientAndDay, settings.mails_per_recipient_and_day);
            shares.push(Share::take(tx, subject, limit, most, wanted).await?);
            mailboxes.insert(subject, shares);
        }
        Ok(Self { mailboxes: Some(mailboxes) })
    }

    /// Takes one of the counted mails to this address.
    ///
    /// # Errors
    /// `QUOTA_EXCEEDED` if a share of the mailbox is used up: that of the sender, else that of all senders.
    pub(in crate::service) fn take(&mut self, address: &str) -> Result<(), Refusal> {
        let Some(mailboxes) = &mut self.mailboxes else { return Ok(()) };
        // A mail that was not counted is not sent.
        let shares = mailboxes.get_mut(&mailbox_subject(&mailbox(address))).ok_or(Refusal::Conflict)?;
        if let Some(full) = shares.iter().find(|share| share.left == 0) {
            return Err(Refusal::quota(full.limit, full.most, DAY));
        }
        for share in shares {
            share.left -= 1;
        }
        Ok(())
    }

    /// Gives back the mails that were counted and not taken.
    pub(in crate::service) async fn give_back(self, tx: &mut UnitOfWork<'_>) -> Result<(), ServiceError> {
        for share in self.mailboxes.into_iter().flat_map(BTreeMap::into_values).flatten() {
            if share.left > 0 {
                quotas::give_back(tx.connection, &share.subject, share.left).await?;
            }
        }
        Ok(())
    }
}

/// The mailbox of an address in its normal form: the address without the part after a plus sign.
fn mailbox(address: &str) -> String {
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let local = local.split_once('+').map_or(local, |(mailbox, _)| mailbox);
    format!("{local}@{domain}")
}

/// The subject of the share of all senders.
fn mailbox_subject(mailbox: &str) -> [u8; 32] {
    Sha256::digest(format!("mail\0{mailbox}")).into()
}

/// The subject of the share of one user.
fn sender_subject(user: &str, mailbox: &str) -> [u8; 32] {
    // A user id may hold any character, so its length separates it from the mailbox.
    Sha256::digest(format!("mail of\0{}\0{user}{mailbox}", user.len())).into()
}
