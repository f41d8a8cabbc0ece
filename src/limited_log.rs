//! Log lines at a limited rate, for events that a peer causes as often as it likes.
//!
//! The first event of a kind is logged at once. After that, at most one line in [`INTERVAL`] is logged for each kind, and
//! it carries the number of events that were not logged since the line before. So a flood costs no disk, and an operator
//! still sees that it happens and how large it is.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The shortest time between two lines of one kind.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// The length of a text of a peer in a log line, in bytes. Key ids and names of issuers are shorter.
pub const EXCERPT_BYTES: usize = 64;

/// Decides which events are logged. `K` is the kind of event; there must be few kinds, because each is kept.
#[derive(Debug)]
pub struct LimitedLog<K>(Mutex<BTreeMap<K, LoggedKind>>);

#[derive(Debug)]
struct LoggedKind {
    /// When the newest line was logged, as an uptime.
    logged_at: Duration,
    /// The number of events since that line.
    suppressed: u64,
}

impl<K> Default for LimitedLog<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord> LimitedLog<K> {
    /// Counts an event at the time `now`, an [uptime](crate::clock::uptime). Returns the number of events of this kind that
    /// were not logged since the line before, if this one is to be logged.
    pub fn admit(&self, kind: K, now: Duration) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(logged) = kinds.get_mut(&kind) else {
            kinds.insert(kind, LoggedKind { logged_at: now, suppressed: 0 });
            return Some(0);
        };
        // Two threads may read the clock in one order and get here in the other.
        if now.saturating_sub(logged.logged_at) < INTERVAL {
            logged.suppressed += 1;
            return None;
        }
        logged.logged_at = now;
        Some(std::mem::take(&mut logged.suppressed))
    }
}

/// Returns a text of a peer as it may stand in a log line: printable ASCII, with everything else escaped, and cut after
/// [`EXCERPT_BYTES`].
#[must_use]
pub fn excerpt(text: &str) -> String {
    let mut escaped = text.escape_default();
    let mut excerpt: String = escaped.by_ref().take(EXCERPT_BYTES).collect();
    if escaped.next().is_some() {
        excerpt.push_str("...");
    }
    excerpt
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_hours(1);

    #[test]
    fn each_kind_has_one_line_at_once_and_then_one_a_second_with_a_count() {
        let log = LimitedLog::default();
        assert_eq!(log.admit("a", START), Some(0));
        for millis in [0, 1, 500, 999] {
            assert_eq!(log.admit("a", START + Duration::from_millis(millis)), None);
        }
        // Another kind has its own line.
        assert_eq!(log.admit("b", START), Some(0));
        assert_eq!(log.admit("a", START + INTERVAL), Some(4));
        assert_eq!(log.admit("a", START + INTERVAL), None);
        assert_eq!(log.admit("a", START + 10 * INTERVAL), Some(1));
        assert_eq!(log.admit("a", START + 20 * INTERVAL), Some(0));
    }

    #[test]
    fn an_event_with_an_earlier_time_is_counted() {
        let log = LimitedLog::default();
        assert_eq!(log.admit((), START), Some(0));
        assert_eq!(log.admit((), Duration::ZERO), None);
        assert_eq!(log.admit((), START + INTERVAL), Some(1));
    }

    #[test]
    fn every_event_of_concurrent_threads_is_logged_or_counted() {
        let log = LimitedLog::default();
        let (lines, counted) = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let answers = (0..1000).filter_map(|step| log.admit((), START + step * INTERVAL / 100));
                        answers.fold((0, 0), |(lines, counted), suppressed| (lines + 1, counted + suppressed))
                    })
                })
                .collect();
            let results = threads.into_iter().map(|thread| thread.join().unwrap_or_default());
            results.fold((0, 0), |(lines, counted), result| (lines + result.0, counted + result.1))
        });
        // Ten seconds passed.
        assert_eq!(lines, 10);
        let rest = log.admit((), START + 100 * INTERVAL).unwrap_or_default();
        assert_eq!(lines + counted + rest, 4000);
    }

    #[test]
    fn an_excerpt_is_short_and_holds_no_control_characters() {
        assert_eq!(excerpt("key-1"), "key-1");
        assert_eq!(excerpt("a\n2026 INFO \u{1b}[31m\u{e9}\""), r#"a\n2026 INFO \u{1b}[31m\u{e9}\""#);
        assert_eq!(excerpt(&"x".repeat(64)), "x".repeat(64));
        for text in ["x".repeat(65), "\n".repeat(8000), "\u{10ffff}".repeat(2000)] {
            let excerpt = excerpt(&text);
            assert!(excerpt.len() == EXCERPT_BYTES + 3 && excerpt.ends_with("..."), "{excerpt}");
            assert!(excerpt.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{excerpt}");
        }
    }
}
