//! Tokens: whether one is good, and who it says is calling.
//!
//! The library does the signature and nothing else. Its checks of `aud` and `iss` let a token pass that lacks the claim
//! or carries it in another type, and it reads the time from the machine; so what a token may look like stands here,
//! in two types that refuse everything else.

use super::api_keys;
use super::caller::{Caller, Profile, UserCaller, UserClaims};
use super::credential_error::CredentialError;
use super::keys::Keys;
use super::limits::LEEWAY_SECONDS;
use super::settings::Algorithm;
use crate::domain::{DisplayName, EmailAddress, Scope, UserId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// One identity provider.
pub(super) struct Issuer {
    pub(super) name: String,
    pub(super) audience: String,
    /// The scopes that it may grant.
    pub(super) scopes: Vec<Scope>,
    /// What stands before each `sub` in the ids of its users.
    pub(super) user_id_prefix: String,
    pub(super) keys: Keys,
}

/// A token that was read, and nothing of it believed.
pub(super) struct UnverifiedToken<'a> {
    header: TokenHeader,
    claims: TokenClaims,
    message: &'a str,
    signature: &'a str,
}

/// A token that is good.
pub(super) struct VerifiedToken {
    pub(super) caller: Caller,
    /// Until when, in seconds since 1970, the leeway included: at this second it no longer is.
    pub(super) expires_at: i64,
    /// The generation of the keys that verified it.
    pub(super) generation: u64,
}

/// What is read of a token's header. Keys and addresses of keys in it (`jwk`, `jku`, `x5c`, `x5u`) are not.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    #[serde(default, deserialize_with = "present")]
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<IgnoredAny>,
}

/// The claims that are read. One of them twice is an error; others may be what they like.
#[derive(Deserialize)]
struct TokenClaims {
    iss: String,
    aud: OneOrMany,
    sub: String,
    exp: Seconds,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<Seconds>,
    #[serde(default, deserialize_with = "present")]
    iat: Option<Seconds>,
    #[serde(default, deserialize_with = "present")]
    scope: Option<OneOrMany>,
    // What is said of a person decides nothing about the token, so a strange value is no more than ignored.
    #[serde(default)]
    email: Value,
    #[serde(default)]
    email_verified: Value,
    #[serde(default)]
    name: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Seconds since 1970. RFC 7519 allows fractions; they are cut off.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "serde_json::Number")]
struct Seconds(i64);

impl TryFrom<serde_json::Number> for Seconds {
    type Error = &'static str;
    fn try_from(number: serde_json::Number) -> Result<Self, Self::Error> {
        let whole = |seconds| i64::try_from(Duration::try_from_secs_f64(seconds).ok()?.as_secs()).ok();
        number.as_i64().or_else(|| whole(number.as_f64()?)).map(Self).ok_or("not a time")
    }
}

/// Reads a value that is there: `null` is a value of the wrong type, not an absent one.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl OneOrMany {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl<'a> UnverifiedToken<'a> {
    /// Reads a token.
    pub(super) fn parse(text: &'a str) -> Result<Self, CredentialError> {
        let (message, signature) = text.rsplit_once('.').ok_or(CredentialError::NotAToken)?;
        let (header, claims) = message.split_once('.').ok_or(CredentialError::NotAToken)?;
        let header = parse_object(header, CredentialError::Header)?;
        let claims = parse_object(claims, CredentialError::Claims)?;
        Ok(Self { header, claims, message, signature })
    }

    /// Who it claims to be from.
    pub(super) fn issuer(&self) -> &str {
        &self.claims.iss
    }
}

fn parse_object<T: DeserializeOwned>(part: &str, fault: CredentialError) -> Result<T, CredentialError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| CredentialError::NotAToken)?;
    // Serde would fill a struct from a list as well.
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(CredentialError::NotAToken);
    }
    serde_json::from_slice(&json).map_err(|_| fault)
}

impl Issuer {
    /// Checks a token that claims to be of this issuer.
    pub(super) async fn verify(&self, token: &UnverifiedToken<'_>, now: i64) -> Result<VerifiedToken, CredentialError> {
        let UnverifiedToken { header, claims, message, signature } = token;
        if header.crit.is_some() {
            return Err(CredentialError::Critical);
        }
        let algorithm = Algorithm::parse(&header.alg).ok_or(CredentialError::UnknownAlgorithm)?;
        let id = header.kid.as_deref();
        let keys = self.keys.for_token(id, algorithm, now).await;
        keys.verify(id, algorithm, message, signature)?;
        if !claims.aud.as_slice().contains(&self.audience) {
            return Err(CredentialError::Audience);
        }
        let caller = self.caller(claims)?;
        let latest = now.saturating_add(LEEWAY_SECONDS);
        if claims.nbf.is_some_and(|Seconds(at)| at > latest) {
            return Err(CredentialError::NotYetValid);
        }
        if claims.iat.is_some_and(|Seconds(at)| at > latest) {
            return Err(CredentialError::IssuedInFuture);
        }
        let expires_at = claims.exp.0.saturating_add(LEEWAY_SECONDS);
        if now >= expires_at {
            return Err(CredentialError::Expired);
        }
        Ok(VerifiedToken { caller, expires_at, generation: keys.generation })
    }

    /// A service or an operator if there is a scope of roster's on the token, else a user.
    fn caller(&self, claims: &TokenClaims) -> Result<Caller, CredentialError> {
        UserId::parse(&claims.sub).map_err(|_| CredentialError::Subject)?;
        let texts = claims.scope.as_ref().map_or(&[][..], OneOrMany::as_slice);
        let words = texts.iter().flat_map(|text| text.split_ascii_whitespace());
        let mut scopes = Vec::new();
        for name in words.filter_map(|word| word.strip_prefix("roster:")) {
            let scope = Scope::parse(name).map_err(|_| CredentialError::UnknownScope)?;
            if !self.scopes.contains(&scope) {
                return Err(CredentialError::ScopeNotGranted);
            }
            scopes.push(scope);
        }
        if scopes.is_empty() {
            let id = UserId::parse(&format!("{}{}", self.user_id_prefix, claims.sub))
                .map_err(|_| CredentialError::Subject)?;
            let issued_at = claims.iat.map_or(0, |Seconds(at)| at);
            let claims = UserClaims { profile: claims.profile(), issued_at, applied: AtomicBool::new(false) };
            return Ok(Caller::User(UserCaller { id, via: None, claims: Some(Arc::new(claims)) }));
        }
        Ok(api_keys::service(claims.sub.clone(), scopes))
    }
}

impl TokenClaims {
    fn profile(&self) -> Profile {
        let email = self.email.as_str().and_then(|text| EmailAddress::parse(text).ok());
        // Some providers write it as a text.
        let verified = self.email_verified == true || self.email_verified == "true";
        Profile {
            email_verified: email.is_some() && verified,
            email,
            display_name: self.name.as_str().and_then(|text| DisplayName::parse(text).ok()),
        }
    }
}
