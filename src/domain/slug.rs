//! Slugs: the readable names of organizations, unique over organizations of all kinds.

use super::{Invalid, limits};
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// A slug: 2 to 200 characters of `a-z`, `0-9`, `-`, and never in the form of a UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slug(String);

impl Slug {
    /// Parses a slug; upper-case ASCII letters become lower-case.
    ///
    /// # Errors
    /// If a character or the length is invalid, or the text is a UUID.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let slug = text.to_ascii_lowercase();
        let length = limits::SLUG_CHARACTERS_MIN..=limits::SLUG_CHARACTERS;
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !length.contains(&slug.len()) || !slug.chars().all(good) {
            return Err(Invalid::new("a slug is 2 to 200 of a-z, 0-9 and -"));
        }
        if Uuid::try_parse(&slug).is_ok() {
            return Err(Invalid::new("a slug is not shaped like a UUID: it would be taken for an id"));
        }
        Ok(Self(slug))
    }

    /// A text of the datastore. Its rules were checked when it was written, by a program that may have newer ones.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// Derives a slug from a name by transliteration; `None` if too few characters are left.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let mut slug = String::new();
        for c in deunicode::deunicode_with_tofu(name, "").chars() {
            if c.is_ascii_alphanumeric() {
                slug.push(c.to_ascii_lowercase());
            } else if !slug.is_empty() && !slug.ends_with('-') {
                slug.push('-');
            }
        }
        slug.truncate(limits::SLUG_CHARACTERS);
        Self::parse(slug.trim_end_matches('-')).ok()
    }

    /// Creates a slug from 40 random bits: `stem` or `org`, and ten hexadecimal digits.
    #[must_use]
    pub fn random(stem: Option<&Self>, bits: u64) -> Self {
        let org = Self("org".to_owned());
        stem.unwrap_or(&org).with_suffix(&format!("-{:010x}", bits & 0xff_ffff_ffff))
    }

    /// The slug with a number appended, shortened to fit the length limit.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Self {
        self.with_suffix(&format!("-{number}"))
    }

    fn with_suffix(&self, suffix: &str) -> Self {
        let stem_length = limits::SLUG_CHARACTERS - suffix.len();
        let stem = &self.0[..self.0.len().min(stem_length)];
        Self(format!("{}{suffix}", stem.trim_end_matches('-')))
    }

    /// The slug as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derive(name: &str) -> Option<String> {
        Slug::from_name(name).map(|slug| slug.0)
    }

    #[test]
    fn names_become_slugs() {
        assert_eq!(derive("Acme, Inc."), Some("acme-inc".to_owned()));
        assert_eq!(derive("  Žluťoučký Kůň "), Some("zlutoucky-kun".to_owned()));
        assert_eq!(derive("株式会社"), Slug::from_name("株式会社").map(|slug| slug.0));
        assert!(derive("株式会社").is_some());
        assert_eq!(derive("!!!"), None);
        assert_eq!(derive("x"), None);
        assert_eq!(derive("7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11"), None);
        assert_eq!(derive(&"a".repeat(300)).map(|slug| slug.len()), Some(200));
    }

    #[test]
    fn numbered_slugs_fit_the_limit() {
        let long = Slug::from_name(&"a".repeat(300));
        assert_eq!(long.map(|slug| slug.numbered(12).0.len()), Some(200));
        assert_eq!(Slug::from_name("acme").map(|slug| slug.numbered(2).0), Some("acme-2".to_owned()));
    }

    #[test]
    fn slugs_ignore_case_and_are_never_uuids() {
        assert_eq!(Slug::parse("AcMe"), Slug::parse("acme"));
        for bad in ["", "a", "a_b", "é2", "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11", "7b0c3a1e5a394d0c9a533a0f2c8f7a11"] {
            assert!(Slug::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn random_slugs_are_valid() {
        let long = Slug::from_name(&"a".repeat(300));
        for bits in [0, 1, u64::MAX] {
            for stem in [None, Slug::from_name("Acme"), long.clone()] {
                assert!(Slug::parse(Slug::random(stem.as_ref(), bits).as_str()).is_ok());
            }
        }
        assert_eq!(Slug::random(None, 7).as_str(), "org-0000000007");
        assert_eq!(Slug::random(Slug::from_name("Acme").as_ref(), 7).as_str(), "acme-0000000007");
    }
}
