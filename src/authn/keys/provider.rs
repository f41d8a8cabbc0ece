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
        if schedule.unknown_at != NEVER && now.abs_diff(schedule.unknown_at) < limits::UNKNOWN_KEY_SECONDS {
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
            match fetch(&keys.settings, &self.settings).await {
                Ok(fetched) => self.succeed(keys, fetched, begun_at),
                Err(error) => self.fail(keys, &error),
            }
            drop(running);
        }
    }

    fn begin(&self, now: i64) -> Option<Fetch<'_>> {
        let mut schedule = self.schedule();
        let is_due = schedule.is_requested || now.abs_diff(schedule.begun_at) >= schedule.pause;
        if schedule.is_fetching || !is_due {
            return None;
        }
        schedule.is_fetching = true;
        schedule.is_requested = false;
        schedule.begun_at = now;
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
        let cause = error.to_string();
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
