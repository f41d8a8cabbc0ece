//! Inputs of `RoleService`.

use super::organization::etag;
use super::{FieldReader, InvalidFields};
use crate::domain::access_model::{Description, Title};
use crate::domain::{Invalid, Permission, PermissionName, RoleName};
use crate::grpc::page::Page;
use crate::grpc::pb;
use crate::service::limits;
use crate::service::roles::{CreateRole, DeleteRole, RoleFilter, UpdateRole};
use std::collections::BTreeSet;

/// The input of `CreateRole`.
pub(in crate::grpc) fn create(
    message: &pb::CreateRoleRequest,
    fields: &mut FieldReader,
) -> Result<CreateRole, InvalidFields> {
    let name = fields.take("name", organization_role(&message.name));
    let title = fields.take("title", Title::parse(&message.title));
    let description = fields.take("description", Description::parse(&message.description));
    let permissions = permissions(fields, &message.permissions);
    Ok(CreateRole { name: name?, title: title?, description: description?, permissions: permissions? })
}

/// The input of `UpdateRole`.
pub(in crate::grpc) fn update(
    message: &pb::UpdateRoleRequest,
    fields: &mut FieldReader,
) -> Result<UpdateRole, InvalidFields> {
    let name = fields.take("name", organization_role(&message.name));
    let filled = [!message.title.is_empty(), !message.description.is_empty(), !message.permissions.is_empty()];
    let known = ["title", "description", "permissions"];
    let [title, description, permissions] = fields.mask(message.update_mask.as_ref(), known, filled)?;
    let title = title.then(|| fields.take("title", Title::parse(&message.title))).transpose();
    let description = description.then(|| Description::parse(&message.description));
    let description = description.map(|description| fields.take("description", description)).transpose();
    let permissions = permissions.then(|| self::permissions(fields, &message.permissions)).transpose();
    Ok(UpdateRole {
        name: name?,
        title: title?,
        description: description?,
        permissions: permissions?,
        etag: etag(&message.etag),
    })
}

/// The input of `DeleteRole`.
pub(in crate::grpc) fn delete(
    message: &pb::DeleteRoleRequest,
    fields: &mut FieldReader,
) -> Result<DeleteRole, InvalidFields> {
    let name = fields.take("name", organization_role(&message.name));
    let replace_with = fields.optional("replace_with", &message.replace_with, |text| {
        let replacement = RoleName::parse_assignable(text)?;
        if text == message.name { Err(Invalid::new("the replacement is another role")) } else { Ok(replacement) }
    });
    Ok(DeleteRole { name: name?, replace_with: replace_with?, etag: etag(&message.etag) })
}

/// The input of `ListRoles`.
pub(in crate::grpc) fn list(
    message: &pb::ListRolesRequest,
    fields: &mut FieldReader,
) -> Result<(Page, RoleFilter), InvalidFields> {
    let filter = ["roles", &message.organization];
    let page = Page::read(fields, message.page_size, &message.page_token, &filter)?;
    let after = page.key(fields, |key| RoleName::parse(std::str::from_utf8(key).ok()?).ok())?;
    Ok((page, RoleFilter { after }))
}

/// The name of a role of an organization.
fn organization_role(name: &str) -> Result<RoleName, Invalid> {
    match RoleName::parse(name) {
        Ok(name) if name.is_of_organization() => Ok(name),
        Ok(_) | Err(_) => Err(Invalid::new(
            "the name of a role of an organization is org: and 1 to 64 of a-z, 0-9, _ and -, which begin with a letter",
        )),
    }
}

/// The words of permissions. Whether they are declared is decided by the access model.
fn permissions(fields: &mut FieldReader, words: &[String]) -> Result<Vec<String>, InvalidFields> {
    if words.len() > limits::ROLE_PERMISSIONS {
        return Err(fields.wrong("permissions", Invalid::new("at most 1 000 permissions")));
    }
    let mut present = BTreeSet::new();
    let mut all = Vec::with_capacity(words.len());
    for (index, word) in words.iter().enumerate() {
        let checked = permission(word).and_then(|()| {
            let is_new = present.insert(word.as_str());
            if is_new { Ok(word.clone()) } else { Err(Invalid::new("the list contains this permission twice")) }
        });
        all.push(fields.take(&format!("permissions[{index}]"), checked));
    }
    all.into_iter().collect()
}

fn permission(word: &str) -> Result<(), Invalid> {
    match Permission::find(word) {
        Some(permission) if permission.is_reserved() => Ok(()),
        _ => PermissionName::parse(word).map(|_| ()),
    }
}
