//! The printed table of figures.

use super::print_line;

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// The name of the figure.
    pub(crate) figure: String,
    /// The measured value.
    pub(crate) measured: String,
    /// The value of the reference in the same run.
    pub(crate) reference: String,
    /// The ratio of both; empty where the figure has no reference.
    pub(crate) ratio: String,
    /// The target of the value, or of the ratio.
    pub(crate) target: &'static str,
}

pub(crate) fn row(figure: &str, measured: String, reference: String, ratio: Option<f64>, target: &'static str) -> Row {
    let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    Row { figure: figure.to_owned(), measured, reference, ratio, target }
}

pub(crate) fn print(rows: &[Row]) {
    print_line("");
    print_line("| figure | measured | reference | ratio | target |");
    print_line("|---|---|---|---|---|");
    for Row { figure, measured, reference, ratio, target } in rows {
        print_line(&format!("| {figure} | {measured} | {reference} | {ratio} | {target} |"));
    }
    print_line("");
}
