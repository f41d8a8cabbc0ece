//! From headers to the caller.

use super::api_keys::{self, ApiKeys};
use super::caller::{Caller, UserCaller};
use super::credential_error::{CredentialError, ON_BEHALF_OF};
use super::jwt::{Issuer, UnverifiedToken, VerifiedToken};
use super::keys::Keys;
use super::limits;
use super::settings::{AuthSettings, IssuerSettings};
use crate::clock::Clock;
use crate::domain::{Refusal, Scope, UserId};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use std::sync::{Arc, Mutex, PoisonError};

/// Tells who is calling. One for the whole server. Cheap to clone; clones are one authenticator.
#[derive(Clone)]
pub struct Authenticator {
    issuers: Arc<[Issuer]>,
    api_keys: Arc<ApiKeys>,
    /// Tokens that were good, by their SHA-256: one nobody can choose two tokens for.
    cache: Arc<Cache<[u8; 32], Arc<CacheEntry>>>,
    clock: Clock,
}

/// A token that was good. A refusal is never remembered.
struct CacheEntry {
    verified: VerifiedToken,
    /// The issuer, by its place in the list.
    issuer: usize,
}

impl CacheEntry {
    /// Whether it still is good, by keys of this generation.
    fn is_good(&self, now: i64, generation: u64) -> bool {
        now < self.verified.expires_at && generation == self.verified.generation
    }
}

/// A caller who was met before.
pub struct CachedCaller(Arc<CacheEntry>);

impl CachedCaller {
    /// Who.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.0.verified.caller
    }
}

/// The credential that a connection has shown last.
///
/// The next call mostly shows it again, and then its header is not only alike but the same place in memory, in the
/// connection's table of headers (HPACK's): that is asked, and nothing is hashed. Bytes are not compared: how long that
/// takes would tell others on a shared connection how much of a guess is right.
#[derive(Default)]
pub struct LastCredential(Mutex<Option<(HeaderValue, Arc<CacheEntry>)>>);

impl LastCredential {
    fn find(&self, value: &HeaderValue) -> Option<Arc<CacheEntry>> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It is kept here, so nothing else can have come to stand in its place.
        let same = |(kept, _): &&(HeaderValue, _)| std::ptr::eq(kept.as_bytes(), value.as_bytes());
        shown.as_ref().filter(same).map(|(_, hit)| hit.clone())
    }

    fn keep(&self, value: &HeaderValue, hit: &Arc<CacheEntry>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((value.clone(), hit.clone()));
    }
}

/// Why the caller is refused, and by whose keys, as far as that is known.
pub(super) struct Rejection<'a> {
    pub(super) fault: CredentialError,
    issuer: Option<&'a str>,
}

impl From<CredentialError> for Rejection<'_> {
    fn from(fault: CredentialError) -> Self {
        Self { fault, issuer: None }
    }
}

impl Authenticator {
    /// Reads the keys that the settings name.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, one sentence each, which begins with the setting's name.
    pub fn new(settings: &AuthSettings, clock: Clock) -> Result<Self, Vec<String>> {
        if settings.issuers.is_empty() && settings.api_keys.is_empty() {
            return Err(vec!["no issuer and no api key is configured: nobody could call".to_owned()]);
        }
        let mut mistakes = Vec::new();
        let issuers = read_issuers(&settings.issuers, &clock, &mut mistakes);
        let api_keys = ApiKeys::new(&settings.api_keys, &mut mistakes);
        if mistakes.is_empty() {
            let cache = Arc::new(Cache::new(limits::REMEMBERED_TOKENS));
            Ok(Self { issuers: issuers.into(), api_keys: Arc::new(api_keys), cache, clock })
        } else {
            Err(mistakes)
        }
    }

    /// Who is calling. A bad credential is refused, never taken for none.
    ///
    /// # Errors
    /// - [`Refusal::CredentialInvalid`] or [`Refusal::CredentialExpired`] for a credential that is not accepted,
    /// - [`Refusal::CredentialMissing`] for `roster-on-behalf-of` without a credential: one is what it needs,
    /// - [`Refusal::OnBehalfOfNotAllowed`] for it from a user, or from a service without the scope `act-as`,
    /// - [`Refusal::InvalidRequest`] if it is there twice or is not a user's id.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        self.recognize(headers).await.map_err(|Rejection { fault, issuer }| {
            tracing::info!(issuer, why = %fault, "credential refused");
            fault.refusal()
        })
    }

    /// Who is calling, if that is known at once: one whose token is remembered, and who acts for nobody else. None says
    /// nothing about the credential.
    #[must_use]
    pub fn recall(&self, headers: &HeaderMap, shown: &LastCredential) -> Option<CachedCaller> {
        let value = the_one(headers).ok()?.filter(|_| !headers.contains_key(ON_BEHALF_OF))?;
        let hit = shown.find(value).or_else(|| {
            let hit = self.cache.get::<[u8; 32]>(&Sha256::digest(bearer(value).ok()?).into())?;
            shown.keep(value, &hit);
            Some(hit)
        })?;
        let now = self.clock.unix_seconds();
        let keys = self.issuers[hit.issuer].keys.present_now(now)?;
        hit.is_good(now, keys.generation).then_some(CachedCaller(hit))
    }

    /// Number of verified tokens in the cache.
    #[must_use]
    pub fn cached_tokens(&self) -> usize {
        self.cache.len()
    }

    /// Who is calling, or why that is not believed.
    pub(super) async fn recognize(&self, headers: &HeaderMap) -> Result<Caller, Rejection<'_>> {
        let caller = match the_one(headers)?.map(bearer).transpose()? {
            None => Caller::Anonymous,
            Some(text) if text.starts_with(api_keys::PREFIX) => {
                self.api_keys.find(text).ok_or(CredentialError::UnknownApiKey)?
            }
            Some(text) => self.token(text).await?,
        };
        Ok(on_behalf(caller, headers)?)
    }

    /// Whose token this is.
    async fn token(&self, text: &str) -> Result<Caller, Rejection<'_>> {
        let now = self.clock.unix_seconds();
        let digest: [u8; 32] = Sha256::digest(text).into();
        if let Some(hit) = self.cache.get(&digest) {
            let generation = self.issuers[hit.issuer].keys.present(now).await.generation;
            if hit.is_good(now, generation) {
                return Ok(hit.verified.caller.clone());
            }
            self.cache.remove(&digest);
        }
        let token = UnverifiedToken::parse(text)?;
        let (place, issuer) = (self.issuers.iter().enumerate())
            .find(|(_, issuer)| issuer.name == token.issuer())
            .ok_or(CredentialError::UnknownIssuer)?;
        let verified =
            issuer.verify(&token, now).await.map_err(|fault| Rejection { fault, issuer: Some(&issuer.name) })?;
        let caller = verified.caller.clone();
        self.cache.insert(digest, Arc::new(CacheEntry { verified, issuer: place }));
        Ok(caller)
    }
}

fn read_issuers(settings: &[IssuerSettings], clock: &Clock, mistakes: &mut Vec<String>) -> Vec<Issuer> {
    let mut issuers: Vec<Issuer> = Vec::with_capacity(settings.len());
    for (index, one) in settings.iter().enumerate() {
        let mut wrong = |sentence: &str| mistakes.push(format!("issuers[{index}].{sentence}"));
        if one.issuer.is_empty() {
            wrong("issuer: the iss of its tokens is needed");
        }
        if settings[..index].iter().any(|earlier| earlier.issuer == one.issuer) {
            wrong("issuer: another entry has the same");
        }
        if one.audience.is_empty() {
            wrong("audience: the aud of tokens for this server is needed");
        }
        if settings[..index].iter().any(|earlier| earlier.user_id_prefix == one.user_id_prefix) {
            wrong("user_id_prefix: another entry has the same, so that one issuer could name the other's users");
        }
        match Keys::new(one, clock) {
            Ok(keys) => issuers.push(Issuer {
                name: one.issuer.clone(),
                audience: one.audience.clone(),
                scopes: one.scopes.clone(),
                user_id_prefix: one.user_id_prefix.clone(),
                keys,
            }),
            Err(sentence) => wrong(&sentence),
        }
    }
    issuers
}

/// The header of the credential, if there is one; once.
fn the_one(headers: &HeaderMap) -> Result<Option<&HeaderValue>, CredentialError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next();
    if values.next().is_some() { Err(CredentialError::Repeated) } else { Ok(value) }
}

/// The credential in `authorization: Bearer …`.
fn bearer(value: &HeaderValue) -> Result<&str, CredentialError> {
    let (scheme, text) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(CredentialError::NotBearer)?;
    let text = text.trim_start_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || text.is_empty() {
        return Err(CredentialError::NotBearer);
    }
    if text.len() > limits::TOKEN_BYTES {
        return Err(CredentialError::TooLong);
    }
    Ok(text)
}

/// The user for whom a service or an operator acts, if the headers name one.
fn on_behalf(caller: Caller, headers: &HeaderMap) -> Result<Caller, CredentialError> {
    let mut values = headers.get_all(ON_BEHALF_OF).iter();
    let Some(value) = values.next() else { return Ok(caller) };
    let via = match caller {
        Caller::Anonymous => return Err(CredentialError::OnBehalfOfByNobody),
        Caller::Service(service) if service.has(Scope::ActAs) => service.name,
        Caller::Operator(operator) => operator.name,
        Caller::User(_) | Caller::Service(_) => return Err(CredentialError::OnBehalfOfNotAllowed),
    };
    let id = value.to_str().ok().and_then(|text| UserId::parse(text).ok());
    match (id, values.next()) {
        (Some(id), None) => Ok(Caller::User(UserCaller { id, via: Some(via), claims: None })),
        _ => Err(CredentialError::OnBehalfOfWhom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::api_keys::generate;
    use crate::authn::caller::{Actor, Profile};
    use crate::authn::mint::ClaimSet;
    use crate::authn::testing::{AuthFixture, NOW, Outcome, claims, headers, issuer};
    use crate::domain::{DisplayName, EmailAddress};

    /// Who a token with these claims is, and with these further headers.
    async fn ask(bench: &AuthFixture, claims: &ClaimSet, others: &[(&'static str, &str)]) -> Result<Caller, Refusal> {
        let token = bench.key.mint(claims).map_err(|_| Refusal::CredentialMissing)?;
        let headers =
            headers(&format!("bEARER  {}", token.expose()), others).map_err(|_| Refusal::CredentialMissing)?;
        bench.auth.authenticate(&headers).await
    }

    fn service(scope: &str) -> ClaimSet {
        ClaimSet { scope: Some(scope.to_owned()), ..claims("billing") }
    }

    #[tokio::test]
    async fn a_token_without_scopes_of_rosters_is_a_users() -> Outcome {
        let bench = AuthFixture::new(&Scope::ALL)?;
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
            let Caller::User(user) = ask(&bench, &claims, &[]).await? else { return Err("not a user".into()) };
            let claims = user.claims.ok_or("no claims")?;
            let Profile { email, email_verified, display_name } = &claims.profile;
            let email = email.as_ref().map(EmailAddress::normal);
            assert_eq!((email, *email_verified, display_name.as_ref().map(DisplayName::as_str)), expected);
            assert_eq!((user.id.as_str(), user.via, claims.issued_at), ("ada", None, NOW));
        }
        Ok(())
    }

    #[tokio::test]
    async fn strange_profile_claims_are_ignored() -> Outcome {
        let bench = AuthFixture::new(&[])?;
        let header = format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, bench.key.id());
        for (claims, address, verified) in [
            (r#""email":"a@x.example","email_verified":"true","name":["a"]"#, true, true),
            (r#""email":"a@x.example","email_verified":"false""#, true, false),
            (r#""email":"a@x.example","email_verified":1,"name":null"#, true, false),
            (r#""email":["a@x.example"],"email_verified":true"#, false, false),
        ] {
            let claims =
                format!(r#"{{"iss":"https://id.example","aud":"roster","sub":"a","exp":1800000001.5,{claims}}}"#);
            let headers = headers(&format!("Bearer {}", bench.key.sign(&header, &claims)), &[])?;
            let Caller::User(user) = bench.auth.authenticate(&headers).await? else { return Err("not a user".into()) };
            let claims = user.claims.ok_or("no claims")?;
            assert_eq!((claims.profile.email.is_some(), claims.profile.email_verified), (address, verified));
            assert_eq!((&claims.profile.display_name, claims.issued_at), (&None, 0));
        }
        Ok(())
    }

    #[tokio::test]
    async fn scopes_make_services_and_operators() -> Outcome {
        let bench = AuthFixture::new(&Scope::ALL)?;
        let Caller::Service(billing) =
            ask(&bench, &service("openid roster:manage roster:check roster:check"), &[]).await?
        else {
            return Err("not a service".into());
        };
        assert_eq!((billing.name.as_str(), &*billing.scopes), ("billing", &[Scope::Check, Scope::Manage][..]));
        let root = ask(&bench, &service("roster:check roster:operator"), &[]).await?;
        assert!(matches!(root, Caller::Operator(operator) if operator.name == "billing"));
        assert!(matches!(bench.auth.authenticate(&HeaderMap::new()).await?, Caller::Anonymous));
        Ok(())
    }

    #[tokio::test]
    async fn who_may_act_for_a_user() -> Outcome {
        const FOR_ADA: (&str, &str) = (ON_BEHALF_OF, "ada");
        let bench = AuthFixture::new(&Scope::ALL)?;
        for scope in ["roster:act-as", "roster:operator"] {
            let caller = ask(&bench, &service(scope), &[FOR_ADA]).await?;
            let ada = Actor { kind: "user", id: "ada".to_owned(), via: Some("billing".to_owned()) };
            assert_eq!(caller.actor(), Some(ada));
            assert!(matches!(caller, Caller::User(user) if user.claims.is_none()));
            for bad in [&[FOR_ADA, FOR_ADA][..], &[(ON_BEHALF_OF, "")], &[(ON_BEHALF_OF, "\u{e9}")]] {
                let refusal = ask(&bench, &service(scope), bad).await.err();
                assert!(matches!(refusal, Some(Refusal::InvalidRequest(fields)) if fields[0].field == ON_BEHALF_OF));
            }
        }
        for claims in [service("roster:check roster:manage"), claims("ada")] {
            assert_eq!(ask(&bench, &claims, &[FOR_ADA]).await.err(), Some(Refusal::OnBehalfOfNotAllowed));
        }
        let mut nobody = HeaderMap::new();
        nobody.insert(ON_BEHALF_OF, http::HeaderValue::from_static("ada"));
        assert_eq!(bench.auth.authenticate(&nobody).await.err(), Some(Refusal::CredentialMissing));
        Ok(())
    }

    #[tokio::test]
    async fn a_remembered_token_ends_like_any_other() -> Outcome {
        let bench = AuthFixture::new(&[])?;
        let claims = ClaimSet { exp: NOW + 10, ..claims("ada") };
        let mut marks = Vec::new();
        for seconds in [0, 39] {
            bench.wait(seconds);
            let Caller::User(user) = ask(&bench, &claims, &[]).await? else { return Err("not a user".into()) };
            marks.push(user.claims.ok_or("no claims")?);
        }
        // The second time it was the remembered one, and what was noted on the first is still there.
        assert!(Arc::ptr_eq(&marks[0], &marks[1]));
        bench.wait(1);
        assert_eq!(ask(&bench, &claims, &[]).await.err(), Some(Refusal::CredentialExpired));
        assert_eq!(bench.auth.cached_tokens(), 0);
        Ok(())
    }

    #[tokio::test]
    async fn only_who_was_met_and_still_is_good_is_recalled() -> Outcome {
        let bench = AuthFixture::new(&[Scope::Check, Scope::ActAs])?;
        let claims = ClaimSet { exp: NOW + 10, ..service("roster:check roster:act-as") };
        let token = format!("Bearer {}", bench.key.mint(&claims)?.expose());
        let once = headers(&token, &[])?;
        let shown = LastCredential::default();
        assert!(bench.auth.recall(&once, &shown).is_none());
        bench.auth.authenticate(&once).await?;
        assert!(shown.find(&once[AUTHORIZATION]).is_none());
        let recalled = bench.auth.recall(&once, &shown).ok_or("forgotten")?;
        // From now on by its place; what only looks alike is looked up.
        assert!(shown.find(&once[AUTHORIZATION]).is_some());
        assert!(shown.find(&headers(&token, &[])?[AUTHORIZATION]).is_none());
        assert!(matches!(recalled.caller(), Caller::Service(service) if service.name == "billing"));
        for others in [&[(ON_BEHALF_OF, "ada")][..], &[("authorization", "Bearer x")], &[("authorization", &token)]] {
            assert!(bench.auth.recall(&headers(&token, others)?, &shown).is_none());
        }
        assert!(bench.auth.recall(&HeaderMap::new(), &shown).is_none());
        assert!(bench.auth.recall(&headers(&format!("{token}x"), &[])?, &shown).is_none());
        bench.wait(39);
        assert!(bench.auth.recall(&once, &shown).is_some());
        bench.wait(1);
        assert!(bench.auth.recall(&once, &shown).is_none());
        Ok(())
    }

    #[tokio::test]
    async fn nobody_is_recalled_by_keys_that_are_gone_or_due_to_be_read() -> Outcome {
        let bench = AuthFixture::new(&[])?;
        let claims = ClaimSet { exp: NOW + 86_400, ..claims("ada") };
        let headers = headers(&format!("Bearer {}", bench.key.mint(&claims)?.expose()), &[])?;
        let shown = LastCredential::default();
        bench.auth.authenticate(&headers).await?;
        assert!(bench.auth.recall(&headers, &shown).is_some());
        bench.wait(limits::JWKS_AGE_SECONDS);
        assert!(bench.auth.recall(&headers, &shown).is_none());
        bench.auth.authenticate(&headers).await?;
        assert!(bench.auth.recall(&headers, &shown).is_some());
        std::fs::write(bench.jwks_file(), crate::authn::mint::SigningKey::generate().public_jwks().to_string())?;
        bench.wait(limits::JWKS_AGE_SECONDS);
        assert!(bench.auth.authenticate(&headers).await.is_err());
        assert!(bench.auth.recall(&headers, &shown).is_none());
        Ok(())
    }

    #[tokio::test]
    async fn a_shared_secret_verifies_hs256_and_an_api_key_is_a_credential() -> Outcome {
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
            assert_eq!(auth.authenticate(&headers(&format!("Bearer {token}"), &[])?).await.is_ok(), good);
        }
        let caller = auth.authenticate(&headers(&format!("Bearer {}", key.secret.expose()), &[])?).await?;
        assert!(matches!(caller, Caller::Service(service) if service.name == "billing"));
        Ok(())
    }

    #[tokio::test]
    async fn an_issuer_names_only_its_own_users() -> Outcome {
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
            let caller = auth.authenticate(&headers(&format!("Bearer {}", token.expose()), &[])?).await?;
            assert_eq!(caller.user().map(UserId::as_str), Some(id));
        }
        Ok(())
    }

    #[test]
    fn settings_are_checked_all_at_once() {
        let mistakes =
            |settings: &AuthSettings| Authenticator::new(settings, Clock::system()).err().unwrap_or_default();
        let nobody = "no issuer and no api key is configured: nobody could call";
        assert_eq!(mistakes(&AuthSettings::default()), [nobody]);

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
