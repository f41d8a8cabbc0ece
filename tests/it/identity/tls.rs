//! The connection to a provider over TLS.

use super::issuer_keys::IssuerKey;
use super::provider::Provider;
use super::{Rig, by_discovery};
use crate::harness::tls::{Authority, Request};
use crate::replica::until;
use roster::authn::settings::IssuerSettings;
use roster::domain::Refusal;
use std::path::{Path, PathBuf};
use time::Duration;
use tokio_rustls::TlsAcceptor;

/// A CA that the operator of a provider has made.
pub struct PrivateCa(Authority);

impl PrivateCa {
    pub fn new() -> Self {
        // A name of its own. Of two with one name, the wrong one would be tried.
        let authority = Authority::named(&roster::random::uuid().to_string());
        std::fs::write(authority.path("ca.pem"), authority.pem()).unwrap();
        Self(authority)
    }

    pub fn file(&self) -> PathBuf {
        self.0.path("ca.pem")
    }

    /// A server with a certificate for this name that has expired or not.
    pub fn server(&self, name: &str, is_expired: bool) -> TlsAcceptor {
        let end = if is_expired { -Duration::HOUR } else { Duration::HOUR };
        self.0.acceptor(&Request::named(&[name]).valid(-2 * Duration::HOUR, end))
    }
}

fn with_ca(provider: &Provider, file: &Path) -> IssuerSettings {
    IssuerSettings { ca_file: Some(file.to_owned()), ..by_discovery(provider) }
}

#[tokio::test]
async fn a_private_ca_is_trusted_where_the_settings_name_it() {
    let (key, ca) = (IssuerKey::ed25519(), PrivateCa::new());
    let provider = Provider::start_tls(&[&key], ca.server("127.0.0.1", false)).await;
    let rig = Rig::new(vec![with_ca(&provider, &ca.file())]);
    rig.ask(&rig.token(&provider, &key)).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_for_the_provider_gives_no_keys() {
    let (key, ca, other) = (IssuerKey::ed25519(), PrivateCa::new(), PrivateCa::new());
    for (name, is_expired, ca_file, expected) in [
        ("127.0.0.2", false, Some(ca.file()), "certificate not valid for name"),
        ("id.example", false, Some(ca.file()), "certificate not valid for name"),
        ("127.0.0.1", true, Some(ca.file()), "certificate expired"),
        ("127.0.0.1", false, Some(other.file()), "UnknownIssuer"),
        // The certificates of the platform.
        ("127.0.0.1", false, None, ""),
    ] {
        let log = crate::harness::log::Log::watch();
        let provider = Provider::start_tls(&[&key], ca.server(name, is_expired)).await;
        let rig = Rig::new(vec![IssuerSettings { ca_file, ..by_discovery(&provider) }]);
        assert_eq!(rig.ask(&rig.token(&provider, &key)).await.err(), Some(Refusal::KeysUnavailable), "{name}");
        let lines = log.end();
        let line = lines.lines().find(|line| line.contains("cannot fetch the keys of the issuer")).unwrap_or_default();
        assert!(line.contains(expected) && !line.is_empty(), "{name}: {line}");
        assert_eq!(provider.requests("/"), 0, "{name}");
    }
}

#[tokio::test]
async fn a_changed_ca_file_is_used_by_the_next_fetch() {
    let (key, ca, other) = (IssuerKey::ed25519(), PrivateCa::new(), PrivateCa::new());
    let provider = Provider::start_tls(&[&key], ca.server("127.0.0.1", false)).await;
    let rig = Rig::new(vec![with_ca(&provider, &other.file())]);
    until("the fetch fails", async || rig.statistics().failed_fetches > 0).await;
    std::fs::copy(ca.file(), other.file()).unwrap();
    rig.advance(60);
    rig.until_fetched().await;
}
