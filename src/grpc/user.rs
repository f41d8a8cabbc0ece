//! The handlers of `UserService`: admit, decode, call, encode.

use super::admit::sealed::Sealed;
use super::admit::{Api, read, respond};
use super::decode::user as decode;
use super::pb::user_service_server::UserService;
use super::{convert, pb, status};
use crate::authn::{Caller, UserCaller};
use crate::domain::{Refusal, Scope, UserId};
use crate::service::ServiceError;
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl UserService for Api {
    async fn get_caller(
        &self,
        request: Request<Sealed<pb::GetCallerRequest>>,
    ) -> Result<Response<pb::GetCallerResponse>, Status> {
        let (_, caller) = self.admit_caller(request).await?;
        let mut message = pb::GetCallerResponse::default();
        if let Some(actor) = caller.actor() {
            message.kind = actor.kind.to_string();
            message.id = actor.id;
            message.via_service = actor.via.unwrap_or_default();
        }
        if let Caller::User(UserCaller { claims: Some(claims), .. }) = &caller {
            message.ignored_claims = claims.profile.ignored.iter().map(convert::ignored_claim).collect();
        }
        match &caller {
            Caller::User(user) => match self.roster().get_user(&user.id).await {
                Ok(user) => message.user = Some(convert::user(&user)),
                // The call was admitted with the user, whom a database that was restored since may not have.
                Err(ServiceError::Refused(Refusal::UserNotFound)) => {}
                Err(error) => return Err(error.into()),
            },
            Caller::Service(service) => {
                message.scopes = service.scopes.iter().map(|scope| Scope::as_str(*scope).to_owned()).collect();
            }
            Caller::Anonymous | Caller::Operator(_) => {}
        }
        respond(message)
    }

    async fn put_user(
        &self,
        request: Request<Sealed<pb::PutUserRequest>>,
    ) -> Result<Response<pb::PutUserResponse>, Status> {
        let call = self.admit_caller_write(request).await?;
        let ((id, profile), meta) = call.read(decode::put)?;
        let result = self.roster().put_user(call.caller, meta, id, profile).await?;
        let user = Some(convert::user(&result.answer));
        respond(pb::PutUserResponse { user, consistency_token: result.token })
    }

    async fn get_user(
        &self,
        request: Request<Sealed<pb::GetUserRequest>>,
    ) -> Result<Response<pb::GetUserResponse>, Status> {
        let (message, caller) = self.admit_caller(request).await?;
        let id = read(|fields| fields.take("user_id", UserId::parse(&message.user_id)))?;
        if let Caller::User(user) = &caller
            && user.id != id
        {
            let advice = "users read themselves only; members of an organization are read with GetMember".to_owned();
            return Err(status::refused(&Refusal::CallerNotAllowed { caller: "user".to_owned(), advice }));
        }
        let user = self.roster().get_user(&id).await?;
        respond(pb::GetUserResponse { user: Some(convert::user(&user)) })
    }

    async fn list_users(
        &self,
        request: Request<Sealed<pb::ListUsersRequest>>,
    ) -> Result<Response<pb::ListUsersResponse>, Status> {
        let (message, _) = self.admit_caller(request).await?;
        let (page, filter) = read(|fields| decode::list(&message, fields))?;
        let rows = self.roster().list_users(&filter).await?;
        let (users, next_page_token) = page.convert(&rows, convert::user, |last| last.id.to_string().into_bytes());
        respond(pb::ListUsersResponse { users, next_page_token })
    }

    async fn deactivate_user(
        &self,
        request: Request<Sealed<pb::DeactivateUserRequest>>,
    ) -> Result<Response<pb::DeactivateUserResponse>, Status> {
        let call = self.admit_caller_write(request).await?;
        let (id, meta) = call.read(|message, fields| fields.take("user_id", UserId::parse(&message.user_id)))?;
        let result = self.roster().set_user_active(call.caller, meta, id, false).await?;
        let user = Some(convert::user(&result.answer));
        respond(pb::DeactivateUserResponse { user, consistency_token: result.token })
    }

    async fn reactivate_user(
        &self,
        request: Request<Sealed<pb::ReactivateUserRequest>>,
    ) -> Result<Response<pb::ReactivateUserResponse>, Status> {
        let call = self.admit_caller_write(request).await?;
        let (id, meta) = call.read(|message, fields| fields.take("user_id", UserId::parse(&message.user_id)))?;
        let result = self.roster().set_user_active(call.caller, meta, id, true).await?;
        let user = Some(convert::user(&result.answer));
        respond(pb::ReactivateUserResponse { user, consistency_token: result.token })
    }

    async fn reinstate_user(
        &self,
        request: Request<Sealed<pb::ReinstateUserRequest>>,
    ) -> Result<Response<pb::ReinstateUserResponse>, Status> {
        let call = self.admit_caller_write(request).await?;
        let (id, meta) = call.read(|message, fields| fields.take("user_id", UserId::parse_new(&message.user_id)))?;
        let result = self.roster().reinstate_user(call.caller, meta, id).await?;
        let user = Some(convert::user(&result.answer));
        respond(pb::ReinstateUserResponse { user, consistency_token: result.token })
    }

    async fn delete_user(
        &self,
        request: Request<Sealed<pb::DeleteUserRequest>>,
    ) -> Result<Response<pb::DeleteUserResponse>, Status> {
        let call = self.admit_caller_write(request).await?;
        let (id, meta) = call.read(|message, fields| fields.take("user_id", UserId::parse(&message.user_id)))?;
        let result = self.roster().delete_user(call.caller, meta, id).await?;
        respond(pb::DeleteUserResponse {
            user: Some(convert::user(&result.answer.user)),
            consistency_token: result.token,
            owned_organizations: result.answer.owned.iter().map(ToString::to_string).collect(),
            removed_memberships: i32::try_from(result.answer.removed_memberships).unwrap_or(i32::MAX),
        })
    }
}
