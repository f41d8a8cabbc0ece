//! `roster token`: mints a bearer token for the server of `roster dev`.

use super::CliError;
use super::data_directory::{AUDIENCE, DataDirectory, ISSUER};
use crate::authn::Secret;
use crate::authn::mint::{ClaimSet, SigningKey};
use crate::clock::Clock;
use crate::domain::{DisplayName, EmailAddress, Invalid, Scope, UserId};
use std::path::PathBuf;

/// The default lifetime of a bearer token, in seconds: a day, so that one lasts for a working day and its evening.
pub(super) const LIFETIME: i64 = 24 * 60 * 60;

#[derive(clap::Args)]
pub(super) struct TokenFlags {
    /// Data directory of the `roster dev` that accepts the token [default: as for roster dev]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    subject: SubjectFlags,
    /// Email address of the user
    #[arg(long, conflicts_with_all = ["operator", "service"], value_name = "ADDRESS", value_parser = EmailAddress::parse)]
    email: Option<EmailAddress>,
    /// Mark the address as not verified
    #[arg(long, requires = "email")]
    unverified_email: bool,
    /// Display name of the user
    #[arg(long, conflicts_with_all = ["operator", "service"], value_parser = DisplayName::parse)]
    name: Option<DisplayName>,
    /// Lifetime of the token
    #[arg(long, value_name = "SECONDS", default_value_t = LIFETIME, value_parser = clap::value_parser!(i64).range(1..=315_360_000))]
    expires_in: i64,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct SubjectFlags {
    /// Issue the token for an operator
    #[arg(long)]
    operator: bool,
    /// Issue the token for a service with these scopes, separated by commas: check, manage, act-as, model
    #[arg(long, value_name = "SCOPE,…", value_delimiter = ',', value_parser = parse_scope)]
    service: Option<Vec<Scope>>,
    /// Issue the token for the user with this id
    #[arg(long, value_name = "ID", value_parser = UserId::parse_new)]
    user: Option<UserId>,
}

pub(super) fn parse_scope(text: &str) -> Result<Scope, Invalid> {
    Scope::parse(text)
}

pub(super) fn run(flags: &TokenFlags) -> Result<(), CliError> {
    let key = DataDirectory::find(flags.data_dir.as_ref())?.signing_key()?;
    let claims = match &flags.subject {
        SubjectFlags { user: Some(user), .. } => ClaimSet {
            email: flags.email.as_ref().map(|email| email.given().to_owned()),
            email_verified: flags.email.as_ref().map(|_| !flags.unverified_email),
            name: flags.name.as_ref().map(|name| name.as_str().to_owned()),
            ..user_claims(user.as_str())
        },
        SubjectFlags { service: Some(scopes), .. } => service_claims("service", scopes),
        SubjectFlags { .. } => service_claims("operator", &[Scope::Operator]),
    };
    super::print_result(mint(&key, claims, flags.expires_in)?.expose())
}

/// The claims of a bearer token of a user.
pub(super) fn user_claims(id: &str) -> ClaimSet {
    ClaimSet { sub: id.to_owned(), ..ClaimSet::default() }
}

/// The claims of a bearer token of a service or an operator.
pub(super) fn service_claims(name: &str, scopes: &[Scope]) -> ClaimSet {
    let scopes: Vec<String> = scopes.iter().map(|scope| format!("roster:{}", scope.as_str())).collect();
    ClaimSet { sub: name.to_owned(), scope: Some(scopes.join(" ")), ..ClaimSet::default() }
}

/// Signs a bearer token with these claims. The server of `roster dev` accepts it for `lifetime` seconds.
pub(super) fn mint(key: &SigningKey, claims: ClaimSet, lifetime: i64) -> Result<Secret, CliError> {
    let now = Clock::system().unix_seconds();
    let (iss, aud) = (ISSUER.to_owned(), AUDIENCE.to_owned());
    Ok(key.mint(&ClaimSet { iss, aud, iat: now, exp: now.saturating_add(lifetime), ..claims })?)
}
