//! The access model as the server sends it.

use crate::domain::ids::MODEL_BUCKET;
use crate::domain::{BucketPosition, Kind, LogMark, Permission, PermissionSet, RoleName, RoleTable};
use crate::pb;
use crate::replica_tables::PublishedRoles;
use std::collections::HashMap;
use std::sync::Arc;

/// The permissions of a message, which its roles name by index. `None` for a word that this client does not know.
pub(super) struct PermissionList(Vec<Option<Permission>>);

impl PermissionList {
    pub(super) fn new(words: &[String]) -> Self {
        Self(words.iter().map(|word| RoleTable::permission_of(word)).collect())
    }

    /// The permissions with these indexes; `None` if this client does not know all of them.
    pub(super) fn set(&self, indexes: &[u32]) -> Option<PermissionSet> {
        indexes.iter().map(|index| *self.0.get(usize::try_from(*index).ok()?)?).collect()
    }

    /// The permissions that this client knows.
    fn known(&self) -> PermissionSet {
        self.0.iter().copied().flatten().collect()
    }
}

/// The roles of the deployment in an access model. A role of which this client does not know every permission is unknown.
pub(super) fn published(model: &pb::AccessModelChange) -> PublishedRoles {
    let permissions = PermissionList::new(&model.permissions);
    let roles: HashMap<&str, &pb::DeploymentRole> = model.roles.iter().map(|role| (role.name.as_str(), role)).collect();
    let resolved = roles.values().map(|role| {
        let kind = (!role.kind.is_empty()).then(|| Kind::from_stored(role.kind.clone()));
        let held = holder(role, &roles).and_then(|holder| permissions.set(&holder.permissions));
        (RoleName::from_stored(&role.name), kind, held)
    });
    let table = RoleTable::of_sets(model.revision, permissions.known(), resolved);
    let at = BucketPosition { bucket: MODEL_BUCKET, position: model.revision, mark: LogMark::START };
    PublishedRoles { table: Arc::new(table), at }
}

/// The role whose permissions the members of a role hold: itself, or the one that replaces it. `None` if that is not in the
/// model.
fn holder<'m>(
    role: &'m pb::DeploymentRole,
    roles: &HashMap<&str, &'m pb::DeploymentRole>,
) -> Option<&'m pb::DeploymentRole> {
    let mut holder = role;
    // One role more than there are would be a circle.
    for _ in 0..=roles.len() {
        if holder.replaced_by.is_empty() {
            return Some(holder);
        }
        holder = roles.get(holder.replaced_by.as_str())?;
    }
    None
}
