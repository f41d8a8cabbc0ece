//! Checks: whether a user is a member of an organization, has a role there, or has a permission there.

use super::role::built_in_permissions;
use super::{
    Invalid, OrganizationRef, OrganizationState, Permission, Role, RoleName, Standing, UserId, UserState, ValueKind,
};

/// The condition that a check tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Is the user a member at all?
    Member,
    /// Holds the user every permission of this role? Only the owner has the role `owner`.
    Role(RoleName),
    /// Has the user this permission?
    Permission(Permission),
}

/// A check: one user, one organization, one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The organization, by id or slug.
    pub organization: OrganizationRef,
    /// The user that the question is about.
    pub user: UserId,
    /// The condition to test.
    pub question: Question,
}

impl Check {
    /// Tests whether the user is a member of the organization, which is named by id or slug.
    ///
    /// # Errors
    /// If the organization is neither an id nor a slug, or the user is not a user id.
    pub fn member(organization: &str, user: &str) -> Result<Self, Invalid> {
        let (organization, user) = (OrganizationRef::parse(organization)?, UserId::parse(user)?);
        Ok(Self { organization, user, question: Question::Member })
    }

    /// Tests whether the user has at least this role in the organization.
    ///
    /// # Errors
    /// If the organization is neither an id nor a slug, or the user is not a user id.
    pub fn role(organization: &str, user: &str, role: RoleName) -> Result<Self, Invalid> {
        Ok(Self { question: Question::Role(role), ..Self::member(organization, user)? })
    }

    /// Tests whether the user has this permission in the organization.
    ///
    /// # Errors
    /// If the organization is neither an id nor a slug, or the user is not a user id.
    pub fn permission(organization: &str, user: &str, permission: Permission) -> Result<Self, Invalid> {
        Ok(Self { question: Question::Permission(permission), ..Self::member(organization, user)? })
    }
}

/// The reason for the answer of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckReason {
    /// The answer is yes.
    Allowed,
    /// The user is not a member of the organization.
    NotAMember,
    /// The organization does not exist or is deleted.
    OrganizationNotFound,
    /// The organization is inactive.
    OrganizationInactive,
    /// The organization has no owner yet.
    OrganizationPending,
    /// The user is deactivated.
    UserInactive,
    /// The user's role lacks a permission of the role in the question.
    RoleTooLow,
    /// The user's role does not include the permission in the question.
    RoleLacksPermission,
    /// No answer: it depends on a value that this program does not know, because a newer one stored it.
    ValueUnknown,
}

/// Answers a question from a user's standing in an organization.
///
/// Reasons about the organization take precedence over reasons about the user, and both over reasons about the
/// membership.
#[must_use]
pub fn answer(question: &Question, standing: &Standing) -> CheckReason {
    let role = standing.role.as_ref().map(Role::require).transpose();
    match standing.organization.map(|organization| organization.state) {
        None | Some(OrganizationState::Deleted) => return CheckReason::OrganizationNotFound,
        Some(OrganizationState::Unknown) => return CheckReason::ValueUnknown,
        // The answer carries the role.
        Some(_) if role.is_err() => return CheckReason::ValueUnknown,
        Some(OrganizationState::Inactive) => return CheckReason::OrganizationInactive,
        Some(OrganizationState::Pending) => return CheckReason::OrganizationPending,
        Some(OrganizationState::Active) => {}
    }
    match standing.user_state {
        Some(UserState::Inactive) => return CheckReason::UserInactive,
        Some(UserState::Unknown) => return CheckReason::ValueUnknown,
        None | Some(UserState::Active | UserState::Erased) => {}
    }
    let Ok(Some(permissions)) = role else { return CheckReason::NotAMember };
    match question {
        Question::Role(required)
            if !built_in_permissions(required).is_some_and(|required| permissions.includes(&required)) =>
        {
            CheckReason::RoleTooLow
        }
        Question::Permission(required) if !permissions.contains(*required) => CheckReason::RoleLacksPermission,
        Question::Member | Question::Role(_) | Question::Permission(_) => CheckReason::Allowed,
    }
}

/// What the value is for which [`answer`] is [`CheckReason::ValueUnknown`].
#[must_use]
pub fn unknown_value(standing: &Standing) -> ValueKind {
    let is_role_known = standing.role.as_ref().is_none_or(Role::is_known);
    match standing.organization.map(|organization| organization.state) {
        Some(OrganizationState::Unknown) => ValueKind::OrganizationState,
        _ if is_role_known => ValueKind::UserState,
        _ => ValueKind::Role,
    }
}

/// The user's role and the organization's revision, which go out with the answer. The role is `None` if the user is not
/// a member; both are absent (`None`, 0) if the answer is [`CheckReason::OrganizationNotFound`] or
/// [`CheckReason::ValueUnknown`].
#[must_use]
pub fn role_and_revision(reason: CheckReason, standing: &Standing) -> (Option<RoleName>, i64) {
    let organization = standing
        .organization
        .filter(|_| !matches!(reason, CheckReason::OrganizationNotFound | CheckReason::ValueUnknown));
    let role = standing.role.as_ref().filter(|role| role.is_known()).map(|role| role.name.clone());
    (organization.and(role), organization.map_or(0, |organization| organization.revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BucketPosition, OrganizationHead, OrganizationId};

    fn standing(state: OrganizationState, role: Option<Role>, user_state: Option<UserState>) -> Standing {
        let head = OrganizationHead { id: OrganizationId::from_uuid(uuid::Uuid::nil()), state, revision: 1 };
        let at = BucketPosition::start(0);
        Standing { organization: Some(head), role, user_state, position: Some(at), user_position: at }
    }

    #[test]
    fn roles_include_lower_ones_and_permissions_follow_the_table() {
        let admin = standing(OrganizationState::Active, Some(Role::ADMIN), None);
        assert_eq!(answer(&Question::Member, &admin), CheckReason::Allowed);
        assert_eq!(answer(&Question::Role(RoleName::MEMBER), &admin), CheckReason::Allowed);
        assert_eq!(answer(&Question::Role(RoleName::OWNER), &admin), CheckReason::RoleTooLow);
        assert_eq!(answer(&Question::Permission(Permission::MEMBERS_ADD), &admin), CheckReason::Allowed);
        assert_eq!(
            answer(&Question::Permission(Permission::OWNERSHIP_TRANSFER), &admin),
            CheckReason::RoleLacksPermission
        );
    }

    #[test]
    fn an_unknown_value_is_no_answer() {
        let active = standing(OrganizationState::Active, None, None);
        let role = || Some(Role::read("auditor"));
        for question in
            [Question::Member, Question::Role(RoleName::MEMBER), Question::Permission(Permission::ORGANIZATION_READ)]
        {
            for state in [OrganizationState::Active, OrganizationState::Inactive, OrganizationState::Pending] {
                let auditor = Standing { role: role(), ..standing(state, None, Some(UserState::Inactive)) };
                assert_eq!(answer(&question, &auditor), CheckReason::ValueUnknown);
                assert_eq!(unknown_value(&auditor), ValueKind::Role);
                assert_eq!(role_and_revision(CheckReason::ValueUnknown, &auditor), (None, 0));
            }
            let deleted = Standing { role: role(), ..standing(OrganizationState::Deleted, None, None) };
            assert_eq!(answer(&question, &deleted), CheckReason::OrganizationNotFound);
            let suspended = standing(OrganizationState::Unknown, Some(Role::OWNER), None);
            assert_eq!(answer(&question, &suspended), CheckReason::ValueUnknown);
            assert_eq!(unknown_value(&suspended), ValueKind::OrganizationState);
            let locked = Standing { user_state: Some(UserState::Unknown), ..active.clone() };
            assert_eq!(answer(&question, &locked), CheckReason::ValueUnknown);
            assert_eq!(unknown_value(&locked), ValueKind::UserState);
        }
    }

    #[test]
    fn states_take_precedence_over_roles() {
        let owner = Some(Role::OWNER);
        for (state, reason) in [
            (OrganizationState::Deleted, CheckReason::OrganizationNotFound),
            (OrganizationState::Inactive, CheckReason::OrganizationInactive),
            (OrganizationState::Pending, CheckReason::OrganizationPending),
        ] {
            assert_eq!(answer(&Question::Member, &standing(state, owner.clone(), Some(UserState::Inactive))), reason);
        }
        let deactivated = standing(OrganizationState::Active, owner, Some(UserState::Inactive));
        assert_eq!(answer(&Question::Member, &deactivated), CheckReason::UserInactive);
        assert_eq!(
            answer(&Question::Member, &standing(OrganizationState::Active, None, None)),
            CheckReason::NotAMember
        );
    }
}
