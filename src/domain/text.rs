//! Bounded texts: names, kinds, reasons.

use super::{Invalid, limits};
use serde::{Deserialize, Serialize};

/// Declares a text type that only `parse` constructs.
macro_rules! text {
    ($(#[$doc:meta])* $type:ident, $parse:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct $type(String);

        impl $type {
            /// Parses the text.
            ///
            /// # Errors
            /// If it breaks a rule of this type; the sentence names the rule.
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                $parse(text).map(Self)
            }

            /// A text of the datastore. Its rules were checked when it was written, by a program that may have newer
            /// ones.
            #[must_use]
            pub fn from_stored(text: String) -> Self {
                Self(text)
            }

            /// The text as a slice.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text as an owned string.
            #[must_use]
            pub fn into_string(self) -> String {
                self.0
            }
        }
    };
}

text! {
    /// An organization's name: 1 to 200 characters after trimming, no control characters. Not unique.
    Name, parse_name
}
text! {
    /// A user's display name: 1 to 200 characters after trimming, no control characters.
    DisplayName, parse_display_name
}
text! {
    /// An organization's kind: 1 to 64 of `a-z`, `0-9`, `-`, `_`, starting with a letter. Fixed at creation.
    Kind, parse_kind
}
text! {
    /// The reason for a change, for the audit trail: at most 500 characters, and no control characters except line
    /// breaks and tabs.
    AuditReason, parse_reason
}

impl Kind {
    /// The kind of an organization that is created without one.
    #[must_use]
    pub fn default_kind() -> Self {
        Self("organization".to_owned())
    }
}

/// Whether a character is invisible or reorders the text around it: such characters let one name pass for another.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn bounded(text: &str, what: &str, most: usize) -> Result<String, Invalid> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(Invalid::new(format!("{what} is needed")));
    }
    if trimmed.chars().count() > most {
        return Err(Invalid::new(format!("{what} has at most {most} characters")));
    }
    // U+200D joins emoji and Indic letters; it is the only invisible character that names need.
    if trimmed.chars().any(|c| is_invisible(c) && c != '\u{200d}') {
        return Err(Invalid::new(format!("{what} holds no control, zero-width or direction characters")));
    }
    Ok(trimmed.to_owned())
}

fn parse_name(text: &str) -> Result<String, Invalid> {
    bounded(text, "a name", limits::NAME_CHARACTERS)
}

fn parse_display_name(text: &str) -> Result<String, Invalid> {
    bounded(text, "a display name", limits::DISPLAY_NAME_CHARACTERS)
}

fn parse_kind(text: &str) -> Result<String, Invalid> {
    let good = text.len() <= limits::KIND_CHARACTERS
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
    if good {
        Ok(text.to_owned())
    } else {
        Err(Invalid::new("a kind is 1 to 64 of a-z, 0-9, - and _, and begins with a letter"))
    }
}

fn parse_reason(text: &str) -> Result<String, Invalid> {
    if text.chars().count() > limits::REASON_CHARACTERS {
        return Err(Invalid::new("a reason has at most 500 characters"));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(Invalid::new("a reason holds no control characters but line breaks and tabs"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_bounded() {
        assert_eq!(Name::parse("  Acme  ").map(Name::into_string), Ok("Acme".to_owned()));
        assert!(Name::parse(&"é".repeat(200)).is_ok());
        assert!(Name::parse(&"é".repeat(201)).is_err());
        for bad in ["", "   ", "a\0b", "a\u{202e}b", "a\u{200b}b", "a\nb", "a\u{3164}b", "a\u{e0041}b"] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Name::parse("👩\u{200d}🚀").is_ok());
    }

    #[test]
    fn kinds_are_labels() {
        assert!(Kind::parse("vendor-2").is_ok());
        for bad in ["", "Vendor", "2x", "a b", "a\0"] {
            assert!(Kind::parse(bad).is_err(), "{bad:?}");
        }
    }
}
