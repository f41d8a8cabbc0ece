//! The rules of role names.

use super::permission_name::is_label;
use crate::domain::Invalid;
use std::fmt;

/// The name of a role.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoleName(Box<str>);

impl RoleName {
    /// Parses a name.
    ///
    /// # Errors
    /// If it breaks a rule of this type; the sentence names the rule.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let label = text.strip_prefix("org:").unwrap_or(text);
        if is_label(label) && label.len() <= 64 { Ok(Self(text.into())) } else { Err(Invalid::new("a role name")) }
    }

    /// A name of the datastore.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
