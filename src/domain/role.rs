//! The role table: the one place that knows which roles there are and what each may do.
//!
//! Elsewhere a role is a value with a rank and a set of permissions; no other code compares role names, so that
//! organizations can one day define their own.

use super::permission::{Permission as P, PermissionSet};
use super::{Invalid, Permission};
use serde::{Deserialize, Serialize};

/// One row of the table.
struct RoleDefinition {
    name: &'static str,
    permissions: PermissionSet,
}

const MEMBER: PermissionSet = PermissionSet::of(&[P::OrganizationRead, P::MembersList, P::MembershipLeave]);
const ADMIN: PermissionSet = MEMBER.union(PermissionSet::of(&[
    P::OrganizationUpdate,
    P::MembersRead,
    P::MembersAdd,
    P::MembersUpdate,
    P::MembersRemove,
    P::InvitationsCreate,
    P::InvitationsRead,
    P::InvitationsManage,
    P::EventsRead,
]));
const OWNER: PermissionSet = PermissionSet::of(Permission::ALL);

/// Ascending: each role includes the ones before it.
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
    /// What everybody in an organization has.
    pub const MEMBER: Self = Self(0);
    /// What a first member gets, what a former owner keeps, and what the owner's own membership holds: the database
    /// refuses an owner whose membership says anything else.
    pub const ADMIN: Self = Self(1);
    /// The one owner. Never stored in a membership and never granted: ownership moves by transfer only.
    pub const OWNER: Self = Self(2);

    /// Finds a role by name.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        (0u8..)
            .zip(&TABLE)
            .find(|(_, definition)| definition.name == name)
            .map(|(index, _)| Self(index))
            .ok_or_else(|| Invalid::new("no such role: one of owner, admin, member"))
    }

    /// Finds a role that a membership may hold.
    ///
    /// # Errors
    /// If there is none of that name, or if it is `owner`.
    pub fn parse_assignable(name: &str) -> Result<Self, Invalid> {
        match Self::parse(name) {
            Ok(Self::OWNER) => Err(Invalid::new("ownership is not a role to assign: use TransferOwnership")),
            Ok(role) => Ok(role),
            Err(_) => Err(Invalid::new("no such role: one of admin, member")),
        }
    }

    /// The role's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        TABLE[usize::from(self.0)].name
    }

    /// Its place in the table: what stands for it where bytes are counted. Good within one process only.
    #[must_use]
    pub fn index(self) -> u8 {
        self.0
    }

    /// The role at this place of the table.
    #[must_use]
    pub fn from_index(index: u8) -> Option<Self> {
        (usize::from(index) < TABLE.len()).then_some(Self(index))
    }

    /// What it may do.
    #[must_use]
    pub fn permissions(self) -> PermissionSet {
        TABLE[usize::from(self.0)].permissions
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
    fn each_role_includes_the_smaller_ones() {
        for pair in TABLE.windows(2) {
            assert!(pair[1].permissions.includes(pair[0].permissions));
            assert!(!pair[0].permissions.includes(pair[1].permissions));
        }
        assert!(Role::OWNER > Role::ADMIN && Role::ADMIN > Role::MEMBER);
    }

    #[test]
    fn ownership_is_not_assigned() {
        assert!(Role::parse("owner").is_ok());
        assert!(Role::parse_assignable("owner").is_err());
        assert!(Role::parse_assignable("Admin").is_err());
    }
}
