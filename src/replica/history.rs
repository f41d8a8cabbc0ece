//! The recent history of the change log as the follower has applied it: the marks of the newest positions of each bucket.
//!
//! The follower is the only writer. Reading takes no lock: a reader loads a mark and then checks that its position is
//! still in the window. The follower moves the start of the window before it reuses the slot of a position.

use super::BUCKETS;
use crate::domain::{BucketPosition, LogMark};
use crate::replica::limits;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

/// The applied position of each bucket and the marks up to it. The buckets of users follow those of organizations.
pub(super) struct AppliedHistory {
    windows: Box<[HistoryWindow]>,
    /// [`limits::MARKS`] slots for each bucket. The slot of a position is its remainder.
    marks: Box<[AtomicU32]>,
}

/// The positions of a bucket whose marks are known. All of them are of one history.
struct HistoryWindow {
    first: AtomicI64,
    /// The follower's position: a published bucket is at least as new.
    last: AtomicI64,
}

impl AppliedHistory {
    /// Every bucket is at position 0.
    pub(super) fn new() -> Self {
        let window = |_| HistoryWindow { first: AtomicI64::new(0), last: AtomicI64::new(0) };
        Self {
            windows: (0..BUCKETS).map(window).collect(),
            marks: (0..BUCKETS * limits::MARKS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    fn window(&self, bucket: i16) -> &HistoryWindow {
        &self.windows[usize::from(bucket.unsigned_abs()) % BUCKETS]
    }

    fn slot(&self, bucket: i16, position: i64) -> &AtomicU32 {
        let slot = usize::try_from(position).unwrap_or_default() % limits::MARKS;
        &self.marks[usize::from(bucket.unsigned_abs()) % BUCKETS * limits::MARKS + slot]
    }

    /// The applied position of a bucket.
    pub(super) fn position(&self, bucket: i16) -> i64 {
        self.window(bucket).last.load(Ordering::Acquire)
    }

    /// The mark at a position; `None` if the position is not in the window.
    pub(super) fn mark(&self, bucket: i16, position: i64) -> Option<LogMark> {
        let window = self.window(bucket);
        if position < window.first.load(Ordering::Acquire) || position > window.last.load(Ordering::Acquire) {
            return None;
        }
        let mark = self.slot(bucket, position).load(Ordering::Acquire);
        // If the slot was reused, its mark was stored after the start of the window had moved beyond the position.
        (position >= window.first.load(Ordering::Acquire)).then_some(LogMark::from_bits(mark))
    }

    /// Whether the position is applied, and has this mark in the applied history.
    pub(super) fn contains(&self, at: BucketPosition) -> bool {
        self.mark(at.bucket, at.position) == Some(at.mark)
    }

    /// Whether a log whose bucket ends with `head` has the row `at`, as far as memory knows: the head is in the applied
    /// history, and so is the row, before it.
    pub(super) fn confirms(&self, head: BucketPosition, at: BucketPosition) -> bool {
        at == head || (at.position < head.position && self.contains(head) && self.contains(at))
    }

    /// Starts the window of a bucket again with one position.
    pub(super) fn restart(&self, at: BucketPosition) {
        let window = self.window(at.bucket);
        // Closes the window until the slot and the end are stored.
        window.first.store(i64::MAX, Ordering::Release);
        self.slot(at.bucket, at.position).store(at.mark.bits(), Ordering::Release);
        window.last.store(at.position, Ordering::Release);
        window.first.store(at.position, Ordering::Release);
    }

    /// Adds positions that were applied, in order and without gaps. Skips those that are known.
    pub(super) fn extend(&self, positions: impl Iterator<Item = BucketPosition>) {
        for at in positions {
            let window = self.window(at.bucket);
            let last = window.last.load(Ordering::Acquire);
            if at.position <= last {
                continue;
            }
            if at.position > last + 1 {
                self.restart(at);
                continue;
            }
            let kept = i64::try_from(limits::MARKS).unwrap_or(i64::MAX);
            window.first.fetch_max(at.position - kept + 1, Ordering::AcqRel);
            self.slot(at.bucket, at.position).store(at.mark.bits(), Ordering::Release);
            window.last.store(at.position, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicBool;

    const KEPT: i64 = 4_096;

    /// The row of a position in one of two histories.
    fn at(bucket: i16, position: i64, history: i64) -> BucketPosition {
        let mark = u32::try_from((position * 2 + history) & 0xffff_ffff).unwrap();
        BucketPosition { bucket, position, mark: LogMark::from_bits(mark) }
    }

    fn apply(history: &AppliedHistory, bucket: i16, positions: std::ops::RangeInclusive<i64>) {
        history.extend(positions.map(|position| at(bucket, position, 0)));
    }

    #[test]
    fn an_empty_bucket_knows_only_its_start() {
        let history = AppliedHistory::new();
        assert!(history.contains(BucketPosition::start(0)) && history.contains(BucketPosition::start(287)));
        assert_eq!((history.mark(3, 1), history.mark(3, -1), history.mark(3, i64::MAX)), (None, None, None));
        assert!(!history.contains(BucketPosition { mark: LogMark::from_bits(1), ..BucketPosition::start(0) }));
    }

    #[test]
    fn a_head_outside_the_applied_history_confirms_only_itself() {
        let history = AppliedHistory::new();
        apply(&history, 7, 1..=10);
        assert!(history.confirms(at(7, 10, 0), at(7, 4, 0)));
        assert!(!history.confirms(at(7, 10, 0), at(7, 4, 1)), "another history");
        assert!(!history.confirms(at(7, 10, 1), at(7, 4, 0)), "the primary has another history");
        assert!(!history.confirms(at(7, 11, 0), at(7, 4, 0)), "not applied yet");
        assert!(history.confirms(at(7, 11, 1), at(7, 11, 1)));
        assert!(!history.confirms(at(7, 4, 0), at(7, 10, 0)), "beyond the head");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_window_holds_the_newest_positions_since_the_last_gap(
            start in 0..10_000_i64,
            steps in prop::collection::vec((1..4_i64, 0..3_000_i64), 1..12),
        ) {
            let history = AppliedHistory::new();
            history.restart(at(5, start, 0));
            let (mut first, mut last) = (start, start);
            for (step, rows) in steps {
                if step > 1 {
                    first = last + step;
                }
                // Without a gap, a row is applied twice, as after the load of a bucket.
                let from = if step > 1 { first } else { last };
                last = last + step + rows;
                apply(&history, 5, from..=last);
                let edges = [first, last, last - KEPT, i64::midpoint(first, last)];
                for position in edges.into_iter().flat_map(|edge| edge - 3..=edge + 3).filter(|position| *position >= 0) {
                    let is_known = position >= first && position > last - KEPT && position <= last;
                    prop_assert_eq!(history.mark(5, position), is_known.then_some(at(5, position, 0).mark));
                }
            }
            prop_assert_eq!((history.position(5), history.position(6)), (last, 0));
        }

        #[test]
        fn a_wrong_mark_is_never_contained(position in 0..9_000_i64, wrong in any::<u32>()) {
            let history = AppliedHistory::new();
            apply(&history, 0, 1..=8_000);
            let mark = LogMark::from_bits(wrong);
            let guess = BucketPosition { bucket: 0, position, mark };
            prop_assert_eq!(history.contains(guess), position > 8_000 - KEPT && position <= 8_000
                && mark == at(0, position, 0).mark);
        }
    }

    #[test]
    fn readers_beside_the_writer_see_only_marks_of_their_position() {
        let history = AppliedHistory::new();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut found = 0_u64;
                    while !is_over.load(Ordering::Relaxed) || found == 0 {
                        let last = history.position(9);
                        for position in [last, (last - KEPT + 1).max(0), (last - KEPT + 2).max(0)] {
                            if let Some(mark) = history.mark(9, position) {
                                assert_eq!(mark, at(9, position, 0).mark);
                                found += 1;
                            }
                        }
                    }
                });
            }
            apply(&history, 9, 1..=200_000);
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
