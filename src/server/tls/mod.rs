//! TLS of the listener.
//!
//! [`ServerTls`] holds the certificate and the rules of new handshakes, and reads their files again on demand. [`handshake`]
//! begins a connection. The library is rustls with aws-lc-rs, in TLS 1.2 and 1.3.

mod certificate;
mod expiry;
mod files;
mod handshake;

use super::limits;
use crate::authn::ClientCertificate;
use crate::clock::Clock;
pub(super) use expiry::watch_expiry;
use files::LoadedTls;
pub(super) use handshake::{HandshakeShare, Handshakes, accept};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The settings of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The PEM file of the certificate of the server, followed by the intermediate certificates.
    pub certificate_file: PathBuf,
    /// The PEM file of its private key, in PKCS#8, SEC1 or PKCS#1.
    pub key_file: PathBuf,
    /// The PEM file of the authorities of client certificates; `None` if clients send no certificates.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client needs a certificate. It has no effect without `client_ca_file`.
    pub client_certificates: ClientCertificateMode,
}

impl TlsSettings {
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate_file, &self.key_file].into_iter().chain(&self.client_ca_file)
    }
}

/// Whether a client needs a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificateMode {
    /// A client may send one. An invalid one ends the handshake.
    #[default]
    Optional,
    /// The handshake fails without one.
    Required,
}

/// The certificate of a server and the rules of its handshakes. Clones are cheap and share the same state.
#[derive(Clone)]
pub struct ServerTls(Arc<TlsState>);

struct TlsState {
    loaded: RwLock<Arc<LoadedTls>>,
    handshakes: Handshakes,
    clock: Clock,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.loaded().settings.fmt(f)
    }
}

impl ServerTls {
    /// Reads the files that the settings name. By the clock, the certificate has expired or not.
    ///
    /// # Errors
    /// Every mistake in the settings and in the files, as one sentence each, which begins with the name of its setting. An
    /// expired certificate is none: see [`Self::warning`].
    pub fn new(settings: &TlsSettings, clock: Clock) -> Result<Self, Vec<String>> {
        let loaded = RwLock::new(Arc::new(files::load(settings)?));
        Ok(Self(Arc::new(TlsState { loaded, handshakes: Handshakes::default(), clock })))
    }

    /// Takes over what `next` has read. New handshakes use it; open connections stay as they are. Returns whether it is
    /// another certificate, another key or other authorities; sessions can be resumed as before if not.
    pub fn adopt(&self, next: &Self) -> bool {
        let (before, after) = (self.loaded(), next.loaded());
        let is_other = (&before.settings, before.digest) != (&after.settings, after.digest);
        if is_other {
            *self.0.loaded.write().unwrap_or_else(PoisonError::into_inner) = after;
        }
        is_other
    }

    /// The settings that are in effect.
    #[must_use]
    pub fn settings(&self) -> TlsSettings {
        self.loaded().settings.clone()
    }

    /// The files that were read.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.loaded().settings.files().cloned().collect()
    }

    /// Returns when the certificate in use expires, in seconds since 1970.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.loaded().expires_at
    }

    /// A sentence about a certificate that expires within [`EXPIRY_WARNING`](super::limits::EXPIRY_WARNING) or has
    /// expired; `None` for any other.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let left = self.expires_at().saturating_sub(self.0.clock.unix_seconds());
        expiry::warning(left, &self.loaded().settings.certificate_file)
    }

    /// The time after which a connection with this client certificate ends: somewhat before the expiry, so that no call
    /// arrives after it.
    pub(super) fn time_of_connection(&self, certificate: &ClientCertificate) -> Duration {
        let left = certificate.expires_at().saturating_sub(self.0.clock.unix_seconds());
        let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
        // A client that has no newer certificate yet would only connect again.
        if left > 2 * limits::EXPIRY_LEAD { left.saturating_sub(limits::EXPIRY_LEAD) } else { left }
    }

    fn loaded(&self) -> Arc<LoadedTls> {
        self.0.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
