//! The form of a model in the datastore: the JSON of [`ModelParts`].

use super::{
    AccessModel, DeclaredPermission, DeclaredRole, Description, ModelParts, PermissionParts, RoleParts, Title, WordSet,
};
use crate::domain::{Invalid, Kind, PermissionName, RoleName};
use serde::Deserialize;
use serde_json::Value;

impl AccessModel {
    /// The model as it is stored.
    #[must_use]
    pub fn to_stored(&self) -> Value {
        serde_json::json!(ModelParts::from(self))
    }

    /// Reads a stored model. Its rules were checked when it was written, by a program that may have newer ones: fields
    /// that this program does not know are ignored, and names and texts are taken as they are.
    ///
    /// # Errors
    /// If a known field has a form that this program does not know.
    pub fn from_stored(stored: &Value) -> Result<Self, Invalid> {
        let parts = ModelParts::deserialize(stored).map_err(|_| {
            Invalid::new("the stored access model has a form that this release does not know: run a newer release")
        })?;
        let permissions = parts.permissions.into_iter().map(permission).collect();
        let roles = parts.roles.into_iter().map(role).collect();
        Ok(Self::new(permissions, roles, words(parts.delegable)))
    }
}

fn permission(parts: PermissionParts) -> DeclaredPermission {
    DeclaredPermission {
        name: PermissionName::from_stored(parts.name),
        title: Title::from_stored(parts.title),
        description: Description::from_stored(parts.description),
    }
}

fn role(parts: RoleParts) -> DeclaredRole {
    DeclaredRole {
        name: RoleName::from_stored(&parts.name),
        kind: Some(parts.kind).filter(|kind| !kind.is_empty()).map(Kind::from_stored),
        title: Title::from_stored(parts.title),
        description: Description::from_stored(parts.description),
        permissions: words(parts.permissions),
    }
}

fn words(words: Vec<String>) -> WordSet {
    words.into_iter().map(String::into_boxed_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stored_model_keeps_its_json_form() {
        let stored = json!({
            "delegable": ["members.add"],
            "permissions": [{ "name": "billing.read", "title": "Read bills", "description": "All of them." }],
            "roles": [
                { "name": "accountant", "kind": "vendor", "title": "Accountant", "permissions": ["billing.read"] },
                { "name": "guest", "permissions": [] },
            ],
        });
        let model = AccessModel::from_stored(&stored).unwrap();
        assert_eq!(model.to_stored(), stored);
        assert!(model.role("accountant").unwrap().exists_for(&Kind::parse("vendor").unwrap()));
        assert!(!model.role("accountant").unwrap().exists_for(&Kind::default_kind()));
        assert!(model.role("guest").unwrap().exists_for(&Kind::default_kind()));
        assert_eq!(model.permission("billing.read").unwrap().title.as_str(), "Read bills");
        assert_eq!(AccessModel::default().to_stored(), json!({}));
        assert_eq!(AccessModel::from_stored(&json!({})), Ok(AccessModel::default()));
    }

    #[test]
    fn what_a_newer_release_wrote_is_read() {
        let stored = json!({
            "teams": [1, 2],
            "delegable": ["teams.manage"],
            "permissions": [{ "name": "a.b.c.d.e", "tags": {} }],
            "roles": [{ "name": "x", "parents": ["y"], "permissions": ["teams.manage", "a.b.c.d.e"] }],
        });
        let model = AccessModel::from_stored(&stored).unwrap();
        assert_eq!(model.delegable().iter().map(|word| &**word).collect::<Vec<_>>(), ["teams.manage"]);
        assert_eq!(model.words_of("x").unwrap().len(), 2);
        for bad in [json!(null), json!("x"), json!({ "roles": {} }), json!({ "permissions": ["a.b"] })] {
            assert!(AccessModel::from_stored(&bad).is_err(), "{bad}");
        }
    }
}
