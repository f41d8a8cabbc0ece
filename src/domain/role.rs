//! The role table: the only definition of the roles and their permissions.
//!
//! Elsewhere a role is a value with a rank and a set of permissions. No other code compares role names, so that
//! organizations can define their own roles one day.

use super::permission::Permission as P;
use super::{Invalid, PermissionSet};
use serde::{Deserialize, Serialize};

/// One row of the role table.
struct RoleDefinition {
    name: &'static str,
    permissions: PermissionSet,
}

const MEMBER: PermissionSet = PermissionSet::of(&[P::ORGANIZATION_READ, P::MEMBERS_LIST, P::MEMBERSHIP_LEAVE]);
const ADMIN: PermissionSet = PermissionSet::of(&[
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
]);
const OWNER: PermissionSet = PermissionSet::EVERYTHING;

/// In ascending order: each role includes the roles before it.
const TABLE: [RoleDefinition; 3] = [
    RoleDefinition { name: "member", permissions: MEMBER },
    RoleDefinition { name: "admin", permissions: ADMIN },
    RoleDefinition { name: "owner", permissions: OWNER },
];

/// A role. Ordered: a greater role includes every smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub struct Role(u8);

impl Role {
    /// The role of a plain member.
    pub const MEMBER: Self = Self(0);
    /// The role of an administrator. A former owner keeps it, and the owner's own membership stores it: the database
    /// rejects an owner whose membership stores another role.
    pub const ADMIN: Self = Self(1);
    /// The role of the owner. Never stored in a membership and never granted: ownership moves by transfer only.
    pub const OWNER: Self = Self(2);

    /// Finds a role by name.
    ///
    /// # Errors
    /// If no role has this name.
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        (0u8..)
            .zip(&TABLE)
            .find(|(_, definition)| definition.name == name)
            .map(|(index, _)| Self(index))
            .ok_or_else(|| Invalid::new("no such role: one of owner, admin, member"))
    }

    /// Finds a role that a membership may store.
    ///
    /// # Errors
    /// If no role has this name, or the name is `owner`.
    pub fn parse_assignable(name: &str) -> Result<Self, Invalid> {
        match Self::parse(name) {
            Ok(Self::OWNER) => Err(Invalid::new("ownership is not a role to assign: use TransferOwnership")),
            Ok(role) => Ok(role),
            Err(_) => Err(Invalid::new("no such role: one of admin, member")),
        }
    }

    /// The name of the role.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        TABLE[usize::from(self.0)].name
    }

    /// The index in the role table: a one-byte form for the replica's tables. Valid within one process only.
    #[must_use]
    pub fn index(self) -> u8 {
        self.0
    }

    /// The role at this index of the role table.
    #[must_use]
    pub fn from_index(index: u8) -> Option<Self> {
        (usize::from(index) < TABLE.len()).then_some(Self(index))
    }

    /// The permissions of the role.
    #[must_use]
    pub fn permissions(self) -> PermissionSet {
        TABLE[usize::from(self.0)].permissions.clone()
    }
}

impl From<Role> for &'static str {
    fn from(role: Role) -> Self {
        role.as_str()
    }
}

impl TryFrom<String> for Role {
    type Error = Invalid;
    fn try_from(name: String) -> Result<Self, Invalid> {
        Self::parse(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_includes_the_lower_ones() {
        for pair in TABLE.windows(2) {
            assert!(pair[1].permissions.includes(&pair[0].permissions));
            assert!(!pair[0].permissions.includes(&pair[1].permissions));
        }
        assert!(Role::OWNER > Role::ADMIN && Role::ADMIN > Role::MEMBER);
    }

    #[test]
    fn ownership_cannot_be_assigned() {
        assert!(Role::parse("owner").is_ok());
        assert!(Role::parse_assignable("owner").is_err());
        assert!(Role::parse_assignable("Admin").is_err());
    }
}
