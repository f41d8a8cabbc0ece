//! The handlers of `RoleService`: admit, decode, call, encode.

use super::admit::sealed::Sealed;
use super::admit::{Admission, Api, read, respond};
use super::decode::role as decode;
use super::pb::role_service_server::RoleService;
use super::{convert, pb};
use crate::domain::RoleName;
use crate::service::roles::{DeletedRole, RoleDefinition, RoleOrigin};
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl RoleService for Api {
    async fn create_role(
        &self,
        request: Request<Sealed<pb::CreateRoleRequest>>,
    ) -> Result<Response<pb::CreateRoleResponse>, Status> {
        let call = self.admit_write(request).await?;
        let (input, meta) = call.read(decode::create)?;
        let result = self.roster().create_role(call.access, meta, input).await?;
        respond(pb::CreateRoleResponse { role: Some(role(&result.answer)), consistency_token: result.token })
    }

    async fn get_role(
        &self,
        request: Request<Sealed<pb::GetRoleRequest>>,
    ) -> Result<Response<pb::GetRoleResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let name = read(|fields| fields.take("name", RoleName::parse(&message.name)))?;
        let found = self.roster().get_role(&access, &name).await?;
        respond(pb::GetRoleResponse { role: Some(role(&found)) })
    }

    async fn list_roles(
        &self,
        request: Request<Sealed<pb::ListRolesRequest>>,
    ) -> Result<Response<pb::ListRolesResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let (page, filter) = read(|fields| decode::list(&message, fields))?;
        let rows = self.roster().list_roles(&access, &filter).await?;
        let (roles, next_page_token) = page.convert(&rows, role, |last| last.name.to_string().into_bytes());
        respond(pb::ListRolesResponse { roles, next_page_token })
    }

    async fn update_role(
        &self,
        request: Request<Sealed<pb::UpdateRoleRequest>>,
    ) -> Result<Response<pb::UpdateRoleResponse>, Status> {
        let result = match self.admit_or_replay(request).await? {
            Admission::Replayed(_, result) => result,
            Admission::Admitted(call) => {
                let (input, meta) = call.read(decode::update)?;
                self.roster().update_role(call.access, meta, input).await?
            }
        };
        respond(pb::UpdateRoleResponse { role: Some(role(&result.answer)), consistency_token: result.token })
    }

    async fn delete_role(
        &self,
        request: Request<Sealed<pb::DeleteRoleRequest>>,
    ) -> Result<Response<pb::DeleteRoleResponse>, Status> {
        let result = match self.admit_or_replay(request).await? {
            Admission::Replayed(_, result) => result,
            Admission::Admitted(call) => {
                let (input, meta) = call.read(decode::delete)?;
                self.roster().delete_role(call.access, meta, input).await?
            }
        };
        let DeletedRole { role: deleted, moved, is_moving } = &result.answer;
        respond(pb::DeleteRoleResponse {
            role: Some(role(deleted)),
            consistency_token: result.token,
            moved_members: i32::try_from(*moved).unwrap_or(i32::MAX),
            members_move_later: *is_moving,
        })
    }
}

fn role(role: &RoleDefinition) -> pb::Role {
    // A deleted role has no version any more: it shows what another role holds.
    let current = role.version.as_ref().filter(|_| role.replaced_by.is_none());
    pb::Role {
        organization: role.organization.to_string(),
        name: role.name.to_string(),
        origin: origin(role.origin).into(),
        title: role.title.clone(),
        description: role.description.clone(),
        permissions: role.permissions.clone(),
        create_time: role.version.as_ref().map(|version| convert::timestamp(version.create_time)),
        update_time: current.map(|version| convert::timestamp(version.update_time)),
        etag: current.map(|version| version.revision.to_string()).unwrap_or_default(),
        replaced_by: role.replaced_by.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// Where a role is defined.
pub(super) fn origin(origin: RoleOrigin) -> pb::RoleOrigin {
    match origin {
        RoleOrigin::BuiltIn => pb::RoleOrigin::BuiltIn,
        RoleOrigin::Deployment => pb::RoleOrigin::Deployment,
        RoleOrigin::Organization => pb::RoleOrigin::Organization,
    }
}
