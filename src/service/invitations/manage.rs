//! The organization's side of invitations: create, deliver again, revoke.

use super::end::{check_not_void, check_pending, expire, settle};
use super::mail_shares::MailReservation;
use super::{InvitationSettings, Invite, IssuedInvitation, Terms, tokens};
use crate::authn::Caller;
use crate::authz::decide::{Access, Grant};
use crate::domain::event::EventType;
use crate::domain::{
    Delivery, Invitation, InvitationId, InvitationState, Inviter, Organization, Quota, Recipient, Refusal, StoredValue,
};
use crate::random;
use crate::service::write::preconditions::check_writable;
use crate::service::write::unit_of_work::UnitOfWork;
use crate::service::write::{Meta, OrganizationChange, WriteResult};
use crate::service::{ItemResult, Roster, ServiceError};
use crate::store::outbox::{self, Subject};
use crate::store::{invitation_tokens, invitations, users};
use serde_json::json;
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

impl Roster {
    /// Creates an invitation.
    ///
    /// # Errors
    /// `INVITATION_PENDING`, `ALREADY_MEMBER`, `ROLE_ABOVE_CALLER`, `ORGANIZATION_INACTIVE`, `QUOTA_EXCEEDED`,
    /// `MAIL_OFF`, `CALLER_NOT_ALLOWED`.
    pub async fn invite(
        &self,
        access: Access,
        meta: Meta,
        input: Invite,
        terms: Terms,
    ) -> Result<WriteResult<IssuedInvitation>, ServiceError> {
        let written = self.invite_all(access, meta, vec![input], terms).await?;
        let answer = written.answer.into_iter().next().ok_or(Refusal::Conflict)??;
        Ok(WriteResult { answer, token: written.token })
    }

    /// Creates a batch of invitations. The answer has one result for each input, in the order of the inputs.
    ///
    /// # Errors
    /// `ORGANIZATION_INACTIVE`, `MAIL_OFF`, `CALLER_NOT_ALLOWED`; an item is refused on its own with the other errors
    /// of [`Self::invite`].
    pub async fn invite_all(
        &self,
        access: Access,
        meta: Meta,
        inputs: Vec<Invite>,
        terms: Terms,
    ) -> Result<WriteResult<Vec<ItemResult<IssuedInvitation>>>, ServiceError> {
        check_delivery(access.caller(), &terms, self.invitations.mail, inputs.iter().map(|input| &input.recipient))?;
        let inviter = inviter(access.caller())?;
        let settings = (*self.invitations).clone();
        let written =
            self.write_in(access, meta, InviteAll { inputs, terms, inviter, settings, makes_owner: false }).await;
        self.mail_due.notify_one();
        written
    }

    /// Delivers a pending invitation again. With `rotate`, its former invitation tokens become invalid.
    ///
    /// # Errors
    /// `INVITATION_NOT_FOUND`, `INVITATION_NOT_PENDING`, `ORGANIZATION_INACTIVE`, `QUOTA_EXCEEDED`, `MAIL_OFF`,
    /// `CALLER_NOT_ALLOWED`.
    pub async fn remind(
        &self,
        access: Access,
        meta: Meta,
        id: InvitationId,
        terms: Terms,
        rotate: bool,
    ) -> Result<WriteResult<IssuedInvitation>, ServiceError> {
        let inviter = inviter(access.caller())?;
        let caller = access.caller().clone();
        let settings = (*self.invitations).clone();
        let written = self.write_in(access, meta, Remind { id, terms, rotate, caller, inviter, settings }).await;
        self.mail_due.notify_one();
        written
    }

    /// Revokes a pending invitation.
    ///
    /// # Errors
    /// `INVITATION_NOT_FOUND`, `INVITATION_NOT_PENDING`, `ORGANIZATION_INACTIVE`.
    pub async fn revoke(
        &self,
        access: Access,
        meta: Meta,
        id: InvitationId,
    ) -> Result<WriteResult<Invitation>, ServiceError> {
        self.write_in(access, meta, Revoke { id }).await
    }
}

/// The caller as the inviter, as it is stored with an invitation or a queued mail.
pub(in crate::service) fn inviter(caller: &Caller) -> Result<Inviter, Refusal> {
    let actor = caller.actor().ok_or(Refusal::CredentialMissing)?;
    Ok(Inviter { kind: StoredValue::Known(actor.kind), id: actor.id })
}

/// Whether a caller may receive invitation tokens. Services may, to deliver them; users may not, because a user could
/// accept the invitation with one.
fn may_receive_token(caller: &Caller) -> bool {
    match caller {
        Caller::Service(_) | Caller::Operator(_) => true,
        Caller::User(user) => user.via.is_some(),
        Caller::Anonymous => false,
    }
}

/// The delivery to this recipient.
fn delivery(terms: &Terms, recipient: &Recipient) -> Delivery {
    match (terms.delivery, recipient) {
        (Some(delivery), _) => delivery,
        (None, Recipient::Email(_)) => Delivery::Email,
        (None, Recipient::Other(_)) => Delivery::None,
    }
}

/// Checks that every recipient can be reached by the requested delivery, and that the caller may request it.
pub(in crate::service) fn check_delivery<'r>(
    caller: &Caller,
    terms: &Terms,
    mail: bool,
    recipients: impl Iterator<Item = &'r Recipient>,
) -> Result<(), Refusal> {
    for recipient in recipients {
        match (delivery(terms, recipient), recipient) {
            (Delivery::Token, _) if !may_receive_token(caller) => {
                let advice = "invitation tokens are returned to services only; ask for delivery by e-mail".to_owned();
                return Err(Refusal::CallerNotAllowed { caller: "user".to_owned(), advice });
            }
            (Delivery::Email, Recipient::Other(_)) => {
                return Err(Refusal::field("delivery", "by e-mail only to an address"));
            }
            (Delivery::Email, Recipient::Email(_)) if !mail => return Err(Refusal::MailOff),
            (Delivery::Email | Delivery::Token | Delivery::None, _) => {}
        }
    }
    Ok(())
}

/// Creates the invitations of one call.
pub(in crate::service) struct InviteAll {
    pub(in crate::service) inputs: Vec<Invite>,
    pub(in crate::service) terms: Terms,
    pub(in crate::service) inviter: Inviter,
    pub(in crate::service) settings: InvitationSettings,
    pub(in crate::service) makes_owner: bool,
}

impl OrganizationChange for InviteAll {
    type Answer = Vec<ItemResult<IssuedInvitation>>;

    fn is_success(answer: &Self::Answer) -> bool {
        answer.iter().any(Result::is_ok)
    }

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        grant: Grant,
    ) -> Result<Self::Answer, ServiceError> {
        check_writable(&organization)?;
        self.invite(tx, &mut organization, &grant).await
    }
}

impl InviteAll {
    /// Creates the invitations in the locked organization, in the order of the inputs: where a limit leaves too few, the
    /// first ones are created.
    pub(in crate::service) async fn invite(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: &mut Organization,
        grant: &Grant,
    ) -> Result<Vec<ItemResult<IssuedInvitation>>, ServiceError> {
        let addresses = self.inputs.iter().map(|input| &input.recipient);
        let addresses = addresses.filter(|recipient| delivery(&self.terms, recipient) == Delivery::Email);
        let mut mails =
            MailReservation::new(tx, &self.settings, &self.inviter, addresses.map(Recipient::normal)).await?;
        let mut results = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            results.push(match self.invite_one(tx, organization, grant, input, &mut mails).await {
                Ok(issued) => Ok(issued),
                Err(error) => Err(error.into_refusal()?),
            });
        }
        mails.give_back(tx).await?;
        Ok(results)
    }

    async fn invite_one(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: &mut Organization,
        grant: &Grant,
        input: &Invite,
        mails: &mut MailReservation,
    ) -> Result<IssuedInvitation, ServiceError> {
        let role = tx.assignable_role(organization, &input.role).await?;
        grant.reaches(&role)?;
        if let Some(email) = input.recipient.email() {
            for user in users::by_verified_email(tx.connection, email).await? {
                if tx.membership(organization.id, &user).await?.is_some() {
                    return Err(Refusal::AlreadyMember.into());
                }
            }
        }
        match invitations::pending(tx.connection, organization.id, &input.recipient).await? {
            Some((id, true)) => expire(tx, organization, &[id]).await?,
            Some((id, false)) => return Err(Refusal::InvitationPending { invitation_id: id.to_string() }.into()),
            None => {}
        }
        let counts = invitations::counts(tx.connection, organization.id).await?;
        if counts.pending >= self.settings.pending_per_organization.into() {
            return Err(
                Refusal::quota(Quota::PendingPerOrganization, self.settings.pending_per_organization, DAY).into()
            );
        }
        if counts.today >= self.settings.per_organization_and_day.into() {
            return Err(
                Refusal::quota(Quota::PerOrganizationAndDay, self.settings.per_organization_and_day, DAY).into()
            );
        }
        let delivery = delivery(&self.terms, &input.recipient);
        if delivery == Delivery::Email {
            mails.take(input.recipient.normal())?;
        }
        let new = invitations::NewInvitation {
            organization: organization.id,
            id: InvitationId::from_uuid(random::uuid()),
            recipient: input.recipient.clone(),
            role,
            makes_owner: self.makes_owner,
            attributes: input.attributes.clone(),
            locale: input.locale.clone(),
            inviter: self.inviter.clone(),
            life: self.terms.life,
            mail: delivery == Delivery::Email,
        };
        let invitation = invitations::insert(tx.connection, &new).await?.ok_or(Refusal::Conflict)?;
        let details = json!({ "invitation": invitation.id, "role": input.role, "makes_owner": self.makes_owner });
        tx.record_invitation(organization, EventType::InvitationCreated, details);
        let subject = if self.makes_owner { Subject::OwnerActivation } else { Subject::Invitation };
        deliver(tx, &invitation, delivery, subject(invitation.id), &self.inviter, false, self.terms.dry_run).await
    }
}

/// Takes one mail from the daily shares of the recipient's mailbox.
async fn take_mail(
    tx: &mut UnitOfWork<'_>,
    settings: &InvitationSettings,
    sender: &Inviter,
    recipient: &Recipient,
) -> Result<(), ServiceError> {
    let address = recipient.normal();
    Ok(MailReservation::new(tx, settings, sender, std::iter::once(address)).await?.take(address)?)
}

/// Delivers an invitation token: queues a mail, for which the token is minted when it is sent, or mints a token for the
/// answer.
async fn deliver(
    tx: &mut UnitOfWork<'_>,
    invitation: &Invitation,
    delivery: Delivery,
    subject: Subject,
    sender: &Inviter,
    rotate: bool,
    dry_run: bool,
) -> Result<IssuedInvitation, ServiceError> {
    let (organization, id) = (invitation.organization, invitation.id);
    if rotate {
        // Mails before tokens: this waits for a mail that is being claimed, and then deletes its token with the others.
        outbox::remove_about(tx.connection, organization, &[id]).await?;
        invitations::cancel_mail(tx.connection, organization, id).await?;
        invitation_tokens::drop_tokens(tx.connection, organization, id).await?;
    }
    let mut token = None;
    match delivery {
        Delivery::Email => {
            outbox::put(tx.connection, organization, random::uuid(), &subject, sender).await?;
        }
        Delivery::Token => {
            let (secret, hash) = tokens::mint();
            invitation_tokens::add_token(tx.connection, organization, id, &hash).await?;
            token = Some(secret).filter(|_| !dry_run);
        }
        Delivery::None => {}
    }
    if delivery != Delivery::None {
        invitations::count_send(tx.connection, organization, id, delivery == Delivery::Email).await?;
    }
    let invitation = invitations::get(tx.connection, organization, id).await?.ok_or(Refusal::Conflict)?;
    Ok(IssuedInvitation { invitation, token })
}

/// Reads a pending invitation of the locked organization.
async fn pending(
    tx: &mut UnitOfWork<'_>,
    organization: &Organization,
    id: InvitationId,
) -> Result<Invitation, ServiceError> {
    let invitation = invitations::get(tx.connection, organization.id, id).await?.ok_or(Refusal::InvitationNotFound)?;
    check_pending(&invitation)?;
    Ok(invitation)
}

/// Delivers a pending invitation again.
pub(super) struct Remind {
    pub(super) id: InvitationId,
    pub(super) terms: Terms,
    pub(super) rotate: bool,
    pub(super) caller: Caller,
    pub(super) inviter: Inviter,
    pub(super) settings: InvitationSettings,
}

impl OrganizationChange for Remind {
    type Answer = IssuedInvitation;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        grant: Grant,
    ) -> Result<IssuedInvitation, ServiceError> {
        check_writable(&organization)?;
        let invitation = pending(tx, &organization, self.id).await?;
        check_not_void(&invitation, &organization)?;
        grant.reaches(&tx.role(organization.id, &invitation.role.name).await?)?;
        // A pending invitation has its recipient.
        let recipient = invitation.recipient.as_ref().ok_or(Refusal::InvitationNotFound)?;
        check_delivery(&self.caller, &self.terms, self.settings.mail, std::iter::once(recipient))?;
        let delivery = delivery(&self.terms, recipient);
        if delivery == Delivery::None && !self.rotate {
            let advice = "a reminder needs a delivery: by e-mail, or the invitation token in the answer";
            return Err(Refusal::field("delivery", advice).into());
        }
        if invitation.sends >= i32::try_from(self.settings.sends_per_invitation).unwrap_or(i32::MAX) {
            return Err(Refusal::quota(Quota::SendsPerInvitation, self.settings.sends_per_invitation, DAY).into());
        }
        let cooldown = self.settings.cooldown;
        let seconds_left = invitations::cooldown_left(tx.connection, organization.id, self.id, cooldown).await?;
        if invitation.sends > 0 && seconds_left > 0 {
            return Err(Refusal::quota(Quota::Cooldown, 1, Duration::from_secs(seconds_left)).into());
        }
        if delivery == Delivery::Email {
            take_mail(tx, &self.settings, &self.inviter, recipient).await?;
        }
        tx.record_invitation(
            &mut organization,
            EventType::InvitationReminded,
            json!({ "invitation": self.id, "rotate": self.rotate }),
        );
        let subject =
            if invitation.makes_owner { Subject::OwnerActivation(self.id) } else { Subject::Reminder(self.id) };
        deliver(tx, &invitation, delivery, subject, &self.inviter, self.rotate, self.terms.dry_run).await
    }
}

/// Revokes a pending invitation.
pub(super) struct Revoke {
    pub(super) id: InvitationId,
}

impl OrganizationChange for Revoke {
    type Answer = Invitation;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        _: Grant,
    ) -> Result<Invitation, ServiceError> {
        check_writable(&organization)?;
        let invitation = pending(tx, &organization, self.id).await?;
        settle(tx, &mut organization, &invitation, InvitationState::Revoked, None).await?;
        let revoked = invitations::get(tx.connection, organization.id, self.id).await?;
        Ok(revoked.ok_or(Refusal::InvitationNotFound)?)
    }
}
