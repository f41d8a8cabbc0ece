//! What roster reads in a certificate: names and expiry.

use crate::authn::{CertificateName, ClientCertificate};
use rustls::pki_types::{CertificateDer, UnixTime};
use std::time::Duration;
use webpki::{EndEntityCert, Error, KeyUsage};

/// Returns when a certificate expires, in seconds since 1970.
///
/// # Errors
/// If the certificate is malformed.
pub(super) fn expiry(certificate: &CertificateDer<'_>) -> Result<i64, Error> {
    expiry_of(&EndEntityCert::try_from(certificate)?)
}

/// Returns what identifies the client with this verified certificate.
///
/// # Errors
/// If the certificate is malformed, which the verification excludes.
pub(super) fn client_certificate(certificate: &CertificateDer<'_>) -> Result<ClientCertificate, Error> {
    let certificate = EndEntityCert::try_from(certificate)?;
    let dns = certificate.valid_dns_names().map(CertificateName::dns);
    let names = dns.chain(certificate.valid_uri_names().map(CertificateName::uri)).collect();
    Ok(ClientCertificate::new(names, expiry_of(&certificate)?))
}

/// The library names the end of the validity only as the reason why a certificate has expired. So it is asked at the last
/// of all times, and without any authority that the certificate could lead to.
fn expiry_of(certificate: &EndEntityCert<'_>) -> Result<i64, Error> {
    let end_of_time = UnixTime::since_unix_epoch(Duration::MAX);
    let usage = KeyUsage::server_auth();
    match certificate.verify_for_usage(&[], &[], &[], end_of_time, usage, None, None) {
        Err(Error::CertExpired { not_after, .. }) => Ok(i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX)),
        Err(error) => Err(error),
        Ok(_) => Err(Error::UnknownIssuer),
    }
}
