//! `roster check-config`.

use super::CliError;
use crate::clock::Clock;
use crate::config::{self, Flags, Settings};

pub(super) fn run(flags: &Flags) -> Result<(), CliError> {
    Settings::read(flags, &config::environment, Clock::system())?;
    super::answer("OK")
}
