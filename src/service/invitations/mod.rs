//! Invitations: made, sent again, taken back, listed. What the one invited does with them is in `answers`.

pub mod respond;
pub(super) mod tokens;

use crate::authn::{Caller, Secret};
use crate::authz::decide::{Access, Grant};
use crate::domain::event::EventType;
use crate::domain::{
    Attributes, Delivery, EmailAddress, Invitation, InvitationId, InvitationState, Inviter, Organization,
    OrganizationId, Quota, Recipient, Refusal, Role,
};
use crate::random;
use crate::service::limits;
use crate::service::write::preconditions::check_writable;
use crate::service::write::unit_of_work::UnitOfWork;
use crate::service::write::{Meta, OrganizationChange, WriteResult};
use crate::service::{Roster, ServiceError};
use crate::store::outbox::{self, Subject};
use crate::store::{invitation_tokens, invitations, memberships, quotas, users};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::time::Duration;

pub use crate::store::invitation_tokens::InvitationPreview;
pub use crate::store::invitations::{InvitationFilter, InvitationPageKey};

/// What a deployment allows, and whether it sends mail. Reported by these names when one is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvitationSettings {
    /// Whether mail is sent at all.
    pub mail: bool,
    /// Pending invitations of one organization.
    pub pending_per_organization: u32,
    /// Invitations that one organization makes in 24 hours.
    pub per_organization_and_day: u32,
    /// How often one invitation is sent or its token given out.
    pub sends_per_invitation: u32,
    /// Time between two sendings of one invitation.
    pub cooldown: Duration,
    /// Mails to one recipient in 24 hours, over all organizations; plus-addresses count together.
    pub mails_per_recipient_and_day: u32,
    /// Tokens that are no good, by one caller in a minute.
    pub failed_tokens_per_minute: u32,
}

impl Default for InvitationSettings {
    fn default() -> Self {
        Self {
            mail: false,
            pending_per_organization: 100,
            per_organization_and_day: 50,
            sends_per_invitation: 10,
            cooldown: Duration::from_mins(1),
            mails_per_recipient_and_day: 3,
            failed_tokens_per_minute: 20,
        }
    }
}

/// Whom to invite.
#[derive(Debug, Clone)]
pub struct Invite {
    /// Whom.
    pub recipient: Recipient,
    /// As what.
    pub role: Role,
    /// What the deployment will keep about the membership.
    pub attributes: Attributes,
}

/// How all of one call's invitations are made.
#[derive(Debug, Clone)]
pub struct Terms {
    /// How the token gets there; none: by mail to an address, not at all to anything else.
    pub delivery: Option<Delivery>,
    /// How long they are good.
    pub life: Duration,
    /// Nothing is to happen: no token is told that would be good for nothing.
    pub dry_run: bool,
}

/// An invitation, and its token if that was asked for. The token is told once: it is not written down with the answer.
#[derive(Serialize, Deserialize)]
pub struct IssuedInvitation {
    /// The invitation.
    pub invitation: Invitation,
    /// The token.
    #[serde(skip)]
    pub token: Option<Secret>,
}

impl Roster {
    /// Invites somebody.
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
        let first = written.answer.into_iter().next().ok_or(Refusal::Conflict)??;
        Ok(WriteResult { answer: first, token: written.token })
    }

    /// Invites many: one outcome for each, in their order.
    ///
    /// # Errors
    /// `ORGANIZATION_INACTIVE`, `MAIL_OFF`, `CALLER_NOT_ALLOWED`; each item fails for itself with the others of
    /// [`Self::invite`].
    pub async fn invite_all(
        &self,
        access: Access,
        meta: Meta,
        inputs: Vec<Invite>,
        terms: Terms,
    ) -> Result<WriteResult<Vec<Result<IssuedInvitation, Refusal>>>, ServiceError> {
        check_delivery(access.caller(), &terms, self.invitations.mail, inputs.iter().map(|input| &input.recipient))?;
        let inviter = inviter(access.caller())?;
        let settings = (*self.invitations).clone();
        let written =
            self.write_in(access, meta, InviteAll { inputs, terms, inviter, settings, makes_owner: false }).await;
        self.mail_due.notify_one();
        written
    }

    /// Sends a pending invitation again.
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

    /// Takes an invitation back.
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

    /// Reads one invitation of an organization.
    ///
    /// # Errors
    /// `INVITATION_NOT_FOUND`.
    pub async fn get_invitation(&self, access: &Access, id: InvitationId) -> Result<Invitation, ServiceError> {
        let found = invitations::get(&mut *self.pool.acquire().await?, access.organization(), id).await?;
        Ok(found.ok_or(Refusal::InvitationNotFound)?)
    }

    /// Lists an organization's invitations.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_invitations(
        &self,
        access: &Access,
        filter: &InvitationFilter,
    ) -> Result<Vec<Invitation>, ServiceError> {
        Ok(invitations::list(&mut *self.pool.acquire().await?, access.organization(), filter).await?)
    }
}

/// Who invites or adds, as it is written down.
pub(super) fn inviter(caller: &Caller) -> Result<Inviter, Refusal> {
    let actor = caller.actor().ok_or(Refusal::CredentialMissing)?;
    Ok(Inviter { kind: actor.kind, id: actor.id })
}

/// Whether a caller may be told a token: backends, which deliver it; not a person, who could answer with it.
fn may_have_token(caller: &Caller) -> bool {
    match caller {
        Caller::Service(_) | Caller::Operator(_) => true,
        Caller::User(user) => user.via.is_some(),
        Caller::Anonymous => false,
    }
}

/// How this one's token gets there.
fn delivery(terms: &Terms, recipient: &Recipient) -> Delivery {
    match (terms.delivery, recipient) {
        (Some(delivery), _) => delivery,
        (None, Recipient::Email(_)) => Delivery::Email,
        (None, Recipient::Other(_)) => Delivery::None,
    }
}

pub(super) fn check_delivery<'r>(
    caller: &Caller,
    terms: &Terms,
    mail: bool,
    recipients: impl Iterator<Item = &'r Recipient>,
) -> Result<(), Refusal> {
    for recipient in recipients {
        match (delivery(terms, recipient), recipient) {
            (Delivery::Token, _) if !may_have_token(caller) => {
                let advice = "tokens are told to backends; ask for delivery by e-mail".to_owned();
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

pub(super) fn quota(limit: Quota, most: u32, wait: Duration) -> Refusal {
    Refusal::QuotaExceeded { limit, most: most.into(), retry_seconds: wait.as_secs() }
}

const DAY: Duration = Duration::from_hours(24);

/// Makes the invitations of one call.
pub(super) struct InviteAll {
    pub(super) inputs: Vec<Invite>,
    pub(super) terms: Terms,
    pub(super) inviter: Inviter,
    pub(super) settings: InvitationSettings,
    pub(super) makes_owner: bool,
}

impl OrganizationChange for InviteAll {
    type Answer = Vec<Result<IssuedInvitation, Refusal>>;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        grant: Grant,
    ) -> Result<Self::Answer, ServiceError> {
        check_writable(&organization)?;
        self.invite(tx, &mut organization, grant).await
    }
}

impl InviteAll {
    /// Invites into the locked organization.
    pub(super) async fn invite(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: &mut Organization,
        grant: Grant,
    ) -> Result<Vec<Result<IssuedInvitation, Refusal>>, ServiceError> {
        let mut results: Vec<Option<Result<IssuedInvitation, Refusal>>> = self.inputs.iter().map(|_| None).collect();
        // In the order of the rows that count mails, one for each mailbox: two calls must not wait in a circle.
        let mut order: Vec<usize> = (0..self.inputs.len()).collect();
        order.sort_by_cached_key(|replica| mail_subject(&self.inputs[*replica].recipient));
        for replica in order {
            results[replica] = Some(match self.invite_one(tx, organization, grant, &self.inputs[replica]).await {
                Ok(invited) => Ok(invited),
                Err(ServiceError::Refused(refusal)) => Err(refusal),
                Err(error) => return Err(error),
            });
        }
        Ok(results.into_iter().flatten().collect())
    }

    async fn invite_one(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: &mut Organization,
        grant: Grant,
        input: &Invite,
    ) -> Result<IssuedInvitation, ServiceError> {
        grant.reaches(input.role)?;
        if let Some(email) = input.recipient.email() {
            for user in users::by_verified_email(tx.connection, email).await? {
                if memberships::get(tx.connection, organization.id, &user).await?.is_some() {
                    return Err(Refusal::AlreadyMember.into());
                }
            }
        }
        for id in invitations::expire(tx.connection, organization.id, &input.recipient).await? {
            tx.note_invitation(organization, EventType::InvitationExpired, json!({ "invitation": id }));
        }
        if let Some(id) = invitations::pending(tx.connection, organization.id, &input.recipient).await? {
            return Err(Refusal::InvitationPending { invitation_id: id.to_string() }.into());
        }
        let counts = invitations::counts(tx.connection, organization.id).await?;
        if counts.pending >= self.settings.pending_per_organization.into() {
            return Err(quota(Quota::PendingPerOrganization, self.settings.pending_per_organization, DAY).into());
        }
        if counts.today >= self.settings.per_organization_and_day.into() {
            return Err(quota(Quota::PerOrganizationAndDay, self.settings.per_organization_and_day, DAY).into());
        }
        let delivery = delivery(&self.terms, &input.recipient);
        if delivery == Delivery::Email {
            take_mail(tx, &self.settings, &input.recipient).await?;
        }
        let new = invitations::NewInvitation {
            organization: organization.id,
            id: InvitationId::from_uuid(random::uuid()),
            recipient: input.recipient.clone(),
            role: input.role,
            makes_owner: self.makes_owner,
            attributes: input.attributes.clone(),
            inviter: self.inviter.clone(),
            life: self.terms.life,
            mail: delivery == Delivery::Email,
        };
        let invitation = invitations::insert(tx.connection, &new).await?.ok_or(Refusal::Conflict)?;
        let told = json!({ "invitation": invitation.id, "role": input.role, "makes_owner": self.makes_owner });
        tx.note_invitation(organization, EventType::InvitationCreated, told);
        let subject = if self.makes_owner { Subject::OwnerActivation } else { Subject::Invitation };
        deliver(tx, &invitation, delivery, subject(invitation.id), &self.inviter, false, self.terms.dry_run).await
    }
}

/// Takes one of the recipient's mails of the day.
async fn take_mail(
    tx: &mut UnitOfWork<'_>,
    settings: &InvitationSettings,
    recipient: &Recipient,
) -> Result<(), ServiceError> {
    let most = settings.mails_per_recipient_and_day;
    let subject = mail_subject(recipient);
    if quotas::take(tx.connection, &subject, i32::try_from(most).unwrap_or(i32::MAX), DAY).await? {
        return Ok(());
    }
    Err(quota(Quota::MailsPerRecipientAndDay, most, DAY).into())
}

/// The recipient, hashed, for counting mails: what stands behind a plus sign does not make another mailbox.
fn mail_subject(recipient: &Recipient) -> [u8; 32] {
    let normal = recipient.normal();
    let (local, domain) = normal.rsplit_once('@').unwrap_or((normal, ""));
    let local = local.split_once('+').map_or(local, |(mailbox, _)| mailbox);
    Sha256::digest(format!("mail\0{local}@{domain}")).into()
}

/// Sees to it that the token gets there: a mail in the outbox, which mints one when it is sent, or one for the answer.
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
        // The mails first: one that is being claimed is waited for, and its token dies with the others.
        outbox::remove_about(tx.connection, organization, id).await?;
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

/// Reads a pending invitation of the locked organization, or says what it has become.
async fn pending(
    tx: &mut UnitOfWork<'_>,
    organization: &Organization,
    id: InvitationId,
) -> Result<Invitation, ServiceError> {
    let found = invitations::get(tx.connection, organization.id, id).await?.ok_or(Refusal::InvitationNotFound)?;
    check_pending(&found)?;
    Ok(found)
}

/// Says what an invitation has become, where it is not pending.
pub(super) fn check_pending(invitation: &Invitation) -> Result<(), Refusal> {
    match invitation.state {
        InvitationState::Pending => Ok(()),
        other => Err(Refusal::InvitationNotPending { state: other.as_str().to_owned() }),
    }
}

struct Remind {
    id: InvitationId,
    terms: Terms,
    rotate: bool,
    caller: Caller,
    inviter: Inviter,
    settings: InvitationSettings,
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
        grant.reaches(invitation.role)?;
        check_delivery(&self.caller, &self.terms, self.settings.mail, std::iter::once(&invitation.recipient))?;
        let delivery = delivery(&self.terms, &invitation.recipient);
        if invitation.sends >= i32::try_from(self.settings.sends_per_invitation).unwrap_or(i32::MAX) {
            return Err(quota(Quota::SendsPerInvitation, self.settings.sends_per_invitation, DAY).into());
        }
        let cooldown = self.settings.cooldown;
        let left = invitations::cooldown_left(tx.connection, organization.id, self.id, cooldown).await?;
        if invitation.sends > 0 && left > 0 {
            return Err(quota(Quota::Cooldown, 1, Duration::from_secs(left)).into());
        }
        if delivery == Delivery::Email {
            take_mail(tx, &self.settings, &invitation.recipient).await?;
        }
        tx.note_invitation(
            &mut organization,
            EventType::InvitationReminded,
            json!({ "invitation": self.id, "rotate": self.rotate }),
        );
        let subject =
            if invitation.makes_owner { Subject::OwnerActivation(self.id) } else { Subject::Reminder(self.id) };
        deliver(tx, &invitation, delivery, subject, &self.inviter, self.rotate, self.terms.dry_run).await
    }
}

struct Revoke {
    id: InvitationId,
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
        let now = invitations::get(tx.connection, organization.id, self.id).await?;
        Ok(now.ok_or(Refusal::InvitationNotFound)?)
    }
}

/// Moves a pending invitation to another state, with its event; its waiting mails go.
pub(super) async fn settle(
    tx: &mut UnitOfWork<'_>,
    organization: &mut Organization,
    invitation: &Invitation,
    to: InvitationState,
    accepted_by: Option<&crate::domain::UserId>,
) -> Result<(), ServiceError> {
    // Mails before invitations, here and everywhere: one order of locks, that of the outbox too.
    outbox::remove_about(tx.connection, organization.id, invitation.id).await?;
    if !invitations::settle(tx.connection, invitation, to, accepted_by).await? {
        // Under the organization's lock only the clock can have come in between.
        return Err(Refusal::InvitationNotPending { state: InvitationState::Expired.as_str().to_owned() }.into());
    }
    let kind = match to {
        InvitationState::Accepted => EventType::InvitationAccepted,
        InvitationState::Declined => EventType::InvitationDeclined,
        InvitationState::Revoked => EventType::InvitationRevoked,
        InvitationState::Pending | InvitationState::Expired => EventType::InvitationExpired,
    };
    tx.note_invitation(organization, kind, json!({ "invitation": invitation.id }));
    Ok(())
}

/// Revokes what is pending in the locked organization: all of it, or what went to one address.
pub(super) async fn revoke_all(
    tx: &mut UnitOfWork<'_>,
    organization: &mut Organization,
    address: Option<&EmailAddress>,
) -> Result<(), ServiceError> {
    outbox::remove_pending(tx.connection, organization.id, address).await?;
    for id in invitations::revoke_all(tx.connection, organization.id, address).await? {
        tx.note_invitation(organization, EventType::InvitationRevoked, json!({ "invitation": id }));
    }
    Ok(())
}

/// How long an invitation is good, as a caller wishes it.
///
/// # Errors
/// If it is too short or too long.
pub fn life(input: Option<Duration>) -> Result<Duration, crate::domain::Invalid> {
    match input {
        None => Ok(limits::INVITATION_LIFE),
        Some(life) if limits::INVITATION_LIVES.contains(&life) => Ok(life),
        Some(_) => Err(crate::domain::Invalid::new("an invitation is good for an hour to 30 days")),
    }
}

/// Which organization and invitation a use case is about.
pub(super) type InvitationKey = (OrganizationId, InvitationId);
