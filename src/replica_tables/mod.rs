//! The copy of all memberships as a thing in memory: what is kept, how it changes, how it is asked.
//!
//! Pure: it knows no datastore and no clock. The server fills it from Postgres ([`crate::replica`]), a client of roster from
//! an export ([`crate::client`]); both then apply the lines of the log to it, whole transactions at a time. A bucket is
//! behind one lock: who asks sees a whole prefix of each organization's history, never a mixture.

mod bucket;
mod fingerprint;
mod slugs;
mod table;
#[cfg(test)]
mod tests;
mod users;

pub use bucket::{Bucket, MemberLookup};

use crate::domain::change::LogEntry;
use crate::domain::ids::ORGANIZATION_BUCKETS;
use crate::domain::{OrganizationId, OrganizationRef, Slug, UserId, UserState};
use fingerprint::FingerprintKey;
use slugs::{SlugChange, Slugs};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use users::UserTables;

/// The copy.
pub struct ReplicaTables {
    key: FingerprintKey,
    buckets: Box<[RwLock<Option<Bucket>>]>,
    slugs: Slugs,
    users: UserTables,
}

impl ReplicaTables {
    /// An empty copy. The random bytes are the key of its fingerprints, and a secret.
    #[must_use]
    pub fn new(random: [u8; 16]) -> Self {
        let key = FingerprintKey::new(random);
        Self {
            key,
            buckets: (0..ORGANIZATION_BUCKETS).map(|_| RwLock::default()).collect(),
            slugs: Slugs::default(),
            users: UserTables::new(key),
        }
    }

    /// An empty bucket, to be filled with what a snapshot at this position holds, and then published with [`Self::put`].
    #[must_use]
    pub fn bucket(&self, position: i64) -> Bucket {
        Bucket::new(self.key, position)
    }

    fn slot(&self, bucket: i16) -> &RwLock<Option<Bucket>> {
        &self.buckets[usize::from(bucket.unsigned_abs()) % self.buckets.len()]
    }

    /// Publishes a bucket in place of the one that was there.
    pub fn put(&self, number: i16, bucket: Bucket) {
        let old = {
            let mut place = self.slot(number).write().unwrap_or_else(PoisonError::into_inner);
            // Before anybody can see the bucket, so that its slugs are found.
            self.slugs.put_all(bucket.slugs());
            place.replace(bucket)
        };
        if let Some(old) = old {
            self.forget_slugs(number, &old);
        }
    }

    /// No longer holds a bucket.
    pub fn take(&self, number: i16) {
        let old = self.slot(number).write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(old) = old {
            self.forget_slugs(number, &old);
        }
    }

    /// Takes back what an old copy of a bucket claimed and the present one does not.
    fn forget_slugs(&self, number: i16, old: &Bucket) {
        let present = self.read(number);
        let gone: Vec<SlugChange> = (old.slugs())
            .filter(|(slug, id)| !present.as_ref().is_some_and(|present| present.has_slug(*id, *slug)))
            .map(|(slug, id)| SlugChange { organization: id, old: Some(slug), new: None })
            .collect();
        drop(present);
        self.slugs.apply(&gone);
    }

    /// Applies lines of whole transactions to a bucket, if it is held, up to this position.
    pub fn apply<'a>(&self, number: i16, lines: impl Iterator<Item = (i64, &'a LogEntry)>, last: i64) {
        let mut place = self.slot(number).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = place.as_mut() {
            self.slugs.apply(&bucket.apply(lines, last));
        }
    }

    /// Applies lines to a bucket that is not published yet.
    pub fn apply_to<'a>(&self, bucket: &mut Bucket, lines: impl Iterator<Item = (i64, &'a LogEntry)>, last: i64) {
        bucket.apply(lines, last);
    }

    /// Takes in what one snapshot holds of a bucket of users: those who are not active.
    pub fn put_users(&self, bucket: i16, position: i64, states: &[(UserId, UserState)]) {
        self.users.put_bucket(bucket, position, states);
    }

    /// Applies lines of a bucket of users up to a position.
    pub fn apply_users<'a>(&self, bucket: i16, lines: impl Iterator<Item = (&'a UserId, UserState)>, last: i64) {
        self.users.apply(bucket, lines, last);
    }

    /// A bucket as it now is; it stands still for as long as this is kept. None in it if the bucket is not held.
    pub fn read(&self, number: i16) -> RwLockReadGuard<'_, Option<Bucket>> {
        self.slot(number).read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The organization that has this slug; none if no held bucket has such a one, and none if two have: a slug that has
    /// just moved, from one whose bucket does not yet say so.
    #[must_use]
    pub fn resolve(&self, slug: &Slug) -> Option<OrganizationId> {
        let slug = self.key.slug(slug);
        let has = |id: &OrganizationId| self.read(id.bucket()).as_ref().is_some_and(|held| held.has_slug(*id, slug));
        let mut having = self.slugs.find(slug).filter(has);
        let one = having.next()?;
        having.next().is_none().then_some(one)
    }

    /// Whether any organization of a held bucket has this slug, be it one or two.
    #[must_use]
    pub fn is_claimed(&self, slug: &Slug) -> bool {
        let slug = self.key.slug(slug);
        self.slugs.find(slug).any(|id| self.read(id.bucket()).as_ref().is_some_and(|held| held.has_slug(id, slug)))
    }

    /// The organization that is meant, if a held bucket knows it by that name. Ids are taken at their word.
    #[must_use]
    pub fn organization(&self, named: &OrganizationRef) -> Option<OrganizationId> {
        match named {
            OrganizationRef::Id(id) => Some(*id),
            OrganizationRef::Slug(slug) => self.resolve(slug),
        }
    }

    /// The state of a user, and how far the log of their bucket was applied when it was read; no state for one who is
    /// active or not heard of.
    #[must_use]
    pub fn user(&self, user: &UserId, bucket: i16) -> (Option<UserState>, i64) {
        let position = self.users.position(bucket);
        (self.users.state(user, bucket), position)
    }

    /// The state of a user; none for one who is active or not heard of.
    #[must_use]
    pub fn user_state(&self, user: &UserId) -> Option<UserState> {
        if self.users.is_empty() { None } else { self.users.state(user, user.bucket()) }
    }

    /// Whether an organization of this bucket has this slug now.
    #[must_use]
    pub fn is_called(&self, bucket: &Bucket, organization: OrganizationId, slug: &Slug) -> bool {
        bucket.has_slug(organization, self.key.slug(slug))
    }

    /// How far the log of a bucket of users is applied.
    #[must_use]
    pub fn user_position(&self, bucket: i16) -> i64 {
        self.users.position(bucket)
    }

    /// What the users take, in bytes.
    #[must_use]
    pub fn user_bytes(&self) -> usize {
        self.users.bytes()
    }
}

impl std::fmt::Debug for ReplicaTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}
