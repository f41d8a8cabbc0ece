//! Compares the result of a poll with the applied position of one bucket. Pure.

use crate::store::log::tail::{BucketDelta, LogPosition, LogRow};

/// The relation between a bucket's log and its applied position.
pub(super) enum LogDiff {
    /// The log continues from the applied position.
    Continuation(LogContinuation),
    /// The log no longer has the rows that follow the applied position.
    Gap { bucket: i16, head: LogPosition },
    /// The log is not the one that was applied.
    Diverged,
}

/// The rows after the applied position.
pub(super) struct LogContinuation {
    pub(super) bucket: i16,
    /// Whole transactions; empty if the row limit cut the first one short.
    pub(super) rows: Vec<LogRow>,
    /// Whether the rows reach the head of the log.
    pub(super) reaches_head: bool,
}

/// Compares a bucket's log with the position up to which it is applied.
pub(super) fn compare(applied: LogPosition, delta: BucketDelta) -> LogDiff {
    let BucketDelta { bucket, head, rows } = delta;
    if head.position <= applied.position {
        // A poll returns only buckets whose head differs: this head is older, or a different row at the same position.
        return LogDiff::Diverged;
    }
    let mut rows = rows.into_iter().peekable();
    if applied.position > 0 {
        match rows.next_if(|row| row.at.position == applied.position) {
            Some(row) if row.at == applied => {}
            Some(_) => return LogDiff::Diverged,
            None => return LogDiff::Gap { bucket, head },
        }
    }
    let mut next: Vec<LogRow> = Vec::new();
    for (row, expected) in rows.zip(applied.position + 1..) {
        if row.at.position != expected {
            return LogDiff::Gap { bucket, head };
        }
        next.push(row);
    }
    // The head is further on, but no row follows the applied position.
    let Some(last) = next.last().map(|row| row.at.position) else { return LogDiff::Gap { bucket, head } };
    let whole = next.iter().rposition(|row| row.commit_position <= last).map_or(0, |index| index + 1);
    next.truncate(whole);
    let reaches_head = next.last().is_some_and(|row| row.at == head);
    LogDiff::Continuation(LogContinuation { bucket, rows: next, reaches_head })
}
