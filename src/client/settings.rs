//! Settings of the client: the server's address and the credential.

use super::Error;
use super::error::BoxError;
use crate::client::limits;
use futures_util::future::BoxFuture;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Endpoint;

/// Settings of a [`super::Client`]: the server's endpoint, the credential and the timeout of calls.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub(super) endpoint: Endpoint,
    pub(super) credential: Option<TokenSource>,
    pub(super) timeout: Duration,
}

impl ClientSettings {
    /// Settings for the server at this address, such as `http://roster.internal:50051`. The connection uses keep-alive
    /// pings, so that the client notices when the server is gone.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if the address is not a valid URI.
    pub fn new(address: impl Into<String>) -> Result<Self, Error> {
        let address = address.into();
        let endpoint =
            Endpoint::from_shared(address).map_err(|error| Error::Unreadable(format!("address: {error}")))?;
        let endpoint = endpoint
            .connect_timeout(limits::CLIENT_CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(limits::CLIENT_KEEP_ALIVE)
            .keep_alive_timeout(limits::CLIENT_KEEP_ALIVE)
            .keep_alive_while_idle(true);
        Ok(Self::of(endpoint))
    }

    /// Settings for a tonic endpoint, for TLS (with one of tonic's TLS features) and tonic's other options. Enable
    /// keep-alive pings on it, so that the client notices when the server is gone.
    #[must_use]
    pub fn of(endpoint: Endpoint) -> Self {
        Self { endpoint, credential: None, timeout: limits::CLIENT_TIMEOUT }
    }

    /// Sends this credential with every call: a bearer token of the identity provider, or one of roster's API keys.
    #[must_use]
    pub fn with_token(mut self, token: TokenSource) -> Self {
        self.credential = Some(token);
        self
    }

    /// Sets the timeout of a call. The default is [`limits::CLIENT_TIMEOUT`], two seconds.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// The source of the credential: a bearer token, or an API key, which roster accepts in the same header.
#[derive(Clone)]
pub struct TokenSource(TokenSourceKind);

#[derive(Clone)]
enum TokenSourceKind {
    Fixed(AsciiMetadataValue),
    Function(Arc<dyn Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync>),
}

impl TokenSource {
    /// A fixed credential.
    ///
    /// # Errors
    /// [`Error::Credential`] if it contains characters that a header does not allow.
    pub fn fixed(token: &str) -> Result<Self, Error> {
        header(token).map(|header| Self(TokenSourceKind::Fixed(header)))
    }

    /// A credential from a function. The client calls the function for every request, so the function should cache a
    /// token while it is valid and renew it in time.
    #[must_use]
    pub fn from_fn<F, G>(source: F) -> Self
    where
        F: Fn() -> G + Send + Sync + 'static,
        G: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        Self(TokenSourceKind::Function(Arc::new(move || Box::pin(source()))))
    }

    pub(super) async fn header(&self) -> Result<AsciiMetadataValue, Error> {
        match &self.0 {
            TokenSourceKind::Fixed(header) => Ok(header.clone()),
            TokenSourceKind::Function(source) => header(&source().await.map_err(Error::Credential)?),
        }
    }
}

fn header(token: &str) -> Result<AsciiMetadataValue, Error> {
    // The cause is dropped: it may repeat the token.
    let header = AsciiMetadataValue::try_from(format!("Bearer {token}"));
    let mut header =
        header.map_err(|_| Error::Credential("the token contains characters that a header does not allow".into()))?;
    header.set_sensitive(true);
    Ok(header)
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSource")
    }
}
