//! Names of roles.

use super::Invalid;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The name of a role: one of the three that always exist, one of the deployment such as `billing-manager`, or one of an
/// organization such as `org:auditor`. A valid name says nothing about whether the role exists. Cheap to clone.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct RoleName(NameText);

#[derive(Debug, Clone)]
enum NameText {
    /// A role that always exists.
    Fixed(&'static str),
    Other(Arc<str>),
}

/// The prefix of the names of organizations' own roles, so that they never collide with those of the deployment.
const ORGANIZATION_PREFIX: &str = "org:";

impl RoleName {
    /// The role of a plain member.
    pub const MEMBER: Self = Self(NameText::Fixed("member"));
    /// The role of an administrator. A former owner keeps it, and the owner's own membership stores it: the database
    /// rejects an owner whose membership stores another role.
    pub const ADMIN: Self = Self(NameText::Fixed("admin"));
    /// The role of the owner. Never stored in a membership and never granted: ownership moves by transfer only.
    pub const OWNER: Self = Self(NameText::Fixed("owner"));

    /// A role of which not even the name was kept. No role has this name.
    pub(super) const UNKNOWN: Self = Self(NameText::Fixed(""));

    /// Maximum length of a name in bytes, without the prefix `org:`.
    pub const MAX_LENGTH: usize = 64;

    /// Parses a name.
    ///
    /// # Errors
    /// If it is not `[a-z][a-z0-9_-]{0,63}`, with or without the prefix `org:`.
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        let word = name.strip_prefix(ORGANIZATION_PREFIX).unwrap_or(name);
        let is_valid = word.len() <= Self::MAX_LENGTH
            && word.starts_with(|first: char| first.is_ascii_lowercase())
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte));
        if is_valid { Ok(Self::from_stored(name)) } else { Err(Invalid::new(format!("no such role: {SHAPE}"))) }
    }

    /// Parses the name of a role that a membership may store.
    ///
    /// # Errors
    /// If it is not a valid name, or `owner`.
    pub fn parse_assignable(name: &str) -> Result<Self, Invalid> {
        let name = Self::parse(name)?;
        if name == Self::OWNER {
            return Err(Invalid::new("ownership is not a role to assign: use TransferOwnership"));
        }
        Ok(name)
    }

    /// The name as it is stored, or as a server sent it. Nothing is checked.
    #[must_use]
    pub fn from_stored(name: &str) -> Self {
        let fixed = [Self::MEMBER, Self::ADMIN, Self::OWNER].into_iter().find(|fixed| fixed.as_str() == name);
        fixed.unwrap_or_else(|| Self(NameText::Other(name.into())))
    }

    /// The text of the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            NameText::Fixed(name) => name,
            NameText::Other(name) => name,
        }
    }

    /// Whether it names a role of an organization, which has the prefix `org:`.
    #[must_use]
    pub fn is_of_organization(&self) -> bool {
        Self::is_organization_name(self.as_str())
    }

    /// Whether the text of a name is that of a role of an organization.
    #[must_use]
    pub fn is_organization_name(text: &str) -> bool {
        text.starts_with(ORGANIZATION_PREFIX)
    }
}

/// What a name looks like, for callers.
const SHAPE: &str = "owner, admin, member, or a name of lower-case letters, digits, `_` and `-`, with the prefix `org:` for \
                     a role of the organization";

impl PartialEq for RoleName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for RoleName {}

impl PartialOrd for RoleName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// In the order of the texts. It says nothing about what the roles hold.
impl Ord for RoleName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl std::hash::Hash for RoleName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl std::fmt::Display for RoleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<RoleName> for String {
    fn from(name: RoleName) -> Self {
        name.as_str().to_owned()
    }
}

impl From<String> for RoleName {
    fn from(name: String) -> Self {
        Self::from_stored(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_words() {
        for name in ["owner", "admin", "member", "billing-manager", "a", "r2_d2", "org:auditor", "organization"] {
            assert_eq!(RoleName::parse(name).unwrap().as_str(), name);
        }
        let long = "a".repeat(65);
        let (longer, fits) = (format!("org:{long}"), format!("org:{}", &long[1..]));
        assert!(RoleName::parse(&fits).unwrap().is_of_organization());
        for name in ["", "Admin", "2nd", "-a", "a b", "a.b", "org:", "org:org:a", "org:A", "Org:a", "é", &long, &longer]
        {
            assert!(RoleName::parse(name).is_err(), "{name}");
        }
        assert!(!RoleName::parse("organization").unwrap().is_of_organization());
    }

    #[test]
    fn ownership_cannot_be_assigned() {
        assert!(RoleName::parse("owner").is_ok());
        assert!(RoleName::parse_assignable("owner").is_err());
        assert!(RoleName::parse_assignable("Admin").is_err());
    }
}
