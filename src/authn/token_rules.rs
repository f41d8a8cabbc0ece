//! How the tokens of one issuer are read: which claims hold what, and what makes a caller a user or a service.

use super::api_keys;
use super::caller::{Caller, Namespace, ServiceIdentity, UserCaller, UserClaims};
use super::claims::Claims;
use super::credential_error::CredentialError;
use super::presets;
use super::profile_claims::{ProfileRules, TRUSTED};
use super::service_mark::ServiceMark;
use super::settings::{Callers, IssuerSettings, Preset, ProfileSource};
use super::tenant::{IssuerName, TENANT, is_tenant, separates_tenants};
use crate::domain::{Scope, UserId};
use std::sync::atomic::AtomicBool;

/// The claims that are read for every issuer, beside `iss`.
const TIMES: [&str; 3] = ["exp", "nbf", "iat"];

/// The rules that an entry of the settings makes for the tokens of its issuer.
pub(super) struct TokenRules {
    /// Every claim that is read.
    names: Vec<String>,
    user_id: Vec<String>,
    /// `None` if tokens are no source of profiles.
    profile: Option<ProfileRules>,
    scopes: Vec<String>,
    scope_prefix: String,
    audience: Vec<String>,
    /// The accepted audiences.
    audiences: Vec<String>,
    /// The scopes that the tokens may contain.
    granted: Vec<Scope>,
    service_marks: Vec<ServiceMark>,
    /// What a token without a mark and without a scope is.
    callers: Callers,
}

impl TokenRules {
    /// Reads the settings of an issuer, and adds every mistake in them. A mistake begins with the name of the setting.
    pub(super) fn new(settings: &IssuerSettings, mistakes: &mut Vec<String>) -> Self {
        check_audience(settings, mistakes);
        check_claims(settings, mistakes);
        check_prefix(settings, mistakes);
        check_tenants(settings, mistakes);
        check_profile_source(settings, mistakes);
        let service_marks = read_marks(settings, mistakes);
        let (shape, claims) = (presets::shape(settings.preset), &settings.claims);
        let one = |setting: &Option<String>, default: &str| setting.clone().unwrap_or_else(|| default.to_owned());
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let first =
            |setting: &Option<String>, default| setting.clone().map_or_else(|| owned(default), |name| vec![name]);
        let mut rules = Self {
            names: owned(&TIMES),
            user_id: first(&claims.user_id, shape.user_id),
            profile: ProfileRules::new(settings, &shape),
            scopes: claims.scopes.clone().map_or_else(|| owned(shape.scopes), |list| list.0),
            scope_prefix: one(&settings.scope_prefix, shape.scope_prefix),
            audience: first(&claims.audience, shape.audience),
            audiences: settings.audience.0.clone(),
            granted: settings.scopes.clone(),
            service_marks,
            callers: settings.callers.unwrap_or(Callers::People),
        };
        let marks = rules.service_marks.iter().flat_map(ServiceMark::claims);
        let profile = rules.profile.iter().flat_map(ProfileRules::names);
        let read = rules.user_id.iter().chain(&rules.scopes).chain(&rules.audience);
        let read: Vec<String> = read.chain(marks).chain(profile).cloned().collect();
        rules.names.extend(read);
        rules.names.sort_unstable();
        rules.names.dedup();
        rules
    }

    /// Reads the claims of a token.
    pub(super) fn read(&self, json: &[u8]) -> Result<Claims, CredentialError> {
        Claims::parse(json, &self.names)
    }

    /// Requires that the token is for this server.
    pub(super) fn require_audience(&self, claims: &Claims) -> Result<(), CredentialError> {
        let value = claims.first(&self.audience)?.ok_or(CredentialError::InvalidClaims)?;
        let found = value.as_texts().ok_or(CredentialError::InvalidClaims)?;
        let is_accepted = found.iter().any(|text| self.audiences.iter().any(|audience| audience == text));
        if is_accepted { Ok(()) } else { Err(CredentialError::WrongAudience) }
    }

    /// Returns the caller: a service or an operator if the token has a roster scope, otherwise a user. `None` for a
    /// service without a roster scope.
    pub(super) fn caller(
        &self,
        claims: &Claims,
        issuer: &str,
        user_id_prefix: &str,
        issued_at: i64,
    ) -> Result<Option<Caller>, CredentialError> {
        let subject = claims.text(&self.user_id)?.ok_or(CredentialError::InvalidClaims)?;
        UserId::parse_new(subject).map_err(|_| CredentialError::InvalidSubject)?;
        let scopes = self.granted_scopes(claims)?;
        if !scopes.is_empty() {
            let identity = ServiceIdentity { name: subject.to_owned(), namespace: Namespace::Issuer(issuer.into()) };
            return Ok(Some(api_keys::caller_with_scopes(identity, scopes)));
        }
        for mark in &self.service_marks {
            if mark.is_on(claims)? {
                return Ok(None);
            }
        }
        if self.callers == Callers::Services {
            return Ok(None);
        }
        let id =
            UserId::parse_new(&format!("{user_id_prefix}{subject}")).map_err(|_| CredentialError::InvalidSubject)?;
        let profile = self.profile.as_ref().map(|rules| rules.read(claims)).unwrap_or_default();
        let claims = UserClaims { issuer: issuer.into(), profile, issued_at, applied: AtomicBool::new(false) };
        Ok(Some(Caller::User(UserCaller { id, via: None, claims: Some(claims.into()) })))
    }

    /// Returns the roster scopes of a token, each once.
    fn granted_scopes(&self, claims: &Claims) -> Result<Vec<Scope>, CredentialError> {
        let mut words = Vec::new();
        for name in &self.scopes {
            if let Some(value) = claims.find(name)? {
                value.add_words(&mut words).ok_or(CredentialError::InvalidClaims)?;
            }
        }
        let mut scopes = Vec::new();
        for word in words {
            let Some(name) = word.strip_prefix(self.scope_prefix.as_str()) else { continue };
            let scope = match Scope::parse(name) {
                // Without a prefix, the words of other applications stand beside those of roster.
                Err(_) if self.scope_prefix.is_empty() => continue,
                Ok(scope) if self.scope_prefix.is_empty() && !self.granted.contains(&scope) => continue,
                parsed => parsed.map_err(|_| CredentialError::UnknownScope)?,
            };
            if !self.granted.contains(&scope) {
                return Err(CredentialError::ScopeNotGranted);
            }
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        Ok(scopes)
    }
}

/// One sentence for each issuer whose settings do not say whether its tokens are those of people or of services.
#[must_use]
pub fn unmarked_issuers(issuers: &[IssuerSettings]) -> Vec<String> {
    let is_silent =
        |issuer: &IssuerSettings| issuer.preset.is_none() && issuer.service_claim.is_none() && issuer.callers.is_none();
    let silent = issuers.iter().enumerate().filter(|(_, issuer)| is_silent(issuer));
    silent
        .map(|(index, _)| {
            format!(
                "issuers[{index}].callers: write \"people\" or \"services\", or name the mark of its services by \
                 preset or service_claim; without it, a service whose token has no roster scope becomes a user; from 1.0 on \
                 one of them is required"
            )
        })
        .collect()
}

fn check_audience(settings: &IssuerSettings, mistakes: &mut Vec<String>) {
    if settings.audience.0.is_empty() || settings.audience.0.iter().any(String::is_empty) {
        mistakes.push("audience: the aud of tokens for this server is needed".to_owned());
    }
}

fn check_claims(settings: &IssuerSettings, mistakes: &mut Vec<String>) {
    let claims = &settings.claims;
    for (field, name) in [
        ("user_id", &claims.user_id),
        ("email", &claims.email),
        ("email_verified", &claims.email_verified),
        ("name", &claims.name),
        ("audience", &claims.audience),
    ] {
        if name.as_ref().is_some_and(String::is_empty) {
            mistakes.push(format!("claims.{field}: write the name of a claim, or leave it out"));
        }
    }
    if claims.scopes.as_ref().is_some_and(|list| list.0.iter().any(String::is_empty)) {
        mistakes.push("claims.scopes: write the names of claims".to_owned());
    }
    let reads_scopes = match &claims.scopes {
        Some(list) => !list.0.is_empty(),
        None => !presets::shape(settings.preset).scopes.is_empty(),
    };
    if !reads_scopes && !settings.scopes.is_empty() {
        mistakes.push(
            "scopes: no claim of its tokens is read for scopes: name one in claims.scopes, or give services API keys"
                .to_owned(),
        );
    }
    match settings.scope_prefix.as_deref() {
        Some("") if settings.scopes.is_empty() => mistakes
            .push("scope_prefix: without a prefix, scopes has to say which words are scopes of roster".to_owned()),
        Some(prefix) if prefix.contains(char::is_whitespace) => {
            mistakes.push("scope_prefix: write a prefix without blanks, which separate scopes".to_owned());
        }
        _ => {}
    }
}

fn check_prefix(settings: &IssuerSettings, mistakes: &mut Vec<String>) {
    if UserId::parse_new(&format!("{}x", settings.user_id_prefix)).is_err() {
        mistakes.push(
            "user_id_prefix: write at most 254 bytes without invisible characters, and no blank at the beginning: no user \
             id begins with one"
                .to_owned(),
        );
    }
}

/// Refuses settings that have no effect beside `profile_source`, and the source where no token is a person's.
fn check_profile_source(settings: &IssuerSettings, mistakes: &mut Vec<String>) {
    let Some(source) = settings.profile_source else { return };
    if settings.callers == Some(Callers::Services) {
        mistakes.push("profile_source: with callers = \"services\" no token is a person's: remove it".to_owned());
    }
    let claims = &settings.claims;
    let read = [("email", &claims.email), ("email_verified", &claims.email_verified), ("name", &claims.name)];
    for (field, _) in read.iter().filter(|(_, name)| name.is_some() && source == ProfileSource::PutUser) {
        mistakes.push(format!(
            "claims.{field}: profile_source = \"put_user\" reads no profile from tokens: remove one of them"
        ));
    }
}

fn check_tenants(settings: &IssuerSettings, mistakes: &mut Vec<String>) {
    let name = IssuerName::parse(&settings.issuer, settings.tenants.as_ref());
    let is_pattern = settings.issuer.contains(TENANT);
    if let Err(sentence) = name {
        mistakes.push(format!("issuer: {sentence}"));
    }
    if is_pattern && !separates_tenants(&settings.user_id_prefix) {
        mistakes.push(
            "user_id_prefix: write {tenant} in it once, and behind it a character that no tenant has, as \
             entra:{tenant}:, or a user of one tenant could have the id of another tenant's user"
                .to_owned(),
        );
    }
    if !is_pattern && settings.user_id_prefix.contains(TENANT) {
        mistakes.push("user_id_prefix: {tenant} needs an issuer with {tenant}".to_owned());
    }
    match &settings.tenants {
        Some(_) if !is_pattern => mistakes.push("tenants: it needs an issuer with {tenant}".to_owned()),
        Some(tenants) if tenants.is_empty() => {
            mistakes.push("tenants: name at least one, or leave it out to accept every tenant".to_owned());
        }
        Some(tenants) => {
            let wrong = tenants.iter().enumerate().filter(|(_, tenant)| !is_tenant(tenant));
            mistakes.extend(
                wrong.map(|(index, _)| {
                    format!("tenants[{index}]: write 1 to 64 letters, digits, hyphens and underscores")
                }),
            );
        }
        None if is_pattern => {
            // The administrator of any tenant decides on what these say.
            let trusts_addresses = settings.claims.email_verified.as_deref() == Some(TRUSTED);
            let what = [("scopes", !settings.scopes.is_empty()), ("claims.email_verified", trusts_addresses)];
            for (field, _) in what.iter().filter(|(_, is_set)| *is_set) {
                mistakes.push(format!(
                    "{field}: every tenant could grant itself scopes and choose the addresses of its users: name the \
                     tenants that you trust in tenants, or leave {field} out"
                ));
            }
        }
        None => {}
    }
}

/// Reads the marks of services of the preset and of `service_claim`.
fn read_marks(settings: &IssuerSettings, mistakes: &mut Vec<String>) -> Vec<ServiceMark> {
    let mut marks = settings.preset.map_or_else(Vec::new, presets::service_marks);
    if let Some(text) = &settings.service_claim {
        match ServiceMark::parse(text) {
            Some(mark) => marks.push(mark),
            None => mistakes.push("service_claim: write the name of a claim, or claim=value".to_owned()),
        }
    }
    match settings.callers {
        Some(Callers::Services) if settings.preset == Some(Preset::Apple) => {
            mistakes.push("callers: the preset apple has no services: remove it".to_owned());
        }
        Some(Callers::Services) if settings.service_claim.is_some() => mistakes.push(
            "callers: with \"services\" every token is a service's, and service_claim has no effect: remove one of them"
                .to_owned(),
        ),
        Some(Callers::People) if settings.preset.is_some() || settings.service_claim.is_some() => mistakes.push(
            "callers: the preset or service_claim says which tokens are those of services: remove it".to_owned(),
        ),
        Some(_) | None => {}
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings with mistakes in these, in their order.
    fn mistakes(settings: &str) -> Vec<String> {
        let mut mistakes = Vec::new();
        TokenRules::new(&toml::from_str(settings).unwrap(), &mut mistakes);
        mistakes.iter().map(|mistake| mistake.split(':').next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn every_mistake_is_reported_with_its_field() {
        let pattern = "issuer = 'https://id.example/{tenant}/v2.0'\nuser_id_prefix = 'x:{tenant}:'\n";
        let prefix = "user_id_prefix = 'x:{tenant}:'\n";
        for (settings, expected) in [
            ("preset = 'keycloak'\nscopes = ['check']", &[][..]),
            ("audience = []", &["audience"]),
            ("audience = ['a', '']", &["audience"]),
            ("audience = ''", &["audience"]),
            (
                "claims = { user_id = '', email = '', email_verified = '', name = '', audience = '', scopes = [''] }",
                &[
                    "claims.user_id",
                    "claims.email",
                    "claims.email_verified",
                    "claims.name",
                    "claims.audience",
                    "claims.scopes",
                ],
            ),
            // Tokens are no source of the profile, or no token is a person's.
            (
                "profile_source = 'put_user'\nclaims = { email = 'a', email_verified = 'b', name = 'c' }",
                &["claims.email", "claims.email_verified", "claims.name"],
            ),
            ("profile_source = 'put_user'\nclaims = { user_id = 'a', scopes = 'b' }", &[]),
            ("profile_source = 'tokens'\nclaims = { email = 'a' }", &[]),
            ("profile_source = 'tokens'\ncallers = 'services'", &["profile_source"]),
            ("profile_source = 'both'\ncallers = 'people'", &[]),
            // Tokens of Google have no scopes.
            ("preset = 'google'\nscopes = ['check']", &["scopes"]),
            ("preset = 'google'\nscopes = ['check']\nclaims = { scopes = 'roles' }", &[]),
            ("claims = { scopes = [] }\nscopes = ['check']", &["scopes"]),
            ("claims = { scopes = [] }", &[]),
            ("scope_prefix = ''", &["scope_prefix"]),
            ("scope_prefix = ''\nscopes = ['check']", &[]),
            ("scope_prefix = 'roster: '", &["scope_prefix"]),
            ("service_claim = ''", &["service_claim"]),
            ("service_claim = 'a b'", &["service_claim"]),
            ("service_claim = 'a='", &["service_claim"]),
            ("preset = 'keycloak'\nservice_claim = 'machine'", &[]),
            ("preset = 'keycloak'\ncallers = 'people'", &["callers"]),
            ("preset = 'keycloak'\ncallers = 'services'", &[]),
            ("preset = 'apple'\ncallers = 'services'", &["callers"]),
            ("service_claim = 'machine'\ncallers = 'people'", &["callers"]),
            ("service_claim = 'machine'\ncallers = 'services'", &["callers"]),
            ("service_claim = ''\ncallers = 'services'", &["service_claim", "callers"]),
            ("issuer = 'https://{tenant}.id.example'\nuser_id_prefix = 'x:{tenant}:'", &["issuer"]),
            ("issuer = 'https://id.example/{tenant}'", &["user_id_prefix"]),
            ("issuer = 'https://id.example/{tenant}'\nuser_id_prefix = '{tenant}-'", &["user_id_prefix"]),
            (prefix, &["user_id_prefix"]),
            ("tenants = ['a']", &["tenants"]),
            (&format!("{pattern}tenants = []"), &["tenants"]),
            (&format!("{pattern}tenants = ['a', 'b.c', '', 'd/e']"), &["tenants[1]", "tenants[2]", "tenants[3]"]),
            (&format!("{pattern}tenants = ['a']\nscopes = ['check']"), &[]),
            (&format!("{pattern}scopes = ['check']"), &["scopes"]),
            (&format!("{pattern}claims = {{ email_verified = 'trusted' }}"), &["claims.email_verified"]),
            (&format!("{pattern}tenants = ['a']\nclaims = {{ email_verified = 'trusted' }}"), &[]),
        ] {
            let others = if settings.contains("issuer") { "" } else { "issuer = 'https://id.example'\n" };
            let audience = if settings.contains("audience = ['a'") || settings.starts_with("audience") {
                ""
            } else {
                "audience = 'a'\n"
            };
            assert_eq!(mistakes(&format!("{others}{audience}{settings}")), expected, "{settings}");
        }
    }

    #[test]
    fn an_issuer_that_does_not_say_what_its_callers_are_is_a_warning() {
        let issuers = ["", "preset = 'okta'", "callers = 'people'", "service_claim = 'x'", "user_id_prefix = 'x'"];
        let issuers: Vec<IssuerSettings> = issuers.iter().map(|text| toml::from_str(text).unwrap()).collect();
        let found = unmarked_issuers(&issuers);
        let names: Vec<_> = found.iter().filter_map(|warning| warning.split(':').next()).collect();
        assert_eq!(names, ["issuers[0].callers", "issuers[4].callers"]);
    }
}
