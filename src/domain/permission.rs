//! Permissions: the rights that methods require of their callers. Roles and scopes are sets of permissions.

use super::named_enum::named_enum;

named_enum! {
    /// A right in one organization, a dotted word on the wire.
    Permission else "no such permission";
    /// Read the organization.
    OrganizationRead = "organization.read",
    /// Change its name, slug or attributes.
    OrganizationUpdate = "organization.update",
    /// Activate and deactivate it.
    OrganizationActivate = "organization.activate",
    /// Delete and undelete it.
    OrganizationDelete = "organization.delete",
    /// Transfer the ownership to another member.
    OwnershipTransfer = "ownership.transfer",
    /// List its members, with their names.
    MembersList = "members.list",
    /// Read members' addresses and attributes.
    MembersRead = "members.read",
    /// Add users as members.
    MembersAdd = "members.add",
    /// Change members' roles and attributes.
    MembersUpdate = "members.update",
    /// Remove members from it.
    MembersRemove = "members.remove",
    /// Leave the organization.
    MembershipLeave = "membership.leave",
    /// Create invitations to the organization.
    InvitationsCreate = "invitations.create",
    /// Read the organization's invitations.
    InvitationsRead = "invitations.read",
    /// Revoke invitations and send reminders.
    InvitationsManage = "invitations.manage",
    /// Read the audit trail.
    EventsRead = "events.read",
}

/// A set of permissions, one bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PermissionSet(u32);

impl PermissionSet {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// The set of these permissions.
    #[must_use]
    pub const fn of(permissions: &[Permission]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < permissions.len() {
            bits |= 1 << permissions[index] as u32;
            index += 1;
        }
        Self(bits)
    }

    /// The union of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the set contains this permission.
    #[must_use]
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u32) != 0
    }

    /// Whether the set contains every permission of the other set.
    #[must_use]
    pub const fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_parse_back() {
        for permission in Permission::ALL {
            assert_eq!(Permission::parse(permission.as_str()), Ok(*permission));
        }
        assert!(Permission::parse("members.fly").is_err());
    }
}
