//! The claims of a token about the profile of its user: the address with its verification, and the name, claim by claim.

use super::claims::{ClaimValue, Claims};
use super::limits;
use super::presets::TokenShape;
use super::settings::{ClaimSettings, IssuerSettings, ProfileSource};
use crate::domain::{DisplayName, EmailAddress, Invalid, UserId};
use crate::limited_log::excerpt;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// The value of `claims.email_verified` that stands for a provider that verifies every address.
pub(super) const TRUSTED: &str = "trusted";

/// The claims of a token about the profile of its user. What is `None` changes nothing: the token has no such claim, or
/// one that cannot be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProfileClaims {
    /// The email address.
    pub email: Option<EmailAddress>,
    /// Whether the provider has verified the address. Without an address in the same token it has no effect.
    pub email_verified: Option<bool>,
    /// The display name.
    pub display_name: Option<DisplayName>,
    /// The claims that the token has and that cannot be used.
    pub ignored: Vec<IgnoredClaim>,
}

/// A claim about the profile that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredClaim {
    /// The name of the claim, as the settings of the issuer have it.
    pub claim: String,
    /// Why it cannot be used, as a sentence that never repeats the value.
    pub reason: String,
}

/// Where the tokens of an issuer have the profile.
pub(super) struct ProfileRules {
    email: String,
    /// The claim that says whether the address is verified; `None` if every address is.
    email_verified: Option<String>,
    display_name: String,
}

impl ProfileRules {
    /// Reads the settings of an issuer; `None` if its tokens are no source of profiles.
    pub(super) fn new(settings: &IssuerSettings, shape: &TokenShape) -> Option<Self> {
        let ClaimSettings { email, email_verified, name, .. } = &settings.claims;
        let one = |setting: &Option<String>, default: &str| setting.clone().unwrap_or_else(|| default.to_owned());
        let rules = Self {
            email: one(email, shape.email),
            email_verified: Some(one(email_verified, shape.email_verified)).filter(|name| name != TRUSTED),
            display_name: one(name, shape.name),
        };
        (settings.profile_source != Some(ProfileSource::PutUser)).then_some(rules)
    }

    /// The names of the claims.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        [&self.email, &self.display_name].into_iter().chain(&self.email_verified)
    }

    /// Reads the profile. Its claims do not affect the validity of the token.
    pub(super) fn read(&self, claims: &Claims) -> ProfileClaims {
        let mut ignored = Vec::new();
        let email = take(claims, &self.email, |value| EmailAddress::parse(text(value)?), &mut ignored);
        let email_verified = match &self.email_verified {
            Some(name) => take(claims, name, read_verified, &mut ignored),
            None => Some(true),
        };
        let display_name = take(claims, &self.display_name, |value| DisplayName::parse(text(value)?), &mut ignored);
        ProfileClaims { email, email_verified, display_name, ignored }
    }
}

/// Reads one claim. `null` and an empty text count as absent: OpenID Connect asks providers to leave out what they do not
/// know, and some send these instead.
fn take<T>(
    claims: &Claims,
    name: &str,
    parse: impl FnOnce(&ClaimValue) -> Result<T, Invalid>,
    ignored: &mut Vec<IgnoredClaim>,
) -> Option<T> {
    let outcome = match claims.find(name) {
        Ok(Some(value)) if !value.is_empty() => parse(value).map(Some),
        Ok(_) => Ok(None),
        Err(_) => Err(Invalid::new("the path leads into a value that is no object")),
    };
    outcome.unwrap_or_else(|Invalid(reason)| {
        ignored.push(IgnoredClaim { claim: name.to_owned(), reason });
        None
    })
}

fn text(value: &ClaimValue) -> Result<&str, Invalid> {
    value.as_text().ok_or_else(|| Invalid::new("the claim is no text"))
}

fn read_verified(value: &ClaimValue) -> Result<bool, Invalid> {
    value.as_bool().ok_or_else(|| Invalid::new("the claim is neither true nor false"))
}

/// Logs claims that cannot be used, once for each user.
#[derive(Default)]
pub(super) struct IgnoredClaimsLog(Mutex<HashSet<UserId>>);

impl IgnoredClaimsLog {
    /// Logs the claims that the verified token of a user has and that cannot be used, if none of this user were logged
    /// before. Neither an address nor a name reaches the log.
    pub(super) fn report(&self, issuer: &str, user: &UserId, ignored: &[IgnoredClaim]) {
        if ignored.is_empty() || !self.is_first(user) {
            return;
        }
        let sentences: Vec<String> =
            ignored.iter().map(|it| format!("{}: {}", excerpt(&it.claim), it.reason)).collect();
        tracing::warn!(
            issuer = excerpt(issuer),
            user = excerpt(user.as_str()),
            claims = sentences.join("; "),
            "a token has claims about its user that cannot be used, so the profile keeps what it has"
        );
    }

    fn is_first(&self, user: &UserId) -> bool {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A full set starts again, so that its memory is bounded. Users may then be logged a second time.
        if users.len() >= limits::REPORTED_USERS {
            users.clear();
        }
        users.insert(user.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::presets;

    const NO_TEXT: &str = "the claim is no text";
    const NO_BOOLEAN: &str = "the claim is neither true nor false";

    fn read(settings: &str, json: &str) -> Option<ProfileClaims> {
        let settings: IssuerSettings = toml::from_str(settings).unwrap();
        let rules = ProfileRules::new(&settings, &presets::shape(settings.preset))?;
        let names: Vec<String> = rules.names().cloned().collect();
        Some(rules.read(&Claims::parse(json.as_bytes(), &names).unwrap()))
    }

    /// The values, with `-` for one that changes nothing, and the names and reasons of claims that cannot be used.
    fn outcome(settings: &str, json: &str) -> (String, Vec<(String, String)>) {
        let ProfileClaims { email, email_verified, display_name, ignored } = read(settings, json).unwrap();
        let values = [
            email.map(|email| email.given().to_owned()),
            email_verified.map(|verified| verified.to_string()),
            display_name.map(DisplayName::into_string),
        ];
        let values = values.map(|value| value.unwrap_or_else(|| "-".to_owned())).join(" ");
        (values, ignored.into_iter().map(|ignored| (ignored.claim, ignored.reason)).collect())
    }

    #[test]
    fn each_claim_is_absent_usable_or_ignored_on_its_own() {
        for (json, values, ignored) in [
            ("{}", "- - -", &[][..]),
            (r#"{"email":"Ada@X.example","email_verified":true,"name":" Ada "}"#, "Ada@X.example true Ada", &[]),
            (r#"{"email":"a@x.example"}"#, "a@x.example - -", &[]),
            (r#"{"email_verified":false,"name":"Ada"}"#, "- false Ada", &[]),
            // Absent, by another spelling.
            (r#"{"email":null,"email_verified":null,"name":null}"#, "- - -", &[]),
            (r#"{"email":"","email_verified":"","name":" \t"}"#, "- - -", &[]),
            // Verified or not, in the spellings of providers.
            (r#"{"email_verified":"true"}"#, "- true -", &[]),
            (r#"{"email_verified":"1"}"#, "- true -", &[]),
            (r#"{"email_verified":"false"}"#, "- false -", &[]),
            (r#"{"email_verified":"0"}"#, "- false -", &[]),
            (r#"{"email_verified":1}"#, "- - -", &[("email_verified", NO_BOOLEAN)]),
            (r#"{"email_verified":"yes"}"#, "- - -", &[("email_verified", NO_BOOLEAN)]),
            (r#"{"email_verified":["true"]}"#, "- - -", &[("email_verified", NO_BOOLEAN)]),
            // One bad claim leaves the others.
            (
                r#"{"email":"not an address","email_verified":true,"name":"Ada"}"#,
                "- true Ada",
                &[("email", "an address has the form name@domain")],
            ),
            (r#"{"email":["a@x.example"],"name":"Ada"}"#, "- - Ada", &[("email", NO_TEXT)]),
            (
                r#"{"email":"a@x.example","email_verified":"maybe","name":7}"#,
                "a@x.example - -",
                &[("email_verified", NO_BOOLEAN), ("name", NO_TEXT)],
            ),
            (
                r#"{"email":"a@x.example","name":"a\u202eb"}"#,
                "a@x.example - -",
                &[(
                    "name",
                    "a display name holds no control, zero-width or direction characters, except where letters or emoji \
                     need them",
                )],
            ),
        ] {
            let (found, reasons) = outcome("", json);
            let reasons: Vec<(&str, &str)> =
                reasons.iter().map(|(claim, reason)| (claim.as_str(), reason.as_str())).collect();
            assert_eq!((found.as_str(), &*reasons), (values, ignored), "{json}");
        }
    }

    #[test]
    fn the_settings_name_the_claims_and_the_source() {
        let paths = "claims = { email = 'contact.mail', email_verified = 'trusted', name = 'nick' }";
        let json = r#"{"contact":{"mail":"a@x.example"},"nick":"Ada","email_verified":false}"#;
        assert_eq!(outcome(paths, json), ("a@x.example true Ada".to_owned(), Vec::new()));
        let (values, ignored) = outcome(paths, r#"{"contact":"a@x.example"}"#);
        assert_eq!((values.as_str(), ignored[0].0.as_str()), ("- true -", "contact.mail"));
        for source in ["tokens", "both"] {
            assert!(read(&format!("profile_source = '{source}'"), "{}").is_some(), "{source}");
        }
        assert_eq!(read("profile_source = 'put_user'", r#"{"email":7}"#), None);
    }

    #[test]
    fn a_user_is_reported_once_and_the_memory_is_bounded() {
        let log = IgnoredClaimsLog::default();
        let user = |number: usize| UserId::parse(&format!("user-{number}")).unwrap();
        assert!(log.is_first(&user(0)) && !log.is_first(&user(0)));
        for number in 1..limits::REPORTED_USERS {
            assert!(log.is_first(&user(number)), "{number}");
        }
        assert!(log.is_first(&user(0)));
        assert_eq!(log.0.lock().unwrap().len(), 1);
    }
}
