//! Permissions: what the interceptor asks for. Roles and scopes are sets of them.

use super::named_enum::named_enum;

named_enum! {
    /// A right in one organization, a dotted word on the wire.
    Permission else "no such permission";
    /// Read the organization itself.
    OrganizationRead = "organization.read",
    /// Change its name, slug or attributes.
    OrganizationUpdate = "organization.update",
    /// Switch it on and off.
    OrganizationActivate = "organization.activate",
    /// Delete and undelete it.
    OrganizationDelete = "organization.delete",
    /// Hand it to another member.
    OwnershipTransfer = "ownership.transfer",
    /// See who is in it, by name.
    MembersList = "members.list",
    /// See members' addresses and attributes.
    MembersRead = "members.read",
    /// Add members.
    MembersAdd = "members.add",
    /// Change members' roles and attributes.
    MembersUpdate = "members.update",
    /// Remove members.
    MembersRemove = "members.remove",
    /// Leave it.
    MembershipLeave = "membership.leave",
    /// Invite people.
    InvitationsCreate = "invitations.create",
    /// See invitations.
    InvitationsRead = "invitations.read",
    /// Revoke and remind.
    InvitationsManage = "invitations.manage",
    /// Read the audit trail.
    EventsRead = "events.read",
}

/// A set of permissions, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PermissionSet(u32);

impl PermissionSet {
    /// No permission.
    pub const NONE: Self = Self(0);

    /// The set of these.
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

    /// Both together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether this one is in it.
    #[must_use]
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u32) != 0
    }

    /// Whether all of the other are in it.
    #[must_use]
    pub const fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_parse_back() {
        for permission in Permission::ALL {
            assert_eq!(Permission::parse(permission.as_str()), Ok(*permission));
        }
        assert!(Permission::parse("members.fly").is_err());
    }
}
