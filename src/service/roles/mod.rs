//! The roles that exist for an organization: reads, and the inputs of the changes. [`change`] defines, changes and deletes
//! the organization's own roles. [`replacement`] moves the members of a deleted role in parts.

mod change;
pub(super) mod replacement;

use super::write::{Meta, WriteAnswer, WriteResult};
use super::{Roster, ServiceError};
use crate::authz::decide::Access;
use crate::domain::access_model::{AccessModel, Description, Title};
use crate::domain::{Kind, Organization, OrganizationId, Permission, Refusal, RoleName};
use crate::service::limits;
use crate::store::organization_roles::{self, OrganizationRole};
use crate::store::row_page::RowPage;
use crate::store::{StoreError, access_model, organizations};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// Where a role is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleOrigin {
    /// A role that always exists.
    BuiltIn,
    /// The access model of the deployment.
    Deployment,
    /// The organization itself.
    Organization,
}

/// A role that exists for an organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleDefinition {
    /// The organization of the role.
    pub organization: OrganizationId,
    /// The name of the role.
    pub name: RoleName,
    /// Where the role is defined.
    pub origin: RoleOrigin,
    /// The title for people; may be empty.
    pub title: String,
    /// The description for people; may be empty.
    pub description: String,
    /// The words of its permissions, sorted.
    pub permissions: Vec<String>,
    /// The version of a role of the organization; `None` for others.
    pub version: Option<RoleVersion>,
    /// For a deleted role whose members still move: the role that replaces it. They hold what that role holds, and the
    /// permissions are those of that role.
    #[serde(default)]
    pub replaced_by: Option<RoleName>,
}

/// The version of a role of an organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleVersion {
    /// The organization's revision at which the role last changed: its etag.
    pub revision: i64,
    /// The time at which it was defined.
    pub create_time: OffsetDateTime,
    /// The time of its last change.
    pub update_time: OffsetDateTime,
}

impl RoleDefinition {
    fn of_organization(organization: OrganizationId, role: OrganizationRole) -> Self {
        Self {
            organization,
            name: role.name,
            origin: RoleOrigin::Organization,
            title: role.content.title,
            description: role.content.description,
            permissions: role.content.permissions,
            replaced_by: role.content.replaced_by,
            version: Some(RoleVersion {
                revision: role.revision,
                create_time: role.create_time,
                update_time: role.update_time,
            }),
        }
    }
}

/// A role to define.
#[derive(Debug, Clone)]
pub struct CreateRole {
    /// The name, which begins with `org:`.
    pub name: RoleName,
    /// The title for people.
    pub title: Title,
    /// The description for people.
    pub description: Description,
    /// The words of its permissions, each once, in the order of the request.
    pub permissions: Vec<String>,
}

/// The changes of a role. Fields that are `None` stay unchanged.
#[derive(Debug, Clone)]
pub struct UpdateRole {
    /// The name, which begins with `org:`.
    pub name: RoleName,
    /// The new title.
    pub title: Option<Title>,
    /// The new description.
    pub description: Option<Description>,
    /// The words of its new permissions, each once, in the order of the request.
    pub permissions: Option<Vec<String>>,
    /// The expected etag of the role; `None` to skip the check.
    pub etag: Option<String>,
}

/// A role to delete.
#[derive(Debug, Clone)]
pub struct DeleteRole {
    /// The name, which begins with `org:`.
    pub name: RoleName,
    /// The role that its members get.
    pub replace_with: Option<RoleName>,
    /// The expected etag of the role; `None` to skip the check.
    pub etag: Option<String>,
}

/// A role that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedRole {
    /// The role before the deletion.
    pub role: RoleDefinition,
    /// The members who got another role.
    pub moved: u32,
    /// Whether there are more members than one transaction moves: they hold the other role from now on, and housekeeping
    /// moves them.
    #[serde(default)]
    pub is_moving: bool,
}

impl WriteAnswer for RoleDefinition {}
impl WriteAnswer for DeletedRole {}

/// A page of the roles of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleFilter {
    /// Only roles after this one, by name; `None` from the first one on.
    pub after: Option<RoleName>,
}

impl Roster {
    /// Defines a role in an organization.
    ///
    /// # Errors
    /// `ROLE_EXISTS`, `ROLE_ABOVE_CALLER`, `ROLES_NOT_ENABLED`, `QUOTA_EXCEEDED`, `ORGANIZATION_INACTIVE`;
    /// `INVALID_REQUEST` for a permission that is not declared or not delegable.
    pub async fn create_role(
        &self,
        access: Access,
        meta: Meta,
        input: CreateRole,
    ) -> Result<WriteResult<RoleDefinition>, ServiceError> {
        self.write_in(access, meta, input).await
    }

    /// Changes a role of an organization.
    ///
    /// # Errors
    /// `ROLE_NOT_FOUND`, `ROLE_ABOVE_CALLER`, `ETAG_MISMATCH`, `ORGANIZATION_INACTIVE`; `INVALID_REQUEST` for a permission
    /// that is not declared or not delegable.
    pub async fn update_role(
        &self,
        access: Access,
        meta: Meta,
        input: UpdateRole,
    ) -> Result<WriteResult<RoleDefinition>, ServiceError> {
        self.write_in(access, meta, input).await
    }

    /// Deletes a role of an organization.
    ///
    /// # Errors
    /// `ROLE_NOT_FOUND`, `ROLE_IN_USE`, `ROLE_ABOVE_CALLER`, `ETAG_MISMATCH`, `ORGANIZATION_INACTIVE`; `INVALID_REQUEST`
    /// for a replacement that does not exist.
    pub async fn delete_role(
        &self,
        access: Access,
        meta: Meta,
        input: DeleteRole,
    ) -> Result<WriteResult<DeletedRole>, ServiceError> {
        self.write_in(access, meta, input).await
    }

    /// Reads a role that exists for the organization.
    ///
    /// # Errors
    /// `ROLE_NOT_FOUND`; if the datastore does not answer.
    pub async fn get_role(&self, access: &Access, name: &RoleName) -> Result<RoleDefinition, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = find(&mut connection, access.organization(), name).await;
        let found = connection.finish(outcome)?;
        Ok(found.ok_or_else(|| Refusal::RoleNotFound { role: name.clone() })?)
    }

    /// Lists the roles that exist for the organization, by name.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_roles(
        &self,
        access: &Access,
        filter: &RoleFilter,
    ) -> Result<RowPage<RoleDefinition>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = all(&mut connection, access.organization()).await;
        let mut rows = connection.finish(outcome)?;
        rows.retain(|role| filter.after.as_ref().is_none_or(|after| role.name > *after));
        Ok(RowPage { rows, is_cut: false })
    }
}

async fn find(
    connection: &mut PgConnection,
    organization: OrganizationId,
    name: &RoleName,
) -> Result<Option<RoleDefinition>, StoreError> {
    if name.is_of_organization() {
        let stored = organization_roles::get(connection, organization, name).await?;
        return match stored {
            Some(stored) if stored.content.replaced_by.is_some() => {
                Ok(all(connection, organization).await?.into_iter().find(|role| role.name == *name))
            }
            stored => Ok(stored.map(|stored| RoleDefinition::of_organization(organization, stored))),
        };
    }
    let Some(organization) = organizations::get(connection, organization).await? else { return Ok(None) };
    Ok(of_deployment(connection, &organization).await?.into_iter().find(|role| role.name == *name))
}

async fn all(connection: &mut PgConnection, id: OrganizationId) -> Result<Vec<RoleDefinition>, StoreError> {
    let Some(organization) = organizations::get(connection, id).await? else { return Ok(Vec::new()) };
    // Before the access model, which keeps the role that replaces another one. Where it has no such role, the members have
    // moved in between.
    let own = organization_roles::list(connection, id, limits::ORGANIZATION_ROLES.into()).await?;
    let own = own.into_iter().map(|role| RoleDefinition::of_organization(id, role));
    let (replaced, defined): (Vec<_>, Vec<_>) = own.partition(|role| role.replaced_by.is_some());
    let mut roles = of_deployment(connection, &organization).await?;
    roles.extend(defined);
    let with_permissions = |role: RoleDefinition| {
        let replacement = roles.iter().find(|other| role.replaced_by.as_ref() == Some(&other.name))?;
        Some(RoleDefinition { permissions: replacement.permissions.clone(), ..role })
    };
    let replaced: Vec<_> = replaced.into_iter().filter_map(with_permissions).collect();
    roles.extend(replaced);
    roles.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(roles)
}

/// The roles that exist for an organization without being its own.
async fn of_deployment(
    connection: &mut PgConnection,
    organization: &Organization,
) -> Result<Vec<RoleDefinition>, StoreError> {
    let stored = access_model::current(connection).await?;
    let model = AccessModel::from_stored(&stored.model)?;
    let mut names = vec![RoleName::OWNER, RoleName::ADMIN, RoleName::MEMBER];
    let is_own = |kind: &Kind| organization.kind == *kind;
    let listed = model.roles().iter().filter(|role| role.kind.as_ref().is_none_or(is_own));
    names.extend(listed.map(|role| role.name.clone()).filter(|name| !is_built_in(name)));
    Ok(names.into_iter().map(|name| definition(organization.id, &model, name)).collect())
}

fn is_built_in(name: &RoleName) -> bool {
    [RoleName::OWNER, RoleName::ADMIN, RoleName::MEMBER].contains(name)
}

fn definition(organization: OrganizationId, model: &AccessModel, name: RoleName) -> RoleDefinition {
    let mut permissions: Vec<String> = if let Some(words) = model.words_of(name.as_str()) {
        words.iter().map(ToString::to_string).collect()
    } else {
        // The owner holds every permission.
        let declared = model.permissions().iter().map(|permission| permission.name.as_str());
        declared.chain(Permission::RESERVED.iter().map(|word| word.as_str())).map(str::to_owned).collect()
    };
    permissions.sort_unstable();
    let listed = model.role(name.as_str());
    RoleDefinition {
        organization,
        origin: if is_built_in(&name) { RoleOrigin::BuiltIn } else { RoleOrigin::Deployment },
        title: listed.map(|role| role.title.as_str().to_owned()).unwrap_or_default(),
        description: listed.map(|role| role.description.as_str().to_owned()).unwrap_or_default(),
        permissions,
        version: None,
        replaced_by: None,
        name,
    }
}
