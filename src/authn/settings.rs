//! Settings of authentication.

use crate::domain::Scope;
use serde::Deserialize;
use std::path::PathBuf;

/// The accepted issuers, API keys and client certificates.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthSettings {
    /// The identity providers whose tokens are accepted.
    pub issuers: Vec<IssuerSettings>,
    /// The API keys of services. Several keys may have the same name, for rotation.
    pub api_keys: Vec<ApiKeySettings>,
    /// The client certificates of services. Several may have the same name.
    pub client_certificates: Vec<ClientCertificateSettings>,
}

/// One identity provider. Its keys come from exactly one of `jwks_file`, `keys` and `hs256_secret_file`.
///
/// Every field has a default, so that one missing key hides no other mistake. The authenticator requires what is
/// needed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssuerSettings {
    /// The `iss` of its tokens, compared byte for byte.
    pub issuer: String,
    /// The required audience: `aud` equals it or contains it.
    pub audience: String,
    /// A JWKS file with RSA, P-256 or Ed25519 keys. The server reloads it when it changes.
    pub jwks_file: Option<PathBuf>,
    /// Public keys, each in a PEM file. The server reads them at startup only.
    pub keys: Vec<PemKey>,
    /// A file with the secret that the provider shares, at least 32 bytes. Trailing white space does not count.
    pub hs256_secret_file: Option<PathBuf>,
    /// The roster scopes that its tokens may contain; empty by default. Many providers let any client request any
    /// scope, and such a request must not create an operator.
    pub scopes: Vec<Scope>,
    /// The prefix that turns a `sub` of this issuer into a user id; empty by default. Each issuer needs a different
    /// prefix: an issuer chooses its subjects freely, so it could otherwise name the users of another issuer.
    pub user_id_prefix: String,
}

/// One public key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PemKey {
    /// The only algorithm that the key verifies. Required.
    pub algorithm: Option<Algorithm>,
    /// The key id, compared with the `kid` of a token. A key without an id matches every `kid`.
    pub kid: Option<String>,
    /// The PEM file; it begins with `-----BEGIN PUBLIC KEY-----`. Required.
    pub file: PathBuf,
}

/// The API key of a service. `roster api-key` generates one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiKeySettings {
    /// The service's name, for the audit trail.
    pub name: String,
    /// The scopes of the service.
    pub scopes: Vec<Scope>,
    /// The SHA-256 of the whole key, in hexadecimal.
    pub sha256: String,
}

/// The client certificate of a service. The server verifies it in the TLS handshake.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientCertificateSettings {
    /// The service's name, for the audit trail.
    pub name: String,
    /// A DNS name or a URI in the subject alternative name of the certificate. DNS names are compared without case, URIs
    /// byte for byte.
    pub san: String,
    /// The scopes of the service.
    pub scopes: Vec<Scope>,
}

/// A signature algorithm. A key has one algorithm; a token that names another is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// `EdDSA` with the curve Ed25519 (RFC 8037).
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// HMAC with SHA-256. It does not apply to a public key, so no setting can name it.
    #[serde(skip)]
    Hs256,
}

impl Algorithm {
    /// Parses the `alg` of a token; `None` if roster does not support it.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            "HS256" => Some(Self::Hs256),
            _ => None,
        }
    }
}
