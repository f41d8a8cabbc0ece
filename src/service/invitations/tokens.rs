//! Tokens of invitations: 32 random bytes in base64url. Only the SHA-256 is stored.

use crate::authn::Secret;
use crate::random;
use crate::service::limits;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// A new token, and its hash.
pub(in crate::service) fn mint() -> (Secret, [u8; 32]) {
    let text = URL_SAFE_NO_PAD.encode(random::secret());
    let hash = Sha256::digest(&text).into();
    (Secret::new(text), hash)
}

/// The hash of what a caller brings as a token. What cannot be one has the hash of nothing that was ever minted, and goes
/// the same way as any other that is no good.
pub(in crate::service) fn hash(text: &str) -> [u8; 32] {
    let bounded = if text.len() == limits::INVITATION_TOKEN_CHARACTERS { text } else { "" };
    Sha256::digest(bounded).into()
}
