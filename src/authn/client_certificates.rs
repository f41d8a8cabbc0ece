//! Client certificates as credentials: a name in a verified certificate identifies a service.
//!
//! The server verifies the certificate in the TLS handshake. This module compares its names with the configured ones. Only
//! DNS names and URIs of the subject alternative name count, each compared as a whole: the common name, IP addresses and
//! wildcards identify no caller.

use super::api_keys::caller_with_scopes;
use super::caller::{Caller, Namespace, ServiceIdentity};
use super::settings::ClientCertificateSettings;
use crate::domain::UserId;
use rustls::pki_types::DnsName;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

/// A name in the subject alternative name of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// A DNS name, in lower case.
    Dns(String),
    /// A URI, such as a SPIFFE id.
    Uri(String),
}

impl CertificateName {
    /// A DNS name of a certificate.
    #[must_use]
    pub fn dns(name: &str) -> Self {
        Self::Dns(name.to_ascii_lowercase())
    }

    /// A URI of a certificate.
    #[must_use]
    pub fn uri(uri: &str) -> Self {
        Self::Uri(uri.to_owned())
    }

    /// Parses the setting `san`: a text with a colon is a URI, any other a DNS name. `None` for an invalid name.
    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some((scheme, rest)) => {
                let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                    && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
                let is_uri = is_scheme && !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
                is_uri.then(|| Self::uri(text))
            }
            None => DnsName::try_from(text).ok().map(|_| Self::dns(text)),
        }
    }
}

/// The verified certificate of the client of a connection.
#[derive(Debug)]
pub struct ClientCertificate {
    names: Vec<CertificateName>,
    expires_at: i64,
    /// The caller that these settings give the certificate, so that a call does not search for every name again.
    known: Mutex<Option<CertificateCaller>>,
}

/// The caller of a certificate under these settings.
#[derive(Debug)]
struct CertificateCaller {
    settings: Arc<ClientCertificates>,
    caller: Option<Arc<Caller>>,
}

impl ClientCertificate {
    /// A certificate with these names, which expires at this time, in seconds since 1970.
    #[must_use]
    pub fn new(names: Vec<CertificateName>, expires_at: i64) -> Self {
        Self { names, expires_at, known: Mutex::default() }
    }

    /// Returns when the certificate expires, in seconds since 1970.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// Returns whether the certificate has expired.
    pub(super) fn is_expired(&self, now: i64) -> bool {
        now > self.expires_at
    }

    /// Returns the caller that the certificate identifies; `None` if the settings have none of its names.
    pub(super) fn caller(&self, configured: &Arc<ClientCertificates>) -> Option<Arc<Caller>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(known) if Arc::ptr_eq(&known.settings, configured) => known.caller.clone(),
            _ => {
                let caller = configured.find(&self.names);
                *known = Some(CertificateCaller { settings: configured.clone(), caller: caller.clone() });
                caller
            }
        }
    }
}

/// The configured certificates.
#[derive(Debug, Default)]
pub(super) struct ClientCertificates {
    /// The caller of each name, with the place of its entry in the settings.
    callers: HashMap<CertificateName, (usize, Arc<Caller>)>,
    settings: Vec<ClientCertificateSettings>,
}

impl ClientCertificates {
    /// Reads the configured names, and adds every error in the settings to `mistakes`.
    pub(super) fn new(settings: &[ClientCertificateSettings], mistakes: &mut Vec<String>) -> Self {
        let mut names = HashMap::new();
        for (index, certificate) in settings.iter().enumerate() {
            let mut reject = |field: &str, sentence: &str| {
                mistakes.push(format!("client_certificates[{index}].{field}: {sentence}"));
            };
            if UserId::parse_new(&certificate.name).is_err() {
                reject("name", "a name has 1 to 255 bytes, no invisible characters, and no blanks at its ends");
            }
            if certificate.scopes.is_empty() {
                reject("scopes", "a certificate without a scope can do nothing: name at least one");
            }
            match CertificateName::parse(&certificate.san).map(|name| names.entry(name)) {
                None => reject(
                    "san",
                    "a DNS name without a wildcard, or a URI, as in the subject alternative name of the certificate is \
                     needed",
                ),
                Some(Entry::Occupied(_)) => reject("san", "another entry has the same name"),
                Some(Entry::Vacant(entry)) => {
                    let (name, namespace) = (certificate.name.clone(), Namespace::ClientCertificates);
                    let caller = caller_with_scopes(ServiceIdentity { name, namespace }, certificate.scopes.clone());
                    entry.insert((index, Arc::new(caller)));
                }
            }
        }
        Self { callers: names, settings: settings.to_vec() }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.settings == other.settings
    }

    /// The names of the services in entries that `other` lacks.
    pub(super) fn names_without(&self, other: &Self) -> Vec<String> {
        let own = self.settings.iter().filter(|entry| !other.settings.contains(entry));
        own.map(|entry| entry.name.clone()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    /// The caller of a certificate with these names. If several names are configured, the first entry of the settings
    /// counts, so that the order in the certificate is of no importance.
    fn find(&self, names: &[CertificateName]) -> Option<Arc<Caller>> {
        let found = names.iter().filter_map(|name| self.callers.get(name)).min_by_key(|(index, _)| *index);
        found.map(|(_, caller)| caller.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Scope;

    fn entry(name: &str, san: &str, scopes: &[Scope]) -> ClientCertificateSettings {
        ClientCertificateSettings { name: name.to_owned(), san: san.to_owned(), scopes: scopes.to_vec() }
    }

    fn configured(entries: &[ClientCertificateSettings]) -> Arc<ClientCertificates> {
        let mut mistakes = Vec::new();
        let certificates = ClientCertificates::new(entries, &mut mistakes);
        assert_eq!(mistakes, Vec::<String>::new());
        Arc::new(certificates)
    }

    fn name(certificate: &ClientCertificate, configured: &Arc<ClientCertificates>) -> Option<String> {
        match certificate.caller(configured)?.as_ref() {
            Caller::Service(service) => Some(service.identity.name.clone()),
            Caller::Operator(operator) => Some(format!("operator {}", operator.name)),
            Caller::Anonymous | Caller::User(_) => None,
        }
    }

    #[test]
    fn a_whole_name_of_the_same_kind_identifies_the_service() {
        let settings = configured(&[
            entry("billing", "Billing.Example", &[Scope::Check]),
            entry("mesh", "spiffe://example/ns/a", &[Scope::Check]),
            entry("root", "root.example", &[Scope::Operator]),
        ]);
        for (names, expected) in [
            (vec![CertificateName::dns("BILLING.example")], Some("billing")),
            (vec![CertificateName::uri("spiffe://example/ns/a")], Some("mesh")),
            (vec![CertificateName::dns("root.example")], Some("operator root")),
            // The first entry counts, in any order.
            (vec![CertificateName::dns("root.example"), CertificateName::dns("billing.example")], Some("billing")),
            (vec![CertificateName::dns("a.billing.example"), CertificateName::dns("*.example")], None),
            (
                vec![CertificateName::uri("spiffe://example/ns/a/b"), CertificateName::uri("spiffe://Example/ns/a")],
                None,
            ),
            // A name of the other kind, and none.
            (vec![CertificateName::uri("billing.example"), CertificateName::dns("spiffe://example/ns/a")], None),
            (Vec::new(), None),
        ] {
            let certificate = ClientCertificate::new(names, 0);
            for _ in 0..2 {
                assert_eq!(name(&certificate, &settings).as_deref(), expected, "{certificate:?}");
            }
        }
    }

    #[test]
    fn new_settings_count_at_once() {
        let certificate = ClientCertificate::new(vec![CertificateName::dns("a.example")], 0);
        let before = configured(&[entry("before", "a.example", &[Scope::Check])]);
        assert_eq!(name(&certificate, &before).as_deref(), Some("before"));
        assert_eq!(name(&certificate, &configured(&[])), None);
        assert_eq!(name(&certificate, &before).as_deref(), Some("before"));
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let settings = [
            entry("a", "a.example", &[Scope::Check]),
            entry("", "A.example", &[]),
            entry("b", "*.example", &[Scope::Check]),
            entry("c", "", &[Scope::Check]),
            entry("d", "spiffe:", &[Scope::Check]),
            entry("e", "://example", &[Scope::Check]),
            entry("f", "spiffe://a b", &[Scope::Check]),
            entry("g", "a_b/c", &[Scope::Check]),
        ];
        let mut mistakes = Vec::new();
        ClientCertificates::new(&settings, &mut mistakes);
        let fields: Vec<_> = mistakes.iter().filter_map(|mistake| mistake.split(':').next()).collect();
        let sans = [2, 3, 4, 5, 6, 7].map(|index| format!("client_certificates[{index}].san"));
        let first = ["name", "scopes", "san"].map(|field| format!("client_certificates[1].{field}"));
        assert_eq!(fields, [&first[..], &sans[..]].concat());
    }
}
