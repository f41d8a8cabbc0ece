//! Lookup paths: when the replica may answer, how it answers, and when the primary is queried instead.

use super::consistency_token::ConsistencyToken;
use super::evidence::{PrimaryAnswers, TokenRequirement};
use super::{CheckQuestion, Freshness, ReplicaState, StandingBatch, nanoseconds, primary, user_bucket};
use crate::domain::ids::{ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{BucketPosition, OrganizationId, OrganizationRef, RoleView, Standing, UserId};
use crate::replica::AnswerSource;
use crate::replica::limits;
use crate::replica_tables::Bucket;
use crate::store::StoreError;
use crate::store::datastore::{self, Datastore};
use crate::store::log::history;
use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

impl ReplicaState {
    pub(super) fn datastore(&self) -> Option<Datastore> {
        *self.datastore.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The age of the lease; `None` without a lease.
    pub(super) fn age(&self) -> Option<Duration> {
        let lease = self.lease.load(Ordering::Acquire);
        let now = nanoseconds(crate::clock::uptime());
        (lease > 0).then(|| Duration::from_nanos(now.saturating_sub(lease)))
    }

    /// Whether the published buckets are fresh enough. Checked before a bucket is read, which can then only be newer.
    pub(super) fn is_fresh(&self, freshness: &Freshness) -> bool {
        let token = match freshness {
            Freshness::Full => return false,
            Freshness::Recent => None,
            Freshness::AtLeast(token) => Some(token),
        };
        self.users_loaded.load(Ordering::Acquire)
            && self.age().is_some_and(|age| age <= self.settings.max_staleness)
            && token.is_none_or(|token| self.covers(token))
    }

    /// Whether the applied history contains every position in a token, with its mark. False for a token of another
    /// datastore or epoch or without marks, for a position that is older than the marks in memory, and while polls fail: a
    /// standby that was just promoted issues tokens of the old epoch until a process notices that writes were lost.
    pub(super) fn covers(&self, token: &ConsistencyToken) -> bool {
        self.last_poll_ok.load(Ordering::Acquire)
            && token.is_comparable()
            && self.datastore().is_some_and(|datastore| token.is_of(datastore))
            && token.positions().all(|at| self.applied.contains(at))
    }

    /// Whether the follower has reached every position in a token, whatever the marks.
    fn has_reached(&self, token: &ConsistencyToken) -> bool {
        token.positions().all(|at| self.applied.position(at.bucket) >= at.position)
    }

    /// Whether this process has acknowledged a write to this bucket that the replica has not applied yet.
    pub(super) fn is_behind(&self, bucket: i16) -> bool {
        self.applied.position(bucket) < self.written.position(bucket)
    }

    /// Waits up to [`limits::CATCH_UP`] until the replica has applied the positions in a consistency token. Returns
    /// whether it is fresh enough then.
    pub(super) async fn catch_up(&self, freshness: &Freshness) -> bool {
        let Freshness::AtLeast(token) = freshness else { return false };
        // Without a lease, waiting does not help; a token of another epoch is never reached.
        let is_comparable = token.is_comparable() && self.datastore().is_some_and(|datastore| token.is_of(datastore));
        if !is_comparable || !self.is_fresh(&Freshness::Recent) {
            return false;
        }
        let mut leases = self.lease_updates.subscribe();
        self.wake_follower.notify_one();
        let reached = leases.wait_for(|_| self.has_reached(token));
        let reached = timeout(limits::CATCH_UP, reached).await.is_ok();
        reached && self.is_fresh(freshness)
    }

    /// Whether the replica may answer beyond the maximum staleness: the primary has failed, the caller names no
    /// consistency requirement, and the setting `serve_stale` allows the present age.
    pub(super) fn allows_stale(&self, freshness: &Freshness, error: &StoreError) -> bool {
        let allowed = self.settings.serve_stale.filter(|_| error.is_outage() && *freshness == Freshness::Recent);
        allowed.is_some_and(|limit| self.age().is_some_and(|age| age <= limit))
            && self.users_loaded.load(Ordering::Acquire)
    }

    /// Queries the primary; where a stale answer may replace its answer, for [`limits::STALE_PATIENCE`] at most. The
    /// answers cover every write that this process had acknowledged before, and the token of the requirement.
    pub(super) async fn query_primary(
        &self,
        questions: Vec<primary::StandingKey>,
        freshness: &Freshness,
    ) -> Result<Vec<Standing>, StoreError> {
        let count = questions.len();
        let query = self.primary.query(questions);
        let stale = self.settings.serve_stale.is_some() && *freshness == Freshness::Recent;
        let outcome = if stale {
            let query = timeout(limits::STALE_PATIENCE, query);
            query.await.unwrap_or(Err(StoreError::Silent))
        } else {
            query.await
        };
        let answers = outcome?;
        if let Freshness::AtLeast(token) = freshness {
            self.require_covered(token, &answers).await?;
        }
        self.counters.count_answers(AnswerSource::Primary, count);
        Ok(answers.standings)
    }

    /// Requires that answers of the primary cover a consistency token. [`StoreError::Behind`] if they do not. Compares the
    /// positions that memory cannot confirm with the log of the primary.
    async fn require_covered(&self, token: &ConsistencyToken, answers: &PrimaryAnswers) -> Result<(), StoreError> {
        let requirement = TokenRequirement::new(token, answers);
        // A session stays with one database. If it is older than the last poll, the poll has compared that database's log
        // with the applied history.
        let lease = self.lease.load(Ordering::Acquire);
        let is_polled = nanoseconds(answers.session_begin) < lease;
        let unconfirmed = requirement.unconfirmed(self.datastore(), &self.applied, is_polled);
        if unconfirmed.is_empty() {
            return Ok(());
        }
        let mut connection = self.pool.acquire_read().await?;
        let known = self.datastore();
        let comparison = async {
            let history = history::read(&mut connection, &unconfirmed).await?;
            let is_covered = requirement.is_covered(&history);
            if is_covered && known.is_some_and(|known| requirement.is_of(known)) {
                return Ok(true);
            }
            // Another process may have raised the epoch since the last poll.
            let read = datastore::datastore(&mut connection).await?;
            Ok(requirement.is_void(read) || (is_covered && requirement.is_of(read)))
        };
        let comparison = timeout(limits::HISTORY_TIMEOUT, comparison).await;
        let is_covered = connection.finish(comparison.unwrap_or(Err(StoreError::Silent)))?;
        if is_covered { Ok(()) } else { Err(StoreError::Behind) }
    }

    /// Looks up a standing in memory, whatever the age of the lease. `None` if the bucket is not loaded, lacks a write
    /// of this process, does not resolve the slug, or has a change there that this program does not know.
    pub(super) fn lookup(&self, organization: &OrganizationRef, user: Option<&UserId>) -> Option<Standing> {
        let (user_state, user_position) = match user {
            None => (None, BucketPosition::start(0)),
            Some(user) if self.is_behind(user_bucket(user.bucket())) => return None,
            Some(user) => self.tables.user(user),
        };
        let id = self.tables.organization(organization)?;
        let bucket = self.tables.read(id.bucket());
        let bucket = bucket.as_ref().filter(|bucket| self.can_answer(bucket, id, organization))?;
        let member = bucket.find(id, user, &bucket.deployment_roles().table)?;
        let (position, role) = (Some(bucket.at()), member.role.map(RoleView::to_role));
        Some(Standing { organization: member.organization, role, user_state, position, user_position })
    }

    /// Whether a bucket contains every write of this process, and the organization still has the slug that resolved to
    /// it.
    fn can_answer(&self, bucket: &Bucket, id: OrganizationId, reference: &OrganizationRef) -> bool {
        bucket.position() >= self.written.position(id.bucket())
            && match reference {
                OrganizationRef::Id(_) => true,
                OrganizationRef::Slug(slug) => self.tables.has_slug(bucket, id, slug),
            }
    }

    /// Answers a batch: from memory where possible, if it is fresh, and the other questions from the primary.
    ///
    /// The batch may name one organization both by id and by slug, and memory may know only one of the two names. If
    /// the primary's answers reveal that, all questions are asked again in one place, so that all answers about an
    /// organization come from one state of it.
    pub(super) async fn answer_many<Q: CheckQuestion + Sync>(
        &self,
        questions: &[Q],
        freshness: &Freshness,
        fresh: bool,
        token: ConsistencyToken,
    ) -> Result<StandingBatch, StoreError> {
        let (mut standings, mut token) =
            if fresh { self.lookup_many(questions, token) } else { (vec![None; questions.len()], token) };
        let mut sources = vec![AnswerSource::Memory; questions.len()];
        let mut open: Vec<usize> = (0..questions.len()).filter(|index| standings[*index].is_none()).collect();
        if !open.is_empty() {
            let subjects: Vec<_> = open.iter().map(|index| questions[*index].subject()).collect();
            let (mut answers, mut source) = self.query_primary_or_stale(&subjects, freshness, &mut token).await?;
            let known = organizations(questions, &standings);
            if answers.iter().filter_map(|standing| standing.organization).any(|head| known.contains(&head.id)) {
                open = (0..questions.len()).collect();
                let subjects: Vec<_> = questions.iter().map(CheckQuestion::subject).collect();
                (answers, source) = self.query_primary_or_stale(&subjects, freshness, &mut token).await?;
            }
            for (index, standing) in open.into_iter().zip(answers) {
                standings[index] = Some(standing);
                sources[index] = source;
            }
        }
        let from_memory = sources.iter().filter(|source| **source == AnswerSource::Memory).count();
        self.counters.count_answers(AnswerSource::Memory, from_memory);
        let standings: Vec<Standing> = standings.into_iter().flatten().collect();
        if standings.len() == questions.len() {
            Ok(StandingBatch { standings, sources, token })
        } else {
            Err(StoreError::Unreadable("a question was not answered".to_owned()))
        }
    }

    /// Queries the primary. If it fails and the settings allow it, answers from memory beyond the maximum staleness.
    async fn query_primary_or_stale(
        &self,
        subjects: &[(&OrganizationRef, &UserId)],
        freshness: &Freshness,
        token: &mut ConsistencyToken,
    ) -> Result<(Vec<Standing>, AnswerSource), StoreError> {
        let keys = subjects.iter().map(|(organization, user)| ((*organization).clone(), Some((*user).clone())));
        match self.query_primary(keys.collect(), freshness).await {
            Ok(standings) => {
                for standing in &standings {
                    token.cover_standing(standing);
                }
                Ok((standings, AnswerSource::Primary))
            }
            Err(error) if self.allows_stale(freshness, &error) => {
                let (standings, covered) = self.lookup_many(subjects, token.clone());
                let standings: Vec<Standing> = standings.into_iter().flatten().collect();
                if standings.len() < subjects.len() {
                    return Err(error);
                }
                *token = covered;
                self.counters.count_answers(AnswerSource::StaleMemory, subjects.len());
                Ok((standings, AnswerSource::StaleMemory))
            }
            Err(error) => Err(error),
        }
    }

    /// Looks up many standings in memory, bucket by bucket under each bucket's lock; `None` where memory cannot answer.
    /// The returned token covers every bucket that was read.
    fn lookup_many<Q: CheckQuestion>(
        &self,
        questions: &[Q],
        mut token: ConsistencyToken,
    ) -> (Vec<Option<Standing>>, ConsistencyToken) {
        let mut standings = vec![None; questions.len()];
        if (0..USER_BUCKETS).any(|bucket| self.is_behind(user_bucket(bucket))) {
            return (standings, token);
        }
        let ids: Vec<Option<OrganizationId>> =
            questions.iter().map(|question| self.tables.organization(question.subject().0)).collect();
        // Read before the states, which are then at least as new.
        for bucket in 0..USER_BUCKETS {
            token.cover_user(self.tables.user_position(bucket));
        }
        let roles = self.tables.roles().table;
        for (number, indexes) in by_bucket(&ids) {
            let bucket = self.tables.read(number);
            let Some(bucket) = bucket.as_ref() else { continue };
            let position = bucket.at();
            for (index, id) in indexes {
                let (organization, user) = questions[index].subject();
                if !self.can_answer(bucket, id, organization) {
                    continue;
                }
                let Some(member) = bucket.find(id, Some(user), &roles) else { continue };
                standings[index] = Some(Standing {
                    organization: member.organization,
                    role: member.role.map(RoleView::to_role),
                    user_state: self.tables.user_state(user),
                    position: Some(position),
                    // Unused: the token covers all user buckets.
                    user_position: BucketPosition::start(0),
                });
            }
            token.cover(position);
        }
        (standings, token)
    }
}

/// The organizations of the questions that have an answer.
fn organizations<Q: CheckQuestion>(questions: &[Q], standings: &[Option<Standing>]) -> HashSet<OrganizationId> {
    let answered =
        questions.iter().zip(standings).filter_map(|(question, standing)| Some((question, standing.as_ref()?)));
    let ids = answered.filter_map(|(question, standing)| match question.subject().0 {
        OrganizationRef::Id(id) => Some(*id),
        OrganizationRef::Slug(_) => standing.organization.map(|head| head.id),
    });
    ids.collect()
}

/// The ids with their indexes, grouped by bucket.
fn by_bucket(ids: &[Option<OrganizationId>]) -> Vec<(i16, Vec<(usize, OrganizationId)>)> {
    let mut buckets: Vec<Vec<(usize, OrganizationId)>> =
        vec![Vec::new(); usize::from(ORGANIZATION_BUCKETS.unsigned_abs())];
    for (index, id) in ids.iter().enumerate() {
        if let Some(id) = id {
            buckets[usize::from(id.bucket().unsigned_abs())].push((index, *id));
        }
    }
    (0..).zip(buckets).filter(|(_, indexes)| !indexes.is_empty()).collect()
}
