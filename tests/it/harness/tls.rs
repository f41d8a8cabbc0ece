//! Certificates, and servers and clients that use them.

use super::{Database, Server};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use roster::authn::AuthSettings;
use roster::clock::Clock;
use roster::server::ServerSettings;
use roster::server::tls::{ClientCertificateMode, ServerTls, TlsSettings};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::{Channel, Endpoint};

/// The name of the server in its certificate.
pub const NAME: &str = "roster.test";
/// TLS 1.3 and 1.2.
pub const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// A certificate with its key, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// An authority, and a directory for the files of a server.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub directory: TempDir,
}

/// A certificate that is not signed yet. It is valid for an hour.
pub struct Request(pub CertificateParams);

impl Request {
    /// A certificate with these names: IP addresses, URIs, which have a colon, and DNS names.
    pub fn named(names: &[&str]) -> Self {
        let mut params = CertificateParams::default();
        let name = |name: &&str| match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if name.contains(':') => SanType::URI((*name).try_into().unwrap()),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(name).collect();
        Self(params).valid(-Duration::HOUR, Duration::HOUR)
    }

    /// Sets the begin and the end of the validity, from now on.
    pub fn valid(mut self, begin: Duration, end: Duration) -> Self {
        let now = OffsetDateTime::from_unix_timestamp(Clock::system().unix_seconds()).unwrap();
        (self.0.not_before, self.0.not_after) = (now + begin, now + end);
        self
    }
}

impl Authority {
    pub fn new() -> Self {
        Self::named("an authority of a test")
    }

    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, directory: tempfile::tempdir().unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Signs a certificate with a new key on P-256.
    pub fn sign(&self, request: &Request) -> Identity {
        self.sign_with(request, &KeyPair::generate().unwrap())
    }

    pub fn sign_with(&self, request: &Request, key: &KeyPair) -> Identity {
        let certificate = request.0.signed_by(key, &self.issuer).unwrap();
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the files of a server with this certificate, with this authority for its clients, and returns the settings
    /// that name them.
    pub fn write(&self, identity: &Identity, clients: Option<ClientCertificateMode>) -> TlsSettings {
        let write = |name: &str, text: &str| {
            let path = self.path(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsSettings {
            certificate_file: write("server.pem", &identity.certificate),
            key_file: write("server.key", &identity.key),
            client_ca_file: clients.map(|_| write("clients.pem", &self.pem())),
            client_certificates: clients.unwrap_or_default(),
        }
    }

    /// TLS of a server with a new certificate for [`NAME`].
    pub fn server_tls(&self, clients: Option<ClientCertificateMode>) -> ServerTls {
        let settings = self.write(&self.sign(&Request::named(&[NAME])), clients);
        ServerTls::new(&settings, Clock::system()).unwrap()
    }

    /// What a listener of another protocol needs to show such a certificate.
    pub fn acceptor(&self, request: &Request) -> TlsAcceptor {
        let Identity { certificate, key } = self.sign(request);
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
    }

    /// A client that trusts this authority, with ALPN for HTTP/2.
    pub fn client(&self, identity: Option<&Identity>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut config = match identity {
            Some(Identity { certificate, key }) => {
                let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// A client without a certificate.
    pub fn anonymous_client(&self) -> Arc<ClientConfig> {
        Arc::new(self.client(None, VERSIONS))
    }

    /// A client with a new certificate with these names.
    pub fn named_client(&self, names: &[&str]) -> Arc<ClientConfig> {
        Arc::new(self.client(Some(&self.sign(&Request::named(names))), VERSIONS))
    }
}

/// Opens a TLS connection to [`NAME`] at this address.
pub async fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    handshake(TcpStream::connect(address).await?, config, NAME).await
}

/// Begins TLS on a socket.
pub async fn handshake<T>(socket: T, config: &Arc<ClientConfig>, name: &'static str) -> io::Result<TlsStream<T>>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    TlsConnector::from(config.clone()).connect(ServerName::try_from(name).unwrap(), socket).await
}

/// A channel of gRPC over TLS, which connects with its first call.
pub fn channel(address: SocketAddr, config: Arc<ClientConfig>) -> Channel {
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move { connect(address, &config).await.map(hyper_util::rt::TokioIo::new) }
    });
    // The connector does TLS, so the library sees a plain connection.
    Endpoint::from_static("http://roster.test").connect_with_connector_lazy(connector)
}

impl Server {
    /// Starts a server with TLS over a new database, and waits until it is healthy. Its clients have no certificate and
    /// trust this authority.
    pub async fn with_tls(authority: &Authority, tls: ServerTls, change: impl FnOnce(&mut AuthSettings)) -> Self {
        let settings = ServerSettings { tls: Some(tls), ..ServerSettings::default() };
        Self::with_tls_and(settings, authority.anonymous_client(), change).await
    }

    /// Starts a server with these settings, whose clients use this configuration, and waits until it is healthy.
    pub async fn with_tls_and(
        settings: ServerSettings,
        client: Arc<ClientConfig>,
        change: impl FnOnce(&mut AuthSettings),
    ) -> Self {
        let mut server = Self::launch_with(Database::new().await, settings, change).await;
        server.use_channel(channel(server.address, client));
        server.until_serving().await;
        server
    }
}

/// Writes a file as deployments do: a rename, so that a reader finds the whole file.
pub fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// Reads the files again, as the program does when they change. The former ones stay in use after a mistake.
pub fn reload(tls: &ServerTls) -> Result<(), Vec<String>> {
    tls.adopt(&ServerTls::new(&tls.settings(), Clock::system())?);
    Ok(())
}
