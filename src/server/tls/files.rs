//! The files of TLS: the certificate, its key and the authorities of client certificates.

use super::{ClientCertificateMode, TlsSettings, certificate};
use crate::server::limits;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;

/// The certificate and the rules of new handshakes.
#[derive(Debug)]
pub(super) struct LoadedTls {
    pub(super) config: Arc<ServerConfig>,
    /// When the certificate expires, in seconds since 1970.
    pub(super) expires_at: i64,
}

/// Reads the files.
///
/// # Errors
/// Every mistake, as one sentence each, which begins with the name of its setting.
pub(super) fn load(settings: &TlsSettings) -> Result<LoadedTls, Vec<String>> {
    let provider = Arc::new(default_provider());
    let mut mistakes = Vec::new();
    let chain = chain(&settings.certificate_file, &mut mistakes);
    let key = key(&settings.key_file, &mut mistakes);
    let verifier = match &settings.client_ca_file {
        Some(file) => verifier(file, settings.client_certificates, &provider, &mut mistakes).map(Some),
        None => Some(None),
    };
    let (Some((chain, expires_at)), Some(key), Some(verifier)) = (chain, key, verifier) else { return Err(mistakes) };
    let config = config(settings, provider, verifier, chain, key).map_err(|sentence| vec![sentence])?;
    Ok(LoadedTls { config: Arc::new(config), expires_at })
}

fn config(
    settings: &TlsSettings,
    provider: Arc<CryptoProvider>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, String> {
    let sentence = |error: Error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
            "tls_key_file: the key in {} does not belong to the first certificate in {}",
            settings.key_file.display(),
            settings.certificate_file.display()
        ),
        other => format!("tls_key_file: {} cannot be used: {other}", settings.key_file.display()),
    };
    let builder = ServerConfig::builder_with_provider(provider);
    let builder =
        builder.with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12]).map_err(sentence)?;
    let resumes = verifier.is_none();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(sentence)?;
    // HTTP/1 is for its answer, which says what to use. The order is that of the server.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A session is resumed by a ticket that the client keeps, so the server keeps nothing.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // A ticket would stand for a client certificate that has expired, or whose authority was removed since.
    if resumes {
        config.ticketer = Ticketer::new().map_err(sentence)?;
        config.send_tls13_tickets = limits::TLS_TICKETS;
    }
    Ok(config)
}

/// The certificates of the server, and the expiry of the first.
fn chain(file: &Path, mistakes: &mut Vec<String>) -> Option<(Vec<CertificateDer<'static>>, i64)> {
    let mut reject = |sentence: &str| mistakes.push(format!("tls_certificate_file: {}: {sentence}", file.display()));
    let chain = match certificates(file) {
        Ok(chain) => chain,
        Err(sentence) => {
            reject(&sentence);
            return None;
        }
    };
    let Some(first) = chain.first() else {
        reject("the file has no certificate: a PEM file is needed, which has BEGIN CERTIFICATE");
        return None;
    };
    match certificate::expiry(first) {
        Ok(expires_at) => Some((chain, expires_at)),
        Err(error) => {
            reject(&format!("the first certificate cannot be used: {error}"));
            None
        }
    }
}

fn key(file: &Path, mistakes: &mut Vec<String>) -> Option<PrivateKeyDer<'static>> {
    let key = read(file).and_then(|text| {
        PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
            PemError::NoItemsFound => {
                "the file has no private key: a PEM file is needed, which has BEGIN PRIVATE KEY, \
                                       BEGIN EC PRIVATE KEY or BEGIN RSA PRIVATE KEY, and is not encrypted"
                    .to_owned()
            }
            // Its text may repeat a part of the file.
            _ => "the file is not PEM".to_owned(),
        })
    });
    key.map_err(|sentence| mistakes.push(format!("tls_key_file: {}: {sentence}", file.display()))).ok()
}

/// The verifier of client certificates of these authorities.
fn verifier(
    file: &Path,
    clients: ClientCertificateMode,
    provider: &Arc<CryptoProvider>,
    mistakes: &mut Vec<String>,
) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut reject = |sentence: &str| mistakes.push(format!("tls_client_ca_file: {}: {sentence}", file.display()));
    let authorities = match certificates(file) {
        Ok(authorities) => authorities,
        Err(sentence) => {
            reject(&sentence);
            return None;
        }
    };
    let mut roots = RootCertStore::empty();
    for (index, authority) in authorities.into_iter().enumerate() {
        if let Err(error) = roots.add(authority) {
            reject(&format!("the certificate number {} cannot be used: {error}", index + 1));
            return None;
        }
    }
    if roots.is_empty() {
        reject("the file has no certificate: a PEM file is needed, which has BEGIN CERTIFICATE");
        return None;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let builder = match clients {
        ClientCertificateMode::Optional => builder.allow_unauthenticated(),
        ClientCertificateMode::Required => builder,
    };
    builder.build().map_err(|error| reject(&error.to_string())).ok()
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(file)?;
    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|_| "the file is not PEM".to_owned())
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("the file cannot be read: {error}"))
}
