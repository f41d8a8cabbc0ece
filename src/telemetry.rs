//! Logging to standard error. Standard output is reserved for the results of sub-commands.

use crate::config::{LogFormat, LogSettings};
use crate::reset_causes;
use std::io::{IsTerminal, stderr};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::util::TryInitError;
use tracing_subscriber::{EnvFilter, Layer};

/// Sets up logging for this process.
///
/// # Errors
/// If logging is already set up.
pub fn start(settings: &LogSettings) -> Result<(), TryInitError> {
    // The settings have checked the filter. An invalid directive in ROSTER_LOG of `roster dev` is ignored.
    let filter = EnvFilter::new(&settings.filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    let registry = tracing_subscriber::registry().with(reset_causes::layer());
    match settings.format {
        LogFormat::Text => registry.with(lines.with_ansi(stderr().is_terminal()).with_filter(filter)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_filter(filter)).try_init(),
    }
}
