//! The keys that verify the tokens of one issuer.
//!
//! They come from files, or from the identity provider by URL. [`settings`] chooses the source, [`files`] and [`fetch`]
//! read it, [`jwk_set`] parses a key set, and [`provider`] decides when to fetch. [`KeySet`] is the result: it selects and
//! applies the key of a token.

mod fetch;
mod files;
mod jwk_set;
mod key_set;
mod provider;
mod settings;
mod verification_key;

pub(super) use key_set::KeySet;
pub(super) use settings::KeySettings;

use super::credential_error::CredentialError;
use super::limits;
use super::settings::Algorithm;
use crate::clock::Clock;
use files::{load_jwks, load_pems, load_secret};
use jwk_set::JwkSet;
use provider::Provider;
use settings::KeySource;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The keys of an issuer, kept current.
pub(super) struct Keys {
    pub(super) settings: KeySettings,
    /// `None` until the first keys came from the identity provider.
    current: RwLock<Option<Arc<KeySet>>>,
    refresh: KeyRefresh,
}

/// How the keys change.
enum KeyRefresh {
    Never,
    File(JwksFile),
    Provider(Box<Provider>),
}

struct JwksFile {
    path: PathBuf,
    /// When the file was last read, in seconds since 1970.
    read_at: AtomicI64,
    /// Locked during a reload, so that only one task reloads.
    reload_lock: tokio::sync::Mutex<()>,
}

/// The keys of an issuer that come by URL, at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatistics {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// The time since the last successful fetch began, in seconds; `None` before the first one.
    pub age: Option<u64>,
    /// The number of fetches that failed.
    pub failed_fetches: u64,
}

impl Keys {
    /// Reads the configured keys of an issuer. Keys that come by URL are not fetched before [`Self::refresh`] runs.
    ///
    /// # Errors
    /// All mistakes. Each begins with the name of the setting.
    pub(super) fn new(settings: KeySettings, clock: &Clock) -> Result<Self, Vec<String>> {
        let named = |error: String| vec![format!("{}: {error}", settings.setting())];
        let (keys, refresh) = match &settings.source {
            KeySource::Provider(provider) => {
                if let Some(path) = &provider.ca_file {
                    fetch::certificates(path).map_err(|error| vec![format!("ca_file: {error}")])?;
                }
                (None, KeyRefresh::Provider(Box::new(Provider::new(provider.clone()))))
            }
            KeySource::JwksFile(path) => {
                // In the past, so that the first unknown key id reloads the file without a delay.
                let read_at = clock.unix_seconds().saturating_sub_unsigned(limits::JWKS_RELOAD_SECONDS);
                let file = JwksFile {
                    path: path.clone(),
                    read_at: read_at.into(),
                    reload_lock: tokio::sync::Mutex::default(),
                };
                (Some(load_jwks(path, settings.development_keys).map_err(named)?), KeyRefresh::File(file))
            }
            KeySource::PemFiles(keys) => {
                let keys = load_pems(keys, settings.development_keys)?;
                (Some(JwkSet { keys, skipped: Vec::new() }), KeyRefresh::Never)
            }
            KeySource::SecretFile(path) => {
                let keys = vec![load_secret(path).map_err(named)?];
                (Some(JwkSet { keys, skipped: Vec::new() }), KeyRefresh::Never)
            }
        };
        let current = keys.map(|JwkSet { keys, skipped }| Arc::new(KeySet { keys, skipped, generation: 0 }));
        Ok(Self { settings, current: RwLock::new(current), refresh })
    }

    /// Whether these keys can stay in use in the place of the others, which have the same settings: they come from the
    /// identity provider, or are the same.
    pub(super) fn can_replace(&self, others: &Self) -> bool {
        match (self.load(), others.load()) {
            _ if self.provider().is_some() => true,
            (Some(keys), Some(others)) => keys.is_same(&others),
            _ => false,
        }
    }

    /// Takes over the keys that `former` has fetched by the same settings, with the times of its fetches.
    pub(super) fn take_over(&self, former: &Self) {
        if let (Some(provider), Some(others)) = (self.provider(), former.provider())
            && self.settings == former.settings
        {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = former.load();
            provider.take_over(others);
        }
    }

    /// One sentence for each key of a file that is not used. Each begins with the name of the setting.
    pub(super) fn warnings(&self) -> Vec<String> {
        let keys = self.load();
        let skipped = keys.iter().flat_map(|keys| &keys.skipped);
        skipped.map(|key| format!("{}: {key}", self.settings.setting())).collect()
    }

    /// Returns the current keys, after a reload if their file is older than [`limits::JWKS_MAX_AGE_SECONDS`]; `None` if
    /// the provider did not give any, or not for too long.
    pub(super) async fn current(&self, now: i64) -> Option<Arc<KeySet>> {
        if let KeyRefresh::File(file) = &self.refresh
            && file.is_older(limits::JWKS_MAX_AGE_SECONDS, now)
            // Calls during a reload use the current keys and do not wait.
            && let Ok(_guard) = file.reload_lock.try_lock()
        {
            self.reload(file, now).await;
        }
        self.usable(now)
    }

    /// Returns the current keys without waiting; `None` if there are none, or if their file is due for a reload.
    pub(super) fn current_if_fresh(&self, now: i64) -> Option<Arc<KeySet>> {
        match &self.refresh {
            KeyRefresh::File(file) if file.is_older(limits::JWKS_MAX_AGE_SECONDS, now) => None,
            KeyRefresh::Never | KeyRefresh::File(_) | KeyRefresh::Provider(_) => self.usable(now),
        }
    }

    /// Returns the current keys, after a reload or a fetch if no key matches a token with this `kid` and `alg`.
    ///
    /// # Errors
    /// [`CredentialError::KeysUnavailable`] if the identity provider gave no keys yet, or not for too long, or does not
    /// answer in time.
    pub(super) async fn current_for_token(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        now: i64,
    ) -> Result<Arc<KeySet>, CredentialError> {
        // Before the look at the keys: a fetch that ends in between is noticed.
        let ended = self.provider().map(Provider::watch);
        let keys = self.current(now).await;
        let lacks_key = |keys: &Arc<KeySet>| matches!(keys.find(id, algorithm), Err(CredentialError::UnknownKey));
        if !keys.as_ref().is_none_or(lacks_key) {
            return keys.ok_or(CredentialError::KeysUnavailable);
        }
        match (&self.refresh, ended) {
            (KeyRefresh::File(file), _) => {
                let _guard = file.reload_lock.lock().await;
                // A call that waited for the lock usually finds the file reloaded.
                if file.is_older(limits::JWKS_RELOAD_SECONDS, now) {
                    self.reload(file, now).await;
                }
            }
            (KeyRefresh::Provider(provider), Some(ended)) if provider.expects_fetch(keys.is_some(), now) => {
                provider.wait(ended).await?;
            }
            (KeyRefresh::Never | KeyRefresh::Provider(_), _) => {}
        }
        self.usable(now).ok_or(CredentialError::KeysUnavailable)
    }

    /// Fetches the keys whenever it is due, if they come by URL; then it never returns.
    pub(super) async fn refresh(&self, clock: &Clock) {
        if let Some(provider) = self.provider() {
            provider.run(self, clock).await;
        }
    }

    /// The state of the keys; `None` if they do not come by URL.
    pub(super) fn statistics(&self, now: i64) -> Option<KeyStatistics> {
        let provider = self.provider()?;
        Some(KeyStatistics {
            issuer: self.settings.issuer.clone(),
            age: provider.age(now),
            failed_fetches: provider.failed_fetches(),
        })
    }

    fn provider(&self) -> Option<&Provider> {
        match &self.refresh {
            KeyRefresh::Provider(provider) => Some(provider),
            KeyRefresh::Never | KeyRefresh::File(_) => None,
        }
    }

    fn load(&self) -> Option<Arc<KeySet>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The current keys, if they are not too old.
    fn usable(&self, now: i64) -> Option<Arc<KeySet>> {
        self.load().filter(|_| self.provider().is_none_or(|provider| provider.is_usable(now)))
    }

    /// Takes over a key set, and logs it if it differs from the one before.
    fn replace(&self, set: JwkSet, message: &'static str) {
        let before = self.load();
        if before.as_ref().is_some_and(|before| set.is_same(&before.keys, &before.skipped)) {
            return;
        }
        let JwkSet { keys, skipped } = set;
        let next = Arc::new(KeySet { keys, skipped, generation: before.map_or(0, |before| before.generation + 1) });
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(next.clone());
        let (issuer, count) = (&self.settings.issuer, next.keys.len());
        tracing::info!(issuer, count, kids = next.ids(), "{message}");
        for key in next.skipped.iter().take(limits::SKIPPED_KEYS_LOGGED) {
            let (index, kid, reason) = (key.index, key.id.as_deref(), &key.reason);
            tracing::warn!(issuer, index, kid, %reason, "a key of the issuer is not used");
        }
        if let more @ 1.. = next.skipped.len().saturating_sub(limits::SKIPPED_KEYS_LOGGED) {
            tracing::warn!(issuer, more, "more keys of the issuer are not used");
        }
    }

    /// Reloads the file. If the file is invalid, the old keys stay in use: with no keys, no caller of this issuer could
    /// authenticate.
    async fn reload(&self, file: &JwksFile, now: i64) {
        let (path, development_keys) = (file.path.clone(), self.settings.development_keys);
        // On a blocking thread: a file of the largest size takes tens of milliseconds to parse.
        let read = tokio::task::spawn_blocking(move || load_jwks(&path, development_keys)).await;
        // Set after the read: a request that is cancelled during the read must not delay the next reload.
        file.read_at.store(now, Ordering::Relaxed);
        match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(set) => self.replace(set, "reloaded the changed JWKS file"),
            Err(error) => {
                tracing::warn!(file = %file.path.display(), error, "cannot read the JWKS file: its old keys stay");
            }
        }
    }
}

impl JwksFile {
    /// Returns whether the last read was at least `seconds` ago, or at least `seconds` in the future: a clock that was
    /// set back must not stop the reloads.
    fn is_older(&self, seconds: u64, now: i64) -> bool {
        now.abs_diff(self.read_at.load(Ordering::Relaxed)) >= seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::mint::SigningKey;
    use crate::authn::testing::{AuthFixture, Outcome, claims, headers, peer};
    use crate::domain::Refusal;
    use futures_util::future::join_all;
    use http::HeaderMap;

    fn request(key: &SigningKey) -> Result<HeaderMap, Box<dyn std::error::Error>> {
        let mut claims = claims("ada");
        claims.exp += 86_400;
        Ok(headers(&format!("Bearer {}", key.mint(&claims)?.expose()), &[])?)
    }

    #[tokio::test]
    async fn an_unknown_key_id_reloads_the_file_at_a_limited_rate() -> Outcome {
        let fixture = AuthFixture::new(&[])?;
        let (old, next) = (request(&fixture.key)?, SigningKey::generate());
        fixture.auth.authenticate(&old, &peer()).await?;

        // The first reload needs no delay, the next one needs ten seconds.
        std::fs::write(fixture.jwks_file(), next.public_jwks().to_string())?;
        let request_next = request(&next)?;
        // Concurrent calls: one reloads the file, and the others use the result.
        let peer = &peer();
        for answer in join_all((0..20).map(|_| fixture.auth.authenticate(&request_next, peer))).await {
            answer?;
        }
        let last = SigningKey::generate();
        std::fs::write(fixture.jwks_file(), last.public_jwks().to_string())?;
        fixture.advance(limits::JWKS_RELOAD_SECONDS - 1);
        assert_eq!(fixture.auth.authenticate(&request(&last)?, peer).await.err(), Some(Refusal::CredentialInvalid));
        fixture.advance(1);
        fixture.auth.authenticate(&request(&last)?, peer).await?;

        // The token is in the cache, but its key has been removed.
        assert_eq!(fixture.auth.authenticate(&old, peer).await.err(), Some(Refusal::CredentialInvalid));
        Ok(())
    }

    #[tokio::test]
    async fn a_removed_key_stops_working_without_an_unknown_key_id() -> Outcome {
        let fixture = AuthFixture::new(&[])?;
        let request = request(&fixture.key)?;
        fixture.auth.authenticate(&request, &peer()).await?;
        std::fs::write(fixture.jwks_file(), SigningKey::generate().public_jwks().to_string())?;
        fixture.auth.authenticate(&request, &peer()).await?;
        fixture.advance(limits::JWKS_MAX_AGE_SECONDS);
        assert_eq!(fixture.auth.authenticate(&request, &peer()).await.err(), Some(Refusal::CredentialInvalid));
        assert_eq!(fixture.auth.cached_tokens(), 0);
        Ok(())
    }

    #[tokio::test]
    async fn an_invalid_file_leaves_the_keys_unchanged() -> Outcome {
        let fixture = AuthFixture::new(&[])?;
        let request = request(&fixture.key)?;
        for broken in ["", "{", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#] {
            std::fs::write(fixture.jwks_file(), broken)?;
            fixture.advance(limits::JWKS_MAX_AGE_SECONDS);
            fixture.auth.authenticate(&request, &peer()).await?;
        }
        std::fs::remove_file(fixture.jwks_file())?;
        fixture.advance(limits::JWKS_MAX_AGE_SECONDS);
        fixture.auth.authenticate(&request, &peer()).await?;
        Ok(())
    }
}
