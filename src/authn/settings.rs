//! Settings of authentication.

use crate::domain::Scope;
use serde::Deserialize;
use std::path::PathBuf;

/// The accepted issuers and API keys.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthSettings {
    /// The identity providers whose tokens are accepted.
    pub issuers: Vec<IssuerSettings>,
    /// The API keys of services. Several keys may have the same name, for rotation.
    pub api_keys: Vec<ApiKeySettings>,
    /// Whether keys whose id begins with [`KEY_ID_PREFIX`](super::mint::KEY_ID_PREFIX) are accepted. Only `roster dev` and
    /// the tests set it: such a key lies unprotected on the machine of a developer.
    #[serde(skip)]
    pub development_keys: bool,
}

impl AuthSettings {
    /// The files that the settings name.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let of_issuer = |issuer: &IssuerSettings| {
            let keys = issuer.keys.iter().map(|key| &key.file);
            let files = keys.chain(&issuer.jwks_file).chain(&issuer.hs256_secret_file);
            files.chain(&issuer.ca_file).cloned().collect::<Vec<_>>()
        };
        self.issuers.iter().flat_map(of_issuer).collect()
    }
}

/// One identity provider. Its keys come from one of `jwks_url`, `jwks_file`, `keys` and `hs256_secret_file`, and without any
/// of them from the discovery document of `issuer`.
///
/// Every field has a default, so that one missing key hides no other mistake. The authenticator requires what is
/// needed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssuerSettings {
    /// The `iss` of its tokens, compared byte for byte.
    pub issuer: String,
    /// The required audience: `aud` equals it or contains it.
    pub audience: String,
    /// The URL of its key set. The server fetches it in the background.
    pub jwks_url: Option<String>,
    /// A PEM file with the certificates that the URL of its keys needs, in place of those of the platform.
    pub ca_file: Option<PathBuf>,
    /// A JWKS file with RSA, P-256, P-384 or Ed25519 keys. The server reloads it when it changes.
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

impl IssuerSettings {
    /// Returns whether a source of keys is given, beside the issuer itself.
    pub(super) fn has_keys(&self) -> bool {
        let is_file = self.jwks_file.is_some() || self.hs256_secret_file.is_some();
        is_file || self.jwks_url.is_some() || !self.keys.is_empty()
    }
}

/// One public key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiKeySettings {
    /// The service's name, for the audit trail.
    pub name: String,
    /// The scopes of the service.
    pub scopes: Vec<Scope>,
    /// The SHA-256 of the whole key, in hexadecimal.
    pub sha256: String,
}

/// A signature algorithm. A token that names another one than those of its key is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    #[serde(rename = "RS384")]
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    #[serde(rename = "RS512")]
    Rs512,
    /// RSASSA-PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// RSASSA-PSS with SHA-384.
    #[serde(rename = "PS384")]
    Ps384,
    /// RSASSA-PSS with SHA-512.
    #[serde(rename = "PS512")]
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// `EdDSA` with the curve Ed25519 (RFC 8037).
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// HMAC with SHA-256. It does not apply to a public key, so no setting can name it.
    #[serde(skip)]
    Hs256,
}

impl Algorithm {
    /// Parses the `alg` of a token or of a key; `None` if roster does not support it.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "RS384" => Some(Self::Rs384),
            "RS512" => Some(Self::Rs512),
            "PS256" => Some(Self::Ps256),
            "PS384" => Some(Self::Ps384),
            "PS512" => Some(Self::Ps512),
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            // The second name is the one of RFC 9864, which replaces the first.
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            "HS256" => Some(Self::Hs256),
            _ => None,
        }
    }
}
