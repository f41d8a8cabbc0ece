//! The handlers of `AccessModelService`: admit, decode, call, encode.

use super::admit::sealed::Sealed;
use super::admit::{Api, read, respond};
use super::decode::access_model as decode;
use super::pb::access_model_service_server::AccessModelService;
use super::{convert, pb};
use crate::domain::access_model::{AccessModel, ModelParts, ReplacedRoles};
use crate::domain::{Kind, Permission, RoleName};
use crate::service::access_model::{AppliedModel, Difference, PermissionEffect, RoleEffect};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl AccessModelService for Api {
    async fn get_access_model(
        &self,
        request: Request<Sealed<pb::GetAccessModelRequest>>,
    ) -> Result<Response<pb::GetAccessModelResponse>, Status> {
        self.admit_caller(request).await?;
        let present = self.roster().access_model().await?;
        respond(pb::GetAccessModelResponse {
            model: Some(model(&present.model)),
            etag: present.etag(),
            update_time: (present.revision > 0).then(|| convert::timestamp(present.update_time)),
            roles_enabled: present.is_enabled,
        })
    }

    async fn apply_access_model(
        &self,
        request: Request<Sealed<pb::ApplyAccessModelRequest>>,
    ) -> Result<Response<pb::ApplyAccessModelResponse>, Status> {
        let call = self.admit_caller_write(request).await?;
        let (input, meta) = call.read(decode::apply)?;
        let result = self.roster().apply_access_model(call.caller, meta, input).await?;
        respond(pb::ApplyAccessModelResponse {
            plan: Some(plan(&result.answer)),
            consistency_token: result.token,
            roles_moving_later: result.answer.moving.iter().map(ToString::to_string).collect(),
            etag: result.answer.etag,
            moved_members: i32::try_from(result.answer.moved).unwrap_or(i32::MAX),
        })
    }

    async fn enable_roles(
        &self,
        request: Request<Sealed<pb::EnableRolesRequest>>,
    ) -> Result<Response<pb::EnableRolesResponse>, Status> {
        let call = self.admit_caller_write(request).await?;
        let ((), meta) = call.read(|_, _| Ok(()))?;
        let result = self.roster().enable_roles(call.caller, meta).await?;
        respond(pb::EnableRolesResponse { newly_enabled: result.answer, consistency_token: result.token })
    }

    async fn list_model_events(
        &self,
        request: Request<Sealed<pb::ListModelEventsRequest>>,
    ) -> Result<Response<pb::ListModelEventsResponse>, Status> {
        let (message, _) = self.admit_caller(request).await?;
        let (page, filter) = read(|fields| decode::list_events(&message, fields))?;
        let rows = self.roster().list_model_events(&filter).await?;
        let (events, next_page_token) =
            page.convert(&rows, convert::event, |last| last.revision.to_be_bytes().to_vec());
        respond(pb::ListModelEventsResponse { events, next_page_token })
    }
}

fn model(model: &AccessModel) -> pb::AccessModel {
    let ModelParts { delegable, permissions, roles } = ModelParts::from(model);
    let permissions = permissions.into_iter().map(|permission| pb::AccessModelPermission {
        name: permission.name,
        title: permission.title,
        description: permission.description,
    });
    let roles = roles.into_iter().map(|role| pb::AccessModelRole {
        name: role.name,
        kind: role.kind,
        title: role.title,
        description: role.description,
        permissions: role.permissions,
    });
    pb::AccessModel { permissions: permissions.collect(), roles: roles.collect(), delegable }
}

/// What checks depend on in a stored access model, with the removed roles whose members still move. Leaves out each role that
/// this program does not know, and every role of a model that it cannot read.
pub(super) fn change(revision: i64, stored: &Value) -> pb::AccessModelChange {
    let model = AccessModel::from_stored(stored).ok();
    let declared = model.iter().flat_map(AccessModel::permissions).map(|permission| permission.name.as_str());
    let words: BTreeSet<&str> = Permission::RESERVED.iter().map(|own| own.as_str()).chain(declared).collect();
    let indexes: BTreeMap<&str, u32> = words.iter().copied().zip(0..).collect();
    let mut roles = model.as_ref().map(|model| deployment_roles(model, &indexes)).unwrap_or_default();
    let replaced = ReplacedRoles::from_stored(stored);
    roles.extend(replaced.iter().map(|(former, new)| pb::DeploymentRole {
        name: former.to_string(),
        replaced_by: new.to_string(),
        ..pb::DeploymentRole::default()
    }));
    roles.sort_by(|one, other| one.name.cmp(&other.name));
    pb::AccessModelChange { revision, permissions: words.into_iter().map(str::to_owned).collect(), roles }
}

/// The roles of a model, with `admin` and `member`, ordered by name.
fn deployment_roles(model: &AccessModel, indexes: &BTreeMap<&str, u32>) -> Vec<pb::DeploymentRole> {
    let built_in = [RoleName::ADMIN, RoleName::MEMBER];
    let mut kinds: BTreeMap<&str, &str> = built_in.iter().map(|name| (name.as_str(), "")).collect();
    kinds.extend(model.roles().iter().map(|role| (role.name.as_str(), role.kind.as_ref().map_or("", Kind::as_str))));
    kinds.remove(RoleName::OWNER.as_str());
    let role = |(name, kind): (&str, &str)| {
        let words = model.words_of(name)?;
        let permissions = words.iter().map(|word| indexes.get(&**word).copied()).collect::<Option<_>>()?;
        let (name, kind) = (name.to_owned(), kind.to_owned());
        Some(pb::DeploymentRole { name, kind, permissions, replaced_by: String::new() })
    };
    kinds.into_iter().filter_map(role).collect()
}

fn difference(difference: Difference) -> i32 {
    match difference {
        Difference::Added => pb::ModelChange::Added,
        Difference::Changed => pb::ModelChange::Changed,
        Difference::Removed => pb::ModelChange::Removed,
    }
    .into()
}

fn plan(applied: &AppliedModel) -> pb::AccessModelPlan {
    let permission = |effect: &PermissionEffect| pb::PermissionChange {
        name: effect.name.clone(),
        change: difference(effect.difference),
        organization_roles: effect.roles,
        organizations: effect.organizations,
        is_estimate: effect.is_estimate,
    };
    let role = |effect: &RoleEffect| pb::RoleChange {
        name: effect.name.to_string(),
        change: difference(effect.difference),
        gained: effect.gained.clone(),
        lost: effect.lost.clone(),
        members: effect.members,
        organizations: effect.organizations,
        is_estimate: effect.is_estimate,
        replaced_by: effect.replaced_by.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    pb::AccessModelPlan {
        permissions: applied.permissions.iter().map(permission).collect(),
        roles: applied.roles.iter().map(role).collect(),
        newly_delegable: applied.newly_delegable.clone(),
        no_longer_delegable: applied.no_longer_delegable.clone(),
        warnings: applied.warnings.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_removed_role_whose_members_still_move_names_its_replacement() {
        let model = AccessModel::from_stored(&json!({ "roles": [{ "name": "seller", "permissions": [] }] })).unwrap();
        let [clerk, seller] = ["clerk", "seller"].map(|name| RoleName::parse(name).unwrap());
        let replaced: ReplacedRoles = [(clerk, seller)].into_iter().collect();
        let change = change(3, &replaced.add_to(model.to_stored()));
        let roles: Vec<_> = change.roles.iter().map(|role| (role.name.as_str(), role.replaced_by.as_str())).collect();
        assert_eq!(roles, [("admin", ""), ("clerk", "seller"), ("member", ""), ("seller", "")]);
    }
}
