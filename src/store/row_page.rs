//! Pages of rows with large columns.
//!
//! A page ends early by its bytes, in the statement, so that rows which former releases stored without a limit cannot fill
//! the memory of the server. A statement bounds its candidates in two steps, each by the sum over the rows before:
//! [`PAGE_STORED_BYTES`](limits::PAGE_STORED_BYTES) bounds what Postgres prints, by the size of the columns as stored
//! (`|| '{}'` decompresses a column), and [`PAGE_TEXT_BYTES`](limits::PAGE_TEXT_BYTES) what it sends, by the printed size.
//! The sums leave out the row itself, so a page has at least one row.

#[cfg(doc)]
use super::limits;

/// Rows in the order of a list, up to a number of rows and of bytes.
#[derive(Debug, Clone)]
pub struct RowPage<T> {
    /// The rows, in order.
    pub rows: Vec<T>,
    /// Whether the page has fewer rows than it may have because of their bytes: more rows follow.
    pub is_cut: bool,
}

impl<T> RowPage<T> {
    /// A page of records, each with whether the statement found another row after it.
    pub(super) fn new<R>(records: Vec<R>, has_next: impl FnOnce(&R) -> Option<bool>, read: impl FnMut(R) -> T) -> Self {
        let is_cut = records.last().and_then(has_next) == Some(true);
        Self { rows: records.into_iter().map(read).collect(), is_cut }
    }
}
