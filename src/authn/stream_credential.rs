//! Credentials of calls that last: kept, to be verified again while a stream lives.

use super::credential_error::ON_BEHALF_OF;
use super::{Authenticator, Caller};
use crate::domain::Refusal;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

/// What a caller has shown, and who judges it. It holds a secret: nothing here can be printed.
#[derive(Clone)]
pub struct StreamCredential {
    authenticator: Authenticator,
    headers: HeaderMap,
}

impl StreamCredential {
    /// Keeps what these headers show of their caller, and nothing else of them.
    #[must_use]
    pub fn new(authenticator: Authenticator, headers: &HeaderMap) -> Self {
        let mut kept = HeaderMap::new();
        for name in [AUTHORIZATION, HeaderName::from_static(ON_BEHALF_OF)] {
            for value in headers.get_all(&name) {
                kept.append(name.clone(), value.clone());
            }
        }
        Self { authenticator, headers: kept }
    }

    /// Who is calling, as of now: tokens expire, and keys are taken away.
    ///
    /// # Errors
    /// Those of [`Authenticator::authenticate`].
    pub async fn verify(&self) -> Result<Caller, Refusal> {
        self.authenticator.authenticate(&self.headers).await
    }
}
