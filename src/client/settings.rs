//! Settings of the client: the server's address and the credential.

use super::Error;
use super::error::BoxError;
use super::route::{self, Route};
#[cfg(feature = "client-tls")]
use super::tls::ClientTls;
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
    route: Route,
    allows_plaintext: bool,
    /// `None` if the endpoint has its own settings of TLS, or uses none.
    #[cfg(feature = "client-tls")]
    tls: Option<ClientTls>,
}

impl ClientSettings {
    /// Settings for the server at this address: `https://roster.internal:50051`, `http://127.0.0.1:50051`, or
    /// `unix:/run/roster.sock`. The connection uses keep-alive pings, so that the client notices when the server is gone.
    ///
    /// * `https://` is TLS, with the feature `client-tls`. The certificate of the server must have the name in the address,
    ///   and be signed by a CA that the platform trusts, or by that of [`Self::with_ca`].
    /// * `http://` and `unix:` are plain text. A credential goes there only if it does not leave this machine: to
    ///   `localhost`, a loopback address or a unix socket. [`Self::allow_plaintext_credentials`] lifts that.
    ///
    /// # Errors
    /// [`Error::InvalidSettings`] if the address is none of these, or if it begins with `https://` and this build of the
    /// client has no TLS.
    pub fn new(address: impl Into<String>) -> Result<Self, Error> {
        let address = address.into();
        let is_unix = address.starts_with("unix:");
        let endpoint =
            Endpoint::from_shared(address).map_err(|error| Error::InvalidSettings(format!("address: {error}")))?;
        if !is_unix && !matches!(endpoint.uri().scheme_str(), Some("http" | "https")) {
            let instead = "address: begin it with https://, http:// or unix:";
            return Err(Error::InvalidSettings(instead.to_owned()));
        }
        let endpoint = endpoint
            .connect_timeout(limits::CLIENT_CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(limits::CLIENT_KEEP_ALIVE)
            .keep_alive_timeout(limits::CLIENT_KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let mut settings = Self::of(endpoint);
        if is_unix {
            settings.route = Route::Local;
        }
        #[cfg(feature = "client-tls")]
        if settings.route == Route::Encrypted {
            settings.tls = Some(ClientTls::default());
        }
        match settings.refusal() {
            Some(sentence) => Err(Error::InvalidSettings(sentence.to_owned())),
            None => Ok(settings),
        }
    }

    /// Settings for a tonic endpoint, with tonic's other options. Enable keep-alive pings on it, so that the client notices
    /// when the server is gone. An endpoint with `https://` needs a `ClientTlsConfig`, and the feature `client-tls`. The
    /// rules for credentials are those of [`Self::new`], except that a unix socket is not recognized: use [`Self::new`].
    #[must_use]
    pub fn of(endpoint: Endpoint) -> Self {
        let route = Route::of(endpoint.uri());
        Self {
            endpoint,
            credential: None,
            timeout: limits::CLIENT_TIMEOUT,
            route,
            allows_plaintext: false,
            #[cfg(feature = "client-tls")]
            tls: None,
        }
    }

    /// Trusts the certificates of this CA (PEM, one or more), and no longer those that the platform trusts.
    ///
    /// # Errors
    /// [`Error::InvalidSettings`] if the text has no certificate, or if the address does not begin with `https://`.
    #[cfg(feature = "client-tls")]
    pub fn with_ca(mut self, pem: impl AsRef<[u8]>) -> Result<Self, Error> {
        self.tls("with_ca")?.set_ca(pem.as_ref())?;
        Ok(self)
    }

    /// Shows this certificate (PEM, with the certificates between it and the CA) to a server that asks for one. The key
    /// is in PEM too. To renew the certificate, make another client.
    ///
    /// # Errors
    /// [`Error::InvalidSettings`] if a text has no certificate or no key, or if the address does not begin with `https://`.
    /// A key that does not fit the certificate is an error of the connection.
    #[cfg(feature = "client-tls")]
    pub fn with_client_certificate(
        mut self,
        certificate: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<Self, Error> {
        self.tls("with_client_certificate")?.set_identity(certificate.as_ref(), key.as_ref())?;
        Ok(self)
    }

    #[cfg(feature = "client-tls")]
    fn tls(&mut self, method: &str) -> Result<&mut ClientTls, Error> {
        if self.route == Route::Encrypted {
            return Ok(self.tls.get_or_insert_default());
        }
        Err(Error::InvalidSettings(format!("{method} needs an address that begins with https://")))
    }

    /// Sends the credential in plain text over a network: the network can read it and use it. For a network that
    /// encrypts by itself, such as a service mesh.
    #[must_use]
    pub fn allow_plaintext_credentials(mut self) -> Self {
        self.allows_plaintext = true;
        self
    }

    /// Why no connection may be opened with these settings.
    fn refusal(&self) -> Option<&'static str> {
        match self.route {
            Route::Encrypted if !cfg!(feature = "client-tls") => Some(route::NO_TLS),
            Route::Plaintext if self.credential.is_some() && !self.allows_plaintext => Some(route::PLAINTEXT),
            Route::Encrypted | Route::Local | Route::Plaintext => None,
        }
    }

    /// The endpoint, if a connection may be opened.
    ///
    /// # Errors
    /// [`Error::InvalidSettings`] if not.
    pub(super) fn endpoint(&self) -> Result<Endpoint, Error> {
        if let Some(sentence) = self.refusal() {
            return Err(Error::InvalidSettings(sentence.to_owned()));
        }
        #[cfg(feature = "client-tls")]
        if let Some(tls) = &self.tls {
            return tls.apply(self.endpoint.clone());
        }
        Ok(self.endpoint.clone())
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

#[cfg(all(test, not(feature = "client-tls")))]
mod tests {
    use super::*;
    use crate::client::{Check, Client, Consistency, Failure};
    use std::io::ErrorKind;
    use std::net::TcpListener;

    fn is_refused(error: &Error) -> bool {
        matches!(error, Error::InvalidSettings(sentence) if sentence == route::NO_TLS)
    }

    #[tokio::test]
    async fn without_tls_an_address_with_https_is_refused_and_no_connection_is_opened()
    -> Result<(), Box<dyn std::error::Error>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = format!("https://localhost:{}", listener.local_addr()?.port());
        assert!(ClientSettings::new(&address).is_err_and(|error| is_refused(&error)));
        let settings = ClientSettings::of(Endpoint::from_shared(address)?).with_token(TokenSource::fixed("secret")?);
        assert!(Client::connect(settings.clone()).await.is_err_and(|error| is_refused(&error)));
        let client = Client::lazy(settings);
        let answer = client.check(&Check::member("acme", "ada")?, &Consistency::Recent).await;
        assert!(answer.is_err_and(|error| is_refused(&error)));
        // The channel itself, without the request of the client.
        let mut checks = crate::pb::check_service_client::CheckServiceClient::new(client.channel());
        let status = checks.check_membership(crate::pb::CheckMembershipRequest::default()).await;
        let error = Error::from(status.err().ok_or("the call succeeded")?);
        assert!(error.failure().is_some_and(|Failure { message, .. }| message.contains(route::NO_TLS)), "{error}");
        assert!(listener.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        Ok(())
    }
}
