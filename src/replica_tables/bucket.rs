//! One bucket of organizations, with their members: the unit of loading, of publishing and of bounding memory.

use super::fingerprint::{Fingerprint, FingerprintKey, Slot};
use super::slugs::{self, SlugChange};
use super::table::{self, Table};
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::{OrganizationHead, OrganizationId, OrganizationState, Role, Slug, UserId};

/// What is kept of an organization: a cache line in all.
#[derive(Debug, Clone, Copy)]
struct OrganizationRecord {
    id: OrganizationId,
    revision: i64,
    /// The owner's fingerprint as a member here.
    owner: Option<Fingerprint>,
    slug: Fingerprint,
    /// Its slots below, so that what a purge leaves behind can be counted.
    members: u32,
    state: OrganizationState,
}

impl table::TableEntry for OrganizationRecord {
    type FingerprintKey = OrganizationId;
    // Two in three: with one to a line, a fuller table would be searched over many lines.
    const FULL: usize = 21;

    fn key(&self) -> OrganizationId {
        self.id
    }

    fn hash(key: OrganizationId) -> u64 {
        let (first, last) = key.as_uuid().as_u64_pair();
        // The first byte is the bucket's number, and ids that somebody brought along may count: the product carries
        // whatever differs up to the leading bits (Fibonacci hashing; Knuth, volume 3, section 6.4).
        (first.rotate_left(32) ^ last).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// A bucket as of one position of its log. Changed only from one whole transaction to the next.
pub struct Bucket {
    key: FingerprintKey,
    position: i64,
    organizations: Table<OrganizationRecord, 1>,
    members: Table<Slot, 4>,
    /// Slots of organizations that are purged: no look-up reaches them.
    garbage: usize,
}

/// What a bucket says of one user in one organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberLookup {
    /// The organization; none if there is no such one.
    pub organization: Option<OrganizationHead>,
    /// The role there, [`Role::OWNER`] for the owner.
    pub role: Option<Role>,
}

impl Bucket {
    /// An empty bucket at a position; it is filled by what the same snapshot holds.
    pub(super) fn new(key: FingerprintKey, position: i64) -> Self {
        Self { key, position, organizations: Table::default(), members: Table::default(), garbage: 0 }
    }

    /// How far its log is applied.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Takes in an organization of the snapshot.
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
            slug: self.key.slug(slug),
            members: 0,
            state,
        });
    }

    /// Takes in a membership of the snapshot, after its organization.
    pub fn put_member(&mut self, organization: OrganizationId, user: &str, role: Role) {
        if self.members.put(Slot::new(self.key.member(organization, user), role)).is_none() {
            self.count(organization, 1);
        }
    }

    /// Applies the lines of whole transactions, up to this position. What is at or before the bucket's own is passed over.
    pub(super) fn apply<'a>(&mut self, lines: impl Iterator<Item = (i64, &'a LogEntry)>, last: i64) -> Vec<SlugChange> {
        let mut renamed = Vec::new();
        for (position, line) in lines {
            if position > self.position {
                renamed.extend(self.apply_line(line));
            }
        }
        self.position = last.max(self.position);
        renamed
    }

    fn apply_line(&mut self, line: &LogEntry) -> Option<SlugChange> {
        let id = line.organization;
        match &line.entry {
            ChangeDetail::Membership { user, role } => {
                if let Some(held) = self.organizations.get_mut(id) {
                    held.revision = line.revision;
                }
                let member = self.key.member(id, user.as_str());
                let change = match role {
                    Some(role) => i32::from(self.members.put(Slot::new(member, *role)).is_none()),
                    None => -i32::from(self.members.remove(Slot::key_of(member)).is_some()),
                };
                self.count(id, change);
                None
            }
            ChangeDetail::Organization { state: None, .. } => {
                let gone = self.organizations.remove(id)?;
                self.garbage += usize::try_from(gone.members).unwrap_or(usize::MAX);
                Some(SlugChange { organization: id, old: Some(gone.slug), new: None })
            }
            ChangeDetail::Organization { state: Some(state), owner, slug } => {
                let owner = owner.as_ref().map(|owner| self.key.member(id, owner.as_str()));
                let slug = self.key.slug(slug);
                let members = self.organizations.get(id).map_or(0, |before| before.members);
                let held = OrganizationRecord { id, revision: line.revision, owner, slug, members, state: *state };
                let old = self.organizations.put(held).map(|before| before.slug);
                (old != Some(slug)).then_some(SlugChange { organization: id, old, new: Some(slug) })
            }
        }
    }

    fn count(&mut self, organization: OrganizationId, change: i32) {
        if let Some(held) = self.organizations.get_mut(organization) {
            held.members = held.members.saturating_add_signed(change);
        }
    }

    /// What it says of a user in an organization; without a user, of the organization alone.
    #[must_use]
    pub fn find(&self, organization: OrganizationId, user: Option<&UserId>) -> MemberLookup {
        // First, so that the two tables can be waited for at once: both are mostly far away from the processor.
        let member = user.map(|user| self.key.member(organization, user.as_str()));
        let slot = member.and_then(|member| self.members.get(Slot::key_of(member)));
        let Some(held) = self.organizations.get(organization) else {
            return MemberLookup { organization: None, role: None };
        };
        let owns = member.is_some() && held.owner == member;
        let role = if owns { Some(Role::OWNER) } else { slot.and_then(|slot| slot.role()) };
        let found = OrganizationHead { id: organization, state: held.state, revision: held.revision };
        MemberLookup { organization: Some(found), role }
    }

    /// Whether an organization has this slug now.
    pub(super) fn has_slug(&self, organization: OrganizationId, slug: Fingerprint) -> bool {
        self.organizations.get(organization).is_some_and(|held| held.slug == slug)
    }

    /// Every organization's slug.
    pub(super) fn slugs(&self) -> impl Iterator<Item = (Fingerprint, OrganizationId)> {
        self.organizations.iter().map(|held| (held.slug, held.id))
    }

    /// How many memberships it holds.
    #[must_use]
    pub fn memberships(&self) -> usize {
        self.members.len() - self.garbage.min(self.members.len())
    }

    /// Whether so much of it is garbage that it is better loaded anew.
    #[must_use]
    pub fn is_littered(&self) -> bool {
        self.garbage > 1_024 && self.garbage > self.members.len() / 4
    }

    /// The memory that it takes, in bytes, its slugs' places included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.organizations.bytes() + self.members.bytes() + self.organizations.len() * slugs::BYTES
    }
}
