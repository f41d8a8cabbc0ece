//! What the change log says: the changes that copies of the memberships must know of.

use super::{Kind, OrganizationId, OrganizationState, Role, Slug, UserId};

/// A change of one thing in an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeDetail {
    /// A user's membership: the role as stored, or none any more.
    Membership {
        /// Who.
        user: UserId,
        /// What they are now.
        role: Option<Role>,
    },
    /// The organization itself.
    Organization {
        /// Where it is now; none once it is purged.
        state: Option<OrganizationState>,
        /// Who owns it.
        owner: Option<UserId>,
        /// Its slug.
        slug: Slug,
    },
}

/// A change, and what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The organization.
    pub organization: OrganizationId,
    /// What sort of organization that is.
    pub kind: Kind,
    /// The organization's revision that this change made.
    pub revision: i64,
    /// The change.
    pub detail: ChangeDetail,
}
