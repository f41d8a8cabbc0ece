//! The states of organizations and users.

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
    /// A state that this program does not know, because a newer one wrote it. Never written: a constraint rejects it.
    #[serde(other)]
    Unknown,
}

impl OrganizationState {
    /// Every known state, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Active, Self::Inactive, Self::Deleted];

    /// The name in Postgres and in error metadata.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::Deleted => "DELETED",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// Reads a stored state.
    #[must_use]
    pub fn read(text: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.as_str() == text).unwrap_or(Self::Unknown)
    }

    /// The names of the states that are not among these. A list leaves out the organizations in these states; one in
    /// an unknown state is in every list.
    #[must_use]
    pub fn names_except(states: &[Self]) -> Vec<String> {
        Self::ALL.iter().filter(|state| !states.contains(state)).map(|state| state.as_str().to_owned()).collect()
    }
}

/// The state of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UserState {
    /// Active: checks are answered from memberships and roles.
    Active,
    /// Deactivated: every check answers no.
    Inactive,
    /// Deleted: only the id, the state and the times are left. The id is not used again, unless an operator reinstates
    /// it.
    Erased,
    /// A state that this program does not know, because a newer one wrote it. Never written: a constraint rejects it.
    #[serde(other)]
    Unknown,
}

impl UserState {
    /// Every known state, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Active, Self::Inactive, Self::Erased];

    /// The name in Postgres and in error metadata.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::Erased => "ERASED",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// Reads a stored state.
    #[must_use]
    pub fn read(text: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.as_str() == text).unwrap_or(Self::Unknown)
    }

    /// The names of the states that are not among these. A list leaves out the users in these states; one in an
    /// unknown state is in every list.
    #[must_use]
    pub fn names_except(states: &[Self]) -> Vec<String> {
        Self::ALL.iter().filter(|state| !states.contains(state)).map(|state| state.as_str().to_owned()).collect()
    }
}
