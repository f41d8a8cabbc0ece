//! Organizations, memberships and users, as the datastore stores them.

use super::{
    Attributes, EmailAddress, Kind, Name, OrganizationId, OrganizationState, Refusal, Role, RoleTable, RoleView, Slug,
    UserId, UserState, ValueKind,
};
use serde::{Deserialize, Serialize, Serializer};
use time::OffsetDateTime;

/// An organization: the thing that users are members of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Organization {
    /// The id of the organization.
    pub id: OrganizationId,
    /// The slug, unique over all organizations.
    pub slug: Slug,
    /// The name; not unique.
    pub name: Name,
    /// The kind, fixed at creation.
    pub kind: Kind,
    /// The deployment's own data about the organization.
    pub attributes: Attributes,
    /// The state, or the state at the time of deletion: never [`OrganizationState::Deleted`]. See [`Self::state`].
    pub stored_state: OrganizationState,
    /// Whether an operator deactivated it; then only an operator activates it.
    pub deactivated_by_operator: bool,
    /// The owner; `None` only while pending.
    pub owner: Option<UserId>,
    /// The number of changes so far, including changes of its members.
    pub revision: i64,
    /// The revision at which this row last changed: the etag.
    pub row_revision: i64,
    /// The time of creation.
    pub create_time: OffsetDateTime,
    /// The time of this row's last change.
    pub update_time: OffsetDateTime,
    /// The times of deletion and purge; `None` unless deleted.
    pub deletion: Option<DeletionWindow>,
}

/// The time in which a deleted organization can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionWindow {
    /// The time of deletion.
    pub delete_time: OffsetDateTime,
    /// The time from which housekeeping purges the organization.
    pub purge_time: OffsetDateTime,
}

impl Organization {
    /// The state, [`OrganizationState::Deleted`] included.
    #[must_use]
    pub fn state(&self) -> OrganizationState {
        if self.deletion.is_some() { OrganizationState::Deleted } else { self.stored_state }
    }

    /// The version of the row, which clients send back as the etag.
    #[must_use]
    pub fn etag(&self) -> String {
        self.row_revision.to_string()
    }

    /// A member's role, given the role in the membership's row. Ownership is a column of the organization and not of
    /// the membership.
    #[must_use]
    pub fn role_of(&self, user: &UserId, stored: Role) -> Role {
        if self.owner.as_ref() == Some(user) { Role::OWNER } else { stored }
    }
}

/// The membership of a user in an organization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// The organization of the membership.
    pub organization: OrganizationId,
    /// The user who is the member.
    pub user: UserId,
    /// The role; [`Role::OWNER`] for the owner.
    pub role: Role,
    /// The deployment's own data about the membership.
    pub attributes: Attributes,
    /// The organization's revision at which the row of the membership last changed.
    pub revision: i64,
    /// The time when the user became a member.
    pub create_time: OffsetDateTime,
    /// The time of the last change of role, ownership or attributes.
    pub update_time: OffsetDateTime,
}

impl Membership {
    /// The version, which clients send back as the etag: the update time, which moves with every change, and the role.
    ///
    /// Servers of release 0.3 transfer the ownership and leave the rows of the two members as they are. The role makes
    /// such a transfer another version. They know the etag by the revision, so the two releases refuse each other's.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{:x}-{}", self.update_time.unix_timestamp_nanos().div_euclid(1_000), self.role.name)
    }
}

/// A membership with its user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The membership of the user.
    pub membership: Membership,
    /// The user, with the profile.
    pub user: User,
}

/// A user. Profiles come from the identity provider; roster stores the latest one.
///
/// The serialized form, which stored answers have, leaves out the address and the display name. Answers of release 0.3
/// and earlier have them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// The id, chosen by the identity provider.
    pub id: UserId,
    /// The state of the account.
    pub state: UserState,
    /// Whether an operator deactivated the user; then only an operator reactivates the user.
    pub deactivated_by_operator: bool,
    /// The e-mail address, if known.
    #[serde(skip_serializing, default)]
    pub email: Option<EmailAddress>,
    /// Whether the identity provider has verified the address.
    #[serde(serialize_with = "serialize_unverified")]
    pub email_verified: bool,
    /// The display name, if known.
    #[serde(skip_serializing, default)]
    pub display_name: Option<super::DisplayName>,
    /// The later of the two times of issue below, which former releases know.
    pub profile_issued_at: i64,
    /// When the identity provider issued the address with its verification, in seconds since 1970; 0 if it issued none.
    /// Stored answers of former releases have none.
    #[serde(default)]
    pub email_issued_at: i64,
    /// When the identity provider issued the display name, likewise.
    #[serde(default)]
    pub display_name_issued_at: i64,
    /// Whether the user has given a sign: a token, `PutUser`, or a call on the user's behalf. False for an id that only
    /// others have named, such as `AddMember`: it may be a typing mistake.
    #[serde(default)]
    pub is_known: bool,
    /// The number of changes so far.
    pub revision: i64,
    /// The time when roster first stored the user.
    pub create_time: OffsetDateTime,
    /// The time of the last change.
    pub update_time: OffsetDateTime,
}

/// Serializes `false`: release 0.3 cannot read a user without this field.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn serialize_unverified<S: Serializer>(_: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(false)
}

impl User {
    /// The address, if the identity provider has verified it. An unverified address appears in the profile and has no
    /// other effect: anyone can claim it.
    #[must_use]
    pub fn verified_email(&self) -> Option<&EmailAddress> {
        self.email.as_ref().filter(|_| self.email_verified)
    }

    /// Checks that this program knows the state of the user.
    ///
    /// # Errors
    /// [`Refusal::ValueUnknown`].
    pub fn require_known_state(&self) -> Result<(), Refusal> {
        match self.state {
            UserState::Active | UserState::Inactive | UserState::Erased => Ok(()),
            UserState::Unknown => Err(Refusal::ValueUnknown { value: ValueKind::UserState }),
        }
    }
}

/// What decides whether a user may call roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserStatus {
    /// The user's state if it is not active. `None` also for an unknown user, who counts as active.
    pub state: Option<UserState>,
    /// When an operator last reinstated the user, in whole seconds since 1970; `None` if none has. The user's bearer tokens
    /// that were issued at that time or before no longer count.
    pub reinstated_at: Option<i64>,
}

impl UserStatus {
    /// The status of a user in this state.
    #[must_use]
    pub fn new(state: UserState, reinstated_at: Option<i64>) -> Self {
        Self { state: (state != UserState::Active).then_some(state), reinstated_at }
    }
}

/// The facts from which a check of one user in one organization is answered, all from one state of the datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The organization; `None` if it does not exist.
    pub organization: Option<OrganizationHead>,
    /// The user's role in it, [`Role::OWNER`] for the owner; `None` if the user is not a member.
    pub role: Option<Role>,
    /// The user's state, as in [`UserStatus::state`].
    pub user_state: Option<UserState>,
    /// When an operator last reinstated the user, as in [`UserStatus::reinstated_at`].
    pub reinstated_at: Option<i64>,
    /// The position of the change log in the organization's bucket; `None` if the organization was named by an unknown
    /// slug.
    pub position: Option<BucketPosition>,
    /// The position of the change log in the user's bucket.
    pub user_position: BucketPosition,
}

impl Standing {
    /// What decides whether the user may call roster.
    #[must_use]
    pub fn user_status(&self) -> UserStatus {
        UserStatus { state: self.user_state, reinstated_at: self.reinstated_at }
    }

    /// The standing, lent. The question about it names no role of the organization.
    #[must_use]
    pub fn view<'t>(&'t self, roles: &'t RoleTable) -> StandingView<'t> {
        StandingView {
            organization: self.organization,
            role: self.role.as_ref().map(Role::view),
            user_state: self.user_state,
            roles,
            named_role: None,
        }
    }
}

/// A [`Standing`] whose roles are lent by the tables that it was read from, with the roles that questions about it may
/// name.
#[derive(Debug, Clone, Copy)]
pub struct StandingView<'t> {
    /// The organization; `None` if it does not exist.
    pub organization: Option<OrganizationHead>,
    /// The user's role in it; `None` if the user is not a member.
    pub role: Option<RoleView<'t>>,
    /// The user's state, as in [`Standing::user_state`].
    pub user_state: Option<UserState>,
    /// The roles of the deployment, by which `role` was resolved.
    pub roles: &'t RoleTable,
    /// The role of the organization's own that the question names; `None` if it has no such role.
    pub named_role: Option<RoleView<'t>>,
}

/// The fields of an organization that checks read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrganizationHead {
    /// The id of the organization.
    pub id: OrganizationId,
    /// The state of the organization.
    pub state: OrganizationState,
    /// The number of changes so far.
    pub revision: i64,
}

/// A position in the change log of one bucket, with the mark of the row there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketPosition {
    /// The bucket: 0 to 255 for organizations, 0 to 31 for users.
    pub bucket: i16,
    /// The position: the number of rows before and including it.
    pub position: i64,
    /// The mark of the row at the position.
    pub mark: LogMark,
}

impl BucketPosition {
    /// The position before the first row of a bucket's log.
    #[must_use]
    pub const fn start(bucket: i16) -> Self {
        Self { bucket, position: 0, mark: LogMark::START }
    }
}

/// The mark of a row in the change log: 32 bits of a hash of the row's write time.
///
/// A datastore that was restored, or that lost commits in a failover, gives a lost position to another row. That row has
/// another write time, and so another mark, except with a probability of 2^-32. Equal marks at one position of a bucket
/// therefore mean one history up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogMark(u32);

impl LogMark {
    /// The mark of position 0, which has no row.
    pub const START: Self = Self(0);

    /// The mark of a row that was written at this time, of which whole microseconds count.
    #[must_use]
    pub fn new(write_time: OffsetDateTime) -> Self {
        let microseconds = write_time.unix_timestamp_nanos().div_euclid(1_000);
        // The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014; the
        // constants are Stafford's variant 13). It is a bijection that spreads a change of any bit over all bits, and it
        // maps 0 to 0: the head of an empty log has the write time 1970.
        let mut hash = u64::try_from(microseconds).unwrap_or_default();
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        let [.., b0, b1, b2, b3] = hash.to_be_bytes();
        Self(u32::from_be_bytes([b0, b1, b2, b3]))
    }

    /// The mark with these bits.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits of the mark.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}
