//! The inactive and erased users, and those in a state that this program does not know. All other users count as active,
//! also users without a record.

use super::fingerprint::{Fingerprint, FingerprintKey, PassthroughBuilder};
use crate::domain::ids::USER_BUCKETS;
use crate::domain::{UserId, UserState};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

/// A bucket of users.
#[derive(Default)]
struct UserBucket {
    states: RwLock<HashMap<Fingerprint, UserState, PassthroughBuilder>>,
    /// Advanced after the states have changed, so that the states are never older than the position.
    position: AtomicI64,
}

/// All buckets of users.
pub(super) struct UserTables {
    key: FingerprintKey,
    buckets: Box<[UserBucket]>,
    /// The number of states in all buckets: usually 0, in which case lookups skip the buckets.
    count: AtomicUsize,
}

impl UserTables {
    pub(super) fn new(key: FingerprintKey) -> Self {
        Self { key, buckets: (0..USER_BUCKETS).map(|_| UserBucket::default()).collect(), count: AtomicUsize::new(0) }
    }

    fn bucket(&self, number: i16) -> &UserBucket {
        &self.buckets[usize::from(number.unsigned_abs()) % self.buckets.len()]
    }

    /// Replaces a bucket by its content in a snapshot at this position.
    pub(super) fn put_bucket(&self, number: i16, position: i64, snapshot: &[(UserId, UserState)]) {
        let bucket = self.bucket(number);
        let mut states = bucket.states.write().unwrap_or_else(PoisonError::into_inner);
        let before = states.len();
        *states = snapshot.iter().map(|(user, state)| (self.key.user(user), *state)).collect();
        self.count.fetch_add(states.len(), Ordering::AcqRel);
        self.count.fetch_sub(before, Ordering::AcqRel);
        drop(states);
        bucket.position.store(position, Ordering::Release);
    }

    /// Applies the changes in a bucket's log up to the position `last`.
    pub(super) fn apply<'a>(&self, number: i16, changes: impl Iterator<Item = (&'a UserId, UserState)>, last: i64) {
        let bucket = self.bucket(number);
        let mut states = bucket.states.write().unwrap_or_else(PoisonError::into_inner);
        for (user, state) in changes {
            let user = self.key.user(user);
            let before = match state {
                UserState::Active => states.remove(&user).map(|_| self.count.fetch_sub(1, Ordering::AcqRel)),
                UserState::Inactive | UserState::Erased | UserState::Unknown => {
                    self.count.fetch_add(1, Ordering::AcqRel);
                    states.insert(user, state).map(|_| self.count.fetch_sub(1, Ordering::AcqRel))
                }
            };
            debug_assert!(before.is_none_or(|count| count > 0), "a state was counted twice");
        }
        drop(states);
        bucket.position.fetch_max(last, Ordering::AcqRel);
    }

    /// The position up to which a bucket's log is applied. A state that is read afterwards is at least as new.
    pub(super) fn position(&self, number: i16) -> i64 {
        self.bucket(number).position.load(Ordering::Acquire)
    }

    /// The state of a user; `None` for an active user and for one without a record.
    pub(super) fn state(&self, user: &UserId, number: i16) -> Option<UserState> {
        if self.is_empty() {
            return None;
        }
        let states = self.bucket(number).states.read().unwrap_or_else(PoisonError::into_inner);
        if states.is_empty() { None } else { states.get(&self.key.user(user)).copied() }
    }

    /// Whether all users are active.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(super) fn bytes(&self) -> usize {
        let bytes = |bucket: &UserBucket| {
            let states = bucket.states.read().unwrap_or_else(PoisonError::into_inner);
            table_bytes(states.capacity(), size_of::<(Fingerprint, UserState)>())
        };
        self.buckets.iter().map(bytes).sum()
    }
}

/// The memory of a standard-library hash table, in bytes: a power of two of slots, of which seven in eight may be used,
/// each with one control byte.
fn table_bytes(capacity: usize, entry: usize) -> usize {
    (capacity * 8 / 7) * (entry + 1)
}
