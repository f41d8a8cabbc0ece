//! Bounded texts: names, kinds, reasons.
//!
//! Names of organizations and of users follow one rule. They are stored in normalization form C, trimmed. They have at
//! least one letter, number, punctuation mark or symbol that is visible. Invisible characters stand only where a script or
//! an emoji needs them: [`characters`] has the contexts.

use super::{Invalid, characters, limits};
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
    /// An organization's name: 1 to 200 characters in normalization form C, after trimming. Not unique.
    Name, parse_name
}
text! {
    /// A user's display name: 1 to 200 characters in normalization form C, after trimming.
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

/// A text that people read: in normalization form C, trimmed, of 1 to `most` characters, with invisible characters only
/// where a script or an emoji needs them.
pub(super) fn bounded(text: &str, what: &str, most: usize) -> Result<String, Invalid> {
    let composed = characters::compose(text);
    let trimmed = composed.trim();
    if trimmed.is_empty() {
        return Err(Invalid::new(format!("{what} is needed")));
    }
    if trimmed.chars().count() > most {
        return Err(Invalid::new(format!("{what} has at most {most} characters")));
    }
    if characters::has_misplaced(trimmed) {
        return Err(Invalid::new(format!(
            "{what} holds no control, zero-width or direction characters, except where letters or emoji need them"
        )));
    }
    Ok(trimmed.to_owned())
}

fn visible(text: &str, what: &str, most: usize) -> Result<String, Invalid> {
    let text = bounded(text, what, most)?;
    if !characters::has_ink(&text) {
        return Err(Invalid::new(format!(
            "{what} has at least one visible letter, number, punctuation mark or symbol"
        )));
    }
    Ok(text)
}

fn parse_name(text: &str) -> Result<String, Invalid> {
    visible(text, "a name", limits::NAME_CHARACTERS)
}

fn parse_display_name(text: &str) -> Result<String, Invalid> {
    visible(text, "a display name", limits::DISPLAY_NAME_CHARACTERS)
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
    use proptest::prelude::*;

    #[test]
    fn names_are_trimmed_and_bounded() {
        assert_eq!(Name::parse("  Acme  ").map(Name::into_string), Ok("Acme".to_owned()));
        assert!(Name::parse(&"é".repeat(200)).is_ok());
        assert!(Name::parse(&"é".repeat(201)).is_err());
        for bad in ["", "   ", "a\0b", "a\u{202e}b", "a\u{200b}b", "a\nb", "a\u{3164}b", "a\u{e0041}b"] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_composed_before_they_are_measured() {
        assert_eq!(Name::parse("e\u{301}").map(Name::into_string), Ok("é".to_owned()));
        assert_eq!(DisplayName::parse("בּ").map(DisplayName::into_string), Ok("ב\u{5bc}".to_owned()));
        assert!(Name::parse(&"e\u{301}".repeat(200)).is_ok());
        // Normalization form C decomposes this symbol into three characters.
        assert!(Name::parse(&"\u{1d160}".repeat(66)).is_ok() && Name::parse(&"\u{1d160}".repeat(67)).is_err());
    }

    #[test]
    fn names_are_visible_in_every_script() {
        for name in ["خانه\u{200c}ها", "ශ්\u{200d}රී", "👩\u{200d}🚀", "🏳\u{fe0f}\u{200d}🌈", "🇮🇷", "한", "!"]
        {
            assert_eq!(Name::parse(name).map(Name::into_string), Ok(name.to_owned()));
            assert_eq!(DisplayName::parse(name).map(DisplayName::into_string), Ok(name.to_owned()));
        }
        for bad in ["\u{200d}", "\u{2800}", "\u{fe0f}", "\u{1d159}", "\u{301}", "\u{2800} \u{fffc}", "Ac\u{200d}me"] {
            assert!(Name::parse(bad).is_err() && DisplayName::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_its_own_parsed_form(text in any::<String>()) {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(name.as_str()), Ok(name));
            }
        }
    }

    #[test]
    fn kinds_are_labels() {
        assert!(Kind::parse("vendor-2").is_ok());
        for bad in ["", "Vendor", "2x", "a b", "a\0"] {
            assert!(Kind::parse(bad).is_err(), "{bad:?}");
        }
    }
}
