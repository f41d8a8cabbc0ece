//! Pages (AIP-158): the page size, and the position after which a list continues.
//!
//! A page token is opaque: a version byte, a hash of the request that it belongs to, and the key of the last row of the
//! page; base64url. It grants nothing: it only says where to continue.

use super::convert::field_bytes;
use super::decode::{FieldReader, InvalidFields};
use crate::domain::Invalid;
use crate::grpc::limits;
use crate::service::RowPage;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;
const HASH_BYTES: usize = 8;
/// A page token before base64url, in bytes: a name of 200 characters of four bytes each, an id and the header fit.
const TOKEN_BYTES: usize = 1024;
// The protos state the length of a page token, in characters: callers store it.
const _: () = assert!((TOKEN_BYTES * 4).div_ceil(3) <= limits::PAGE_TOKEN_CHARACTERS);

/// The page that a list request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    size: usize,
    filter: [u8; HASH_BYTES],
    /// The key of the last row of the page before; `None` for the first page.
    after: Option<Vec<u8>>,
}

impl Page {
    /// Reads the page size and the page token of a request. `filter` is everything else that the request asks for: a
    /// page token of another request is refused.
    pub(super) fn read(
        fields: &mut FieldReader,
        size: i32,
        token: &str,
        filter: &[&str],
    ) -> Result<Self, InvalidFields> {
        let mut hasher = Sha256::new();
        for part in filter {
            hasher.update(part.len().to_be_bytes());
            hasher.update(part);
        }
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(&hasher.finalize()[..HASH_BYTES]);
        let size = match u32::try_from(size) {
            Ok(0) => Ok(limits::PAGE_SIZE_DEFAULT),
            Ok(size) => Ok(size.min(limits::PAGE_SIZE_MAX)),
            Err(_) => Err(Invalid::new("a page has at least one item; leave it out for 50")),
        };
        let size = fields.take("page_size", size);
        let after = fields.optional("page_token", token, |token| decode(token, hash));
        Ok(Self { size: usize::try_from(size?).unwrap_or(usize::MAX), filter: hash, after: after? })
    }

    /// The key after which the page starts, parsed from its bytes; `None` for the first page. A key that this list cannot
    /// have written is refused.
    pub(super) fn key<K>(
        &self,
        fields: &mut FieldReader,
        parse: impl FnOnce(&[u8]) -> Option<K>,
    ) -> Result<Option<K>, InvalidFields> {
        let Some(bytes) = &self.after else { return Ok(None) };
        fields
            .take("page_token", parse(bytes).ok_or_else(|| Invalid::new("not a page_token of this request")))
            .map(Some)
    }

    /// The number of rows to select: one more than the page shows, which shows whether a next page exists.
    pub(super) fn limit(&self) -> i64 {
        i64::try_from(self.size + 1).unwrap_or(i64::MAX)
    }

    /// Converts the rows that fit on the page, in number and in bytes, and makes the next page token; empty on the last
    /// page. A page has at least one row.
    pub(super) fn convert<T, M: Message>(
        &self,
        page: &RowPage<T>,
        convert: impl Fn(&T) -> M,
        key: impl FnOnce(&T) -> Vec<u8>,
    ) -> (Vec<M>, String) {
        let rows = &page.rows;
        let mut bytes = 0;
        let mut messages = Vec::with_capacity(rows.len().min(self.size));
        for row in rows.iter().take(self.size) {
            let message = convert(row);
            bytes += field_bytes(&message);
            if bytes > limits::ITEMS_BYTES && !messages.is_empty() {
                break;
            }
            messages.push(message);
        }
        let next = match messages.len().checked_sub(1).and_then(|last| rows.get(last)) {
            Some(last) if page.is_cut || messages.len() < rows.len() => {
                let mut bytes = vec![VERSION];
                bytes.extend_from_slice(&self.filter);
                bytes.extend(key(last));
                URL_SAFE_NO_PAD.encode(bytes)
            }
            _ => String::new(),
        };
        (messages, next)
    }
}

fn decode(token: &str, filter: [u8; HASH_BYTES]) -> Result<Vec<u8>, Invalid> {
    let invalid = || Invalid::new("not a page_token of this request: repeat the request that answered with it");
    if token.len() > TOKEN_BYTES.div_ceil(3) * 4 {
        return Err(invalid());
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    match bytes.split_first() {
        Some((&VERSION, rest)) => rest.strip_prefix(&filter[..]).map(<[u8]>::to_vec).ok_or_else(invalid),
        _ => Err(invalid()),
    }
}
