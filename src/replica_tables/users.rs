//! The users who are switched off or erased. All others count as active, also those not heard of.

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
    /// Told after the states are changed, so that what is read is never older.
    position: AtomicI64,
}

/// All buckets of users.
pub(super) struct UserTables {
    key: FingerprintKey,
    parts: Box<[UserBucket]>,
    /// How many states are held in all: mostly none, and then nobody looks.
    held: AtomicUsize,
}

impl UserTables {
    pub(super) fn new(key: FingerprintKey) -> Self {
        Self { key, parts: (0..USER_BUCKETS).map(|_| UserBucket::default()).collect(), held: AtomicUsize::new(0) }
    }

    fn part(&self, bucket: i16) -> &UserBucket {
        &self.parts[usize::from(bucket.unsigned_abs()) % self.parts.len()]
    }

    /// Takes in what one snapshot holds of a bucket, in place of what was there.
    pub(super) fn put_bucket(&self, bucket: i16, position: i64, states: &[(UserId, UserState)]) {
        let part = self.part(bucket);
        let mut held = part.states.write().unwrap_or_else(PoisonError::into_inner);
        let before = held.len();
        *held = states.iter().map(|(user, state)| (self.key.user(user), *state)).collect();
        self.held.fetch_add(held.len(), Ordering::AcqRel);
        self.held.fetch_sub(before, Ordering::AcqRel);
        drop(held);
        part.position.store(position, Ordering::Release);
    }

    /// Applies the lines of a bucket up to a position.
    pub(super) fn apply<'a>(&self, bucket: i16, lines: impl Iterator<Item = (&'a UserId, UserState)>, last: i64) {
        let part = self.part(bucket);
        let mut held = part.states.write().unwrap_or_else(PoisonError::into_inner);
        for (user, state) in lines {
            let user = self.key.user(user);
            let before = match state {
                UserState::Active => held.remove(&user).map(|_| self.held.fetch_sub(1, Ordering::AcqRel)),
                UserState::Inactive | UserState::Erased => {
                    self.held.fetch_add(1, Ordering::AcqRel);
                    held.insert(user, state).map(|_| self.held.fetch_sub(1, Ordering::AcqRel))
                }
            };
            debug_assert!(before.is_none_or(|count| count > 0), "states are counted twice");
        }
        drop(held);
        part.position.fetch_max(last, Ordering::AcqRel);
    }

    /// How far a bucket's log is applied. Read before [`Self::state`], which is then at least as new.
    pub(super) fn position(&self, bucket: i16) -> i64 {
        self.part(bucket).position.load(Ordering::Acquire)
    }

    /// The state of a user; none for one who is active or not heard of.
    pub(super) fn state(&self, user: &UserId, bucket: i16) -> Option<UserState> {
        if self.is_empty() {
            return None;
        }
        let held = self.part(bucket).states.read().unwrap_or_else(PoisonError::into_inner);
        if held.is_empty() { None } else { held.get(&self.key.user(user)).copied() }
    }

    /// Whether no state is held at all: then nobody need look.
    pub(super) fn is_empty(&self) -> bool {
        self.held.load(Ordering::Acquire) == 0
    }

    pub(super) fn bytes(&self) -> usize {
        let bytes = |part: &UserBucket| {
            let held = part.states.read().unwrap_or_else(PoisonError::into_inner);
            table_bytes(held.capacity(), size_of::<(Fingerprint, UserState)>())
        };
        self.parts.iter().map(bytes).sum()
    }
}

/// The memory of a hash table of the standard library: a power of two of places, of which seven in eight are used, each
/// with a byte of its own beside it.
fn table_bytes(capacity: usize, entry: usize) -> usize {
    (capacity * 8 / 7) * (entry + 1)
}
