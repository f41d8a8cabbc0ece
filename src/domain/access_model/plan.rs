//! The plan of a change: what differs between two models.

use super::validate::enumeration;
use super::{AccessModel, DeclaredPermission, DeclaredRole, WordSet, built_in};
use crate::domain::RoleName;
use crate::domain::named_enum::named_enum;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a change of the model adds, changes and removes, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelPlan {
    /// Permissions of the application that differ.
    pub permissions: Vec<PermissionChange>,
    /// Roles that differ.
    pub roles: Vec<RoleChange>,
    /// Permissions of roster that the roles of organizations may hold from now on.
    pub newly_delegable: WordSet,
    /// Permissions of roster that the roles of organizations may no longer hold.
    pub no_longer_delegable: WordSet,
    /// What the operator should know before the change.
    pub warnings: Vec<PlanWarning>,
}

named_enum! {
    /// How two models differ in a permission or a role.
    Difference else "no such difference";
    /// Only the new model has it.
    Added = "added",
    /// Both models have it, and it differs.
    Changed = "changed",
    /// Only the former model has it.
    Removed = "removed",
}

/// A permission of the application that is added, changed or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermissionChange {
    /// The permission before; `None` if it is added.
    pub before: Option<DeclaredPermission>,
    /// The permission after; `None` if it is removed.
    pub after: Option<DeclaredPermission>,
}

/// A role that is added, changed or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleChange {
    /// The name of the role.
    pub name: RoleName,
    /// The role as the former model lists it. `admin` and `member` exist without being listed.
    pub before: Option<DeclaredRole>,
    /// The role as the new model lists it.
    pub after: Option<DeclaredRole>,
    /// The permissions that members with the role gain.
    pub gained: WordSet,
    /// The permissions that members with the role lose.
    pub lost: WordSet,
}

/// What an operator should know before a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanWarning {
    /// `admin` lacks permissions of a role, so admins can neither grant nor take it away.
    RoleAboveAdmin {
        /// The name of the role.
        role: RoleName,
        /// The permissions that `admin` lacks.
        lacks: WordSet,
    },
    /// What `admin` or `member` hold changes, and differs from the built-in permissions that older clients assume.
    BuiltInRoleChanged {
        /// The name of the role.
        role: RoleName,
    },
}

impl ModelPlan {
    /// Compares two models.
    #[must_use]
    pub fn between(before: &AccessModel, after: &AccessModel) -> Self {
        let roles = role_changes(before, after);
        let warnings = warnings(after, &roles);
        Self {
            permissions: permission_changes(before, after),
            roles,
            newly_delegable: after.delegable().difference(before.delegable()).cloned().collect(),
            no_longer_delegable: before.delegable().difference(after.delegable()).cloned().collect(),
            warnings,
        }
    }

    /// Whether the models are equal. Warnings stand in the plan of equal models too.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.permissions.is_empty()
            && self.roles.is_empty()
            && self.newly_delegable.is_empty()
            && self.no_longer_delegable.is_empty()
    }

    /// Whether the change gives wrong answers in older clients, which assume the built-in permissions of `admin` and
    /// `member`.
    #[must_use]
    pub fn needs_older_clients_gone(&self) -> bool {
        self.warnings.iter().any(|warning| matches!(warning, PlanWarning::BuiltInRoleChanged { .. }))
    }
}

impl PermissionChange {
    /// The name of the permission.
    #[must_use]
    pub fn name(&self) -> &str {
        self.after.as_ref().or(self.before.as_ref()).map_or("", |permission| permission.name.as_str())
    }

    /// How the models differ.
    #[must_use]
    pub fn difference(&self) -> Difference {
        match (&self.before, &self.after) {
            (None, _) => Difference::Added,
            (Some(_), Some(_)) => Difference::Changed,
            (Some(_), None) => Difference::Removed,
        }
    }
}

impl RoleChange {
    /// How the models differ. `admin` and `member` exist in every model.
    #[must_use]
    pub fn difference(&self) -> Difference {
        match (&self.before, &self.after) {
            _ if self.is_built_in() => Difference::Changed,
            (None, _) => Difference::Added,
            (Some(_), Some(_)) => Difference::Changed,
            (Some(_), None) => Difference::Removed,
        }
    }

    /// Whether the role is `admin` or `member`.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        built_in::is_built_in(self.name.as_str())
    }

    /// Whether the role exists in no organization any more. `admin` and `member` always exist.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        self.after.is_none() && self.before.as_ref().is_some_and(|role| !built_in::is_built_in(role.name.as_str()))
    }

    /// Whether the role stays and no longer exists for a kind for which it existed.
    #[must_use]
    pub fn is_taken_from_a_kind(&self) -> bool {
        let (Some(before), Some(after)) = (&self.before, &self.after) else { return false };
        after.kind.is_some() && before.kind != after.kind
    }
}

impl fmt::Display for PlanWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoleAboveAdmin { role, lacks } => {
                let words: Vec<&str> = lacks.iter().map(|word| &**word).collect();
                let (role, words) = (role.as_str(), enumeration(&words));
                write!(f, "admins cannot add, change or remove members with the role {role}: admin lacks {words}")
            }
            Self::BuiltInRoleChanged { role } => write!(
                f,
                "the change of {} gives wrong answers in clients of older releases, which assume its built-in \
                 permissions: update every client first, then confirm that older clients are gone",
                role.as_str()
            ),
        }
    }
}

fn permission_changes(before: &AccessModel, after: &AccessModel) -> Vec<PermissionChange> {
    let names: BTreeSet<_> =
        before.permissions().iter().chain(after.permissions()).map(|permission| &permission.name).collect();
    let changes = names.into_iter().map(|name| PermissionChange {
        before: before.permission(name.as_str()).cloned(),
        after: after.permission(name.as_str()).cloned(),
    });
    changes.filter(|change| change.before != change.after).collect()
}

fn role_changes(before: &AccessModel, after: &AccessModel) -> Vec<RoleChange> {
    let roles = before.roles().iter().chain(after.roles());
    let names: BTreeMap<&str, &RoleName> = roles.map(|role| (role.name.as_str(), &role.name)).collect();
    let changes = names.into_iter().map(|(text, name)| {
        let held_before = before.words_of(text).unwrap_or_default();
        let held_after = after.words_of(text).unwrap_or_default();
        RoleChange {
            name: name.clone(),
            before: before.role(text).cloned(),
            after: after.role(text).cloned(),
            gained: held_after.difference(&held_before).cloned().collect(),
            lost: held_before.difference(&held_after).cloned().collect(),
        }
    });
    changes.filter(|change| change.before != change.after).collect()
}

fn warnings(after: &AccessModel, changes: &[RoleChange]) -> Vec<PlanWarning> {
    let admin = after.words_of(RoleName::ADMIN.as_str()).unwrap_or_default();
    let above = after.roles().iter().filter_map(|role| {
        let lacks: WordSet = role.permissions.difference(&admin).cloned().collect();
        (!lacks.is_empty()).then(|| PlanWarning::RoleAboveAdmin { role: role.name.clone(), lacks })
    });
    let built_in = changes.iter().filter_map(|change| {
        let is_changed = !change.gained.is_empty() || !change.lost.is_empty();
        let differs = built_in::words_of(change.name.as_str())
            .is_some_and(|words| after.words_of(change.name.as_str()).is_some_and(|held| *held != words));
        (is_changed && differs).then(|| PlanWarning::BuiltInRoleChanged { role: change.name.clone() })
    });
    above.chain(built_in).collect()
}
