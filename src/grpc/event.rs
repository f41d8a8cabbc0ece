//! `EventService`: decode, call, encode.

use super::admit::sealed::Sealed;
use super::admit::stream::{Out, Pushed};
use super::admit::{Api, answer, read};
use super::decode::{Fields, Wrong};
use super::page::Page;
use super::pb::event_service_server::EventService;
use super::watch::{self, Pings, Scope, View};
use super::{convert, pb};
use crate::domain::event::EventType;
use crate::domain::{Invalid, Kind, OrganizationRef, UserId, limits};
use crate::service::Roster;
use crate::service::events::EventFilter;
use crate::service::follow::{Change, Logged};
use crate::service::token::Token;
use prost::Message;
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

/// What a watch asks for.
struct Wish {
    cursor: Option<Token>,
    organization: Option<OrganizationRef>,
    kind: Option<Kind>,
    types: Option<Vec<EventType>>,
}

fn wish(message: &pb::WatchEventsRequest, fields: &mut Fields) -> Result<Wish, Wrong> {
    let cursor = fields.cursor(&message.cursor);
    let organization = fields.optional("organization", &message.organization, OrganizationRef::parse);
    let kind = fields.kind(&message.kind);
    let types = types(fields, &message.types);
    Ok(Wish { cursor: cursor?, organization: organization?, kind: kind?, types: types? })
}

async fn watch(roster: Roster, wish: Wish, out: Out<pb::WatchEventsResponse>) -> Result<(), Status> {
    let organization = Scope::find(&roster, wish.organization.as_ref()).await?;
    let scope = Scope { organization, user: None, kind: wish.kind };
    let following = roster.follow(wish.cursor.as_ref(), scope.buckets().into_iter()).await?;
    let pings = Pings::none(roster.clone());
    let view = Happened { roster, scope, types: wish.types, events: Vec::new(), bytes: 0 };
    watch::run(following, pings, view, out).await
}

/// A message in the making.
struct Happened {
    roster: Roster,
    scope: Scope,
    types: Option<Vec<EventType>>,
    events: Vec<pb::Event>,
    bytes: usize,
}

impl View for Happened {
    type Message = pb::WatchEventsResponse;

    async fn add(&mut self, rows: &[Logged]) -> Result<(), Status> {
        let held: Vec<&Change> = rows.iter().map(|row| &row.what).filter(|what| self.scope.holds(what)).collect();
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

    type WatchEventsStream = Pushed<pb::WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<Sealed<pb::WatchEventsRequest>>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let (message, leave) = self.admit_stream(request).await?;
        let wish = read(|fields| wish(&message, fields))?;
        let roster = self.roster().clone();
        answer(leave.push(|out| watch(roster, wish, out)))
    }
}
