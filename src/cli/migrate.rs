//! `roster migrate`: brings the schema up to date.

use super::CliError;
use crate::config::{self, DatastoreFlags};
use crate::store::migrations;

pub(super) fn run(flags: &DatastoreFlags) -> Result<(), CliError> {
    super::start_log()?;
    let datastore = config::read_datastore(flags, &config::environment)?;
    super::run_to_end(async { Ok(migrations::migrate(&datastore).await?) })?;
    super::print_result("The schema is up to date.")
}
