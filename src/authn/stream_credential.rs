//! The credential of a streaming call, verified again while the stream is open.

use super::credential_error::ON_BEHALF_OF;
use super::{Authenticator, Caller, PeerShare};
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
    peer: Arc<PeerShare>,
}

impl StreamCredential {
    /// Copies the credential headers (`authorization` and `roster-on-behalf-of`) and no other header.
    #[must_use]
    pub fn new(authenticator: Authenticator, headers: &HeaderMap, peer: Arc<PeerShare>) -> Self {
        let mut credential = HeaderMap::new();
        for name in [AUTHORIZATION, HeaderName::from_static(ON_BEHALF_OF)] {
            for value in headers.get_all(&name) {
                credential.append(name.clone(), value.clone());
            }
        }
        Self { authenticator, headers: credential, peer }
    }

    /// Authenticates the caller again, because a token can expire and a key can be removed while the stream is open.
    ///
    /// # Errors
    /// Those of [`Authenticator::authenticate`].
    pub async fn verify(&self) -> Result<Arc<Caller>, Refusal> {
        self.authenticator.authenticate(&self.headers, &self.peer).await
    }
}
