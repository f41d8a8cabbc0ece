//! The replica's tables: all memberships in memory, with their changes and lookups.
//!
//! Pure: no datastore and no clock. The server loads the tables from Postgres ([`crate::replica`]), a client of roster
//! from an export ([`crate::client`]); both then apply the entries of the change log, whole transactions at a time.
//! Each bucket has one lock, so a reader sees a prefix of each organization's history that ends between two
//! transactions.

mod bucket;
mod fingerprint;
mod organization_roles;
mod role_names;
mod slugs;
mod table;
#[cfg(test)]
mod tests;
mod users;

pub use bucket::{Bucket, MemberLookup};

use crate::domain::change::LogEntry;
use crate::domain::ids::{MODEL_BUCKET, ORGANIZATION_BUCKETS};
use crate::domain::{BucketPosition, OrganizationId, OrganizationRef, RoleTable, Slug, UserId, UserStatus};
use fingerprint::FingerprintKey;
use role_names::RoleNames;
use slugs::{SlugChange, Slugs};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use users::UserTables;

/// The roles of the deployment as of one position of the access model's log.
#[derive(Debug, Clone)]
pub struct PublishedRoles {
    /// What the roles hold.
    pub table: Arc<RoleTable>,
    /// The position of the model in its log; the start of it without a model.
    pub at: BucketPosition,
}

impl PublishedRoles {
    /// The roles without an access model.
    #[must_use]
    pub fn built_in() -> Self {
        Self { table: Arc::new(RoleTable::built_in()), at: BucketPosition::start(MODEL_BUCKET) }
    }
}

/// The tables of one replica.
pub struct ReplicaTables {
    key: FingerprintKey,
    buckets: Box<[RwLock<Option<Bucket>>]>,
    slugs: Slugs,
    users: UserTables,
    role_names: Arc<RoleNames>,
    roles: RwLock<PublishedRoles>,
}

impl ReplicaTables {
    /// Empty tables. The random bytes are the secret key of the fingerprints.
    #[must_use]
    pub fn new(random: [u8; 16]) -> Self {
        let key = FingerprintKey::new(random);
        Self {
            key,
            buckets: (0..ORGANIZATION_BUCKETS).map(|_| RwLock::default()).collect(),
            slugs: Slugs::default(),
            users: UserTables::new(key),
            role_names: Arc::new(RoleNames::new()),
            roles: RwLock::new(PublishedRoles::built_in()),
        }
    }

    /// An empty bucket at this position, to be filled from a snapshot at the same position and published with
    /// [`Self::put`].
    #[must_use]
    pub fn bucket(&self, at: BucketPosition) -> Bucket {
        Bucket::new(self.key, self.role_names.clone(), self.roles(), at)
    }

    fn slot(&self, bucket: i16) -> &RwLock<Option<Bucket>> {
        &self.buckets[usize::from(bucket.unsigned_abs()) % self.buckets.len()]
    }

    /// Sets the roles of the deployment. A bucket adopts them together with the next entries that it applies, at the latest
    /// in [`Self::adopt_roles`]: its entries and its roles are of the same poll.
    pub fn put_roles(&self, roles: PublishedRoles) {
        *self.roles.write().unwrap_or_else(PoisonError::into_inner) = roles;
    }

    /// Makes every loaded bucket adopt the present roles of the deployment.
    pub fn adopt_roles(&self) {
        let roles = self.roles();
        for slot in &self.buckets {
            if let Some(bucket) = slot.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
                bucket.adopt(&roles);
            }
        }
    }

    /// The roles of the deployment.
    #[must_use]
    pub fn roles(&self) -> PublishedRoles {
        self.roles.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes a bucket and replaces the previous one.
    pub fn put(&self, mut bucket: Bucket) {
        let number = bucket.at().bucket;
        bucket.adopt(&self.roles());
        let old = {
            let mut slot = self.slot(number).write().unwrap_or_else(PoisonError::into_inner);
            // Before the bucket becomes visible, so that all its slugs resolve.
            self.slugs.put_all(bucket.slugs());
            slot.replace(bucket)
        };
        if let Some(old) = old {
            self.forget_slugs(number, &old);
        }
    }

    /// Removes a bucket.
    pub fn take(&self, number: i16) {
        let old = self.slot(number).write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(old) = old {
            self.forget_slugs(number, &old);
        }
    }

    /// Removes the slug claims of a replaced bucket that the present bucket does not make.
    fn forget_slugs(&self, number: i16, old: &Bucket) {
        let present = self.read(number);
        let changes: Vec<SlugChange> = (old.slugs())
            .filter(|(slug, id)| !present.as_ref().is_some_and(|present| present.has_slug(*id, *slug)))
            .map(|(slug, id)| SlugChange { organization: id, old: Some(slug), new: None })
            .collect();
        drop(present);
        self.slugs.apply(&changes);
    }

    /// Applies the log entries of whole transactions to the bucket of `last`, up to that position. Does nothing if the
    /// bucket is not loaded.
    pub fn apply<'a>(&self, entries: impl Iterator<Item = (i64, &'a LogEntry)>, last: BucketPosition) {
        let roles = self.roles();
        let mut slot = self.slot(last.bucket).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = slot.as_mut() {
            bucket.adopt(&roles);
            self.slugs.apply(&bucket.apply(entries, last));
        }
    }

    /// Applies log entries to a bucket that is not published yet.
    pub fn apply_to<'a>(
        &self,
        bucket: &mut Bucket,
        entries: impl Iterator<Item = (i64, &'a LogEntry)>,
        last: BucketPosition,
    ) {
        bucket.apply(entries, last);
    }

    /// Replaces a user bucket by its content in a snapshot at this position: the users who are not active or were
    /// reinstated.
    pub fn put_users(&self, at: BucketPosition, users: &[(UserId, UserStatus)]) {
        self.users.put_bucket(at, users);
    }

    /// Applies the changes in a user bucket's log, up to the position `last`. Without a reinstatement, a change
    /// leaves an earlier one as it is.
    pub fn apply_users<'a>(&self, changes: impl Iterator<Item = (&'a UserId, UserStatus)>, last: BucketPosition) {
        self.users.apply(changes, last);
    }

    /// Locks a bucket for reading: it does not change while the guard lives. The guard holds `None` if the bucket is
    /// not loaded.
    pub fn read(&self, number: i16) -> RwLockReadGuard<'_, Option<Bucket>> {
        self.slot(number).read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The organization with this slug. `None` if no loaded bucket has it, and also if two organizations have it: the
    /// slug has just moved, and the bucket of its previous organization is not up to date yet.
    #[must_use]
    pub fn resolve(&self, slug: &Slug) -> Option<OrganizationId> {
        let slug = self.key.slug(slug);
        let is_current =
            |id: &OrganizationId| self.read(id.bucket()).as_ref().is_some_and(|bucket| bucket.has_slug(*id, slug));
        let mut owners = self.slugs.find(slug).filter(is_current);
        let owner = owners.next()?;
        owners.next().is_none().then_some(owner)
    }

    /// Whether one or two organizations of loaded buckets have this slug.
    #[must_use]
    pub fn is_claimed(&self, slug: &Slug) -> bool {
        let slug = self.key.slug(slug);
        self.slugs.find(slug).any(|id| self.read(id.bucket()).as_ref().is_some_and(|bucket| bucket.has_slug(id, slug)))
    }

    /// The id of the referenced organization. A slug must resolve in a loaded bucket; an id is returned unchecked.
    #[must_use]
    pub fn organization(&self, reference: &OrganizationRef) -> Option<OrganizationId> {
        match reference {
            OrganizationRef::Id(id) => Some(*id),
            OrganizationRef::Slug(slug) => self.resolve(slug),
        }
    }

    /// The status of a user, and the position of the user bucket's log that it corresponds to.
    #[must_use]
    pub fn user(&self, user: &UserId) -> (UserStatus, BucketPosition) {
        self.users.find(user)
    }

    /// The status of a user.
    #[must_use]
    pub fn user_status(&self, user: &UserId) -> UserStatus {
        if self.users.is_empty() { UserStatus::default() } else { self.users.find(user).0 }
    }

    /// Whether an organization of this bucket has this slug at the bucket's position.
    #[must_use]
    pub fn has_slug(&self, bucket: &Bucket, organization: OrganizationId, slug: &Slug) -> bool {
        bucket.has_slug(organization, self.key.slug(slug))
    }

    /// The position up to which a user bucket's log is applied.
    #[must_use]
    pub fn user_position(&self, bucket: i16) -> BucketPosition {
        self.users.position(bucket)
    }

    /// The memory of the user tables, in bytes.
    #[must_use]
    pub fn user_bytes(&self) -> usize {
        self.users.bytes()
    }
}

impl std::fmt::Debug for ReplicaTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReplicaTables")
    }
}
