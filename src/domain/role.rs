//! Roles as memberships and invitations hold them: a name, and the permissions behind it.
//!
//! The permissions are resolved where a row or a slot is read. Decisions compare sets of permissions, and never names,
//! except for `owner`. "At least this role" means: every permission that the role holds.

use super::permission::Permission as P;
use super::{Invalid, PermissionSet, Refusal, RoleName, ValueKind};
use serde::{Deserialize, Serialize};

/// The permissions of `member`, unless the access model says otherwise.
pub const MEMBER_PERMISSIONS: PermissionSet =
    PermissionSet::of(&[P::ORGANIZATION_READ, P::MEMBERS_LIST, P::MEMBERSHIP_LEAVE]);

/// The permissions of `admin`, unless the access model says otherwise.
pub const ADMIN_PERMISSIONS: PermissionSet = PermissionSet::of(&[
    P::ORGANIZATION_READ,
    P::MEMBERS_LIST,
    P::MEMBERSHIP_LEAVE,
    P::ORGANIZATION_UPDATE,
    P::MEMBERS_READ,
    P::MEMBERS_ADD,
    P::MEMBERS_UPDATE,
    P::MEMBERS_REMOVE,
    P::INVITATIONS_CREATE,
    P::INVITATIONS_READ,
    P::INVITATIONS_MANAGE,
    P::EVENTS_READ,
    P::ROLES_READ,
]);

/// The permissions of a role that always exists, unless the access model says otherwise: it cannot for `owner`, which
/// holds everything. `None` for every other name.
#[must_use]
pub fn built_in_permissions(name: &RoleName) -> Option<PermissionSet> {
    [
        (RoleName::MEMBER, MEMBER_PERMISSIONS),
        (RoleName::ADMIN, ADMIN_PERMISSIONS),
        (RoleName::OWNER, PermissionSet::EVERYTHING),
    ]
    .into_iter()
    .find_map(|(built_in, permissions)| (built_in == *name).then_some(permissions))
}

/// A role as a membership or an invitation holds it.
///
/// Its text form is the name alone, as releases up to 0.3 read and write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RoleName", into = "RoleName")]
pub struct Role {
    /// The name of the role.
    pub name: RoleName,
    /// The permissions that it holds; `None` if this program does not know the role: no decision is made from it.
    pub permissions: Option<PermissionSet>,
}

impl Role {
    /// The role of the owner.
    pub const OWNER: Self = Self { name: RoleName::OWNER, permissions: Some(PermissionSet::EVERYTHING) };

    /// The role of an administrator, without an access model.
    pub const ADMIN: Self = Self { name: RoleName::ADMIN, permissions: Some(ADMIN_PERMISSIONS) };

    /// The role of a plain member, without an access model.
    pub const MEMBER: Self = Self { name: RoleName::MEMBER, permissions: Some(MEMBER_PERMISSIONS) };

    /// A role that this program does not know, of which not even the name was kept.
    #[must_use]
    pub fn unknown() -> Self {
        RoleView::UNKNOWN.to_role()
    }

    /// A role with the permissions that it has without an access model.
    #[must_use]
    pub fn built_in(name: RoleName) -> Self {
        Self { permissions: built_in_permissions(&name), name }
    }

    /// Parses the name of a role that this program knows.
    ///
    /// # Errors
    /// If there is no such role.
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        let role = Self::built_in(RoleName::parse(name)?);
        if role.is_known() { Ok(role) } else { Err(Invalid::new("no such role: one of owner, admin, member")) }
    }

    /// Parses the name of a role that a membership may store.
    ///
    /// # Errors
    /// If there is no such role, or the name is `owner`.
    pub fn parse_assignable(name: &str) -> Result<Self, Invalid> {
        let role = Self::built_in(RoleName::parse_assignable(name)?);
        if role.is_known() { Ok(role) } else { Err(Invalid::new("no such role: one of admin, member")) }
    }

    /// Reads a stored role.
    #[must_use]
    pub fn read(name: &str) -> Self {
        Self::built_in(RoleName::from_stored(name))
    }

    /// The role, lent.
    #[must_use]
    pub fn view(&self) -> RoleView<'_> {
        RoleView { name: &self.name, permissions: self.permissions.as_ref() }
    }

    /// Whether this program knows the role.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.permissions.is_some()
    }

    /// The permissions of the role, for a decision that depends on them.
    ///
    /// # Errors
    /// [`Refusal::ValueUnknown`] if this program does not know the role.
    pub fn require(&self) -> Result<&PermissionSet, Refusal> {
        self.permissions.as_ref().ok_or(Refusal::ValueUnknown { value: ValueKind::Role })
    }
}

/// A [`Role`] that a table lends: a decision that is made at once needs no copy of what the role holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleView<'t> {
    /// The name of the role.
    pub name: &'t RoleName,
    /// The permissions that it holds; `None` if this program does not know the role.
    pub permissions: Option<&'t PermissionSet>,
}

impl RoleView<'static> {
    /// The role of the owner.
    pub const OWNER: Self = Self { name: OWNER_NAME, permissions: Some(EVERYTHING) };

    /// A role that this program does not know, of which not even the name was kept.
    pub const UNKNOWN: Self = Self { name: &RoleName::UNKNOWN, permissions: None };
}

const OWNER_NAME: &RoleName = &RoleName::OWNER;
const EVERYTHING: &PermissionSet = &PermissionSet::EVERYTHING;

impl RoleView<'_> {
    /// Whether it is [`RoleView::UNKNOWN`].
    #[must_use]
    pub fn is_unknown(self) -> bool {
        self.permissions.is_none() && *self.name == RoleName::UNKNOWN
    }

    /// A copy of the role.
    #[must_use]
    pub fn to_role(self) -> Role {
        Role { name: self.name.clone(), permissions: self.permissions.cloned() }
    }
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        Self::built_in(name)
    }
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        role.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_built_in_role_includes_the_one_before() {
        let sets = [MEMBER_PERMISSIONS, ADMIN_PERMISSIONS, PermissionSet::EVERYTHING];
        for pair in sets.windows(2) {
            assert!(pair[1].includes(&pair[0]) && !pair[0].includes(&pair[1]));
        }
    }

    #[test]
    fn stored_roles_are_read_and_written_as_bare_names() {
        for (name, is_known) in [("admin", true), ("owner", true), ("auditor", false), ("org:x", false), ("", false)] {
            let role = Role::read(name);
            assert_eq!((role.name.as_str(), role.is_known()), (name, is_known));
            // Release 0.2.0 reads and writes the bare text.
            let json = format!("{name:?}");
            assert_eq!(serde_json::to_string(&role).ok(), Some(json.clone()));
            assert_eq!(serde_json::from_str(&json).ok(), Some(role));
        }
    }
}
