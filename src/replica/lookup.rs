//! Lookup paths: when the replica may answer, how it answers, and when the primary is queried instead.

use super::consistency_token::ConsistencyToken;
use super::evidence::{PrimaryAnswers, TokenRequirement};
use super::question::{Facts, SourcedAnswer, StandingQuestion, cover_model, key};
use super::{AnswerBatch, Freshness, ReplicaState, nanoseconds, user_bucket};
use crate::domain::ids::{MODEL_BUCKET, ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{BucketPosition, OrganizationId, OrganizationRef};
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
type MemoryAnswers<Q> = AnswerGroup<Vec<Option<SourcedAnswer<<Q as StandingQuestion>::Answer>>>>;

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
        let (user_state, user_position) = match user {
            None => (None, BucketPosition::start(0)),
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
        let mut facts = Facts { user_position, ..Facts::in_bucket(question, bucket, id, roles)? };
        facts.standing.user_state = user_state;
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
        let AnswerGroup { mut answers, mut token, model } = if fresh {
            self.lookup_many(questions, &empty, AnswerSource::Memory)
        } else {
            AnswerGroup { answers: questions.iter().map(|_| None).collect(), token: empty.clone(), model: None }
        };
        let mut open: Vec<usize> = (0..questions.len()).filter(|index| answers[*index].is_none()).collect();
        if !open.is_empty() {
            let asked: Vec<&Q> = open.iter().map(|index| &questions[*index]).collect();
            let mut more = self.query_primary_or_stale(&asked, freshness, token.clone()).await?;
            let known = organizations(questions, &answers);
            let has_known = more.answers.iter().filter_map(|answer| answer.organization).any(|id| known.contains(&id));
            let has_other_model = model.is_some() && more.model.is_some() && more.model != model;
            if has_known || has_other_model {
                open = (0..questions.len()).collect();
                let asked: Vec<&Q> = questions.iter().collect();
                more = self.query_primary_or_stale(&asked, freshness, empty).await?;
            }
            token = more.token;
            for (index, answer) in open.into_iter().zip(more.answers) {
                answers[index] = Some(answer);
            }
        }
        let from_memory = answers.iter().flatten().filter(|answer| answer.source == AnswerSource::Memory).count();
        self.counters.count_answers(AnswerSource::Memory, from_memory);
        let (mut batch, mut sources) = (Vec::with_capacity(answers.len()), Vec::with_capacity(answers.len()));
        for SourcedAnswer { answer, source, .. } in answers.into_iter().flatten() {
            batch.push(answer);
            sources.push(source);
        }
        if batch.len() == questions.len() {
            Ok(AnswerBatch { answers: batch, sources, token })
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
    ) -> Result<AnswerGroup<Vec<SourcedAnswer<Q::Answer>>>, StoreError> {
        let keys = questions.iter().map(|question| key(*question)).collect();
        match self.query_primary(keys, freshness).await {
            Ok(PrimaryAnswers { standings, roles, .. }) => {
                let facts = standings.iter().map(|resolved| Facts::of_primary(resolved, &roles));
                let answers: Vec<_> = (questions.iter().zip(facts))
                    .map(|(question, facts)| SourcedAnswer::new(*question, &facts, AnswerSource::Primary))
                    .collect();
                for answer in &answers {
                    answer.cover(&mut token);
                }
                let model = answers.iter().find_map(|answer| answer.model);
                Ok(AnswerGroup { answers, token, model })
            }
            Err(error) if self.allows_stale(freshness, &error) => {
                let AnswerGroup { answers, token, model } =
                    self.lookup_many(questions, &token, AnswerSource::StaleMemory);
                let answers: Vec<_> = answers.into_iter().flatten().collect();
                if answers.len() < questions.len() {
                    return Err(error);
                }
                self.counters.count_answers(AnswerSource::StaleMemory, questions.len());
                Ok(AnswerGroup { answers, token, model })
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
        group.unwrap_or_else(|| AnswerGroup {
            answers: questions.iter().map(|_| None).collect(),
            token: empty.clone(),
            model: None,
        })
    }

    /// As [`Self::lookup_many`]; `None` if the access model was replaced while the buckets were read. Each bucket adopts it
    /// together with the rows of the same poll, so that rows and model are always of one state.
    fn lookup_once<Q: StandingQuestion>(
        &self,
        questions: &[Q],
        mut token: ConsistencyToken,
        source: AnswerSource,
    ) -> Option<MemoryAnswers<Q>> {
        let mut answers: Vec<_> = questions.iter().map(|_| None).collect();
        let mut model = None;
        if (0..USER_BUCKETS).any(|bucket| self.is_behind(user_bucket(bucket))) {
            return Some(AnswerGroup { answers, token, model });
        }
        let ids: Vec<Option<OrganizationId>> =
            questions.iter().map(|question| self.tables.organization(question.subject().0)).collect();
        // Read before the states, which are then at least as new.
        for bucket in 0..USER_BUCKETS {
            token.cover_user(self.tables.user_position(bucket));
        }
        for (number, indexes) in by_bucket(&ids) {
            let bucket = self.tables.read(number);
            let Some(bucket) = bucket.as_ref() else { continue };
            let roles = bucket.deployment_roles();
            for (index, id) in indexes {
                let question = &questions[index];
                let (organization, user) = question.subject();
                if !self.can_answer(bucket, id, organization) || self.is_model_behind(question, roles) {
                    continue;
                }
                let Some(mut facts) = Facts::in_bucket(question, bucket, id, roles) else { continue };
                facts.standing.user_state = user.and_then(|user| self.tables.user_state(user));
                let answered = SourcedAnswer::new(question, &facts, source);
                if answered.model.is_some_and(|at| *model.get_or_insert(at) != at) {
                    return None;
                }
                answers[index] = Some(answered).filter(|answered| Q::is_final(&answered.answer));
            }
            token.cover(bucket.at());
        }
        cover_model(&mut token, model);
        Some(AnswerGroup { answers, token, model })
    }
}

/// Answers from one place, with the token that covers them.
struct AnswerGroup<A> {
    answers: A,
    token: ConsistencyToken,
    /// The position of the access model by which they were answered; `None` if none of them depends on one.
    model: Option<BucketPosition>,
}

/// The organizations of the questions that have an answer.
fn organizations<Q: StandingQuestion>(
    questions: &[Q],
    answers: &[Option<SourcedAnswer<Q::Answer>>],
) -> HashSet<OrganizationId> {
    let answered = questions.iter().zip(answers).filter_map(|(question, answer)| Some((question, answer.as_ref()?)));
    let ids = answered.filter_map(|(question, answer)| match question.subject().0 {
        OrganizationRef::Id(id) => Some(*id),
        OrganizationRef::Slug(_) => answer.organization,
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
