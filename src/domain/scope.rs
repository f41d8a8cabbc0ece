//! Scopes: the rights of a service, valid in every organization.

use super::permission::Permission as P;
use super::role::ADMIN_PERMISSIONS;
use super::{Invalid, PermissionSet};
use serde::{Deserialize, Serialize};

/// A right that a service's credential grants. A bearer token lists it as `roster:<name>` in its `scope` claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Scope {
    /// Send any check, and read any organization, its members and any user.
    Check,
    /// Act as an admin of every organization, create organizations for others, and update users' profiles.
    Manage,
    /// Act as an operator: pass every rule.
    Operator,
    /// Act on behalf of the user named in the metadata `roster-on-behalf-of` or `roster-on-behalf-of-bin`.
    ActAs,
    /// Apply the access model of the deployment.
    Model,
}

impl Scope {
    /// Every scope that exists.
    pub const ALL: [Self; 5] = [Self::Check, Self::Manage, Self::Operator, Self::ActAs, Self::Model];

    /// The name of the scope, without the prefix `roster:`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Manage => "manage",
            Self::Operator => "operator",
            Self::ActAs => "act-as",
            Self::Model => "model",
        }
    }

    /// Finds a scope by name.
    ///
    /// # Errors
    /// If no scope has this name.
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == name)
            .ok_or_else(|| Invalid::new("no such scope: one of check, manage, operator, act-as, model"))
    }

    /// The permissions that the scope grants in every organization. (`operator` is more than a set of permissions: it
    /// passes every rule.)
    #[must_use]
    pub fn permissions(self) -> PermissionSet {
        match self {
            Self::Check => PermissionSet::of(&[P::ORGANIZATION_READ, P::MEMBERS_LIST, P::MEMBERS_READ]),
            Self::Manage => ADMIN_PERMISSIONS,
            Self::Operator => PermissionSet::EVERYTHING,
            Self::ActAs | Self::Model => PermissionSet::NONE,
        }
    }
}

impl From<Scope> for &'static str {
    fn from(scope: Scope) -> Self {
        scope.as_str()
    }
}

impl TryFrom<String> for Scope {
    type Error = Invalid;
    fn try_from(name: String) -> Result<Self, Invalid> {
        Self::parse(&name)
    }
}
