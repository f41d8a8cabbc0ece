//! The keys of an issuer at one time.

use super::jwk_set::{SkippedKey, are_same};
use super::verification_key::VerificationKey;
use crate::authn::credential_error::CredentialError;
use crate::authn::settings::Algorithm;

/// The keys of an issuer, as read at one time.
pub(in crate::authn) struct KeySet {
    pub(super) keys: Vec<VerificationKey>,
    /// The keys of the document that are not used.
    pub(super) skipped: Vec<SkippedKey>,
    /// The number of changes of the keys so far. A cached token that was verified with another generation is verified
    /// again.
    pub(in crate::authn) generation: u64,
}

impl KeySet {
    /// Verifies the signature of a token with the key that its `kid` and `alg` select.
    pub(in crate::authn) fn verify(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        message: &str,
        signature: &str,
    ) -> Result<(), CredentialError> {
        if self.find(id, algorithm)?.verifies(algorithm, message, signature) {
            Ok(())
        } else {
            Err(CredentialError::InvalidSignature)
        }
    }

    /// Returns the key that the `kid` and the `alg` of a token select.
    pub(in crate::authn) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<&VerificationKey, CredentialError> {
        let mut with_id = self.keys.iter().filter(|key| id.is_some() && key.id.as_deref() == id).peekable();
        if with_id.peek().is_some() {
            return with_id.find(|key| key.accepts(algorithm)).ok_or(CredentialError::AlgorithmMismatch);
        }
        // A token without a key id must match exactly one key. A key without an id matches every key id.
        let mut candidates =
            self.keys.iter().filter(|key| key.accepts(algorithm) && (id.is_none() || key.id.is_none()));
        match (candidates.next(), candidates.next()) {
            (Some(key), None) => Ok(key),
            _ => Err(CredentialError::UnknownKey),
        }
    }

    /// Returns whether another set has the same keys, and skips the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        are_same((&self.keys, &self.skipped), (&other.keys, &other.skipped))
    }

    /// The ids of the keys, for a log line.
    pub(super) fn ids(&self) -> String {
        let id = |key: &VerificationKey| key.id.as_deref().map_or("(none)".to_owned(), crate::limited_log::excerpt);
        self.keys.iter().map(id).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::keys::jwk_set::JwkSet;

    #[test]
    fn key_id_and_algorithm_select_at_most_one_key() -> Result<(), Box<dyn std::error::Error>> {
        let parse = |bytes: &[u8]| JwkSet::parse(bytes, false).map(|set| set.keys);
        let mut keys = parse(include_bytes!("../../../tests/keys/rs256.jwks.json"))?;
        keys.extend(parse(include_bytes!("../../../tests/keys/es256.jwks.json"))?);
        keys[1].id = None;
        let mut set = KeySet { keys, skipped: Vec::new(), generation: 0 };
        let find = |set: &KeySet, id, algorithm| set.find(id, algorithm).map(|key| key.accepts(algorithm));

        assert_eq!(find(&set, Some("k1"), Algorithm::Rs256), Ok(true));
        assert_eq!(find(&set, Some("k1"), Algorithm::Es256), Err(CredentialError::AlgorithmMismatch));
        assert_eq!(find(&set, Some("k2"), Algorithm::Rs256), Err(CredentialError::UnknownKey));
        assert_eq!(find(&set, Some("k2"), Algorithm::Es256), Ok(true));
        assert_eq!(find(&set, None, Algorithm::Rs256), Ok(true));
        assert_eq!(find(&set, None, Algorithm::EdDsa), Err(CredentialError::UnknownKey));
        set.keys.extend(parse(include_bytes!("../../../tests/keys/es256.jwks.json"))?);
        assert_eq!(find(&set, None, Algorithm::Es256), Err(CredentialError::UnknownKey));
        Ok(())
    }
}
