//! The commands over a server, through the client library.

use super::applied::{AppliedPlan, Holders, ModelUse, ModelVersion};
use super::{ApplyFlags, CliError};
use crate::client::{Client, ClientSettings, Error};
use crate::domain::access_model::{AccessModel, ModelParts, ModelPlan, PermissionParts, RoleParts};
use crate::pb;
use crate::pb::access_model_service_client::AccessModelServiceClient;

/// Reads the stored model by `GetAccessModel`.
pub(super) async fn read(settings: &ClientSettings) -> Result<ModelVersion, CliError> {
    get(&Client::lazy(settings.clone())).await
}

async fn get(client: &Client) -> Result<ModelVersion, CliError> {
    let request = client.request(pb::GetAccessModelRequest {}).await?;
    let answer = AccessModelServiceClient::new(client.channel()).get_access_model(request).await;
    let pb::GetAccessModelResponse { model, etag, roles_enabled, .. } = answer.map_err(Error::from)?.into_inner();
    let parts = parts(model.unwrap_or_default());
    // The server may be newer, with other rules of a model.
    let model = AccessModel::from_stored(&serde_json::json!(parts)).map_err(|invalid| Error::Unreadable(invalid.0))?;
    Ok(ModelVersion { model, revision: etag, is_enabled: roles_enabled })
}

/// `ApplyAccessModel`, for the version of the model that was read just before.
pub(super) async fn apply(
    settings: &ClientSettings,
    model: &AccessModel,
    options: &ApplyFlags,
) -> Result<AppliedPlan, CliError> {
    let replacements = options.replacements()?;
    let client = Client::lazy(settings.clone());
    let stored = get(&client).await?;
    let message = pb::ApplyAccessModelRequest {
        model: Some(message(model)),
        replace_roles: replacements.iter().map(|(former, new)| (former.to_string(), new.to_string())).collect(),
        older_clients_gone: options.older_clients_gone,
        etag: stored.revision,
        validate_only: options.dry_run,
        ..pb::ApplyAccessModelRequest::default()
    };
    let request = client.request(message).await?;
    let answer = AccessModelServiceClient::new(client.channel()).apply_access_model(request).await;
    let answer = answer.map_err(Error::from)?.into_inner();
    let pb::ApplyAccessModelResponse { plan, etag, moved_members, roles_moving_later, .. } = answer;
    let plan = plan.unwrap_or_default();
    let uses = plan.permissions.into_iter().map(ModelUse::from);
    Ok(AppliedPlan {
        plan: ModelPlan::between(&stored.model, model),
        uses: uses.chain(plan.roles.into_iter().map(ModelUse::from)).collect(),
        moved: moved_members.try_into().unwrap_or_default(),
        moving: roles_moving_later,
        revision: etag,
    })
}

/// Confirms by `EnableRoles` that every server is of this release or newer. Returns false if that was confirmed before.
pub(super) async fn enable(settings: &ClientSettings) -> Result<bool, CliError> {
    let client = Client::lazy(settings.clone());
    let request = client.request(pb::EnableRolesRequest::default()).await?;
    let answer = AccessModelServiceClient::new(client.channel()).enable_roles(request).await;
    Ok(answer.map_err(Error::from)?.into_inner().newly_enabled)
}

impl From<pb::PermissionChange> for ModelUse {
    fn from(change: pb::PermissionChange) -> Self {
        Self {
            name: change.name,
            holders: Holders::OrganizationRoles,
            count: change.organization_roles,
            organizations: change.organizations,
            is_estimate: change.is_estimate,
        }
    }
}

impl From<pb::RoleChange> for ModelUse {
    fn from(change: pb::RoleChange) -> Self {
        Self {
            name: change.name,
            holders: Holders::Members { replaced_by: Some(change.replaced_by).filter(|role| !role.is_empty()) },
            count: change.members,
            organizations: change.organizations,
            is_estimate: change.is_estimate,
        }
    }
}

fn parts(message: pb::AccessModel) -> ModelParts {
    let permission = |permission: pb::AccessModelPermission| PermissionParts {
        name: permission.name,
        title: permission.title,
        description: permission.description,
    };
    let role = |role: pb::AccessModelRole| RoleParts {
        name: role.name,
        kind: role.kind,
        title: role.title,
        description: role.description,
        permissions: role.permissions,
    };
    ModelParts {
        delegable: message.delegable,
        permissions: message.permissions.into_iter().map(permission).collect(),
        roles: message.roles.into_iter().map(role).collect(),
    }
}

fn message(model: &AccessModel) -> pb::AccessModel {
    let ModelParts { delegable, permissions, roles } = ModelParts::from(model);
    let permission = |permission: PermissionParts| pb::AccessModelPermission {
        name: permission.name,
        title: permission.title,
        description: permission.description,
    };
    let role = |role: RoleParts| pb::AccessModelRole {
        name: role.name,
        kind: role.kind,
        title: role.title,
        description: role.description,
        permissions: role.permissions,
    };
    pb::AccessModel {
        permissions: permissions.into_iter().map(permission).collect(),
        roles: roles.into_iter().map(role).collect(),
        delegable,
    }
}
