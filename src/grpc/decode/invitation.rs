//! Inputs of `InvitationService`.

use super::{FieldReader, InvalidFields, borrow_oneof, item_count};
use crate::domain::{
    Delivery, EmailAddress, Invalid, InvitationId, InvitationState, Locale, Recipient, RoleName, UserId,
};
use crate::grpc::page::Page;
use crate::grpc::{convert, limits, pb};
use crate::service::InvitationReference;
use crate::service::invitations::{InvitationFilter, InvitationPageKey, Invite, Terms, life};
use std::time::Duration;
use time::OffsetDateTime;

/// The delivery of an invitation token; `None` for the default.
pub(super) fn delivery(fields: &mut FieldReader, field: &str, number: i32) -> Result<Option<Delivery>, InvalidFields> {
    match pb::InvitationDelivery::try_from(number) {
        Ok(pb::InvitationDelivery::Unspecified) => Ok(None),
        Ok(pb::InvitationDelivery::Email) => Ok(Some(Delivery::Email)),
        Ok(pb::InvitationDelivery::Token) => Ok(Some(Delivery::Token)),
        Ok(pb::InvitationDelivery::None) => Ok(Some(Delivery::None)),
        Err(_) => Err(fields.wrong(field, Invalid::new("no such delivery: one of EMAIL, TOKEN, NONE"))),
    }
}

/// The lifetime of an invitation; absent: the default.
pub(super) fn lifetime(
    fields: &mut FieldReader,
    field: &str,
    lifetime: Option<&prost_types::Duration>,
) -> Result<Duration, InvalidFields> {
    // Not by prost's conversion, which overflows on the smallest number of seconds.
    let duration = lifetime.map(|lifetime| match (u64::try_from(lifetime.seconds), u32::try_from(lifetime.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Invalid::new("an invitation is good for an hour to 30 days")),
    });
    fields.take(field, duration.transpose().and_then(life))
}

fn terms(
    fields: &mut FieldReader,
    delivery_number: i32,
    duration: Option<&prost_types::Duration>,
    dry_run: bool,
) -> Result<Terms, InvalidFields> {
    let delivery = delivery(fields, "delivery", delivery_number);
    let life = lifetime(fields, "lifetime", duration);
    Ok(Terms { delivery: delivery?, life: life?, dry_run })
}

/// The recipient of an invitation, as the request spells it.
enum RecipientText<'m> {
    Email(&'m str),
    Identifier(&'m str),
}

fn invite(
    fields: &mut FieldReader,
    recipient: Option<&RecipientText<'_>>,
    role: &str,
    attributes: Option<&prost_types::Struct>,
    locale: &str,
) -> Result<Invite, InvalidFields> {
    let recipient = match recipient {
        Some(RecipientText::Email(text)) => fields.take("email", EmailAddress::parse(text)).map(Recipient::Email),
        Some(RecipientText::Identifier(text)) => fields.take("identifier", Recipient::parse_other(text)),
        None => Err(fields.wrong("email", Invalid::new("name the recipient: email or identifier"))),
    };
    let role = fields.optional("role", role, RoleName::parse_assignable);
    let attributes = fields.attributes("attributes", attributes);
    let locale = fields.optional("locale", locale, Locale::parse);
    let role = role?.unwrap_or(RoleName::MEMBER);
    Ok(Invite { recipient: recipient?, role, attributes: attributes?, locale: locale? })
}

/// The input of `CreateInvitation`.
pub(in crate::grpc) fn create(
    message: &pb::CreateInvitationRequest,
    fields: &mut FieldReader,
) -> Result<(Invite, Terms), InvalidFields> {
    let recipient = borrow_oneof!(
        message.recipient,
        pb::create_invitation_request::Recipient => RecipientText { Email, Identifier }
    );
    let invite = invite(fields, recipient.as_ref(), &message.role, message.attributes.as_ref(), &message.locale);
    let terms = terms(fields, message.delivery, message.lifetime.as_ref(), message.validate_only);
    Ok((invite?, terms?))
}

/// The input of `BatchCreateInvitations`.
pub(in crate::grpc) fn batch(
    message: &pb::BatchCreateInvitationsRequest,
    fields: &mut FieldReader,
) -> Result<(Vec<Invite>, Terms), InvalidFields> {
    let terms = terms(fields, message.delivery, message.lifetime.as_ref(), message.validate_only);
    if !(1..=limits::BATCH_WRITES).contains(&message.items.len()) {
        return Err(fields.wrong("items", Invalid(item_count(limits::BATCH_WRITES))));
    }
    let items = fields.items(&message.items, |fields, item| {
        let recipient = borrow_oneof!(
            item.recipient,
            pb::batch_create_invitations_item::Recipient => RecipientText { Email, Identifier }
        );
        invite(fields, recipient.as_ref(), &item.role, item.attributes.as_ref(), &item.locale)
    });
    Ok((items?, terms?))
}

/// The input of `RevokeInvitation`.
pub(in crate::grpc) fn revoke(
    message: &pb::RevokeInvitationRequest,
    fields: &mut FieldReader,
) -> Result<InvitationId, InvalidFields> {
    fields.take("invitation_id", InvitationId::parse(&message.invitation_id))
}

/// The input of `RemindInvitation`: the invitation, the terms, and whether former tokens end.
pub(in crate::grpc) fn remind(
    message: &pb::RemindInvitationRequest,
    fields: &mut FieldReader,
) -> Result<(InvitationId, Terms, bool), InvalidFields> {
    let id = fields.take("invitation_id", InvitationId::parse(&message.invitation_id));
    let terms = terms(fields, message.delivery, None, message.validate_only);
    Ok((id?, terms?, message.rotate))
}

/// The key of a list in the order of creation: the time in nanoseconds, then the id.
pub(in crate::grpc) fn created_key(create_time: OffsetDateTime, id: InvitationId) -> Vec<u8> {
    let mut key = create_time.unix_timestamp_nanos().to_be_bytes().to_vec();
    key.extend_from_slice(id.as_uuid().as_bytes());
    key
}

fn after_created(key: &[u8]) -> Option<InvitationPageKey> {
    let (time, id) = key.split_first_chunk::<16>()?;
    let create_time = OffsetDateTime::from_unix_timestamp_nanos(i128::from_be_bytes(*time)).ok()?;
    let id = InvitationId::from_uuid(uuid::Uuid::from_slice(id).ok()?);
    // Within the range of a timestamp in Postgres.
    (1970..9999).contains(&create_time.year()).then_some(InvitationPageKey { create_time, id })
}

/// The input of `ListInvitations`.
pub(in crate::grpc) fn list(
    message: &pb::ListInvitationsRequest,
    fields: &mut FieldReader,
) -> Result<(Page, InvitationFilter), InvalidFields> {
    let all = InvitationState::ALL;
    let number_and_name = |state| (convert::invitation_state(state).into(), InvitationState::as_str(state));
    let states = fields.states(&message.states, InvitationState::Pending, &all, all.len(), number_and_name);
    let state_list = format!("{:?}", message.states);
    let filter = ["invitations", &message.organization, &state_list];
    let page = Page::read(fields, message.page_size, &message.page_token, &filter)?;
    let after = page.key(fields, after_created);
    let limit = page.limit();
    Ok((page, InvitationFilter { states: states?, after: after?, limit }))
}

/// The input of `ListReceivedInvitations` by this user.
pub(in crate::grpc) fn list_received(
    message: &pb::ListReceivedInvitationsRequest,
    user: &UserId,
    fields: &mut FieldReader,
) -> Result<(Page, Option<InvitationPageKey>), InvalidFields> {
    let page = Page::read(fields, message.page_size, &message.page_token, &["received", user.as_str()])?;
    let after = page.key(fields, after_created)?;
    Ok((page, after))
}

/// The invitation that a request names, as the request spells it.
enum ReferenceText<'m> {
    Token(&'m str),
    InvitationId(&'m str),
}

fn reference(
    fields: &mut FieldReader,
    reference: Option<&ReferenceText<'_>>,
) -> Result<InvitationReference, InvalidFields> {
    match reference {
        // Any text: callers cannot distinguish a malformed invitation token from an unknown one.
        Some(ReferenceText::Token(token)) => Ok(InvitationReference::Token((*token).to_owned())),
        Some(ReferenceText::InvitationId(id)) => {
            fields.take("invitation_id", InvitationId::parse(id)).map(InvitationReference::Id)
        }
        None => Err(fields.wrong("token", Invalid::new("name the invitation: token or invitation_id"))),
    }
}

/// The input of `AcceptInvitation`.
pub(in crate::grpc) fn accept(
    message: &pb::AcceptInvitationRequest,
    fields: &mut FieldReader,
) -> Result<InvitationReference, InvalidFields> {
    let text = borrow_oneof!(
        message.invitation,
        pb::accept_invitation_request::Invitation => ReferenceText { Token, InvitationId }
    );
    reference(fields, text.as_ref())
}

/// The input of `DeclineInvitation`.
pub(in crate::grpc) fn decline(
    message: &pb::DeclineInvitationRequest,
    fields: &mut FieldReader,
) -> Result<InvitationReference, InvalidFields> {
    let text = borrow_oneof!(
        message.invitation,
        pb::decline_invitation_request::Invitation => ReferenceText { Token, InvitationId }
    );
    reference(fields, text.as_ref())
}
