//! The states of organizations and users.

use super::Invalid;
use serde::{Deserialize, Serialize};

/// The state of an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OrganizationState {
    /// Created without an owner. Its first member becomes the owner and activates it.
    Pending,
    /// Active: checks are answered from memberships and roles.
    Active,
    /// Deactivated: its members can read it, and every check answers no.
    Inactive,
    /// Deleted: hidden from its members, and restorable until it is purged.
    Deleted,
}

impl OrganizationState {
    /// Every state, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Active, Self::Inactive, Self::Deleted];

    /// The name in Postgres and in error metadata.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::Deleted => "DELETED",
        }
    }

    /// Parses a stored state.
    ///
    /// # Errors
    /// If no state has this name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| Invalid::new("no such state"))
    }
}

/// The state of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UserState {
    /// Active: checks are answered from memberships and roles.
    Active,
    /// Deactivated: every check answers no.
    Inactive,
    /// Deleted: only the id is left, and it is never reused.
    Erased,
}

impl UserState {
    /// Every state, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Active, Self::Inactive, Self::Erased];

    /// The name in Postgres and in error metadata.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::Erased => "ERASED",
        }
    }

    /// Parses a stored state.
    ///
    /// # Errors
    /// If no state has this name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| Invalid::new("no such state"))
    }
}
