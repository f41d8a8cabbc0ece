//! Invitation tokens: 32 random bytes in base64url. Only their SHA-256 is stored.

use crate::authn::Secret;
use crate::random;
use crate::service::limits;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Creates a token and its hash.
pub(in crate::service) fn mint() -> (Secret, [u8; 32]) {
    let text = URL_SAFE_NO_PAD.encode(random::secret());
    let hash = Sha256::digest(&text).into();
    (Secret::new(text), hash)
}

/// Hashes the text that a caller sends as a token. A text of the wrong length hashes as the empty text, which no token
/// has, and so it takes the same path as any other invalid token.
pub(in crate::service) fn hash(text: &str) -> [u8; 32] {
    let bounded = if text.len() == limits::INVITATION_TOKEN_CHARACTERS { text } else { "" };
    Sha256::digest(bounded).into()
}
