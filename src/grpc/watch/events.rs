//! `WatchEvents`: the change log as events.

use super::packing::MessageItems;
use super::pings::WatchPings;
use super::{WatchCheckpoint, WatchScope, WatchView};
use crate::domain::event::EventType;
use crate::domain::ids::MODEL_BUCKET;
use crate::grpc::admit::stream::StreamSender;
use crate::grpc::decode::event::EventWatch;
use crate::grpc::{convert, pb};
use crate::service::Roster;
use crate::service::change_feed::{LogChange, LogRow};
use tonic::Status;

/// Sends the events of a watch, until the stream ends.
pub(in crate::grpc) async fn watch(
    roster: Roster,
    input: EventWatch,
    sender: StreamSender<pb::WatchEventsResponse>,
) -> Result<(), Status> {
    let organization = WatchScope::find(&roster, input.organization.as_ref(), input.cursor.is_some()).await?;
    let scope = WatchScope { organization, user: None, kind: input.kind };
    let model = organization.is_none().then_some(MODEL_BUCKET);
    let feed = roster.follow(input.cursor.as_ref(), scope.buckets().into_iter().chain(model)).await?;
    let pings = WatchPings::none(roster.clone());
    let view = EventView { roster, scope, types: input.types };
    super::run(feed, &[], pings, view, sender).await
}

/// The events of rows of the change log.
struct EventView {
    roster: Roster,
    scope: WatchScope,
    types: Option<Vec<EventType>>,
}

impl WatchView for EventView {
    type Item = pb::Event;
    type Message = pb::WatchEventsResponse;

    async fn items(&self, rows: &[LogRow]) -> Result<(Vec<(usize, pb::Event)>, usize), Status> {
        let in_scope = rows.iter().enumerate().filter(|(_, row)| self.scope.contains(&row.change));
        let (numbers, changes): (Vec<usize>, Vec<&LogChange>) =
            in_scope.map(|(number, row)| (number, &row.change)).unzip();
        if changes.is_empty() {
            return Ok((Vec::new(), rows.len()));
        }
        let (records, looked_up) = self.roster.events_of(&changes, self.types.as_deref()).await?;
        let row = |change: usize| numbers.get(change).copied().unwrap_or(rows.len());
        let items = records.iter().map(|(change, record)| (row(*change), convert::event(record))).collect();
        Ok((items, row(looked_up)))
    }

    fn message(
        MessageItems { items, continued }: MessageItems<pb::Event>,
        checkpoint: WatchCheckpoint,
    ) -> Self::Message {
        let cursor = checkpoint.map(|checkpoint| checkpoint.cursor).unwrap_or_default();
        pb::WatchEventsResponse { events: items, cursor, continued }
    }
}
