//! Logging to standard error. Standard output is reserved for the results of sub-commands.

mod json;

use crate::config::{LogFormat, LogSettings};
use crate::reset_causes;
use json::JsonLines;
use std::io::{IsTerminal, stderr};
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::util::TryInitError;
use tracing_subscriber::{EnvFilter, Layer, reload};

/// Sets up logging for this process.
///
/// # Errors
/// If logging is already set up.
pub fn start(settings: &LogSettings) -> Result<LogFilter, TryInitError> {
    // The settings have checked the filter.
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&settings.filter));
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    let registry = tracing_subscriber::registry().with(reset_causes::layer());
    match settings.format {
        LogFormat::Text => registry.with(lines.with_ansi(stderr().is_terminal()).with_filter(filter)).try_init()?,
        LogFormat::Json => {
            let lines = lines.fmt_fields(JsonFields::new()).event_format(JsonLines);
            registry.with(lines.with_filter(filter)).try_init()?;
        }
    }
    // It fails only if the subscriber is gone, as at the end of the process.
    Ok(LogFilter(Box::new(move |filter| drop(handle.reload(filter)))))
}

/// The filter of the log lines of this process, which can be changed.
pub struct LogFilter(Box<dyn Fn(EnvFilter) + Send + Sync>);

impl LogFilter {
    /// Replaces the filter by a checked one, from the next line on.
    pub fn set(&self, filter: &str) {
        (self.0)(EnvFilter::new(filter));
    }
}
