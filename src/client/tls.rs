//! What the client trusts and proves by certificates, behind the feature `client-tls`.

use super::Error;
use crate::client::limits;
use crate::error_causes::with_causes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// What the client trusts, and its own certificate.
#[derive(Clone, Default)]
pub(super) struct ClientTls {
    /// `None` for the certificates that the platform trusts.
    ca: Option<Certificate>,
    identity: Option<Identity>,
}

impl ClientTls {
    pub(super) fn set_ca(&mut self, pem: &[u8]) -> Result<(), Error> {
        certificates("CA", pem)?;
        self.ca = Some(Certificate::from_pem(pem));
        Ok(())
    }

    pub(super) fn set_identity(&mut self, certificate: &[u8], key: &[u8]) -> Result<(), Error> {
        certificates("client certificate", certificate)?;
        // The cause is dropped: it may repeat a part of the key.
        PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| Error::InvalidSettings("key of the client certificate: no private key in PEM".to_owned()))?;
        self.identity = Some(Identity::from_pem(certificate, key));
        Ok(())
    }

    /// The endpoint with TLS. It verifies the name in its address.
    pub(super) fn apply(&self, endpoint: Endpoint) -> Result<Endpoint, Error> {
        let tls = ClientTlsConfig::new().timeout(limits::CLIENT_CONNECT);
        let tls = match &self.ca {
            Some(ca) => tls.ca_certificate(ca.clone()),
            None => tls.with_native_roots(),
        };
        let tls = match &self.identity {
            Some(identity) => tls.identity(identity.clone()),
            None => tls,
        };
        endpoint.tls_config(tls).map_err(|error| Error::InvalidSettings(format!("TLS: {}", with_causes(&error))))
    }
}

/// Verifies that a text has certificates, and that each is one.
fn certificates(what: &str, pem: &[u8]) -> Result<(), Error> {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let invalid = |error: &dyn fmt::Display| Error::InvalidSettings(format!("{what}: {error}"));
        // The cause is dropped: it repeats a line, which may belong to a key in the same file.
        let certificate = certificate.map_err(|_| invalid(&"not PEM"))?;
        rustls::server::ParsedCertificate::try_from(&certificate).map_err(|error| invalid(&error))?;
        count += 1;
    }
    if count == 0 { Err(Error::InvalidSettings(format!("{what}: no certificate in PEM"))) } else { Ok(()) }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}
