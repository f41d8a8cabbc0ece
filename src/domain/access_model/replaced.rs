//! Roles that a model no longer has, while their members move to other roles.

use crate::domain::RoleName;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The field of the stored document. It is not a part of the model, and no request sets it.
const FIELD: &str = "replaced";

/// The removed roles of the deployment that members may still hold, and the role that replaces each. Their members hold what
/// that role holds. A replacement is never replaced itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplacedRoles(BTreeMap<RoleName, RoleName>);

impl ReplacedRoles {
    /// Reads them from a stored document. Anything else in their place counts as none.
    #[must_use]
    pub fn from_stored(stored: &Value) -> Self {
        let replaced = stored.get(FIELD).and_then(Value::as_object).into_iter().flatten();
        let role = |(former, new): (&String, &Value)| {
            Some((RoleName::from_stored(former), RoleName::from_stored(new.as_str()?)))
        };
        replaced.filter_map(role).collect()
    }

    /// Adds them to the document of a model.
    #[must_use]
    pub fn add_to(&self, mut stored: Value) -> Value {
        let text = |(former, new): (&RoleName, &RoleName)| (former.to_string(), Value::from(new.as_str()));
        let replaced: Map<String, Value> = self.0.iter().map(text).collect();
        if let (Value::Object(document), false) = (&mut stored, replaced.is_empty()) {
            document.insert(FIELD.to_owned(), replaced.into());
        }
        stored
    }

    /// The role that replaces this one; `None` for a role that is not replaced.
    #[must_use]
    pub fn get(&self, role: &RoleName) -> Option<&RoleName> {
        self.0.get(role)
    }

    /// The replaced roles, each with the role that replaces it, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&RoleName, &RoleName)> {
        self.0.iter()
    }
}

impl FromIterator<(RoleName, RoleName)> for ReplacedRoles {
    fn from_iter<T: IntoIterator<Item = (RoleName, RoleName)>>(roles: T) -> Self {
        Self(roles.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access_model::AccessModel;
    use serde_json::json;

    #[test]
    fn replaced_roles_stand_beside_the_model() {
        let name = |name: &str| RoleName::parse(name).unwrap();
        let replaced: ReplacedRoles = [(name("clerk"), name("member"))].into_iter().collect();
        let model = AccessModel::from_stored(&json!({ "roles": [{ "name": "seller", "permissions": [] }] })).unwrap();
        let stored = replaced.add_to(model.to_stored());
        assert_eq!(stored["replaced"], json!({ "clerk": "member" }));
        assert_eq!(ReplacedRoles::from_stored(&stored), replaced);
        assert_eq!(AccessModel::from_stored(&stored), Ok(model.clone()));
        assert_eq!(replaced.get(&name("clerk")), Some(&RoleName::MEMBER));
        assert_eq!(replaced.get(&name("seller")), None);
        assert_eq!(ReplacedRoles::default().add_to(model.to_stored()), model.to_stored());
        for other in [json!({}), json!({ "replaced": [] }), json!({ "replaced": { "clerk": 1 } })] {
            assert_eq!(ReplacedRoles::from_stored(&other), ReplacedRoles::default());
        }
    }
}
