//! Looking things up: whether memory may answer, what it says, and when the primary is asked in its place.

use super::consistency_token::ConsistencyToken;
use super::{CheckQuestion, Freshness, ReplicaState, StandingBatch, nanoseconds, of_users, primary};
use crate::domain::ids::{ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{BucketPosition, OrganizationId, OrganizationRef, Standing, UserId};
use crate::replica::AnswerSource;
use crate::replica::limits;
use crate::replica_tables::Bucket;
use crate::store::StoreError;
use crate::store::datastore::Datastore;
use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl ReplicaState {
    pub(super) fn datastore(&self) -> Option<Datastore> {
        *self.datastore.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How old the lease is; none without one.
    pub(super) fn age(&self) -> Option<Duration> {
        let lease = self.lease.load(Ordering::Acquire);
        let now = nanoseconds(crate::clock::uptime());
        (lease > 0).then(|| Duration::from_nanos(now.saturating_sub(lease)))
    }

    /// Whether memory, where it holds something, holds it freshly enough.
    pub(super) fn is_fresh(&self, freshness: &Freshness) -> bool {
        let token = match freshness {
            Freshness::Full => return false,
            Freshness::Recent => None,
            Freshness::AtLeast(token) => Some(token),
        };
        self.users_held.load(Ordering::Acquire)
            && self.age().is_some_and(|age| age <= self.settings.max_staleness)
            && token.is_none_or(|token| self.covers(token))
    }

    /// Whether everything that a token covers has been followed. Never for one of another datastore or epoch; nor while
    /// polls fail: a token of a standby that was just promoted has the old epoch, until one of them notices.
    pub(super) fn covers(&self, token: &ConsistencyToken) -> bool {
        self.steady.load(Ordering::Acquire)
            && self.datastore().is_some_and(|datastore| token.is_of(datastore))
            && token.positions().all(|at| {
                let followed = self.followed.get(usize::from(at.bucket.unsigned_abs()));
                followed.is_some_and(|followed| followed.load(Ordering::Acquire) >= at.position)
            })
    }

    /// Whether this process has written something that the copy does not have yet.
    pub(super) fn is_behind(&self, bucket: i16) -> bool {
        let place = usize::from(bucket.unsigned_abs());
        self.followed[place].load(Ordering::Acquire) < self.written[place].load(Ordering::Acquire)
    }

    /// Waits a little for what a token covers.
    pub(super) async fn catch_up(&self, freshness: &Freshness) -> bool {
        let Freshness::AtLeast(token) = freshness else { return false };
        // Without a lease there is nothing to wait for, and another epoch's token is never reached.
        if !self.is_fresh(&Freshness::Recent) || !self.datastore().is_some_and(|datastore| token.is_of(datastore)) {
            return false;
        }
        let mut polled = self.polled.subscribe();
        self.notify.notify_one();
        let reached = polled.wait_for(|_| self.covers(token));
        let reached = tokio::time::timeout(limits::CATCH_UP, reached).await.is_ok();
        reached && self.is_fresh(freshness)
    }

    /// Whether the copy may answer although it is too old: the primary failed to, and the settings allow it.
    pub(super) fn may_be_stale(&self, freshness: &Freshness, error: &StoreError) -> bool {
        let failed = matches!(error, StoreError::Unavailable(_) | StoreError::Timeout(_));
        let allowed = self.settings.serve_stale.filter(|_| failed && *freshness == Freshness::Recent);
        allowed.is_some_and(|cap| self.age().is_some_and(|age| age <= cap)) && self.users_held.load(Ordering::Acquire)
    }

    /// Asks the primary. Where stale answers are allowed, it gets only so long.
    pub(super) async fn ask_primary(
        &self,
        questions: Vec<primary::StandingKey>,
        freshness: &Freshness,
    ) -> Result<Vec<Standing>, StoreError> {
        let count = questions.len();
        let asked = self.primary.ask(questions);
        let stale = self.settings.serve_stale.is_some() && *freshness == Freshness::Recent;
        let answered = if stale {
            let patience = tokio::time::timeout(limits::STALE_PATIENCE, asked);
            patience.await.unwrap_or(Err(StoreError::Timeout(None)))
        } else {
            asked.await
        };
        if answered.is_ok() {
            self.counters.answered(AnswerSource::Primary, count);
        }
        answered
    }

    /// What memory knows, however fresh; none if it cannot say.
    pub(super) fn look_up(&self, organization: &OrganizationRef, user: Option<&UserId>) -> Option<Standing> {
        // The state first: a user's position that is read before it can only be older.
        let (user_state, user_position) = match user {
            None => (None, BucketPosition { bucket: 0, position: 0 }),
            Some(user) => {
                let bucket = user.bucket();
                if self.is_behind(of_users(bucket)) {
                    return None;
                }
                let (state, position) = self.tables.user(user, bucket);
                (state, BucketPosition { bucket, position })
            }
        };
        let id = self.tables.organization(organization)?;
        let held = self.tables.read(id.bucket());
        let held = held.as_ref().filter(|held| self.may_ask(held, id, organization))?;
        let found = held.find(id, user);
        let position = Some(BucketPosition { bucket: id.bucket(), position: held.position() });
        Some(Standing { organization: found.organization, role: found.role, user_state, position, user_position })
    }

    /// Whether a bucket has everything that this process wrote, and the organization still has the slug it was found by.
    pub(super) fn may_ask(&self, held: &Bucket, id: OrganizationId, named: &OrganizationRef) -> bool {
        held.position() >= self.written[usize::from(id.bucket().unsigned_abs())].load(Ordering::Acquire)
            && match named {
                OrganizationRef::Id(_) => true,
                OrganizationRef::Slug(slug) => self.tables.is_called(held, id, slug),
            }
    }

    /// Answers many: memory what it can, if it is fresh, and the primary the others.
    ///
    /// An organization may go by two names, of which memory knows one. If that shows, all is asked once more in one
    /// place, so that all answers about an organization are from one state of it.
    pub(super) async fn answer_many<Q: CheckQuestion + Sync>(
        &self,
        questions: &[Q],
        freshness: &Freshness,
        fresh: bool,
        token: ConsistencyToken,
    ) -> Result<StandingBatch, StoreError> {
        let (mut standings, mut token) =
            if fresh { self.look_up_many(questions, token) } else { (vec![None; questions.len()], token) };
        let mut sources = vec![AnswerSource::Memory; questions.len()];
        let mut left: Vec<usize> = (0..questions.len()).filter(|index| standings[*index].is_none()).collect();
        if !left.is_empty() {
            let asked: Vec<_> = left.iter().map(|index| questions[*index].asks()).collect();
            let (mut found, mut source) = self.ask_or_be_stale(&asked, freshness, &mut token).await?;
            let known = organizations(questions, &standings);
            if found.iter().filter_map(|standing| standing.organization).any(|head| known.contains(&head.id)) {
                left = (0..questions.len()).collect();
                let asked: Vec<_> = questions.iter().map(CheckQuestion::asks).collect();
                (found, source) = self.ask_or_be_stale(&asked, freshness, &mut token).await?;
            }
            for (index, standing) in left.into_iter().zip(found) {
                standings[index] = Some(standing);
                sources[index] = source;
            }
        }
        self.counters
            .answered(AnswerSource::Memory, sources.iter().filter(|source| **source == AnswerSource::Memory).count());
        let standings: Vec<Standing> = standings.into_iter().flatten().collect();
        if standings.len() == questions.len() {
            Ok(StandingBatch { standings, sources, token })
        } else {
            Err(StoreError::Unreadable("a question was not answered".to_owned()))
        }
    }

    /// Asks the primary; where it fails and the settings allow it, memory, however old.
    async fn ask_or_be_stale(
        &self,
        asked: &[(&OrganizationRef, &UserId)],
        freshness: &Freshness,
        token: &mut ConsistencyToken,
    ) -> Result<(Vec<Standing>, AnswerSource), StoreError> {
        let ask = asked.iter().map(|(organization, user)| ((*organization).clone(), Some((*user).clone()))).collect();
        match self.ask_primary(ask, freshness).await {
            Ok(found) => {
                for standing in &found {
                    token.cover_standing(standing);
                }
                Ok((found, AnswerSource::Primary))
            }
            Err(error) if self.may_be_stale(freshness, &error) => {
                let (found, covered) = self.look_up_many(asked, token.clone());
                let found: Vec<Standing> = found.into_iter().flatten().collect();
                if found.len() < asked.len() {
                    return Err(error);
                }
                *token = covered;
                self.counters.answered(AnswerSource::StaleMemory, asked.len());
                Ok((found, AnswerSource::StaleMemory))
            }
            Err(error) => Err(error),
        }
    }

    /// What memory knows of many, none where it cannot say; bucket by bucket, each standing still while it is asked.
    pub(super) fn look_up_many<Q: CheckQuestion>(
        &self,
        questions: &[Q],
        mut token: ConsistencyToken,
    ) -> (Vec<Option<Standing>>, ConsistencyToken) {
        let mut standings = vec![None; questions.len()];
        if (0..USER_BUCKETS).any(|bucket| self.is_behind(of_users(bucket))) {
            return (standings, token);
        }
        let ids: Vec<Option<OrganizationId>> =
            questions.iter().map(|question| self.tables.organization(question.asks().0)).collect();
        // Before any state is read: the states are then at least as new.
        for bucket in 0..USER_BUCKETS {
            token.cover_user(BucketPosition { bucket, position: self.tables.user_position(bucket) });
        }
        for (bucket, places) in by_bucket(&ids) {
            let held = self.tables.read(bucket);
            let Some(held) = held.as_ref() else { continue };
            let position = BucketPosition { bucket, position: held.position() };
            for (index, id) in places {
                let (named, user) = questions[index].asks();
                if !self.may_ask(held, id, named) {
                    continue;
                }
                let found = held.find(id, Some(user));
                standings[index] = Some(Standing {
                    organization: found.organization,
                    role: found.role,
                    user_state: self.tables.user_state(user),
                    position: Some(position),
                    // The token has all buckets of users.
                    user_position: BucketPosition { bucket: 0, position: 0 },
                });
            }
            token.cover(position);
        }
        (standings, token)
    }
}

/// The organizations that were asked about where there is an answer.
fn organizations<Q: CheckQuestion>(questions: &[Q], standings: &[Option<Standing>]) -> HashSet<OrganizationId> {
    let answered =
        questions.iter().zip(standings).filter_map(|(question, standing)| Some((question, standing.as_ref()?)));
    let ids = answered.filter_map(|(question, standing)| match question.asks().0 {
        OrganizationRef::Id(id) => Some(*id),
        OrganizationRef::Slug(_) => standing.organization.map(|head| head.id),
    });
    ids.collect()
}

/// The places of the ids, by bucket.
fn by_bucket(ids: &[Option<OrganizationId>]) -> Vec<(i16, Vec<(usize, OrganizationId)>)> {
    let mut places: Vec<Vec<(usize, OrganizationId)>> =
        vec![Vec::new(); usize::from(ORGANIZATION_BUCKETS.unsigned_abs())];
    for (index, id) in ids.iter().enumerate() {
        if let Some(id) = id {
            places[usize::from(id.bucket().unsigned_abs())].push((index, *id));
        }
    }
    (0..).zip(places).filter(|(_, places)| !places.is_empty()).collect()
}
