//! `roster check-config`: reads the settings and reports every mistake, without starting.

use super::CliError;
use crate::clock::Clock;
use crate::config::{self, Flags, Settings};

pub(super) fn run(flags: &Flags) -> Result<(), CliError> {
    let settings = Settings::read(flags, &config::environment, Clock::system())?;
    for warning in &settings.warnings {
        super::print_message(&format!("warning: {warning}"));
    }
    super::print_result("OK")
}
