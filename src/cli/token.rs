//! `roster token`.

use super::CliError;
use super::data_directory::{AUDIENCE, DataDirectory, ISSUER};
use crate::authn::Secret;
use crate::authn::mint::{ClaimSet, SigningKey};
use crate::clock::Clock;
use crate::domain::{DisplayName, EmailAddress, Invalid, Scope, UserId};
use std::path::PathBuf;

/// How long a token is good, in seconds, unless told otherwise: a working day, and the evening.
pub(super) const LIFETIME: i64 = 24 * 60 * 60;

#[derive(clap::Args)]
pub(super) struct TokenFlags {
    /// The directory of the `roster dev` that is to accept it [default: the one it takes itself]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    holder: HolderFlags,
    /// The user's address
    #[arg(long, conflicts_with_all = ["operator", "service"], value_name = "ADDRESS", value_parser = EmailAddress::parse)]
    email: Option<EmailAddress>,
    /// The address has not been verified
    #[arg(long, requires = "email")]
    unverified_email: bool,
    /// What the user is called
    #[arg(long, conflicts_with_all = ["operator", "service"], value_parser = DisplayName::parse)]
    name: Option<DisplayName>,
    /// How long it is good
    #[arg(long, value_name = "SECONDS", default_value_t = LIFETIME, value_parser = clap::value_parser!(i64).range(1..=315_360_000))]
    expires_in: i64,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct HolderFlags {
    /// For an operator
    #[arg(long)]
    operator: bool,
    /// For a service with these scopes: check, manage, act-as, with commas between
    #[arg(long, value_name = "SCOPE,…", value_delimiter = ',', value_parser = parse_scope)]
    service: Option<Vec<Scope>>,
    /// For the user of this id
    #[arg(long, value_name = "ID", value_parser = UserId::parse)]
    user: Option<UserId>,
}

pub(super) fn parse_scope(text: &str) -> Result<Scope, Invalid> {
    Scope::parse(text)
}

pub(super) fn run(flags: &TokenFlags) -> Result<(), CliError> {
    let key = DataDirectory::find(flags.data_dir.as_ref())?.signing_key()?;
    let claims = match &flags.holder {
        HolderFlags { user: Some(user), .. } => ClaimSet {
            email: flags.email.as_ref().map(|email| email.given().to_owned()),
            email_verified: flags.email.as_ref().map(|_| !flags.unverified_email),
            name: flags.name.as_ref().map(|name| name.as_str().to_owned()),
            ..user_claims(user.as_str())
        },
        HolderFlags { service: Some(scopes), .. } => service_claims("service", scopes),
        HolderFlags { .. } => service_claims("operator", &[Scope::Operator]),
    };
    super::answer(mint(&key, claims, flags.expires_in)?.expose())
}

/// What the token of a user says.
pub(super) fn user_claims(id: &str) -> ClaimSet {
    ClaimSet { sub: id.to_owned(), ..ClaimSet::default() }
}

/// What the token of a service, or of an operator, says.
pub(super) fn service_claims(name: &str, scopes: &[Scope]) -> ClaimSet {
    let scopes: Vec<String> = scopes.iter().map(|scope| format!("roster:{}", scope.as_str())).collect();
    ClaimSet { sub: name.to_owned(), scope: Some(scopes.join(" ")), ..ClaimSet::default() }
}

/// Makes a token with these claims that the server of `roster dev` accepts for so many seconds.
pub(super) fn mint(key: &SigningKey, claims: ClaimSet, lifetime: i64) -> Result<Secret, CliError> {
    let now = Clock::system().unix_seconds();
    let (iss, aud) = (ISSUER.to_owned(), AUDIENCE.to_owned());
    Ok(key.mint(&ClaimSet { iss, aud, iat: now, exp: now.saturating_add(lifetime), ..claims })?)
}
