//! `UserService`: decode, call, encode.

use super::admit::sealed::Sealed;
use super::admit::{Api, answer, read};
use super::decode::{FieldReader, InvalidFields};
use super::pb::user_service_server::UserService;
use super::{convert, pb, status};
use crate::authn::{Caller, Profile};
use crate::domain::{DisplayName, EmailAddress, Invalid, Refusal, Scope, UserId};
use crate::service::Roster;
use tonic::{Request, Response, Status, async_trait};

fn put(message: &pb::PutUserRequest, fields: &mut FieldReader) -> Result<(UserId, Profile), InvalidFields> {
    let user = fields.take("user_id", UserId::parse(&message.user_id));
    let email = fields.optional("email", &message.email, EmailAddress::parse);
    let display_name = fields.optional("display_name", &message.display_name, DisplayName::parse);
    if message.email_verified && message.email.is_empty() {
        return Err(fields.wrong("email_verified", Invalid::new("needs an email")));
    }
    let profile = Profile { email: email?, email_verified: message.email_verified, display_name: display_name? };
    Ok((user?, profile))
}

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
        match &caller {
            Caller::User(user) => match self.roster().get_user(&user.id).await {
                Ok(known) => message.user = Some(convert::user(&known)),
                // A service may act for a user whom nobody has mentioned yet.
                Err(crate::service::ServiceError::Refused(Refusal::UserNotFound)) => {}
                Err(error) => return Err(error.into()),
            },
            Caller::Service(service) => {
                message.scopes = service.scopes.iter().map(|scope| Scope::as_str(*scope).to_owned()).collect();
            }
            Caller::Anonymous | Caller::Operator(_) => {}
        }
        answer(message)
    }

    async fn put_user(
        &self,
        request: Request<Sealed<pb::PutUserRequest>>,
    ) -> Result<Response<pb::PutUserResponse>, Status> {
        let run = |roster: Roster, caller, meta, (id, profile)| async move {
            roster.put_user(caller, meta, id, profile).await
        };
        let written = self.write_as(request, put, run).await?;
        answer(pb::PutUserResponse { user: Some(convert::user(&written.answer)), consistency_token: written.token })
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
        answer(pb::GetUserResponse { user: Some(convert::user(&user)) })
    }

    async fn deactivate_user(
        &self,
        request: Request<Sealed<pb::DeactivateUserRequest>>,
    ) -> Result<Response<pb::DeactivateUserResponse>, Status> {
        let run =
            |roster: Roster, caller, meta, id| async move { roster.set_user_active(caller, meta, id, false).await };
        let read = |message: &pb::DeactivateUserRequest, fields: &mut FieldReader| {
            fields.take("user_id", UserId::parse(&message.user_id))
        };
        let written = self.write_as(request, read, run).await?;
        let user = Some(convert::user(&written.answer));
        answer(pb::DeactivateUserResponse { user, consistency_token: written.token })
    }

    async fn reactivate_user(
        &self,
        request: Request<Sealed<pb::ReactivateUserRequest>>,
    ) -> Result<Response<pb::ReactivateUserResponse>, Status> {
        let run =
            |roster: Roster, caller, meta, id| async move { roster.set_user_active(caller, meta, id, true).await };
        let read = |message: &pb::ReactivateUserRequest, fields: &mut FieldReader| {
            fields.take("user_id", UserId::parse(&message.user_id))
        };
        let written = self.write_as(request, read, run).await?;
        let user = Some(convert::user(&written.answer));
        answer(pb::ReactivateUserResponse { user, consistency_token: written.token })
    }

    async fn delete_user(
        &self,
        request: Request<Sealed<pb::DeleteUserRequest>>,
    ) -> Result<Response<pb::DeleteUserResponse>, Status> {
        let run = |roster: Roster, caller, meta, id| async move { roster.delete_user(caller, meta, id).await };
        let read = |message: &pb::DeleteUserRequest, fields: &mut FieldReader| {
            fields.take("user_id", UserId::parse(&message.user_id))
        };
        let written = self.write_as(request, read, run).await?;
        answer(pb::DeleteUserResponse {
            user: Some(convert::user(&written.answer.user)),
            consistency_token: written.token,
            owned_organizations: written.answer.owned.iter().map(ToString::to_string).collect(),
            removed_memberships: i32::try_from(written.answer.removed_memberships).unwrap_or(i32::MAX),
        })
    }
}
