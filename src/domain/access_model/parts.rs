//! The raw document: texts as they come from a request, a file or the datastore.

use super::{AccessModel, DeclaredPermission, DeclaredRole, WordSet};
use crate::domain::Kind;
use serde::{Deserialize, Serialize};

/// An access model that is not checked yet. The names of the fields are those of the file, of the stored form and of the
/// request. A field that this program does not know is ignored; `file` rejects it before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelParts {
    /// Roster's own permissions that the roles of organizations may hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delegable: Vec<String>,
    /// The application's permissions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<PermissionParts>,
    /// The roles of the deployment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleParts>,
}

/// A permission of the application that is not checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PermissionParts {
    /// The name, such as `billing.read`.
    pub name: String,
    /// The title for people; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// The description for people; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A role that is not checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleParts {
    /// The name, such as `accountant`.
    pub name: String,
    /// The kind of organization in which the role exists; empty for all kinds.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The title for people; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// The description for people; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What the role holds: words of the application that the model declares, and roster's own.
    pub permissions: Vec<String>,
}

/// The parts of a model, in the canonical order.
impl From<&AccessModel> for ModelParts {
    fn from(model: &AccessModel) -> Self {
        Self {
            delegable: words(model.delegable()),
            permissions: model.permissions().iter().map(PermissionParts::from).collect(),
            roles: model.roles().iter().map(RoleParts::from).collect(),
        }
    }
}

impl From<&DeclaredPermission> for PermissionParts {
    fn from(permission: &DeclaredPermission) -> Self {
        Self {
            name: permission.name.as_str().to_owned(),
            title: permission.title.as_str().to_owned(),
            description: permission.description.as_str().to_owned(),
        }
    }
}

impl From<&DeclaredRole> for RoleParts {
    fn from(role: &DeclaredRole) -> Self {
        Self {
            name: role.name.as_str().to_owned(),
            kind: role.kind.as_ref().map(Kind::as_str).unwrap_or_default().to_owned(),
            title: role.title.as_str().to_owned(),
            description: role.description.as_str().to_owned(),
            permissions: words(&role.permissions),
        }
    }
}

fn words(set: &WordSet) -> Vec<String> {
    set.iter().map(ToString::to_string).collect()
}
