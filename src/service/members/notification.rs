//! Mails to new members.

use super::{AddMember, AddedMember, MemberNotification, Person};
use crate::domain::{Inviter, Organization, User};
use crate::random;
use crate::service::ServiceError;
use crate::service::invitations::{InvitationSettings, MailReservation};
use crate::service::write::unit_of_work::UnitOfWork;
use crate::store::outbox::{self, Subject};

/// The sender of mails to new members.
pub(super) struct Notifier {
    pub(super) sender: Inviter,
    pub(super) settings: InvitationSettings,
}

impl Notifier {
    /// Queues the mails to added members, in the order of the members, as far as the daily shares of their mailboxes allow.
    /// A member is added in any case.
    pub(super) async fn notify(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: &Organization,
        added: Vec<(&AddMember, &mut AddedMember)>,
    ) -> Result<(), ServiceError> {
        let mut mails: Vec<(&AddMember, &mut AddedMember, String)> = Vec::new();
        for (input, added) in added {
            if let Some(address) = self.address(input, &added.member.user) {
                mails.push((input, added, address));
            }
        }
        let addresses = mails.iter().map(|(_, _, address)| address.as_str());
        let mut reservation = MailReservation::new(tx, &self.settings, &self.sender, addresses).await?;
        for (input, added, address) in &mut mails {
            if reservation.take(address).is_ok() {
                let subject = Subject::Added(added.member.user.id.clone(), input.locale.clone());
                outbox::put(tx.connection, organization.id, random::uuid(), &subject, &self.sender).await?;
                added.notified = true;
            }
        }
        reservation.give_back(tx).await
    }

    /// The address, in its normal form, to which a new member gets a mail: the verified one; `None` if there is none, or if
    /// no mail is wanted.
    fn address(&self, input: &AddMember, user: &User) -> Option<String> {
        let is_wanted = match (input.notify, &input.person) {
            (MemberNotification::Email, _) | (MemberNotification::Default, Person::Email(_)) => self.settings.mail,
            (MemberNotification::Default, Person::Id(_)) | (MemberNotification::None, _) => false,
        };
        let address = user.verified_email().filter(|_| is_wanted)?;
        Some(address.normal().to_owned())
    }
}
