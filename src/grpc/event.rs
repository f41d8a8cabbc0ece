//! `EventService`: decode, call, encode.

use super::admit::sealed::Sealed;
use super::admit::stream::{PushStream, StreamSender};
use super::admit::{Api, answer, read};
use super::decode::{FieldReader, InvalidFields};
use super::page::Page;
use super::pb::event_service_server::EventService;
use super::watch::{self, WatchPings, WatchScope, WatchView};
use super::{convert, pb};
use crate::domain::event::EventType;
use crate::domain::{Invalid, Kind, OrganizationRef, UserId};
use crate::grpc::limits;
use crate::service::Roster;
use crate::service::change_feed::{LogChange, LogRow};
use crate::service::consistency_token::ConsistencyToken;
use crate::service::events::EventFilter;
use prost::Message;
use tonic::{Request, Response, Status, async_trait};

/// Reads the types that a filter asks for; none for all.
fn types(fields: &mut FieldReader, given: &[String]) -> Result<Option<Vec<EventType>>, InvalidFields> {
    if given.len() > limits::EVENT_TYPES {
        return Err(fields.wrong("types", Invalid::new("at most 20 types")));
    }
    let known = given.iter().map(|text| EventType::parse(text)).collect::<Result<Vec<_>, _>>();
    Ok(Some(fields.take("types", known)?).filter(|known| !known.is_empty()))
}

fn list(message: &pb::ListEventsRequest, fields: &mut FieldReader) -> Result<(Page, EventFilter), InvalidFields> {
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

/// What a watch asks for.
struct EventWatch {
    cursor: Option<ConsistencyToken>,
    organization: Option<OrganizationRef>,
    kind: Option<Kind>,
    types: Option<Vec<EventType>>,
}

fn input(message: &pb::WatchEventsRequest, fields: &mut FieldReader) -> Result<EventWatch, InvalidFields> {
    let cursor = fields.cursor(&message.cursor);
    let organization = fields.optional("organization", &message.organization, OrganizationRef::parse);
    let kind = fields.kind(&message.kind);
    let types = types(fields, &message.types);
    Ok(EventWatch { cursor: cursor?, organization: organization?, kind: kind?, types: types? })
}

async fn watch(roster: Roster, input: EventWatch, out: StreamSender<pb::WatchEventsResponse>) -> Result<(), Status> {
    let organization = WatchScope::find(&roster, input.organization.as_ref()).await?;
    let scope = WatchScope { organization, user: None, kind: input.kind };
    let feed = roster.follow(input.cursor.as_ref(), scope.buckets().into_iter()).await?;
    let pings = WatchPings::none(roster.clone());
    let view = EventView { roster, scope, types: input.types, events: Vec::new(), bytes: 0 };
    watch::run(feed, pings, view, out).await
}

/// A message in the making.
struct EventView {
    roster: Roster,
    scope: WatchScope,
    types: Option<Vec<EventType>>,
    events: Vec<pb::Event>,
    bytes: usize,
}

impl WatchView for EventView {
    type Message = pb::WatchEventsResponse;

    async fn add(&mut self, rows: &[LogRow]) -> Result<(), Status> {
        let held: Vec<&LogChange> =
            rows.iter().map(|row| &row.change).filter(|change| self.scope.holds(change)).collect();
        if held.is_empty() {
            return Ok(());
        }
        for recorded in self.roster.events_of(&held, self.types.as_deref()).await? {
            let event = convert::event(&recorded);
            self.bytes += event.encoded_len() + 4;
            self.events.push(event);
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn message(&mut self, checkpoint: Option<(String, i64)>) -> pb::WatchEventsResponse {
        self.bytes = 0;
        let cursor = checkpoint.map(|(cursor, _)| cursor).unwrap_or_default();
        pb::WatchEventsResponse { events: std::mem::take(&mut self.events), cursor }
    }
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

    type WatchEventsStream = PushStream<pb::WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<Sealed<pb::WatchEventsRequest>>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let (message, leave) = self.admit_stream(request).await?;
        let input = read(|fields| input(&message, fields))?;
        let roster = self.roster().clone();
        answer(leave.push(|out| watch(roster, input, out)))
    }
}
