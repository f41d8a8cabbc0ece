//! `WatchEvents`: the change log as events.

use super::pings::WatchPings;
use super::{WatchScope, WatchView};
use crate::domain::event::EventType;
use crate::grpc::admit::stream::StreamSender;
use crate::grpc::decode::event::EventWatch;
use crate::grpc::{convert, pb};
use crate::service::Roster;
use crate::service::change_feed::{LogChange, LogRow};
use prost::Message;
use tonic::Status;

/// Sends the events of a watch, until the stream ends.
pub(in crate::grpc) async fn watch(
    roster: Roster,
    input: EventWatch,
    sender: StreamSender<pb::WatchEventsResponse>,
) -> Result<(), Status> {
    let organization = WatchScope::find(&roster, input.organization.as_ref()).await?;
    let scope = WatchScope { organization, user: None, kind: input.kind };
    let feed = roster.follow(input.cursor.as_ref(), scope.buckets().into_iter()).await?;
    let pings = WatchPings::none(roster.clone());
    let view = EventView { roster, scope, types: input.types, events: Vec::new(), bytes: 0 };
    super::run(feed, pings, view, sender).await
}

/// The next message of an event watch.
struct EventView {
    roster: Roster,
    scope: WatchScope,
    types: Option<Vec<EventType>>,
    events: Vec<pb::Event>,
    bytes: usize,
}

impl WatchView for EventView {
    type Message = pb::WatchEventsResponse;

    async fn add(&mut self, rows: &[LogRow]) -> Result<usize, Status> {
        let in_scope = rows.iter().enumerate().filter(|(_, row)| self.scope.contains(&row.change));
        let (numbers, changes): (Vec<usize>, Vec<&LogChange>) =
            in_scope.map(|(number, row)| (number, &row.change)).unzip();
        if changes.is_empty() {
            return Ok(rows.len());
        }
        let (records, looked_up) = self.roster.events_of(&changes, self.types.as_deref()).await?;
        for record in records {
            let event = convert::event(&record);
            self.bytes += event.encoded_len() + 4;
            self.events.push(event);
        }
        Ok(numbers.get(looked_up).copied().unwrap_or(rows.len()))
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
