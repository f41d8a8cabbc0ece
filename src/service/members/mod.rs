//! Members. `add` adds them; `change` updates and removes them, and transfers ownership. This module has the inputs and
//! the methods of [`Roster`].

mod add;
mod change;

pub(super) use add::{AddOutcome, add};
pub(super) use change::{ownership_required, remove_deleted_user};

use super::invitations::inviter;
use super::write::{Meta, WriteResult};
use super::{ItemResult, Roster, ServiceError};
use crate::authn::Caller;
use crate::authz::decide::Access;
use crate::domain::{Attributes, EmailAddress, Inviter, Locale, Member, Organization, Refusal, RoleName, UserId};
use add::Ensure;
use change::Leave;
use serde::{Deserialize, Serialize};

/// A user as a request names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// The user's id; an unknown id creates a user without a profile.
    Id(UserId),
    /// An address that exactly one active user has verified.
    Email(EmailAddress),
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
    /// The sender of the mail to the new member; `None` to send no mail.
    pub notify: Option<Inviter>,
}

/// The members to add in one batch.
#[derive(Debug, Clone)]
pub struct BatchAddMembers {
    /// The members, at most 100.
    pub items: Vec<AddMember>,
    /// Whether one refused item refuses all of them.
    pub all_or_nothing: bool,
}

/// A member, and whether this call added the user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnsuredMember {
    /// The member, present or new.
    pub member: Member,
    /// Whether this call added the user.
    pub created: bool,
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

impl Roster {
    /// Adds a user as a member.
    ///
    /// # Errors
    /// `ALREADY_MEMBER`, `ROLE_ABOVE_CALLER`, `USER_NOT_FOUND`, `USER_INACTIVE`, `USER_DELETED`, `EMAIL_AMBIGUOUS`,
    /// `ORGANIZATION_INACTIVE`.
    pub async fn add_member(
        &self,
        access: Access,
        meta: Meta,
        input: AddMember,
    ) -> Result<WriteResult<Member>, ServiceError> {
        let input = self.with_notification(&access, input)?;
        let written = self.write_in(access, meta, input).await;
        self.mail_due.notify_one();
        written
    }

    /// Sets the sender of the mail to the new member. Only users named by address get a mail, and only if mail is on.
    fn with_notification(&self, access: &Access, input: AddMember) -> Result<AddMember, Refusal> {
        let by_address = matches!(input.person, Person::Email(_));
        let notify = if self.invitations.mail && by_address { Some(inviter(access.caller())?) } else { None };
        Ok(AddMember { notify, ..input })
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
        let input = self.with_notification(&access, input)?;
        let written = self.write_in(access, meta, Ensure(input)).await;
        self.mail_due.notify_one();
        written
    }

    /// Adds a batch of users. The answer has one result for each item, in the order of the items.
    ///
    /// # Errors
    /// `ORGANIZATION_INACTIVE`; an item is refused on its own with the other errors of [`Self::add_member`], or with
    /// `BATCH_ABORTED`.
    pub async fn batch_add_members(
        &self,
        access: Access,
        meta: Meta,
        input: BatchAddMembers,
    ) -> Result<WriteResult<Vec<ItemResult<Member>>>, ServiceError> {
        let items: Result<_, Refusal> =
            input.items.into_iter().map(|item| self.with_notification(&access, item)).collect();
        let written = self.write_in(access, meta, BatchAddMembers { items: items?, ..input }).await;
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
    /// `ORGANIZATION_PENDING`.
    pub async fn transfer_ownership(
        &self,
        access: Access,
        meta: Meta,
        input: TransferOwnership,
    ) -> Result<WriteResult<Organization>, ServiceError> {
        self.write_in(access, meta, input).await
    }
}
