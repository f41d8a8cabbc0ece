//! The states that organizations and users go through.

use super::Invalid;
use serde::{Deserialize, Serialize};

/// Where an organization is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OrganizationState {
    /// Made without an owner; its first member becomes owner and activates it.
    Pending,
    /// In use.
    Active,
    /// Switched off: readable by its members, every check answers no.
    Inactive,
    /// Deleted softly: out of sight, restorable until it is purged.
    Deleted,
}

impl OrganizationState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Active, Self::Inactive, Self::Deleted];

    /// As stored and as written in error metadata.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::Deleted => "DELETED",
        }
    }

    /// Reads a stored state.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| Invalid::new("no such state"))
    }
}

/// Where a user is in their life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UserState {
    /// Known and active.
    Active,
    /// Switched off: every check answers no.
    Inactive,
    /// Deleted: only the id is left, and it is never taken again.
    Erased,
}

impl UserState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Active, Self::Inactive, Self::Erased];

    /// As stored and as written in error metadata.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::Erased => "ERASED",
        }
    }

    /// Reads a stored state.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| Invalid::new("no such state"))
    }
}
