//! When the keys of an identity provider are fetched.
//!
//! One task for each provider fetches, one fetch at a time. Calls only ask for a fetch, and may wait for it for a short
//! time: a call that is cancelled must not stop a fetch that others need, and the calls of a peer must not become
//! fetches.

use super::Keys;
use super::fetch::{FetchError, FetchedKeys, fetch};
use super::settings::ProviderSettings;
use crate::authn::credential_error::CredentialError;
use crate::authn::limits;
use crate::clock::Clock;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore, watch};

/// The time of keys that were never fetched.
const NEVER: i64 = i64::MIN;

/// The schedule of the fetches from one provider. All times are in seconds since 1970.
pub(super) struct Provider {
    pub(super) settings: ProviderSettings,
    /// When the last successful fetch began.
    fetched_at: AtomicI64,
    failed_fetches: AtomicU64,
    schedule: Mutex<Schedule>,
    /// Wakes the task that fetches.
    requested: Notify,
    /// The number of fetches that ended.
    ended: watch::Sender<u64>,
    waiters: Semaphore,
}

#[derive(Clone)]
struct Schedule {
    is_fetching: bool,
    /// Whether a call asked for a fetch that has not begun.
    is_requested: bool,
    /// When the last fetch began.
    begun_at: i64,
    /// The time from then to the next fetch, in seconds.
    pause: u64,
    /// The failed fetches since the last successful one.
    failures: u32,
    /// The cause of the last failure, as it stands in the log.
    cause: Option<String>,
    /// When an unknown key id caused a fetch.
    unknown_at: i64,
}

/// The fetch that runs. It ends when this is dropped, in whatever way.
struct Fetch<'a>(&'a Provider);

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        self.0.schedule().is_fetching = false;
        self.0.ended.send_modify(|number| *number += 1);
    }
}

impl Provider {
    pub(super) fn new(settings: ProviderSettings) -> Self {
        let schedule = Schedule {
            is_fetching: false,
            is_requested: false,
            begun_at: 0,
            pause: 0,
            failures: 0,
            cause: None,
            unknown_at: NEVER,
        };
        Self {
            settings,
            fetched_at: NEVER.into(),
            failed_fetches: AtomicU64::new(0),
            schedule: Mutex::new(schedule),
            requested: Notify::new(),
            ended: watch::Sender::new(0),
            waiters: Semaphore::new(limits::KEY_WAITERS),
        }
    }

    /// Continues the schedule of another one, whose keys were taken over.
    pub(super) fn take_over(&self, former: &Self) {
        self.fetched_at.store(former.fetched_at.load(Ordering::Acquire), Ordering::Release);
        self.failed_fetches.store(former.failed_fetches(), Ordering::Relaxed);
        let former = former.schedule().clone();
        // The fetch that runs ends with the former schedule: it is done again.
        let is_requested = former.is_requested || former.is_fetching;
        *self.schedule() = Schedule { is_fetching: false, is_requested, ..former };
    }

    /// The age of the keys in seconds; `None` before the first successful fetch. A clock that was set back makes keys as
    /// old as they are young.
    pub(super) fn age(&self, now: i64) -> Option<u64> {
        let at = self.fetched_at.load(Ordering::Acquire);
        (at != NEVER).then(|| now.abs_diff(at))
    }

    /// Whether the keys may be used.
    pub(super) fn is_usable(&self, now: i64) -> bool {
        self.age(now).is_some_and(|age| age < limits::KEYS_LAST_SECONDS)
    }

    pub(super) fn failed_fetches(&self) -> u64 {
        self.failed_fetches.load(Ordering::Relaxed)
    }

    /// Returns a receiver for [`Self::wait`]. Call it before a look at the keys.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    /// Whether a call should wait for a fetch, because it needs a key that is not there: any key, or the one that its
    /// token names. Asks for a fetch if one is due.
    ///
    /// While the provider does not answer, no call waits, and no call causes a fetch.
    pub(super) fn expects_fetch(&self, has_keys: bool, now: i64) -> bool {
        let mut schedule = self.schedule();
        if schedule.failures > 0 {
            return false;
        }
        if !has_keys || schedule.is_fetching || schedule.is_requested {
            return true;
        }
        if schedule.unknown_at != NEVER && !has_passed(schedule.unknown_at, limits::UNKNOWN_KEY_SECONDS, now) {
            return false;
        }
        schedule.unknown_at = now;
        schedule.is_requested = true;
        drop(schedule);
        self.requested.notify_one();
        true
    }

    /// Waits until a fetch ends, for at most [`limits::KEY_WAIT`].
    pub(super) async fn wait(&self, mut ended: watch::Receiver<u64>) -> Result<(), CredentialError> {
        let _place = self.waiters.try_acquire().map_err(|_| CredentialError::KeysUnavailable)?;
        let ended = tokio::time::timeout(limits::KEY_WAIT, ended.changed()).await;
        ended.map(drop).map_err(|_| CredentialError::KeysUnavailable)
    }

    /// Fetches the keys whenever it is due. Never returns.
    pub(super) async fn run(&self, keys: &Keys, clock: &Clock) {
        loop {
            let begun_at = clock.unix_seconds();
            let Some(running) = self.begin(begun_at) else {
                tokio::select! {
                    () = self.requested.notified() => {}
                    () = tokio::time::sleep(limits::KEY_TICK) => {}
                }
                continue;
            };
            // A panic must not end the fetches of the issuer.
            let outcome = AssertUnwindSafe(fetch(&keys.settings, &self.settings)).catch_unwind().await;
            match outcome.unwrap_or(Err(FetchError::Panic)) {
                Ok(fetched) => self.succeed(keys, fetched, begun_at),
                Err(error) => self.fail(keys, &error),
            }
            drop(running);
        }
    }

    fn begin(&self, now: i64) -> Option<Fetch<'_>> {
        let mut schedule = self.schedule();
        let is_due = schedule.is_requested || has_passed(schedule.begun_at, schedule.pause, now);
        if schedule.is_fetching || !is_due {
            return None;
        }
        schedule.is_fetching = true;
        schedule.is_requested = false;
        schedule.begun_at = now;
        // A fetch that is cancelled is followed by another one at once.
        schedule.pause = 0;
        Some(Fetch(self))
    }

    fn succeed(&self, keys: &Keys, FetchedKeys { set, max_age }: FetchedKeys, begun_at: i64) {
        keys.replace(set, "fetched other keys from the identity provider");
        self.fetched_at.store(begun_at, Ordering::Release);
        let mut schedule = self.schedule();
        if std::mem::take(&mut schedule.failures) > 0 {
            tracing::info!(issuer = keys.settings.issuer, "the identity provider answers again");
        }
        schedule.cause = None;
        let (least, most) = (*limits::KEY_REFRESH_SECONDS.start(), *limits::KEY_REFRESH_SECONDS.end());
        schedule.pause = max_age.unwrap_or(limits::KEY_REFRESH_DEFAULT_SECONDS).clamp(least, most);
    }

    fn fail(&self, keys: &Keys, error: &FetchError) {
        self.failed_fetches.fetch_add(1, Ordering::Relaxed);
        let cause: String = error.to_string().chars().take(limits::KEY_CAUSE_CHARS).collect();
        let mut schedule = self.schedule();
        let (first, most) = (*limits::KEY_RETRY_SECONDS.start(), *limits::KEY_RETRY_SECONDS.end());
        schedule.pause = first.saturating_mul(1 << schedule.failures.min(16)).min(most);
        schedule.failures = schedule.failures.saturating_add(1);
        if schedule.cause.as_ref() != Some(&cause) {
            let issuer = &keys.settings.issuer;
            tracing::warn!(
                issuer,
                cause,
                "cannot fetch the keys of the issuer, trying again: keys that came before stay in use"
            );
            schedule.cause = Some(cause);
        }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this number of seconds has passed since a time. After the clock was set back behind that time, nothing is known
/// about it, and the wait ends.
fn has_passed(since: i64, seconds: u64, now: i64) -> bool {
    now < since || now.abs_diff(since) >= seconds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::keys::KeySettings;
    use crate::authn::keys::jwk_set::JwkSet;
    use crate::authn::settings::IssuerSettings;

    const NOW: i64 = 1_800_000_000;
    const SET: &[u8] = include_bytes!("../../../tests/keys/es256.jwks.json");

    fn keys() -> Keys {
        let settings = IssuerSettings { issuer: "https://id.example".to_owned(), ..IssuerSettings::default() };
        let settings = KeySettings::new(&settings, false).ok().unwrap();
        Keys::new(settings, &Clock::system()).ok().unwrap()
    }

    fn fetched(max_age: Option<u64>) -> FetchedKeys {
        FetchedKeys { set: JwkSet::parse(SET, false).unwrap(), max_age }
    }

    /// Returns the seconds after which the next fetch begins.
    fn pause(provider: &Provider, from: i64) -> i64 {
        (0..10_000).find(|seconds| provider.begin(from + seconds).is_some()).unwrap()
    }

    #[test]
    fn failed_fetches_are_repeated_at_growing_distances() {
        let keys = keys();
        let provider = keys.provider().unwrap();
        let mut now = NOW;
        assert!(provider.begin(now).is_some());
        for expected in [1, 2, 4, 8, 16, 30, 30, 30] {
            provider.fail(&keys, &FetchError::Timeout);
            assert!(!provider.expects_fetch(false, now) && !provider.expects_fetch(true, now));
            assert_eq!(pause(provider, now), expected);
            now += expected;
        }
        provider.schedule().failures = u32::MAX;
        provider.fail(&keys, &FetchError::Timeout);
        assert_eq!(pause(provider, now), 30);
        // A success begins from the start.
        provider.succeed(&keys, fetched(None), now);
        provider.fail(&keys, &FetchError::Timeout);
        assert_eq!(provider.schedule().pause, 1);
        assert_eq!(provider.failed_fetches(), 10);
    }

    #[test]
    fn the_provider_chooses_the_next_fetch_within_bounds() {
        let keys = keys();
        let provider = keys.provider().unwrap();
        for (max_age, expected) in
            [(None, 600), (Some(0), 60), (Some(61), 61), (Some(3600), 3600), (Some(3601), 3600), (Some(u64::MAX), 3600)]
        {
            assert!(provider.begin(NOW).is_some());
            provider.succeed(&keys, fetched(max_age), NOW);
            assert_eq!(pause(provider, NOW), expected, "{max_age:?}");
        }
        assert_eq!(keys.load().unwrap().generation, 0, "the same keys again are no change");
    }

    #[test]
    fn one_fetch_runs_at_a_time_and_one_that_is_cancelled_is_followed_by_another() {
        let keys = keys();
        let provider = keys.provider().unwrap();
        for _ in 0..3 {
            let running = provider.begin(NOW).unwrap();
            assert!(provider.begin(NOW).is_none() && provider.begin(NOW + 1_000_000).is_none());
            let ended = provider.watch();
            drop(running);
            assert!(ended.has_changed().unwrap());
        }
    }

    #[test]
    fn unknown_key_ids_ask_for_one_fetch_a_minute() {
        let keys = keys();
        let provider = keys.provider().unwrap();
        drop(provider.begin(NOW).unwrap());
        provider.succeed(&keys, fetched(None), NOW);
        assert!(provider.expects_fetch(true, NOW));
        // Until the fetch ends, every call may wait for it.
        assert!(provider.expects_fetch(true, NOW));
        let running = provider.begin(NOW).unwrap();
        assert!(provider.expects_fetch(true, NOW));
        provider.succeed(&keys, fetched(None), NOW);
        drop(running);
        for seconds in [0, 1, 59] {
            assert!(!provider.expects_fetch(true, NOW + seconds));
            assert!(provider.begin(NOW + seconds).is_none());
        }
        assert!(provider.expects_fetch(true, NOW + 60));
        assert!(provider.begin(NOW + 60).is_some());
    }

    #[test]
    fn keys_last_for_a_day() {
        let keys = keys();
        let provider = keys.provider().unwrap();
        assert!(!provider.is_usable(NOW) && keys.usable(NOW).is_none());
        provider.succeed(&keys, fetched(None), NOW);
        for (seconds, expected) in [(0, true), (86_399, true), (86_400, false), (-86_399, true), (-86_400, false)] {
            assert_eq!(keys.usable(NOW + seconds).is_some(), expected, "{seconds}");
            assert_eq!(keys.current_if_fresh(NOW + seconds).is_some(), expected, "{seconds}");
        }
    }
}
