//! The names of the application's permissions.

use super::{Invalid, limits};
use std::fmt;

/// The first segments of roster's own permissions, now or later.
pub const RESERVED_SEGMENTS: [&str; 8] =
    ["organization", "members", "membership", "ownership", "invitations", "events", "roles", "roster"];

/// The name of a permission of the application, such as `billing.read`: 2 to 4 segments of `[a-z][a-z0-9_-]*` that are
/// joined by dots, at most 100 characters. The first segment is none of [`RESERVED_SEGMENTS`], so that the name never
/// collides with a permission of roster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PermissionName(Box<str>);

impl PermissionName {
    /// Parses a name.
    ///
    /// # Errors
    /// If it breaks a rule of this type; the sentence names the rule.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Err(Invalid::new("a permission has a name: write one, such as billing.read"));
        }
        if text.chars().count() > limits::PERMISSION_NAME_CHARACTERS {
            return Err(Invalid::new("the name of a permission has at most 100 characters: shorten it"));
        }
        let count = text.split('.').count();
        let is_in_range =
            (limits::PERMISSION_NAME_SEGMENTS_MIN..=limits::PERMISSION_NAME_SEGMENTS_MAX).contains(&count);
        if !is_in_range || !text.split('.').all(is_label) {
            return Err(Invalid::new(
                "the name of a permission is 2 to 4 words with dots between them, such as billing.read: each word is of \
                 a-z, 0-9, _ and -, and begins with a letter",
            ));
        }
        if has_reserved_segment(text) {
            return Err(Invalid::new(format!(
                "roster reserves the names that begin with {}: begin with a word of the application",
                RESERVED_SEGMENTS.join(", ")
            )));
        }
        Ok(Self(text.into()))
    }

    /// A name of the datastore. Its rules were checked when it was written, by a program that may have newer ones.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PermissionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the first segment of a word is reserved for roster.
pub(crate) fn has_reserved_segment(word: &str) -> bool {
    RESERVED_SEGMENTS.contains(&word.split('.').next().unwrap_or_default())
}

/// Whether a text is `[a-z][a-z0-9_-]*`.
pub(crate) fn is_label(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Permission;

    #[test]
    fn a_name_is_two_to_four_labels() {
        let longest = format!("a.{}", "b".repeat(98));
        for good in ["billing.read", "a.b", "a.b.c.d", "a1_-.b2-_", "member.read", "organizations.read", &longest] {
            assert_eq!(PermissionName::parse(good).unwrap().as_str(), good);
        }
        let too_long = format!("a.{}", "b".repeat(99));
        for bad in [
            "",
            ".",
            "a",
            "a.",
            ".a",
            "a..b",
            "a.b.c.d.e",
            "A.b",
            "a.B",
            "1.a",
            "a.1",
            "_a.b",
            "a.-b",
            "a b.c",
            " a.b",
            "a.b ",
            "a.b\n",
            "é.b",
            "a.b\0",
            "a.*",
            "org:a.b",
            "a/b.c",
            &too_long,
        ] {
            assert!(PermissionName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_name_collides_with_a_permission_of_roster() {
        for permission in Permission::RESERVED {
            assert!(has_reserved_segment(permission.as_str()), "{permission:?}: add its first segment");
            assert!(PermissionName::parse(permission.as_str()).is_err());
        }
        for segment in RESERVED_SEGMENTS {
            assert!(PermissionName::parse(&format!("{segment}.anything")).is_err(), "{segment}");
        }
    }
}
