//! The credential of a streaming call, verified again while the stream is open.

use super::credential_error::{ON_BEHALF_OF, ON_BEHALF_OF_BIN};
use super::{Authenticator, Caller, ClientCertificate, PeerShare, RecentCredentials};
use crate::domain::Refusal;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use std::sync::Arc;

/// The credential headers of a call and the authenticator that verifies them. It holds a secret, so it does not
/// implement `Debug`.
#[derive(Clone)]
pub struct StreamCredential {
    authenticator: Authenticator,
    headers: HeaderMap,
    /// Those of this stream alone: its header values are the same memory at each verification.
    recent: Arc<RecentCredentials>,
    peer: Arc<PeerShare>,
}

impl StreamCredential {
    /// Copies the credential headers (`authorization`, `roster-on-behalf-of` and `roster-on-behalf-of-bin`) and no other
    /// header. `certificate` is the client certificate of the connection.
    #[must_use]
    pub fn new(
        authenticator: Authenticator,
        headers: &HeaderMap,
        certificate: Option<Arc<ClientCertificate>>,
        peer: Arc<PeerShare>,
    ) -> Self {
        let mut credential = HeaderMap::new();
        for name in [AUTHORIZATION, HeaderName::from_static(ON_BEHALF_OF), HeaderName::from_static(ON_BEHALF_OF_BIN)] {
            for value in headers.get_all(&name) {
                credential.append(name.clone(), value.clone());
            }
        }
        let recent = Arc::new(RecentCredentials::with_certificate(certificate));
        Self { authenticator, headers: credential, recent, peer }
    }

    /// Authenticates the caller again, because a token or a certificate can expire and a key can be removed while the
    /// stream is open.
    ///
    /// # Errors
    /// Those of [`Authenticator::recognize`] and [`Authenticator::authenticate`].
    pub async fn verify(&self) -> Result<Arc<Caller>, Refusal> {
        match self.authenticator.recognize(&self.headers, &self.recent, &self.peer)? {
            Some(caller) => Ok(caller),
            None => self.authenticator.authenticate(&self.headers, &self.peer).await,
        }
    }
}
