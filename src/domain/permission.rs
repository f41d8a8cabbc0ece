//! Permissions: the rights that methods of roster and of the application require. Roles and scopes are sets of them.
//!
//! A permission is a number that stands for a dotted word. Roster's own permissions have fixed numbers below
//! [`Permission::RESERVED_NUMBERS`]. A word of the application gets its number from one table for the whole process, which
//! only grows: equal numbers mean equal words at any time, whatever access model they come from.

use super::{Invalid, PermissionName};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

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

/// The words of the application that this process has seen in an access model, by their numbers.
///
/// Every check with such a word reads this table, so readers take no lock, and write to no memory that they share.
static WORDS: [OnceLock<Box<[OnceLock<&str>]>>; PARTS] = [const { OnceLock::new() }; PARTS];

/// The words in each part of [`WORDS`], which is allocated with its first word.
const PART: usize = 1_024;

/// The parts of [`WORDS`]: their numbers and those of roster's own permissions fit into sixteen bits.
const PARTS: usize = (u16::MAX - Permission::RESERVED_NUMBERS) as usize / PART;

/// A hash table of the numbers of [`WORDS`], each plus one; 0 for a free slot (linear probing). It is half full at most.
static SLOTS: [AtomicU16; 1 << 17] = [const { AtomicU16::new(0) }; 1 << 17];

/// The number of words in [`WORDS`]. Its lock serializes the writers.
static COUNT: Mutex<usize> = Mutex::new(0);

/// The word with a number.
fn word_at(number: u16) -> Option<&'static str> {
    let number = usize::from(number);
    WORDS.get(number / PART)?.get()?.get(number % PART)?.get().copied()
}

/// The slots in which a word can be, from the one that its hash selects on (FNV-1a: Fowler, Noll, Vo). Only the words of
/// stored models are in the table, so that requests cannot fill it with collisions.
fn slots(word: &str) -> impl Iterator<Item = &'static AtomicU16> {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = word.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    let first = usize::try_from(hash ^ (hash >> 32)).unwrap_or_default() % SLOTS.len();
    SLOTS[first..].iter().chain(&SLOTS[..first])
}

/// The number of a word of the application; `None` if this process has not seen it.
fn find_word(word: &str) -> Option<u16> {
    for slot in slots(word) {
        let number = slot.load(Ordering::Acquire).checked_sub(1)?;
        if word_at(number) == Some(word) {
            return Some(number);
        }
    }
    None
}

/// The number of a word of the application, which is added if it is new; `None` if the table is full.
fn add_word(word: &str) -> Option<u16> {
    let mut count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = find_word(word) {
        return Some(number);
    }
    let number = u16::try_from(*count).ok()?;
    // The word before its slot, so that a reader of the slot finds it.
    let part = WORDS.get(*count / PART)?.get_or_init(|| (0..PART).map(|_| OnceLock::new()).collect());
    part.get(*count % PART)?.set(Box::leak(word.into())).ok()?;
    *count += 1;
    let free = slots(word).find(|slot| slot.load(Ordering::Relaxed) == 0)?;
    free.store(number + 1, Ordering::Release);
    Some(number)
}

impl Permission {
    /// The number of numbers that are kept for roster's own permissions: one word of a [`super::PermissionSet`].
    pub const RESERVED_NUMBERS: u16 = 64;

    /// The permission with this word, for a program that asks for it: one of roster's own such as `members.add`, or one
    /// of the application such as `billing.read`. An access model need not declare it yet.
    ///
    /// The process keeps every word of the application for its lifetime, and has room for about 65 000. So call this with
    /// the words that the program knows, at its start, and not with texts from requests.
    ///
    /// # Errors
    /// If the word is neither a permission of roster nor a valid name of the application (see [`PermissionName`]), or if
    /// the process has no room for another word.
    pub fn new(word: &str) -> Result<Self, Invalid> {
        if let Some(known) = Self::find(word) {
            return Ok(known);
        }
        let name = PermissionName::parse(word)?;
        Self::declare(name.as_str()).ok_or_else(|| {
            Invalid::new(
                "this process has seen too many permissions: name only those that the program knows, and restart it",
            )
        })
    }

    /// Finds a permission by its word: one of roster's own, or one that this process has seen in an access model. It
    /// may be declared no longer.
    #[must_use]
    pub fn find(word: &str) -> Option<Self> {
        let reserved = (0..).zip(RESERVED_WORDS).find(|(_, reserved)| **reserved == word);
        let application = || find_word(word).map(|number| Self::RESERVED_NUMBERS + number);
        reserved.map(|(number, _)| number).or_else(application).map(Self)
    }

    /// Finds a permission by its word, as [`Self::find`] does.
    ///
    /// # Errors
    /// If no permission has this word.
    pub fn parse(word: &str) -> Result<Self, Invalid> {
        Self::find(word).ok_or_else(|| Invalid::new("no such permission"))
    }

    /// The permission with the word of an access model, which must be a valid name of the application: the table of words
    /// keeps it for the life of the process. `None` if the process has seen about 65 000 different words.
    #[must_use]
    pub fn declare(word: &str) -> Option<Self> {
        Self::find(word).or_else(|| add_word(word).map(|number| Self(Self::RESERVED_NUMBERS + number)))
    }

    /// The word of the permission, as stored and as sent.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let word = match self.0.checked_sub(Self::RESERVED_NUMBERS) {
            None => RESERVED_WORDS.get(usize::from(self.0)).copied(),
            Some(index) => word_at(index),
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
    fn words_that_are_declared_at_the_same_time_have_different_numbers() {
        let word = |index: usize| format!("billing.test-race-{index}");
        let declare = || (0..500).map(|index| Permission::declare(&word(index)).unwrap()).collect::<Vec<_>>();
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(declare)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for numbers in &all {
            assert_eq!(numbers, &all[0]);
        }
        for (index, permission) in all[0].iter().enumerate() {
            assert_eq!((permission.as_str(), Permission::find(&word(index))), (&*word(index), Some(*permission)));
        }
    }

    #[test]
    fn a_program_names_permissions_by_valid_words() {
        assert_eq!(Permission::new("members.add"), Ok(Permission::MEMBERS_ADD));
        let read = Permission::new("billing.test-new").unwrap();
        assert_eq!(
            (read.as_str(), Permission::new("billing.test-new"), read.is_reserved()),
            ("billing.test-new", Ok(read), false)
        );
        assert_eq!(Permission::declare("billing.test-new"), Some(read));
        let longest = format!("a.{}", "b".repeat(98));
        assert_eq!(Permission::new(&longest).map(Permission::as_str), Ok(&*longest));
        for bad in ["", "billing", "Billing.read", "billing.read ", "billing.*", "a.b.c.d.e", &format!("{longest}b")] {
            assert!(Permission::new(bad).is_err() && Permission::find(bad).is_none(), "{bad}");
        }
        // A word that a newer release may reserve.
        assert!(Permission::new("members.fly").is_err() && Permission::find("members.fly").is_none());
    }

    /// Fills the table of words, which the tests of a process share: [`a_full_table_of_words_is_an_error`] runs it in a
    /// process of its own.
    #[test]
    #[ignore = "it leaves no room for words of other tests"]
    fn fill_the_table_of_words() {
        let known = Permission::new("billing.test-known").unwrap();
        let full =
            (0..=u32::from(u16::MAX)).find_map(|index| Permission::new(&format!("billing.test-fill-{index}")).err());
        assert!(full.unwrap().0.contains("too many permissions"));
        assert_eq!(Permission::new("billing.test-known"), Ok(known));
        assert_eq!(Permission::new("members.add"), Ok(Permission::MEMBERS_ADD));
        assert_eq!(Permission::declare("billing.test-late"), None);
        assert_eq!(Permission::find("billing.test-fill-60000").unwrap().as_str(), "billing.test-fill-60000");
    }

    #[test]
    fn a_full_table_of_words_is_an_error() {
        let name = "domain::permission::tests::fill_the_table_of_words";
        let mut program = std::process::Command::new(std::env::current_exe().unwrap());
        let output = program.args(["--exact", name, "--ignored"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
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
