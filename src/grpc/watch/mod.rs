//! What all watches have in common: they tell what the log says, in messages of bounded size, never half of a write, and
//! at least once a second how far they have come.

pub(super) mod memberships;

use super::admit::stream::{RequestStream, StreamSender};
use super::pb;
use super::status;
use crate::domain::{Kind, OrganizationId, OrganizationRef, Refusal, UserId};
use crate::grpc::limits;
use crate::service::Roster;
use crate::service::change_feed::{ChangeFeed, LogChange, LogRow};
use std::future::{Future, pending};
use std::ops::Range;
use std::pin::Pin;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// What a watch makes of the log.
pub(super) trait WatchView: Send {
    /// What its messages are.
    type Message: Send;

    /// Adds what rows say, whole transactions, to the message in the making.
    fn add(&mut self, rows: &[LogRow]) -> impl Future<Output = Result<(), Status>> + Send;

    /// How large the message in the making is, in bytes.
    fn bytes(&self) -> usize;

    /// The message, to be sent, with a checkpoint or without: a cursor, and the ping that it answers.
    fn message(&mut self, checkpoint: Option<(String, i64)>) -> Self::Message;
}

/// What of the log is watched.
#[derive(Debug, Clone, Default)]
pub(super) struct WatchScope {
    /// Only this organization.
    pub(super) organization: Option<OrganizationId>,
    /// Only this user.
    pub(super) user: Option<UserId>,
    /// Only organizations of this kind.
    pub(super) kind: Option<Kind>,
}

/// The buckets of organizations, and those of users behind them.
const ORGANIZATIONS: Range<i16> = 0..crate::domain::ids::ORGANIZATION_BUCKETS;

impl WatchScope {
    /// Finds the organization that a request names, if it names one.
    pub(super) async fn find(
        roster: &Roster,
        named: Option<&OrganizationRef>,
    ) -> Result<Option<OrganizationId>, Status> {
        let Some(named) = named else { return Ok(None) };
        let found = roster.find_organization(named).await?;
        Ok(Some(found.ok_or_else(|| status::refused(&Refusal::OrganizationNotFound))?))
    }

    /// The buckets that have to be followed for it.
    pub(super) fn buckets(&self) -> Vec<i16> {
        let users = ORGANIZATIONS.end..ORGANIZATIONS.end + crate::domain::ids::USER_BUCKETS;
        match (self.organization, &self.user) {
            (Some(organization), _) => vec![organization.bucket()],
            (None, Some(user)) => ORGANIZATIONS.chain([users.start + user.bucket()]).collect(),
            (None, None) => ORGANIZATIONS.chain(users).collect(),
        }
    }

    /// Whether it has this in it, going by where it happened: whom it is about is for the view to say.
    pub(super) fn holds(&self, change: &LogChange) -> bool {
        match change {
            LogChange::Organization(line) => {
                self.organization.is_none_or(|only| line.organization == only)
                    && self.kind.as_ref().is_none_or(|only| line.kind == *only)
            }
            LogChange::User { user, .. } => {
                self.organization.is_none() && self.user.as_ref().is_none_or(|only| user == only)
            }
        }
    }
}

/// Tells, until something ends it.
pub(super) async fn run<V: WatchView>(
    mut feed: ChangeFeed,
    mut pings: WatchPings,
    view: V,
    out: StreamSender<V::Message>,
) -> Result<(), Status> {
    let mut teller = WatchWriter { view, out, due: Instant::now(), answered: 0 };
    // Where it begins, so that a stream that breaks off at once has not been in vain; after a look at the log, where that
    // has to tell first whether it still reaches so far.
    if !feed.is_behind() {
        teller.checkpoint(&feed).await?;
    }
    loop {
        if feed.is_behind() {
            if let Some(rows) = feed.catch_up().await? {
                teller.tell(&rows).await?;
            }
            teller.send(&feed).await?;
            continue;
        }
        tokio::select! {
            rows = feed.next() => {
                let mut next = rows?;
                while let Some(rows) = next {
                    teller.tell(&rows).await?;
                    next = if teller.is_full() { None } else { feed.try_next()? };
                }
                teller.send(&feed).await?;
            }
            ping = pings.answered() => {
                teller.answered = ping?;
                // What it covers is in the feed by now, and the checkpoint goes out behind it.
                while let Some(rows) = feed.try_next()? {
                    teller.tell(&rows).await?;
                }
                teller.send(&feed).await?;
            }
            () = sleep_until(teller.due) => teller.checkpoint(&feed).await?,
        }
    }
}

/// Tells a caller.
struct WatchWriter<V: WatchView> {
    view: V,
    out: StreamSender<V::Message>,
    /// When the next checkpoint is due.
    due: Instant,
    /// The ping that it answers; 0 for none.
    answered: i64,
}

impl<V: WatchView> WatchWriter<V> {
    /// Adds whole transactions to the message in the making, and sends it on the way if it gets too large.
    async fn tell(&mut self, rows: &[LogRow]) -> Result<(), Status> {
        let mut rest = rows;
        while !rest.is_empty() {
            // To the end of a transaction.
            let enough = rest
                .iter()
                .enumerate()
                .find(|(replica, row)| *replica + 1 >= limits::WATCH_ROWS && row.at.position == row.commit_position);
            let (piece, others) = rest.split_at(enough.map_or(rest.len(), |(replica, _)| replica + 1));
            if self.is_full() {
                self.out.send(self.view.message(None)).await?;
            }
            self.view.add(piece).await?;
            rest = others;
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.view.bytes() >= limits::CHUNK_BYTES
    }

    /// Sends what there is to say, with a checkpoint if one is due or a ping can be answered.
    async fn send(&mut self, feed: &ChangeFeed) -> Result<(), Status> {
        if self.due <= Instant::now() || (self.answered != 0 && !feed.is_behind()) {
            return self.checkpoint(feed).await;
        }
        if self.view.bytes() > 0 { self.out.send(self.view.message(None)).await } else { Ok(()) }
    }

    /// Sends how far it has come, with what there is to say. A ping is not answered before the log is read to its end.
    async fn checkpoint(&mut self, feed: &ChangeFeed) -> Result<(), Status> {
        let cursor = feed.cursor()?.encode();
        self.due = Instant::now() + limits::CHECKPOINT;
        let ping = if feed.is_behind() { 0 } else { std::mem::take(&mut self.answered) };
        let checkpoint = (cursor, ping);
        self.out.send(self.view.message(Some(checkpoint))).await
    }
}

/// The pings of a caller, each of which is answered when everything is in the feed that was acknowledged before it came.
pub(super) struct WatchPings {
    roster: Roster,
    /// None once the caller has said all, and for a watch that is not pinged.
    requests: Option<RequestStream<pb::WatchMembershipsRequest>>,
    /// The latest that came and is not looked after yet.
    asked: Option<i64>,
    /// The one that is looked after.
    waiting: Option<(i64, CatchUpFuture)>,
}

type CatchUpFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

impl WatchPings {
    /// None will come.
    pub(super) fn none(roster: Roster) -> Self {
        Self { roster, requests: None, asked: None, waiting: None }
    }

    /// This one has come (0: none has), and more may.
    pub(super) fn new(roster: Roster, first: i64, requests: RequestStream<pb::WatchMembershipsRequest>) -> Self {
        Self { roster, requests: Some(requests), asked: Some(first).filter(|ping| *ping != 0), waiting: None }
    }

    /// Waits for the next that can be answered. Whoever stops waiting loses nothing.
    async fn answered(&mut self) -> Result<i64, Status> {
        loop {
            if self.waiting.is_none()
                && let Some(ping) = self.asked.take()
            {
                let roster = self.roster.clone();
                self.waiting = Some((ping, Box::pin(async move { roster.caught_up().await })));
            }
            let caught_up = async {
                match &mut self.waiting {
                    Some((_, caught_up)) => caught_up.await,
                    None => pending().await,
                }
            };
            let request = async {
                match &mut self.requests {
                    Some(requests) => requests.next().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = caught_up => {
                    if let Some((ping, _)) = self.waiting.take() {
                        return Ok(ping);
                    }
                }
                request = request => match request? {
                    Some(request) => self.asked = Some(ping(&request)?).filter(|ping| *ping != 0).or(self.asked),
                    None => self.requests = None,
                },
            }
        }
    }
}

/// Reads a later message: it only pings.
fn ping(request: &pb::WatchMembershipsRequest) -> Result<i64, Status> {
    super::admit::read(|fields| {
        let pb::WatchMembershipsRequest { cursor, organization, user_id, kind, ping } = request;
        let texts = [("cursor", cursor), ("organization", organization), ("user_id", user_id), ("kind", kind)];
        let mut read = Ok(*ping);
        for (name, _) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            read = Err(fields.wrong(name, crate::domain::Invalid::new("only the first message says what to watch")));
        }
        read
    })
}
