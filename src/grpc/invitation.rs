//! The handlers of `InvitationService`: admit, decode, call, encode.

use super::admit::sealed::Sealed;
use super::admit::{Api, read, respond};
use super::convert::{self, Viewer};
use super::decode::invitation as decode;
use super::pb::invitation_service_server::InvitationService;
use super::{pb, status};
use crate::authn::{Caller, Secret};
use crate::domain::{Invitation, InvitationId, Refusal, UserId};
use crate::service::ItemResult;
use crate::service::invitations::{InvitationPreview, IssuedInvitation};
use tonic::{Request, Response, Status, async_trait};

fn text(token: Option<&Secret>) -> String {
    token.map(|token| token.expose().to_owned()).unwrap_or_default()
}

/// The calling user: only users receive and answer invitations.
fn person(caller: &Caller) -> Result<UserId, Status> {
    caller.user().cloned().ok_or_else(|| {
        let caller = caller.actor().map_or("anonymous", |actor| actor.kind.as_str()).to_owned();
        let advice = "only users answer invitations; act on behalf of the user".to_owned();
        status::refused(&Refusal::CallerNotAllowed { caller, advice })
    })
}

#[async_trait]
impl InvitationService for Api {
    async fn create_invitation(
        &self,
        request: Request<Sealed<pb::CreateInvitationRequest>>,
    ) -> Result<Response<pb::CreateInvitationResponse>, Status> {
        let call = self.admit_write(request).await?;
        let ((input, terms), meta) = call.read(decode::create)?;
        let result = self.roster().invite(call.access, meta, input, terms).await?;
        let IssuedInvitation { invitation, token } = &result.answer;
        respond(pb::CreateInvitationResponse {
            invitation: Some(convert::invitation(invitation)),
            consistency_token: result.token,
            token: text(token.as_ref()),
        })
    }

    async fn batch_create_invitations(
        &self,
        request: Request<Sealed<pb::BatchCreateInvitationsRequest>>,
    ) -> Result<Response<pb::BatchCreateInvitationsResponse>, Status> {
        let call = self.admit_write(request).await?;
        let ((inputs, terms), meta) = call.read(decode::batch)?;
        let result = self.roster().invite_all(call.access, meta, inputs, terms).await?;
        let item = |item: &ItemResult<IssuedInvitation>| {
            let issued = item.as_ref().ok();
            pb::BatchCreateInvitationsResult {
                status: Some(status::of_item(item)),
                invitation: issued.map(|issued| convert::invitation(&issued.invitation)),
                token: text(issued.and_then(|issued| issued.token.as_ref())),
            }
        };
        let results = result.answer.iter().map(item).collect();
        respond(pb::BatchCreateInvitationsResponse { results, consistency_token: result.token })
    }

    async fn get_invitation(
        &self,
        request: Request<Sealed<pb::GetInvitationRequest>>,
    ) -> Result<Response<pb::GetInvitationResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let id = read(|fields| fields.take("invitation_id", InvitationId::parse(&message.invitation_id)))?;
        let invitation = self.roster().get_invitation(&access, id).await?;
        respond(pb::GetInvitationResponse { invitation: Some(convert::invitation(&invitation)) })
    }

    async fn list_invitations(
        &self,
        request: Request<Sealed<pb::ListInvitationsRequest>>,
    ) -> Result<Response<pb::ListInvitationsResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let (page, filter) = read(|fields| decode::list(&message, fields))?;
        let rows = self.roster().list_invitations(&access, &filter).await?;
        let key = |last: &Invitation| decode::created_key(last.create_time, last.id);
        let (invitations, next_page_token) = page.convert(&rows, convert::invitation, key);
        respond(pb::ListInvitationsResponse { invitations, next_page_token })
    }

    async fn list_received_invitations(
        &self,
        request: Request<Sealed<pb::ListReceivedInvitationsRequest>>,
    ) -> Result<Response<pb::ListReceivedInvitationsResponse>, Status> {
        let (message, caller) = self.admit_caller(request).await?;
        let user = person(&caller)?;
        let (page, after) = read(|fields| decode::list_received(&message, &user, fields))?;
        let rows = self.roster().received_invitations(&user, after, page.limit()).await?;
        let key = |last: &InvitationPreview| decode::created_key(last.invitation.create_time, last.invitation.id);
        let (invitations, next_page_token) = page.convert(&rows, convert::received, key);
        respond(pb::ListReceivedInvitationsResponse { invitations, next_page_token })
    }

    async fn preview_invitation(
        &self,
        request: Request<Sealed<pb::PreviewInvitationRequest>>,
    ) -> Result<Response<pb::PreviewInvitationResponse>, Status> {
        let (message, caller) = self.admit_caller(request).await?;
        let preview = self.roster().preview(&caller, &message.token).await?;
        respond(pb::PreviewInvitationResponse { invitation: Some(convert::received(&preview)) })
    }

    async fn accept_invitation(
        &self,
        request: Request<Sealed<pb::AcceptInvitationRequest>>,
    ) -> Result<Response<pb::AcceptInvitationResponse>, Status> {
        let call = self.admit_caller_write(request).await?;
        let (invitation, meta) = call.read(decode::accept)?;
        let (user, viewer) = (person(&call.caller)?, Viewer::new(&call.caller, None));
        let result = self.roster().accept(call.caller, user, meta, invitation).await?;
        let member = Some(convert::member(&viewer, &result.answer));
        respond(pb::AcceptInvitationResponse { member, consistency_token: result.token })
    }

    async fn decline_invitation(
        &self,
        request: Request<Sealed<pb::DeclineInvitationRequest>>,
    ) -> Result<Response<pb::DeclineInvitationResponse>, Status> {
        let call = self.admit_caller_write(request).await?;
        let (invitation, meta) = call.read(decode::decline)?;
        let user = person(&call.caller)?;
        let result = self.roster().decline(call.caller, user, meta, invitation).await?;
        respond(pb::DeclineInvitationResponse { consistency_token: result.token })
    }

    async fn revoke_invitation(
        &self,
        request: Request<Sealed<pb::RevokeInvitationRequest>>,
    ) -> Result<Response<pb::RevokeInvitationResponse>, Status> {
        let call = self.admit_write(request).await?;
        let (id, meta) = call.read(decode::revoke)?;
        let result = self.roster().revoke(call.access, meta, id).await?;
        let invitation = Some(convert::invitation(&result.answer));
        respond(pb::RevokeInvitationResponse { invitation, consistency_token: result.token })
    }

    async fn remind_invitation(
        &self,
        request: Request<Sealed<pb::RemindInvitationRequest>>,
    ) -> Result<Response<pb::RemindInvitationResponse>, Status> {
        let call = self.admit_write(request).await?;
        let ((id, terms, rotate), meta) = call.read(decode::remind)?;
        let result = self.roster().remind(call.access, meta, id, terms, rotate).await?;
        let IssuedInvitation { invitation, token } = &result.answer;
        respond(pb::RemindInvitationResponse {
            invitation: Some(convert::invitation(invitation)),
            consistency_token: result.token,
            token: text(token.as_ref()),
        })
    }
}
