//! The inactive and erased users, and those in a state that this program does not know. All other users count as active,
//! also users without a record.

use super::fingerprint::{Fingerprint, FingerprintKey, PassthroughBuilder};
use crate::domain::ids::USER_BUCKETS;
use crate::domain::{BucketPosition, UserId, UserState};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A bucket of users as of one position of its log.
struct UserBucket {
    states: HashMap<Fingerprint, UserState, PassthroughBuilder>,
    at: BucketPosition,
}

impl UserBucket {
    fn new(number: i16) -> RwLock<Self> {
        RwLock::new(Self { states: HashMap::default(), at: BucketPosition::start(number) })
    }
}

/// All buckets of users.
pub(super) struct UserTables {
    key: FingerprintKey,
    buckets: Box<[RwLock<UserBucket>]>,
    /// The number of states in all buckets: usually 0.
    count: AtomicUsize,
}

impl UserTables {
    pub(super) fn new(key: FingerprintKey) -> Self {
        Self { key, buckets: (0..USER_BUCKETS).map(UserBucket::new).collect(), count: AtomicUsize::new(0) }
    }

    fn slot(&self, number: i16) -> &RwLock<UserBucket> {
        &self.buckets[usize::from(number.unsigned_abs()) % self.buckets.len()]
    }

    fn read(&self, number: i16) -> RwLockReadGuard<'_, UserBucket> {
        self.slot(number).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, number: i16) -> RwLockWriteGuard<'_, UserBucket> {
        self.slot(number).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces a bucket by its content in a snapshot at this position.
    pub(super) fn put_bucket(&self, at: BucketPosition, snapshot: &[(UserId, UserState)]) {
        let mut bucket = self.write(at.bucket);
        let before = bucket.states.len();
        bucket.states = snapshot.iter().map(|(user, state)| (self.key.user(user), *state)).collect();
        bucket.at = at;
        self.count.fetch_add(bucket.states.len(), Ordering::AcqRel);
        self.count.fetch_sub(before, Ordering::AcqRel);
    }

    /// Applies the changes in a bucket's log up to the position `last`.
    pub(super) fn apply<'a>(&self, changes: impl Iterator<Item = (&'a UserId, UserState)>, last: BucketPosition) {
        let mut bucket = self.write(last.bucket);
        for (user, state) in changes {
            let user = self.key.user(user);
            let before = match state {
                UserState::Active => bucket.states.remove(&user).map(|_| self.count.fetch_sub(1, Ordering::AcqRel)),
                UserState::Inactive | UserState::Erased | UserState::Unknown => {
                    self.count.fetch_add(1, Ordering::AcqRel);
                    bucket.states.insert(user, state).map(|_| self.count.fetch_sub(1, Ordering::AcqRel))
                }
            };
            debug_assert!(before.is_none_or(|count| count > 0), "a state was counted twice");
        }
        if last.position > bucket.at.position {
            bucket.at = last;
        }
    }

    /// The position up to which a bucket's log is applied.
    pub(super) fn position(&self, number: i16) -> BucketPosition {
        self.read(number).at
    }

    /// The state of a user with the position that it corresponds to; no state for an active or unknown user.
    pub(super) fn find(&self, user: &UserId) -> (Option<UserState>, BucketPosition) {
        let bucket = self.read(user.bucket());
        let state = if bucket.states.is_empty() { None } else { bucket.states.get(&self.key.user(user)).copied() };
        (state, bucket.at)
    }

    /// Whether all users are active.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(super) fn bytes(&self) -> usize {
        let bytes = |number| table_bytes(self.read(number).states.capacity(), size_of::<(Fingerprint, UserState)>());
        (0..USER_BUCKETS).map(bytes).sum()
    }
}

/// The memory of a standard-library hash table, in bytes: a power of two of slots, of which seven in eight may be used,
/// each with one control byte.
fn table_bytes(capacity: usize, entry: usize) -> usize {
    (capacity * 8 / 7) * (entry + 1)
}
