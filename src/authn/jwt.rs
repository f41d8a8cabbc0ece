//! Verification of bearer tokens (JWT).
//!
//! This module checks the header and the claims itself, and rejects every value that it does not expect: the checks of
//! `aud` and `iss` in libraries accept a token that lacks the claim or has it in another type.

use super::caller::Caller;
use super::claims::Claims;
use super::credential_error::CredentialError;
use super::keys::{KeySet, Keys};
use super::limits::LEEWAY_SECONDS;
use super::settings::{Algorithm, IssuerSettings};
use super::tenant::{IssuerName, matched_prefix};
use super::token_rules::TokenRules;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Number;
use std::sync::Arc;
use std::time::Duration;

/// An identity provider and its keys.
pub(super) struct Issuer {
    pub(super) name: IssuerName,
    rules: TokenRules,
    /// The prefix that turns the id in a token into a user id.
    user_id_prefix: String,
    /// The prefixes of other issuers that no user id of this one may begin with.
    foreign_prefixes: Vec<String>,
    /// Shared with the settings of the next reload, if they name the same source.
    pub(super) keys: Arc<Keys>,
}

/// A parsed token. Nothing in it is verified.
pub(super) struct UnverifiedToken<'a> {
    header: TokenHeader,
    issuer: String,
    /// The claims, in JSON.
    claims: Vec<u8>,
    message: &'a str,
    signature: &'a str,
}

/// A token whose claims are valid, except perhaps for its expiry. Its signature is not verified.
pub(super) struct TokenCandidate {
    pub(super) content: TokenContent,
    pub(super) signature: SignatureCheck,
}

/// What a token says, if its signature is valid.
pub(super) struct TokenContent {
    /// `None` for a service without a roster scope.
    caller: Option<Arc<Caller>>,
    expires_at: i64,
    generation: u64,
}

impl TokenContent {
    /// Returns the token. Its signature has to be valid: the caller receives the reason of these errors.
    pub(super) fn accept(self, now: i64) -> Result<VerifiedToken, CredentialError> {
        let Self { caller, expires_at, generation } = self;
        if now >= expires_at {
            return Err(CredentialError::Expired);
        }
        let caller = caller.ok_or(CredentialError::ServiceWithoutScope)?;
        Ok(VerifiedToken { caller, expires_at, generation })
    }
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

/// The claim that says which rules apply to the others. A repeated one is an error.
#[derive(Deserialize)]
struct IssuerClaim {
    iss: String,
}

/// Deserializes a field that is present: `null` is a value of the wrong type, not an absent field.
fn deserialize_some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl<'a> UnverifiedToken<'a> {
    /// Parses a token without verifying it.
    pub(super) fn parse(text: &'a str) -> Result<Self, CredentialError> {
        let (message, signature) = text.rsplit_once('.').ok_or(CredentialError::MalformedToken)?;
        let (header, claims) = message.split_once('.').ok_or(CredentialError::MalformedToken)?;
        let header = parse_object(&decode_object(header)?, CredentialError::InvalidHeader)?;
        let claims = decode_object(claims)?;
        let IssuerClaim { iss: issuer } = parse_object(&claims, CredentialError::InvalidClaims)?;
        Ok(Self { header, issuer, claims, message, signature })
    }

    /// Returns the issuer that the token claims to be from.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns the id of the key that the token claims to be signed with.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }
}

/// Decodes a part of a token, which has to be a JSON object.
fn decode_object(part: &str) -> Result<Vec<u8>, CredentialError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| CredentialError::MalformedToken)?;
    // Serde also deserializes a struct from an array.
    if json.trim_ascii_start().starts_with(b"{") { Ok(json) } else { Err(CredentialError::MalformedToken) }
}

fn parse_object<T: DeserializeOwned>(json: &[u8], error: CredentialError) -> Result<T, CredentialError> {
    serde_json::from_slice(json).map_err(|_| error)
}

/// Returns a time in seconds since 1970. RFC 7519 allows fractions; they are truncated.
fn seconds(claims: &Claims, name: &str) -> Result<Option<i64>, CredentialError> {
    let whole = |seconds| i64::try_from(Duration::try_from_secs_f64(seconds).ok()?.as_secs()).ok();
    let parse = |number: &Number| number.as_i64().or_else(|| whole(number.as_f64()?));
    claims.number(name)?.map(|number| parse(number).ok_or(CredentialError::InvalidClaims)).transpose()
}

impl Issuer {
    /// Returns the issuer of an entry of the settings with these keys. Every mistake in the entry that does not concern
    /// its keys is added; it begins with the name of the setting.
    pub(super) fn new(
        settings: &IssuerSettings,
        foreign_prefixes: Vec<String>,
        keys: Option<Arc<Keys>>,
        mistakes: &mut Vec<String>,
    ) -> Option<Self> {
        let rules = TokenRules::new(settings, mistakes);
        let name = IssuerName::parse(&settings.issuer, settings.tenants.as_ref()).ok()?;
        Some(Self { name, rules, user_id_prefix: settings.user_id_prefix.clone(), foreign_prefixes, keys: keys? })
    }

    /// Returns whether both refuse the users of the same other issuers.
    pub(super) fn has_same_users(&self, other: &Self) -> bool {
        self.foreign_prefixes == other.foreign_prefixes
    }

    /// Checks everything except the signature and the expiry of a token that claims to be from this issuer.
    pub(super) async fn check(&self, token: &UnverifiedToken<'_>, now: i64) -> Result<TokenCandidate, CredentialError> {
        let UnverifiedToken { header, issuer, claims, message, signature } = token;
        if header.crit.is_some() {
            return Err(CredentialError::CriticalExtension);
        }
        let algorithm = Algorithm::parse(&header.alg).ok_or(CredentialError::UnsupportedAlgorithm)?;
        let id = header.kid.as_deref();
        let keys = self.keys.current_for_token(id, algorithm, now).await?;
        keys.find(id, algorithm)?;
        let content = self.read(issuer, claims, keys.generation, now)?;
        let (message, signature, key_id) = ((*message).to_owned(), (*signature).to_owned(), header.kid.clone());
        Ok(TokenCandidate { content, signature: SignatureCheck { keys, key_id, algorithm, message, signature } })
    }

    /// Reads and checks the claims. They are dropped before the call waits for the verification of the signature.
    fn read(&self, issuer: &str, json: &[u8], generation: u64, now: i64) -> Result<TokenContent, CredentialError> {
        let claims = self.rules.read(json)?;
        let expires_at = seconds(&claims, "exp")?.ok_or(CredentialError::InvalidClaims)?;
        let (not_before, issued_at) = (seconds(&claims, "nbf")?, seconds(&claims, "iat")?);
        self.rules.require_audience(&claims)?;
        let prefix = self.name.user_id_prefix(&self.user_id_prefix, issuer);
        let caller = self.rules.caller(&claims, issuer, &prefix, issued_at.unwrap_or_default())?;
        if let Some(user) = caller.as_ref().and_then(Caller::user)
            && self.foreign_prefixes.iter().any(|prefix| matched_prefix(prefix, user.as_str()).is_some())
        {
            return Err(CredentialError::ForeignUser);
        }
        let latest = now.saturating_add(LEEWAY_SECONDS);
        if not_before.is_some_and(|at| at > latest) {
            return Err(CredentialError::NotYetValid);
        }
        if issued_at.is_some_and(|at| at > latest) {
            return Err(CredentialError::IssuedInFuture);
        }
        let expires_at = expires_at.saturating_add(LEEWAY_SECONDS);
        Ok(TokenContent { caller: caller.map(Arc::new), expires_at, generation })
    }
}
