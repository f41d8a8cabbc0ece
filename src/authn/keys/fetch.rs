//! Fetches the key set of an identity provider.
//!
//! The provider is another party, and the network between may be hostile: the time and the size of an answer are bounded,
//! redirects lead nowhere else, and plaintext stays on this machine.

use super::jwk_set::{JwkSet, JwkSetError};
use super::settings::{KeySettings, ProviderDocument, ProviderSettings, is_loopback, secure_url};
use crate::authn::limits;
use crate::error_causes::with_causes;
use crate::limited_log::excerpt;
use reqwest::header::{ACCEPT, CACHE_CONTROL, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, StatusCode};
use serde::Deserialize;
use std::path::Path;
use url::Url;

/// A key set of a provider.
pub(super) struct FetchedKeys {
    pub(super) set: JwkSet,
    /// The time that the provider lets its answer be cached, in seconds; `None` if it does not say.
    pub(super) max_age: Option<u64>,
}

/// Why the keys of a provider could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the provider did not answer in full within {} seconds", limits::KEY_FETCH.as_secs())]
    Timeout,
    #[error("a fault in roster: the fetch panicked")]
    Panic,
    #[error("ca_file: {0}")]
    Certificates(String),
    #[error("no connection can be prepared: {0}")]
    Client(String),
    #[error("no answer from {host}: {cause}")]
    Request { host: String, cause: String },
    #[error("{host} answered with the status {status}")]
    Status { host: String, status: StatusCode },
    #[error("the answer of {host} is larger than {} KiB", limits::KEY_FILE_BYTES / 1024)]
    TooLarge { host: String },
    #[error("the discovery document of {host} is not JSON with issuer and jwks_uri")]
    Discovery { host: String },
    #[error("the discovery document is for the issuer {found}, which is not the one of the setting, byte for byte")]
    OtherIssuer { found: String },
    #[error("the jwks_uri of the discovery document is not an https:// URL")]
    JwksUri,
    #[error("the key set: {0}")]
    KeySet(#[from] JwkSetError),
}

/// The members of a discovery document that roster reads.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// The body of an answer.
struct ProviderAnswer {
    bytes: Vec<u8>,
    max_age: Option<u64>,
}

/// Fetches the key set of a provider, within [`limits::KEY_FETCH`].
pub(super) async fn fetch(settings: &KeySettings, provider: &ProviderSettings) -> Result<FetchedKeys, FetchError> {
    tokio::time::timeout(limits::KEY_FETCH, fetch_all(settings, provider)).await.map_err(|_| FetchError::Timeout)?
}

async fn fetch_all(settings: &KeySettings, provider: &ProviderSettings) -> Result<FetchedKeys, FetchError> {
    let url = match &provider.document {
        ProviderDocument::KeySet(url) => url.clone(),
        ProviderDocument::Discovery(url) => {
            let document = get(url, provider.ca_file.as_deref()).await?;
            key_set_url(&settings.issuer, url, &document.bytes)?
        }
    };
    let ProviderAnswer { bytes, max_age } = get(&url, provider.ca_file.as_deref()).await?;
    let set = match JwkSet::parse(&bytes, settings.development_keys) {
        // The provider has withdrawn its keys, or replaced them by others that roster cannot use.
        Err(JwkSetError::NoKey(skipped)) => JwkSet { keys: Vec::new(), skipped },
        set => set?,
    };
    Ok(FetchedKeys { set, max_age })
}

/// The URL of the key set that a discovery document names.
fn key_set_url(issuer: &str, discovery: &Url, document: &[u8]) -> Result<Url, FetchError> {
    let document: Discovery =
        serde_json::from_slice(document).map_err(|_| FetchError::Discovery { host: host(discovery) })?;
    if document.issuer != issuer {
        return Err(FetchError::OtherIssuer { found: excerpt(&document.issuer) });
    }
    // A provider elsewhere cannot make roster ask a service of this machine in plaintext.
    let url = secure_url(&document.jwks_uri).ok();
    url.filter(|url| url.scheme() == "https" || discovery.scheme() == "http").ok_or(FetchError::JwksUri)
}

async fn get(url: &Url, ca_file: Option<&Path>) -> Result<ProviderAnswer, FetchError> {
    let client = {
        let (url, ca_file) = (url.clone(), ca_file.map(Path::to_owned));
        // Reads the certificates of the platform or of the file, which takes some milliseconds.
        tokio::task::spawn_blocking(move || client(&url, ca_file.as_deref())).await
    };
    let client = client.map_err(|error| FetchError::Client(error.to_string()))??;
    let failed =
        |error: reqwest::Error| FetchError::Request { host: host(url), cause: with_causes(&error.without_url()) };
    let mut response = client.get(url.clone()).header(ACCEPT, "application/json").send().await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status { host: host(url), status: response.status() });
    }
    let max_age = max_age(response.headers());
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len() + chunk.len() > limits::KEY_FILE_BYTES {
            return Err(FetchError::TooLarge { host: host(url) });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(ProviderAnswer { bytes, max_age })
}

/// A client for one request. A fetch is rare, so each one reads the trusted certificates again, and no connection to the
/// provider stays open in between.
fn client(url: &Url, ca_file: Option<&Path>) -> Result<Client, FetchError> {
    let mut builder = Client::builder()
        .user_agent(concat!("roster/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::custom(|attempt| {
            let first = attempt.previous().first().map(Url::origin);
            if attempt.previous().len() > limits::KEY_REDIRECTS {
                attempt.error("too many redirects")
            } else if first == Some(attempt.url().origin()) {
                attempt.follow()
            } else {
                attempt.error("a redirect to another scheme, host or port")
            }
        }))
        .https_only(url.scheme() == "https")
        .referer(false);
    if let Some(path) = ca_file {
        builder = builder.tls_certs_only(certificates(path).map_err(FetchError::Certificates)?);
    } else if url.scheme() == "http" {
        // There may be no certificates on this machine, and none is needed.
        builder = builder.tls_certs_only([]);
    }
    if is_loopback(url) {
        // A proxy is elsewhere, and plaintext must not leave this machine.
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| FetchError::Client(with_causes(&error)))
}

/// Reads the certificates of a PEM file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let bytes = super::files::read_file(path)?;
    let certificates = Certificate::from_pem_bundle(&bytes).unwrap_or_default();
    if certificates.is_empty() {
        return Err(format!("{} holds no certificate in PEM", path.display()));
    }
    Ok(certificates)
}

/// The host and the port of a URL, for messages. Its path may be long.
fn host(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    excerpt(&format!("{}{port}", url.host_str().unwrap_or_default()))
}

/// The `max-age` of `Cache-Control`; 0 if the answer must not be cached.
fn max_age(headers: &HeaderMap) -> Option<u64> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives = values.flat_map(|value| value.split(',')).map(|directive| directive.trim().to_ascii_lowercase());
    let ages = directives.filter_map(|directive| match directive.as_str() {
        "no-store" | "no-cache" => Some(0),
        other => other.strip_prefix("max-age=")?.trim_matches('"').parse().ok(),
    });
    ages.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_time_of_cache_control_counts() -> Result<(), Box<dyn std::error::Error>> {
        for (values, expected) in [
            (&[][..], None),
            (&["public"][..], None),
            (&["max-age=300"][..], Some(300)),
            (&["public, Max-Age=\"300\", must-revalidate"][..], Some(300)),
            (&["max-age=300", "max-age=200"][..], Some(200)),
            (&["max-age=300, no-cache"][..], Some(0)),
            (&["no-store"][..], Some(0)),
            (&["s-maxage=300"][..], None),
            (&["max-age=-1"][..], None),
            (&["max-age=99999999999999999999"][..], None),
            (&["max-age="][..], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CACHE_CONTROL, value.parse()?);
            }
            assert_eq!(max_age(&headers), expected, "{values:?}");
        }
        Ok(())
    }

    #[test]
    fn a_discovery_document_names_its_issuer_and_a_secure_key_set() -> Result<(), Box<dyn std::error::Error>> {
        let (public, local) = (Url::parse("https://id.example/d")?, Url::parse("http://127.0.0.1:3000/d")?);
        for (discovery, document, expected) in [
            (&public, r#"{"issuer":"a","jwks_uri":"https://keys.example/k"}"#, Some("https://keys.example/k")),
            (&local, r#"{"issuer":"a","jwks_uri":"http://127.0.0.1:3000/k"}"#, Some("http://127.0.0.1:3000/k")),
            (&local, r#"{"issuer":"a","jwks_uri":"https://keys.example/k"}"#, Some("https://keys.example/k")),
            (&public, r#"{"issuer":"a","jwks_uri":"http://127.0.0.1:3000/k"}"#, None),
            (&local, r#"{"issuer":"a","jwks_uri":"http://keys.example/k"}"#, None),
            (&public, r#"{"issuer":"a","jwks_uri":"file:///etc/passwd"}"#, None),
            (&public, r#"{"issuer":"a/","jwks_uri":"https://keys.example/k"}"#, None),
            (&public, r#"{"issuer":"A","jwks_uri":"https://keys.example/k"}"#, None),
            (&public, r#"{"issuer":["a"],"jwks_uri":"https://keys.example/k"}"#, None),
            (&public, r#"{"issuer":"a","issuer":"a","jwks_uri":"https://keys.example/k"}"#, None),
            (&public, r#"{"issuer":"a"}"#, None),
            (&public, "", None),
        ] {
            let url = key_set_url("a", discovery, document.as_bytes());
            assert_eq!(url.ok().as_ref().map(Url::as_str), expected, "{document}");
        }
        Ok(())
    }
}
