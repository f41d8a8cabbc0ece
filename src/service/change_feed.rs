//! Change feeds: the changes of some buckets for one caller, from a cursor or from now, without gaps in any bucket.
//!
//! Recent changes come from the follower's broadcast. Changes that the broadcast does not have, because they are older
//! or because the follower skipped them, are read from the change log. Positions decide between the two, so every
//! change is delivered exactly once, unless the caller resumes from an older cursor.

use super::consistency_token::ConsistencyToken;
use super::{Freshness, Roster, ServiceError};
use crate::domain::{BucketPosition, OrganizationId, OrganizationRef, Refusal};
use crate::replica::{Commits, Feed, Replica};
use crate::service::limits;
use crate::store::StoreError;
use crate::store::datastore::{self, Datastore};
use crate::store::log::{replay, tail};
use crate::store::pool::Pool;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

pub use crate::store::log::tail::{LogChange, LogRow};

/// Whole transactions of one bucket, in the order of its change log.
#[derive(Debug, Clone)]
pub enum FeedRows {
    /// From the broadcast: the rows of the commits from this index on.
    Broadcast(Arc<Commits>, usize),
    /// From the change log.
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

/// The state of one caller's way through the change log.
pub struct ChangeFeed {
    pool: Pool,
    replica: Replica,
    feed: Feed,
    datastore: Datastore,
    /// The position in each bucket up to which rows were delivered. Other buckets are not part of the feed.
    positions: BTreeMap<i16, i64>,
    /// Buckets that must be read from the change log, each with the position up to which.
    targets: BTreeMap<i16, i64>,
    /// Whether the ends of the buckets' logs must be read first, because the broadcast lost messages.
    heads_unknown: bool,
    /// Whether a lag of the broadcast is not the caller's fault, because the feed was reading the change log.
    lag_excused: bool,
}

impl Roster {
    /// Opens a change feed of these buckets from a cursor, or from now. The numbers of users' buckets follow those of
    /// organizations' buckets.
    ///
    /// # Errors
    /// `CURSOR_EXPIRED`; `INVALID_REQUEST` if the cursor does not cover all of the buckets; if the datastore does not
    /// answer.
    pub async fn follow(
        &self,
        from: Option<&ConsistencyToken>,
        buckets: impl Iterator<Item = i16>,
    ) -> Result<ChangeFeed, ServiceError> {
        // Subscribe first: then every commit after the heads are read is in the broadcast.
        let feed = self.replica.feed();
        let mut connection = self.pool.acquire().await?;
        let outcome = read_heads(&mut connection).await;
        let (datastore, heads) = connection.finish(outcome)?;
        if from.is_some_and(|from| !from.is_of(datastore)) {
            return Err(Refusal::CursorExpired.into());
        }
        let cursor: Option<BTreeMap<i16, i64>> =
            from.map(|from| from.positions().map(|at| (at.bucket, at.position)).collect());
        let mut positions = BTreeMap::new();
        for bucket in buckets {
            let position = match &cursor {
                Some(cursor) => cursor.get(&bucket).copied().ok_or_else(cursor_too_narrow)?,
                None => heads.get(&bucket).copied().unwrap_or_default(),
            };
            positions.insert(bucket, position);
        }
        let mut feed = ChangeFeed {
            pool: self.pool.clone(),
            replica: self.replica.clone(),
            feed,
            datastore,
            positions,
            targets: BTreeMap::new(),
            heads_unknown: false,
            lag_excused: true,
        };
        feed.compare(&heads)?;
        Ok(feed)
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

    /// Waits until every write that is acknowledged now is in every change feed.
    pub async fn caught_up(&self) {
        self.replica.caught_up().await;
    }
}

/// Reads the id of the datastore, and the position at which each bucket's log ends.
async fn read_heads(connection: &mut PgConnection) -> Result<(Datastore, BTreeMap<i16, i64>), StoreError> {
    let datastore = datastore::datastore(connection).await?;
    let heads = tail::heads(connection).await?;
    Ok((datastore, (0..).zip(heads).map(|(bucket, head)| (bucket, head.position)).collect()))
}

fn cursor_too_narrow() -> Refusal {
    Refusal::field("cursor", "it does not cover everything to be watched: export, and watch from that export's cursor")
}

impl ChangeFeed {
    /// Compares the feed's positions with the ends of the logs, and plans to read the buckets that are behind.
    fn compare(&mut self, heads: &BTreeMap<i16, i64>) -> Result<(), Refusal> {
        for (bucket, position) in &self.positions {
            let head = heads.get(bucket).copied().unwrap_or_default();
            if head < *position {
                return Err(Refusal::CursorExpired);
            }
            if head > *position {
                self.targets.insert(*bucket, head);
            }
        }
        Ok(())
    }

    /// Whether rows must be read from the change log before the feed continues with the broadcast.
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
            let mut connection = self.pool.acquire().await?;
            let outcome = tail::heads(&mut connection).await;
            let heads = connection.finish(outcome)?;
            self.compare(&(0..).zip(heads).map(|(bucket, head)| (bucket, head.position)).collect())?;
            self.heads_unknown = false;
        }
        let Some((bucket, target)) = self.targets.first_key_value().map(|(bucket, target)| (*bucket, *target)) else {
            return Ok(None);
        };
        let position = self.positions.get(&bucket).copied().unwrap_or_default();
        let rows = self.read(bucket, position).await?;
        let last = rows.last().map_or(position, |row| row.at.position);
        self.positions.insert(bucket, last);
        if last >= target {
            self.targets.remove(&bucket);
        }
        Ok(Some(FeedRows::Replay(rows)))
    }

    /// Reads whole transactions after a position, at least one.
    async fn read(&self, bucket: i16, position: i64) -> Result<Vec<LogRow>, ServiceError> {
        let mut limit = limits::REPLAY_ROWS;
        loop {
            let mut connection = self.pool.acquire().await?;
            let outcome = replay::after(&mut connection, bucket, position, limit).await;
            let page = connection.finish(outcome)?;
            let next = page.rows.first().map(|row| row.at.position);
            if page.datastore != self.datastore || page.head <= position || next != Some(position + 1) {
                return Err(Refusal::CursorExpired.into());
            }
            let mut rows = page.rows;
            let last_of_transaction = rows.iter().rposition(|row| row.at.position == row.commit_position);
            if let Some(last) = last_of_transaction {
                rows.truncate(last + 1);
                return Ok(rows);
            }
            // The first transaction has more rows than the limit.
            limit = limit.saturating_mul(4);
        }
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
        let Some(position) = self.positions.get_mut(&commits.bucket) else { return Ok(None) };
        let (Some(first), Some(last)) = (commits.rows.first(), commits.rows.last()) else { return Ok(None) };
        let (first, last) = (first.at.position, last.at.position);
        if last <= *position {
            return Ok(None);
        }
        if first > *position + 1 {
            self.targets.insert(commits.bucket, last);
            return Ok(None);
        }
        let delivered = usize::try_from(*position + 1 - first).unwrap_or(usize::MAX);
        *position = last;
        Ok(Some(FeedRows::Broadcast(commits, delivered)))
    }

    /// Checks that the datastore is still the one, in the same epoch, that this feed's cursors refer to.
    fn check_datastore(&self) -> Result<(), Refusal> {
        match self.replica.datastore_now() {
            Some(datastore) if datastore != self.datastore => Err(Refusal::CursorExpired),
            Some(_) | None => Ok(()),
        }
    }

    /// The cursor from which to resume after the rows that were delivered.
    ///
    /// # Errors
    /// `CURSOR_EXPIRED` if the datastore lost writes: then the feed cannot be resumed.
    pub fn cursor(&self) -> Result<ConsistencyToken, ServiceError> {
        self.check_datastore()?;
        let mut token = ConsistencyToken::new(self.datastore);
        for (bucket, position) in &self.positions {
            token.cover(BucketPosition { bucket: *bucket, position: *position });
        }
        Ok(token)
    }
}
