//! The question that roster is for, and its answer.

use super::{Invalid, OrganizationRef, OrganizationState, Permission, Role, Standing, UserId, UserState};

/// What is asked about a user in an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Is the user a member at all?
    Member,
    /// Has the user at least this role?
    Role(Role),
    /// Has the user this permission?
    Permission(Permission),
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Where.
    pub organization: OrganizationRef,
    /// Who.
    pub user: UserId,
    /// What.
    pub question: Question,
}

impl Check {
    /// Is the user a member of the organization, named by id or slug?
    ///
    /// # Errors
    /// If either is no name at all.
    pub fn member(organization: &str, user: &str) -> Result<Self, Invalid> {
        let (organization, user) = (OrganizationRef::parse(organization)?, UserId::parse(user)?);
        Ok(Self { organization, user, question: Question::Member })
    }

    /// Has the user at least this role there?
    ///
    /// # Errors
    /// If either is no name at all.
    pub fn role(organization: &str, user: &str, role: Role) -> Result<Self, Invalid> {
        Ok(Self { question: Question::Role(role), ..Self::member(organization, user)? })
    }

    /// Has the user this permission there?
    ///
    /// # Errors
    /// If either is no name at all.
    pub fn permission(organization: &str, user: &str, permission: Permission) -> Result<Self, Invalid> {
        Ok(Self { question: Question::Permission(permission), ..Self::member(organization, user)? })
    }
}

/// Why a check is answered as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckReason {
    /// Yes.
    Allowed,
    /// The user is not in the organization.
    NotAMember,
    /// No such organization, or a deleted one.
    OrganizationNotFound,
    /// The organization is switched off.
    OrganizationInactive,
    /// The organization has no owner yet.
    OrganizationPending,
    /// The user is switched off.
    UserInactive,
    /// The user's role is smaller than the one asked for.
    RoleTooLow,
    /// The user's role does not hold the permission asked for.
    RoleLacksPermission,
}

/// Answers a question from what is known of the user and the organization. What holds for the organization is said
/// before what holds for the user, and both before what holds for the membership.
#[must_use]
pub fn answer(question: Question, standing: &Standing) -> CheckReason {
    match standing.organization.map(|organization| organization.state) {
        None | Some(OrganizationState::Deleted) => return CheckReason::OrganizationNotFound,
        Some(OrganizationState::Inactive) => return CheckReason::OrganizationInactive,
        Some(OrganizationState::Pending) => return CheckReason::OrganizationPending,
        Some(OrganizationState::Active) => {}
    }
    if standing.user_state == Some(UserState::Inactive) {
        return CheckReason::UserInactive;
    }
    let Some(role) = standing.role else { return CheckReason::NotAMember };
    match question {
        Question::Role(asked) if role < asked => CheckReason::RoleTooLow,
        Question::Permission(asked) if !role.permissions().contains(asked) => CheckReason::RoleLacksPermission,
        Question::Member | Question::Role(_) | Question::Permission(_) => CheckReason::Allowed,
    }
}

/// What is said to a question beside the answer: the user's role, none for who is not a member, and the organization's
/// revision, 0 for one that is not there.
#[must_use]
pub fn beside(reason: CheckReason, standing: &Standing) -> (Option<Role>, i64) {
    let there = standing.organization.filter(|_| reason != CheckReason::OrganizationNotFound);
    (there.and(standing.role), there.map_or(0, |organization| organization.revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BucketPosition, OrganizationHead, OrganizationId};

    fn standing(state: OrganizationState, role: Option<Role>, user_state: Option<UserState>) -> Standing {
        let head = OrganizationHead { id: OrganizationId::from_uuid(uuid::Uuid::nil()), state, revision: 1 };
        let at = BucketPosition { bucket: 0, position: 0 };
        Standing { organization: Some(head), role, user_state, position: Some(at), user_position: at }
    }

    #[test]
    fn roles_include_smaller_ones_and_permissions_follow_the_table() {
        let admin = standing(OrganizationState::Active, Some(Role::ADMIN), None);
        assert_eq!(answer(Question::Member, &admin), CheckReason::Allowed);
        assert_eq!(answer(Question::Role(Role::MEMBER), &admin), CheckReason::Allowed);
        assert_eq!(answer(Question::Role(Role::OWNER), &admin), CheckReason::RoleTooLow);
        assert_eq!(answer(Question::Permission(Permission::MembersAdd), &admin), CheckReason::Allowed);
        assert_eq!(
            answer(Question::Permission(Permission::OwnershipTransfer), &admin),
            CheckReason::RoleLacksPermission
        );
    }

    #[test]
    fn states_come_before_roles() {
        let owner = Some(Role::OWNER);
        for (state, reason) in [
            (OrganizationState::Deleted, CheckReason::OrganizationNotFound),
            (OrganizationState::Inactive, CheckReason::OrganizationInactive),
            (OrganizationState::Pending, CheckReason::OrganizationPending),
        ] {
            assert_eq!(answer(Question::Member, &standing(state, owner, Some(UserState::Inactive))), reason);
        }
        let switched_off = standing(OrganizationState::Active, owner, Some(UserState::Inactive));
        assert_eq!(answer(Question::Member, &switched_off), CheckReason::UserInactive);
        assert_eq!(answer(Question::Member, &standing(OrganizationState::Active, None, None)), CheckReason::NotAMember);
    }
}
