//! Samples of the writes of `AccessModelService` and `RoleService`.

use super::{Sample, SampleCaller, Setup, Target, Write, role_of};
use roster::grpc::pb;

pub(super) fn entry(name: &str, target: &Target, write: &Write) -> Option<Sample> {
    use SampleCaller::{Operator, Owner};
    let Target { organization, member, .. } = target.clone();
    Some(match name {
        "ApplyAccessModel" => {
            // Each target has another model.
            let word = format!("samples.of-{member}");
            let role = pb::AccessModelRole {
                name: format!("role-of-{member}"),
                permissions: vec![word.clone(), "members.list".to_owned()],
                ..Default::default()
            };
            let permission = pb::AccessModelPermission { name: word, ..Default::default() };
            let model = pb::AccessModel { permissions: vec![permission], roles: vec![role], ..Default::default() };
            Operator.sends(write_request!(write, ApplyAccessModelRequest { model: Some(model) }))
        }
        // Roles are enabled in every new datastore.
        "EnableRoles" => Operator.sends(write_request!(write, EnableRolesRequest {})),
        "CreateRole" => {
            let (name, title) = (format!("org:new-of-{member}"), "A role".to_owned());
            Owner.sends(write_request!(write, CreateRoleRequest { organization, name, title }))
        }
        "UpdateRole" => {
            let (name, title) = (role_of(&member), "Another title".to_owned());
            Owner.sends(write_request!(write, UpdateRoleRequest { organization, name, title })).after(Setup::Role)
        }
        "DeleteRole" => {
            let name = role_of(&member);
            Owner.sends(write_request!(write, DeleteRoleRequest { organization, name })).after(Setup::Role)
        }
        _ => return None,
    })
}
