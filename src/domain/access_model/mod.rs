//! The access model: the document of a deployment that declares the permissions of the application and the roles that
//! members can have in every organization, or in those of one kind.
//!
//! `owner`, `admin` and `member` always exist. A model lists `admin` or `member` only to change what they hold, and
//! never `owner`, who holds everything.
//!
//! A model has one canonical form: permissions, roles and the words of each role are sorted by name. So two models are
//! equal exactly if they mean the same, whatever the order in which they were written.
//!
//! - [`parts`] is the raw document, as a request or a file has it; [`validate`] makes a model of it;
//! - [`mod@file`] is the document as a file, in TOML or JSON;
//! - [`stored`] is the form in the datastore;
//! - [`plan`] compares two models, [`patch`] prints the comparison, and [`ModelPlan::summary`] names its items.

mod built_in;
#[cfg(feature = "server")]
pub mod file;
pub mod limits;
pub mod parts;
pub mod patch;
pub mod plan;
mod replaced;
mod stored;
mod summary;
#[cfg(test)]
#[cfg(feature = "server")]
mod tests;
pub mod text;
mod validate;

pub use parts::{ModelParts, PermissionParts, RoleParts};
pub use plan::{Difference, ModelPlan};
pub use replaced::ReplacedRoles;
pub use text::{Description, Title};

use crate::domain::{Kind, PermissionName, RoleName};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The permissions that a role lists, as words: those of the application that the model declares, and roster's own. A
/// stored model may contain words that this program does not know, because a newer one wrote it.
pub type WordSet = BTreeSet<Box<str>>;

/// The access model of a deployment. The default declares nothing, so that `admin` and `member` hold their built-in
/// permissions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessModel {
    permissions: Vec<DeclaredPermission>,
    roles: Vec<DeclaredRole>,
    delegable: WordSet,
}

/// A permission of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredPermission {
    /// The name, unique in the deployment.
    pub name: PermissionName,
    /// The title for people; may be empty.
    pub title: Title,
    /// The description for people; may be empty.
    pub description: Description,
}

/// A role of the deployment, or what `admin` or `member` hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredRole {
    /// The name, unique in the deployment.
    pub name: RoleName,
    /// The kind of organization in which the role exists; `None` for all kinds.
    pub kind: Option<Kind>,
    /// The title for people; may be empty.
    pub title: Title,
    /// The description for people; may be empty.
    pub description: Description,
    /// What the role holds.
    pub permissions: WordSet,
}

impl AccessModel {
    /// Creates a model of valid parts, in the canonical form. The names are unique.
    fn new(mut permissions: Vec<DeclaredPermission>, mut roles: Vec<DeclaredRole>, delegable: WordSet) -> Self {
        permissions.sort_by(|one, other| one.name.cmp(&other.name));
        roles.sort_by(|one, other| one.name.cmp(&other.name));
        Self { permissions, roles, delegable }
    }

    /// The application's permissions, sorted by name.
    #[must_use]
    pub fn permissions(&self) -> &[DeclaredPermission] {
        &self.permissions
    }

    /// The roles that the model lists, sorted by name.
    #[must_use]
    pub fn roles(&self) -> &[DeclaredRole] {
        &self.roles
    }

    /// Roster's own permissions that the roles of organizations may hold.
    #[must_use]
    pub fn delegable(&self) -> &WordSet {
        &self.delegable
    }

    /// The application's permission with this name.
    #[must_use]
    pub fn permission(&self, name: &str) -> Option<&DeclaredPermission> {
        let at = self.permissions.binary_search_by(|permission| permission.name.as_str().cmp(name)).ok()?;
        self.permissions.get(at)
    }

    /// The role that the model lists under this name.
    #[must_use]
    pub fn role(&self, name: &str) -> Option<&DeclaredRole> {
        let at = self.roles.binary_search_by(|role| role.name.as_str().cmp(name)).ok()?;
        self.roles.get(at)
    }

    /// What a role holds: `admin` and `member` their built-in permissions unless the model lists them. `None` for a role
    /// that the deployment does not have, and for `owner`, who holds everything.
    #[must_use]
    pub fn words_of(&self, role: &str) -> Option<Cow<'_, WordSet>> {
        match self.role(role) {
            Some(role) => Some(Cow::Borrowed(&role.permissions)),
            None => built_in::words_of(role).map(Cow::Owned),
        }
    }
}

impl DeclaredRole {
    /// Whether the role exists in organizations of this kind.
    #[must_use]
    pub fn exists_for(&self, kind: &Kind) -> bool {
        self.kind.as_ref().is_none_or(|own| own == kind)
    }
}
