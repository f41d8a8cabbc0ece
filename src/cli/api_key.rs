//! `roster api-key`: generates an API key and prints its settings entry.

use super::CliError;
use super::token::parse_scope;
use crate::authn::api_keys;
use crate::domain::{Scope, UserId};

#[derive(clap::Args)]
pub(super) struct ApiKeyFlags {
    /// Name of the service; events record it as the actor
    #[arg(long, value_parser = UserId::parse_new)]
    name: UserId,
    /// Scopes of the key, separated by commas: check, manage, operator, act-as, model
    #[arg(long, value_name = "SCOPE,…", value_delimiter = ',', required = true, value_parser = parse_scope)]
    scopes: Vec<Scope>,
}

/// Writes the key to standard output only, and the stanza for the settings file, which holds its hash, to standard
/// error.
pub(super) fn run(flags: &ApiKeyFlags) -> Result<(), CliError> {
    let key = api_keys::generate();
    let name = toml::Value::from(flags.name.as_str());
    let scopes: toml::Value = flags.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().into();
    super::print_message(&format!(
        "Add this to the settings file of `roster serve`. The key itself, below, is printed once and not stored.\n\n\
         [[api_keys]]\nname = {name}\nscopes = {scopes}\nsha256 = \"{}\"\n",
        key.sha256
    ));
    super::print_result(key.secret.expose())
}
