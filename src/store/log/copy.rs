//! Parser of the binary format of `COPY … TO` (Postgres manual, "COPY", Binary Format).
//!
//! A header of an 11-byte signature, 32 bits of flags and a 32-bit length of an extension, then the extension. Then the
//! rows: a 16-bit number of fields, and for each field its 32-bit length (-1 for NULL) and its bytes. A number of -1
//! ends the rows.

use crate::store::StoreError;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// A parser for rows of exactly `N` fields. Its input are chunks that may end anywhere.
pub(super) struct CopyRows<const N: usize> {
    header_read: bool,
    ended: bool,
    /// The unparsed end of the last chunk: the beginning of the header or of a row.
    rest: Vec<u8>,
}

/// The fields of a row; `None` for NULL.
pub(super) type CopyFields<'a, const N: usize> = [Option<&'a [u8]>; N];

impl<const N: usize> CopyRows<N> {
    pub(super) fn new() -> Self {
        Self { header_read: false, ended: false, rest: Vec::new() }
    }

    /// Parses a chunk and calls `each` for every complete row.
    pub(super) fn feed(
        &mut self,
        chunk: &[u8],
        each: &mut impl FnMut(CopyFields<'_, N>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if self.rest.is_empty() {
            let parsed = self.parse(chunk, each)?;
            self.rest.extend_from_slice(&chunk[parsed..]);
        } else {
            let mut bytes = std::mem::take(&mut self.rest);
            bytes.extend_from_slice(chunk);
            let parsed = self.parse(&bytes, each)?;
            bytes.drain(..parsed);
            self.rest = bytes;
        }
        Ok(())
    }

    /// Checks that the end of the rows was reached and nothing follows it.
    pub(super) fn end(&self) -> Result<(), StoreError> {
        if self.ended && self.rest.is_empty() { Ok(()) } else { Err(unreadable("it is truncated")) }
    }

    /// Parses the complete rows at the start of `bytes`. Returns the number of bytes parsed.
    fn parse(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(CopyFields<'_, N>) -> Result<(), StoreError>,
    ) -> Result<usize, StoreError> {
        let mut left = bytes;
        if !self.header_read {
            let Some(after) = header(left)? else { return Ok(0) };
            left = after;
            self.header_read = true;
        }
        while !self.ended {
            let Some((count, after)) = take::<2>(left) else { break };
            match i16::from_be_bytes(count) {
                -1 => {
                    self.ended = true;
                    left = after;
                }
                count if usize::try_from(count) == Ok(N) => {
                    let Some((row, after)) = fields::<N>(after)? else { break };
                    each(row)?;
                    left = after;
                }
                _ => return Err(unreadable("a row has the wrong number of fields")),
            }
        }
        Ok(bytes.len() - left.len())
    }
}

fn header(bytes: &[u8]) -> Result<Option<&[u8]>, StoreError> {
    let Some((signature, rest)) = bytes.split_at_checked(SIGNATURE.len()) else { return Ok(None) };
    if signature != SIGNATURE {
        return Err(unreadable("it has the wrong signature"));
    }
    let Some((_flags, rest)) = take::<4>(rest) else { return Ok(None) };
    let Some((length, rest)) = take::<4>(rest) else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    Ok(rest.get(length..))
}

fn fields<const N: usize>(mut bytes: &[u8]) -> Result<Option<(CopyFields<'_, N>, &[u8])>, StoreError> {
    let mut row = [None; N];
    for field in &mut row {
        let Some((length, rest)) = take::<4>(bytes) else { return Ok(None) };
        bytes = rest;
        match i32::from_be_bytes(length) {
            -1 => {}
            length => {
                let length = usize::try_from(length).map_err(|_| unreadable("a field has a negative length"))?;
                let Some((field_bytes, rest)) = bytes.split_at_checked(length) else { return Ok(None) };
                *field = Some(field_bytes);
                bytes = rest;
            }
        }
    }
    Ok(Some((row, bytes)))
}

fn take<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    Some((*head, rest))
}

fn unreadable(problem: &str) -> StoreError {
    StoreError::Unreadable(format!("a binary copy: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows: ("ab", NULL) and ("", "c").
    fn copy() -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 3, 9, 9, 9]);
        bytes.extend_from_slice(&[0, 2, 0, 0, 0, 2, b'a', b'b', 255, 255, 255, 255]);
        bytes.extend_from_slice(&[0, 2, 0, 0, 0, 0, 0, 0, 0, 1, b'c', 255, 255]);
        bytes
    }

    fn read(chunks: &[&[u8]]) -> Result<Vec<[Option<Vec<u8>>; 2]>, StoreError> {
        let mut rows = CopyRows::<2>::new();
        let mut parsed = Vec::new();
        for chunk in chunks {
            rows.feed(chunk, &mut |row| {
                parsed.push(row.map(|field| field.map(<[u8]>::to_vec)));
                Ok(())
            })?;
        }
        rows.end()?;
        Ok(parsed)
    }

    #[test]
    fn chunks_may_end_anywhere() {
        let bytes = copy();
        let expected = [[Some(b"ab".to_vec()), None], [Some(Vec::new()), Some(b"c".to_vec())]];
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let chunks = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(read(&chunks).unwrap(), expected, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn truncated_and_foreign_input_is_rejected() {
        let bytes = copy();
        for length in 0..bytes.len() {
            assert!(read(&[&bytes[..length]]).is_err(), "cut off after {length}");
        }
        assert!(read(&[b"PGCOPY\n\xff\r\n\x01", &bytes[11..]]).is_err());
        let mut rows = CopyRows::<3>::new();
        assert!(rows.feed(&bytes, &mut |_| Ok(())).is_err());
    }
}
