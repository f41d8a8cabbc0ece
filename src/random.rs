//! Randomness from the operating system.
//!
//! No other module draws random numbers; a lint forbids it.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

/// A random UUID (version 4), from the operating system's source.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that draws random numbers")]
pub fn uuid() -> Uuid {
    Uuid::new_v4()
}

/// An id for something that stands in the log, such as a request. It costs no call of the operating system: it is a keyed
/// hash of a counter, so that ids do not reveal how many there are.
#[must_use]
pub fn log_id() -> Uuid {
    static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let [high, low] = KEYS.each_ref().map(|key| key.hash_one(number));
    Uuid::from_u64_pair(high, low)
}

/// 64 random bits. Not for secrets: some of them are fixed by the form of a UUID.
#[must_use]
pub fn bits() -> u64 {
    let (high, low) = uuid().as_u64_pair();
    high ^ low.rotate_left(32)
}

/// 32 random bytes for a secret, from the operating system's source.
#[must_use]
pub fn secret() -> [u8; 32] {
    // A version 4 UUID fixes 6 of its bits; three of them hashed give 256 unpredictable bits of 366.
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    for _ in 0..3 {
        hasher.update(uuid().as_bytes());
    }
    hasher.finalize().into()
}
