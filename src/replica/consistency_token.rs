//! Consistency tokens: what a write made, or a check saw, as something that a later check can ask for.
//!
//! Opaque to callers. Inside: a version byte, the first eight bytes of the datastore's id, its epoch, and for each bucket
//! its number (users' buckets behind the organizations') and how far its log had come; base64url.

use crate::domain::ids::{ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{BucketPosition, Invalid, Standing};
use crate::store::datastore::Datastore;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::BTreeMap;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 8 + 4;
const ENTRY_BYTES: usize = 2 + 8;

/// How far the logs of some buckets had come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyToken {
    /// The first bytes of the id of the datastore that it speaks of.
    pub datastore: [u8; 8],
    /// The datastore's epoch.
    pub epoch: i32,
    positions: BTreeMap<i16, i64>,
}

impl ConsistencyToken {
    /// A token of this datastore that covers nothing yet.
    #[must_use]
    pub fn new(datastore: Datastore) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&datastore.id.as_bytes()[..8]);
        Self { datastore: id, epoch: datastore.epoch, positions: BTreeMap::new() }
    }

    /// Covers an organization's bucket up to here.
    pub fn cover(&mut self, at: BucketPosition) {
        let position = self.positions.entry(at.bucket).or_insert(0);
        *position = at.position.max(*position);
    }

    /// Covers a user's bucket up to here.
    pub fn cover_user(&mut self, at: BucketPosition) {
        self.cover(BucketPosition { bucket: ORGANIZATION_BUCKETS + at.bucket, position: at.position });
    }

    /// Covers what an answer of the primary came from.
    pub fn cover_standing(&mut self, standing: &Standing) {
        if let Some(position) = standing.position {
            self.cover(position);
        }
        self.cover_user(standing.user_position);
    }

    /// How far it covers each bucket; those of users stand behind those of organizations.
    pub fn positions(&self) -> impl Iterator<Item = BucketPosition> {
        self.positions.iter().map(|(bucket, position)| BucketPosition { bucket: *bucket, position: *position })
    }

    /// Whether it speaks of this datastore, in its present epoch.
    #[must_use]
    pub fn is_of(&self, datastore: Datastore) -> bool {
        self.datastore == datastore.id.as_bytes()[..8] && self.epoch == datastore.epoch
    }

    /// The token as callers carry it.
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

    /// Reads a token that a caller brings.
    ///
    /// # Errors
    /// If it is not one that roster made.
    pub fn decode(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new("not a consistency_token: give back what a write or a check answered");
        let most = (HEADER_BYTES + ENTRY_BYTES * buckets()).div_ceil(3) * 4;
        if text.len() > most {
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
    fn there_and_back() {
        let mut token = ConsistencyToken::new(Datastore { id: uuid::Uuid::from_u128(7 << 100), epoch: 3 });
        for bucket in 0..ORGANIZATION_BUCKETS {
            token.cover(BucketPosition { bucket, position: i64::from(bucket) });
        }
        token.cover_user(BucketPosition { bucket: 31, position: i64::MAX });
        assert_eq!(ConsistencyToken::decode(&token.encode()), Ok(token));
    }

    #[test]
    fn what_is_no_token() {
        let good = ConsistencyToken::new(Datastore { id: uuid::Uuid::nil(), epoch: 1 }).encode();
        assert!(ConsistencyToken::decode(&good).is_ok());
        for bad in ["", "x", "AAAA", &good[1..], &format!("{good}A"), &"A".repeat(100_000), "=", "\u{e9}"] {
            assert!(ConsistencyToken::decode(bad).is_err(), "{bad:.20}");
        }
    }
}
