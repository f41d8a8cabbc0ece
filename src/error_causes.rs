//! The text of an error with its causes, for log lines and messages.

use std::error::Error;

/// The text of an error and of its causes, separated by colons. A cause that the text before it already ends with is
/// left out.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let sentence = error.to_string();
        if !text.ends_with(&sentence) {
            text = format!("{text}: {sentence}");
        }
        cause = error.source();
    }
    text
}
