//! `roster check-config`: reads the settings and reports every mistake, without starting.

use super::CliError;
use crate::clock::Clock;
use crate::config::{Environment, Flags, Settings, UnknownVariables};

pub(super) fn run(flags: &Flags) -> Result<(), CliError> {
    let settings = Settings::read(flags, &Environment::of_process(), Clock::system(), UnknownVariables::Reject)?;
    for warning in &settings.warnings {
        super::print_message(&format!("warning: {warning}"));
    }
    super::print_result("OK")
}
