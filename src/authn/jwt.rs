//! Verification of bearer tokens (JWT).
//!
//! This module defines the accepted header and claims itself, in two types that reject everything else: the checks of
//! `aud` and `iss` in libraries accept a token that lacks the claim or has it in another type.

use super::api_keys;
use super::caller::{Caller, Profile, UserCaller, UserClaims};
use super::credential_error::CredentialError;
use super::keys::{KeySet, Keys};
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

/// An identity provider and its keys.
pub(super) struct Issuer {
    pub(super) name: String,
    pub(super) audience: String,
    /// The scopes that its tokens may contain.
    pub(super) scopes: Vec<Scope>,
    /// The prefix that turns a `sub` into a user id.
    pub(super) user_id_prefix: String,
    /// Shared with the settings of the next reload, if they name the same source.
    pub(super) keys: Arc<Keys>,
}

/// A parsed token. Nothing in it is verified.
pub(super) struct UnverifiedToken<'a> {
    header: TokenHeader,
    claims: TokenClaims,
    message: &'a str,
    signature: &'a str,
}

/// A token whose claims are valid, except perhaps for its expiry. Its signature is not verified.
pub(super) struct TokenCandidate {
    pub(super) token: VerifiedToken,
    pub(super) signature: SignatureCheck,
}

/// Everything that the verification of a signature needs. It is computed on another thread, so it borrows nothing.
pub(super) struct SignatureCheck {
    keys: Arc<KeySet>,
    key_id: Option<String>,
    algorithm: Algorithm,
    message: String,
    signature: String,
}

impl SignatureCheck {
    /// Verifies the signature: 20 to 60 µs of computation.
    pub(super) fn run(&self) -> Result<(), CredentialError> {
        self.keys.verify(self.key_id.as_deref(), self.algorithm, &self.message, &self.signature)
    }
}

/// A token with a valid signature and valid claims.
pub(super) struct VerifiedToken {
    pub(super) caller: Arc<Caller>,
    /// When the token becomes invalid, in seconds since 1970, including the leeway. The bound is exclusive.
    pub(super) expires_at: i64,
    /// The generation of the keys that verified it.
    pub(super) generation: u64,
}

/// The header parameters of a token. Keys and key addresses in a header (`jwk`, `jku`, `x5c`, `x5u`) are ignored.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    #[serde(default, deserialize_with = "deserialize_some")]
    kid: Option<String>,
    #[serde(default, deserialize_with = "deserialize_some")]
    crit: Option<IgnoredAny>,
}

/// The claims that roster reads. A repeated one is an error; all other claims are ignored.
#[derive(Deserialize)]
struct TokenClaims {
    iss: String,
    aud: OneOrMany,
    sub: String,
    exp: Seconds,
    #[serde(default, deserialize_with = "deserialize_some")]
    nbf: Option<Seconds>,
    #[serde(default, deserialize_with = "deserialize_some")]
    iat: Option<Seconds>,
    #[serde(default, deserialize_with = "deserialize_some")]
    scope: Option<OneOrMany>,
    // Profile claims do not affect the validity of the token, so a malformed value is ignored.
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

/// A time in seconds since 1970. RFC 7519 allows fractions; they are truncated.
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

/// Deserializes a field that is present: `null` is a value of the wrong type, not an absent field.
fn deserialize_some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
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
    /// Parses a token without verifying it.
    pub(super) fn parse(text: &'a str) -> Result<Self, CredentialError> {
        let (message, signature) = text.rsplit_once('.').ok_or(CredentialError::MalformedToken)?;
        let (header, claims) = message.split_once('.').ok_or(CredentialError::MalformedToken)?;
        let header = parse_object(header, CredentialError::InvalidHeader)?;
        let claims = parse_object(claims, CredentialError::InvalidClaims)?;
        Ok(Self { header, claims, message, signature })
    }

    /// Returns the issuer that the token claims to be from.
    pub(super) fn issuer(&self) -> &str {
        &self.claims.iss
    }

    /// Returns the id of the key that the token claims to be signed with.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }
}

fn parse_object<T: DeserializeOwned>(part: &str, error: CredentialError) -> Result<T, CredentialError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| CredentialError::MalformedToken)?;
    // Serde also deserializes a struct from an array.
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(CredentialError::MalformedToken);
    }
    serde_json::from_slice(&json).map_err(|_| error)
}

impl Issuer {
    /// Checks everything except the signature and the expiry of a token that claims to be from this issuer.
    pub(super) async fn check(&self, token: &UnverifiedToken<'_>, now: i64) -> Result<TokenCandidate, CredentialError> {
        let UnverifiedToken { header, claims, message, signature } = token;
        if header.crit.is_some() {
            return Err(CredentialError::CriticalExtension);
        }
        let algorithm = Algorithm::parse(&header.alg).ok_or(CredentialError::UnsupportedAlgorithm)?;
        let id = header.kid.as_deref();
        let keys = self.keys.current_for_token(id, algorithm, now).await?;
        keys.find(id, algorithm)?;
        if !claims.aud.as_slice().contains(&self.audience) {
            return Err(CredentialError::WrongAudience);
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
        let token = VerifiedToken { caller: Arc::new(caller), expires_at, generation: keys.generation };
        let (message, signature, key_id) = ((*message).to_owned(), (*signature).to_owned(), header.kid.clone());
        Ok(TokenCandidate { token, signature: SignatureCheck { keys, key_id, algorithm, message, signature } })
    }

    /// Returns the caller: a service or an operator if the token has a roster scope, otherwise a user.
    fn caller(&self, claims: &TokenClaims) -> Result<Caller, CredentialError> {
        UserId::parse(&claims.sub).map_err(|_| CredentialError::InvalidSubject)?;
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
                .map_err(|_| CredentialError::InvalidSubject)?;
            let issued_at = claims.iat.map_or(0, |Seconds(at)| at);
            let claims = UserClaims { profile: claims.profile(), issued_at, applied: AtomicBool::new(false) };
            return Ok(Caller::User(UserCaller { id, via: None, claims: Some(Arc::new(claims)) }));
        }
        Ok(api_keys::caller_with_scopes(claims.sub.clone(), Some(self.name.as_str().into()), scopes))
    }
}

impl TokenClaims {
    fn profile(&self) -> Profile {
        let email = self.email.as_str().and_then(|text| EmailAddress::parse(text).ok());
        // Some providers send this claim as a string.
        let verified = self.email_verified == true || self.email_verified == "true";
        Profile {
            email_verified: email.is_some() && verified,
            email,
            display_name: self.name.as_str().and_then(|text| DisplayName::parse(text).ok()),
        }
    }
}
