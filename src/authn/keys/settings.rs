//! How to get the keys of one issuer, as a checked value.

use crate::authn::settings::{IssuerSettings, PemKey};
use crate::authn::tenant::TENANT;
use std::path::PathBuf;
use url::{Host, Url};

/// Where a discovery document stands below its issuer (`OpenID` Connect Discovery §4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// How to get the keys of an issuer. While these settings are unchanged, the keys of the issuer may stay in use over a
/// reload of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::authn) struct KeySettings {
    /// The `iss` of the tokens.
    pub(super) issuer: String,
    pub(super) source: KeySource,
    /// Whether keys of `roster dev` are accepted.
    pub(super) development_keys: bool,
}

/// Where the keys of an issuer come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeySource {
    /// From the identity provider, by URL.
    Provider(ProviderSettings),
    JwksFile(PathBuf),
    PemFiles(Vec<PemKey>),
    SecretFile(PathBuf),
}

/// How to get the keys of an identity provider by URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProviderSettings {
    pub(super) document: ProviderDocument,
    /// The certificates that replace those of the platform.
    pub(super) ca_file: Option<PathBuf>,
}

/// The document that is fetched first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ProviderDocument {
    /// The key set.
    KeySet(Url),
    /// The discovery document of the issuer, which names the key set.
    Discovery(Url),
}

impl KeySettings {
    /// Chooses the source of the keys.
    ///
    /// # Errors
    /// All mistakes. Each begins with the name of the setting.
    pub(in crate::authn) fn new(settings: &IssuerSettings, development_keys: bool) -> Result<Self, Vec<String>> {
        let IssuerSettings { issuer, jwks_url, jwks_file, keys, hs256_secret_file, ca_file, .. } = settings;
        let given = [jwks_url.is_some(), jwks_file.is_some(), !keys.is_empty(), hs256_secret_file.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            return Err(vec![
                "jwks_file: at most one of jwks_url, jwks_file, keys and hs256_secret_file is possible".to_owned(),
            ]);
        }
        let source = match (jwks_file, hs256_secret_file) {
            (Some(path), _) => KeySource::JwksFile(path.clone()),
            (None, Some(path)) => KeySource::SecretFile(path.clone()),
            (None, None) if !keys.is_empty() => KeySource::PemFiles(keys.clone()),
            (None, None) => {
                let document = match jwks_url {
                    Some(url) => {
                        ProviderDocument::KeySet(secure_url(url).map_err(|why| vec![format!("jwks_url: {why}")])?)
                    }
                    None => ProviderDocument::Discovery(discovery(issuer).map_err(|why| vec![why])?),
                };
                KeySource::Provider(ProviderSettings { document, ca_file: ca_file.clone() })
            }
        };
        if ca_file.is_some() && !matches!(source, KeySource::Provider(_)) {
            return Err(vec!["ca_file: it is for keys that come by URL, and these come from a file".to_owned()]);
        }
        Ok(Self { issuer: issuer.clone(), source, development_keys })
    }

    /// The name of the setting that gives the keys, for messages.
    pub(super) fn setting(&self) -> &'static str {
        match &self.source {
            KeySource::Provider(ProviderSettings { document: ProviderDocument::KeySet(_), .. }) => "jwks_url",
            KeySource::Provider(ProviderSettings { document: ProviderDocument::Discovery(_), .. }) => "issuer",
            KeySource::JwksFile(_) => "jwks_file",
            KeySource::PemFiles(_) => "keys",
            KeySource::SecretFile(_) => "hs256_secret_file",
        }
    }
}

/// The URL of the discovery document of an issuer.
fn discovery(issuer: &str) -> Result<Url, String> {
    let mistake = |why: &str| {
        format!("issuer: without jwks_url, jwks_file, keys or hs256_secret_file, the keys come by discovery, and {why}")
    };
    if issuer.contains(TENANT) {
        return Err(mistake("the issuers of several tenants have no common discovery document: name the jwks_url"));
    }
    let url = secure_url(issuer).map_err(|why| mistake(&format!("the issuer is not {why}")))?;
    if url.query().is_some() {
        return Err(mistake("an issuer with a query has no discovery document: name its jwks_url"));
    }
    secure_url(&format!("{}{DISCOVERY}", issuer.trim_end_matches('/'))).map_err(|why| mistake(&why))
}

/// Parses an absolute URL that no machine on the way can read or change.
///
/// # Errors
/// The form that is needed.
pub(super) fn secure_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| {
        let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        is_plain && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url)))
    });
    url.ok_or_else(|| {
        "an https:// URL without a user name, a password and a fragment; http:// only for this machine (127.0.0.1, [::1], \
         localhost)"
            .to_owned()
    })
}

/// Whether the host of the URL is this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(issuer: &str, jwks_url: Option<&str>) -> Result<ProviderDocument, String> {
        let settings = IssuerSettings {
            issuer: issuer.to_owned(),
            jwks_url: jwks_url.map(str::to_owned),
            ..IssuerSettings::default()
        };
        match KeySettings::new(&settings, false).map_err(|mistakes| mistakes.join("; "))?.source {
            KeySource::Provider(provider) => Ok(provider.document),
            _ => Err("another source".to_owned()),
        }
    }

    #[test]
    fn the_discovery_document_stands_below_the_issuer() {
        for (issuer, expected) in [
            ("https://id.example", "https://id.example/.well-known/openid-configuration"),
            ("https://id.example/", "https://id.example/.well-known/openid-configuration"),
            ("https://id.example/realms/a", "https://id.example/realms/a/.well-known/openid-configuration"),
            ("https://id.example/realms/a/", "https://id.example/realms/a/.well-known/openid-configuration"),
            ("http://127.0.0.7:3000", "http://127.0.0.7:3000/.well-known/openid-configuration"),
            ("http://[::1]:3000", "http://[::1]:3000/.well-known/openid-configuration"),
            ("http://localhost:3000", "http://localhost:3000/.well-known/openid-configuration"),
        ] {
            let Ok(ProviderDocument::Discovery(url)) = document(issuer, None) else { panic!("{issuer}") };
            assert_eq!(url.as_str(), expected);
        }
        for issuer in
            ["id.example", "roster-dev", "http://id.example", "https://id.example?a=b", "mailto:a@b", "https://"]
        {
            let mistake = document(issuer, None).err().unwrap_or_default();
            assert!(mistake.starts_with("issuer: without jwks_url, "), "{issuer}: {mistake}");
        }
    }

    #[test]
    fn a_key_set_is_fetched_over_https_or_from_this_machine() {
        for url in
            ["https://id.example/jwks?tenant=a", "http://127.0.0.1/jwks", "http://[::1]:80/", "http://LOCALHOST/"]
        {
            assert!(matches!(document("a", Some(url)), Ok(ProviderDocument::KeySet(_))), "{url}");
        }
        for url in [
            "http://id.example/jwks",
            "http://localhost.id.example/",
            "http://127.0.0.1.id.example/",
            "http://10.0.0.1/",
            "http://[::ffff:10.0.0.1]/",
            "https://user:password@id.example/",
            "https://user@id.example/",
            "https://id.example/#a",
            "file:///etc/passwd",
            "ftp://127.0.0.1/",
            "/jwks",
            "",
        ] {
            let mistake = document("https://id.example", Some(url)).err().unwrap_or_default();
            assert!(mistake.starts_with("jwks_url: an https:// URL "), "{url}: {mistake}");
            assert!(!mistake.contains("password@"), "{mistake}");
        }
    }
}
