//! Pages (AIP-158): how many, and where to go on. A page token is opaque: a version byte, a hash of the request that it
//! belongs to, and the key of the last row shown; base64url. It grants nothing: it only says where to go on.

use super::decode::{FieldReader, InvalidFields};
use crate::domain::Invalid;
use crate::grpc::limits;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;
const HASH_BYTES: usize = 8;
/// A name of 200 characters of four bytes, an id, the header.
const TOKEN_BYTES: usize = 1024;

/// A page to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    size: usize,
    filter: [u8; HASH_BYTES],
    /// The key behind which to go on; none for the first page.
    pub(super) after: Option<Vec<u8>>,
}

impl Page {
    /// Reads the size and the token of a request; `filter` is everything else that the request says.
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

    /// How many rows to ask for: one more than are shown tells whether there is a next page.
    pub(super) fn limit(&self) -> i64 {
        i64::try_from(self.size + 1).unwrap_or(i64::MAX)
    }

    /// Shows as many rows as fit on the page, in number and in bytes, and makes the token of the next one; empty on the
    /// last. At least one row is shown.
    pub(super) fn show<T, M: Message>(
        &self,
        rows: &[T],
        show: impl Fn(&T) -> M,
        key: impl FnOnce(&T) -> Vec<u8>,
    ) -> (Vec<M>, String) {
        let mut bytes = 0;
        let mut shown = Vec::with_capacity(rows.len().min(self.size));
        for row in rows.iter().take(self.size) {
            let message = show(row);
            bytes += message.encoded_len();
            if bytes > limits::PAGE_BYTES && !shown.is_empty() {
                break;
            }
            shown.push(message);
        }
        let next = match shown.len().checked_sub(1).and_then(|last| rows.get(last)) {
            Some(last) if shown.len() < rows.len() => {
                let mut bytes = vec![VERSION];
                bytes.extend_from_slice(&self.filter);
                bytes.extend(key(last));
                URL_SAFE_NO_PAD.encode(bytes)
            }
            _ => String::new(),
        };
        (shown, next)
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
