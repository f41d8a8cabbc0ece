//! The users who are not like all others: inactive and erased ones, those in a state that this program does not know, and
//! those who were reinstated. All other users count as active, also users without a record.

use super::fingerprint::{Fingerprint, FingerprintKey, PassthroughBuilder};
use crate::domain::ids::USER_BUCKETS;
use crate::domain::{BucketPosition, UserId, UserState, UserStatus};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A bucket of users as of one position of its log.
struct UserBucket {
    states: HashMap<Fingerprint, UserState, PassthroughBuilder>,
    /// When users were last reinstated. An entry takes 29 to 57 bytes, and there is one for each user who ever was: operators
    /// reinstate users one at a time.
    reinstated: HashMap<Fingerprint, i64, PassthroughBuilder>,
    at: BucketPosition,
}

impl UserBucket {
    fn new(number: i16) -> RwLock<Self> {
        let (states, reinstated) = (HashMap::default(), HashMap::default());
        RwLock::new(Self { states, reinstated, at: BucketPosition::start(number) })
    }

    fn put(&mut self, user: Fingerprint, status: UserStatus) {
        match status.state {
            Some(state) => self.states.insert(user, state),
            None => self.states.remove(&user),
        };
        // Most entries of the log have none. A reinstatement is never taken back, and only a later one replaces it.
        if let Some(at) = status.reinstated_at {
            let known = self.reinstated.entry(user).or_insert(at);
            *known = at.max(*known);
        }
    }

    fn count(&self) -> usize {
        self.states.len() + self.reinstated.len()
    }
}

/// All buckets of users.
pub(super) struct UserTables {
    key: FingerprintKey,
    buckets: Box<[RwLock<UserBucket>]>,
    /// The number of entries in all buckets: usually 0.
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
    pub(super) fn put_bucket(&self, at: BucketPosition, snapshot: &[(UserId, UserStatus)]) {
        self.change(at.bucket, |bucket| {
            (bucket.states, bucket.reinstated) = (HashMap::default(), HashMap::default());
            for (user, status) in snapshot {
                bucket.put(self.key.user(user), *status);
            }
            bucket.at = at;
        });
    }

    /// Applies the changes in a bucket's log up to the position `last`.
    pub(super) fn apply<'a>(&self, changes: impl Iterator<Item = (&'a UserId, UserStatus)>, last: BucketPosition) {
        self.change(last.bucket, |bucket| {
            for (user, status) in changes {
                bucket.put(self.key.user(user), status);
            }
            if last.position > bucket.at.position {
                bucket.at = last;
            }
        });
    }

    /// Changes a bucket, and updates the number of entries.
    fn change(&self, number: i16, change: impl FnOnce(&mut UserBucket)) {
        let mut bucket = self.write(number);
        let before = bucket.count();
        change(&mut bucket);
        // Added first, so that the count is not zero in between.
        self.count.fetch_add(bucket.count(), Ordering::AcqRel);
        self.count.fetch_sub(before, Ordering::AcqRel);
    }

    /// The position up to which a bucket's log is applied.
    pub(super) fn position(&self, number: i16) -> BucketPosition {
        self.read(number).at
    }

    /// The status of a user with the position that it corresponds to.
    pub(super) fn find(&self, user: &UserId) -> (UserStatus, BucketPosition) {
        let bucket = self.read(user.bucket());
        if bucket.count() == 0 {
            return (UserStatus::default(), bucket.at);
        }
        let user = self.key.user(user);
        let (state, reinstated_at) = (bucket.states.get(&user).copied(), bucket.reinstated.get(&user).copied());
        (UserStatus { state, reinstated_at }, bucket.at)
    }

    /// Whether all users are active, and none was reinstated.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(super) fn bytes(&self) -> usize {
        let bytes = |number| {
            let bucket = self.read(number);
            table_bytes(bucket.states.capacity(), size_of::<(Fingerprint, UserState)>())
                + table_bytes(bucket.reinstated.capacity(), size_of::<(Fingerprint, i64)>())
        };
        (0..USER_BUCKETS).map(bytes).sum()
    }
}

/// The memory of a standard-library hash table, in bytes: a power of two of slots, of which seven in eight may be used,
/// each with one control byte.
fn table_bytes(capacity: usize, entry: usize) -> usize {
    (capacity * 8 / 7) * (entry + 1)
}
