//! How callers are recognized, as a deployment configures it.

use crate::domain::Scope;
use serde::Deserialize;
use std::path::PathBuf;

/// Whose tokens and which API keys are accepted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthSettings {
    /// The identity providers whose tokens are accepted.
    pub issuers: Vec<IssuerSettings>,
    /// The API keys of services. Several may carry one name, for rotation.
    pub api_keys: Vec<ApiKeySettings>,
}

/// One identity provider. Its keys come from exactly one of `jwks_file`, `keys` and `hs256_secret_file`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSettings {
    /// The `iss` of its tokens, compared byte for byte.
    pub issuer: String,
    /// What `aud` must be, or hold.
    pub audience: String,
    /// A JWKS file with RSA, P-256 or Ed25519 keys. Read again when it changes.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// Public keys, each in a PEM file. Read at the start only.
    #[serde(default)]
    pub keys: Vec<PemKey>,
    /// A file with the text shared with the provider, at least 32 bytes without the white space at its end.
    #[serde(default)]
    pub hs256_secret_file: Option<PathBuf>,
    /// The scopes that its tokens may carry. None unless listed: many providers let anybody ask for any scope, and
    /// must not make operators by that.
    #[serde(default)]
    pub scopes: Vec<Scope>,
    /// What stands before each `sub` in the ids of its users. Nothing, unless said. No two issuers may have the same:
    /// each names its subjects as it likes, and one could name another's.
    #[serde(default)]
    pub user_id_prefix: String,
}

/// One public key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PemKey {
    /// The one algorithm that it is used with.
    pub algorithm: Algorithm,
    /// Its id, the `kid` of tokens. A key without one answers to every id.
    #[serde(default)]
    pub kid: Option<String>,
    /// The file: PEM, beginning with `-----BEGIN PUBLIC KEY-----`.
    pub file: PathBuf,
}

/// A service's key. `roster api-key` makes one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeySettings {
    /// The service's name, for the audit trail.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The SHA-256 of the whole key, in hexadecimal.
    pub sha256: String,
}

/// How tokens are signed. A key has one algorithm, and a token that names another is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// HMAC with SHA-256. Not for a public key, so no setting can name it.
    #[serde(skip)]
    Hs256,
}

impl Algorithm {
    /// Reads the `alg` of a token.
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
