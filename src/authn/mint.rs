//! Token creation for `roster dev`, `roster token` and the tests. In a deployment, the identity provider issues the
//! tokens.

use super::secret::Secret;
use crate::random;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signer;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// An Ed25519 key that signs tokens.
pub struct SigningKey(ed25519_dalek::SigningKey);

/// The claims of a token. Times are in seconds since 1970.
#[derive(Clone, Default, Serialize)]
pub struct ClaimSet {
    /// The issuer (`iss`) that the tokens name.
    pub iss: String,
    /// The audience (`aud`) of the tokens.
    pub aud: String,
    /// The user's id, or the service's name.
    pub sub: String,
    /// The expiry time.
    pub exp: i64,
    /// The time of issue.
    pub iat: i64,
    /// The scopes, separated by spaces: `roster:check roster:manage`. A token without scopes identifies a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The user's email address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Whether the address is verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email_verified: Option<bool>,
    /// The user's display name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl SigningKey {
    /// Generates a key.
    #[must_use]
    pub fn generate() -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&random::secret()))
    }

    /// Writes the key as PKCS#8 PEM to a new file that only its owner can read.
    ///
    /// # Errors
    /// If the file exists already or cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let pem = self.0.to_pkcs8_pem(LineEnding::LF).map_err(io::Error::other)?;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()
    }

    /// Reads a key that [`SigningKey::save`] wrote.
    ///
    /// # Errors
    /// If the file cannot be read or does not contain such a key.
    pub fn load(path: &Path) -> io::Result<Self> {
        let pem = std::fs::read_to_string(path)?;
        ed25519_dalek::SigningKey::from_pkcs8_pem(&pem)
            .map(Self)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not an Ed25519 key in PKCS#8 PEM"))
    }

    /// Returns a JWKS with the public key, for the setting `jwks_file` of a server that accepts the tokens.
    #[must_use]
    pub fn public_jwks(&self) -> serde_json::Value {
        serde_json::json!({ "keys": [{
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.id(), "x": self.public(),
        }] })
    }

    /// Creates a token with these claims.
    ///
    /// # Errors
    /// If the claims cannot be serialized to JSON.
    pub fn mint(&self, claims: &ClaimSet) -> Result<Secret, serde_json::Error> {
        let header = serde_json::json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id() });
        Ok(Secret::new(self.sign(&header.to_string(), &serde_json::to_string(claims)?)))
    }

    /// Signs a header and claims without changing them.
    pub(super) fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.0.sign(message.as_bytes()).to_bytes();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Returns the key id: the thumbprint of RFC 7638.
    pub(super) fn id(&self) -> String {
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.public());
        URL_SAFE_NO_PAD.encode(Sha256::digest(members))
    }

    /// Returns the public key as the `x` of a JWK.
    fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.verifying_key().as_bytes())
    }

    /// Returns the public key in PEM.
    #[cfg(test)]
    pub(super) fn public_pem(&self) -> String {
        use ed25519_dalek::pkcs8::EncodePublicKey;
        self.0.verifying_key().to_public_key_pem(LineEnding::LF).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_saved_key_is_private_and_loads_unchanged() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("key.pem");
        let key = SigningKey::generate();
        key.save(&path)?;
        assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        assert_eq!(SigningKey::load(&path)?.public_jwks(), key.public_jwks());
        assert_eq!(key.save(&path).map_err(|error| error.kind()), Err(io::ErrorKind::AlreadyExists));

        std::fs::write(&path, key.public_pem())?;
        assert_eq!(SigningKey::load(&path).err().map(|error| error.kind()), Some(io::ErrorKind::InvalidData));
        Ok(())
    }
}
