//! The change of the access model.
//!
//! The order of the locks is that of every write: the model, organizations whose members move, roles that are taken away,
//! the heads of the change log. Members with a role that is taken away are counted while the role is locked, which holds up
//! the writes that assign it. Uses of permissions are counted before, and the change log has what was written since: after
//! the heads are locked, no write that was decided by the former model can commit any more, so little is done then.

use super::{AppliedModel, ApplyModel, effects};
use crate::domain::access_model::plan::RoleChange;
use crate::domain::access_model::{AccessModel, ModelPlan, ReplacedRoles};
use crate::domain::{Kind, Organization, OrganizationId, Refusal, RoleName};
use crate::service::write::Change;
use crate::service::write::preconditions::check_etag;
use crate::service::write::queue::QueueKey;
use crate::service::write::unit_of_work::UnitOfWork;
use crate::service::{ServiceError, limits};
use crate::store::StoreError;
use crate::store::access_model::{self, DeploymentRoleRow, StoredModel};
use crate::store::organization_roles;
use crate::store::usage::{self, PermissionUsage};
use serde_json::Value;
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// The organizations whose members move, locked, in the order of their locks.
type LockedOrganizations = BTreeMap<(i16, OrganizationId), Organization>;

/// The members who are to move.
struct Moves {
    organizations: LockedOrganizations,
    /// The removed roles whose members move after this change.
    later: Vec<DeploymentRoleRow>,
}

/// The document to store: the model, and the removed roles whose members still move.
fn document(model: &AccessModel, replaced: &[DeploymentRoleRow]) -> Value {
    let roles = replaced.iter().filter_map(|role| Some((role.name.clone(), role.replaced_by.clone()?)));
    roles.collect::<ReplacedRoles>().add_to(model.to_stored())
}

impl Change for ApplyModel {
    type Place = StoredModel;
    type Answer = AppliedModel;

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::Model)
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<StoredModel, ServiceError> {
        tx.lock_model().await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, stored: StoredModel) -> Result<AppliedModel, ServiceError> {
        if !stored.is_enabled {
            return Err(Refusal::RolesNotEnabled.into());
        }
        check_etag(self.etag.as_deref(), &stored.revision.to_string())?;
        let former = AccessModel::from_stored(&stored.model).map_err(StoreError::from)?;
        let plan = ModelPlan::between(&former, &self.model);
        self.check_replacements(&plan)?;
        self.check_older_clients(&plan)?;
        let withdrawn = effects::withdrawn(&plan);
        if !withdrawn.is_empty() {
            tx.withdraw_permissions(withdrawn).await?;
        }
        let (mut applied, withdrawn) = effects::count(tx.connection, &plan, self).await?;
        applied.etag = stored.revision.to_string();
        if plan.is_empty() {
            return Ok(applied);
        }
        check_permissions(withdrawn)?;
        let mut replaced = access_model::replaced_roles(tx.connection).await?;
        self.check_names(&replaced)?;
        let Moves { mut organizations, later } = self.lock_organizations(tx, &plan).await?;
        replaced.extend(later.iter().cloned());
        let mut roles = deployment_roles(&self.model);
        roles.extend(replaced.iter().cloned());
        applied.etag = tx.apply_model(&document(&self.model, &replaced), &roles).await?.to_string();
        self.check_kinds(tx.connection, &later).await?;
        applied.moved = self.move_members(tx, &plan, &mut organizations, &later).await?;
        applied.moving = later.into_iter().map(|role| role.name).collect();
        check_roles(tx.connection, &plan, &replaced).await?;
        access_model::delete_roles(tx.connection, &roles).await?;
        Ok(applied)
    }
}

impl ApplyModel {
    /// Refuses replacements of roles that stay, and by roles that the new model does not have.
    fn check_replacements(&self, plan: &ModelPlan) -> Result<(), Refusal> {
        for (former, new) in &self.replace {
            let is_taken = |change: &RoleChange| change.is_removal() || change.is_taken_from_a_kind();
            let sentence = if !plan.roles.iter().any(|change| change.name == *former && is_taken(change)) {
                "the model neither removes this role nor takes it from a kind"
            } else if self.model.words_of(new.as_str()).is_none() {
                "the new model does not have the replacement"
            } else {
                continue;
            };
            return Err(Refusal::field(format!("replace_roles[{former}]"), sentence));
        }
        Ok(())
    }

    fn check_older_clients(&self, plan: &ModelPlan) -> Result<(), Refusal> {
        if self.older_clients_gone || !plan.needs_older_clients_gone() {
            return Ok(());
        }
        let roles = plan.roles.iter().filter(|change| change.is_built_in()).map(|change| change.name.clone());
        Err(Refusal::OlderClientsGoneRequired { roles: roles.collect() })
    }

    /// The roles whose members move: the role, the kind whose organizations keep it, and the role that they get.
    fn moves<'a>(
        &'a self,
        plan: &'a ModelPlan,
    ) -> impl Iterator<Item = (&'a RoleName, Option<&'a Kind>, &'a RoleName)> + 'a {
        let changes = plan.roles.iter().filter_map(|change| Some((change, self.replace.get(&change.name)?)));
        changes.map(|(change, new)| (&change.name, change.after.as_ref().and_then(|role| role.kind.as_ref()), new))
    }

    /// Refuses a role with the name of a removed one whose members still move.
    fn check_names(&self, replaced: &[DeploymentRoleRow]) -> Result<(), Refusal> {
        let Some(role) = replaced.iter().find(|role| self.model.role(role.name.as_str()).is_some()) else {
            return Ok(());
        };
        let sentence = format!("the members of a removed role {} are still moving: define the role later", role.name);
        Err(Refusal::field("model.roles", sentence))
    }

    /// Refuses replacements that do not exist for the kind of each organization whose members move later.
    async fn check_kinds(
        &self,
        connection: &mut PgConnection,
        later: &[DeploymentRoleRow],
    ) -> Result<(), ServiceError> {
        for DeploymentRoleRow { name, replaced_by, .. } in later {
            let new = replaced_by.as_ref().and_then(|new| self.model.role(new.as_str()));
            let Some(kind) = new.and_then(|new| new.kind.as_ref()) else { continue };
            if usage::deployment_role_outside(connection, name, kind, 0).await?.members > 0 {
                let sentence =
                    format!("the replacement exists for the kind {} only, and others have such members", kind.as_str());
                return Err(Refusal::field(format!("replace_roles[{name}]"), sentence).into());
            }
        }
        Ok(())
    }

    /// Locks the organizations with members who are to move. A removed role with more members than one transaction moves
    /// is replaced at once, and its members move later.
    async fn lock_organizations(&self, tx: &mut UnitOfWork<'_>, plan: &ModelPlan) -> Result<Moves, ServiceError> {
        let (mut ids, mut later) = (Vec::new(), Vec::new());
        for (former, kept, new) in self.moves(plan) {
            let (members, found) = users_of(tx.connection, former, kept).await?;
            if members > limits::MOVED_MEMBERS.into() {
                if kept.is_some() {
                    return Err(in_use(former, members).into());
                }
                let (name, replaced_by) = (former.clone(), Some(new.clone()));
                later.push(DeploymentRoleRow { name, kind: None, replaced_by });
                continue;
            }
            ids.extend(found.into_iter().map(|id| (id.bucket(), id)));
        }
        ids.sort_unstable();
        ids.dedup();
        let mut locked = LockedOrganizations::new();
        for (bucket, id) in ids {
            if let Some(organization) = tx.lock(id).await? {
                locked.insert((bucket, id), organization);
            }
        }
        Ok(Moves { organizations: locked, later })
    }

    /// Moves the members of the replaced roles. Returns their number.
    async fn move_members(
        &self,
        tx: &mut UnitOfWork<'_>,
        plan: &ModelPlan,
        organizations: &mut LockedOrganizations,
        later: &[DeploymentRoleRow],
    ) -> Result<u32, ServiceError> {
        let mut moved = 0;
        for (former, kept, new) in self.moves(plan) {
            if later.iter().any(|role| role.name == *former) {
                continue;
            }
            let (members, found) = users_of(tx.connection, former, kept).await?;
            for id in found {
                // A member got the role before the heads were locked: the organization must be locked first.
                let organization = organizations.get_mut(&(id.bucket(), id)).ok_or(Refusal::Conflict)?;
                let exists = self.model.role(new.as_str()).is_none_or(|role| role.exists_for(&organization.kind));
                if !exists {
                    let kind = organization.kind.as_str();
                    let sentence =
                        format!("the replacement does not exist for the kind {kind}, which has such members");
                    return Err(Refusal::field(format!("replace_roles[{former}]"), sentence).into());
                }
                moved += tx.move_members(organization, former, new, limits::MOVED_MEMBERS - moved + 1).await?;
                if moved > limits::MOVED_MEMBERS {
                    return Err(in_use(former, members).into());
                }
            }
        }
        Ok(moved)
    }
}

/// The number of members with a role of the deployment, outside of the organizations of the kind that keeps it, and the
/// organizations with such members.
async fn users_of(
    connection: &mut PgConnection,
    role: &RoleName,
    kept: Option<&Kind>,
) -> Result<(i64, Vec<OrganizationId>), StoreError> {
    let most = i64::from(limits::MOVED_MEMBERS);
    let usage = count_members(connection, role, kept).await?;
    let found = match kept {
        _ if usage.members == 0 || usage.is_estimate => Vec::new(),
        Some(kind) => usage::organizations_outside(connection, role, kind, most).await?,
        None => usage::organizations_with(connection, role, None, most).await?,
    };
    Ok((usage.members, found))
}

async fn count_members(
    connection: &mut PgConnection,
    role: &RoleName,
    kept: Option<&Kind>,
) -> Result<usage::RoleUsage, StoreError> {
    let most = i64::from(limits::MOVED_MEMBERS);
    if let Some(kind) = kept {
        return usage::deployment_role_outside(connection, role, kind, most).await;
    }
    let usage = usage::deployment_roles(connection, std::slice::from_ref(role), most).await?;
    Ok(usage.first().copied().unwrap_or_default())
}

fn in_use(role: &RoleName, members: i64) -> Refusal {
    Refusal::RoleInUse { roles: vec![role.clone()], members: vec![u64::try_from(members).unwrap_or_default()] }
}

/// Refuses to take away roles that members still hold, other than those that are replaced.
async fn check_roles(
    connection: &mut PgConnection,
    plan: &ModelPlan,
    replaced: &[DeploymentRoleRow],
) -> Result<(), ServiceError> {
    let removed = plan.roles.iter().filter(|change| change.is_removal()).map(|change| change.name.clone());
    let held = usage::held_roles(connection, &removed.collect::<Vec<_>>()).await?;
    let has_former = |change: &RoleChange| replaced.iter().any(|role| role.replaced_by.as_ref() == Some(&change.name));
    let is_held = |change: &&RoleChange| {
        held.contains(&change.name) || change.is_taken_from_a_kind() || (change.is_removal() && has_former(change))
    };
    let (mut roles, mut members) = (Vec::new(), Vec::new());
    for change in plan.roles.iter().filter(is_held) {
        let kept = change.after.as_ref().and_then(|role| role.kind.as_ref());
        let is_replaced = replaced.iter().any(|role| role.name == change.name);
        let mut held = if is_replaced { 0 } else { count_members(connection, &change.name, kept).await?.members };
        // Members of deleted roles hold it before they move.
        let most = i64::from(limits::MOVED_MEMBERS);
        held += organization_roles::members_moving_to(connection, &change.name, kept, most).await?;
        for former in replaced.iter().filter(|role| role.replaced_by.as_ref() == Some(&change.name)) {
            held += count_members(connection, &former.name, None).await?.members.max(1);
        }
        if held > 0 {
            roles.push(change.name.clone());
            members.push(u64::try_from(held).unwrap_or_default());
        }
        if roles.len() == limits::NAMED_USES {
            break;
        }
    }
    if roles.is_empty() { Ok(()) } else { Err(Refusal::RoleInUse { roles, members }.into()) }
}

/// Refuses to take away permissions that roles of organizations hold.
fn check_permissions(uses: Vec<(String, PermissionUsage)>) -> Result<(), Refusal> {
    let in_use = uses.into_iter().filter(|(_, usage)| usage.roles > 0).take(limits::NAMED_USES);
    let count = |roles: i64| u64::try_from(roles.min(limits::COUNTED_ROWS + 1)).unwrap_or_default();
    let (permissions, roles): (Vec<String>, Vec<u64>) = in_use.map(|(word, usage)| (word, count(usage.roles))).unzip();
    if permissions.is_empty() { Ok(()) } else { Err(Refusal::PermissionInUse { permissions, roles }) }
}

/// The roles of a model for the table that memberships refer to.
fn deployment_roles(model: &AccessModel) -> Vec<DeploymentRoleRow> {
    let is_stored = |name: &RoleName| *name != RoleName::ADMIN && *name != RoleName::MEMBER;
    let roles = model.roles().iter().filter(|role| is_stored(&role.name));
    roles
        .map(|role| DeploymentRoleRow { name: role.name.clone(), kind: role.kind.clone(), replaced_by: None })
        .collect()
}

/// Records that every server knows roles and permissions that are not built in. It is a revision of the model, so that it
/// has an event.
pub(super) struct EnableRoles;

impl Change for EnableRoles {
    type Place = StoredModel;
    type Answer = bool;

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::Model)
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<StoredModel, ServiceError> {
        tx.lock_model().await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, stored: StoredModel) -> Result<bool, ServiceError> {
        if !access_model::enable(tx.connection).await? {
            return Ok(false);
        }
        let model = AccessModel::from_stored(&stored.model).map_err(StoreError::from)?;
        tx.apply_model(&stored.model, &deployment_roles(&model)).await?;
        Ok(true)
    }
}
