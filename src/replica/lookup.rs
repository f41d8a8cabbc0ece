//! Lookup paths: when the replica may answer, how it answers, and when the primary is queried instead.

use super::consistency_token::ConsistencyToken;
use super::evidence::{PrimaryAnswers, TokenRequirement};
use super::question::{Facts, SourcedAnswer, StandingQuestion, cover_model, key};
use super::{AnswerBatch, Freshness, ReplicaState, nanoseconds, user_bucket};
use crate::domain::ids::{MODEL_BUCKET, ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{BucketPosition, OrganizationId, OrganizationRef, UserStatus};
use crate::replica::AnswerSource;
use crate::replica::limits;
use crate::replica_tables::{Bucket, PublishedRoles};
use crate::store::StoreError;
use crate::store::datastore::{self, Datastore};
use crate::store::log::history;
use crate::store::standing::StandingKey;
use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

/// The answers of memory to many questions; `None` where memory cannot answer.
type MemoryAnswers<Q> = AnswerGroup<Option<<Q as StandingQuestion>::Answer>>;

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
        questions: Vec<StandingKey>,
        freshness: &Freshness,
    ) -> Result<PrimaryAnswers, StoreError> {
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
        Ok(answers)
    }

    /// Queries the primary with one question.
    pub(super) async fn query_one<Q: StandingQuestion>(
        &self,
        question: &Q,
        freshness: &Freshness,
    ) -> Result<SourcedAnswer<Q::Answer>, StoreError> {
        let PrimaryAnswers { standings, roles, .. } = self.query_primary(vec![key(question)], freshness).await?;
        let resolved = standings.first();
        let unanswered = || StoreError::Unreadable("a question was not answered".to_owned());
        let facts = Facts::of_primary(resolved.ok_or_else(unanswered)?, &roles);
        Ok(SourcedAnswer::new(question, &facts, AnswerSource::Primary))
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

    /// Answers a question from memory, whatever the age of the lease. `None` if the bucket is not loaded, lacks a write of
    /// this process, does not resolve the slug, or has a change or a role there that the tables do not know; if the
    /// access model lacks a write of this process; and if the answer is not final.
    pub(super) fn lookup<Q: StandingQuestion>(
        &self,
        question: &Q,
        source: AnswerSource,
    ) -> Option<SourcedAnswer<Q::Answer>> {
        let (organization, user) = question.subject();
        let (status, user_position) = match user {
            None => (UserStatus::default(), BucketPosition::start(0)),
            Some(user) if self.is_behind(user_bucket(user.bucket())) => return None,
            Some(user) => self.tables.user(user),
        };
        let id = self.tables.organization(organization)?;
        let bucket = self.tables.read(id.bucket());
        let bucket = bucket.as_ref().filter(|bucket| self.can_answer(bucket, id, organization))?;
        let roles = bucket.deployment_roles();
        if self.is_model_behind(question, roles) {
            return None;
        }
        let facts = Facts::in_bucket(question, bucket, id)?.with_user(status, user_position);
        Some(SourcedAnswer::new(question, &facts, source)).filter(|answered| Q::is_final(&answered.answer))
    }

    /// Whether this process has acknowledged an access model that these roles are older than, and the answer depends on it.
    fn is_model_behind<Q: StandingQuestion>(&self, question: &Q, roles: &PublishedRoles) -> bool {
        roles.at.position < self.written.position(MODEL_BUCKET) && question.depends_on_model()
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
    /// organization come from one state of it. If memory and the primary have different access models, all questions are
    /// asked again too: a batch sees one model.
    pub(super) async fn answer_many<Q: StandingQuestion + Sync>(
        &self,
        questions: &[Q],
        freshness: &Freshness,
        fresh: bool,
        empty: ConsistencyToken,
    ) -> Result<AnswerBatch<Q::Answer>, StoreError> {
        let AnswerGroup { mut answers, organizations, mut token, model, .. } = if fresh {
            self.lookup_many(questions, &empty, AnswerSource::Memory)
        } else {
            AnswerGroup::open(questions.len(), empty.clone())
        };
        let mut sources = vec![AnswerSource::Memory; questions.len()];
        let mut open: Vec<usize> = (0..questions.len()).filter(|index| answers[*index].is_none()).collect();
        if !open.is_empty() {
            let asked: Vec<&Q> = open.iter().map(|index| &questions[*index]).collect();
            let mut more = self.query_primary_or_stale(&asked, freshness, token.clone()).await?;
            let answered = organizations.iter().zip(&answers).filter(|(_, answer)| answer.is_some());
            let known: HashSet<OrganizationId> = answered.filter_map(|(organization, _)| *organization).collect();
            let has_known = more.organizations.iter().flatten().any(|id| known.contains(id));
            let has_other_model = model.is_some() && more.model.is_some() && more.model != model;
            if has_known || has_other_model {
                open = (0..questions.len()).collect();
                let asked: Vec<&Q> = questions.iter().collect();
                more = self.query_primary_or_stale(&asked, freshness, empty).await?;
            }
            token = more.token;
            for (index, answer) in open.into_iter().zip(more.answers) {
                (answers[index], sources[index]) = (Some(answer), more.source);
            }
        }
        let from_memory = sources.iter().filter(|source| **source == AnswerSource::Memory).count();
        self.counters.count_answers(AnswerSource::Memory, from_memory);
        let answers: Vec<Q::Answer> = answers.into_iter().flatten().collect();
        if answers.len() == questions.len() {
            Ok(AnswerBatch { answers, sources, token })
        } else {
            Err(StoreError::Unreadable("a question was not answered".to_owned()))
        }
    }

    /// Queries the primary. If it fails and the settings allow it, answers from memory beyond the maximum staleness. The
    /// token of the answers covers what the token before covered.
    async fn query_primary_or_stale<Q: StandingQuestion>(
        &self,
        questions: &[&Q],
        freshness: &Freshness,
        mut token: ConsistencyToken,
    ) -> Result<AnswerGroup<Q::Answer>, StoreError> {
        let keys = questions.iter().map(|question| key(*question)).collect();
        match self.query_primary(keys, freshness).await {
            Ok(PrimaryAnswers { standings, roles, .. }) => {
                let (source, mut model) = (AnswerSource::Primary, None);
                let (mut answers, mut organizations) = (Vec::new(), Vec::new());
                for (question, resolved) in questions.iter().zip(&standings) {
                    let answered = SourcedAnswer::new(*question, &Facts::of_primary(resolved, &roles), source);
                    answered.cover(&mut token);
                    model = model.or(answered.model);
                    organizations.push(answered.organization);
                    answers.push(answered.answer);
                }
                Ok(AnswerGroup { answers, organizations, source, token, model })
            }
            Err(error) if self.allows_stale(freshness, &error) => {
                let group = self.lookup_many(questions, &token, AnswerSource::StaleMemory);
                let answers: Vec<_> = group.answers.into_iter().flatten().collect();
                if answers.len() < questions.len() {
                    return Err(error);
                }
                self.counters.count_answers(AnswerSource::StaleMemory, questions.len());
                let AnswerGroup { organizations, source, token, model, .. } = group;
                Ok(AnswerGroup { answers, organizations, source, token, model })
            }
            Err(error) => Err(error),
        }
    }

    /// Answers many questions from memory, bucket by bucket under each bucket's lock, by one access model; `None` where
    /// memory cannot answer. The token covers every bucket that was read.
    fn lookup_many<Q: StandingQuestion>(
        &self,
        questions: &[Q],
        empty: &ConsistencyToken,
        source: AnswerSource,
    ) -> MemoryAnswers<Q> {
        let attempt = |_| self.lookup_once(questions, empty.clone(), source);
        let group = (0..limits::LOOKUP_ATTEMPTS).find_map(attempt);
        group.unwrap_or_else(|| AnswerGroup::open(questions.len(), empty.clone()))
    }

    /// As [`Self::lookup_many`]; `None` if the access model was replaced while the buckets were read. Each bucket adopts it
    /// together with the rows of the same poll, so that rows and model are always of one state.
    fn lookup_once<Q: StandingQuestion>(
        &self,
        questions: &[Q],
        mut token: ConsistencyToken,
        source: AnswerSource,
    ) -> Option<MemoryAnswers<Q>> {
        if (0..USER_BUCKETS).any(|bucket| self.is_behind(user_bucket(bucket))) {
            return Some(AnswerGroup::open(questions.len(), token));
        }
        let mut answers: Vec<_> = questions.iter().map(|_| None).collect();
        let mut model = None;
        let organizations: Vec<Option<OrganizationId>> =
            questions.iter().map(|question| self.tables.organization(question.subject().0)).collect();
        // Read before the states, which are then at least as new.
        for bucket in 0..USER_BUCKETS {
            token.cover_user(self.tables.user_position(bucket));
        }
        for (number, subjects) in OrderedSubjects::new(&organizations).buckets() {
            let bucket = self.tables.read(number);
            let Some(bucket) = bucket.as_ref() else { continue };
            let roles = bucket.deployment_roles();
            // All of them before the first answer, so that their cache misses overlap.
            let found =
                subjects.iter().map(|(index, id)| bucket.find(*id, questions[*index].subject().1, &roles.table));
            let found: Vec<_> = found.collect();
            for (&(index, id), member) in subjects.iter().zip(found) {
                let question = &questions[index];
                let (organization, user) = question.subject();
                if !self.can_answer(bucket, id, organization) || self.is_model_behind(question, roles) {
                    continue;
                }
                let facts = member.and_then(|member| Facts::of_member(question, bucket, id, member));
                let Some(facts) = facts else { continue };
                let status = user.map(|user| self.tables.user_status(user)).unwrap_or_default();
                let facts = facts.with_user(status, facts.user_position);
                if question.depends_on_model() && *model.get_or_insert(facts.model) != facts.model {
                    return None;
                }
                answers[index] = Some(question.answer(&facts)).filter(Q::is_final);
            }
            token.cover(bucket.at());
        }
        cover_model(&mut token, model);
        Some(AnswerGroup { answers, organizations, source, token, model })
    }
}

/// Answers from one place, with the token that covers them. They are not [`SourcedAnswer`]s: a batch has one token, and
/// copies each answer more than once.
struct AnswerGroup<A> {
    answers: Vec<A>,
    /// The organization of each answer; `None` if it does not exist.
    organizations: Vec<Option<OrganizationId>>,
    source: AnswerSource,
    token: ConsistencyToken,
    /// The position of the access model by which they were answered; `None` if none of them depends on one.
    model: Option<BucketPosition>,
}

impl<A> AnswerGroup<Option<A>> {
    /// The group of this many questions that memory does not answer.
    fn open(count: usize, token: ConsistencyToken) -> Self {
        let answers = (0..count).map(|_| None).collect();
        Self { answers, organizations: vec![None; count], source: AnswerSource::Memory, token, model: None }
    }
}

/// The number of buckets of organizations.
const ORGANIZATION_BUCKET_COUNT: usize = ORGANIZATION_BUCKETS.unsigned_abs() as usize;

/// The organizations of a batch with the indexes of their questions, in the order of the buckets.
struct OrderedSubjects {
    subjects: Vec<(usize, OrganizationId)>,
    /// The end of each bucket in `subjects`.
    ends: [usize; ORGANIZATION_BUCKET_COUNT],
}

impl OrderedSubjects {
    /// Sorts the organizations that are known by bucket, by counting.
    fn new(organizations: &[Option<OrganizationId>]) -> Self {
        let bucket = |id: OrganizationId| usize::from(id.bucket().unsigned_abs());
        let mut ends = [0; ORGANIZATION_BUCKET_COUNT];
        for id in organizations.iter().flatten() {
            ends[bucket(*id)] += 1;
        }
        let mut count = 0;
        for end in &mut ends {
            // The begin of the bucket, which moves to its end below.
            count += std::mem::replace(end, count);
        }
        let mut subjects = vec![(0, OrganizationId::from_uuid(uuid::Uuid::nil())); count];
        for (index, id) in organizations.iter().enumerate() {
            if let Some(id) = id {
                let end = &mut ends[bucket(*id)];
                subjects[*end] = (index, *id);
                *end += 1;
            }
        }
        Self { subjects, ends }
    }

    /// The buckets that have any.
    fn buckets(&self) -> impl Iterator<Item = (i16, &[(usize, OrganizationId)])> {
        let begins = std::iter::once(0).chain(self.ends);
        let ranges = begins.zip(self.ends).map(|(begin, end)| &self.subjects[begin..end]);
        (0..).zip(ranges).filter(|(_, subjects)| !subjects.is_empty())
    }
}
