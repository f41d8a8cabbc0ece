//! Ids of users and organizations, and references to organizations by id or slug.

use super::{Invalid, Slug, characters, limits};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use uuid::Uuid;

/// The number of buckets that organizations are spread over. It cannot change once a datastore exists.
pub const ORGANIZATION_BUCKETS: i16 = 256;
/// The number of buckets that users are spread over. It cannot change once a datastore exists.
pub const USER_BUCKETS: i16 = 32;
/// The bucket of the access model in the numbering of the change log and of consistency tokens: it follows the buckets of
/// organizations and of users. A position in it is a revision of the model.
pub const MODEL_BUCKET: i16 = ORGANIZATION_BUCKETS + USER_BUCKETS;

/// An organization's id: a random (version 4) UUID.
///
/// It is not time-ordered, because its first byte is its bucket, and because time-ordered keys behind a bucket double
/// the size of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrganizationId(Uuid);

impl OrganizationId {
    /// Wraps an id from the datastore or from the random source.
    #[must_use]
    pub fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// The id as a UUID.
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        self.0
    }

    /// The bucket, `0..256`: the first of the id's random bytes.
    #[must_use]
    pub fn bucket(self) -> i16 {
        i16::from(self.0.as_bytes()[0])
    }
}

impl fmt::Display for OrganizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// A reference to an organization by id or slug, as callers write it in field 1 of a request. A slug never has the form
/// of a UUID, so a reference is never ambiguous.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrganizationRef {
    /// The organization's id.
    Id(OrganizationId),
    /// The organization's slug.
    Slug(Slug),
}

impl OrganizationRef {
    /// Parses an id or a slug.
    ///
    /// # Errors
    /// If the text is neither.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Err(Invalid::new("name the organization: its id or its slug"));
        }
        if let Some(id) = parse_uuid(text) {
            return Ok(Self::Id(OrganizationId(id)));
        }
        Slug::parse(text).map(Self::Slug).map_err(|_| {
            Invalid::new("neither an organization's id (a UUID with hyphens) nor a slug (2 to 200 of a-z, 0-9 and -)")
        })
    }
}

impl fmt::Display for OrganizationRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Slug(slug) => slug.fmt(f),
        }
    }
}

/// Parses a UUID in its 36-character form. Other forms are rejected, so that each id has one spelling.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}

/// A user's id: 1 to 255 bytes, exactly as the identity provider spells it. Opaque, and compared byte for byte.
///
/// [`Self::parse_new`] parses the id of a user who signs in, is created or is added somewhere. [`Self::parse`] parses the
/// id of a user to read, to change or to remove.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UserId(String);

impl UserId {
    /// Parses the id of a user who may be stored. Former releases stored ids that [`Self::parse_new`] refuses.
    ///
    /// # Errors
    /// If it is empty, longer than 255 bytes, or contains a control character.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::validate(text)?;
        Ok(Self(text.to_owned()))
    }

    /// As [`Self::parse`], without a copy of the text.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_string(text: String) -> Result<Self, Invalid> {
        Self::validate(&text)?;
        Ok(Self(text))
    }

    fn validate(text: &str) -> Result<(), Invalid> {
        if text.is_empty() {
            return Err(Invalid::new("a user's id is needed"));
        }
        if text.len() > limits::USER_ID_BYTES {
            return Err(Invalid::new("a user's id has at most 255 bytes"));
        }
        // Most ids are ASCII: a check needs no decoding of characters then.
        let is_printable_ascii = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !is_printable_ascii && text.chars().any(char::is_control) {
            return Err(Invalid::new("a user's id holds no control characters"));
        }
        Ok(())
    }

    /// Parses the id of a user who signs in, is created or is added somewhere. No such id looks like another id with
    /// invisible characters.
    ///
    /// # Errors
    /// As [`Self::parse`]; and if it begins or ends with a blank, or contains an invisible character.
    pub fn parse_new(text: &str) -> Result<Self, Invalid> {
        let id = Self::parse(text)?;
        if text.starts_with(characters::is_blank) || text.ends_with(characters::is_blank) {
            return Err(Invalid::new("a user's id has no blanks at its ends"));
        }
        if text.chars().any(characters::is_invisible) {
            return Err(Invalid::new("a user's id holds no control, zero-width or direction characters"));
        }
        Ok(id)
    }

    /// A text of the datastore. Its rules were checked when it was written, by a program that may have newer ones.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bucket, `0..32`: the first byte of the SHA-256 of the id, modulo 32. The hash must be stable, because the
    /// bucket is stored.
    #[must_use]
    pub fn bucket(&self) -> i16 {
        i16::from(Sha256::digest(self.0.as_bytes())[0]) % USER_BUCKETS
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_an_id_or_a_slug() {
        let id = "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11";
        assert!(matches!(OrganizationRef::parse(id), Ok(OrganizationRef::Id(_))));
        assert!(matches!(OrganizationRef::parse("acme"), Ok(OrganizationRef::Slug(_))));
        assert!(matches!(OrganizationRef::parse("ACME"), Ok(OrganizationRef::Slug(slug)) if slug.as_str() == "acme"));
        for bad in ["", "a", "acme inc", "{7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11}", "ac\0me", "urn:uuid:x"] {
            assert!(OrganizationRef::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn user_ids_are_bounded_and_bucketed_stably() {
        assert!(UserId::parse(&"x".repeat(255)).is_ok());
        assert!(UserId::parse(&"x".repeat(256)).is_err());
        assert!(UserId::parse("a\0b").is_err());
        assert!(UserId::parse("").is_err());
        assert_eq!(UserId::parse("ada").map(|id| id.bucket()), Ok(29));
    }

    #[test]
    fn new_user_ids_have_no_invisible_characters() {
        for good in ["ada", "auth0|5f7c", "Ada Lovelace", "ädä", "a@x.example", "用户", "-", "{tenant}:7"] {
            assert_eq!(UserId::parse_new(good).map(|id| id.0), Ok(good.to_owned()));
        }
        for bad in
            ["", " ", " ada", "ada ", "\u{a0}ada", "ada\u{3000}", "ada\u{2003}", "ada\u{2800}", "\u{2028}", "a\tb"]
        {
            assert!(UserId::parse_new(bad).is_err(), "{bad:?}");
        }
        assert!(UserId::parse_new(&"x".repeat(256)).is_err());
        for c in '\0'..=char::MAX {
            let id = format!("a{c}b");
            assert_eq!(UserId::parse_new(&id).is_err(), characters::is_invisible(c), "{c:?}");
            assert_eq!(UserId::parse(&id).is_err(), c.is_control(), "{c:?}");
            let is_refused = characters::is_invisible(c) || characters::is_blank(c);
            for id in [format!("{c}a"), format!("a{c}")] {
                assert_eq!(UserId::parse_new(&id).is_err(), is_refused, "{c:?}");
            }
        }
    }
}
