//! Inputs of `EventService`.

use super::{FieldReader, InvalidFields};
use crate::domain::event::EventType;
use crate::domain::{Invalid, Kind, OrganizationRef, UserId};
use crate::grpc::page::Page;
use crate::grpc::{limits, pb};
use crate::service::consistency_token::ConsistencyToken;
use crate::service::events::{EventFilter, UserEventFilter};

/// The event types of a filter; `None` for all.
fn types(fields: &mut FieldReader, types: &[String]) -> Result<Option<Vec<EventType>>, InvalidFields> {
    if types.len() > limits::EVENT_TYPES {
        return Err(fields.wrong("types", Invalid::new("at most 20 types")));
    }
    let parsed = types.iter().map(|text| EventType::parse(text)).collect::<Result<Vec<_>, _>>();
    Ok(Some(fields.take("types", parsed)?).filter(|types| !types.is_empty()))
}

/// The input of `ListEvents`.
pub(in crate::grpc) fn list(
    message: &pb::ListEventsRequest,
    fields: &mut FieldReader,
) -> Result<(Page, EventFilter), InvalidFields> {
    let types = types(fields, &message.types);
    let user = fields.optional("user_id", &message.user_id, UserId::parse);
    let type_list = format!("{:?}", message.types);
    let filter = ["events", &message.organization, &type_list, &message.user_id];
    let page = Page::read(fields, message.page_size, &message.page_token, &filter)?;
    let before = page.key(fields, revision)?;
    let limit = page.limit();
    Ok((page, EventFilter { types: types?, user: user?, before, limit }))
}

/// The key of an event in a page token. Revisions start at 1.
fn revision(key: &[u8]) -> Option<i64> {
    <[u8; 8]>::try_from(key).ok().map(i64::from_be_bytes).filter(|revision| *revision > 0)
}

/// The input of `ListUserEvents`.
pub(in crate::grpc) fn list_of_user(
    message: &pb::ListUserEventsRequest,
    fields: &mut FieldReader,
) -> Result<(Page, UserEventFilter), InvalidFields> {
    let user = fields.take("user_id", UserId::parse(&message.user_id));
    let types = types(fields, &message.types);
    let type_list = format!("{:?}", message.types);
    let filter = ["user events", &message.user_id, &type_list];
    let page = Page::read(fields, message.page_size, &message.page_token, &filter)?;
    let before = page.key(fields, revision)?;
    let limit = page.limit();
    Ok((page, UserEventFilter { user: user?, types: types?, before, limit }))
}

/// What an event watch asks for.
pub(in crate::grpc) struct EventWatch {
    pub(in crate::grpc) cursor: Option<ConsistencyToken>,
    pub(in crate::grpc) organization: Option<OrganizationRef>,
    pub(in crate::grpc) kind: Option<Kind>,
    pub(in crate::grpc) types: Option<Vec<EventType>>,
}

/// The input of `WatchEvents`.
pub(in crate::grpc) fn watch(
    message: &pb::WatchEventsRequest,
    fields: &mut FieldReader,
) -> Result<EventWatch, InvalidFields> {
    let cursor = fields.cursor(&message.cursor);
    let organization = fields.optional("organization", &message.organization, OrganizationRef::parse);
    let kind = fields.kind(&message.kind);
    let types = types(fields, &message.types);
    Ok(EventWatch { cursor: cursor?, organization: organization?, kind: kind?, types: types? })
}
