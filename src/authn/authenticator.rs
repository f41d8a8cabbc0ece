//! Authenticates a request: from its headers to its caller.

use super::api_keys::{self, ApiKeys};
use super::caller::Caller;
use super::credential_error::{CredentialError, ON_BEHALF_OF};
use super::headers::{apply_on_behalf_of, authorization_header, bearer};
use super::jwt::{Issuer, TokenCandidate, UnverifiedToken};
use super::keys::Keys;
use super::limits;
use super::peer_share::PeerShare;
use super::settings::{AuthSettings, IssuerSettings};
use super::token_cache::{CacheEntry, CachedCaller, LastCredential};
use super::verifier::Verifier;
use crate::clock::{self, Clock};
use crate::domain::Refusal;
use crate::limited_log::{LimitedLog, excerpt};
use http::HeaderMap;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use std::sync::Arc;

const NO_CALLERS: &str = "no issuer and no api key is configured: configure one, or no caller can authenticate";

/// Identifies the caller of a request. The server has one. Clones are cheap and share the same state.
#[derive(Clone)]
pub struct Authenticator {
    issuers: Arc<[Issuer]>,
    api_keys: Arc<ApiKeys>,
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
            Ok(Self { issuers, api_keys, cache, verifier: Arc::default(), refusal_log: Arc::default(), clock })
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
    /// - [`Refusal::CredentialMissing`] for `roster-on-behalf-of` without a credential, which that header requires,
    /// - [`Refusal::OnBehalfOfNotAllowed`] for `roster-on-behalf-of` from a user, or from a service without the scope
    ///   `act-as`,
    /// - [`Refusal::InvalidRequest`] if `roster-on-behalf-of` occurs twice or is not a valid user id,
    /// - [`Refusal::Overloaded`] for a token that is not in the cache, if the peer had too many tokens refused, or if too
    ///   many tokens wait for their verification.
    pub async fn authenticate(&self, headers: &HeaderMap, peer: &PeerShare) -> Result<Caller, Refusal> {
        self.identify(headers, peer).await.map_err(|Rejection { error, issuer, key_id }| {
            if let Some(suppressed) = self.refusal_log.admit(error, clock::uptime()) {
                let (peer, issuer, kid) = (peer.name(), issuer.as_deref(), key_id.as_deref());
                tracing::info!(peer, issuer, kid, reason = %error, suppressed, "credential refused");
            }
            error.to_refusal()
        })
    }

    /// Returns the caller without waiting, if its token is in the cache and the request has no `roster-on-behalf-of`.
    /// `None` does not mean that the credential is invalid: use [`Self::authenticate`] then.
    #[must_use]
    pub fn recall(&self, headers: &HeaderMap, last: &LastCredential) -> Option<CachedCaller> {
        let value = authorization_header(headers).ok()?.filter(|_| !headers.contains_key(ON_BEHALF_OF))?;
        let entry = last.find(value).or_else(|| {
            let entry = self.cache.get::<[u8; 32]>(&Sha256::digest(bearer(value).ok()?).into())?;
            last.set(value, &entry);
            Some(entry)
        })?;
        let now = self.clock.unix_seconds();
        let keys = self.issuers[entry.issuer].keys.current_if_fresh(now)?;
        entry.is_valid(now, keys.generation).then_some(CachedCaller::new(entry))
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

    /// Identifies the caller; the error keeps the reason for the log.
    pub(super) async fn identify(&self, headers: &HeaderMap, peer: &PeerShare) -> Result<Caller, Rejection> {
        let caller = match authorization_header(headers)?.map(bearer).transpose()? {
            None => Caller::Anonymous,
            Some(text) if text.starts_with(api_keys::PREFIX) => {
                self.api_keys.find(text).ok_or(CredentialError::UnknownApiKey)?
            }
            Some(text) => self.authenticate_token(text, peer).await?,
        };
        Ok(apply_on_behalf_of(caller, headers)?)
    }

    /// Returns the caller that a token identifies, from the cache or after verification.
    async fn authenticate_token(&self, text: &str, peer: &PeerShare) -> Result<Caller, Rejection> {
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
    async fn find_cached(&self, digest: &[u8; 32], now: i64) -> Option<Caller> {
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
    ) -> Result<Caller, CredentialError> {
        let (index, issuer) = (self.issuers.iter().enumerate())
            .find(|(_, issuer)| issuer.name == token.issuer())
            .ok_or(CredentialError::UnknownIssuer)?;
        let TokenCandidate { token: verified, signature } = issuer.check(token, now).await?;
        let places = self.verifier.enter(peer).await?;
        // While this call waited, another may have verified the same token, or others may have spent the budget.
        if let Some(caller) = self.find_cached(digest, now).await {
            return Ok(caller);
        }
        peer.require_budget(clock::uptime())?;
        let _places = self.verifier.verify(places, move || signature.run()).await?;
        if now >= verified.expires_at {
            return Err(CredentialError::Expired);
        }
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
        if setting.audience.is_empty() {
            reject("audience: the aud of tokens for this server is needed");
        }
        if settings[..index].iter().any(|earlier| earlier.user_id_prefix == setting.user_id_prefix) {
            reject("user_id_prefix: another entry has the same, so that one issuer could name the other's users");
        }
        match Keys::new(setting, clock) {
            Ok(keys) => issuers.push(Issuer {
                name: setting.issuer.clone(),
                audience: setting.audience.clone(),
                scopes: setting.scopes.clone(),
                user_id_prefix: setting.user_id_prefix.clone(),
                keys,
            }),
            Err(sentences) => sentences.iter().for_each(|sentence| reject(sentence)),
        }
    }
    issuers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::api_keys::generate;
    use crate::authn::caller::{Actor, Profile};
    use crate::authn::mint::ClaimSet;
    use crate::authn::testing::{AuthFixture, NOW, Outcome, claims, headers, issuer, peer};
    use crate::domain::{ActorKind, DisplayName, EmailAddress, Scope, UserId};
    use http::header::AUTHORIZATION;

    /// Authenticates with a token of these claims and with other headers.
    async fn authenticate(
        fixture: &AuthFixture,
        claims: &ClaimSet,
        others: &[(&'static str, &str)],
    ) -> Result<Caller, Refusal> {
        let token = fixture.key.mint(claims).map_err(|_| Refusal::CredentialMissing)?;
        let headers =
            headers(&format!("bEARER  {}", token.expose()), others).map_err(|_| Refusal::CredentialMissing)?;
        fixture.auth.authenticate(&headers, &peer()).await
    }

    fn service(scope: &str) -> ClaimSet {
        ClaimSet { scope: Some(scope.to_owned()), ..claims("billing") }
    }

    #[tokio::test]
    async fn a_token_without_roster_scopes_identifies_a_user() -> Outcome {
        let fixture = AuthFixture::new(&Scope::ALL)?;
        for (email, verified, name, expected) in [
            (Some("Ada@X.example"), Some(true), Some(" Ada "), (Some("ada@x.example"), true, Some("Ada"))),
            (Some("ada@x.example"), None, None, (Some("ada@x.example"), false, None)),
            (Some("not an address"), Some(true), Some("a\u{202e}b"), (None, false, None)),
            (None, Some(true), None, (None, false, None)),
        ] {
            let claims = ClaimSet {
                email: email.map(str::to_owned),
                email_verified: verified,
                name: name.map(str::to_owned),
                scope: Some("openid rosters:check ROSTER:operator".to_owned()),
                ..claims("ada")
            };
            let Caller::User(user) = authenticate(&fixture, &claims, &[]).await? else {
                return Err("not a user".into());
            };
            let claims = user.claims.ok_or("no claims")?;
            let Profile { email, email_verified, display_name } = &claims.profile;
            let email = email.as_ref().map(EmailAddress::normal);
            assert_eq!((email, *email_verified, display_name.as_ref().map(DisplayName::as_str)), expected);
            assert_eq!((user.id.as_str(), user.via, claims.issued_at), ("ada", None, NOW));
        }
        Ok(())
    }

    #[tokio::test]
    async fn malformed_profile_claims_are_ignored() -> Outcome {
        let fixture = AuthFixture::new(&[])?;
        let header = format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, fixture.key.id());
        for (claims, address, verified) in [
            (r#""email":"a@x.example","email_verified":"true","name":["a"]"#, true, true),
            (r#""email":"a@x.example","email_verified":"false""#, true, false),
            (r#""email":"a@x.example","email_verified":1,"name":null"#, true, false),
            (r#""email":["a@x.example"],"email_verified":true"#, false, false),
        ] {
            let claims =
                format!(r#"{{"iss":"https://id.example","aud":"roster","sub":"a","exp":1800000001.5,{claims}}}"#);
            let headers = headers(&format!("Bearer {}", fixture.key.sign(&header, &claims)), &[])?;
            let Caller::User(user) = fixture.auth.authenticate(&headers, &peer()).await? else {
                return Err("not a user".into());
            };
            let claims = user.claims.ok_or("no claims")?;
            assert_eq!((claims.profile.email.is_some(), claims.profile.email_verified), (address, verified));
            assert_eq!((&claims.profile.display_name, claims.issued_at), (&None, 0));
        }
        Ok(())
    }

    #[tokio::test]
    async fn roster_scopes_identify_services_and_operators() -> Outcome {
        let fixture = AuthFixture::new(&Scope::ALL)?;
        let Caller::Service(billing) =
            authenticate(&fixture, &service("openid roster:manage roster:check roster:check"), &[]).await?
        else {
            return Err("not a service".into());
        };
        assert_eq!((billing.name.as_str(), &*billing.scopes), ("billing", &[Scope::Check, Scope::Manage][..]));
        let root = authenticate(&fixture, &service("roster:check roster:operator"), &[]).await?;
        assert!(matches!(root, Caller::Operator(operator) if operator.name == "billing"));
        assert!(matches!(fixture.auth.authenticate(&HeaderMap::new(), &peer()).await?, Caller::Anonymous));
        Ok(())
    }

    #[tokio::test]
    async fn only_operators_and_services_with_act_as_act_on_behalf_of_a_user() -> Outcome {
        const FOR_ADA: (&str, &str) = (ON_BEHALF_OF, "ada");
        let fixture = AuthFixture::new(&Scope::ALL)?;
        for scope in ["roster:act-as", "roster:operator"] {
            let caller = authenticate(&fixture, &service(scope), &[FOR_ADA]).await?;
            let ada = Actor { kind: ActorKind::User, id: "ada".to_owned(), via: Some("billing".to_owned()) };
            assert_eq!(caller.actor(), Some(ada));
            assert!(matches!(caller, Caller::User(user) if user.claims.is_none()));
            for bad in [&[FOR_ADA, FOR_ADA][..], &[(ON_BEHALF_OF, "")], &[(ON_BEHALF_OF, "\u{e9}")]] {
                let refusal = authenticate(&fixture, &service(scope), bad).await.err();
                assert!(matches!(refusal, Some(Refusal::InvalidRequest(fields)) if fields[0].field == ON_BEHALF_OF));
            }
        }
        for claims in [service("roster:check roster:manage"), claims("ada")] {
            assert_eq!(authenticate(&fixture, &claims, &[FOR_ADA]).await.err(), Some(Refusal::OnBehalfOfNotAllowed));
        }
        let mut anonymous = HeaderMap::new();
        anonymous.insert(ON_BEHALF_OF, http::HeaderValue::from_static("ada"));
        assert_eq!(fixture.auth.authenticate(&anonymous, &peer()).await.err(), Some(Refusal::CredentialMissing));
        Ok(())
    }

    #[tokio::test]
    async fn a_cached_token_expires_like_any_other() -> Outcome {
        let fixture = AuthFixture::new(&[])?;
        let claims = ClaimSet { exp: NOW + 10, ..claims("ada") };
        let mut user_claims = Vec::new();
        for seconds in [0, 39] {
            fixture.advance(seconds);
            let Caller::User(user) = authenticate(&fixture, &claims, &[]).await? else {
                return Err("not a user".into());
            };
            user_claims.push(user.claims.ok_or("no claims")?);
        }
        // The second call used the cached token, so it sees the `applied` flag of the first.
        assert!(Arc::ptr_eq(&user_claims[0], &user_claims[1]));
        fixture.advance(1);
        assert_eq!(authenticate(&fixture, &claims, &[]).await.err(), Some(Refusal::CredentialExpired));
        assert_eq!(fixture.auth.cached_tokens(), 0);
        Ok(())
    }

    #[tokio::test]
    async fn recall_returns_only_callers_with_a_valid_cached_token() -> Outcome {
        let fixture = AuthFixture::new(&[Scope::Check, Scope::ActAs])?;
        let claims = ClaimSet { exp: NOW + 10, ..service("roster:check roster:act-as") };
        let token = format!("Bearer {}", fixture.key.mint(&claims)?.expose());
        let once = headers(&token, &[])?;
        let last = LastCredential::default();
        assert!(fixture.auth.recall(&once, &last).is_none());
        fixture.auth.authenticate(&once, &peer()).await?;
        assert!(last.find(&once[AUTHORIZATION]).is_none());
        let recalled = fixture.auth.recall(&once, &last).ok_or("not in the cache")?;
        // The same header value is found by its address; an equal value elsewhere in memory is not.
        assert!(last.find(&once[AUTHORIZATION]).is_some());
        assert!(last.find(&headers(&token, &[])?[AUTHORIZATION]).is_none());
        assert!(matches!(recalled.caller(), Caller::Service(service) if service.name == "billing"));
        for others in [&[(ON_BEHALF_OF, "ada")][..], &[("authorization", "Bearer x")], &[("authorization", &token)]] {
            assert!(fixture.auth.recall(&headers(&token, others)?, &last).is_none());
        }
        assert!(fixture.auth.recall(&HeaderMap::new(), &last).is_none());
        assert!(fixture.auth.recall(&headers(&format!("{token}x"), &[])?, &last).is_none());
        fixture.advance(39);
        assert!(fixture.auth.recall(&once, &last).is_some());
        fixture.advance(1);
        assert!(fixture.auth.recall(&once, &last).is_none());
        Ok(())
    }

    #[tokio::test]
    async fn recall_returns_no_caller_if_the_key_is_removed_or_the_file_is_due_for_a_reload() -> Outcome {
        let fixture = AuthFixture::new(&[])?;
        let claims = ClaimSet { exp: NOW + 86_400, ..claims("ada") };
        let headers = headers(&format!("Bearer {}", fixture.key.mint(&claims)?.expose()), &[])?;
        let last = LastCredential::default();
        fixture.auth.authenticate(&headers, &peer()).await?;
        assert!(fixture.auth.recall(&headers, &last).is_some());
        fixture.advance(limits::JWKS_MAX_AGE_SECONDS);
        assert!(fixture.auth.recall(&headers, &last).is_none());
        fixture.auth.authenticate(&headers, &peer()).await?;
        assert!(fixture.auth.recall(&headers, &last).is_some());
        std::fs::write(fixture.jwks_file(), crate::authn::mint::SigningKey::generate().public_jwks().to_string())?;
        fixture.advance(limits::JWKS_MAX_AGE_SECONDS);
        assert!(fixture.auth.authenticate(&headers, &peer()).await.is_err());
        assert!(fixture.auth.recall(&headers, &last).is_none());
        Ok(())
    }

    #[tokio::test]
    async fn hs256_tokens_and_api_keys_identify_callers() -> Outcome {
        let directory = tempfile::tempdir()?;
        let (path, secret, key) = (directory.path().join("secret"), "0123456789abcdef0123456789abcdef", generate());
        std::fs::write(&path, format!("{secret}\n"))?;
        let settings = format!(
            "[[issuers]]\nissuer = 'https://id.example'\naudience = 'roster'\nhs256_secret_file = '{}'\n\
             [[api_keys]]\nname = 'billing'\nscopes = ['check']\nsha256 = '{}'",
            path.display(),
            key.sha256
        );
        let clock = Clock::from_fn(|| std::time::UNIX_EPOCH + std::time::Duration::from_secs(NOW.unsigned_abs()));
        let auth = Authenticator::new(&toml::from_str(&settings)?, clock).map_err(|mistakes| mistakes.join("; "))?;
        for (secret, good) in [(secret, true), ("another secret of at least 32 bytes", false)] {
            let secret = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
            let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims("ada"), &secret)?;
            assert_eq!(auth.authenticate(&headers(&format!("Bearer {token}"), &[])?, &peer()).await.is_ok(), good);
        }
        let caller = auth.authenticate(&headers(&format!("Bearer {}", key.secret.expose()), &[])?, &peer()).await?;
        assert!(matches!(caller, Caller::Service(service) if service.name == "billing"));
        Ok(())
    }

    #[tokio::test]
    async fn user_id_prefixes_separate_the_users_of_issuers() -> Outcome {
        let directory = tempfile::tempdir()?;
        let jwks = directory.path().join("jwks.json");
        let key = crate::authn::mint::SigningKey::generate();
        std::fs::write(&jwks, key.public_jwks().to_string())?;
        let prefixed = |name: &str, prefix: &str| IssuerSettings {
            user_id_prefix: prefix.to_owned(),
            ..issuer(name, jwks.clone(), &[])
        };
        let issuers = vec![prefixed("https://one.example", ""), prefixed("https://two.example", "two|")];
        let clock = Clock::from_fn(|| std::time::UNIX_EPOCH + std::time::Duration::from_secs(NOW.unsigned_abs()));
        let auth =
            Authenticator::new(&AuthSettings { issuers, api_keys: Vec::new() }, clock).map_err(|all| all.join(" "))?;
        for (name, id) in [("https://one.example", "ada"), ("https://two.example", "two|ada")] {
            let token = key.mint(&ClaimSet { iss: name.to_owned(), ..claims("ada") })?;
            let caller = auth.authenticate(&headers(&format!("Bearer {}", token.expose()), &[])?, &peer()).await?;
            assert_eq!(caller.user().map(UserId::as_str), Some(id));
        }
        Ok(())
    }

    #[test]
    fn every_mistake_in_the_settings_is_reported_at_once() {
        let mistakes =
            |settings: &AuthSettings| Authenticator::new(settings, Clock::system()).err().unwrap_or_default();
        assert_eq!(mistakes(&AuthSettings::default()), [NO_CALLERS]);

        let absent = || std::path::PathBuf::from("absent.json");
        let two_sources = IssuerSettings { hs256_secret_file: Some(absent()), ..issuer("b", absent(), &[]) };
        let no_source = IssuerSettings { jwks_file: None, audience: String::new(), ..issuer("b", absent(), &[]) };
        let issuers = vec![issuer("", absent(), &[]), two_sources, no_source];
        let mistakes = mistakes(&AuthSettings { issuers, api_keys: Vec::new() });
        let settings: Vec<_> = mistakes.iter().filter_map(|mistake| mistake.split([':', ' ']).next()).collect();
        assert_eq!(
            settings,
            [
                "issuers[0].issuer",
                "issuers[0].jwks_file",
                "issuers[1].user_id_prefix",
                "issuers[1].jwks_file",
                "issuers[2].issuer",
                "issuers[2].audience",
                "issuers[2].user_id_prefix",
                "issuers[2].jwks_file"
            ]
        );
        for unknown in ["audiences = ['x']", "scopes = ['admin']", "keys = [{ algorithm = 'HS256', file = 'x' }]"] {
            let settings = format!("[[issuers]]\nissuer = 'a'\naudience = 'b'\n{unknown}");
            assert!(toml::from_str::<AuthSettings>(&settings).is_err(), "{unknown}");
        }
    }
}
