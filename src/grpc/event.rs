//! `EventService`: decode, call, encode.

use super::admit::sealed::Sealed;
use super::admit::stream::Pushed;
use super::admit::{Api, answer, read};
use super::decode::{Fields, Wrong};
use super::page::Page;
use super::pb::event_service_server::EventService;
use super::{convert, pb};
use crate::domain::event::EventType;
use crate::domain::{Invalid, UserId, limits};
use crate::service::events::EventFilter;
use tonic::{Request, Response, Status, async_trait};

/// Reads the types that a filter asks for; none for all.
fn types(fields: &mut Fields, given: &[String]) -> Result<Option<Vec<EventType>>, Wrong> {
    if given.len() > limits::EVENT_TYPES {
        return Err(fields.wrong("types", Invalid::new("at most 20 types")));
    }
    let known = given.iter().map(|text| EventType::parse(text)).collect::<Result<Vec<_>, _>>();
    Ok(Some(fields.take("types", known)?).filter(|known| !known.is_empty()))
}

fn list(message: &pb::ListEventsRequest, fields: &mut Fields) -> Result<(Page, EventFilter), Wrong> {
    let types = types(fields, &message.types);
    let user = fields.optional("user_id", &message.user_id, UserId::parse);
    let told = format!("{:?}", message.types);
    let filter = ["events", &message.organization, &told, &message.user_id];
    let page = Page::read(fields, message.page_size, &message.page_token, &filter)?;
    let before = page.after.as_ref().map(|key| {
        // What no revision can be was not made here.
        let revision = <[u8; 8]>::try_from(&key[..]).ok().map(i64::from_be_bytes).filter(|revision| *revision > 0);
        fields.take("page_token", revision.ok_or_else(|| Invalid::new("not a page_token of this request")))
    });
    let (before, limit) = (before.transpose()?, page.limit());
    Ok((page, EventFilter { types: types?, user: user?, before, limit }))
}

#[async_trait]
impl EventService for Api {
    async fn list_events(
        &self,
        request: Request<Sealed<pb::ListEventsRequest>>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let (page, filter) = read(|fields| list(&message, fields))?;
        let found = self.roster().list_events(&access, &filter).await?;
        let (events, next_page_token) = page.show(&found, convert::event, |last| last.revision.to_be_bytes().to_vec());
        answer(pb::ListEventsResponse { events, next_page_token })
    }

    type WatchEventsStream = Pushed<pb::WatchEventsResponse>;

    async fn watch_events(
        &self,
        _: Request<Sealed<pb::WatchEventsRequest>>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        Err(super::status::unknown_method())
    }
}
