//! Following the log for a caller: from a cursor or from now, in each bucket without gaps.
//!
//! What has just been written comes from the follower's feed; what the feed cannot give, because it is older or because
//! the follower passed over it, is read from the log itself. Positions tell which is which: nothing is told twice unless
//! the caller asks again from an older cursor, and nothing is left out.

use super::consistency_token::ConsistencyToken;
use super::{Freshness, Roster, ServiceError};
use crate::domain::{BucketPosition, OrganizationId, OrganizationRef, Refusal};
use crate::replica::{Commits, Feed, Replica};
use crate::service::limits;
use crate::store::datastore::{self, Datastore};
use crate::store::log::{replay, tail};
use crate::store::pool::Pool;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

pub use crate::store::log::tail::{LogChange, LogRow};

/// Whole transactions of one bucket, in the order of its log.
#[derive(Debug, Clone)]
pub enum FeedRows {
    /// From the feed: those from this place in it on.
    Fed(Arc<Commits>, usize),
    /// From the log.
    Read(Vec<LogRow>),
}

impl Deref for FeedRows {
    type Target = [LogRow];

    fn deref(&self) -> &[LogRow] {
        match self {
            Self::Fed(commits, from) => commits.rows.get(*from..).unwrap_or_default(),
            Self::Read(rows) => rows,
        }
    }
}

/// A caller's way through the log.
pub struct ChangeFeed {
    pool: Pool,
    replica: Replica,
    feed: Feed,
    datastore: Datastore,
    /// How far each bucket has been given out. Only these are followed.
    places: BTreeMap<i16, i64>,
    /// Buckets of which more stands in the log than the feed will give, and up to where.
    behind: BTreeMap<i16, i64>,
    /// Whether it is not known any more where the log ends: it has to be asked.
    blind: bool,
    /// Whether the feed may have run ahead for no fault of the caller's: while the log was read.
    excused: bool,
}

impl Roster {
    /// Follows these buckets (those of users stand behind those of organizations) from a cursor, or from now.
    ///
    /// # Errors
    /// `CURSOR_EXPIRED`; `INVALID_REQUEST` if the cursor does not cover all of the buckets; if the datastore does not
    /// answer.
    pub async fn follow(
        &self,
        from: Option<&ConsistencyToken>,
        buckets: impl Iterator<Item = i16>,
    ) -> Result<ChangeFeed, ServiceError> {
        // First the feed: what is committed after the heads are read is in it.
        let feed = self.replica.feed();
        let mut connection = self.pool.acquire().await?;
        let datastore = datastore::datastore(&mut connection).await?;
        let heads: BTreeMap<i16, i64> =
            (0..).zip(tail::heads(&mut connection).await?).map(|(bucket, head)| (bucket, head.position)).collect();
        if from.is_some_and(|from| !from.is_of(datastore)) {
            return Err(Refusal::CursorExpired.into());
        }
        let covered: Option<BTreeMap<i16, i64>> =
            from.map(|from| from.positions().map(|at| (at.bucket, at.position)).collect());
        let mut places = BTreeMap::new();
        for bucket in buckets {
            let place = match &covered {
                Some(covered) => covered.get(&bucket).copied().ok_or_else(too_narrow)?,
                None => heads.get(&bucket).copied().unwrap_or_default(),
            };
            places.insert(bucket, place);
        }
        let (pool, replica) = (self.pool.clone(), self.replica.clone());
        let mut feed =
            ChangeFeed { pool, replica, feed, datastore, places, behind: BTreeMap::new(), blind: false, excused: true };
        feed.compare(&heads)?;
        Ok(feed)
    }

    /// Finds an organization, a deleted one too; none if there is no such one.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn find_organization(&self, named: &OrganizationRef) -> Result<Option<OrganizationId>, ServiceError> {
        let (standing, _) = self.replica.standing(named, None, &Freshness::Full).await?;
        Ok(standing.organization.map(|organization| organization.id))
    }

    /// Waits until everything that is acknowledged now is in every feed.
    pub async fn caught_up(&self) {
        self.replica.caught_up().await;
    }
}

fn too_narrow() -> Refusal {
    Refusal::field("cursor", "it does not cover all that is to be watched: export, and watch from there")
}

impl ChangeFeed {
    /// Compares where the caller is with where the log ends.
    fn compare(&mut self, heads: &BTreeMap<i16, i64>) -> Result<(), Refusal> {
        for (bucket, place) in &self.places {
            let head = heads.get(bucket).copied().unwrap_or_default();
            if head < *place {
                return Err(Refusal::CursorExpired);
            }
            if head > *place {
                self.behind.insert(*bucket, head);
            }
        }
        Ok(())
    }

    /// Whether there is something to be read from the log before the feed goes on.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.blind || !self.behind.is_empty()
    }

    /// Reads the next rows that the feed does not give, if there are any.
    ///
    /// # Errors
    /// `CURSOR_EXPIRED` if the log does not hold them any more; if the datastore does not answer.
    pub async fn catch_up(&mut self) -> Result<Option<FeedRows>, ServiceError> {
        self.excused = true;
        if self.blind {
            let heads = tail::heads(&mut *self.pool.acquire().await?).await?;
            self.compare(&(0..).zip(heads).map(|(bucket, head)| (bucket, head.position)).collect())?;
            self.blind = false;
        }
        let Some((bucket, target)) = self.behind.first_key_value().map(|(bucket, target)| (*bucket, *target)) else {
            return Ok(None);
        };
        let place = self.places.get(&bucket).copied().unwrap_or_default();
        let rows = self.read(bucket, place).await?;
        let last = rows.last().map_or(place, |row| row.at.position);
        self.places.insert(bucket, last);
        if last >= target {
            self.behind.remove(&bucket);
        }
        Ok(Some(FeedRows::Read(rows)))
    }

    /// Reads whole transactions behind a place, at least one.
    async fn read(&self, bucket: i16, place: i64) -> Result<Vec<LogRow>, ServiceError> {
        let mut limit = limits::REPLAY_ROWS;
        loop {
            let found = replay::after(&mut *self.pool.acquire().await?, bucket, place, limit).await?;
            let next = found.rows.first().map(|row| row.at.position);
            if found.datastore != self.datastore || found.head <= place || next != Some(place + 1) {
                return Err(Refusal::CursorExpired.into());
            }
            let mut rows = found.rows;
            let whole = rows.iter().rposition(|row| row.at.position == row.commit_position);
            if let Some(whole) = whole {
                rows.truncate(whole + 1);
                return Ok(rows);
            }
            // Not even one in so many rows.
            limit = limit.saturating_mul(4);
        }
    }

    /// Waits for the next rows of the feed; none if the log has to be read first. Whoever stops waiting loses nothing.
    ///
    /// # Errors
    /// `SLOW_READER` if the feed has run ahead; `CURSOR_EXPIRED` if writes were lost; if the server stops.
    pub async fn next(&mut self) -> Result<Option<FeedRows>, ServiceError> {
        loop {
            match self.feed.recv().await {
                Ok(commits) => {
                    self.excused = false;
                    let rows = self.take(commits)?;
                    if rows.is_some() || self.is_behind() {
                        return Ok(rows);
                    }
                }
                Err(RecvError::Lagged(_)) => {
                    self.ran_ahead()?;
                    return Ok(None);
                }
                // The index is held by this very one.
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    /// The next rows of the feed, if there are any right now. None too if the log has to be read first.
    ///
    /// # Errors
    /// Those of [`Self::next`].
    pub fn try_next(&mut self) -> Result<Option<FeedRows>, ServiceError> {
        while !self.is_behind() {
            match self.feed.try_recv() {
                Ok(commits) => {
                    self.excused = false;
                    if let Some(rows) = self.take(commits)? {
                        return Ok(Some(rows));
                    }
                }
                Err(TryRecvError::Lagged(_)) => self.ran_ahead()?,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(None),
            }
        }
        Ok(None)
    }

    fn ran_ahead(&mut self) -> Result<(), Refusal> {
        self.blind = true;
        if self.excused { Ok(()) } else { Err(Refusal::SlowReader) }
    }

    /// What of these commits is new here. Where they do not follow on what is known, nothing is, and the log is read.
    fn take(&mut self, commits: Arc<Commits>) -> Result<Option<FeedRows>, Refusal> {
        self.check()?;
        let Some(place) = self.places.get_mut(&commits.bucket) else { return Ok(None) };
        let (Some(first), Some(last)) = (commits.rows.first(), commits.rows.last()) else { return Ok(None) };
        let (first, last) = (first.at.position, last.at.position);
        if last <= *place {
            return Ok(None);
        }
        if first > *place + 1 {
            self.behind.insert(commits.bucket, last);
            return Ok(None);
        }
        let known = usize::try_from(*place + 1 - first).unwrap_or(usize::MAX);
        *place = last;
        Ok(Some(FeedRows::Fed(commits, known)))
    }

    /// Whether the log is still the one that the caller's cursors speak of.
    fn check(&self) -> Result<(), Refusal> {
        match self.replica.datastore_now() {
            Some(datastore) if datastore != self.datastore => Err(Refusal::CursorExpired),
            Some(_) | None => Ok(()),
        }
    }

    /// Where to go on after everything that has been given out.
    ///
    /// # Errors
    /// `CURSOR_EXPIRED` if writes were lost: then there is no going on.
    pub fn cursor(&self) -> Result<ConsistencyToken, ServiceError> {
        self.check()?;
        let mut token = ConsistencyToken::new(self.datastore);
        for (bucket, position) in &self.places {
            token.cover(BucketPosition { bucket: *bucket, position: *position });
        }
        Ok(token)
    }
}
