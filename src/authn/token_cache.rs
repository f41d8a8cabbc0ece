//! Entries of the cache of verified tokens, and the recent credentials of a connection.

use super::caller::Caller;
use super::client_certificates::ClientCertificate;
use super::jwt::VerifiedToken;
use super::limits;
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

/// A credential whose caller is known without a verification.
#[derive(Clone)]
pub(super) enum KnownCredential {
    /// A verified token. It has to be still valid.
    Token(Arc<CacheEntry>),
    /// A configured API key. It is valid as long as the process runs.
    ApiKey(Arc<Caller>),
}

/// The credentials that a connection sent recently, and the client certificate of its TLS handshake.
///
/// The next call on a connection usually sends the same credential as an earlier one. Its header value is then not only
/// equal: it is the same memory, in the HPACK table of the connection. A comparison of the two addresses avoids hashing the
/// credential. The bytes are never compared, because the duration of that comparison would reveal to another caller on a
/// shared connection how much of a guess is correct.
#[derive(Default)]
pub struct RecentCredentials {
    ring: Mutex<Ring>,
    certificate: Option<Arc<ClientCertificate>>,
}

#[derive(Default)]
struct Ring {
    entries: Vec<(HeaderValue, KnownCredential)>,
    /// The index of the oldest entry, if the ring is full.
    oldest: usize,
}

impl RecentCredentials {
    /// No credentials yet, on a connection with this client certificate.
    #[must_use]
    pub fn with_certificate(certificate: Option<Arc<ClientCertificate>>) -> Self {
        Self { ring: Mutex::default(), certificate }
    }

    /// Returns the client certificate of the connection; `None` if the client has sent none.
    #[must_use]
    pub fn certificate(&self) -> Option<&Arc<ClientCertificate>> {
        self.certificate.as_ref()
    }

    /// Returns what is known about a credential, if the connection sent the same header value recently.
    pub(super) fn find(&self, value: &HeaderValue) -> Option<KnownCredential> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.entries.iter().find(|(stored, _)| is_same(stored, value)).map(|(_, known)| known.clone())
    }

    /// Stores a credential in the place of the oldest one. One that does not fit into an HPACK table is not stored, because
    /// it never has the same address again.
    pub(super) fn add(&self, value: &HeaderValue, known: &KnownCredential) {
        if value.len() > limits::HPACK_TABLE_BYTES {
            return;
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = (value.clone(), known.clone());
        if let Some(same) = ring.entries.iter_mut().find(|(stored, _)| is_same(stored, value)) {
            *same = entry;
        } else if ring.entries.len() < limits::RECENT_CREDENTIALS {
            ring.entries.push(entry);
        } else {
            let oldest = ring.oldest;
            ring.entries[oldest] = entry;
            ring.oldest = (oldest + 1) % limits::RECENT_CREDENTIALS;
        }
    }
}

/// Whether two values are the same memory. A stored value keeps its memory allocated, so no other value can have its
/// address.
fn is_same(stored: &HeaderValue, value: &HeaderValue) -> bool {
    std::ptr::eq(stored.as_bytes(), value.as_bytes())
}
