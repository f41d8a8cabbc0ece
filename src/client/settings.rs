//! Where the server is, and what it is shown.

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

/// How to reach a server.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub(super) endpoint: Endpoint,
    pub(super) token: Option<TokenSource>,
    pub(super) timeout: Duration,
}

impl ClientSettings {
    /// The server at this address, such as `http://roster.internal:50051`, over connections that notice when the other
    /// side is gone.
    ///
    /// # Errors
    /// If that is no address.
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

    /// The server at an endpoint that the caller has made, for TLS (with one of tonic's TLS features) and whatever else
    /// tonic can do. It should keep its connections alive, so that one that is gone is noticed.
    #[must_use]
    pub fn of(endpoint: Endpoint) -> Self {
        Self { endpoint, token: None, timeout: limits::CLIENT_TIMEOUT }
    }

    /// Shows this: a token of the identity provider, or an API key of roster's.
    #[must_use]
    pub fn with_token(mut self, token: TokenSource) -> Self {
        self.token = Some(token);
        self
    }

    /// Lets a call take so long.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Where the credential comes from: a bearer token, or an API key, which roster takes the same way.
#[derive(Clone)]
pub struct TokenSource(TokenSourceKind);

#[derive(Clone)]
enum TokenSourceKind {
    Fixed(AsciiMetadataValue),
    Asked(Arc<dyn Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync>),
}

impl TokenSource {
    /// Always this one.
    ///
    /// # Errors
    /// If it cannot stand in a header.
    pub fn fixed(token: &str) -> Result<Self, Error> {
        header(token).map(|header| Self(TokenSourceKind::Fixed(header)))
    }

    /// The one that this function gives. It is asked for every call, so it keeps a token for as long as that is good,
    /// and gets a new one in time.
    #[must_use]
    pub fn from_fn<F, G>(give: F) -> Self
    where
        F: Fn() -> G + Send + Sync + 'static,
        G: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        Self(TokenSourceKind::Asked(Arc::new(move || Box::pin(give()))))
    }

    pub(super) async fn header(&self) -> Result<AsciiMetadataValue, Error> {
        match &self.0 {
            TokenSourceKind::Fixed(header) => Ok(header.clone()),
            TokenSourceKind::Asked(give) => header(&give().await.map_err(Error::Credential)?),
        }
    }
}

fn header(token: &str) -> Result<AsciiMetadataValue, Error> {
    // The error is not told on: it may repeat the token.
    let header = AsciiMetadataValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_| Error::Credential("a token of characters that no header takes".into()))?;
    header.set_sensitive(true);
    Ok(header)
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSource")
    }
}
