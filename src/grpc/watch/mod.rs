//! Watches: the parts that membership watches and event watches share.
//!
//! A watch sends the change log in messages of bounded size, and at least once a second a checkpoint: the cursor from which
//! a later watch continues. A message has whole transactions, unless the events of one are too large for it.

pub(super) mod events;
pub(super) mod memberships;
mod pings;

use super::admit::stream::StreamSender;
use super::status;
use crate::domain::{Kind, OrganizationId, OrganizationRef, Refusal, UserId};
use crate::grpc::limits;
use crate::service::Roster;
use crate::service::change_feed::{ChangeFeed, LogChange, LogRow};
use pings::WatchPings;
use std::future::Future;
use std::ops::Range;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// Builds the messages of a watch from rows of the change log.
trait WatchView: Send {
    /// The message type of the stream.
    type Message: prost::Message;

    /// Adds rows, whole transactions, to the next message. Returns how many rows it took: fewer than all, and at least one,
    /// if what they stand for is large.
    fn add(&mut self, rows: &[LogRow]) -> impl Future<Output = Result<usize, Status>> + Send;

    /// The size of the next message, in bytes.
    fn bytes(&self) -> usize;

    /// Takes the next message, with a checkpoint or without: a cursor, and the ping that it answers (0 for none).
    fn message(&mut self, checkpoint: Option<(String, i64)>) -> Self::Message;
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
    /// Finds the organization that a request names; `None` if it names none.
    async fn find(roster: &Roster, name: Option<&OrganizationRef>) -> Result<Option<OrganizationId>, Status> {
        let Some(name) = name else { return Ok(None) };
        let id = roster.find_organization(name).await?;
        Ok(Some(id.ok_or_else(|| status::refused(&Refusal::OrganizationNotFound))?))
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
            LogChange::Unknown => false,
        }
    }
}

/// Sends messages until the stream ends.
async fn run<V: WatchView>(
    mut feed: ChangeFeed,
    mut pings: WatchPings,
    view: V,
    sender: StreamSender<V::Message>,
) -> Result<(), Status> {
    let mut writer = WatchWriter { view, sender, due: Instant::now(), answered: 0 };
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
                    next = if writer.is_full() { None } else { feed.try_next()? };
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
    /// The time of the next checkpoint.
    due: Instant,
    /// The ping that the next checkpoint answers; 0 for none.
    answered: i64,
}

impl<V: WatchView> WatchWriter<V> {
    /// Adds whole transactions to the next message, and sends it early if it gets too large.
    async fn write(&mut self, rows: &[LogRow]) -> Result<(), Status> {
        let mut rest = rows;
        while !rest.is_empty() {
            // A piece ends with a transaction.
            let end = rest
                .iter()
                .enumerate()
                .find(|(index, row)| *index + 1 >= limits::WATCH_ROWS && row.at.position == row.commit_position);
            let (mut piece, others) = rest.split_at(end.map_or(rest.len(), |(index, _)| index + 1));
            while !piece.is_empty() {
                if self.is_full() {
                    self.sender.send(self.view.message(None)).await?;
                }
                let taken = self.view.add(piece).await?;
                piece = piece.get(taken..).unwrap_or_default();
            }
            rest = others;
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.view.bytes() >= limits::CHUNK_BYTES
    }

    /// Sends the next message, if it has content, with a checkpoint if one is due or a ping can be answered.
    async fn send(&mut self, feed: &ChangeFeed) -> Result<(), Status> {
        if self.due <= Instant::now() || (self.answered != 0 && !feed.is_behind()) {
            return self.checkpoint(feed).await;
        }
        if self.view.bytes() > 0 { self.sender.send(self.view.message(None)).await } else { Ok(()) }
    }

    /// Sends the next message with a checkpoint. A ping is not answered before the log is read to its end.
    async fn checkpoint(&mut self, feed: &ChangeFeed) -> Result<(), Status> {
        let cursor = feed.cursor()?.encode();
        self.due = Instant::now() + limits::CHECKPOINT;
        let ping = if feed.is_behind() { 0 } else { std::mem::take(&mut self.answered) };
        self.sender.send(self.view.message(Some((cursor, ping)))).await
    }
}
