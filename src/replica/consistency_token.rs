//! Consistency tokens: the log positions that a write produced or a check read, which a later check can require.
//!
//! Opaque to callers. The content: a byte for the form, the first eight bytes of the datastore's id, its epoch, and for
//! each covered bucket its number (organization buckets first, then user buckets, then the access model), its log position and, since form 2,
//! the mark of the row there. Encoded as base64url.
//!
//! The mark names the history that the position belongs to. A datastore that was restored has another row at a position
//! that it has lost.

use crate::domain::ids::{MODEL_BUCKET, ORGANIZATION_BUCKETS};
use crate::domain::{BucketPosition, Invalid, LogMark};
use crate::replica::limits;
use crate::store::datastore::Datastore;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::BTreeMap;

const HEADER_BYTES: usize = 1 + 8 + 4;
/// An entry of form 1: a bucket and a position.
const POSITION_BYTES: usize = 2 + 8;
/// An entry of form 2: a bucket, a position and a mark.
const MARKED_BYTES: usize = 2 + 8 + 4;
/// The bytes of the largest token: every bucket, in the larger form.
const MOST_BYTES: usize = HEADER_BYTES + MARKED_BYTES * (MODEL_BUCKET + 1) as usize;
// Base64url makes four characters of three bytes.
const _: () = assert!((MOST_BYTES * 4).div_ceil(3) <= limits::TOKEN_CHARACTERS);

/// The form of a token's content. The number of a form is its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenForm {
    /// Form 1: positions without marks. Releases up to 0.2 read no other form.
    Positions,
    /// Form 2: each position has its mark.
    Marks,
}

impl TokenForm {
    /// The first byte of a token in this form.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Positions => 1,
            Self::Marks => 2,
        }
    }
}

/// A log position for each of some buckets, in one epoch of one datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyToken {
    /// The first eight bytes of the datastore's id.
    pub datastore: [u8; 8],
    /// The datastore's epoch: a token of an earlier epoch is not accepted, because the datastore has lost writes since.
    pub epoch: i32,
    form: TokenForm,
    /// Whether it covers a bucket that this release does not have. Such a bucket is not among the positions.
    has_unknown_bucket: bool,
    positions: BTreeMap<i16, (i64, LogMark)>,
}

impl ConsistencyToken {
    /// A token of this datastore that covers no bucket yet.
    #[must_use]
    pub fn new(datastore: Datastore, form: TokenForm) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&datastore.id.as_bytes()[..8]);
        let (epoch, positions) = (datastore.epoch, BTreeMap::new());
        Self { datastore: id, epoch, form, has_unknown_bucket: false, positions }
    }

    /// A token that a newer release wrote in a form that this release cannot read: it is of no known datastore.
    fn of_newer_form() -> Self {
        let (form, positions) = (TokenForm::Positions, BTreeMap::new());
        Self { datastore: [0; 8], epoch: 0, form, has_unknown_bucket: true, positions }
    }

    /// Covers an organization bucket, or the bucket of the access model, up to this position.
    pub fn cover(&mut self, at: BucketPosition) {
        let covered = self.positions.entry(at.bucket).or_insert((0, LogMark::START));
        if at.position > covered.0 {
            *covered = (at.position, at.mark);
        }
    }

    /// Covers a user bucket up to this position.
    pub fn cover_user(&mut self, at: BucketPosition) {
        self.cover(BucketPosition { bucket: ORGANIZATION_BUCKETS + at.bucket, ..at });
    }

    /// The covered position of each bucket. User buckets have the numbers after the organization buckets, and the access
    /// model the last one. The marks mean nothing unless [`Self::has_marks`].
    pub fn positions(&self) -> impl Iterator<Item = BucketPosition> {
        let position = |(bucket, (position, mark)): (&i16, &(i64, LogMark))| BucketPosition {
            bucket: *bucket,
            position: *position,
            mark: *mark,
        };
        self.positions.iter().map(position)
    }

    /// Whether the token covers no bucket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Whether each position has its mark.
    #[must_use]
    pub fn has_marks(&self) -> bool {
        self.form == TokenForm::Marks
    }

    /// Whether the replica can decide if it has reached everything that the token covers. Otherwise the token counts as
    /// `fully_consistent`.
    #[must_use]
    pub fn is_comparable(&self) -> bool {
        self.has_marks() && !self.has_unknown_bucket
    }

    /// Whether the token belongs to this datastore and to its current epoch.
    #[must_use]
    pub fn is_of(&self, datastore: Datastore) -> bool {
        self.is_of_any_epoch(datastore) && self.epoch == datastore.epoch
    }

    /// Whether the token belongs to this datastore, in any epoch.
    #[must_use]
    pub fn is_of_any_epoch(&self, datastore: Datastore) -> bool {
        self.datastore == datastore.id.as_bytes()[..8]
    }

    /// The token's text form, which callers store and send.
    #[must_use]
    pub fn encode(&self) -> String {
        let entry = if self.has_marks() { MARKED_BYTES } else { POSITION_BYTES };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + entry * self.positions.len());
        bytes.push(self.form.number());
        bytes.extend_from_slice(&self.datastore);
        bytes.extend_from_slice(&self.epoch.to_be_bytes());
        for (bucket, (position, mark)) in &self.positions {
            bytes.extend_from_slice(&bucket.to_be_bytes());
            bytes.extend_from_slice(&position.to_be_bytes());
            if self.has_marks() {
                bytes.extend_from_slice(&mark.bits().to_be_bytes());
            }
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Parses a token that a caller sends. A token in a newer form counts as one of another datastore: a check with it is
    /// answered by the primary, and a cursor is expired.
    ///
    /// # Errors
    /// If the text is not a token in any form.
    pub fn decode(text: &str) -> Result<Self, Invalid> {
        let invalid =
            || Invalid::new("not a consistency token: send back the consistency_token of an earlier write or check");
        if text.len() > limits::TOKEN_TEXT_BYTES {
            return Err(invalid());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
        let (header, entries) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(invalid)?;
        let [form, d0, d1, d2, d3, d4, d5, d6, d7, e0, e1, e2, e3] = *header else { return Err(invalid()) };
        let form = match form {
            0 => return Err(invalid()),
            1 => TokenForm::Positions,
            2 => TokenForm::Marks,
            _ => return Ok(Self::of_newer_form()),
        };
        let mut token = Self {
            datastore: [d0, d1, d2, d3, d4, d5, d6, d7],
            epoch: i32::from_be_bytes([e0, e1, e2, e3]),
            form,
            has_unknown_bucket: false,
            positions: BTreeMap::new(),
        };
        let is_read = match form {
            TokenForm::Positions => {
                let (entries, rest) = entries.as_chunks::<POSITION_BYTES>();
                let mut entries = entries.iter();
                rest.is_empty() && entries.all(|[b0, b1, position @ ..]| token.add([*b0, *b1], *position, [0; 4]))
            }
            TokenForm::Marks => {
                let (entries, rest) = entries.as_chunks::<MARKED_BYTES>();
                let mut entries = entries.iter();
                rest.is_empty()
                    && entries.all(|[b0, b1, p0, p1, p2, p3, p4, p5, p6, p7, mark @ ..]| {
                        token.add([*b0, *b1], [*p0, *p1, *p2, *p3, *p4, *p5, *p6, *p7], *mark)
                    })
            }
        };
        if is_read { Ok(token) } else { Err(invalid()) }
    }

    /// Adds an entry of an encoded token; false for a negative position.
    fn add(&mut self, bucket: [u8; 2], position: [u8; 8], mark: [u8; 4]) -> bool {
        let (bucket, position) = (u16::from_be_bytes(bucket), i64::from_be_bytes(position));
        match i16::try_from(bucket) {
            Ok(bucket) if bucket <= MODEL_BUCKET => {
                self.positions.insert(bucket, (position, LogMark::from_bits(u32::from_be_bytes(mark))));
            }
            Ok(_) | Err(_) => self.has_unknown_bucket = true,
        }
        position >= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DATASTORE: Datastore = Datastore { id: uuid::Uuid::from_u128(7 << 100), epoch: 3 };
    const FORMS: [TokenForm; 2] = [TokenForm::Positions, TokenForm::Marks];

    fn at(bucket: i16, position: i64, mark: u32) -> BucketPosition {
        BucketPosition { bucket, position, mark: LogMark::from_bits(mark) }
    }

    /// A token of every bucket.
    fn full(form: TokenForm) -> ConsistencyToken {
        let mut token = ConsistencyToken::new(DATASTORE, form);
        for bucket in 0..ORGANIZATION_BUCKETS {
            token.cover(at(bucket, i64::MAX - i64::from(bucket), u32::MAX));
        }
        for bucket in ORGANIZATION_BUCKETS..=MODEL_BUCKET {
            token.cover(at(bucket, i64::MAX, 7));
        }
        token
    }

    /// The bytes of a token, changed, as text.
    fn changed(token: &ConsistencyToken, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = URL_SAFE_NO_PAD.decode(token.encode()).unwrap();
        change(&mut bytes);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    proptest! {
        #[test]
        fn a_token_survives_encoding_and_decoding(
            entries in prop::collection::btree_map(0..289i16, (1..=i64::MAX, any::<u32>()), 0..=289),
            epoch in any::<i32>(),
            id in any::<u128>(),
        ) {
            let datastore = Datastore { id: uuid::Uuid::from_u128(id), epoch };
            for form in FORMS {
                let mut token = ConsistencyToken::new(datastore, form);
                for (bucket, (position, mark)) in &entries {
                    token.cover(at(*bucket, *position, if form == TokenForm::Marks { *mark } else { 0 }));
                }
                let text = token.encode();
                prop_assert!(text.len() <= limits::TOKEN_CHARACTERS);
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
                let decoded = ConsistencyToken::decode(&text).unwrap();
                prop_assert!(decoded.is_of(datastore) && decoded.is_comparable() == (form == TokenForm::Marks));
                prop_assert_eq!(decoded, token);
            }
        }

        #[test]
        fn arbitrary_bytes_never_become_a_token_that_the_replica_compares(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            form in any::<u8>(),
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = form;
            }
            if let Ok(token) = ConsistencyToken::decode(&URL_SAFE_NO_PAD.encode(&bytes)) {
                prop_assert!(bytes.len() >= HEADER_BYTES && form > 0);
                prop_assert!(form == 2 || !token.is_comparable());
                prop_assert!(form <= 2 || (token.is_empty() && token.epoch == 0));
                prop_assert!(token.positions().all(|at| (0..289).contains(&at.bucket) && at.position >= 0));
            }
        }
    }

    #[test]
    fn a_token_of_every_bucket_is_not_too_long() {
        for (form, characters) in [(TokenForm::Positions, 3_871), (TokenForm::Marks, 5_412)] {
            let text = full(form).encode();
            assert_eq!(text.len(), characters);
            assert_eq!(ConsistencyToken::decode(&text).unwrap().encode(), text);
        }
    }

    /// Releases up to 0.2 wrote this text.
    #[test]
    fn form_1_has_its_released_bytes() {
        let mut token = ConsistencyToken::new(DATASTORE, TokenForm::Positions);
        token.cover(at(1, 258, 9));
        let bytes = [1, 0, 0, 0, 0x70, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2];
        assert_eq!(URL_SAFE_NO_PAD.decode(token.encode()).unwrap(), bytes);
    }

    #[test]
    fn a_later_position_replaces_an_earlier_one_with_its_mark() {
        let mut token = ConsistencyToken::new(DATASTORE, TokenForm::Marks);
        for position in [at(4, 2, 20), at(4, 5, 50), at(4, 3, 30)] {
            token.cover(position);
        }
        assert_eq!(token.positions().collect::<Vec<_>>(), [at(4, 5, 50)]);
    }

    #[test]
    fn an_unknown_bucket_leaves_the_others_and_makes_the_token_incomparable() {
        for form in FORMS {
            let mut token = ConsistencyToken::new(DATASTORE, form);
            token.cover(at(4, 2, 0));
            for bucket in [[1, 33], [0x7f, 0xff], [0xff, 0xff]] {
                let size = if form == TokenForm::Marks { MARKED_BYTES } else { POSITION_BYTES };
                let text = changed(&token, |bytes| {
                    bytes.extend_from_slice(&bucket);
                    bytes.resize(bytes.len() + size - 2, 1);
                });
                let decoded = ConsistencyToken::decode(&text).unwrap();
                assert!(decoded.is_of(DATASTORE) && !decoded.is_comparable());
                assert_eq!(decoded.positions().collect::<Vec<_>>(), [at(4, 2, 0)]);
            }
        }
    }

    #[test]
    fn a_newer_form_is_of_no_known_datastore() {
        for form in [3, 4, 99, 255] {
            for longer in [0, 1, 5_000] {
                let text = changed(&full(TokenForm::Marks), |bytes| {
                    bytes[0] = form;
                    bytes.resize(bytes.len() + longer, 1);
                });
                let token = ConsistencyToken::decode(&text).unwrap();
                assert!(!token.is_of_any_epoch(DATASTORE) && token.is_empty() && !token.is_comparable());
            }
        }
    }

    #[test]
    fn malformed_tokens_are_rejected() {
        for form in FORMS {
            let empty = ConsistencyToken::new(Datastore { id: uuid::Uuid::nil(), epoch: 1 }, form).encode();
            assert!(ConsistencyToken::decode(&empty).is_ok());
            let negative = changed(&full(form), |bytes| bytes[HEADER_BYTES + 2] = 0x80);
            let cut = changed(&full(form), |bytes| bytes.truncate(bytes.len() - 1));
            let zero = changed(&full(form), |bytes| bytes[0] = 0);
            let bad = ["", "x", "AAAA", "____", &empty[1..], &format!("{empty}A"), &"A".repeat(100_000), "=", "\u{e9}"];
            for bad in bad.into_iter().chain([negative.as_str(), &cut, &zero, &"_".repeat(100_000)]) {
                assert!(ConsistencyToken::decode(bad).is_err(), "{bad:.20}");
            }
        }
    }
}
