//! Permissions: the rights that methods of roster and of the application require. Roles and scopes are sets of them.
//!
//! A permission is a number that stands for a dotted word. Roster's own permissions have fixed numbers below
//! [`Permission::RESERVED_NUMBERS`]. A word of the application gets its number from one table for the whole process, which
//! only grows: equal numbers mean equal words at any time, whatever access model they come from.

use super::Invalid;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

/// A right in one organization, a dotted word on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub struct Permission(u16);

/// Declares roster's own permissions: one row for each, with its word.
macro_rules! reserved_permissions {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        #[expect(non_camel_case_types, reason = "they number the constants of these names")]
        #[repr(u16)]
        enum Number { $($name,)* }

        impl Permission {
            $($(#[$doc])* pub const $name: Self = Self(Number::$name as u16);)*

            /// Roster's own permissions, in the order of their numbers.
            pub const RESERVED: &[Self] = &[$(Self::$name,)*];
        }

        /// The words of roster's own permissions, in the order of their numbers.
        const RESERVED_WORDS: &[&str] = &[$($word,)*];
    };
}

reserved_permissions! {
    /// Read the organization.
    ORGANIZATION_READ = "organization.read",
    /// Change its name, slug or attributes.
    ORGANIZATION_UPDATE = "organization.update",
    /// Activate and deactivate it.
    ORGANIZATION_ACTIVATE = "organization.activate",
    /// Delete and undelete it.
    ORGANIZATION_DELETE = "organization.delete",
    /// Transfer the ownership to another member.
    OWNERSHIP_TRANSFER = "ownership.transfer",
    /// List its members, with their names.
    MEMBERS_LIST = "members.list",
    /// Read members' addresses and attributes.
    MEMBERS_READ = "members.read",
    /// Add users as members.
    MEMBERS_ADD = "members.add",
    /// Change members' roles and attributes.
    MEMBERS_UPDATE = "members.update",
    /// Remove members from it.
    MEMBERS_REMOVE = "members.remove",
    /// Leave the organization.
    MEMBERSHIP_LEAVE = "membership.leave",
    /// Create invitations to the organization.
    INVITATIONS_CREATE = "invitations.create",
    /// Read the organization's invitations.
    INVITATIONS_READ = "invitations.read",
    /// Revoke invitations and send reminders.
    INVITATIONS_MANAGE = "invitations.manage",
    /// Read the audit trail.
    EVENTS_READ = "events.read",
    /// Read the roles that exist for the organization.
    ROLES_READ = "roles.read",
    /// Define, change and delete the organization's own roles.
    ROLES_MANAGE = "roles.manage",
}

/// The words of the application that this process has seen in an access model.
#[derive(Default)]
struct ApplicationWords {
    words: Vec<&'static str>,
    numbers: HashMap<&'static str, u16>,
}

static APPLICATION: LazyLock<RwLock<ApplicationWords>> = LazyLock::new(RwLock::default);

impl Permission {
    /// The number of numbers that are kept for roster's own permissions: one word of a [`super::PermissionSet`].
    pub const RESERVED_NUMBERS: u16 = 64;

    /// Finds a permission by its word: one of roster's own, or one that this process has seen in an access model. It
    /// may be declared no longer.
    #[must_use]
    pub fn find(word: &str) -> Option<Self> {
        let reserved = (0..).zip(RESERVED_WORDS).find(|(_, reserved)| **reserved == word);
        reserved.map(|(number, _)| Self(number)).or_else(|| {
            let application = APPLICATION.read().unwrap_or_else(PoisonError::into_inner);
            application.numbers.get(word).copied().map(Self)
        })
    }

    /// Finds a permission by its word, as [`Self::find`] does.
    ///
    /// # Errors
    /// If no permission has this word.
    pub fn parse(word: &str) -> Result<Self, Invalid> {
        Self::find(word).ok_or_else(|| Invalid::new("no such permission"))
    }

    /// The permission with the word of an access model, which must be a valid name of the application: the table of words
    /// keeps it for the life of the process. `None` if the process has seen more than 65 000 different words.
    #[must_use]
    pub fn declare(word: &str) -> Option<Self> {
        Self::find(word).or_else(|| {
            let mut application = APPLICATION.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(number) = application.numbers.get(word) {
                return Some(Self(*number));
            }
            let number = u16::try_from(application.words.len()).ok()?.checked_add(Self::RESERVED_NUMBERS)?;
            let word: &'static str = Box::leak(word.into());
            application.words.push(word);
            application.numbers.insert(word, number);
            Some(Self(number))
        })
    }

    /// The word of the permission, as stored and as sent.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let word = match self.0.checked_sub(Self::RESERVED_NUMBERS) {
            None => RESERVED_WORDS.get(usize::from(self.0)).copied(),
            Some(index) => {
                let application = APPLICATION.read().unwrap_or_else(PoisonError::into_inner);
                application.words.get(usize::from(index)).copied()
            }
        };
        word.unwrap_or_default()
    }

    /// Whether the permission is one of roster's own.
    #[must_use]
    pub fn is_reserved(self) -> bool {
        self.0 < Self::RESERVED_NUMBERS
    }

    /// The number of the permission: valid within one process only, except for roster's own.
    #[must_use]
    pub(super) const fn number(self) -> u16 {
        self.0
    }

    /// The permission with a number that [`Self::number`] has given.
    #[must_use]
    pub(super) const fn from_number(number: u16) -> Self {
        Self(number)
    }
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Permission> for &'static str {
    fn from(permission: Permission) -> Self {
        permission.as_str()
    }
}

impl TryFrom<String> for Permission {
    type Error = Invalid;
    fn try_from(word: String) -> Result<Self, Invalid> {
        Self::parse(&word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_words_are_unique_and_found_by_their_words() {
        for permission in Permission::RESERVED {
            assert_eq!(Permission::find(permission.as_str()), Some(*permission));
            assert!(permission.is_reserved());
        }
        assert!(Permission::RESERVED.len() <= usize::from(Permission::RESERVED_NUMBERS));
        assert_eq!(Permission::find("members.fly"), None);
    }

    #[test]
    fn a_declared_word_keeps_its_number() {
        assert_eq!(Permission::find("billing.test-declared"), None);
        let declared = Permission::declare("billing.test-declared").unwrap();
        assert!(!declared.is_reserved());
        assert_eq!(Permission::declare("billing.test-declared"), Some(declared));
        assert_eq!(Permission::find("billing.test-declared"), Some(declared));
        assert_eq!(declared.as_str(), "billing.test-declared");
        assert_ne!(Permission::declare("billing.test-other"), Some(declared));
        assert_eq!(Permission::declare("members.add"), Some(Permission::MEMBERS_ADD));
    }
}
