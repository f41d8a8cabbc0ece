//! Authenticates a request: from its headers to its caller.

use super::api_keys::{self, ApiKeys};
use super::caller::Caller;
use super::credential_error::CredentialError;
use super::headers::{apply_on_behalf_of, authorization_header, bearer};
use super::jwt::{Issuer, TokenCandidate, UnverifiedToken};
use super::keys::Keys;
use super::limits;
use super::peer_share::PeerShare;
use super::settings::{AuthSettings, IssuerSettings};
use super::token_cache::{CacheEntry, KnownCredential, RecentCredentials};
use super::verifier::Verifier;
use crate::clock::{self, Clock};
use crate::domain::Refusal;
use crate::limited_log::{LimitedLog, excerpt};
use http::{HeaderMap, HeaderValue};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use std::sync::Arc;

const NO_CALLERS: &str = "no issuer and no api key is configured: configure one, or no caller can authenticate";

/// Identifies the caller of a request. The server has one. Clones are cheap and share the same state.
#[derive(Clone)]
pub struct Authenticator {
    issuers: Arc<[Issuer]>,
    api_keys: Arc<ApiKeys>,
    anonymous: Arc<Caller>,
    /// Verified tokens by their SHA-256, a hash without known collisions: no attacker can create a token that matches
    /// the entry of another.
    cache: Arc<Cache<[u8; 32], Arc<CacheEntry>>>,
    verifier: Arc<Verifier>,
    refusal_log: Arc<LimitedLog<CredentialError>>,
    clock: Clock,
}

/// A rejected credential: the reason, and what the token claims, as it may stand in the log.
pub(super) struct Rejection {
    pub(super) error: CredentialError,
    issuer: Option<String>,
    key_id: Option<String>,
}

impl From<CredentialError> for Rejection {
    fn from(error: CredentialError) -> Self {
        Self { error, issuer: None, key_id: None }
    }
}

impl Authenticator {
    /// Creates an authenticator and reads the keys that the settings name.
    ///
    /// # Errors
    /// Every error in the settings, as one sentence each. A sentence begins with the name of its setting.
    pub fn new(settings: &AuthSettings, clock: Clock) -> Result<Self, Vec<String>> {
        if settings.issuers.is_empty() && settings.api_keys.is_empty() {
            return Err(vec![NO_CALLERS.to_owned()]);
        }
        let mut mistakes = Vec::new();
        let issuers = read_issuers(&settings.issuers, &clock, &mut mistakes);
        let api_keys = ApiKeys::new(&settings.api_keys, &mut mistakes);
        if mistakes.is_empty() {
            let cache = Arc::new(Cache::new(limits::CACHED_TOKENS));
            let (issuers, api_keys) = (issuers.into(), Arc::new(api_keys));
            let anonymous = Arc::new(Caller::Anonymous);
            let (verifier, refusal_log) = (Arc::default(), Arc::default());
            Ok(Self { issuers, api_keys, anonymous, cache, verifier, refusal_log, clock })
        } else {
            Err(mistakes)
        }
    }

    /// Identifies the caller of a request from this peer. An invalid credential is rejected and never treated as absent.
    ///
    /// A signature is computed on another thread, in turn with those of other peers. Rejections are logged at a limited
    /// rate.
    ///
    /// # Errors
    /// - [`Refusal::CredentialInvalid`] or [`Refusal::CredentialExpired`] for a credential that is not accepted,
    /// - [`Refusal::CredentialTooLarge`] for one that is longer than [`limits::CREDENTIAL_BYTES`],
    /// - [`Refusal::ServiceWithoutScope`] for a valid token of a service without a roster scope,
    /// - [`Refusal::CredentialMissing`] for `roster-on-behalf-of` without a credential, which that header requires,
    /// - [`Refusal::OnBehalfOfNotAllowed`] for `roster-on-behalf-of` from a user, or from a service without the scope
    ///   `act-as`,
    /// - [`Refusal::InvalidRequest`] if `roster-on-behalf-of` occurs twice or is not a valid user id,
    /// - [`Refusal::Overloaded`] for a token that is not in the cache, if the peer had too many tokens refused, or if too
    ///   many tokens wait for their verification.
    pub async fn authenticate(&self, headers: &HeaderMap, peer: &PeerShare) -> Result<Arc<Caller>, Refusal> {
        self.identify(headers, peer).await.map_err(|rejection| self.refuse(rejection, peer))
    }

    /// Identifies the caller of a request as [`Self::authenticate`] does, but without waiting. `None` if that is
    /// impossible, because the request has a token that is not in the cache.
    ///
    /// # Errors
    /// Those of [`Self::authenticate`] that do not concern a token.
    pub fn recognize(
        &self,
        headers: &HeaderMap,
        recent: &RecentCredentials,
        peer: &PeerShare,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        self.find_known(headers, recent).map_err(|error| self.refuse(error.into(), peer))
    }

    /// Returns the number of verified tokens in the cache.
    #[must_use]
    pub fn cached_tokens(&self) -> usize {
        self.cache.len()
    }

    /// Returns the number of signatures that were computed so far, valid or not.
    #[must_use]
    pub fn computed_signatures(&self) -> u64 {
        self.verifier.computed()
    }

    /// Returns the caller of a request without a credential.
    #[must_use]
    pub fn anonymous(&self) -> Arc<Caller> {
        self.anonymous.clone()
    }

    /// Logs a rejection, at a limited rate.
    fn refuse(&self, Rejection { error, issuer, key_id }: Rejection, peer: &PeerShare) -> Refusal {
        if let Some(suppressed) = self.refusal_log.admit(error, clock::uptime()) {
            let (peer, issuer, kid) = (peer.name(), issuer.as_deref(), key_id.as_deref());
            tracing::info!(peer, issuer, kid, reason = %error, suppressed, "credential refused");
        }
        error.to_refusal()
    }

    fn find_known(
        &self,
        headers: &HeaderMap,
        recent: &RecentCredentials,
    ) -> Result<Option<Arc<Caller>>, CredentialError> {
        let caller = match authorization_header(headers)? {
            None => Some(self.anonymous.clone()),
            Some(value) => match recent.find(value).and_then(|known| self.caller_of(&known)) {
                Some(caller) => Some(caller),
                None => self.find_credential(value, recent)?,
            },
        };
        caller.map(|caller| apply_on_behalf_of(caller, headers)).transpose()
    }

    /// Returns the caller of an API key, or of a token in the cache.
    fn find_credential(
        &self,
        value: &HeaderValue,
        recent: &RecentCredentials,
    ) -> Result<Option<Arc<Caller>>, CredentialError> {
        let text = bearer(value)?;
        let known = if text.starts_with(api_keys::PREFIX) {
            Some(KnownCredential::ApiKey(self.api_keys.find(text).ok_or(CredentialError::UnknownApiKey)?))
        } else {
            self.cache.get::<[u8; 32]>(&Sha256::digest(text).into()).map(KnownCredential::Token)
        };
        let caller = known.as_ref().and_then(|known| self.caller_of(known));
        if let (Some(known), Some(_)) = (&known, &caller) {
            recent.add(value, known);
        }
        Ok(caller)
    }

    /// Returns the caller of a known credential. A token has to be still valid.
    fn caller_of(&self, known: &KnownCredential) -> Option<Arc<Caller>> {
        let entry = match known {
            KnownCredential::ApiKey(caller) => return Some(caller.clone()),
            KnownCredential::Token(entry) => entry,
        };
        let now = self.clock.unix_seconds();
        let keys = self.issuers[entry.issuer].keys.current_if_fresh(now)?;
        entry.is_valid(now, keys.generation).then(|| entry.verified.caller.clone())
    }

    /// Identifies the caller; the error keeps the reason for the log.
    pub(super) async fn identify(&self, headers: &HeaderMap, peer: &PeerShare) -> Result<Arc<Caller>, Rejection> {
        let caller = match authorization_header(headers)?.map(bearer).transpose()? {
            None => self.anonymous.clone(),
            Some(text) if text.starts_with(api_keys::PREFIX) => {
                self.api_keys.find(text).ok_or(CredentialError::UnknownApiKey)?
            }
            Some(text) => self.authenticate_token(text, peer).await?,
        };
        Ok(apply_on_behalf_of(caller, headers)?)
    }

    /// Returns the caller that a token identifies, from the cache or after verification.
    async fn authenticate_token(&self, text: &str, peer: &PeerShare) -> Result<Arc<Caller>, Rejection> {
        let now = self.clock.unix_seconds();
        let digest = Sha256::digest(text).into();
        if let Some(caller) = self.find_cached(&digest, now).await {
            return Ok(caller);
        }
        // Before any look at the token: which tokens are still refused for another reason would reveal something about
        // the checks.
        peer.require_budget(clock::uptime())?;
        let verified = async {
            let token = UnverifiedToken::parse(text)?;
            self.verify(&token, &digest, now, peer).await.map_err(|error| Rejection {
                error,
                issuer: Some(excerpt(token.issuer())),
                key_id: token.key_id().map(excerpt),
            })
        };
        verified.await.inspect_err(|rejection: &Rejection| {
            if rejection.error.is_charged() {
                peer.charge(clock::uptime());
            }
        })
    }

    /// Returns the caller of a valid token in the cache, and removes one that is no longer valid.
    async fn find_cached(&self, digest: &[u8; 32], now: i64) -> Option<Arc<Caller>> {
        let entry = self.cache.get(digest)?;
        let generation = self.issuers[entry.issuer].keys.current(now).await.generation;
        if entry.is_valid(now, generation) {
            return Some(entry.verified.caller.clone());
        }
        self.cache.remove(digest);
        None
    }

    /// Verifies a token that is not in the cache, and adds it. The cheap checks come first, on the thread of the call.
    async fn verify(
        &self,
        token: &UnverifiedToken<'_>,
        digest: &[u8; 32],
        now: i64,
        peer: &PeerShare,
    ) -> Result<Arc<Caller>, CredentialError> {
        let (index, issuer) = (self.issuers.iter().enumerate())
            .filter(|(_, issuer)| issuer.name.matches(token.issuer()))
            // An entry for one issuer counts before one for the issuers of all tenants.
            .min_by_key(|(_, issuer)| !issuer.name.is_one())
            .ok_or(CredentialError::UnknownIssuer)?;
        let TokenCandidate { content, signature } = issuer.check(token, now).await?;
        let places = self.verifier.enter(peer).await?;
        // While this call waited, another may have verified the same token, or others may have spent the budget.
        if let Some(caller) = self.find_cached(digest, now).await {
            return Ok(caller);
        }
        peer.require_budget(clock::uptime())?;
        let _places = self.verifier.verify(places, move || signature.run()).await?;
        let verified = content.accept(now)?;
        let caller = verified.caller.clone();
        self.cache.insert(*digest, Arc::new(CacheEntry { verified, issuer: index }));
        Ok(caller)
    }
}

fn read_issuers(settings: &[IssuerSettings], clock: &Clock, mistakes: &mut Vec<String>) -> Vec<Issuer> {
    let mut issuers: Vec<Issuer> = Vec::with_capacity(settings.len());
    for (index, setting) in settings.iter().enumerate() {
        let mut reject = |sentence: &str| mistakes.push(format!("issuers[{index}].{sentence}"));
        if setting.issuer.is_empty() {
            reject("issuer: the iss of its tokens is needed");
        }
        if !setting.issuer.is_empty() && settings[..index].iter().any(|earlier| earlier.issuer == setting.issuer) {
            reject("issuer: another entry has the same");
        }
        let mut sentences = Vec::new();
        let (keys, of_keys) = match Keys::new(setting, clock) {
            Ok(keys) => (Some(keys), Vec::new()),
            Err(sentences) => (None, sentences),
        };
        issuers.extend(Issuer::new(setting, keys, &mut sentences));
        for sentence in &sentences {
            reject(sentence);
        }
        if settings[..index].iter().any(|earlier| earlier.user_id_prefix == setting.user_id_prefix) {
            reject("user_id_prefix: another entry has the same, so that one issuer could name the other's users");
        }
        for sentence in &of_keys {
            reject(sentence);
        }
    }
    issuers
}

#[cfg(test)]
mod tests;
