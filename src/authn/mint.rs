//! Token creation for `roster dev`, `roster token` and the tests. In a deployment, the identity provider issues the
//! tokens.

use super::secret::Secret;
use crate::random;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pem::{EncodeConfig, LineEnding, Pem};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// How the ids of these keys begin. A server that is not for development refuses a key set that holds such a key.
pub const KEY_ID_PREFIX: &str = "roster-dev-";

/// An Ed25519 key that signs tokens.
pub struct SigningKey(Ed25519KeyPair);

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
    #[expect(clippy::missing_panics_doc, reason = "every seed of this length is a key")]
    pub fn generate() -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&random::secret()).expect("a seed has 32 bytes"))
    }

    /// Writes the key as PKCS#8 PEM to a new file that only its owner can read.
    ///
    /// # Errors
    /// If the file exists already or cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let key = self.0.to_pkcs8v1().map_err(io::Error::other)?;
        let pem = to_pem("PRIVATE KEY", key.as_ref());
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()
    }

    /// Reads a key that [`SigningKey::save`] wrote.
    ///
    /// # Errors
    /// If the file cannot be read or does not contain such a key.
    pub fn load(path: &Path) -> io::Result<Self> {
        let key = pem::parse(std::fs::read(path)?).ok().filter(|pem| pem.tag() == "PRIVATE KEY");
        // Keys of earlier releases have no public key beside the private one, which `from_pkcs8` requires.
        let key = key.and_then(|pem| Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem.contents()).ok());
        key.map(Self).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an Ed25519 key in PKCS#8 PEM"))
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
        let signature = self.0.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Returns the key id: [`KEY_ID_PREFIX`] and the thumbprint of RFC 7638.
    pub(super) fn id(&self) -> String {
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.public());
        format!("{KEY_ID_PREFIX}{}", URL_SAFE_NO_PAD.encode(Sha256::digest(members)))
    }

    /// Returns the public key as the `x` of a JWK.
    fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.public_key())
    }

    /// Returns the public key in PEM.
    #[cfg(test)]
    pub(super) fn public_pem(&self) -> String {
        use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
        let key: PublicKeyX509Der<'_> = self.0.public_key().as_der().expect("the public key of a key pair is valid");
        to_pem("PUBLIC KEY", key.as_ref())
    }
}

fn to_pem(tag: &str, der: &[u8]) -> String {
    pem::encode_config(&Pem::new(tag, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
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
