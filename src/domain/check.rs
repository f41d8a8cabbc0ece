//! Checks: whether a user is a member of an organization, has a role there, or has a permission there.

use super::{
    Invalid, OrganizationRef, OrganizationState, Permission, PermissionName, PermissionSet, RoleName, StandingView,
    UserId, UserState, ValueKind,
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
    /// Has the user the permission with this word, which this process had not seen in an access model?
    NewPermission(PermissionName),
}

impl Question {
    /// The role that the question names, if it is one of the organization's own.
    #[must_use]
    pub fn organization_role(&self) -> Option<&RoleName> {
        match self {
            Self::Role(name) if name.is_of_organization() => Some(name),
            Self::Member | Self::Role(_) | Self::Permission(_) | Self::NewPermission(_) => None,
        }
    }

    /// The permission or the role that the question requires, with what the role holds by the tables of this standing.
    fn requirement<'t>(&self, standing: &StandingView<'t>) -> Result<CheckRequirement<'t>, UndeclaredWord> {
        let permission = match self {
            Self::Member => return Ok(CheckRequirement::Membership),
            Self::Role(name) if name.is_of_organization() => {
                return Ok(standing
                    .named_role
                    .map_or(CheckRequirement::NoSuchRole, |role| CheckRequirement::Role(role.permissions)));
            }
            Self::Role(name) if standing.roles.has(name) => {
                return Ok(CheckRequirement::Role(standing.roles.permissions(name)));
            }
            Self::Role(_) => return Err(UndeclaredWord::Role),
            Self::Permission(permission) => Some(*permission),
            Self::NewPermission(name) => Permission::find(name.as_str()),
        };
        let declared = permission.filter(|permission| standing.roles.declared().contains(*permission));
        declared.map(CheckRequirement::Permission).ok_or(UndeclaredWord::Permission)
    }
}

/// What a question requires of the user's role.
enum CheckRequirement<'t> {
    Membership,
    Permission(Permission),
    /// What this role holds; `None` if this program does not know it.
    Role(Option<&'t PermissionSet>),
    /// The organization does not define the role in the question.
    NoSuchRole,
}

/// A question names something that the access model does not declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UndeclaredWord {
    /// The permission of the question.
    Permission,
    /// The role, which is not one of an organization.
    Role,
}

impl UndeclaredWord {
    /// The field of a check that names it.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Permission => "permission",
            Self::Role => "role",
        }
    }

    /// The sentence for the caller.
    #[must_use]
    pub fn invalid(self) -> Invalid {
        match self {
            Self::Permission => Invalid::new("no such permission: the access model does not declare it"),
            Self::Role => Invalid::new("no such role: the access model does not have it"),
        }
    }
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
    /// The organization does not define the role in the question.
    RoleNotFound,
    /// The user's role lacks a permission of the role in the question.
    RoleTooLow,
    /// The user's role does not include the permission in the question.
    RoleLacksPermission,
    /// No answer: it depends on a value that this program does not know, because a newer one stored it.
    ValueUnknown,
}

/// Answers a question from a user's standing in an organization.
///
/// Reasons about the organization take precedence over reasons about the user, both over a role that does not exist, and
/// all over reasons about the membership.
///
/// # Errors
/// If the question names a permission or a role of the deployment that the role table of the standing does not have.
pub fn answer(question: &Question, standing: &StandingView<'_>) -> Result<CheckReason, UndeclaredWord> {
    let requirement = question.requirement(standing)?;
    let reason = state_reason(standing).unwrap_or_else(|| role_reason(&requirement, standing));
    Ok(reason)
}

/// Answers the question whether the user is a member at all, as [`answer`] does.
#[must_use]
pub fn membership(standing: &StandingView<'_>) -> CheckReason {
    state_reason(standing).unwrap_or_else(|| role_reason(&CheckRequirement::Membership, standing))
}

/// Whether the role of the user holds what the question requires, whatever the states of the organization and the user are.
#[must_use]
pub fn role_suffices(question: &Question, standing: &StandingView<'_>) -> bool {
    let requirement = question.requirement(standing);
    requirement.is_ok_and(|requirement| role_reason(&requirement, standing) == CheckReason::Allowed)
}

/// The reason that lies in the state of the organization or of the user; `None` if the role decides.
fn state_reason(standing: &StandingView<'_>) -> Option<CheckReason> {
    let is_role_known = standing.role.is_none_or(|role| role.permissions.is_some());
    match standing.organization.map(|organization| organization.state) {
        None | Some(OrganizationState::Deleted) => return Some(CheckReason::OrganizationNotFound),
        Some(OrganizationState::Unknown) => return Some(CheckReason::ValueUnknown),
        // The answer carries the role.
        Some(_) if !is_role_known => return Some(CheckReason::ValueUnknown),
        Some(OrganizationState::Inactive) => return Some(CheckReason::OrganizationInactive),
        Some(OrganizationState::Pending) => return Some(CheckReason::OrganizationPending),
        Some(OrganizationState::Active) => {}
    }
    match standing.user_state {
        Some(UserState::Inactive) => Some(CheckReason::UserInactive),
        Some(UserState::Unknown) => Some(CheckReason::ValueUnknown),
        None | Some(UserState::Active | UserState::Erased) => None,
    }
}

fn role_reason(requirement: &CheckRequirement<'_>, standing: &StandingView<'_>) -> CheckReason {
    let permissions = standing.role.and_then(|role| role.permissions);
    match (requirement, permissions) {
        (CheckRequirement::NoSuchRole, _) => CheckReason::RoleNotFound,
        (_, None) => CheckReason::NotAMember,
        (CheckRequirement::Role(None), Some(_)) => CheckReason::ValueUnknown,
        (CheckRequirement::Role(Some(required)), Some(held)) if !held.includes(required) => CheckReason::RoleTooLow,
        (CheckRequirement::Permission(required), Some(held)) if !held.contains(*required) => {
            CheckReason::RoleLacksPermission
        }
        (CheckRequirement::Membership | CheckRequirement::Role(_) | CheckRequirement::Permission(_), Some(_)) => {
            CheckReason::Allowed
        }
    }
}

/// What the value is for which [`answer`] is [`CheckReason::ValueUnknown`].
#[must_use]
pub fn unknown_value(standing: &StandingView<'_>) -> ValueKind {
    let is_role_known = standing.role.is_none_or(|role| role.permissions.is_some());
    match (standing.organization.map(|organization| organization.state), standing.user_state) {
        (Some(OrganizationState::Unknown), _) => ValueKind::OrganizationState,
        (_, Some(UserState::Unknown)) if is_role_known => ValueKind::UserState,
        // The user's own role, or the role in the question.
        _ => ValueKind::Role,
    }
}

/// The user's role and the organization's revision, which go out with the answer. The role is `None` if the user is not
/// a member; both are absent (`None`, 0) if the answer is [`CheckReason::OrganizationNotFound`] or
/// [`CheckReason::ValueUnknown`].
#[must_use]
pub fn role_and_revision<'t>(reason: CheckReason, standing: &StandingView<'t>) -> (Option<&'t RoleName>, i64) {
    let organization = standing
        .organization
        .filter(|_| !matches!(reason, CheckReason::OrganizationNotFound | CheckReason::ValueUnknown));
    let role = standing.role.filter(|role| role.permissions.is_some()).map(|role| role.name);
    (organization.and(role), organization.map_or(0, |organization| organization.revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access_model::AccessModel;
    use crate::domain::{BucketPosition, OrganizationHead, OrganizationId, Role, RoleTable, RoleView, Standing};
    use serde_json::json;

    fn standing(state: OrganizationState, role: Option<Role>, user_state: Option<UserState>) -> Standing {
        let head = OrganizationHead { id: OrganizationId::from_uuid(uuid::Uuid::nil()), state, revision: 1 };
        let at = BucketPosition::start(0);
        let organization = Some(head);
        Standing { organization, role, user_state, reinstated_at: None, position: Some(at), user_position: at }
    }

    fn answer(question: &Question, standing: &Standing) -> CheckReason {
        super::answer(question, &standing.view(&RoleTable::built_in())).unwrap()
    }

    fn unknown_value(standing: &Standing) -> ValueKind {
        super::unknown_value(&standing.view(&RoleTable::built_in()))
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
                assert_eq!(
                    role_and_revision(CheckReason::ValueUnknown, &auditor.view(&RoleTable::built_in())),
                    (None, 0)
                );
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

    fn table() -> RoleTable {
        let model = json!({
            "permissions": [{ "name": "billing.check-read" }],
            "roles": [
                { "name": "accountant", "permissions": ["billing.check-read", "members.list"] },
                { "name": "newer", "permissions": ["teams.check-manage"] },
            ],
        });
        RoleTable::new(1, &AccessModel::from_stored(&model).unwrap())
    }

    #[test]
    fn a_role_in_the_question_means_every_permission_that_it_holds() {
        let (table, name) = (table(), |name: &str| RoleName::parse(name).unwrap());
        let of = |role: &str| standing(OrganizationState::Active, Some(table.role(name(role))), None);
        let ask = |question: Question, role: &str| super::answer(&question, &of(role).view(&table));
        assert_eq!(ask(Question::Role(name("accountant")), "accountant"), Ok(CheckReason::Allowed));
        assert_eq!(ask(Question::Role(name("accountant")), "owner"), Ok(CheckReason::Allowed));
        // Neither role includes the other.
        assert_eq!(ask(Question::Role(name("accountant")), "admin"), Ok(CheckReason::RoleTooLow));
        assert_eq!(ask(Question::Role(name("member")), "accountant"), Ok(CheckReason::RoleTooLow));
        assert_eq!(ask(Question::Role(name("owner")), "accountant"), Ok(CheckReason::RoleTooLow));
        let read = Question::NewPermission(PermissionName::parse("billing.check-read").unwrap());
        assert_eq!(ask(read.clone(), "accountant"), Ok(CheckReason::Allowed));
        assert_eq!(ask(read, "admin"), Ok(CheckReason::RoleLacksPermission));
        assert_eq!(ask(Question::Role(name("newer")), "admin"), Ok(CheckReason::ValueUnknown));
        assert_eq!(super::unknown_value(&of("admin").view(&table)), ValueKind::Role);
    }

    #[test]
    fn what_the_model_does_not_declare_is_refused_whatever_the_standing() {
        let (table, name) = (table(), RoleName::parse("auditor").unwrap());
        let removed = Permission::declare("billing.check-removed").unwrap();
        let new = PermissionName::parse("billing.check-new").unwrap();
        for standing in [
            standing(OrganizationState::Active, Some(Role::OWNER), None),
            standing(OrganizationState::Deleted, None, Some(UserState::Inactive)),
        ] {
            let ask = |question| super::answer(&question, &standing.view(&table));
            assert_eq!(ask(Question::Role(name.clone())), Err(UndeclaredWord::Role));
            assert_eq!(ask(Question::Permission(removed)), Err(UndeclaredWord::Permission));
            assert_eq!(ask(Question::NewPermission(new.clone())), Err(UndeclaredWord::Permission));
        }
    }

    #[test]
    fn a_role_that_the_organization_does_not_have_is_answered_with_no() {
        let (table, name) = (table(), RoleName::parse("org:auditor").unwrap());
        let question = Question::Role(name.clone());
        let owner = standing(OrganizationState::Active, Some(Role::OWNER), None);
        let set = PermissionSet::of(&[Permission::MEMBERS_READ]);
        let named = |permissions| Some(RoleView { name: &name, permissions });
        let ask = |role: Option<Role>, named_role| {
            let standing = Standing { role, ..owner.clone() };
            let view = StandingView { named_role, ..standing.view(&table) };
            super::answer(&question, &view).unwrap()
        };
        for role in [None, Some(Role::OWNER), Some(Role::MEMBER)] {
            assert_eq!(ask(role, None), CheckReason::RoleNotFound);
        }
        assert_eq!(ask(Some(Role::ADMIN), named(Some(&set))), CheckReason::Allowed);
        assert_eq!(ask(Some(Role::MEMBER), named(Some(&set))), CheckReason::RoleTooLow);
        assert_eq!(ask(None, named(Some(&set))), CheckReason::NotAMember);
        assert_eq!(ask(Some(Role::ADMIN), named(None)), CheckReason::ValueUnknown);
    }
}
