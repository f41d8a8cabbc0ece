//! The settings of TLS, and those that depend on them.

use super::reader::SettingsReader;
use super::table::ServerValues;
use crate::clock::Clock;
use crate::server::tls::{ServerTls, TlsSettings};

/// Reads the files of TLS, and adds the mistakes. `None` for plaintext, and if there is a mistake.
pub(super) fn read(
    reader: &mut SettingsReader,
    values: &ServerValues,
    client_certificates: bool,
    clock: Clock,
) -> Option<ServerTls> {
    let (certificate, key, authority) =
        (&values.tls_certificate_file, &values.tls_key_file, &values.tls_client_ca_file);
    if certificate.is_none() && authority.is_some() {
        reader.add_sentence(
            "tls_client_ca_file needs tls_certificate_file and tls_key_file: without TLS no client sends a certificate",
        );
    }
    if authority.is_none() {
        if values.tls_client_certificates.is_some() {
            reader.add_sentence(
                "tls_client_certificates needs tls_client_ca_file: name the authorities of the certificates",
            );
        }
        if client_certificates {
            reader
                .add_sentence("client_certificates needs tls_client_ca_file: name the authorities of the certificates");
        }
    }
    let (certificate_file, key_file) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        (None, None) => {
            warn_of_plaintext(reader, values);
            return None;
        }
        (Some(_), None) => {
            reader.add_sentence("tls_certificate_file needs tls_key_file: name the file of the private key");
            return None;
        }
        (None, Some(_)) => {
            reader.add_sentence("tls_key_file needs tls_certificate_file: name the file of the certificate");
            return None;
        }
    };
    let settings = TlsSettings {
        certificate_file,
        key_file,
        client_ca_file: authority.clone(),
        client_certificates: values.tls_client_certificates.unwrap_or_default(),
    };
    match ServerTls::new(&settings, clock) {
        Ok(tls) => {
            if let Some(warning) = tls.warning() {
                reader.warn_sentence(warning);
            }
            Some(tls)
        }
        Err(mistakes) => {
            for mistake in &mistakes {
                reader.add_sentence(mistake);
            }
            None
        }
    }
}

fn warn_of_plaintext(reader: &mut SettingsReader, values: &ServerValues) {
    if !values.plaintext && !values.listen.is_local() {
        reader.warn_sentence(format!(
            "listen ({}) is reachable from other machines without TLS, so the network can read credentials: set \
             tls_certificate_file and tls_key_file, or plaintext = true if a proxy or a service mesh encrypts; release 1.0 \
             will refuse to start",
            values.listen
        ));
    }
}
