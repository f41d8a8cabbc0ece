//! The texts of permissions and roles that people read.

use super::limits;
use crate::domain::{Invalid, characters};

/// The title of a permission or a role: at most 200 characters in normalization form C, after trimming. Invisible
/// characters stand only where a name may have them. May be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Title(Box<str>);

/// The description of a permission or a role: at most 1 000 characters in normalization form C, after trimming. It may
/// have line breaks and tabs; other invisible characters stand only where a name may have them. May be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description(Box<str>);

impl Title {
    /// Parses a title.
    ///
    /// # Errors
    /// If it is too long or has characters that a title does not have.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let composed = characters::compose(text);
        let title = composed.trim();
        if title.chars().count() > limits::TITLE_CHARACTERS {
            return Err(Invalid::new("a title has at most 200 characters: shorten it"));
        }
        if characters::has_misplaced(title) {
            return Err(Invalid::new(
                "a title holds no control, zero-width or direction characters, except where letters or emoji need them: \
                 remove them",
            ));
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
        let composed = characters::compose(text);
        let description = composed.trim();
        if description.chars().count() > limits::DESCRIPTION_CHARACTERS {
            return Err(Invalid::new("a description has at most 1 000 characters: shorten it"));
        }
        if description.split(['\n', '\r', '\t']).any(characters::has_misplaced) {
            return Err(Invalid::new(
                "a description holds no zero-width or direction characters, except where letters or emoji need them, and \
                 no control characters except line breaks and tabs: remove them",
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
        for title in ["👩\u{200d}🚀", "خانه\u{200c}ها"] {
            assert_eq!(Title::parse(title).unwrap().as_str(), title);
        }
        assert_eq!(Title::parse("e\u{301}").unwrap().as_str(), "é");
    }

    #[test]
    fn descriptions_may_have_lines() {
        assert_eq!(Description::parse("\n One.\r\n\tTwo.\n").unwrap().as_str(), "One.\r\n\tTwo.");
        assert_eq!(
            Description::parse("می\u{200c}خواهم\n👩\u{200d}🚀").unwrap().as_str(),
            "می\u{200c}خواهم\n👩\u{200d}🚀"
        );
        assert!(Description::parse(&"é".repeat(1000)).is_ok() && Description::parse(&"é".repeat(1001)).is_err());
        for bad in ["a\0b", "a\u{202e}b", "a\u{1b}[31m", "a\u{2028}b", "می\u{200c}\nخواهم"] {
            assert!(Description::parse(bad).is_err(), "{bad:?}");
        }
    }
}
