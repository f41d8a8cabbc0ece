//! Organizations, memberships and users as they stand in the datastore.

use super::{Attributes, EmailAddress, Kind, Name, OrganizationId, OrganizationState, Role, Slug, UserId, UserState};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// What users belong to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Organization {
    /// The id.
    pub id: OrganizationId,
    /// The readable name, unique over all organizations.
    pub slug: Slug,
    /// What it is called.
    pub name: Name,
    /// What sort it is; fixed at creation.
    pub kind: Kind,
    /// What the deployment keeps here.
    pub attributes: Attributes,
    /// The state it is in, or was in when it was deleted: never [`OrganizationState::Deleted`]. See [`Self::state`].
    pub stored_state: OrganizationState,
    /// Whether an operator switched it off.
    pub deactivated_by_operator: bool,
    /// The one owner; none only while pending.
    pub owner: Option<UserId>,
    /// How many changes it has seen, its members' included.
    pub revision: i64,
    /// The revision at which this row last changed: the etag.
    pub row_revision: i64,
    /// When it was created.
    pub create_time: OffsetDateTime,
    /// When this row last changed.
    pub update_time: OffsetDateTime,
    /// When it was deleted and when it will be purged; none unless deleted.
    pub deletion: Option<DeletionWindow>,
}

/// When an organization was deleted, and until when it can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionWindow {
    /// When it was deleted.
    pub delete_time: OffsetDateTime,
    /// When it will be gone for good.
    pub purge_time: OffsetDateTime,
}

impl Organization {
    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> OrganizationState {
        if self.deletion.is_some() { OrganizationState::Deleted } else { self.stored_state }
    }

    /// The version of the row, as clients give it back.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.row_revision)
    }

    /// The role of someone here: the owner's is a column of the organization and not of the membership.
    #[must_use]
    pub fn role_of(&self, user: &UserId, stored: Role) -> Role {
        if self.owner.as_ref() == Some(user) { Role::OWNER } else { stored }
    }
}

/// A user × an organization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// Where.
    pub organization: OrganizationId,
    /// Who.
    pub user: UserId,
    /// The role, [`Role::OWNER`] for the owner.
    pub role: Role,
    /// What the deployment keeps here.
    pub attributes: Attributes,
    /// The organization's revision at which this last changed: the etag.
    pub revision: i64,
    /// When the user joined.
    pub create_time: OffsetDateTime,
    /// When the role or the attributes last changed.
    pub update_time: OffsetDateTime,
}

impl Membership {
    /// The version, as clients give it back.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.revision)
    }
}

/// A membership with what is shown of its user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The membership.
    pub membership: Membership,
    /// The user.
    pub user: User,
}

/// What roster knows of a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// Who.
    pub id: UserId,
    /// Where they are in their life.
    pub state: UserState,
    /// Whether an operator switched them off.
    pub deactivated_by_operator: bool,
    /// The address, if one is known.
    pub email: Option<EmailAddress>,
    /// Whether the identity provider has verified that address.
    pub email_verified: bool,
    /// The name, if one is known.
    pub display_name: Option<super::DisplayName>,
    /// When the identity provider said so, in seconds since 1970; 0 if it has said nothing yet.
    pub profile_issued_at: i64,
    /// How many changes the user has seen.
    pub revision: i64,
    /// When roster first heard of them.
    pub create_time: OffsetDateTime,
    /// When this last changed.
    pub update_time: OffsetDateTime,
}

/// What a check needs to know of one user in one organization, all from one state of the datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The organization; none if there is no such one.
    pub organization: Option<OrganizationHead>,
    /// The user's role there, [`Role::OWNER`] for the owner; none for who is not a member.
    pub role: Option<Role>,
    /// The user's state, if that is not active; none for a user not heard of, who counts as active. (A write, which reads
    /// it under a lock, also says active.)
    pub user_state: Option<UserState>,
    /// How far the log of the organization's bucket had come; none if the organization was named by a slug that nobody
    /// has.
    pub position: Option<BucketPosition>,
    /// How far the log of the user's bucket had come.
    pub user_position: BucketPosition,
}

/// An organization, as far as checks look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrganizationHead {
    /// The id.
    pub id: OrganizationId,
    /// Where it is in its life.
    pub state: OrganizationState,
    /// How many changes it has seen.
    pub revision: i64,
}

/// A place in the log of one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketPosition {
    /// The bucket: 0 to 255 of organizations, 0 to 31 of users.
    pub bucket: i16,
    /// The position: the number of rows before and including it.
    pub position: i64,
}

fn etag(revision: i64) -> String {
    revision.to_string()
}
