//! Logging to standard error. Standard output is reserved for the results of sub-commands.

use crate::config::{LogFormat, LogSettings};
use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::util::TryInitError;

/// Sets up logging for this process.
///
/// # Errors
/// If logging is already set up.
pub fn start(settings: &LogSettings) -> Result<(), TryInitError> {
    // The settings have checked the filter.
    let filter = EnvFilter::new(&settings.filter);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match settings.format {
        LogFormat::Text => lines.with_ansi(stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    }
}
