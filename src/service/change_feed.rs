//! Change feeds: the changes of some buckets for one caller, from a cursor or from now, without gaps in any bucket.
//!
//! Recent changes come from the follower's broadcast. Changes that the broadcast does not have, because they are older
//! or because the follower skipped them, are read from the change log. Positions decide between the two, so every
//! change is delivered exactly once, unless the caller resumes from an older cursor.
//!
//! A feed stays in one history of the log. Each position has the mark of its row, and wherever the feed continues, from a
//! cursor, from the change log or from the broadcast, the row at its position must still have that mark.

use super::consistency_token::{ConsistencyToken, TokenForm};
use super::{Freshness, Roster, ServiceError};
use crate::domain::ids::MODEL_BUCKET;
use crate::domain::{BucketPosition, LogMark, OrganizationId, OrganizationRef, Refusal, RoleTable, UserId};
use crate::replica::{Commits, Feed, Replica};
use crate::service::limits;
use crate::store::datastore::{self, Datastore};
use crate::store::log::history::{self, LogEvidence};
use crate::store::log::tail::LogPosition;
use crate::store::log::{replay, tail};
use crate::store::pool::Pool;
use crate::store::{StoreError, access_model, events, in_time};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

pub use crate::store::log::tail::{LogChange, LogRow};

/// Rows of one bucket, in the order of its change log.
#[derive(Debug, Clone)]
pub enum FeedRows {
    /// From the broadcast: the rows of the commits from this index on. They end with a transaction.
    Broadcast(Arc<Commits>, usize),
    /// From the change log. They may end inside a transaction, which then goes on with the next rows.
    Replay(Vec<LogRow>),
}

impl Deref for FeedRows {
    type Target = [LogRow];

    fn deref(&self) -> &[LogRow] {
        match self {
            Self::Broadcast(commits, from) => commits.rows.get(*from..).unwrap_or_default(),
            Self::Replay(rows) => rows,
        }
    }
}

/// A position in the log of one bucket.
#[derive(Debug, Clone, Copy)]
struct FeedPosition {
    position: i64,
    /// The mark of the row there; `None` if a cursor without marks names a row that the log no longer has.
    mark: Option<LogMark>,
}

impl FeedPosition {
    fn of(at: &LogPosition) -> Self {
        Self { position: at.position, mark: Some(at.mark()) }
    }

    /// Whether a row with this mark at the position is of the same history.
    fn matches(&self, mark: LogMark) -> bool {
        self.mark.is_none_or(|own| own == mark)
    }
}

/// The state of one caller's way through the change log.
pub struct ChangeFeed {
    pool: Pool,
    replica: Replica,
    feed: Feed,
    datastore: Datastore,
    /// The position in each bucket up to which rows were delivered. Other buckets are not part of the feed.
    positions: BTreeMap<i16, FeedPosition>,
    /// Buckets that must be read from the change log, each with the position up to which.
    targets: BTreeMap<i16, i64>,
    /// Whether the ends of the buckets' logs must be read first, because the broadcast lost messages.
    heads_unknown: bool,
    /// Whether a lag of the broadcast is not the caller's fault, because the feed was reading the change log.
    lag_excused: bool,
    /// Whether the feed has the changes of the access model, and its cursor did not cover the model.
    lacks_model: bool,
}

impl Roster {
    /// Opens a change feed of these buckets from a cursor, or from now. The numbers of users' buckets follow those of
    /// organizations' buckets.
    ///
    /// # Errors
    /// `CURSOR_EXPIRED`; `INVALID_REQUEST` if the cursor does not cover all of the buckets, except that of the access model;
    /// if the datastore does not answer.
    pub async fn follow(
        &self,
        from: Option<&ConsistencyToken>,
        buckets: impl Iterator<Item = i16>,
    ) -> Result<ChangeFeed, ServiceError> {
        // Subscribe first: then every commit after the heads are read is in the broadcast.
        let feed = self.replica.feed();
        let mut connection = self.pool.acquire_read().await?;
        let outcome = self.start_positions(&mut connection, from, buckets).await;
        let FeedStart { datastore, heads, positions, lacks_model } = connection.finish(outcome)?;
        let mut feed = ChangeFeed {
            pool: self.pool.clone(),
            replica: self.replica.clone(),
            feed,
            datastore,
            positions,
            targets: BTreeMap::new(),
            heads_unknown: false,
            lag_excused: true,
            lacks_model,
        };
        feed.compare(&heads)?;
        Ok(feed)
    }

    /// The positions from which a feed of these buckets starts: those of the cursor, or the ends of the logs. Verifies that
    /// the log has the rows that the cursor names.
    async fn start_positions(
        &self,
        connection: &mut PgConnection,
        from: Option<&ConsistencyToken>,
        buckets: impl Iterator<Item = i16>,
    ) -> Result<FeedStart, ServiceError> {
        let (datastore, heads) = in_time(limits::LOG_READ, read_heads(connection)).await?;
        let mut start = FeedStart { datastore, heads, positions: BTreeMap::new(), lacks_model: false };
        let Some(cursor) = from else {
            let head = |bucket| Some((bucket, FeedPosition::of(start.heads.get(&bucket)?)));
            start.positions = buckets.filter_map(head).collect();
            start.lacks_model = start.positions.contains_key(&MODEL_BUCKET);
            return Ok(start);
        };
        if !cursor.is_of(datastore) {
            return Err(Refusal::CursorExpired.into());
        }
        let covered: BTreeMap<i16, BucketPosition> = cursor.positions().map(|at| (at.bucket, at)).collect();
        let mut unconfirmed = Vec::new();
        for bucket in buckets {
            let Some(at) = covered.get(&bucket).copied() else {
                // A cursor of a release without access models, or of a watch without them: watched from now on.
                match start.heads.get(&bucket).filter(|_| bucket == MODEL_BUCKET) {
                    Some(head) => start.positions.insert(bucket, FeedPosition::of(head)),
                    None => return Err(cursor_too_narrow().into()),
                };
                start.lacks_model = true;
                continue;
            };
            let mark = Some(at.mark).filter(|_| cursor.has_marks());
            start.positions.insert(bucket, FeedPosition { position: at.position, mark });
            let head = start.heads.get(&bucket).map(|head| head.in_bucket(bucket));
            if !head.is_some_and(|head| cursor.has_marks() && self.replica.confirms(head, at)) {
                unconfirmed.push(at);
            }
        }
        let history = in_time(limits::LOG_READ, history::read(connection, &unconfirmed)).await?;
        for (bucket, at) in &mut start.positions {
            match history.at(*bucket, at.position) {
                // Confirmed without a comparison.
                None => {}
                Some(LogEvidence::Row(mark)) if at.matches(mark) => at.mark = Some(mark),
                // A cursor without marks is valid as long as the log has the rows after it.
                Some(LogEvidence::Dropped) if at.mark.is_none() => {}
                Some(LogEvidence::Row(_) | LogEvidence::Beyond | LogEvidence::Dropped) => {
                    return Err(Refusal::CursorExpired.into());
                }
            }
        }
        Ok(start)
    }

    /// Finds an organization, including a deleted one; `None` if it does not exist.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn find_organization(
        &self,
        organization: &OrganizationRef,
    ) -> Result<Option<OrganizationId>, ServiceError> {
        let (standing, _) = self.replica.standing(organization, None, &Freshness::Full).await?;
        Ok(standing.organization.map(|organization| organization.id))
    }

    /// Whether an organization that does not exist was purged.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn was_purged(&self, id: OrganizationId) -> Result<bool, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = events::exist(&mut connection, id).await;
        Ok(connection.finish(outcome)?)
    }

    /// Whether a user may have been a member of an organization that its bucket's log purged at this position. `false` only
    /// if the replica knows that the user was not.
    #[must_use]
    pub fn may_have_been_member(&self, organization: OrganizationId, user: &UserId, position: i64) -> bool {
        self.replica.may_have_been_member(organization, user, position)
    }

    /// Waits until every write that is acknowledged now is in every change feed.
    pub async fn caught_up(&self) {
        self.replica.caught_up().await;
    }
}

/// Where a feed starts.
struct FeedStart {
    datastore: Datastore,
    /// The end of each bucket's log.
    heads: BTreeMap<i16, LogPosition>,
    positions: BTreeMap<i16, FeedPosition>,
    lacks_model: bool,
}

/// Reads the id of the datastore, and the position at which each bucket's log ends.
async fn read_heads(connection: &mut PgConnection) -> Result<(Datastore, BTreeMap<i16, LogPosition>), StoreError> {
    let datastore = datastore::datastore(connection).await?;
    let heads = tail::heads(connection).await?;
    Ok((datastore, (0..).zip(heads).collect()))
}

fn cursor_too_narrow() -> Refusal {
    Refusal::field("cursor", "it does not cover everything to be watched: export, and watch from that export's cursor")
}

impl ChangeFeed {
    /// Compares the feed's positions with the ends of the logs, and plans to read the buckets that are behind.
    fn compare(&mut self, heads: &BTreeMap<i16, LogPosition>) -> Result<(), Refusal> {
        for (bucket, at) in &self.positions {
            let head = heads.get(bucket).ok_or(Refusal::CursorExpired)?;
            let is_lost = head.position < at.position;
            if is_lost || (head.position == at.position && !at.matches(head.mark())) {
                return Err(Refusal::CursorExpired);
            }
            if head.position > at.position {
                self.targets.insert(*bucket, head.position);
            }
        }
        Ok(())
    }

    /// Whether rows must be read from the change log before the feed continues with the broadcast. True as long as the rows
    /// that were delivered end inside a transaction.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.heads_unknown || !self.targets.is_empty()
    }

    /// Reads the next rows that the broadcast does not have; `None` if there are no such rows.
    ///
    /// # Errors
    /// `CURSOR_EXPIRED` if the change log no longer has them; if the datastore does not answer.
    pub async fn catch_up(&mut self) -> Result<Option<FeedRows>, ServiceError> {
        self.lag_excused = true;
        if self.heads_unknown {
            let mut connection = self.pool.acquire_read().await?;
            let outcome = in_time(limits::LOG_READ, tail::heads(&mut connection)).await;
            let heads = connection.finish(outcome)?;
            self.compare(&(0..).zip(heads).collect())?;
            self.heads_unknown = false;
        }
        let Some((bucket, target)) = self.targets.first_key_value().map(|(bucket, target)| (*bucket, *target)) else {
            return Ok(None);
        };
        let at = self.positions.get(&bucket).copied().ok_or(Refusal::CursorExpired)?;
        let rows = self.read(bucket, at).await?;
        let last = rows.last().map_or(at, |row| FeedPosition::of(&row.at));
        self.positions.insert(bucket, last);
        let end = rows.last().map_or(target, |row| target.max(row.commit_position));
        if last.position >= end {
            self.targets.remove(&bucket);
        } else {
            self.targets.insert(bucket, end);
        }
        Ok(Some(FeedRows::Replay(rows)))
    }

    /// Reads the rows after a position, at least one. The row at the position must have its mark.
    async fn read(&self, bucket: i16, at: FeedPosition) -> Result<Vec<LogRow>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let page = replay::from(&mut connection, bucket, at.position, limits::REPLAY_ROWS + 1);
        let outcome = in_time(limits::LOG_READ, page).await;
        let page = connection.finish(outcome)?;
        let mut rows = page.rows;
        let is_first = rows.first().is_some_and(|row| row.at.position == at.position);
        let known = if is_first { Some(rows.remove(0).at.mark()) } else { None };
        // Position 0 has no row.
        let is_same = known.map_or(at.position == 0 || at.mark.is_none(), |mark| at.matches(mark));
        let next = rows.first().map(|row| row.at.position);
        if page.datastore != self.datastore || !is_same || next != Some(at.position + 1) {
            return Err(Refusal::CursorExpired.into());
        }
        Ok(rows)
    }

    /// The present access model, as a row of its change log, if the feed has its changes and the caller's cursor does not
    /// cover it. The feed starts at this row or before, so that a caller may receive the row again.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn unknown_model(&self) -> Result<Option<LogRow>, ServiceError> {
        if !self.lacks_model {
            return Ok(None);
        }
        let mut connection = self.pool.acquire_read().await?;
        let outcome = in_time(limits::LOG_READ, access_model::current(&mut connection)).await;
        let stored = connection.finish(outcome)?;
        let at = stored.at();
        let change = LogChange::Model { revision: at.position, model: stored.model };
        Ok(Some(LogRow { at, commit_position: at.position, change }))
    }

    /// Waits for the next rows of the broadcast; `None` if the change log must be read first. Safe to cancel: no rows
    /// are lost.
    ///
    /// # Errors
    /// `SLOW_READER` if the caller is too slow for the broadcast; `CURSOR_EXPIRED` if the datastore lost writes.
    pub async fn next(&mut self) -> Result<Option<FeedRows>, ServiceError> {
        loop {
            match self.feed.recv().await {
                Ok(commits) => {
                    self.lag_excused = false;
                    let rows = self.accept(commits)?;
                    if rows.is_some() || self.is_behind() {
                        return Ok(rows);
                    }
                }
                Err(RecvError::Lagged(_)) => {
                    self.record_lag()?;
                    return Ok(None);
                }
                // Unreachable: this feed holds the replica, which holds the sender.
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    /// The next rows of the broadcast that are there without waiting; `None` also if the change log must be read first.
    ///
    /// # Errors
    /// The errors of [`Self::next`].
    pub fn try_next(&mut self) -> Result<Option<FeedRows>, ServiceError> {
        while !self.is_behind() {
            match self.feed.try_recv() {
                Ok(commits) => {
                    self.lag_excused = false;
                    if let Some(rows) = self.accept(commits)? {
                        return Ok(Some(rows));
                    }
                }
                Err(TryRecvError::Lagged(_)) => self.record_lag()?,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(None),
            }
        }
        Ok(None)
    }

    fn record_lag(&mut self) -> Result<(), Refusal> {
        self.heads_unknown = true;
        if self.lag_excused { Ok(()) } else { Err(Refusal::SlowReader) }
    }

    /// Takes the new rows of these commits. If rows are missing before them, it takes none and plans to read the log.
    fn accept(&mut self, commits: Arc<Commits>) -> Result<Option<FeedRows>, Refusal> {
        self.check_datastore()?;
        let Some(at) = self.positions.get_mut(&commits.bucket) else { return Ok(None) };
        let (Some(first), Some(last)) = (commits.rows.first(), commits.rows.last()) else { return Ok(None) };
        let (first, last) = (first.at.position, FeedPosition::of(&last.at));
        if last.position <= at.position {
            return Ok(None);
        }
        if first > at.position + 1 {
            self.targets.insert(commits.bucket, last.position);
            return Ok(None);
        }
        if commits.mark(at.position).is_some_and(|mark| !at.matches(mark)) {
            return Err(Refusal::CursorExpired);
        }
        let delivered = usize::try_from(at.position + 1 - first).unwrap_or(usize::MAX);
        *at = last;
        Ok(Some(FeedRows::Broadcast(commits, delivered)))
    }

    /// Checks that the datastore is still the one, in the same epoch, that this feed's cursors refer to.
    fn check_datastore(&self) -> Result<(), Refusal> {
        match self.replica.datastore_now() {
            Some(datastore) if datastore != self.datastore => Err(Refusal::CursorExpired),
            Some(_) | None => Ok(()),
        }
    }

    /// The roles of the deployment as this process knows them: at least as new as the rows that the feed has returned.
    #[must_use]
    pub fn roles(&self) -> Arc<RoleTable> {
        self.replica.roles()
    }

    /// The cursor from which to resume after the rows that were delivered. It is for callers only if these rows end with a
    /// transaction.
    ///
    /// # Errors
    /// `CURSOR_EXPIRED` if the datastore lost writes: then the feed cannot be resumed.
    pub fn cursor(&self) -> Result<ConsistencyToken, ServiceError> {
        self.check_datastore()?;
        let is_marked = self.positions.values().all(|at| at.mark.is_some());
        let mut token = if is_marked {
            self.replica.token(self.datastore)
        } else {
            ConsistencyToken::new(self.datastore, TokenForm::Positions)
        };
        for (bucket, at) in &self.positions {
            let mark = at.mark.unwrap_or_default();
            token.cover(BucketPosition { bucket: *bucket, position: at.position, mark });
        }
        Ok(token)
    }
}
