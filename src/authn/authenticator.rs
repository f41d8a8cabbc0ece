//! Authenticates a request: from its headers to its caller.

use super::accepted::{AcceptedCredentials, AcceptedIssuer, CredentialChanges};
use super::api_keys::{self, AcceptedApiKey, ApiKeys};
use super::caller::{Caller, UserCaller};
use super::client_certificates::{ClientCertificate, ClientCertificates};
use super::credential_error::CredentialError;
use super::headers::{apply_on_behalf_of, authorization_header, bearer};
use super::jwt::{Issuer, TokenCandidate, UnverifiedToken};
use super::keys::{KeySettings, KeyStatistics, Keys};
use super::limits;
use super::peer_share::PeerShare;
use super::profile_claims::IgnoredClaimsLog;
use super::profile_sources::ProfileSources;
use super::settings::{AuthSettings, IssuerSettings};
use super::tenant::{longer_prefixes, prefixes_collide};
use super::token_cache::{CacheEntry, KnownCredential, RecentCredentials};
use super::verifier::Verifier;
use crate::clock::{self, Clock};
use crate::domain::Refusal;
use crate::limited_log::{LimitedLog, excerpt};
use http::{HeaderMap, HeaderValue};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

const NO_CALLERS: &str = "no issuer, no api key and no client certificate is configured: configure one, or no caller can \
                          authenticate";

/// Identifies the caller of a request. The server has one. Clones are cheap and share the same state.
#[derive(Clone)]
pub struct Authenticator {
    accepted: Arc<watch::Sender<Arc<AcceptedCredentials>>>,
    anonymous: Arc<Caller>,
    /// Verified tokens by their SHA-256, a hash without known collisions: no attacker can create a token that matches
    /// the entry of another.
    cache: Arc<Cache<[u8; 32], Arc<CacheEntry>>>,
    verifier: Arc<Verifier>,
    refusal_log: Arc<LimitedLog<CredentialError>>,
    ignored_claims: Arc<IgnoredClaimsLog>,
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
        if settings.is_empty() {
            return Err(vec![NO_CALLERS.to_owned()]);
        }
        let mut mistakes = Vec::new();
        let issuers = read_issuers(settings, &clock, &mut mistakes);
        let api_keys = ApiKeys::new(&settings.api_keys, &mut mistakes);
        let client_certificates = Arc::new(ClientCertificates::new(&settings.client_certificates, &mut mistakes));
        if mistakes.is_empty() {
            let cache = Arc::new(Cache::new(limits::CACHED_TOKENS));
            let issuers = issuers.into_iter().zip(settings.issuers.iter().cloned());
            let issuers = issuers.map(|(issuer, settings)| Arc::new(AcceptedIssuer::new(issuer, settings))).collect();
            let accepted = AcceptedCredentials { issuers, api_keys, client_certificates };
            let accepted = Arc::new(watch::Sender::new(Arc::new(accepted)));
            let anonymous = Arc::new(Caller::Anonymous);
            let (verifier, refusal_log, ignored_claims) = (Arc::default(), Arc::default(), Arc::default());
            Ok(Self { accepted, anonymous, cache, verifier, refusal_log, ignored_claims, clock })
        } else {
            Err(mistakes)
        }
    }

    /// Identifies the caller of a request from this peer by its headers. An invalid credential is rejected and never
    /// treated as absent. A client certificate is not looked at: [`Self::recognize`] does that.
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
    /// - [`Refusal::InvalidRequest`] if `roster-on-behalf-of` occurs twice or is not a valid user id. All of this holds for
    ///   `roster-on-behalf-of-bin` too, and both in one call are invalid,
    /// - [`Refusal::Overloaded`] for a token that is not in the cache, if the peer had too many tokens refused, or if too
    ///   many tokens wait for their verification,
    /// - [`Refusal::KeysUnavailable`] if the keys of the token's issuer could not be fetched.
    pub async fn authenticate(&self, headers: &HeaderMap, peer: &PeerShare) -> Result<Arc<Caller>, Refusal> {
        self.identify(headers, peer).await.map_err(|rejection| self.refuse(rejection, peer))
    }

    /// Identifies the caller of a request as [`Self::authenticate`] does, but without waiting. `None` if that is
    /// impossible, because the request has a token that is not in the cache. The client certificate of the connection
    /// identifies the caller of a request without a credential in its headers.
    ///
    /// # Errors
    /// Those of [`Self::authenticate`] that do not concern a token, and [`Refusal::CredentialExpired`] if the client
    /// certificate that would identify the caller has expired.
    pub fn recognize(
        &self,
        headers: &HeaderMap,
        recent: &RecentCredentials,
        peer: &PeerShare,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        self.find_known(headers, recent).map_err(|error| self.refuse(error.into(), peer))
    }

    /// Accepts what `next` accepts from now on, and nothing else. Issuers and keys that are the same in both keep their
    /// state: fetched keys, and cached tokens.
    #[must_use = "the changes belong into the log"]
    pub fn adopt(&self, next: &Self) -> CredentialChanges {
        let next = next.accepted();
        let mut changes = CredentialChanges::default();
        self.accepted.send_modify(|accepted| {
            let (credentials, differences) = accepted.replaced_by(&next);
            *accepted = Arc::new(credentials);
            changes = differences;
        });
        changes
    }

    fn accepted(&self) -> Arc<AcceptedCredentials> {
        self.accepted.borrow().clone()
    }

    /// Returns the API key with this text.
    fn find_api_key(&self, text: &str) -> Result<Arc<AcceptedApiKey>, CredentialError> {
        self.accepted().api_keys.find(text).ok_or(CredentialError::UnknownApiKey)
    }

    /// Fetches the keys of issuers that come by URL, whenever it is due, until the future is dropped.
    ///
    /// Without it, the tokens of these issuers are refused with [`Refusal::KeysUnavailable`].
    pub async fn refresh_keys(&self) {
        let mut accepted = self.accepted.subscribe();
        let mut tasks = JoinSet::new();
        let mut refreshed: Vec<(Arc<AcceptedIssuer>, AbortHandle)> = Vec::new();
        loop {
            let issuers = accepted.borrow_and_update().issuers.clone();
            refreshed.retain(|(issuer, task)| {
                let is_kept = issuers.iter().any(|other| Arc::ptr_eq(other, issuer));
                if !is_kept {
                    task.abort();
                }
                is_kept
            });
            for issuer in issuers {
                if !refreshed.iter().any(|(other, _)| Arc::ptr_eq(other, &issuer)) {
                    let (of_task, clock) = (issuer.clone(), self.clock.clone());
                    refreshed.push((issuer, tasks.spawn(async move { of_task.keys.refresh(&clock).await })));
                }
            }
            // Those that have ended, or were aborted.
            while tasks.try_join_next().is_some() {}
            // It fails only without a sender, and this authenticator holds one.
            if accepted.changed().await.is_err() {
                return;
            }
        }
    }

    /// The state of the keys that come by URL, of each issuer that has such.
    #[must_use]
    pub fn key_statistics(&self) -> Vec<KeyStatistics> {
        let now = self.clock.unix_seconds();
        self.accepted().issuers.iter().filter_map(|issuer| issuer.keys.statistics(now)).collect()
    }

    /// One sentence for each key of a file that is not used. Each begins with the name of its setting.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let accepted = self.accepted();
        let issuers = accepted.issuers.iter().enumerate();
        let named = |(index, issuer): (usize, &Arc<AcceptedIssuer>)| {
            issuer.keys.warnings().into_iter().map(move |sentence| format!("issuers[{index}].{sentence}"))
        };
        issuers.flat_map(named).collect()
    }

    /// Returns the sources of profiles. They follow the reloads of the settings.
    #[must_use]
    pub fn profile_sources(&self) -> ProfileSources {
        ProfileSources::new(self.accepted.subscribe())
    }

    /// Returns whether any client certificate is a credential.
    #[must_use]
    pub fn accepts_client_certificates(&self) -> bool {
        !self.accepted().client_certificates.is_empty()
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
            None => Some(self.caller_of_certificate(recent.certificate())?),
            Some(value) => match recent.find(value).and_then(|known| self.caller_of(&known)) {
                Some(caller) => Some(caller),
                None => self.find_credential(value, recent)?,
            },
        };
        caller.map(|caller| apply_on_behalf_of(caller, headers)).transpose()
    }

    /// Returns the caller of a request without a credential in its headers: the service of the connection's client
    /// certificate, or an anonymous caller if no certificate of this name is configured.
    fn caller_of_certificate(
        &self,
        certificate: Option<&Arc<ClientCertificate>>,
    ) -> Result<Arc<Caller>, CredentialError> {
        let Some(certificate) = certificate else { return Ok(self.anonymous.clone()) };
        match certificate.caller(&self.accepted().client_certificates) {
            Some(_) if certificate.is_expired(self.clock.unix_seconds()) => Err(CredentialError::CertificateExpired),
            Some(caller) => Ok(caller),
            None => Ok(self.anonymous.clone()),
        }
    }

    /// Returns the caller of an API key, or of a token in the cache.
    fn find_credential(
        &self,
        value: &HeaderValue,
        recent: &RecentCredentials,
    ) -> Result<Option<Arc<Caller>>, CredentialError> {
        let text = bearer(value)?;
        let known = if text.starts_with(api_keys::PREFIX) {
            Some(KnownCredential::ApiKey(self.find_api_key(text)?))
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
            KnownCredential::ApiKey(key) => return (!key.retired.is_set()).then(|| key.caller.clone()),
            KnownCredential::Token(entry) => entry,
        };
        let now = self.clock.unix_seconds();
        let keys = entry.issuer.keys.current_if_fresh(now)?;
        entry.is_valid(now, keys.generation).then(|| entry.verified.caller.clone())
    }

    /// Identifies the caller; the error keeps the reason for the log.
    pub(super) async fn identify(&self, headers: &HeaderMap, peer: &PeerShare) -> Result<Arc<Caller>, Rejection> {
        let caller = match authorization_header(headers)?.map(bearer).transpose()? {
            None => self.anonymous.clone(),
            Some(text) if text.starts_with(api_keys::PREFIX) => self.find_api_key(text)?.caller.clone(),
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
        let token = UnverifiedToken::parse(text).inspect_err(|error| peer.refusals().charge(*error))?;
        self.verify(&token, &digest, now, peer).await.map_err(|error| Rejection {
            error,
            issuer: Some(excerpt(token.issuer())),
            key_id: token.key_id().map(excerpt),
        })
    }

    /// Returns the caller of a valid token in the cache, and removes one that is no longer valid.
    async fn find_cached(&self, digest: &[u8; 32], now: i64) -> Option<Arc<Caller>> {
        let entry = self.cache.get(digest)?;
        if entry.issuer.is_retired() {
            self.cache.remove(digest);
            return None;
        }
        // Without keys, the verification of the token fails with the cause.
        let keys = entry.issuer.keys.current(now).await?;
        if entry.is_valid(now, keys.generation) {
            return Some(entry.verified.caller.clone());
        }
        self.cache.remove(digest);
        None
    }

    /// Verifies a token that is not in the cache, and adds it. The cheap checks come first, on the thread of the call. Each
    /// refusal is charged to the peer, that of a signature by the verifier.
    async fn verify(
        &self,
        token: &UnverifiedToken<'_>,
        digest: &[u8; 32],
        now: i64,
        peer: &PeerShare,
    ) -> Result<Arc<Caller>, CredentialError> {
        let accepted = self.accepted();
        let issuer = (accepted.issuers.iter())
            .filter(|issuer| issuer.name.matches(token.issuer()))
            // An entry for one issuer counts before one for the issuers of all tenants.
            .min_by_key(|issuer| !issuer.name.is_one())
            .ok_or(CredentialError::UnknownIssuer)
            .inspect_err(|error| peer.refusals().charge(*error))?;
        let candidate = issuer.check(token, now).await.inspect_err(|error| peer.refusals().charge(*error));
        let TokenCandidate { content, signature } = candidate?;
        let places = self.verifier.enter(peer).await?;
        // While this call waited, another may have verified the same token, or others may have spent the budget.
        if let Some(caller) = self.find_cached(digest, now).await {
            return Ok(caller);
        }
        peer.require_budget(clock::uptime())?;
        let _places = self.verifier.verify(places, move || signature.run()).await?;
        let verified = content.accept(now).inspect_err(|error| peer.refusals().charge(*error))?;
        // A reload may have removed the issuer while this call waited.
        if issuer.is_retired() {
            return Err(CredentialError::UnknownIssuer);
        }
        let caller = verified.caller.clone();
        if let Caller::User(UserCaller { id, claims: Some(claims), .. }) = &*caller {
            self.ignored_claims.report(token.issuer(), id, &claims.profile.ignored);
        }
        self.cache.insert(*digest, Arc::new(CacheEntry { verified, issuer: issuer.clone() }));
        Ok(caller)
    }
}

fn read_issuers(auth: &AuthSettings, clock: &Clock, mistakes: &mut Vec<String>) -> Vec<Issuer> {
    let settings: &[IssuerSettings] = &auth.issuers;
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
        let keys = KeySettings::new(setting, auth.development_keys).and_then(|settings| Keys::new(settings, clock));
        let (keys, of_keys) = match keys {
            Ok(keys) => (Some(Arc::new(keys)), Vec::new()),
            // An absent issuer is a mistake above; no keys can be found for it.
            Err(_) if setting.issuer.is_empty() && !setting.has_keys() => (None, Vec::new()),
            Err(sentences) => (None, sentences),
        };
        let others = settings.iter().map(|other| other.user_id_prefix.as_str());
        let foreign = longer_prefixes(&setting.user_id_prefix, others);
        issuers.extend(Issuer::new(setting, foreign, keys, &mut sentences));
        for sentence in &sentences {
            reject(sentence);
        }
        let prefix = &setting.user_id_prefix;
        if settings[..index].iter().any(|earlier| prefixes_collide(&earlier.user_id_prefix, prefix)) {
            reject(
                "user_id_prefix: another entry has the same, or one that {tenant} can stand for, so that one issuer could \
                 name the other's users",
            );
        }
        for sentence in &of_keys {
            reject(sentence);
        }
    }
    issuers
}

#[cfg(test)]
mod tests;
