//! What a look at the log says of one bucket, compared with what is known of it. Pure.

use crate::store::log::tail::{BucketDelta, LogPosition, LogRow};

/// What a bucket that moved has to say.
pub(super) enum LogDiff {
    /// How it went on.
    LogContinuation(LogContinuation),
    /// The log no longer says how it went on from the known position.
    Gap { bucket: i16, head: LogPosition },
    /// It is not the log that was applied.
    LogDiverged,
}

/// What came after the known position.
pub(super) struct LogContinuation {
    pub(super) bucket: i16,
    /// Whole transactions after the known position.
    pub(super) rows: Vec<LogRow>,
    /// Whether they reach the head.
    pub(super) whole: bool,
}

/// Compares what the log says with what is known of it.
pub(super) fn sort(known: LogPosition, moved: BucketDelta) -> LogDiff {
    let BucketDelta { bucket, head, rows } = moved;
    if head.position <= known.position {
        // It has not moved on, and yet it is another one.
        return LogDiff::LogDiverged;
    }
    let mut rows = rows.into_iter().peekable();
    if known.position > 0 {
        match rows.next_if(|row| row.at.position == known.position) {
            Some(row) if row.at == known => {}
            Some(_) => return LogDiff::LogDiverged,
            None => return LogDiff::Gap { bucket, head },
        }
    }
    let mut next: Vec<LogRow> = Vec::new();
    for (row, expected) in rows.zip(known.position + 1..) {
        if row.at.position != expected {
            return LogDiff::Gap { bucket, head };
        }
        next.push(row);
    }
    // The head is further on, but nothing leads there.
    let Some(read) = next.last().map(|row| row.at.position) else { return LogDiff::Gap { bucket, head } };
    let whole = next.iter().rposition(|row| row.commit_position <= read).map_or(0, |index| index + 1);
    next.truncate(whole);
    let whole = next.last().is_some_and(|row| row.at == head);
    LogDiff::LogContinuation(LogContinuation { bucket, rows: next, whole })
}
