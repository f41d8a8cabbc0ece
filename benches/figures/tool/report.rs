//! The one table.

use super::say;

/// A line of it.
#[derive(Debug)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) figure: String,
    /// What came out.
    pub(crate) measured: String,
    /// What stood beside it in the same run.
    pub(crate) beside: String,
    /// One by the other.
    pub(crate) ratio: String,
    /// What is wanted.
    pub(crate) wanted: &'static str,
}

pub(crate) fn row(figure: &str, measured: String, beside: String, ratio: Option<f64>, wanted: &'static str) -> Row {
    let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    Row { figure: figure.to_owned(), measured, beside, ratio, wanted }
}

pub(crate) fn tell(rows: &[Row]) {
    say("");
    say("| figure | measured | beside | ratio | wanted |");
    say("|---|---|---|---|---|");
    for Row { figure, measured, beside, ratio, wanted } in rows {
        say(&format!("| {figure} | {measured} | {beside} | {ratio} | {wanted} |"));
    }
    say("");
}
