//! Rows as Postgres copies them out in its binary format (manual, "COPY", Binary Format): 11 bytes of signature, flags, an
//! extension, then rows of a 16-bit count of fields and for each its 32-bit length and its bytes, and a count of -1 last.

use crate::store::StoreError;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Reads rows of exactly `N` fields out of chunks that may end anywhere.
pub(super) struct CopyRows<const N: usize> {
    begun: bool,
    ended: bool,
    /// What the last chunk left over: the beginning of a row.
    rest: Vec<u8>,
}

/// The fields of a row, none for NULL.
pub(super) type CopyFields<'a, const N: usize> = [Option<&'a [u8]>; N];

impl<const N: usize> CopyRows<N> {
    pub(super) fn new() -> Self {
        Self { begun: false, ended: false, rest: Vec::new() }
    }

    /// Takes a chunk, and hands on every row that is whole.
    pub(super) fn feed(
        &mut self,
        chunk: &[u8],
        each: &mut impl FnMut(CopyFields<'_, N>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if self.rest.is_empty() {
            let read = self.read(chunk, each)?;
            self.rest.extend_from_slice(&chunk[read..]);
        } else {
            let mut bytes = std::mem::take(&mut self.rest);
            bytes.extend_from_slice(chunk);
            let read = self.read(&bytes, each)?;
            bytes.drain(..read);
            self.rest = bytes;
        }
        Ok(())
    }

    /// Whether everything came.
    pub(super) fn end(&self) -> Result<(), StoreError> {
        if self.ended && self.rest.is_empty() { Ok(()) } else { Err(unreadable("it breaks off")) }
    }

    /// Reads as many whole rows as there are, and tells how many bytes they were.
    fn read(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(CopyFields<'_, N>) -> Result<(), StoreError>,
    ) -> Result<usize, StoreError> {
        let mut left = bytes;
        if !self.begun {
            let Some(after) = header(left)? else { return Ok(0) };
            left = after;
            self.begun = true;
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
                _ => return Err(unreadable("a row has another number of fields")),
            }
        }
        Ok(bytes.len() - left.len())
    }
}

fn header(bytes: &[u8]) -> Result<Option<&[u8]>, StoreError> {
    let Some((signature, rest)) = bytes.split_at_checked(SIGNATURE.len()) else { return Ok(None) };
    if signature != SIGNATURE {
        return Err(unreadable("it begins with something else"));
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

fn unreadable(change: &str) -> StoreError {
    StoreError::Unreadable(format!("a binary copy: {change}"))
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
        let mut read = Vec::new();
        for chunk in chunks {
            rows.feed(chunk, &mut |row| {
                read.push(row.map(|field| field.map(<[u8]>::to_vec)));
                Ok(())
            })?;
        }
        rows.end()?;
        Ok(read)
    }

    #[test]
    fn rows_are_read_wherever_the_chunks_end() {
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
    fn what_breaks_off_or_is_something_else_is_an_error() {
        let bytes = copy();
        for length in 0..bytes.len() {
            assert!(read(&[&bytes[..length]]).is_err(), "cut off after {length}");
        }
        assert!(read(&[b"PGCOPY\n\xff\r\n\x01", &bytes[11..]]).is_err());
        let mut rows = CopyRows::<3>::new();
        assert!(rows.feed(&bytes, &mut |_| Ok(())).is_err());
    }
}
