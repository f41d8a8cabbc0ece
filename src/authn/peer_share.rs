//! The share of one peer address in the verification of credentials.
//!
//! A signature takes 20 to 60 µs of a core, several times the cost of a check, and a peer can send tokens with invalid
//! signatures as fast as its connection allows. So each address has few verifications at once, and a budget of refused
//! tokens. When the budget is spent, tokens of this address that are not in the cache are refused without a look at them,
//! until the budget has refilled. Callers whose tokens are in the cache, callers with API keys and other addresses do not
//! notice.

use super::credential_error::CredentialError;
use super::limits;
use crate::clock;
use crate::leaky_bucket::LeakyBucket;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What the calls of one peer address share in authentication. All connections of the address have the same one.
#[derive(Debug)]
pub struct PeerShare {
    name: String,
    /// `None` for an address without a limit, such as that of a trusted proxy.
    limits: Option<PeerLimits>,
}

#[derive(Debug)]
struct PeerLimits {
    verifications: VerificationPlaces,
    refusals: Arc<LeakyBucket>,
}

/// The budget of refused tokens of a peer address; none for an address without limits.
#[derive(Debug, Clone)]
pub(super) struct RefusalBudget(Option<Arc<LeakyBucket>>);

impl RefusalBudget {
    /// Counts a token that was refused with this error, if it was refused for what it is.
    pub(super) fn charge(&self, error: CredentialError) {
        if let Some(refusals) = self.0.as_ref().filter(|_| error.is_charged()) {
            refusals.charge(clock::uptime());
        }
    }
}

impl PeerShare {
    /// Creates the share of an address with limits. The name stands in log lines.
    #[must_use]
    pub fn limited(name: String) -> Self {
        let verifications = VerificationPlaces::new(limits::PEER_VERIFICATIONS, limits::PEER_WAITING);
        let refusals = Arc::new(LeakyBucket::new(limits::REFUSAL_REFILL, limits::REFUSAL_BURST));
        Self { name, limits: Some(PeerLimits { verifications, refusals }) }
    }

    /// Creates the share of an address that stands for many peers, such as that of a trusted proxy. Only the limits of the
    /// server apply to it.
    #[must_use]
    pub fn unlimited(name: String) -> Self {
        Self { name, limits: None }
    }

    /// Returns whether the budget of refused tokens is full, at this uptime. Then a new share is equal to this one.
    #[must_use]
    pub fn is_unused(&self, now: Duration) -> bool {
        self.limits.as_ref().is_none_or(|limits| limits.refusals.is_full(now))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Fails if the address has spent its budget of refused tokens.
    pub(super) fn require_budget(&self, now: Duration) -> Result<(), CredentialError> {
        let spent = self.limits.as_ref().is_some_and(|limits| limits.refusals.time_to_charge(now) > Duration::ZERO);
        if spent { Err(CredentialError::TooManyRefusals) } else { Ok(()) }
    }

    /// Counts a token that was refused.
    #[cfg(test)]
    pub(crate) fn charge(&self, now: Duration) {
        if let Some(limits) = &self.limits {
            limits.refusals.charge(now);
        }
    }

    /// Returns the budget of refused tokens.
    pub(super) fn refusals(&self) -> RefusalBudget {
        RefusalBudget(self.limits.as_ref().map(|limits| limits.refusals.clone()))
    }

    /// Waits for a place among the verifications of this address, if it has limits.
    pub(super) async fn enter(&self) -> Result<Option<VerificationPlace>, CredentialError> {
        match &self.limits {
            Some(limits) => limits.verifications.enter().await.map(Some),
            None => Ok(None),
        }
    }
}

/// Places for verifications at once, with a bounded line of calls that wait for one in turn.
#[derive(Debug, Clone)]
pub(super) struct VerificationPlaces {
    places: Arc<Semaphore>,
    /// One permit for each call that verifies or waits.
    line: Arc<Semaphore>,
}

/// A place among the verifications. It is returned when it is dropped.
pub(super) struct VerificationPlace {
    _place: OwnedSemaphorePermit,
    _line: OwnedSemaphorePermit,
}

impl VerificationPlaces {
    pub(super) fn new(at_once: usize, waiting: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(at_once)), line: Arc::new(Semaphore::new(at_once + waiting)) }
    }

    /// Waits for a place. Fails at once if the line is full.
    pub(super) async fn enter(&self) -> Result<VerificationPlace, CredentialError> {
        let full = |_| CredentialError::VerificationsBusy;
        let line = self.line.clone().try_acquire_owned().map_err(full)?;
        let place = self.places.clone().acquire_owned().await.map_err(|_| CredentialError::VerificationsBusy)?;
        Ok(VerificationPlace { _place: place, _line: line })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const START: Duration = Duration::from_hours(1);

    #[test]
    fn a_spent_budget_refuses_until_it_refills() {
        let share = PeerShare::limited("192.0.2.7".to_owned());
        assert!(share.is_unused(START));
        for _ in 0..limits::REFUSAL_BURST {
            assert!(share.require_budget(START).is_ok());
            share.charge(START);
        }
        assert!(share.require_budget(START).is_err() && !share.is_unused(START));
        assert!(share.require_budget(START + limits::REFUSAL_REFILL).is_ok());
    }

    #[test]
    fn an_address_without_limits_is_never_exhausted() {
        let share = PeerShare::unlimited("192.0.2.7".to_owned());
        (0..100_000).for_each(|_| share.refusals().charge(CredentialError::MalformedToken));
        assert!(share.require_budget(START).is_ok() && share.is_unused(START));
    }

    #[tokio::test]
    async fn calls_wait_in_turn_and_a_full_line_refuses_at_once() {
        let places = VerificationPlaces::new(2, 3);
        let held = [places.enter().await, places.enter().await];
        assert!(held.iter().all(Result::is_ok));
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(places.enter())).collect();
        for call in &mut waiting {
            assert!(call.now_or_never().is_none());
        }
        assert!(places.enter().now_or_never().is_some_and(|place| place.is_err()));
        // The first in the line goes first.
        drop(held);
        let mut waiting = waiting.into_iter();
        let first = waiting.next().unwrap().await;
        // A call that gives up leaves the line.
        drop(waiting);
        let second = places.enter().await;
        assert!(first.is_ok() && second.is_ok());
        drop((first, second));
        assert_eq!((places.places.available_permits(), places.line.available_permits()), (2, 5));
    }
}
