//! `InvitationService`: decode, call, encode.

use super::admit::sealed::Sealed;
use super::admit::{Api, answer, read};
use super::convert::{self, Viewer};
use super::decode::{FieldReader, InvalidFields};
use super::page::Page;
use super::pb::invitation_service_server::InvitationService;
use super::{pb, status};
use crate::authn::{Caller, Secret};
use crate::domain::{Delivery, EmailAddress, Invalid, InvitationId, InvitationState, Recipient, Refusal, Role, UserId};
use crate::grpc::limits;
use crate::service::invitations::{InvitationFilter, InvitationPageKey, Invite, IssuedInvitation, Terms, life};
use crate::service::{InvitationReference, Roster, ServiceError};
use std::time::Duration;
use time::OffsetDateTime;
use tonic::{Request, Response, Status, async_trait};

/// Reads how a token is to get there.
pub(super) fn delivery(fields: &mut FieldReader, field: &str, number: i32) -> Result<Option<Delivery>, InvalidFields> {
    match pb::InvitationDelivery::try_from(number) {
        Ok(pb::InvitationDelivery::Unspecified) => Ok(None),
        Ok(pb::InvitationDelivery::Email) => Ok(Some(Delivery::Email)),
        Ok(pb::InvitationDelivery::Token) => Ok(Some(Delivery::Token)),
        Ok(pb::InvitationDelivery::None) => Ok(Some(Delivery::None)),
        Err(_) => Err(fields.wrong(field, Invalid::new("no such delivery: one of EMAIL, TOKEN, NONE"))),
    }
}

fn lifetime(fields: &mut FieldReader, given: Option<&prost_types::Duration>) -> Result<Duration, InvalidFields> {
    // By hand: the conversion of prost overflows on the smallest number of seconds.
    let input = given.map(|given| match (u64::try_from(given.seconds), u32::try_from(given.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Invalid::new("an invitation is good for an hour to 30 days")),
    });
    let input = input.transpose().and_then(life);
    fields.take("lifetime", input)
}

fn terms(
    fields: &mut FieldReader,
    delivery_number: i32,
    given: Option<&prost_types::Duration>,
    dry_run: bool,
) -> Result<Terms, InvalidFields> {
    let delivery = delivery(fields, "delivery", delivery_number);
    let life = lifetime(fields, given);
    Ok(Terms { delivery: delivery?, life: life?, dry_run })
}

/// Whom a request invites.
enum RecipientText<'m> {
    Email(&'m str),
    Identifier(&'m str),
}

fn invite(
    fields: &mut FieldReader,
    whom: Option<&RecipientText<'_>>,
    role: &str,
    attributes: Option<&prost_types::Struct>,
) -> Result<Invite, InvalidFields> {
    let recipient = match whom {
        Some(RecipientText::Email(text)) => fields.take("email", EmailAddress::parse(text)).map(Recipient::Email),
        Some(RecipientText::Identifier(text)) => fields.take("identifier", Recipient::parse_other(text)),
        None => Err(fields.wrong("email", Invalid::new("name the recipient: email or identifier"))),
    };
    let role = fields.optional("role", role, Role::parse_assignable);
    let attributes = fields.attributes("attributes", attributes);
    Ok(Invite { recipient: recipient?, role: role?.unwrap_or(Role::MEMBER), attributes: attributes? })
}

fn create(message: &pb::CreateInvitationRequest, fields: &mut FieldReader) -> Result<(Invite, Terms), InvalidFields> {
    use pb::create_invitation_request::Recipient as Field;
    let whom = message.recipient.as_ref().map(|recipient| match recipient {
        Field::Email(text) => RecipientText::Email(text),
        Field::Identifier(text) => RecipientText::Identifier(text),
    });
    let invite = invite(fields, whom.as_ref(), &message.role, message.attributes.as_ref());
    let terms = terms(fields, message.delivery, message.lifetime.as_ref(), message.validate_only);
    Ok((invite?, terms?))
}

fn batch(
    message: &pb::BatchCreateInvitationsRequest,
    fields: &mut FieldReader,
) -> Result<(Vec<Invite>, Terms), InvalidFields> {
    use pb::batch_create_invitations_item::Recipient as Field;
    let terms = terms(fields, message.delivery, message.lifetime.as_ref(), message.validate_only);
    if !(1..=limits::BATCH_WRITES).contains(&message.items.len()) {
        return Err(fields.wrong("items", Invalid::new("1 to 100 items")));
    }
    let items = fields.items(&message.items, |fields, item| {
        let whom = item.recipient.as_ref().map(|recipient| match recipient {
            Field::Email(text) => RecipientText::Email(text),
            Field::Identifier(text) => RecipientText::Identifier(text),
        });
        invite(fields, whom.as_ref(), &item.role, item.attributes.as_ref())
    });
    Ok((items?, terms?))
}

fn state_from(number: i32) -> Option<InvitationState> {
    match pb::InvitationState::try_from(number).ok()? {
        pb::InvitationState::Unspecified => None,
        pb::InvitationState::Pending => Some(InvitationState::Pending),
        pb::InvitationState::Accepted => Some(InvitationState::Accepted),
        pb::InvitationState::Declined => Some(InvitationState::Declined),
        pb::InvitationState::Revoked => Some(InvitationState::Revoked),
        pb::InvitationState::Expired => Some(InvitationState::Expired),
    }
}

fn states(fields: &mut FieldReader, given: &[i32]) -> Result<Vec<InvitationState>, InvalidFields> {
    if given.is_empty() {
        return Ok(vec![InvitationState::Pending]);
    }
    if given.len() > InvitationState::ALL.len() {
        return Err(fields.wrong("states", Invalid::new("at most 5 states")));
    }
    let known = given.iter().map(|number| state_from(*number).ok_or_else(|| Invalid::new("no such state")));
    fields.take("states", known.collect())
}

/// The key of a list in the order of creation: the time in nanoseconds, then the id.
fn created_key(create_time: OffsetDateTime, id: InvitationId) -> Vec<u8> {
    let mut key = create_time.unix_timestamp_nanos().to_be_bytes().to_vec();
    key.extend_from_slice(id.as_uuid().as_bytes());
    key
}

fn after_created(fields: &mut FieldReader, page: &Page) -> Result<Option<InvitationPageKey>, InvalidFields> {
    let Some(key) = &page.after else { return Ok(None) };
    let after = key.split_first_chunk::<16>().and_then(|(time, id)| {
        let create_time = OffsetDateTime::from_unix_timestamp_nanos(i128::from_be_bytes(*time)).ok()?;
        let id = InvitationId::from_uuid(uuid::Uuid::from_slice(id).ok()?);
        // What no timestamp of Postgres's can be was not made here.
        (1970..9999).contains(&create_time.year()).then_some(InvitationPageKey { create_time, id })
    });
    fields.take("page_token", after.ok_or_else(|| Invalid::new("not a page_token of this request"))).map(Some)
}

fn list(
    message: &pb::ListInvitationsRequest,
    fields: &mut FieldReader,
) -> Result<(Page, InvitationFilter), InvalidFields> {
    let states = states(fields, &message.states);
    let told = format!("{:?}", message.states);
    let filter = ["invitations", &message.organization, &told];
    let page = Page::read(fields, message.page_size, &message.page_token, &filter)?;
    let after = after_created(fields, &page);
    let limit = page.limit();
    Ok((page, InvitationFilter { states: states?, after: after?, limit }))
}

fn named(
    fields: &mut FieldReader,
    token: Option<&str>,
    id: Option<&str>,
) -> Result<InvitationReference, InvalidFields> {
    match (token, id) {
        // Whatever it is: what is no good is no good.
        (Some(token), _) => Ok(InvitationReference::Token(token.to_owned())),
        (None, Some(id)) => fields.take("invitation_id", InvitationId::parse(id)).map(InvitationReference::Id),
        (None, None) => Err(fields.wrong("token", Invalid::new("name the invitation: token or invitation_id"))),
    }
}

fn accept(
    message: &pb::AcceptInvitationRequest,
    fields: &mut FieldReader,
) -> Result<InvitationReference, InvalidFields> {
    use pb::accept_invitation_request::Invitation as Field;
    match &message.invitation {
        Some(Field::Token(token)) => named(fields, Some(token), None),
        Some(Field::InvitationId(id)) => named(fields, None, Some(id)),
        None => named(fields, None, None),
    }
}

fn decline(
    message: &pb::DeclineInvitationRequest,
    fields: &mut FieldReader,
) -> Result<InvitationReference, InvalidFields> {
    use pb::decline_invitation_request::Invitation as Field;
    match &message.invitation {
        Some(Field::Token(token)) => named(fields, Some(token), None),
        Some(Field::InvitationId(id)) => named(fields, None, Some(id)),
        None => named(fields, None, None),
    }
}

fn text(token: Option<&Secret>) -> String {
    token.map(|token| token.expose().to_owned()).unwrap_or_default()
}

/// The user who asks: only people receive and answer invitations.
fn person(caller: &Caller) -> Result<UserId, Refusal> {
    caller.user().cloned().ok_or_else(|| {
        let caller = caller.actor().map_or("anonymous", |actor| actor.kind.as_str()).to_owned();
        let advice = "only users answer invitations; act on behalf of the user".to_owned();
        Refusal::CallerNotAllowed { caller, advice }
    })
}

#[async_trait]
impl InvitationService for Api {
    async fn create_invitation(
        &self,
        request: Request<Sealed<pb::CreateInvitationRequest>>,
    ) -> Result<Response<pb::CreateInvitationResponse>, Status> {
        let run = |roster: Roster, access, meta, (input, terms)| async move {
            roster.invite(access, meta, input, terms).await
        };
        let (_, _, written) = self.write_in(request, create, run).await?;
        let IssuedInvitation { invitation, token } = &written.answer;
        answer(pb::CreateInvitationResponse {
            invitation: Some(convert::invitation(invitation)),
            consistency_token: written.token,
            token: text(token.as_ref()),
        })
    }

    async fn batch_create_invitations(
        &self,
        request: Request<Sealed<pb::BatchCreateInvitationsRequest>>,
    ) -> Result<Response<pb::BatchCreateInvitationsResponse>, Status> {
        let run = |roster: Roster, access, meta, (wishes, terms)| async move {
            roster.invite_all(access, meta, wishes, terms).await
        };
        let (_, _, written) = self.write_in(request, batch, run).await?;
        let result = |outcome: &Result<IssuedInvitation, Refusal>| match outcome {
            Ok(IssuedInvitation { invitation, token }) => pb::BatchCreateInvitationsResult {
                status: Some(tonic_types::pb::Status::default()),
                invitation: Some(convert::invitation(invitation)),
                token: text(token.as_ref()),
            },
            Err(refusal) => pb::BatchCreateInvitationsResult {
                status: Some(status::item(refusal)),
                invitation: None,
                token: String::new(),
            },
        };
        let results = written.answer.iter().map(result).collect();
        answer(pb::BatchCreateInvitationsResponse { results, consistency_token: written.token })
    }

    async fn get_invitation(
        &self,
        request: Request<Sealed<pb::GetInvitationRequest>>,
    ) -> Result<Response<pb::GetInvitationResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let id = read(|fields| fields.take("invitation_id", InvitationId::parse(&message.invitation_id)))?;
        let found = self.roster().get_invitation(&access, id).await?;
        answer(pb::GetInvitationResponse { invitation: Some(convert::invitation(&found)) })
    }

    async fn list_invitations(
        &self,
        request: Request<Sealed<pb::ListInvitationsRequest>>,
    ) -> Result<Response<pb::ListInvitationsResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let (page, filter) = read(|fields| list(&message, fields))?;
        let found = self.roster().list_invitations(&access, &filter).await?;
        let (invitations, next_page_token) =
            page.show(&found, convert::invitation, |last| created_key(last.create_time, last.id));
        answer(pb::ListInvitationsResponse { invitations, next_page_token })
    }

    async fn list_received_invitations(
        &self,
        request: Request<Sealed<pb::ListReceivedInvitationsRequest>>,
    ) -> Result<Response<pb::ListReceivedInvitationsResponse>, Status> {
        let (message, caller) = self.admit_caller(request).await?;
        let user = person(&caller).map_err(|refusal| status::refused(&refusal))?;
        let (page, after) = read(|fields| {
            let page = Page::read(fields, message.page_size, &message.page_token, &["received", user.as_str()])?;
            let after = after_created(fields, &page)?;
            Ok((page, after))
        })?;
        let found = self.roster().received_invitations(&user, after, page.limit()).await?;
        let key = |last: &crate::service::invitations::InvitationPreview| {
            created_key(last.invitation.create_time, last.invitation.id)
        };
        let (invitations, next_page_token) = page.show(&found, convert::received, key);
        answer(pb::ListReceivedInvitationsResponse { invitations, next_page_token })
    }

    async fn preview_invitation(
        &self,
        request: Request<Sealed<pb::PreviewInvitationRequest>>,
    ) -> Result<Response<pb::PreviewInvitationResponse>, Status> {
        let (message, caller) = self.admit_caller(request).await?;
        let shown = self.roster().preview(&caller, &message.token).await?;
        answer(pb::PreviewInvitationResponse { invitation: Some(convert::received(&shown)) })
    }

    async fn accept_invitation(
        &self,
        request: Request<Sealed<pb::AcceptInvitationRequest>>,
    ) -> Result<Response<pb::AcceptInvitationResponse>, Status> {
        let run = |roster: Roster, caller, meta, named| async move {
            let user = person(&caller).map_err(ServiceError::from)?;
            let viewer = Viewer::new(&caller, None);
            let written = roster.accept(caller, user, meta, named).await?;
            Ok(crate::service::write::WriteResult { answer: (viewer, written.answer), token: written.token })
        };
        let written = self.write_as(request, accept, run).await?;
        let (viewer, member) = &written.answer;
        let member = Some(convert::member(viewer, member));
        answer(pb::AcceptInvitationResponse { member, consistency_token: written.token })
    }

    async fn decline_invitation(
        &self,
        request: Request<Sealed<pb::DeclineInvitationRequest>>,
    ) -> Result<Response<pb::DeclineInvitationResponse>, Status> {
        let run = |roster: Roster, caller, meta, named| async move {
            let user = person(&caller).map_err(ServiceError::from)?;
            roster.decline(caller, user, meta, named).await
        };
        let written = self.write_as(request, decline, run).await?;
        answer(pb::DeclineInvitationResponse { consistency_token: written.token })
    }

    async fn revoke_invitation(
        &self,
        request: Request<Sealed<pb::RevokeInvitationRequest>>,
    ) -> Result<Response<pb::RevokeInvitationResponse>, Status> {
        let input = |message: &pb::RevokeInvitationRequest, fields: &mut FieldReader| {
            fields.take("invitation_id", InvitationId::parse(&message.invitation_id))
        };
        let run = |roster: Roster, access, meta, id| async move { roster.revoke(access, meta, id).await };
        let (_, _, written) = self.write_in(request, input, run).await?;
        let invitation = Some(convert::invitation(&written.answer));
        answer(pb::RevokeInvitationResponse { invitation, consistency_token: written.token })
    }

    async fn remind_invitation(
        &self,
        request: Request<Sealed<pb::RemindInvitationRequest>>,
    ) -> Result<Response<pb::RemindInvitationResponse>, Status> {
        let input = |message: &pb::RemindInvitationRequest, fields: &mut FieldReader| {
            let id = fields.take("invitation_id", InvitationId::parse(&message.invitation_id));
            let terms = terms(fields, message.delivery, None, message.validate_only);
            Ok((id?, terms?, message.rotate))
        };
        let run = |roster: Roster, access, meta, (id, terms, rotate)| async move {
            roster.remind(access, meta, id, terms, rotate).await
        };
        let (_, _, written) = self.write_in(request, input, run).await?;
        let IssuedInvitation { invitation, token } = &written.answer;
        answer(pb::RemindInvitationResponse {
            invitation: Some(convert::invitation(invitation)),
            consistency_token: written.token,
            token: text(token.as_ref()),
        })
    }
}
