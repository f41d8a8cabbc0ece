//! This process's acknowledged writes: no answer of this process precedes them.

use super::BUCKETS;
use super::consistency_token::ConsistencyToken;
use super::history::AppliedHistory;
use crate::domain::LogMark;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The last acknowledged write of this process to each bucket. The buckets of users follow those of organizations.
pub(super) struct WrittenPositions {
    positions: Box<[AtomicI64]>,
    /// The last write to each bucket that was not found in the applied log yet.
    unconfirmed: Mutex<BTreeMap<i16, (i64, LogMark)>>,
}

impl WrittenPositions {
    pub(super) fn new() -> Self {
        let positions = (0..BUCKETS).map(|_| AtomicI64::new(0)).collect();
        Self { positions, unconfirmed: Mutex::default() }
    }

    fn unconfirmed(&self) -> MutexGuard<'_, BTreeMap<i16, (i64, LogMark)>> {
        self.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, bucket: i16) -> &AtomicI64 {
        &self.positions[usize::from(bucket.unsigned_abs()) % BUCKETS]
    }

    /// Records an acknowledged write by the token that covers it. The marks of a token without marks are unknown.
    pub(super) fn record(&self, token: &ConsistencyToken) {
        let mut unconfirmed = self.unconfirmed();
        for at in token.positions().filter(|at| usize::from(at.bucket.unsigned_abs()) < BUCKETS) {
            self.slot(at.bucket).fetch_max(at.position, Ordering::AcqRel);
            let last = unconfirmed.get(&at.bucket).map_or(0, |(position, _)| *position);
            if token.has_marks() && at.position > last {
                unconfirmed.insert(at.bucket, (at.position, at.mark));
            }
        }
    }

    /// The position of the last acknowledged write to a bucket; 0 for none.
    pub(super) fn position(&self, bucket: i16) -> i64 {
        self.slot(bucket).load(Ordering::Acquire)
    }

    /// The positions of the last acknowledged writes to all buckets, in order.
    pub(super) fn positions(&self) -> Vec<i64> {
        self.positions.iter().map(|position| position.load(Ordering::Acquire)).collect()
    }

    /// Whether the log has another row at the position of an unconfirmed write: among the rows that are about to be
    /// applied, by bucket and position, or in the applied history. Forgets the writes that it finds.
    pub(super) fn differ(&self, applied: &AppliedHistory, row: impl Fn(i16, i64) -> Option<LogMark>) -> bool {
        let mut differs = false;
        self.unconfirmed().retain(|bucket, (position, mark)| {
            let found = row(*bucket, *position).or_else(|| applied.mark(*bucket, *position));
            differs |= found.is_some_and(|found| found != *mark);
            // A write that is older than the applied history cannot be compared any more.
            found.is_none() && *position > applied.position(*bucket)
        });
        differs
    }

    /// Forgets all writes: their log was lost.
    pub(super) fn clear(&self) {
        let mut unconfirmed = self.unconfirmed();
        unconfirmed.clear();
        for position in &self.positions {
            position.store(0, Ordering::Release);
        }
    }
}
