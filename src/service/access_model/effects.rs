//! What a change of the access model touches: members, organizations, and roles of organizations.

use super::{AppliedModel, ApplyModel};
use crate::domain::RoleName;
use crate::domain::access_model::plan::RoleChange;
use crate::domain::access_model::{Difference, ModelPlan, WordSet};
use crate::service::limits;
use crate::store::StoreError;
use crate::store::usage::{self, PermissionUsage, RoleUsage};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

/// A permission of the application that differs, and its use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionEffect {
    /// The name of the permission.
    pub name: String,
    /// How the models differ.
    pub difference: Difference,
    /// The roles of organizations that hold it.
    pub roles: i64,
    /// The organizations with such roles.
    pub organizations: i64,
    /// Whether the numbers are estimates.
    pub is_estimate: bool,
}

/// A role that differs, and its use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleEffect {
    /// The name of the role.
    pub name: RoleName,
    /// How the models differ.
    pub difference: Difference,
    /// The permissions that its members gain.
    pub gained: Vec<String>,
    /// The permissions that its members lose.
    pub lost: Vec<String>,
    /// The members before the change.
    pub members: i64,
    /// The organizations with such members.
    pub organizations: i64,
    /// Whether the numbers are estimates.
    pub is_estimate: bool,
    /// The role that members get instead.
    pub replaced_by: Option<RoleName>,
}

/// Counts what a plan touches. The counts are not made under locks: members may come and go until the change is made.
pub(super) async fn count(
    connection: &mut PgConnection,
    plan: &ModelPlan,
    input: &ApplyModel,
) -> Result<AppliedModel, StoreError> {
    Ok(AppliedModel {
        permissions: permissions(connection, plan).await?,
        roles: roles(connection, plan, input).await?,
        newly_delegable: texts(&plan.newly_delegable),
        no_longer_delegable: texts(&plan.no_longer_delegable),
        warnings: warnings(plan),
        ..AppliedModel::default()
    })
}

fn texts(words: &WordSet) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// The first warnings, and the number of the others.
fn warnings(plan: &ModelPlan) -> Vec<String> {
    let mut warnings: Vec<String> = plan.warnings.iter().take(limits::PLAN_WARNINGS).map(ToString::to_string).collect();
    let others = plan.warnings.len() - warnings.len();
    if others > 0 {
        warnings.push(format!("{others} further warnings are left out"));
    }
    warnings
}

async fn permissions(connection: &mut PgConnection, plan: &ModelPlan) -> Result<Vec<PermissionEffect>, StoreError> {
    // No role holds a permission that is not declared yet.
    let present = plan.permissions.iter().filter(|change| change.difference() != Difference::Added);
    let names: Vec<String> = present.map(|change| change.name().to_owned()).collect();
    let mut usages = if names.is_empty() {
        Vec::new().into_iter()
    } else {
        usage::permissions(connection, &names, limits::COUNTED_ROLES).await?.into_iter()
    };
    let effects = plan.permissions.iter().map(|change| {
        let difference = change.difference();
        let is_added = difference == Difference::Added;
        let usage = if is_added { None } else { usages.next() };
        let PermissionUsage { roles, organizations, is_estimate } = usage.unwrap_or_default();
        PermissionEffect { name: change.name().to_owned(), difference, roles, organizations, is_estimate }
    });
    Ok(effects.collect())
}

async fn roles(
    connection: &mut PgConnection,
    plan: &ModelPlan,
    input: &ApplyModel,
) -> Result<Vec<RoleEffect>, StoreError> {
    // No member has a role that does not exist yet.
    let is_counted = |change: &&RoleChange| !change.is_built_in() && change.difference() != Difference::Added;
    let names: Vec<RoleName> = plan.roles.iter().filter(is_counted).map(|change| change.name.clone()).collect();
    let mut usages = if names.is_empty() {
        Vec::new().into_iter()
    } else {
        usage::deployment_roles(connection, &names, limits::COUNTED_MEMBERS).await?.into_iter()
    };
    let mut effects = Vec::with_capacity(plan.roles.len());
    for change in &plan.roles {
        let usage = if change.is_built_in() {
            Some(usage::built_in_role(connection, &change.name, limits::COUNTED_TABLE_BYTES).await?)
        } else if is_counted(&change) {
            usages.next()
        } else {
            None
        };
        let RoleUsage { members, organizations, is_estimate } = usage.unwrap_or_default();
        effects.push(RoleEffect {
            name: change.name.clone(),
            difference: change.difference(),
            gained: texts(&change.gained),
            lost: texts(&change.lost),
            members,
            organizations,
            is_estimate,
            replaced_by: input.replace.get(&change.name).cloned(),
        });
    }
    Ok(effects)
}
