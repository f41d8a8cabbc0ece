//! The handlers of `OrganizationService`: admit, decode, call, encode.

use super::admit::sealed::Sealed;
use super::admit::{Admission, Api, read, respond};
use super::convert::{self, Viewer};
use super::decode::organization as decode;
use super::pb::organization_service_server::OrganizationService;
use super::{pb, status};
use crate::authn::Caller;
use crate::domain::{Member, Organization, OrganizationState, Refusal, Role, UserId};
use crate::service::ItemResult;
use crate::service::members::{AddedMember, TransferredOwnership};
use crate::service::organizations::CreatedOrganization;
use crate::service::write::WriteResult;
use tonic::{Request, Response, Status, async_trait};

/// Builds the response whose content is one organization and a consistency token.
macro_rules! organization_response {
    ($response:ident, $result:expr) => {{
        let result: WriteResult<Organization> = $result;
        let organization = Some(convert::organization(&result.answer));
        respond(pb::$response { organization, consistency_token: result.token })
    }};
}

/// Builds the response whose content is one member, as the viewer may see them, and a consistency token.
macro_rules! member_response {
    ($response:ident, $viewer:expr, $result:expr) => {{
        let result: WriteResult<Member> = $result;
        let member = Some(convert::member(&$viewer, &result.answer));
        respond(pb::$response { member, consistency_token: result.token })
    }};
}

#[async_trait]
impl OrganizationService for Api {
    async fn create_organization(
        &self,
        request: Request<Sealed<pb::CreateOrganizationRequest>>,
    ) -> Result<Response<pb::CreateOrganizationResponse>, Status> {
        let call = self.admit_caller_write(request).await?;
        let (input, meta) = call.read(decode::create)?;
        let result = self.roster().create_organization(call.caller, meta, input).await?;
        let CreatedOrganization { organization, owner } = &result.answer;
        let token = owner.as_ref().and_then(|owner| owner.token.as_ref());
        respond(pb::CreateOrganizationResponse {
            organization: Some(convert::organization(organization)),
            consistency_token: result.token,
            owner_invitation: owner.as_ref().map(|owner| convert::invitation(&owner.invitation)),
            owner_token: token.map(|token| token.expose().to_owned()).unwrap_or_default(),
        })
    }

    async fn get_organization(
        &self,
        request: Request<Sealed<pb::GetOrganizationRequest>>,
    ) -> Result<Response<pb::GetOrganizationResponse>, Status> {
        let (_, access) = self.admit(request).await?;
        let organization = self.roster().get_organization(&access).await?;
        respond(pb::GetOrganizationResponse { organization: Some(convert::organization(&organization)) })
    }

    async fn list_organizations(
        &self,
        request: Request<Sealed<pb::ListOrganizationsRequest>>,
    ) -> Result<Response<pb::ListOrganizationsResponse>, Status> {
        let (message, caller) = self.admit_caller(request).await?;
        let (page, filter) = read(|fields| decode::list(&message, fields))?;
        if filter.states.contains(&OrganizationState::Deleted) && !caller.is_operator() {
            return Err(status::refused(&Refusal::OperatorRequired));
        }
        let rows = self.roster().list_organizations(&filter).await?;
        let key = |last: &Organization| decode::name_key(last.id, &last.name);
        let (organizations, next_page_token) = page.convert(&rows, convert::organization, key);
        respond(pb::ListOrganizationsResponse { organizations, next_page_token })
    }

    async fn update_organization(
        &self,
        request: Request<Sealed<pb::UpdateOrganizationRequest>>,
    ) -> Result<Response<pb::UpdateOrganizationResponse>, Status> {
        let call = self.admit_write(request).await?;
        let (input, meta) = call.read(decode::update)?;
        let result = self.roster().update_organization(call.access, meta, input).await?;
        organization_response!(UpdateOrganizationResponse, result)
    }

    async fn activate_organization(
        &self,
        request: Request<Sealed<pb::ActivateOrganizationRequest>>,
    ) -> Result<Response<pb::ActivateOrganizationResponse>, Status> {
        let call = self.admit_write(request).await?;
        let meta = call.meta()?;
        let result = self.roster().set_organization_active(call.access, meta, true).await?;
        organization_response!(ActivateOrganizationResponse, result)
    }

    async fn deactivate_organization(
        &self,
        request: Request<Sealed<pb::DeactivateOrganizationRequest>>,
    ) -> Result<Response<pb::DeactivateOrganizationResponse>, Status> {
        let call = self.admit_write(request).await?;
        let meta = call.meta()?;
        let result = self.roster().set_organization_active(call.access, meta, false).await?;
        organization_response!(DeactivateOrganizationResponse, result)
    }

    async fn delete_organization(
        &self,
        request: Request<Sealed<pb::DeleteOrganizationRequest>>,
    ) -> Result<Response<pb::DeleteOrganizationResponse>, Status> {
        let result = match self.admit_or_replay(request).await? {
            Admission::Replayed(_, result) => result,
            Admission::Admitted(call) => {
                let (input, meta) = call.read(decode::delete)?;
                self.roster().delete_organization(call.access, meta, input).await?
            }
        };
        organization_response!(DeleteOrganizationResponse, result)
    }

    async fn undelete_organization(
        &self,
        request: Request<Sealed<pb::UndeleteOrganizationRequest>>,
    ) -> Result<Response<pb::UndeleteOrganizationResponse>, Status> {
        let call = self.admit_write(request).await?;
        let meta = call.meta()?;
        let result = self.roster().undelete_organization(call.access, meta).await?;
        organization_response!(UndeleteOrganizationResponse, result)
    }

    async fn add_member(
        &self,
        request: Request<Sealed<pb::AddMemberRequest>>,
    ) -> Result<Response<pb::AddMemberResponse>, Status> {
        let call = self.admit_write(request).await?;
        let (viewer, (input, meta)) = (call.viewer(), call.read(decode::add_member)?);
        let result = self.roster().add_member(call.access, meta, input).await?;
        respond(pb::AddMemberResponse {
            member: Some(convert::member(&viewer, &result.answer.member)),
            consistency_token: result.token,
            notified: result.answer.notified,
        })
    }

    async fn ensure_member(
        &self,
        request: Request<Sealed<pb::EnsureMemberRequest>>,
    ) -> Result<Response<pb::EnsureMemberResponse>, Status> {
        let call = self.admit_write(request).await?;
        let (viewer, (input, meta)) = (call.viewer(), call.read(decode::ensure_member)?);
        let result = self.roster().ensure_member(call.access, meta, input).await?;
        respond(pb::EnsureMemberResponse {
            member: Some(convert::member(&viewer, &result.answer.member)),
            consistency_token: result.token,
            created: result.answer.created,
            notified: result.answer.notified,
        })
    }

    async fn batch_add_members(
        &self,
        request: Request<Sealed<pb::BatchAddMembersRequest>>,
    ) -> Result<Response<pb::BatchAddMembersResponse>, Status> {
        let call = self.admit_write(request).await?;
        let (viewer, (input, meta)) = (call.viewer(), call.read(decode::add_members)?);
        let result = self.roster().batch_add_members(call.access, meta, input).await?;
        let item = |item: &ItemResult<AddedMember>| pb::BatchAddMembersResult {
            status: Some(status::of_item(item)),
            member: item.as_ref().ok().map(|added| convert::member(&viewer, &added.member)),
            notified: item.as_ref().is_ok_and(|added| added.notified),
        };
        let results = result.answer.iter().map(item).collect();
        respond(pb::BatchAddMembersResponse { results, consistency_token: result.token })
    }

    async fn get_member(
        &self,
        request: Request<Sealed<pb::GetMemberRequest>>,
    ) -> Result<Response<pb::GetMemberResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let user = read(|fields| match (message.user_id.as_str(), access.caller().user()) {
            ("", Some(caller)) => Ok(caller.clone()),
            (id, _) => fields.take("user_id", UserId::parse(id)),
        })?;
        let member = self.roster().get_member(&access, &user).await?;
        let viewer = Viewer::new(access.caller(), Some(access.grant()));
        respond(pb::GetMemberResponse { member: Some(convert::member(&viewer, &member)) })
    }

    async fn list_members(
        &self,
        request: Request<Sealed<pb::ListMembersRequest>>,
    ) -> Result<Response<pb::ListMembersResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let (page, filter) = read(|fields| decode::list_members(&message, fields))?;
        let rows = self.roster().list_members(&access, &filter).await?;
        let viewer = Viewer::new(access.caller(), Some(access.grant()));
        let convert = |member: &_| convert::member(&viewer, member);
        let (members, next_page_token) = page.convert(&rows, convert, |last| last.user.id.to_string().into_bytes());
        respond(pb::ListMembersResponse { members, next_page_token })
    }

    async fn list_members_with_permission(
        &self,
        request: Request<Sealed<pb::ListMembersWithPermissionRequest>>,
    ) -> Result<Response<pb::ListMembersWithPermissionResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let (page, word, filter) = read(|fields| decode::list_members_with_permission(&message, fields))?;
        let rows = self.roster().list_members_with_permission(&access, &word, &filter).await?;
        let viewer = Viewer::new(access.caller(), Some(access.grant()));
        let convert = |member: &_| convert::member(&viewer, member);
        let (members, next_page_token) = page.convert(&rows, convert, |last| last.user.id.to_string().into_bytes());
        respond(pb::ListMembersWithPermissionResponse { members, next_page_token })
    }

    async fn update_member(
        &self,
        request: Request<Sealed<pb::UpdateMemberRequest>>,
    ) -> Result<Response<pb::UpdateMemberResponse>, Status> {
        let (viewer, result) = match self.admit_or_replay(request).await? {
            Admission::Replayed(caller, result) => (Viewer::new(&caller, None), result),
            Admission::Admitted(call) => {
                let (viewer, (input, meta)) = (call.viewer(), call.read(decode::update_member)?);
                (viewer, self.roster().update_member(call.access, meta, input).await?)
            }
        };
        member_response!(UpdateMemberResponse, viewer, result)
    }

    async fn remove_member(
        &self,
        request: Request<Sealed<pb::RemoveMemberRequest>>,
    ) -> Result<Response<pb::RemoveMemberResponse>, Status> {
        let (viewer, result) = match self.admit_or_replay(request).await? {
            Admission::Replayed(caller, result) => (Viewer::new(&caller, None), result),
            Admission::Admitted(call) => {
                let (viewer, (input, meta)) = (call.viewer(), call.read(decode::remove_member)?);
                (viewer, self.roster().remove_member(call.access, meta, input).await?)
            }
        };
        member_response!(RemoveMemberResponse, viewer, result)
    }

    async fn leave_organization(
        &self,
        request: Request<Sealed<pb::LeaveOrganizationRequest>>,
    ) -> Result<Response<pb::LeaveOrganizationResponse>, Status> {
        let (viewer, result) = match self.admit_or_replay(request).await? {
            Admission::Replayed(caller, result) => (Viewer::new(&caller, None), result),
            Admission::Admitted(call) => {
                let (viewer, meta) = (call.viewer(), call.meta()?);
                (viewer, self.roster().leave_organization(call.access, meta).await?)
            }
        };
        member_response!(LeaveOrganizationResponse, viewer, result)
    }

    async fn transfer_ownership(
        &self,
        request: Request<Sealed<pb::TransferOwnershipRequest>>,
    ) -> Result<Response<pb::TransferOwnershipResponse>, Status> {
        let result = match self.admit_or_replay(request).await? {
            Admission::Replayed(_, result) => result,
            Admission::Admitted(call) => {
                let (input, meta) = call.read(decode::transfer_ownership)?;
                self.roster().transfer_ownership(call.access, meta, input).await?
            }
        };
        let TransferredOwnership { organization, new_owner_known } = &result.answer;
        respond(pb::TransferOwnershipResponse {
            organization: Some(convert::organization(organization)),
            consistency_token: result.token,
            new_owner_known: *new_owner_known,
        })
    }

    async fn list_user_organizations(
        &self,
        request: Request<Sealed<pb::ListUserOrganizationsRequest>>,
    ) -> Result<Response<pb::ListUserOrganizationsResponse>, Status> {
        let (message, caller) = self.admit_caller(request).await?;
        let (id, page, filter) = read(|fields| decode::list_of_user(&message, caller.user(), fields))?;
        if let Caller::User(user) = &caller
            && user.id != id
        {
            let advice = "users list their own organizations: leave user_id out".to_owned();
            return Err(status::refused(&Refusal::CallerNotAllowed { caller: "user".to_owned(), advice }));
        }
        let rows = self.roster().list_user_organizations(&id, &filter).await?;
        let convert = |(organization, role): &(Organization, Role)| pb::UserOrganization {
            organization: Some(convert::organization(organization)),
            role: role.name.to_string(),
        };
        let key = |(last, _): &(Organization, Role)| last.id.as_uuid().as_bytes().to_vec();
        let (organizations, next_page_token) = page.convert(&rows, convert, key);
        respond(pb::ListUserOrganizationsResponse { organizations, next_page_token })
    }
}
