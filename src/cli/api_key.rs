//! `roster api-key`.

use super::CliError;
use super::token::parse_scope;
use crate::authn::api_keys;
use crate::domain::{Scope, UserId};

#[derive(clap::Args)]
pub(super) struct ApiKeyFlags {
    /// The service's name, for the audit trail
    #[arg(long, value_parser = UserId::parse)]
    name: UserId,
    /// What it may do: check, manage, operator, act-as, with commas between
    #[arg(long, value_name = "SCOPE,…", value_delimiter = ',', required = true, value_parser = parse_scope)]
    scopes: Vec<Scope>,
}

/// The key goes to standard output and nowhere else; what the server is to know of it, to standard error.
pub(super) fn run(flags: &ApiKeyFlags) -> Result<(), CliError> {
    let key = api_keys::generate();
    let name = toml::Value::from(flags.name.as_str());
    let scopes: toml::Value = flags.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().into();
    super::complain(&format!(
        "For the settings file of `roster serve` (the key itself, below, cannot be had again):\n\n\
         [[api_keys]]\nname = {name}\nscopes = {scopes}\nsha256 = \"{}\"\n",
        key.sha256
    ));
    super::answer(key.secret.expose())
}
