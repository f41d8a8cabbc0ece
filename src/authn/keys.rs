//! The keys that verify one issuer's tokens.

use super::credential_error::CredentialError;
use super::key_files::{VerificationKey, parse_jwks, parse_pems, read, read_secret};
use super::limits;
use super::settings::{Algorithm, IssuerSettings};
use crate::clock::Clock;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// An issuer's keys as they stood at one reading.
pub(super) struct KeySet {
    keys: Vec<VerificationKey>,
    /// The bytes of the JWKS file; empty for other keys.
    source: Vec<u8>,
    /// Counts the changes of the keys: what was verified with another generation is verified again.
    pub(super) generation: u64,
}

/// An issuer's keys, kept up to date with their file.
pub(super) struct Keys {
    present: RwLock<Arc<KeySet>>,
    file: Option<JwksFile>,
}

struct JwksFile {
    path: PathBuf,
    /// When it was last read, in seconds since 1970.
    read_at: AtomicI64,
    /// Held while it is read, so that there is one reader.
    reading: tokio::sync::Mutex<()>,
}

impl KeySet {
    /// Whether the key that a token with this `kid` and `alg` has to be signed with did sign it.
    pub(super) fn verify(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        message: &str,
        signature: &str,
    ) -> Result<(), CredentialError> {
        if self.find(id, algorithm)?.verifies(message, signature) { Ok(()) } else { Err(CredentialError::Signature) }
    }

    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&VerificationKey, CredentialError> {
        let named = id.and_then(|id| self.keys.iter().find(|key| key.id.as_deref() == Some(id)));
        if let Some(key) = named {
            return if key.algorithm == algorithm { Ok(key) } else { Err(CredentialError::WrongAlgorithm) };
        }
        // A token without an id must leave no choice; a key without one answers to any.
        let mut fitting =
            self.keys.iter().filter(|key| key.algorithm == algorithm && (id.is_none() || key.id.is_none()));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            _ => Err(CredentialError::UnknownKey),
        }
    }
}

impl Keys {
    /// Reads the keys that an issuer is configured with. An error names the setting.
    pub(super) fn new(settings: &IssuerSettings, clock: &Clock) -> Result<Self, String> {
        let mut file = None;
        let (keys, source) = match (&settings.jwks_file, settings.keys.as_slice(), &settings.hs256_secret_file) {
            (Some(path), [], None) => {
                // As if read long enough ago: the first unknown key id may ask for a reading at once.
                let read_at = clock.unix_seconds().saturating_sub_unsigned(limits::JWKS_REREAD_SECONDS);
                file = Some(JwksFile {
                    path: path.clone(),
                    read_at: read_at.into(),
                    reading: tokio::sync::Mutex::default(),
                });
                read(path)
                    .and_then(|bytes| Ok((parse_jwks(&bytes)?, bytes)))
                    .map_err(|why| format!("jwks_file: {why}"))?
            }
            (None, keys @ [_, ..], None) => (parse_pems(keys)?, Vec::new()),
            (None, [], Some(path)) => {
                (vec![read_secret(path).map_err(|why| format!("hs256_secret_file: {why}"))?], Vec::new())
            }
            _ => return Err("jwks_file: exactly one of jwks_file, keys and hs256_secret_file is needed".to_owned()),
        };
        Ok(Self { present: RwLock::new(Arc::new(KeySet { keys, source, generation: 0 })), file })
    }

    /// The present keys, from a file that was read not long ago.
    pub(super) async fn present(&self, now: i64) -> Arc<KeySet> {
        if let Some(file) = &self.file
            && file.is_older(limits::JWKS_AGE_SECONDS, now)
            // Whoever comes while another reads does with the keys there are.
            && let Ok(_reading) = file.reading.try_lock()
        {
            self.read_again(file, now).await;
        }
        self.load()
    }

    /// The present keys, if their file was read not long ago.
    pub(super) fn present_now(&self, now: i64) -> Option<Arc<KeySet>> {
        let due = self.file.as_ref().is_some_and(|file| file.is_older(limits::JWKS_AGE_SECONDS, now));
        (!due).then(|| self.load())
    }

    /// The present keys, read again if none is for a token with this `kid` and `alg`.
    pub(super) async fn for_token(&self, id: Option<&str>, algorithm: Algorithm, now: i64) -> Arc<KeySet> {
        let keys = self.present(now).await;
        let Some(file) = &self.file else { return keys };
        if !matches!(keys.find(id, algorithm), Err(CredentialError::UnknownKey)) {
            return keys;
        }
        let _reading = file.reading.lock().await;
        // Not so for who has waited here while another read.
        if file.is_older(limits::JWKS_REREAD_SECONDS, now) {
            self.read_again(file, now).await;
        }
        self.load()
    }

    fn load(&self) -> Arc<KeySet> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file. If something is wrong with it, the keys stay: better old ones than nobody let in.
    async fn read_again(&self, file: &JwksFile, now: i64) {
        let path = file.path.clone();
        let bytes = tokio::task::spawn_blocking(move || read(&path)).await.unwrap_or_else(|lost| Err(lost.to_string()));
        // Set at the end, so that a request that is given up while it reads does not use up the turn.
        file.read_at.store(now, Ordering::Relaxed);
        let before = self.load();
        match bytes.and_then(|bytes| Ok((parse_jwks(&bytes)?, bytes))) {
            Ok((_, source)) if source == before.source => {}
            Ok((keys, source)) => {
                tracing::info!(file = %file.path.display(), keys = keys.len(), "the JWKS file has changed");
                let next = Arc::new(KeySet { keys, source, generation: before.generation + 1 });
                *self.present.write().unwrap_or_else(PoisonError::into_inner) = next;
            }
            Err(why) => tracing::warn!(file = %file.path.display(), why, "the JWKS file is broken, its old keys stay"),
        }
    }
}

impl JwksFile {
    /// Whether the last reading is so long ago. (Or so far ahead: a clock that was set back must not stop the readings.)
    fn is_older(&self, seconds: u64, now: i64) -> bool {
        now.abs_diff(self.read_at.load(Ordering::Relaxed)) >= seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::mint::SigningKey;
    use crate::authn::testing::{AuthFixture, Outcome, claims, headers};
    use crate::domain::Refusal;
    use futures_util::future::join_all;
    use http::HeaderMap;

    fn request(key: &SigningKey) -> Result<HeaderMap, Box<dyn std::error::Error>> {
        let mut claims = claims("ada");
        claims.exp += 86_400;
        Ok(headers(&format!("Bearer {}", key.mint(&claims)?.expose()), &[])?)
    }

    #[test]
    fn a_token_and_its_key_must_find_each_other() -> Outcome {
        let mut keys = parse_jwks(include_bytes!("../../tests/keys/rs256.jwks.json"))?;
        keys.extend(parse_jwks(include_bytes!("../../tests/keys/es256.jwks.json"))?);
        keys[1].id = None;
        let mut set = KeySet { keys, source: Vec::new(), generation: 0 };
        let find = |set: &KeySet, id, algorithm| set.find(id, algorithm).map(|key| key.algorithm);

        assert_eq!(find(&set, Some("k1"), Algorithm::Rs256), Ok(Algorithm::Rs256));
        assert_eq!(find(&set, Some("k1"), Algorithm::Es256), Err(CredentialError::WrongAlgorithm));
        assert_eq!(find(&set, Some("k2"), Algorithm::Rs256), Err(CredentialError::UnknownKey));
        assert_eq!(find(&set, Some("k2"), Algorithm::Es256), Ok(Algorithm::Es256));
        assert_eq!(find(&set, None, Algorithm::Rs256), Ok(Algorithm::Rs256));
        assert_eq!(find(&set, None, Algorithm::EdDsa), Err(CredentialError::UnknownKey));
        set.keys.extend(parse_jwks(include_bytes!("../../tests/keys/es256.jwks.json"))?);
        assert_eq!(find(&set, None, Algorithm::Es256), Err(CredentialError::UnknownKey));
        Ok(())
    }

    #[tokio::test]
    async fn an_unknown_key_id_has_the_file_read_again_but_not_often() -> Outcome {
        let bench = AuthFixture::new(&[])?;
        let (old, next) = (request(&bench.key)?, SigningKey::generate());
        bench.auth.authenticate(&old).await?;

        // At once after the start, and then not for ten seconds.
        std::fs::write(bench.jwks_file(), next.public_jwks().to_string())?;
        let request_next = request(&next)?;
        // All at once: one of them reads, and the others find what it has read.
        for answer in join_all((0..20).map(|_| bench.auth.authenticate(&request_next))).await {
            answer?;
        }
        let last = SigningKey::generate();
        std::fs::write(bench.jwks_file(), last.public_jwks().to_string())?;
        bench.wait(limits::JWKS_REREAD_SECONDS - 1);
        assert_eq!(bench.auth.authenticate(&request(&last)?).await.err(), Some(Refusal::CredentialInvalid));
        bench.wait(1);
        bench.auth.authenticate(&request(&last)?).await?;

        // The token was remembered, but its key is gone.
        assert_eq!(bench.auth.authenticate(&old).await.err(), Some(Refusal::CredentialInvalid));
        Ok(())
    }

    #[tokio::test]
    async fn a_key_that_was_taken_out_stops_working_though_nobody_asks_for_another() -> Outcome {
        let bench = AuthFixture::new(&[])?;
        let request = request(&bench.key)?;
        bench.auth.authenticate(&request).await?;
        std::fs::write(bench.jwks_file(), SigningKey::generate().public_jwks().to_string())?;
        bench.auth.authenticate(&request).await?;
        bench.wait(limits::JWKS_AGE_SECONDS);
        assert_eq!(bench.auth.authenticate(&request).await.err(), Some(Refusal::CredentialInvalid));
        assert_eq!(bench.auth.cached_tokens(), 0);
        Ok(())
    }

    #[tokio::test]
    async fn a_broken_file_changes_nothing() -> Outcome {
        let bench = AuthFixture::new(&[])?;
        let request = request(&bench.key)?;
        for broken in ["", "{", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#] {
            std::fs::write(bench.jwks_file(), broken)?;
            bench.wait(limits::JWKS_AGE_SECONDS);
            bench.auth.authenticate(&request).await?;
        }
        std::fs::remove_file(bench.jwks_file())?;
        bench.wait(limits::JWKS_AGE_SECONDS);
        bench.auth.authenticate(&request).await?;
        Ok(())
    }
}
