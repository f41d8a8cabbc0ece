//! The keys that verify the tokens of one issuer.

use super::credential_error::CredentialError;
use super::key_files::{VerificationKey, load_pems, load_secret, parse_jwks, read_file};
use super::limits;
use super::settings::{Algorithm, IssuerSettings};
use crate::clock::Clock;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The keys of an issuer, as read at one time.
pub(super) struct KeySet {
    keys: Vec<VerificationKey>,
    /// The bytes of the JWKS file; empty if the keys come from another source.
    source: Vec<u8>,
    /// The number of changes of the keys so far. A cached token that was verified with another generation is verified
    /// again.
    pub(super) generation: u64,
}

/// The keys of an issuer, reloaded when their file changes.
pub(super) struct Keys {
    current: RwLock<Arc<KeySet>>,
    file: Option<JwksFile>,
}

struct JwksFile {
    path: PathBuf,
    /// When the file was last read, in seconds since 1970.
    read_at: AtomicI64,
    /// Locked during a reload, so that only one task reloads.
    reload_lock: tokio::sync::Mutex<()>,
}

impl KeySet {
    /// Verifies the signature of a token with the key that its `kid` and `alg` select.
    pub(super) fn verify(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        message: &str,
        signature: &str,
    ) -> Result<(), CredentialError> {
        if self.find(id, algorithm)?.verifies(message, signature) {
            Ok(())
        } else {
            Err(CredentialError::InvalidSignature)
        }
    }

    /// Returns the key that the `kid` and the `alg` of a token select.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&VerificationKey, CredentialError> {
        let with_id = id.and_then(|id| self.keys.iter().find(|key| key.id.as_deref() == Some(id)));
        if let Some(key) = with_id {
            return if key.algorithm == algorithm { Ok(key) } else { Err(CredentialError::AlgorithmMismatch) };
        }
        // A token without a key id must match exactly one key. A key without an id matches every key id.
        let mut candidates =
            self.keys.iter().filter(|key| key.algorithm == algorithm && (id.is_none() || key.id.is_none()));
        match (candidates.next(), candidates.next()) {
            (Some(key), None) => Ok(key),
            _ => Err(CredentialError::UnknownKey),
        }
    }
}

impl Keys {
    /// Reads the configured keys of an issuer.
    ///
    /// # Errors
    /// All mistakes. Each begins with the name of the setting.
    pub(super) fn new(settings: &IssuerSettings, clock: &Clock) -> Result<Self, Vec<String>> {
        let mut file = None;
        let (keys, source) = match (&settings.jwks_file, settings.keys.as_slice(), &settings.hs256_secret_file) {
            (Some(path), [], None) => {
                // In the past, so that the first unknown key id reloads the file without a delay.
                let read_at = clock.unix_seconds().saturating_sub_unsigned(limits::JWKS_RELOAD_SECONDS);
                file = Some(JwksFile {
                    path: path.clone(),
                    read_at: read_at.into(),
                    reload_lock: tokio::sync::Mutex::default(),
                });
                read_file(path)
                    .and_then(|bytes| Ok((parse_jwks(&bytes)?, bytes)))
                    .map_err(|error| vec![format!("jwks_file: {error}")])?
            }
            (None, keys @ [_, ..], None) => (load_pems(keys)?, Vec::new()),
            (None, [], Some(path)) => {
                let secret = load_secret(path).map_err(|error| vec![format!("hs256_secret_file: {error}")])?;
                (vec![secret], Vec::new())
            }
            _ => {
                return Err(vec![
                    "jwks_file: exactly one of jwks_file, keys and hs256_secret_file is needed".to_owned(),
                ]);
            }
        };
        Ok(Self { current: RwLock::new(Arc::new(KeySet { keys, source, generation: 0 })), file })
    }

    /// Whether these keys were read from the same bytes as the others.
    pub(super) fn have_same_source(&self, other: &Self) -> bool {
        let (keys, others) = (self.load(), other.load());
        !keys.source.is_empty() && keys.source == others.source
    }

    /// Returns the current keys, after a reload if their file is older than [`limits::JWKS_MAX_AGE_SECONDS`].
    pub(super) async fn current(&self, now: i64) -> Arc<KeySet> {
        if let Some(file) = &self.file
            && file.is_older(limits::JWKS_MAX_AGE_SECONDS, now)
            // Calls during a reload use the current keys and do not wait.
            && let Ok(_guard) = file.reload_lock.try_lock()
        {
            self.reload(file, now).await;
        }
        self.load()
    }

    /// Returns the current keys without waiting; `None` if their file is due for a reload.
    pub(super) fn current_if_fresh(&self, now: i64) -> Option<Arc<KeySet>> {
        let due = self.file.as_ref().is_some_and(|file| file.is_older(limits::JWKS_MAX_AGE_SECONDS, now));
        (!due).then(|| self.load())
    }

    /// Returns the current keys, after a reload if no key matches a token with this `kid` and `alg`.
    pub(super) async fn current_for_token(&self, id: Option<&str>, algorithm: Algorithm, now: i64) -> Arc<KeySet> {
        let keys = self.current(now).await;
        let Some(file) = &self.file else { return keys };
        if !matches!(keys.find(id, algorithm), Err(CredentialError::UnknownKey)) {
            return keys;
        }
        let _guard = file.reload_lock.lock().await;
        // A call that waited for the lock usually finds the file reloaded.
        if file.is_older(limits::JWKS_RELOAD_SECONDS, now) {
            self.reload(file, now).await;
        }
        self.load()
    }

    fn load(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reloads the file. If the file is invalid, the old keys stay in use: with no keys, no caller of this issuer could
    /// authenticate.
    async fn reload(&self, file: &JwksFile, now: i64) {
        let path = file.path.clone();
        // On a blocking thread: a file of the largest size takes tens of milliseconds to parse.
        let read = move || read_file(&path).and_then(|bytes| Ok((parse_jwks(&bytes)?, bytes)));
        let read = tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()));
        // Set after the read: a request that is cancelled during the read must not delay the next reload.
        file.read_at.store(now, Ordering::Relaxed);
        let before = self.load();
        match read {
            Ok((_, source)) if source == before.source => {}
            Ok((keys, source)) => {
                tracing::info!(file = %file.path.display(), keys = keys.len(), "reloaded the changed JWKS file");
                let next = Arc::new(KeySet { keys, source, generation: before.generation + 1 });
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
            }
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

    #[test]
    fn key_id_and_algorithm_select_at_most_one_key() -> Outcome {
        let mut keys = parse_jwks(include_bytes!("../../tests/keys/rs256.jwks.json"))?;
        keys.extend(parse_jwks(include_bytes!("../../tests/keys/es256.jwks.json"))?);
        keys[1].id = None;
        let mut set = KeySet { keys, source: Vec::new(), generation: 0 };
        let find = |set: &KeySet, id, algorithm| set.find(id, algorithm).map(|key| key.algorithm);

        assert_eq!(find(&set, Some("k1"), Algorithm::Rs256), Ok(Algorithm::Rs256));
        assert_eq!(find(&set, Some("k1"), Algorithm::Es256), Err(CredentialError::AlgorithmMismatch));
        assert_eq!(find(&set, Some("k2"), Algorithm::Rs256), Err(CredentialError::UnknownKey));
        assert_eq!(find(&set, Some("k2"), Algorithm::Es256), Ok(Algorithm::Es256));
        assert_eq!(find(&set, None, Algorithm::Rs256), Ok(Algorithm::Rs256));
        assert_eq!(find(&set, None, Algorithm::EdDsa), Err(CredentialError::UnknownKey));
        set.keys.extend(parse_jwks(include_bytes!("../../tests/keys/es256.jwks.json"))?);
        assert_eq!(find(&set, None, Algorithm::Es256), Err(CredentialError::UnknownKey));
        Ok(())
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
