//! Entries of the cache of verified tokens, and the last credential of a connection.

use super::caller::Caller;
use super::jwt::VerifiedToken;
use http::HeaderValue;
use std::sync::{Arc, Mutex, PoisonError};

/// A verified token in the cache. Rejections are never cached.
pub(super) struct CacheEntry {
    pub(super) verified: VerifiedToken,
    /// The index of the issuer in the list of the authenticator.
    pub(super) issuer: usize,
}

impl CacheEntry {
    /// Returns whether the token is still valid, with keys of this generation.
    pub(super) fn is_valid(&self, now: i64, generation: u64) -> bool {
        now < self.verified.expires_at && generation == self.verified.generation
    }
}

/// A caller whose token is in the cache.
pub struct CachedCaller(Arc<CacheEntry>);

impl CachedCaller {
    pub(super) fn new(entry: Arc<CacheEntry>) -> Self {
        Self(entry)
    }

    /// Returns the caller.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.0.verified.caller
    }
}

/// The last credential that a connection sent, with its cache entry.
///
/// The next call on the connection usually sends the same credential. Its header value is then not only equal: it is
/// the same memory, in the HPACK table of the connection. A comparison of the two addresses avoids hashing the token.
/// The bytes are never compared, because the duration of that comparison would reveal to another caller on a shared
/// connection how much of a guess is correct.
#[derive(Default)]
pub struct LastCredential(Mutex<Option<(HeaderValue, Arc<CacheEntry>)>>);

impl LastCredential {
    /// Returns the cache entry of this credential, if the connection sent the same header value last.
    pub(super) fn find(&self, value: &HeaderValue) -> Option<Arc<CacheEntry>> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The stored value keeps its memory allocated, so no other value can have this address.
        let same = |(stored, _): &&(HeaderValue, _)| std::ptr::eq(stored.as_bytes(), value.as_bytes());
        last.as_ref().filter(same).map(|(_, entry)| entry.clone())
    }

    /// Stores the credential and its cache entry as the last ones of the connection.
    pub(super) fn set(&self, value: &HeaderValue, entry: &Arc<CacheEntry>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((value.clone(), entry.clone()));
    }
}
