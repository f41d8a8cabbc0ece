//! One bucket of organizations with their members: the unit of loading, of publishing and of the memory limit.

use super::PublishedRoles;
use super::fingerprint::{Fingerprint, FingerprintKey, RoleCode, Slot};
use super::organization_roles::RoleSideTable;
use super::role_names::RoleNames;
use super::slugs::{self, SlugChange};
use super::table::{self, Table};
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::{
    BucketPosition, OrganizationHead, OrganizationId, OrganizationState, PermissionSet, RoleName, RoleTable, RoleView,
    Slug, UserId,
};
use std::sync::Arc;

/// An organization in memory: one cache line.
#[derive(Debug, Clone, Copy)]
struct OrganizationRecord {
    id: OrganizationId,
    revision: i64,
    /// The owner's fingerprint as a member of this organization.
    owner: Option<Fingerprint>,
    /// `None` only for an organization of which the bucket has no other change than unknown ones.
    slug: Option<Fingerprint>,
    /// The number of its slots in the member table: a purge leaves them behind as garbage.
    members: u32,
    state: OrganizationState,
    /// Whether the log had a change of the organization that this program does not know.
    has_unknown_change: bool,
}

impl table::TableEntry for OrganizationRecord {
    type Key = OrganizationId;
    // Two in three: with one entry per line, a search in a fuller table would read many lines.
    const FULL: usize = 21;

    fn key(&self) -> OrganizationId {
        self.id
    }

    fn hash(key: OrganizationId) -> u64 {
        let (first, last) = key.as_uuid().as_u64_pair();
        // The first byte is the bucket's number, and imported ids may be consecutive numbers: the product carries every
        // difference up to the leading bits (Fibonacci hashing; Knuth, volume 3, section 6.4).
        (first.rotate_left(32) ^ last).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// A bucket as of one position of its log. It changes by whole transactions only.
pub struct Bucket {
    key: FingerprintKey,
    at: BucketPosition,
    organizations: Table<OrganizationRecord, 1>,
    members: Table<Slot, 4>,
    /// The number of slots of purged organizations: only [`Bucket::was_member_at_purge`] reaches them.
    garbage: usize,
    /// Of an organization that is purged after this position, the table keeps the slot of every member.
    garbage_since: i64,
    /// The names of the deployment's roles, shared by all buckets.
    role_names: Arc<RoleNames>,
    /// The roles of the deployment. Each bucket has a reference of its own: a lookup borrows it under the bucket's lock, and
    /// writes to no memory that all lookups share.
    deployment: PublishedRoles,
    roles: RoleSideTable,
}

/// The answer of a bucket about one user in one organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberLookup<'t> {
    /// The organization; `None` if it does not exist.
    pub organization: Option<OrganizationHead>,
    /// The user's role, [`RoleView::OWNER`] for the owner; `None` if the user is not a member. A role that the tables do
    /// not know may have no name here.
    pub role: Option<RoleView<'t>>,
}

impl Bucket {
    /// An empty bucket at a snapshot's position; the caller fills it from the same snapshot.
    pub(super) fn new(
        key: FingerprintKey,
        role_names: Arc<RoleNames>,
        deployment: PublishedRoles,
        at: BucketPosition,
    ) -> Self {
        let (organizations, members, roles) = (Table::default(), Table::default(), RoleSideTable::default());
        let garbage_since = at.position;
        Self { key, at, organizations, members, garbage: 0, garbage_since, role_names, deployment, roles }
    }

    /// Sets the roles of the deployment.
    pub(super) fn adopt(&mut self, deployment: &PublishedRoles) {
        if !Arc::ptr_eq(&self.deployment.table, &deployment.table) {
            self.deployment = deployment.clone();
        }
    }

    /// The roles of the deployment, as of the same poll of the log as the bucket.
    #[must_use]
    pub fn deployment_roles(&self) -> &PublishedRoles {
        &self.deployment
    }

    /// The position up to which the bucket's log is applied.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.at.position
    }

    /// The bucket's number, with the position up to which its log is applied.
    #[must_use]
    pub fn at(&self) -> BucketPosition {
        self.at
    }

    /// Adds an organization of the snapshot.
    pub fn put_organization(
        &mut self,
        id: OrganizationId,
        state: OrganizationState,
        revision: i64,
        owner: Option<&UserId>,
        slug: &Slug,
    ) {
        let owner = owner.map(|owner| self.key.member(id, owner.as_str()));
        self.organizations.put(OrganizationRecord {
            id,
            revision,
            owner,
            slug: Some(self.key.slug(slug)),
            members: 0,
            state,
            has_unknown_change: false,
        });
    }

    /// Adds a role that an organization of the snapshot defines; `None` for permissions that this program does not know.
    pub fn put_role(&mut self, organization: OrganizationId, name: &RoleName, permissions: Option<PermissionSet>) {
        self.roles.put(organization, name, permissions);
    }

    /// Adds a role that an organization of the snapshot defines and whose members move to another role: one of the
    /// organization or of the deployment that is not replaced itself.
    pub fn put_replaced_role(&mut self, organization: OrganizationId, name: &RoleName, replaced_by: &RoleName) {
        self.roles.put_replaced(organization, name, replaced_by);
    }

    /// Adds a membership of the snapshot with the stored name of its role. Its organization and the roles of that must
    /// have been added before.
    pub fn put_member(&mut self, organization: OrganizationId, user: &str, role: &str) {
        let role = self.code(organization, role);
        if self.members.put(Slot::new(self.key.member(organization, user), role)).is_none() {
            self.count(organization, 1);
        }
    }

    fn code(&self, organization: OrganizationId, role: &str) -> RoleCode {
        if RoleName::is_organization_name(role) {
            self.roles.code(organization, role)
        } else if role == RoleName::OWNER.as_str() {
            // Ownership is not a stored role.
            RoleCode::UNKNOWN
        } else {
            self.role_names.code(role)
        }
    }

    /// Applies the log entries of whole transactions, up to the position `last`. Skips entries at or before the
    /// bucket's position. Returns the changes of slugs.
    pub(super) fn apply<'a>(
        &mut self,
        entries: impl Iterator<Item = (i64, &'a LogEntry)>,
        last: BucketPosition,
    ) -> Vec<SlugChange> {
        let mut slug_changes = Vec::new();
        for (position, entry) in entries {
            if position > self.at.position {
                slug_changes.extend(self.apply_entry(position, entry));
            }
        }
        if last.position > self.at.position {
            self.at = last;
        }
        slug_changes
    }

    fn apply_entry(&mut self, position: i64, entry: &LogEntry) -> Option<SlugChange> {
        let id = entry.organization;
        match &entry.detail {
            ChangeDetail::Membership { user, role } => {
                self.set_revision(id, entry.revision);
                let member = self.key.member(id, user.as_str());
                let role = role.as_ref().map(|role| self.code(id, role.name.as_str()));
                let change = match role {
                    Some(role) => i32::from(self.members.put(Slot::new(member, role)).is_none()),
                    None => -i32::from(self.members.remove(Slot::key_of(member)).is_some()),
                };
                self.count(id, change);
                None
            }
            ChangeDetail::Organization { state: None, .. } => {
                self.roles.remove_all(id);
                let record = self.organizations.remove(id)?;
                self.garbage += usize::try_from(record.members).unwrap_or(usize::MAX);
                if record.has_unknown_change {
                    // The unknown change may have added a member.
                    self.garbage_since = position;
                }
                record.slug.map(|slug| SlugChange { organization: id, old: Some(slug), new: None })
            }
            ChangeDetail::Organization { state: Some(state), owner, slug } => {
                let owner = owner.as_ref().map(|owner| self.key.member(id, owner.as_str()));
                let slug = self.key.slug(slug);
                let before = self.organizations.get(id);
                let record = OrganizationRecord {
                    id,
                    revision: entry.revision,
                    owner,
                    slug: Some(slug),
                    members: before.map_or(0, |before| before.members),
                    state: *state,
                    has_unknown_change: before.is_some_and(|before| before.has_unknown_change),
                };
                let old = self.organizations.put(record).and_then(|before| before.slug);
                (old != Some(slug)).then_some(SlugChange { organization: id, old, new: Some(slug) })
            }
            ChangeDetail::Role { name, permissions, replaced_by } => {
                self.set_revision(id, entry.revision);
                match (permissions, replaced_by) {
                    (Some(_), Some(replaced_by)) => self.roles.put_replaced(id, name, replaced_by),
                    (Some(words), None) => self.roles.put(id, name, RoleTable::set_of_words(words)),
                    (None, _) => self.roles.remove(id, name),
                }
                None
            }
            ChangeDetail::Unknown => {
                self.apply_unknown_change(id, entry.revision);
                None
            }
        }
    }

    /// Marks an organization: the bucket no longer answers about it. The change may also have created it.
    fn apply_unknown_change(&mut self, id: OrganizationId, revision: i64) {
        let new = OrganizationRecord {
            id,
            revision,
            owner: None,
            slug: None,
            members: 0,
            state: OrganizationState::Unknown,
            has_unknown_change: true,
        };
        let before = self.organizations.get(id).copied();
        self.organizations.put(OrganizationRecord { revision, has_unknown_change: true, ..before.unwrap_or(new) });
    }

    fn set_revision(&mut self, organization: OrganizationId, revision: i64) {
        if let Some(record) = self.organizations.get_mut(organization) {
            record.revision = revision;
        }
    }

    fn count(&mut self, organization: OrganizationId, change: i32) {
        if let Some(record) = self.organizations.get_mut(organization) {
            record.members = record.members.saturating_add_signed(change);
        }
    }

    /// Looks up a user in an organization; without a user, the organization alone. The roles of the deployment hold what
    /// the table of roles says. `None` if the log had a change of the organization that this program does not know.
    #[must_use]
    pub fn find<'t>(
        &'t self,
        organization: OrganizationId,
        user: Option<&UserId>,
        roles: &'t RoleTable,
    ) -> Option<MemberLookup<'t>> {
        // Before the organization, so that the two cache misses overlap: both tables are mostly in main memory.
        let member = user.map(|user| self.key.member(organization, user.as_str()));
        let slot = member.and_then(|member| self.members.get(Slot::key_of(member)));
        let Some(record) = self.organizations.get(organization) else {
            return Some(MemberLookup { organization: None, role: None });
        };
        if record.has_unknown_change {
            return None;
        }
        let is_owner = member.is_some() && record.owner == member;
        let role = || slot.map(|slot| self.role(organization, slot.role(), roles));
        let role = if is_owner { Some(RoleView::OWNER) } else { role() };
        let head = OrganizationHead { id: organization, state: record.state, revision: record.revision };
        Some(MemberLookup { organization: Some(head), role })
    }

    /// Whether a user was a member of an organization that the log purged at this position; `None` if the bucket does not
    /// know, because it was loaded later or has not applied the purge yet.
    #[must_use]
    pub fn was_member_at_purge(&self, organization: OrganizationId, user: &UserId, position: i64) -> Option<bool> {
        let is_known = self.garbage_since < position && position <= self.at.position;
        let member = self.key.member(organization, user.as_str());
        is_known.then(|| self.members.get(Slot::key_of(member)).is_some())
    }

    /// The role that a slot of the organization names.
    fn role<'t>(&'t self, organization: OrganizationId, code: RoleCode, roles: &'t RoleTable) -> RoleView<'t> {
        let role = match (code.deployment_number(), code.organization_place()) {
            (Some(number), _) => self.role_names.name(number).map(|name| roles.view(name)),
            (None, Some(place)) => self.roles.get(organization, place, roles),
            (None, None) => None,
        };
        role.unwrap_or(RoleView::UNKNOWN)
    }

    /// The role with this name that the organization defines for itself; `None` if it has no such role. A role whose
    /// members move to another one is that one. The roles of the deployment hold what the table says.
    #[must_use]
    pub fn organization_role<'t>(
        &'t self,
        organization: OrganizationId,
        name: &RoleName,
        roles: &'t RoleTable,
    ) -> Option<RoleView<'t>> {
        self.roles.find(organization, name, roles)
    }

    /// The revision of an organization; `None` if it does not exist.
    #[must_use]
    pub fn revision(&self, organization: OrganizationId) -> Option<i64> {
        self.organizations.get(organization).map(|record| record.revision)
    }

    /// Whether the organization has this slug at the bucket's position.
    pub(super) fn has_slug(&self, organization: OrganizationId, slug: Fingerprint) -> bool {
        self.organizations.get(organization).is_some_and(|record| record.slug == Some(slug))
    }

    /// The slug of every organization in the bucket.
    pub(super) fn slugs(&self) -> impl Iterator<Item = (Fingerprint, OrganizationId)> {
        self.organizations.iter().filter_map(|record| Some((record.slug?, record.id)))
    }

    /// The number of memberships in the bucket, without garbage.
    #[must_use]
    pub fn memberships(&self) -> usize {
        self.members.len() - self.garbage.min(self.members.len())
    }

    /// Whether reloading the bucket would free a worthwhile amount of memory: more than 1 024 slots and more than a
    /// quarter of all slots are garbage.
    #[must_use]
    pub fn is_littered(&self) -> bool {
        self.garbage > 1_024 && self.garbage > self.members.len() / 4
    }

    /// The bucket's memory in bytes, including its entries in the slug table and the roles of its organizations.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.organizations.bytes() + self.members.bytes() + self.organizations.len() * slugs::BYTES + self.roles.bytes()
    }
}
