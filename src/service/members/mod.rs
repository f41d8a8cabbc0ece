//! Members. `add` adds them; `notification` mails to new ones; `change` updates and removes them, and transfers ownership.
//! This module has the inputs and the methods of [`Roster`].

mod add;
mod change;
mod notification;

pub(super) use add::{AddOutcome, add};
pub(super) use change::{ownership_required, remove_deleted_user};

use super::invitations::inviter;
use super::write::{Meta, WriteAnswer, WriteResult};
use super::{ItemResult, Roster, ServiceError};
use crate::authn::Caller;
use crate::authz::decide::Access;
use crate::domain::{Attributes, EmailAddress, Locale, Member, Organization, Refusal, RoleName, User, UserId};
use add::{Add, AddAll, Ensure};
use change::{Leave, Transfer};
use notification::Notifier;
use serde::{Deserialize, Serialize};

/// A user as a request names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// The user's id; an unknown id creates a user without a profile.
    Id(UserId),
    /// An address that exactly one active user has verified.
    Email(EmailAddress),
}

/// Whether a new member gets a mail about the membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberNotification {
    /// A mail to a user whom the request names by address; none to a user named by id.
    Default,
    /// A mail to the user's verified address, if there is one.
    Email,
    /// No mail by roster.
    None,
}

/// The member to add.
#[derive(Debug, Clone)]
pub struct AddMember {
    /// The user to add.
    pub person: Person,
    /// The role; ignored for the first member of a pending organization, who becomes the owner.
    pub role: RoleName,
    /// The deployment's own data about the membership.
    pub attributes: Attributes,
    /// The locale of the mail to the new member; `None` for that of the deployment.
    pub locale: Option<Locale>,
    /// Whether the new member gets a mail.
    pub notify: MemberNotification,
}

/// The members to add in one batch.
#[derive(Debug, Clone)]
pub struct BatchAddMembers {
    /// The members, at most 100.
    pub items: Vec<AddMember>,
    /// Whether one refused item refuses all of them.
    pub all_or_nothing: bool,
}

/// A new member, and whether a mail to the user is queued.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddedMember {
    /// The member as added.
    #[serde(flatten)]
    pub member: Member,
    /// Whether a mail about the membership is queued. Releases up to 0.3 stored answers without it.
    #[serde(default)]
    pub notified: bool,
}

impl WriteAnswer for AddedMember {
    fn users(&mut self) -> Vec<&mut User> {
        vec![&mut self.member.user]
    }
}

/// A member, and whether this call added the user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnsuredMember {
    /// The member, present or new.
    pub member: Member,
    /// Whether this call added the user.
    pub created: bool,
    /// Whether a mail about the membership is queued, as in [`AddedMember`].
    #[serde(default)]
    pub notified: bool,
}

impl WriteAnswer for EnsuredMember {
    fn users(&mut self) -> Vec<&mut User> {
        vec![&mut self.member.user]
    }
}

/// The changes of a member. Fields that are `None` stay unchanged.
#[derive(Debug, Clone)]
pub struct UpdateMember {
    /// The user whose membership changes.
    pub user: UserId,
    /// The new role.
    pub role: Option<RoleName>,
    /// The new attributes.
    pub attributes: Option<Attributes>,
    /// The expected etag of the membership; `None` to skip the check.
    pub etag: Option<String>,
}

/// The member to remove.
#[derive(Debug, Clone)]
pub struct RemoveMember {
    /// The user whose membership ends.
    pub user: UserId,
    /// The expected etag of the membership; `None` to skip the check.
    pub etag: Option<String>,
}

/// The new owner of an organization.
#[derive(Debug, Clone)]
pub struct TransferOwnership {
    /// The new owner: a member of the organization.
    pub person: Person,
    /// The expected etag of the organization; `None` to skip the check.
    pub etag: Option<String>,
}

/// Whether ownership may be transferred to a user who is not known. Operators pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownOwners {
    /// It may. The answer says whether the new owner is known.
    #[default]
    Allow,
    /// It is refused with `NEW_OWNER_UNKNOWN`.
    Refuse,
}

/// The outcome of a transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransferredOwnership {
    /// The organization with its new owner. Servers of former releases store and read nothing else.
    #[serde(flatten)]
    pub organization: Organization,
    /// Whether the new owner is known: see [`User::is_known`](crate::domain::User::is_known). True in answers that a
    /// former release stored.
    #[serde(default = "known")]
    pub new_owner_known: bool,
}

impl WriteAnswer for TransferredOwnership {}

fn known() -> bool {
    true
}

impl Roster {
    /// Adds a user as a member.
    ///
    /// # Errors
    /// `ALREADY_MEMBER`, `ROLE_ABOVE_CALLER`, `USER_NOT_FOUND`, `USER_INACTIVE`, `USER_DELETED`, `EMAIL_AMBIGUOUS`,
    /// `ORGANIZATION_INACTIVE`, `MAIL_OFF`.
    pub async fn add_member(
        &self,
        access: Access,
        meta: Meta,
        input: AddMember,
    ) -> Result<WriteResult<AddedMember>, ServiceError> {
        let notifier = self.notifier(&access, [&input])?;
        let written = self.write_in(access, meta, Add { input, notifier }).await;
        self.mail_due.notify_one();
        written
    }

    /// The sender of the mails to new members. The caller may ask for them if mail is on.
    fn notifier<'i>(
        &self,
        access: &Access,
        inputs: impl IntoIterator<Item = &'i AddMember>,
    ) -> Result<Notifier, Refusal> {
        let settings = (*self.invitations).clone();
        if !settings.mail && inputs.into_iter().any(|input| input.notify == MemberNotification::Email) {
            return Err(Refusal::MailOff);
        }
        Ok(Notifier { sender: inviter(access.caller())?, settings })
    }

    /// Adds a user as a member, or finds the existing membership.
    ///
    /// # Errors
    /// The errors of [`Self::add_member`], except `ALREADY_MEMBER`.
    pub async fn ensure_member(
        &self,
        access: Access,
        meta: Meta,
        input: AddMember,
    ) -> Result<WriteResult<EnsuredMember>, ServiceError> {
        let notifier = self.notifier(&access, [&input])?;
        let written = self.write_in(access, meta, Ensure { input, notifier }).await;
        self.mail_due.notify_one();
        written
    }

    /// Adds a batch of users. The answer has one result for each item, in the order of the items.
    ///
    /// # Errors
    /// `ORGANIZATION_INACTIVE`, `MAIL_OFF`; an item is refused on its own with the other errors of [`Self::add_member`], or with
    /// `BATCH_ABORTED`.
    pub async fn batch_add_members(
        &self,
        access: Access,
        meta: Meta,
        input: BatchAddMembers,
    ) -> Result<WriteResult<Vec<ItemResult<AddedMember>>>, ServiceError> {
        let notifier = self.notifier(&access, &input.items)?;
        let written = self.write_in(access, meta, AddAll { batch: input, notifier }).await;
        self.mail_due.notify_one();
        written
    }

    /// Changes a member.
    ///
    /// # Errors
    /// `MEMBER_NOT_FOUND`, `OWNERSHIP_REQUIRED`, `ROLE_ABOVE_CALLER`, `ETAG_MISMATCH`, `ORGANIZATION_INACTIVE`.
    pub async fn update_member(
        &self,
        access: Access,
        meta: Meta,
        input: UpdateMember,
    ) -> Result<WriteResult<Member>, ServiceError> {
        self.write_in(access, meta, input).await
    }

    /// Removes a member.
    ///
    /// # Errors
    /// `MEMBER_NOT_FOUND`, `OWNERSHIP_REQUIRED`, `ROLE_ABOVE_CALLER`, `ETAG_MISMATCH`, `ORGANIZATION_INACTIVE`.
    pub async fn remove_member(
        &self,
        access: Access,
        meta: Meta,
        input: RemoveMember,
    ) -> Result<WriteResult<Member>, ServiceError> {
        self.write_in(access, meta, input).await
    }

    /// Removes the calling user from the organization.
    ///
    /// # Errors
    /// `CALLER_NOT_ALLOWED` if the caller is not a user, `OWNERSHIP_REQUIRED`, `ORGANIZATION_INACTIVE`.
    pub async fn leave_organization(&self, access: Access, meta: Meta) -> Result<WriteResult<Member>, ServiceError> {
        let Caller::User(user) = access.caller() else {
            let caller = access.caller().actor().map_or("anonymous", |actor| actor.kind.as_str()).to_owned();
            let advice = "only users leave; use RemoveMember, or act on behalf of the user".to_owned();
            return Err(Refusal::CallerNotAllowed { caller, advice }.into());
        };
        let user = user.id.clone();
        self.write_in(access, meta, Leave { user }).await
    }

    /// Transfers the ownership of an organization to another member.
    ///
    /// # Errors
    /// `TARGET_NOT_MEMBER`, `USER_INACTIVE`, `USER_NOT_FOUND`, `EMAIL_AMBIGUOUS`, `ETAG_MISMATCH`,
    /// `ORGANIZATION_PENDING`, `NEW_OWNER_UNKNOWN`.
    pub async fn transfer_ownership(
        &self,
        access: Access,
        meta: Meta,
        input: TransferOwnership,
    ) -> Result<WriteResult<TransferredOwnership>, ServiceError> {
        self.write_in(access, meta, Transfer { input, to_unknown: self.transfer_to_unknown }).await
    }
}
