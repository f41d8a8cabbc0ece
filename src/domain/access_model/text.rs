//! The texts of permissions and roles that people read.

use super::limits;
use crate::domain::Invalid;
use crate::domain::text::is_invisible;

/// The title of a permission or a role: at most 200 characters after trimming, no control characters. May be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Title(Box<str>);

/// The description of a permission or a role: at most 1 000 characters after trimming, no control characters except line
/// breaks and tabs. May be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description(Box<str>);

impl Title {
    /// Parses a title.
    ///
    /// # Errors
    /// If it is too long or has characters that a title does not have.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let title = text.trim();
        if title.chars().count() > limits::TITLE_CHARACTERS {
            return Err(Invalid::new("a title has at most 200 characters: shorten it"));
        }
        if title.chars().any(|c| !is_visible(c)) {
            return Err(Invalid::new("a title holds no control, zero-width or direction characters: remove them"));
        }
        Ok(Self(title.into()))
    }

    /// A title of the datastore. Its rules were checked when it was written, by a program that may have newer ones.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text.into())
    }

    /// The title as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Description {
    /// Parses a description.
    ///
    /// # Errors
    /// If it is too long or has characters that a description does not have.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let description = text.trim();
        if description.chars().count() > limits::DESCRIPTION_CHARACTERS {
            return Err(Invalid::new("a description has at most 1 000 characters: shorten it"));
        }
        if description.chars().any(|c| !is_visible(c) && !matches!(c, '\n' | '\r' | '\t')) {
            return Err(Invalid::new(
                "a description holds no zero-width or direction characters, and no control characters except line \
                 breaks and tabs: remove them",
            ));
        }
        Ok(Self(description.into()))
    }

    /// A description of the datastore. Its rules were checked when it was written, by a program that may have newer
    /// ones.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text.into())
    }

    /// The description as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a name may hold a character. U+200D joins emoji and Indic letters.
fn is_visible(c: char) -> bool {
    !is_invisible(c) || c == '\u{200d}'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_trimmed_and_bounded() {
        assert_eq!(Title::parse("  Read bills ").unwrap().as_str(), "Read bills");
        assert_eq!(Title::parse(" \n ").unwrap(), Title::default());
        assert!(Title::parse(&"é".repeat(200)).is_ok() && Title::parse(&"é".repeat(201)).is_err());
        for bad in ["a\nb", "a\tb", "a\0b", "a\u{202e}b", "a\u{200b}b", "a\u{1b}[31m"] {
            assert!(Title::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Title::parse("👩\u{200d}🚀").is_ok());
    }

    #[test]
    fn descriptions_may_have_lines() {
        assert_eq!(Description::parse("\n One.\r\n\tTwo.\n").unwrap().as_str(), "One.\r\n\tTwo.");
        assert!(Description::parse(&"é".repeat(1000)).is_ok() && Description::parse(&"é".repeat(1001)).is_err());
        for bad in ["a\0b", "a\u{202e}b", "a\u{1b}[31m", "a\u{2028}b"] {
            assert!(Description::parse(bad).is_err(), "{bad:?}");
        }
    }
}
