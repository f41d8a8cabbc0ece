//! What a change of the access model touches: members, organizations, and roles of organizations.

use super::{AppliedModel, ApplyModel};
use crate::domain::RoleName;
use crate::domain::access_model::plan::RoleChange;
use crate::domain::access_model::{Difference, ModelPlan, WordSet};
use crate::service::limits;
use crate::store::StoreError;
use crate::store::usage::{self, CountLimits, PermissionUsage, RoleUsage};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use std::collections::BTreeMap;

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

/// What counts of uses read at most.
const LIMITS: CountLimits = CountLimits {
    rows_of_each: limits::COUNTED_ROWS,
    rows: limits::COUNTED_ROWS_IN_ALL,
    table_bytes: limits::COUNTED_TABLE_BYTES,
};

/// Counts what a plan touches. The counts are not made under locks: members and roles may come and go until the change is
/// made. Returns the uses of the [withdrawn permissions](withdrawn) too.
pub(super) async fn count(
    connection: &mut PgConnection,
    plan: &ModelPlan,
    input: &ApplyModel,
) -> Result<(AppliedModel, Vec<(String, PermissionUsage)>), StoreError> {
    // No role holds a permission that is not declared yet.
    let present = plan.permissions.iter().filter(|change| change.difference() != Difference::Added);
    let mut words: Vec<String> = present.map(|change| change.name().to_owned()).collect();
    words.extend(texts(&plan.no_longer_delegable));
    let usages = if words.is_empty() { Vec::new() } else { usage::permissions(connection, &words, &LIMITS).await? };
    let uses: BTreeMap<String, PermissionUsage> = words.into_iter().zip(usages).collect();
    let applied = AppliedModel {
        permissions: permissions(plan, &uses),
        roles: roles(connection, plan, input).await?,
        newly_delegable: texts(&plan.newly_delegable),
        no_longer_delegable: texts(&plan.no_longer_delegable),
        warnings: warnings(plan),
        ..AppliedModel::default()
    };
    let withdrawn = withdrawn(plan).into_iter().map(|word| {
        let usage = uses.get(&word).copied().unwrap_or_default();
        (word, usage)
    });
    Ok((applied, withdrawn.collect()))
}

/// The permissions that roles of organizations may no longer hold.
pub(super) fn withdrawn(plan: &ModelPlan) -> Vec<String> {
    let removed = plan.permissions.iter().filter(|change| change.after.is_none());
    let removed = removed.map(|change| change.name().to_owned());
    removed.chain(texts(&plan.no_longer_delegable)).collect()
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

fn permissions(plan: &ModelPlan, uses: &BTreeMap<String, PermissionUsage>) -> Vec<PermissionEffect> {
    let effects = plan.permissions.iter().map(|change| {
        let usage = uses.get(change.name()).copied().unwrap_or_default();
        let PermissionUsage { roles, organizations, is_estimate } = usage;
        let (name, difference) = (change.name().to_owned(), change.difference());
        PermissionEffect { name, difference, roles, organizations, is_estimate }
    });
    effects.collect()
}

async fn roles(
    connection: &mut PgConnection,
    plan: &ModelPlan,
    input: &ApplyModel,
) -> Result<Vec<RoleEffect>, StoreError> {
    // No member has a role that does not exist yet.
    let is_counted = |change: &&RoleChange| change.difference() != Difference::Added;
    let names: Vec<RoleName> = plan.roles.iter().filter(is_counted).map(|change| change.name.clone()).collect();
    let mut usages = if names.is_empty() {
        Vec::new().into_iter()
    } else {
        usage::roles(connection, &names, &LIMITS).await?.into_iter()
    };
    let effects = plan.roles.iter().map(|change| {
        let usage = if is_counted(&change) { usages.next() } else { None };
        let RoleUsage { members, organizations, is_estimate } = usage.unwrap_or_default();
        RoleEffect {
            name: change.name.clone(),
            difference: change.difference(),
            gained: texts(&change.gained),
            lost: texts(&change.lost),
            members,
            organizations,
            is_estimate,
            replaced_by: input.replace.get(&change.name).cloned(),
        }
    });
    Ok(effects.collect())
}
