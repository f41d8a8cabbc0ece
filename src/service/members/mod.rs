//! Members: added (`add`), changed, removed, leaving, and the owner among them (`change`). Here is what can be asked for.

mod add;
mod change;

pub(super) use add::{AddOutcome, add};
pub(super) use change::{ownership_required, remove_deleted_user};

use super::invitations::inviter;
use super::write::{Meta, WriteResult};
use super::{Roster, ServiceError};
use crate::authn::Caller;
use crate::authz::decide::Access;
use crate::domain::{Attributes, EmailAddress, Inviter, Member, Organization, Refusal, Role, UserId};
use add::Ensure;
use change::Leave;
use serde::{Deserialize, Serialize};

/// A user, as a request names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// By id.
    Id(UserId),
    /// By an address that one active user has verified.
    Email(EmailAddress),
}

/// Somebody to add.
#[derive(Debug, Clone)]
pub struct AddMember {
    /// Who.
    pub person: Person,
    /// As what.
    pub role: Role,
    /// What the deployment keeps about the membership.
    pub attributes: Attributes,
    /// Who tells them by mail, if anybody does.
    pub notify: Option<Inviter>,
}

/// Whom to add, many at once.
#[derive(Debug, Clone)]
pub struct BatchAddMembers {
    /// Whom: at most 100.
    pub items: Vec<AddMember>,
    /// All of them or none.
    pub all_or_nothing: bool,
}

/// A member, and whether this call made them one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnsuredMember {
    /// The member.
    pub member: Member,
    /// Whether this call added them.
    pub created: bool,
}

/// What to change about a member; what is none stays.
#[derive(Debug, Clone)]
pub struct UpdateMember {
    /// Whom.
    pub user: UserId,
    /// The new role.
    pub role: Option<Role>,
    /// The new attributes.
    pub attributes: Option<Attributes>,
    /// The etag that was read, if the change hangs on it.
    pub etag: Option<String>,
}

/// Whom to remove.
#[derive(Debug, Clone)]
pub struct RemoveMember {
    /// Whom.
    pub user: UserId,
    /// The etag that was read, if the change hangs on it.
    pub etag: Option<String>,
}

/// Whom to hand the organization to.
#[derive(Debug, Clone)]
pub struct TransferOwnership {
    /// To whom.
    pub person: Person,
    /// The etag of the organization that was read, if the change hangs on it.
    pub etag: Option<String>,
}

impl Roster {
    /// Adds a user.
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
        let input = self.with_notice(&access, input)?;
        let written = self.write_in(access, meta, input).await;
        self.mail_due.notify_one();
        written
    }

    /// Who is added by address is told by mail, where mail is sent.
    fn with_notice(&self, access: &Access, input: AddMember) -> Result<AddMember, Refusal> {
        let by_address = matches!(input.person, Person::Email(_));
        let notify = if self.invitations.mail && by_address { Some(inviter(access.caller())?) } else { None };
        Ok(AddMember { notify, ..input })
    }

    /// Adds a user, or finds them there.
    ///
    /// # Errors
    /// As [`Self::add_member`], but never `ALREADY_MEMBER`.
    pub async fn ensure_member(
        &self,
        access: Access,
        meta: Meta,
        input: AddMember,
    ) -> Result<WriteResult<EnsuredMember>, ServiceError> {
        let input = self.with_notice(&access, input)?;
        let written = self.write_in(access, meta, Ensure(input)).await;
        self.mail_due.notify_one();
        written
    }

    /// Adds many users: one outcome for each, in their order.
    ///
    /// # Errors
    /// `ORGANIZATION_INACTIVE`; each item fails for itself with the reasons of [`Self::add_member`].
    pub async fn batch_add_members(
        &self,
        access: Access,
        meta: Meta,
        input: BatchAddMembers,
    ) -> Result<WriteResult<Vec<Result<Member, Refusal>>>, ServiceError> {
        let items: Result<_, Refusal> = input.items.into_iter().map(|item| self.with_notice(&access, item)).collect();
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

    /// Lets the calling user leave.
    ///
    /// # Errors
    /// `CALLER_NOT_ALLOWED` for who is not a user, `OWNERSHIP_REQUIRED`, `ORGANIZATION_INACTIVE`.
    pub async fn leave_organization(&self, access: Access, meta: Meta) -> Result<WriteResult<Member>, ServiceError> {
        let Caller::User(user) = access.caller() else {
            let caller = access.caller().actor().map_or("nobody", |actor| actor.kind.as_str()).to_owned();
            let advice = "only users leave; use RemoveMember, or act on behalf of the user".to_owned();
            return Err(Refusal::CallerNotAllowed { caller, advice }.into());
        };
        let user = user.id.clone();
        self.write_in(access, meta, Leave { user }).await
    }

    /// Hands an organization to another member.
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
