//! Changes of an organization's own roles, within the caller's own permissions.

use super::{CreateRole, DeleteRole, DeletedRole, RoleDefinition, UpdateRole};
use crate::authz::decide::Grant;
use crate::domain::event::EventType;
use crate::domain::{
    Organization, OrganizationId, Permission, PermissionSet, Quota, Refusal, Role, RoleName, RoleTable, Violation,
};
use crate::service::write::OrganizationChange;
use crate::service::write::preconditions::{check_etag, check_writable};
use crate::service::write::unit_of_work::UnitOfWork;
use crate::service::{ServiceError, limits};
use crate::store::access_model;
use crate::store::organization_roles::{self, OrganizationRole, RoleContent};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The delay before a caller asks again for a role beyond the quota.
const QUOTA_RETRY: Duration = Duration::from_hours(24);

impl OrganizationChange for CreateRole {
    type Answer = RoleDefinition;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        grant: Grant,
    ) -> Result<RoleDefinition, ServiceError> {
        check_writable(&organization)?;
        if !access_model::is_enabled(tx.connection).await? {
            return Err(Refusal::RolesNotEnabled.into());
        }
        check_reach(&grant, &self.name, allowed(tx.roles(), &self.permissions)?)?;
        let exists = || Refusal::RoleExists { role: self.name.clone() };
        if organization_roles::get(tx.connection, organization.id, &self.name).await?.is_some() {
            return Err(exists().into());
        }
        let most = limits::ORGANIZATION_ROLES;
        if organization_roles::count(tx.connection, organization.id).await? >= most.into() {
            return Err(Refusal::quota(Quota::RolesPerOrganization, most, QUOTA_RETRY).into());
        }
        let content = RoleContent {
            title: self.title.as_str().to_owned(),
            description: self.description.as_str().to_owned(),
            permissions: sorted(&self.permissions),
            replaced_by: None,
        };
        tx.record_role(&mut organization, EventType::RoleCreated, None, Some(described(&self.name, &content)));
        let role = tx.insert_role(&organization, &self.name, &content).await?;
        Ok(RoleDefinition::of_organization(organization.id, role.ok_or_else(exists)?))
    }
}

impl OrganizationChange for UpdateRole {
    type Answer = RoleDefinition;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        grant: Grant,
    ) -> Result<RoleDefinition, ServiceError> {
        check_writable(&organization)?;
        let before = own_role(tx, &organization, &self.name).await?;
        let held_before = RoleTable::set_of_words(&before.content.permissions);
        check_reach_of_stored(&grant, &self.name, held_before.as_ref())?;
        let held = self.permissions.as_ref().map(|words| allowed(tx.roles(), words)).transpose()?;
        if let Some(held) = &held {
            check_reach(&grant, &self.name, held.clone())?;
        }
        check_etag(self.etag.as_deref(), &before.revision.to_string())?;
        let former = &before.content;
        let content = RoleContent {
            title: self.title.as_ref().map_or_else(|| former.title.clone(), |title| title.as_str().to_owned()),
            description: match &self.description {
                Some(description) => description.as_str().to_owned(),
                None => former.description.clone(),
            },
            permissions: self.permissions.as_ref().map_or_else(|| former.permissions.clone(), |words| sorted(words)),
            replaced_by: None,
        };
        if content == *former {
            return Ok(RoleDefinition::of_organization(organization.id, before));
        }
        let keeps_all = held.is_none_or(|held| held_before.is_some_and(|before| held.includes(&before)));
        if !keeps_all && grant.role.as_ref() == Some(&self.name) {
            tx.revoke_own_access();
        }
        let (old, new) = changed(&self.name, former, &content);
        tx.record_role(&mut organization, EventType::RoleUpdated, old, new);
        let role = tx.update_role(&organization, &self.name, &content).await?;
        Ok(RoleDefinition::of_organization(organization.id, role))
    }
}

impl OrganizationChange for DeleteRole {
    type Answer = DeletedRole;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        grant: Grant,
    ) -> Result<DeletedRole, ServiceError> {
        check_writable(&organization)?;
        let before = own_role(tx, &organization, &self.name).await?;
        let held = RoleTable::set_of_words(&before.content.permissions);
        check_reach_of_stored(&grant, &self.name, held.as_ref())?;
        let replacement = match &self.replace_with {
            Some(name) => Some(replacement(tx, &organization, &grant, name).await?),
            None => None,
        };
        check_etag(self.etag.as_deref(), &before.revision.to_string())?;
        let outcome = Deletion { role: before, replacement: replacement.as_ref() }.make(tx, &mut organization).await?;
        let keeps_all = replacement.as_ref().and_then(|new| new.permissions.as_ref()).zip(held);
        if grant.role.as_ref() == Some(&self.name) && !keeps_all.is_some_and(|(new, held)| new.includes(&held)) {
            tx.revoke_own_access();
        }
        Ok(outcome)
    }
}

/// The deletion of a role, which is decided.
struct Deletion<'r> {
    role: OrganizationRole,
    /// The role that members get.
    replacement: Option<&'r Role>,
}

impl Deletion<'_> {
    async fn make(self, tx: &mut UnitOfWork<'_>, organization: &mut Organization) -> Result<DeletedRole, ServiceError> {
        let name = self.role.name.clone();
        let most = i64::from(limits::MOVED_MEMBERS) + 1;
        // Roles that this one replaces: their members hold it, too.
        let former = organization_roles::replaced_by(tx.connection, organization.id, &name).await?;
        let mut members = organization_roles::members_with(tx.connection, organization.id, &name, most).await?;
        let Some(new) = self.replacement.map(|new| &new.name) else {
            for role in &former {
                members += organization_roles::members_with(tx.connection, organization.id, &role.name, most).await?;
            }
            if members > 0 {
                return Err(in_use(&name, members.min(most)).into());
            }
            self.record(tx, organization);
            for role in former {
                tx.delete_role(organization, &role.name).await?;
            }
            tx.delete_role(organization, &name).await?;
            return Ok(self.outcome(organization.id, 0, false));
        };
        let is_moving = members == most;
        let moved =
            if is_moving { 0 } else { tx.move_members(organization, &name, new, limits::MOVED_MEMBERS).await? };
        self.record(tx, organization);
        for role in former {
            tx.replace_role(organization, role, new).await?;
        }
        if is_moving {
            tx.replace_role(organization, self.role.clone(), new).await?;
        } else {
            tx.delete_role(organization, &name).await?;
        }
        Ok(self.outcome(organization.id, moved, is_moving))
    }

    fn record(&self, tx: &mut UnitOfWork<'_>, organization: &mut Organization) {
        let old = described(&self.role.name, &self.role.content);
        let new = self.replacement.map(|new| json!({ "replaced_by": new }));
        tx.record_role(organization, EventType::RoleDeleted, Some(old), new);
    }

    fn outcome(self, organization: OrganizationId, moved: u32, is_moving: bool) -> DeletedRole {
        DeletedRole { role: RoleDefinition::of_organization(organization, self.role), moved, is_moving }
    }
}

/// Reads a role of the locked organization.
async fn own_role(
    tx: &mut UnitOfWork<'_>,
    organization: &Organization,
    name: &RoleName,
) -> Result<OrganizationRole, ServiceError> {
    let stored = organization_roles::get(tx.connection, organization.id, name).await?;
    let stored = stored.filter(|stored| stored.content.replaced_by.is_none());
    Ok(stored.ok_or_else(|| Refusal::RoleNotFound { role: name.clone() })?)
}

/// The role that members get instead of a deleted one, within the reach of the caller.
async fn replacement(
    tx: &mut UnitOfWork<'_>,
    organization: &Organization,
    grant: &Grant,
    name: &RoleName,
) -> Result<Role, ServiceError> {
    let role = match tx.assignable_role(organization, name).await {
        // The field has another name in the request.
        Err(ServiceError::Refused(Refusal::InvalidRequest(violations))) => {
            let sentence = violations.into_iter().map(|violation| violation.sentence).next().unwrap_or_default();
            return Err(Refusal::field("replace_with", sentence).into());
        }
        outcome => outcome?,
    };
    grant.reaches(&role)?;
    Ok(role)
}

/// The set of these permissions, if a role of an organization may hold each of them.
fn allowed(roles: &RoleTable, words: &[String]) -> Result<PermissionSet, Refusal> {
    let mut violations = Vec::new();
    let mut set = Vec::with_capacity(words.len());
    for (index, word) in words.iter().enumerate() {
        let permission = Permission::find(word).filter(|permission| roles.declared().contains(*permission));
        let sentence = match permission {
            Some(permission) if !permission.is_reserved() || roles.delegable().contains(permission) => {
                set.push(permission);
                continue;
            }
            Some(_) => "the access model does not let roles of organizations hold this permission of roster",
            None => "the access model does not declare this permission",
        };
        violations.push(Violation { field: format!("permissions[{index}]"), sentence: sentence.to_owned() });
    }
    violations.truncate(limits::NAMED_VIOLATIONS);
    if violations.is_empty() { Ok(set.into_iter().collect()) } else { Err(Refusal::InvalidRequest(violations)) }
}

/// Checks the ceiling rule for what a role is to hold.
fn check_reach(grant: &Grant, name: &RoleName, held: PermissionSet) -> Result<(), Refusal> {
    grant.reaches(&Role { name: name.clone(), permissions: Some(held) })
}

/// Checks the ceiling rule for what a role holds. A caller with every permission also reaches permissions that this program
/// does not know.
fn check_reach_of_stored(grant: &Grant, name: &RoleName, held: Option<&PermissionSet>) -> Result<(), Refusal> {
    grant.reaches_removal(&Role { name: name.clone(), permissions: held.cloned() })
}

fn in_use(role: &RoleName, members: i64) -> Refusal {
    Refusal::RoleInUse { roles: vec![role.clone()], members: vec![u64::try_from(members).unwrap_or_default()] }
}

fn sorted(words: &[String]) -> Vec<String> {
    let mut words = words.to_vec();
    words.sort_unstable();
    words
}

/// A role in an event.
fn described(name: &RoleName, content: &RoleContent) -> Value {
    let RoleContent { title, description, permissions, .. } = content;
    json!({ "name": name, "title": title, "description": description, "permissions": permissions })
}

/// The name of a role and the fields that differ, before and after, for an event.
fn changed(name: &RoleName, before: &RoleContent, after: &RoleContent) -> (Option<Value>, Option<Value>) {
    let fields = |content: &RoleContent| {
        let mut fields = Map::new();
        fields.insert("name".to_owned(), json!(name));
        if before.title != after.title {
            fields.insert("title".to_owned(), json!(content.title));
        }
        if before.description != after.description {
            fields.insert("description".to_owned(), json!(content.description));
        }
        if before.permissions != after.permissions {
            fields.insert("permissions".to_owned(), json!(content.permissions));
        }
        Some(Value::Object(fields))
    };
    (fields(before), fields(after))
}
