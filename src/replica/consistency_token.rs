//! Consistency tokens: the log positions that a write produced or a check read, which a later check can require.
//!
//! Opaque to callers. The content: a version byte, the first eight bytes of the datastore's id, its epoch, and for each
//! covered bucket its number (organization buckets first, then user buckets) and its log position. Encoded as
//! base64url.

use crate::domain::ids::{ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{BucketPosition, Invalid, Standing};
use crate::store::datastore::Datastore;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::BTreeMap;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 8 + 4;
const ENTRY_BYTES: usize = 2 + 8;

/// A log position for each of some buckets, in one epoch of one datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyToken {
    /// The first eight bytes of the datastore's id.
    pub datastore: [u8; 8],
    /// The datastore's epoch: a token of an earlier epoch is not accepted, because the datastore has lost writes since.
    pub epoch: i32,
    positions: BTreeMap<i16, i64>,
}

impl ConsistencyToken {
    /// A token of this datastore that covers no bucket yet.
    #[must_use]
    pub fn new(datastore: Datastore) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&datastore.id.as_bytes()[..8]);
        Self { datastore: id, epoch: datastore.epoch, positions: BTreeMap::new() }
    }

    /// Covers an organization bucket up to this position.
    pub fn cover(&mut self, at: BucketPosition) {
        let position = self.positions.entry(at.bucket).or_insert(0);
        *position = at.position.max(*position);
    }

    /// Covers a user bucket up to this position.
    pub fn cover_user(&mut self, at: BucketPosition) {
        self.cover(BucketPosition { bucket: ORGANIZATION_BUCKETS + at.bucket, position: at.position });
    }

    /// Covers the positions that an answer of the primary was read at.
    pub fn cover_standing(&mut self, standing: &Standing) {
        if let Some(position) = standing.position {
            self.cover(position);
        }
        self.cover_user(standing.user_position);
    }

    /// The covered position of each bucket. User buckets have the numbers after the organization buckets.
    pub fn positions(&self) -> impl Iterator<Item = BucketPosition> {
        self.positions.iter().map(|(bucket, position)| BucketPosition { bucket: *bucket, position: *position })
    }

    /// Whether the token belongs to this datastore and to its current epoch.
    #[must_use]
    pub fn is_of(&self, datastore: Datastore) -> bool {
        self.datastore == datastore.id.as_bytes()[..8] && self.epoch == datastore.epoch
    }

    /// The token's text form, which callers store and send.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + ENTRY_BYTES * self.positions.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.datastore);
        bytes.extend_from_slice(&self.epoch.to_be_bytes());
        for (bucket, position) in &self.positions {
            bytes.extend_from_slice(&bucket.to_be_bytes());
            bytes.extend_from_slice(&position.to_be_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Parses a token that a caller sends.
    ///
    /// # Errors
    /// If the text is not a token in this format.
    pub fn decode(text: &str) -> Result<Self, Invalid> {
        let invalid =
            || Invalid::new("not a consistency token: send back the consistency_token of an earlier write or check");
        let longest = (HEADER_BYTES + ENTRY_BYTES * buckets()).div_ceil(3) * 4;
        if text.len() > longest {
            return Err(invalid());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
        let (header, entries) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(invalid)?;
        let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
        let [VERSION, d0, d1, d2, d3, d4, d5, d6, d7, e0, e1, e2, e3] = *header else { return Err(invalid()) };
        if !rest.is_empty() {
            return Err(invalid());
        }
        let mut positions = BTreeMap::new();
        for [b0, b1, position @ ..] in entries {
            let bucket = i16::from_be_bytes([*b0, *b1]);
            let position = i64::from_be_bytes(*position);
            if usize::try_from(bucket).is_ok_and(|bucket| bucket < buckets()) && position >= 0 {
                positions.insert(bucket, position);
            } else {
                return Err(invalid());
            }
        }
        Ok(Self { datastore: [d0, d1, d2, d3, d4, d5, d6, d7], epoch: i32::from_be_bytes([e0, e1, e2, e3]), positions })
    }
}

fn buckets() -> usize {
    usize::from((ORGANIZATION_BUCKETS + USER_BUCKETS).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_encoding_and_decoding() {
        let mut token = ConsistencyToken::new(Datastore { id: uuid::Uuid::from_u128(7 << 100), epoch: 3 });
        for bucket in 0..ORGANIZATION_BUCKETS {
            token.cover(BucketPosition { bucket, position: i64::from(bucket) });
        }
        token.cover_user(BucketPosition { bucket: 31, position: i64::MAX });
        assert_eq!(ConsistencyToken::decode(&token.encode()), Ok(token));
    }

    #[test]
    fn malformed_tokens_are_rejected() {
        let good = ConsistencyToken::new(Datastore { id: uuid::Uuid::nil(), epoch: 1 }).encode();
        assert!(ConsistencyToken::decode(&good).is_ok());
        for bad in ["", "x", "AAAA", &good[1..], &format!("{good}A"), &"A".repeat(100_000), "=", "\u{e9}"] {
            assert!(ConsistencyToken::decode(bad).is_err(), "{bad:.20}");
        }
    }
}
