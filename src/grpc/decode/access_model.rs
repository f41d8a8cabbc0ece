//! Inputs of `AccessModelService`.

use super::organization::etag;
use super::{FieldReader, InvalidFields};
use crate::domain::access_model::{self, AccessModel, ModelParts, PermissionParts, RoleParts};
use crate::domain::{Invalid, RoleName};
use crate::grpc::page::Page;
use crate::grpc::pb;
use crate::service::access_model::{ApplyModel, ModelEventFilter};
use std::collections::BTreeMap;

/// The input of `ApplyAccessModel`.
pub(in crate::grpc) fn apply(
    message: &pb::ApplyAccessModelRequest,
    fields: &mut FieldReader,
) -> Result<ApplyModel, InvalidFields> {
    let model = model(message.model.as_ref(), fields);
    let replace = replacements(&message.replace_roles, fields);
    Ok(ApplyModel {
        model: model?,
        replace: replace?,
        older_clients_gone: message.older_clients_gone,
        etag: etag(&message.etag),
    })
}

fn model(message: Option<&pb::AccessModel>, fields: &mut FieldReader) -> Result<AccessModel, InvalidFields> {
    let parts = message.map(parts).unwrap_or_default();
    AccessModel::parse(&parts, "model").map_err(|violations| {
        for violation in violations {
            fields.wrong(&violation.field, Invalid(violation.sentence));
        }
        InvalidFields
    })
}

fn parts(model: &pb::AccessModel) -> ModelParts {
    let permission = |permission: &pb::AccessModelPermission| PermissionParts {
        name: permission.name.clone(),
        title: permission.title.clone(),
        description: permission.description.clone(),
    };
    let role = |role: &pb::AccessModelRole| RoleParts {
        name: role.name.clone(),
        kind: role.kind.clone(),
        title: role.title.clone(),
        description: role.description.clone(),
        permissions: role.permissions.clone(),
    };
    ModelParts {
        delegable: model.delegable.clone(),
        permissions: model.permissions.iter().map(permission).collect(),
        roles: model.roles.iter().map(role).collect(),
    }
}

/// The replacements of roles. Whether the roles exist is checked against the models.
fn replacements(
    message: &BTreeMap<String, String>,
    fields: &mut FieldReader,
) -> Result<BTreeMap<RoleName, RoleName>, InvalidFields> {
    if message.len() > access_model::limits::ROLES {
        return Err(fields.wrong("replace_roles", Invalid::new("a model has at most 2 000 roles")));
    }
    let mut replacements = BTreeMap::new();
    let mut is_valid = true;
    for (former, new) in message {
        // A name that is no name of a role is not repeated in the error.
        let Ok(former) = deployment_role(former) else {
            let sentence = "each key is the name of a role of the present model, without admin and member";
            fields.wrong("replace_roles", Invalid::new(sentence));
            is_valid = false;
            continue;
        };
        match RoleName::parse_assignable(new) {
            Ok(new) if !new.is_of_organization() && new != former => {
                replacements.insert(former, new);
            }
            Ok(_) | Err(_) => {
                let sentence = "the replacement is another role of the new model, admin or member";
                fields.wrong(&format!("replace_roles[{former}]"), Invalid::new(sentence));
                is_valid = false;
            }
        }
    }
    if is_valid { Ok(replacements) } else { Err(InvalidFields) }
}

fn deployment_role(name: &str) -> Result<RoleName, Invalid> {
    let name = RoleName::parse_assignable(name)?;
    if name.is_of_organization() || name == RoleName::ADMIN || name == RoleName::MEMBER {
        return Err(Invalid::new("not a role of an access model"));
    }
    Ok(name)
}

/// The input of `ListModelEvents`.
pub(in crate::grpc) fn list_events(
    message: &pb::ListModelEventsRequest,
    fields: &mut FieldReader,
) -> Result<(Page, ModelEventFilter), InvalidFields> {
    let page = Page::read(fields, message.page_size, &message.page_token, &["model events"])?;
    let before = page.key(fields, |key| {
        // Revisions start at 1.
        <[u8; 8]>::try_from(key).ok().map(i64::from_be_bytes).filter(|revision| *revision > 0)
    })?;
    let limit = page.limit();
    Ok((page, ModelEventFilter { before, limit }))
}
