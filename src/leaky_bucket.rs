//! Budgets that refill with time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A budget that refills with time. It is kept as the moment at which it will be full: each charge moves that moment by the
/// time in which one charge refills. Times are uptimes of the machine.
#[derive(Debug)]
pub struct LeakyBucket {
    /// The time in which one charge refills.
    refill: Duration,
    /// The number of charges that a full budget allows.
    burst: u32,
    full_at: Mutex<Duration>,
}

impl LeakyBucket {
    /// Creates a full budget.
    #[must_use]
    pub const fn new(refill: Duration, burst: u32) -> Self {
        Self { refill, burst, full_at: Mutex::new(Duration::ZERO) }
    }

    /// Takes one charge. The budget may become negative.
    pub fn charge(&self, now: Duration) {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        *full_at = (*full_at).max(now) + self.refill;
    }

    /// Returns whether the budget is full.
    #[must_use]
    pub fn is_full(&self, now: Duration) -> bool {
        self.time_to_full(now) == Duration::ZERO
    }

    /// Returns the time until the budget allows one more charge; zero if it does.
    #[must_use]
    pub fn time_to_charge(&self, now: Duration) -> Duration {
        (self.time_to_full(now) + self.refill).saturating_sub(self.refill * self.burst)
    }

    fn time_to_full(&self, now: Duration) -> Duration {
        self.full_at.lock().unwrap_or_else(PoisonError::into_inner).saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_hours(1);
    const REFILL: Duration = Duration::from_millis(10);
    const BURST: u32 = 500;

    #[test]
    fn a_spent_budget_refills_at_its_rate() {
        let budget = LeakyBucket::new(REFILL, BURST);
        assert!(budget.is_full(START));
        for _ in 0..BURST {
            assert_eq!(budget.time_to_charge(START), Duration::ZERO);
            budget.charge(START);
        }
        assert!(!budget.is_full(START));
        assert_eq!(budget.time_to_charge(START), REFILL);
        assert_eq!(budget.time_to_charge(START + REFILL / 2), REFILL / 2);
        let later = START + REFILL;
        assert_eq!(budget.time_to_charge(later), Duration::ZERO);
        // Charges beyond the budget count too.
        budget.charge(later);
        budget.charge(later);
        assert_eq!(budget.time_to_charge(later), REFILL * 2);
        let full = later + (BURST + 1) * REFILL;
        assert!(budget.is_full(full) && !budget.is_full(later + BURST * REFILL));
        // A long pause gives no more than the full budget.
        let after = full + Duration::from_hours(24);
        (0..BURST).for_each(|_| budget.charge(after));
        assert_eq!(budget.time_to_charge(after), REFILL);
    }
}
