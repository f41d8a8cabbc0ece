//! Entries of the change log: the changes that a replica of the memberships must apply.

use super::{Kind, OrganizationId, OrganizationState, Role, RoleName, Slug, UserId};

/// A change in one organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeDetail {
    /// A membership was added, changed or removed.
    Membership {
        /// The user whose membership changed.
        user: UserId,
        /// The role as stored after the change; `None` if the user is no longer a member.
        role: Option<Role>,
    },
    /// The organization was created, changed or purged.
    Organization {
        /// The state after the change; `None` if the organization was purged.
        state: Option<OrganizationState>,
        /// The owner after the change.
        owner: Option<UserId>,
        /// The slug after the change.
        slug: Slug,
    },
    /// A role of the organization was defined, changed or deleted.
    Role {
        /// The name, which begins with `org:`.
        name: RoleName,
        /// The words of its permissions after the change, as stored; `None` if the role is gone.
        permissions: Option<Vec<String>>,
        /// The role that replaces it, while its members move there: they hold what that role holds, and `permissions` is
        /// empty. Never a role that is itself replaced. `None` for any other role, and for one that is gone.
        replaced_by: Option<RoleName>,
    },
    /// A change that this program does not know, because a newer one recorded it. The replica does not answer about
    /// the organization until its bucket is loaded again.
    Unknown,
}

/// A change, with the organization and the revision that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The organization that the change belongs to.
    pub organization: OrganizationId,
    /// The organization's kind.
    pub kind: Kind,
    /// The revision of the organization that this change made.
    pub revision: i64,
    /// The change itself.
    pub detail: ChangeDetail,
}
