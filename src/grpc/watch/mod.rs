//! Watches: the parts that membership watches and event watches share.
//!
//! A watch sends the change log in messages of bounded size, and at least once a second a checkpoint: the cursor from which
//! a later watch continues. A message has whole writes; a write is the rows of one transaction in one bucket. A write that
//! is too large for one message is sent in parts ([`packing`]), and no checkpoint is between them.

pub(super) mod events;
pub(super) mod memberships;
mod packing;
mod pings;

use super::admit::stream::{BudgetCharge, StreamSender};
use super::status;
use crate::domain::{Kind, OrganizationId, OrganizationRef, Refusal, UserId};
use crate::grpc::limits;
use crate::service::Roster;
use crate::service::change_feed::{ChangeFeed, LogChange, LogRow};
use packing::{MessageItems, MessagePacker};
use pings::WatchPings;
use std::future::Future;
use std::ops::Range;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// A checkpoint; `None` for a message without one.
type WatchCheckpoint = Option<CheckpointParts>;

/// The content of a checkpoint.
struct CheckpointParts {
    cursor: String,
    /// The ping that it answers; 0 for none.
    ping: i64,
    /// Whether the access model changes what `admin` or `member` hold.
    built_in_roles_changed: bool,
}

/// Items, each with the index of its row, and the number of rows that they stand for.
type RowItems<T> = (Vec<(usize, T)>, usize);

/// Builds the messages of a watch from rows of the change log.
trait WatchView: Send {
    /// The type of the items in a message.
    type Item: prost::Message;
    /// The message type of the stream.
    type Message: prost::Message;

    /// The items of rows, in order and each with the index of its row, and the number of rows that they stand for: fewer
    /// than all, and at least one, if the items are large.
    fn items(&self, rows: &[LogRow]) -> impl Future<Output = Result<RowItems<Self::Item>, Status>> + Send;

    /// The message with these items.
    fn message(items: MessageItems<Self::Item>, checkpoint: WatchCheckpoint) -> Self::Message;
}

/// The part of the change log that a watch covers.
#[derive(Debug, Clone, Default)]
struct WatchScope {
    /// Only this organization.
    organization: Option<OrganizationId>,
    /// Only this user.
    user: Option<UserId>,
    /// Only organizations of this kind.
    kind: Option<Kind>,
}

/// The numbers of the organization buckets. The user buckets follow them.
const ORGANIZATIONS: Range<i16> = 0..crate::domain::ids::ORGANIZATION_BUCKETS;

impl WatchScope {
    /// Finds the organization that a request names; `None` if it names none. A watch that continues from a cursor also
    /// finds a purged organization by its id: the purge may come after the cursor.
    async fn find(
        roster: &Roster,
        name: Option<&OrganizationRef>,
        continues: bool,
    ) -> Result<Option<OrganizationId>, Status> {
        let Some(name) = name else { return Ok(None) };
        if let Some(id) = roster.find_organization(name).await? {
            return Ok(Some(id));
        }
        match name {
            OrganizationRef::Id(id) if continues && roster.was_purged(*id).await? => Ok(Some(*id)),
            OrganizationRef::Id(_) | OrganizationRef::Slug(_) => Err(status::refused(&Refusal::OrganizationNotFound)),
        }
    }

    /// The buckets that a watch of this scope follows.
    fn buckets(&self) -> Vec<i16> {
        let users = ORGANIZATIONS.end..ORGANIZATIONS.end + crate::domain::ids::USER_BUCKETS;
        match (self.organization, &self.user) {
            (Some(organization), _) => vec![organization.bucket()],
            (None, Some(user)) => ORGANIZATIONS.chain([users.start + user.bucket()]).collect(),
            (None, None) => ORGANIZATIONS.chain(users).collect(),
        }
    }

    /// Whether a change is in the scope, by its organization and kind. A membership's user is compared by the view.
    fn contains(&self, change: &LogChange) -> bool {
        match change {
            LogChange::Organization(entry) => {
                self.organization.is_none_or(|only| entry.organization == only)
                    && self.kind.as_ref().is_none_or(|only| entry.kind == *only)
            }
            LogChange::User { user, .. } => {
                self.organization.is_none() && self.user.as_ref().is_none_or(|only| user == only)
            }
            LogChange::Model { .. } => self.organization.is_none() && self.user.is_none(),
            LogChange::Unknown => false,
        }
    }
}

/// Sends messages until the stream ends, the first ones with these rows.
async fn run<V: WatchView>(
    mut feed: ChangeFeed,
    first: &[LogRow],
    mut pings: WatchPings,
    view: V,
    sender: StreamSender<V::Message>,
) -> Result<(), Status> {
    let mut writer = WatchWriter {
        view,
        sender,
        packer: MessagePacker::new(),
        charge: None,
        is_inside: false,
        due: Instant::now(),
        answered: 0,
    };
    writer.write(first).await?;
    // The first checkpoint says where the watch starts, so that a stream that breaks off at once can be resumed. A watch
    // that starts behind the feed first has to learn whether the log still reaches back to its cursor.
    if !feed.is_behind() {
        writer.checkpoint(&feed).await?;
    }
    loop {
        if feed.is_behind() {
            if let Some(rows) = feed.catch_up().await? {
                writer.write(&rows).await?;
            }
            writer.send(&feed).await?;
            continue;
        }
        tokio::select! {
            rows = feed.next() => {
                let mut next = rows?;
                while let Some(rows) = next {
                    writer.write(&rows).await?;
                    next = if writer.is_due() { None } else { feed.try_next()? };
                }
                writer.send(&feed).await?;
            }
            ping = pings.next() => {
                writer.answered = ping?;
                // Everything that the ping covers is in the feed by now: the checkpoint goes out behind it.
                while let Some(rows) = feed.try_next()? {
                    writer.write(&rows).await?;
                }
                writer.send(&feed).await?;
            }
            () = sleep_until(writer.due) => writer.checkpoint(&feed).await?,
        }
    }
}

/// Writes the messages of one watch.
struct WatchWriter<V: WatchView> {
    view: V,
    sender: StreamSender<V::Message>,
    /// The next message.
    packer: MessagePacker<V::Item>,
    /// The charge of the next message, if it is larger than usual.
    charge: Option<BudgetCharge>,
    /// Whether the rows so far end inside a write.
    is_inside: bool,
    /// The time of the next checkpoint.
    due: Instant,
    /// The ping that the next checkpoint answers; 0 for none.
    answered: i64,
}

impl<V: WatchView> WatchWriter<V> {
    /// Adds rows to the next message, and sends it early if it gets too large.
    async fn write(&mut self, rows: &[LogRow]) -> Result<(), Status> {
        let mut rest = rows;
        while !rest.is_empty() {
            let piece = rest.get(..limits::WATCH_ROWS).unwrap_or(rest);
            let (items, taken) = self.view.items(piece).await?;
            let (piece, others) = rest.split_at(taken);
            let mut items = items.into_iter().peekable();
            for (index, row) in piece.iter().enumerate() {
                while let Some((_, item)) = items.next_if(|(number, _)| *number == index) {
                    self.add(item).await?;
                }
                self.is_inside = row.at.position != row.commit_position;
                if !self.is_inside
                    && let Some(message) = self.packer.end_write()
                {
                    self.send_items(message, None).await?;
                }
            }
            rest = others;
        }
        Ok(())
    }

    /// Adds an item to the next message. A message that gets larger than usual is charged while it is made: what all
    /// streams hold of such messages is bounded.
    async fn add(&mut self, item: V::Item) -> Result<(), Status> {
        if let Some(message) = self.packer.push(item) {
            self.send_items(message, None).await?;
        }
        if self.charge.is_none() && self.packer.bytes() > limits::CHUNK_BYTES {
            self.charge = Some(self.sender.charge(limits::PAGE_BYTES).await?);
        }
        Ok(())
    }

    async fn send_items(&mut self, items: MessageItems<V::Item>, checkpoint: WatchCheckpoint) -> Result<(), Status> {
        let message = V::message(items, checkpoint);
        match self.charge.take() {
            Some(charge) => self.sender.send_charged(charge, message).await,
            None => self.sender.send(message).await,
        }
    }

    fn is_due(&self) -> bool {
        self.due <= Instant::now()
    }

    /// Sends the next message, if it has content, with a checkpoint if one is due or a ping can be answered. Waits for the
    /// rest of a write that has begun.
    async fn send(&mut self, feed: &ChangeFeed) -> Result<(), Status> {
        if self.is_inside {
            return Ok(());
        }
        if self.is_due() || (self.answered != 0 && !feed.is_behind()) {
            return self.checkpoint(feed).await;
        }
        if self.packer.bytes() == 0 {
            return Ok(());
        }
        let items = self.packer.take();
        self.send_items(items, None).await
    }

    /// Sends the next message with a checkpoint, between two writes. A ping is not answered before the log is read to its
    /// end.
    async fn checkpoint(&mut self, feed: &ChangeFeed) -> Result<(), Status> {
        let cursor = feed.cursor()?.encode();
        self.due = Instant::now() + limits::CHECKPOINT;
        let ping = if feed.is_behind() { 0 } else { std::mem::take(&mut self.answered) };
        let built_in_roles_changed = feed.roles().changes_built_in_roles();
        let items = self.packer.take();
        self.send_items(items, Some(CheckpointParts { cursor, ping, built_in_roles_changed })).await
    }
}
