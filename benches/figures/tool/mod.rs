//! The tools of the measurements.

pub(crate) mod call_header;
pub(crate) mod echo;
pub(crate) mod handshakes;
pub(crate) mod hpack;
pub(crate) mod load;
pub(crate) mod questions;
pub(crate) mod report;
pub(crate) mod server;
pub(crate) mod socket;
pub(crate) mod stage;
pub(crate) mod table;
pub(crate) mod wire;

use std::io::Write;

/// A number from the environment, or its default.
pub(crate) fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Prints a line, and flushes it for a process that reads it through a pipe.
pub(crate) fn print_line(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Converts a count for arithmetic with other figures.
pub(crate) fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}
