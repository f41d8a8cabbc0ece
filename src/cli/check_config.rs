//! `roster check-config`.

use super::Error;
use crate::config::{self, Flags, Settings};
use crate::world::Clock;

pub(super) fn run(flags: &Flags) -> Result<(), Error> {
    Settings::read(flags, &config::environment, Clock::system())?;
    super::answer("OK")
}
