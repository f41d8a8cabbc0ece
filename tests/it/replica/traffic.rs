//! Concurrent callers: writers, which record each change before they send it, and checkers, which verify each answer.

use super::change::{Change, Write, model, other_words};
use super::endpoint::Endpoint;
use super::oracle::{
    self, Call, CoveredToken, Criterion, MEMBERS, Mode, OWNERS, Oracle, OrganizationState, Question, Role, USERS,
};
use crate::harness::organization;
use roster::grpc::pb;
use roster::grpc::pb::consistency::Requirement;
use roster::random;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::{Code, Status};

/// Timeout of a write, with its repetitions.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);
/// Maximum number of checks in a batch.
const BATCH: usize = 300;
/// What the accountant holds at first.
const ACCOUNTANT: oracle::Permissions = 1;
/// Number of consistency tokens that are stored for later checks.
const TOKENS: usize = 64;

/// Pseudo-random numbers, the same for each seed (xorshift64*).
pub struct SeededRandom(u64);

impl SeededRandom {
    pub fn new(seed: u64, number: u64) -> Self {
        Self((seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1))
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % limit
    }

    pub fn pick<T: Copy>(&mut self, values: &[T]) -> Option<T> {
        (!values.is_empty()).then(|| values[self.below(values.len())])
    }
}

/// A write that a server acknowledged.
#[derive(Debug)]
pub struct Acknowledgement {
    pub request_id: String,
    /// The organization's number; `None` for a write to a user.
    pub organization: Option<usize>,
    /// The revisions that the write took; 0 for a write to a user, whose revision the oracle does not know.
    pub revisions: RangeInclusive<i64>,
}

/// Counters of answers and calls.
#[derive(Debug, Default)]
pub struct Counts {
    pub checks: AtomicU64,
    pub writes: AtomicU64,
    /// Answered calls of checks.
    pub calls: AtomicU64,
    /// Answered calls of checks with a consistency token.
    pub token_calls: AtomicU64,
    /// Answers to these calls, several for a batch.
    pub token_checks: AtomicU64,
    /// Attempts of writes with an unknown outcome. Each is repeated until a server acknowledges it.
    pub unknown: AtomicU64,
    pub failed: AtomicU64,
    pub memory: AtomicU64,
    pub primary: AtomicU64,
    pub stale: AtomicU64,
}

impl Counts {
    pub fn operations(&self) -> u64 {
        self.checks.load(Ordering::Relaxed) + self.writes.load(Ordering::Relaxed)
    }
}

/// The state that all callers share.
pub struct Workload {
    pub oracle: Oracle,
    pub endpoints: Vec<Endpoint>,
    pub counts: Counts,
    pub seed: u64,
    /// Whether calls may fail with `UNAVAILABLE` or `DEADLINE_EXCEEDED`.
    pub tolerates_failures: AtomicBool,
    /// Every acknowledged write.
    pub journal: Mutex<Vec<Acknowledgement>>,
    stop: AtomicBool,
    tokens: Mutex<Vec<CoveredToken>>,
    callers: AtomicUsize,
}

/// A set of running callers.
pub struct Traffic {
    pub workload: Arc<Workload>,
    callers: JoinSet<()>,
}

impl Workload {
    /// Creates organizations through the first endpoint, and the oracle that knows them.
    pub async fn new(endpoints: Vec<Endpoint>, count: usize, seed: u64) -> Arc<Self> {
        let mut organizations = Vec::new();
        let mut clients = endpoints[0].clients.clone();
        clients.models.apply_access_model(model(ACCOUNTANT)).await.unwrap();
        for index in 0..count {
            let (owner, mut roles) = (index % OWNERS, [Role::None; USERS]);
            let request = pb::CreateOrganizationRequest {
                slug: oracle::slug(index, 0),
                owner_user_id: oracle::user(owner),
                ..organization(&format!("Organization {index}"))
            };
            let id = clients.organizations.create_organization(request).await.unwrap();
            let id = id.into_inner().organization.unwrap().id;
            roles[owner] = Role::Admin;
            let mut revision = 2;
            for (user, role) in roles.iter_mut().enumerate().take(MEMBERS) {
                if user != owner && (user + index) % 3 == 0 {
                    clients.add(&id, &oracle::user(user), "member").await;
                    *role = Role::Member;
                    revision += 1;
                }
            }
            organizations.push((
                id,
                revision,
                OrganizationState { deleted: false, inactive: false, owner, slug: 0, roles, own: None },
            ));
        }
        Arc::new(Self {
            oracle: Oracle::new(organizations, ACCOUNTANT),
            endpoints,
            counts: Counts::default(),
            seed,
            tolerates_failures: AtomicBool::new(false),
            journal: Mutex::default(),
            stop: AtomicBool::new(false),
            tokens: Mutex::default(),
            callers: AtomicUsize::new(0),
        })
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn store_token(&self, random: &mut SeededRandom, token: CoveredToken) {
        let mut tokens = self.tokens.lock().unwrap();
        if tokens.len() < TOKENS {
            tokens.push(token);
        } else {
            tokens[random.below(TOKENS)] = token;
        }
    }

    /// The stored tokens.
    pub fn tokens(&self) -> Vec<CoveredToken> {
        self.tokens.lock().unwrap().clone()
    }

    /// Takes the stored tokens. After a failover that lost writes, they cover writes that no longer exist.
    pub fn take_tokens(&self) -> Vec<CoveredToken> {
        std::mem::take(&mut *self.tokens.lock().unwrap())
    }

    /// Counts a failed call and pauses. Panics if the workload does not tolerate this failure.
    async fn count_failure(&self, call: &str, status: &Status) {
        let expected = [Code::Unavailable, Code::DeadlineExceeded];
        assert!(self.tolerates_failures.load(Ordering::Relaxed), "seed {}: {call}: {status:?}", self.seed);
        assert!(
            expected.contains(&status.code()),
            "seed {}: {call} failed with an unexpected status: {status:?}",
            self.seed
        );
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    /// Sends checks to an endpoint and verifies the answers. Returns whether there were any.
    pub async fn check(&self, endpoint: usize, mode: Mode, questions: &[Question], random: &mut SeededRandom) -> bool {
        let mut checks = self.endpoints[endpoint].clients.checks.clone();
        let requirement = match &mode {
            Mode::Recent => None,
            Mode::AtLeast(CoveredToken { text, .. }) | Mode::LostEpoch(text) => {
                Some(Requirement::AtLeastAsFresh(text.clone()))
            }
            Mode::Full => Some(Requirement::FullyConsistent(true)),
        };
        let consistency = requirement.map(|requirement| pb::Consistency { requirement: Some(requirement) });
        let sent = Instant::now();
        let outcome = if let [question] = questions {
            let request = pb::CheckMembershipRequest { consistency, ..self.single(question) };
            let outcome = self.endpoints[endpoint].outcome(checks.check_membership(request)).await;
            outcome.map(|answer| answer.into_inner().result.unwrap()).map(|answer| {
                let token = answer.consistency_token.clone();
                (vec![answer], token)
            })
        } else {
            let items = questions.iter().map(|question| self.item(question)).collect();
            let request = pb::BatchCheckMembershipRequest { items, consistency };
            let outcome = self.endpoints[endpoint].outcome(checks.batch_check_membership(request)).await;
            outcome.map(tonic::Response::into_inner).map(|answer| (answer.results, answer.consistency_token))
        };
        let received = Instant::now();
        match outcome {
            Ok((answers, text)) => {
                let staleness = self.count(endpoint, &mode, &answers);
                let call = Call { endpoint, mode, sent, received, staleness };
                let verified = self.oracle.verify(&call, questions, &answers);
                let token =
                    verified.unwrap_or_else(|violation| panic!("seed {}: contract violated: {violation}", self.seed));
                self.store_token(random, CoveredToken { text, ..token });
                true
            }
            Err(status) => {
                self.count_failure("a check", &status).await;
                false
            }
        }
    }

    /// Counts the sources of the answers and returns the allowed staleness.
    fn count(&self, endpoint: usize, mode: &Mode, answers: &[pb::CheckResult]) -> Duration {
        let count = |source| u64::try_from(answers.iter().filter(|answer| answer.source() == source).count()).unwrap();
        let memory = count(pb::CheckSource::Memory);
        let (primary, stale) = (count(pb::CheckSource::Primary), count(pb::CheckSource::StaleMemory));
        assert_eq!(memory + primary + stale, u64::try_from(answers.len()).unwrap());
        let full = matches!(mode, Mode::Full | Mode::LostEpoch(_));
        assert!(!full || memory + stale == 0, "not from the primary: {answers:?}");
        assert!(stale == 0 || matches!(mode, Mode::Recent), "stale answers in spite of a consistency requirement");
        let with_token = u64::from(matches!(mode, Mode::AtLeast(_)));
        for (counter, count) in [
            (&self.counts.token_calls, with_token),
            (&self.counts.token_checks, with_token * (memory + primary)),
            (&self.counts.memory, memory),
            (&self.counts.primary, primary),
            (&self.counts.stale, stale),
            (&self.counts.checks, memory + primary + stale),
            (&self.counts.calls, 1),
        ] {
            counter.fetch_add(count, Ordering::Relaxed);
        }
        let endpoint = &self.endpoints[endpoint];
        if stale == 0 {
            endpoint.staleness
        } else {
            endpoint.stale.expect("stale answers without the setting serve_stale")
        }
    }

    async fn run_checker(self: Arc<Self>, number: usize) {
        let mut random = SeededRandom::new(self.seed, u64::try_from(number).unwrap());
        while !self.is_stopped() {
            let endpoint = random.below(self.endpoints.len());
            let mode = match random.below(8) {
                0 => Mode::Full,
                1..=3 => {
                    let tokens = self.tokens.lock().unwrap();
                    let stored = (!tokens.is_empty()).then(|| tokens[random.below(tokens.len())].clone());
                    stored.map_or(Mode::Recent, Mode::AtLeast)
                }
                _ => Mode::Recent,
            };
            let organizations: Vec<usize> =
                (0..=random.below(8)).map(|_| random.below(self.oracle.organizations.len())).collect();
            let count = if random.below(5) < 2 { 1 } else { 2 + random.below(BATCH - 1) };
            let any_slug = random.below(4) == 0;
            let questions: Vec<Question> = (0..count)
                .map(|_| {
                    let organization = organizations[random.below(organizations.len())];
                    self.question(&mut random, organization, any_slug)
                })
                .collect();
            self.check(endpoint, mode, &questions, &mut random).await;
        }
    }

    async fn run_writer(self: Arc<Self>, number: usize) {
        let mut random = SeededRandom::new(self.seed, u64::try_from(number).unwrap());
        while !self.is_stopped() {
            if random.below(12) == 0 {
                self.write_user(&mut random).await;
            } else if random.below(40) == 0 {
                self.write_model(&mut random).await;
            } else {
                let index = random.below(self.oracle.organizations.len());
                self.write_organization(&mut random, index).await;
            }
        }
    }

    /// A random write to an organization.
    async fn write_organization(&self, random: &mut SeededRandom, index: usize) {
        let organization = &self.oracle.organizations[index];
        let _write_lock = organization.write_lock.lock().await;
        let (revision, state) = {
            let history = organization.history.lock().unwrap();
            (history.last().revision, history.last().state.clone())
        };
        let change = Change::pick(random, &state);
        // A user must not be deactivated while it is added: the server would refuse the addition.
        let _user_lock = match change {
            Change::Add(user, _) => {
                let lock = self.oracle.users[user].write_lock.lock().await;
                if self.oracle.users[user].history.lock().unwrap().last().state {
                    return;
                }
                Some(lock)
            }
            _ => None,
        };
        let (next, revisions) = change.apply(&state);
        organization.history.lock().unwrap().begin(revision + revisions, next);
        let name = format!("Organization {index} at {revision}");
        let (id, is_first) = (organization.id.clone(), state.own.is_none());
        let write = Write::Organization { change, index, id, name, is_first };
        let acknowledge = |endpoint| organization.history.lock().unwrap().acknowledge(endpoint);
        let (request_id, text) = self.write(random, &write, acknowledge).await;
        let revisions_taken = revision + 1..=revision + revisions;
        self.record(Acknowledgement { request_id, organization: Some(index), revisions: revisions_taken });
        let organizations = [(index, revision + revisions)].into();
        let token = CoveredToken { text, organizations, ..CoveredToken::default() };
        let questions: Vec<Question> = (0..3).map(|_| self.question(random, index, false)).collect();
        self.use_token(random, token, &questions).await;
    }

    /// Deactivates or reactivates a user.
    async fn write_user(&self, random: &mut SeededRandom) {
        let user = OWNERS + random.below(MEMBERS - OWNERS);
        let record = &self.oracle.users[user];
        let _write_lock = record.write_lock.lock().await;
        let (revision, inactive) = {
            let history = record.history.lock().unwrap();
            (history.last().revision, history.last().state)
        };
        record.history.lock().unwrap().begin(revision + 1, !inactive);
        let write = Write::User { user, inactive: !inactive };
        let acknowledge = |endpoint| record.history.lock().unwrap().acknowledge(endpoint);
        let (request_id, text) = self.write(random, &write, acknowledge).await;
        self.record(Acknowledgement { request_id, organization: None, revisions: 0..=0 });
        let users = [(user, revision + 1)].into();
        let token = CoveredToken { text, users, ..CoveredToken::default() };
        let organization = random.below(self.oracle.organizations.len());
        self.use_token(random, token, &[Question { organization, slug: None, user, criterion: Criterion::Member }])
            .await;
    }

    /// Changes what the accountant holds.
    async fn write_model(&self, random: &mut SeededRandom) {
        let record = &self.oracle.model;
        let _write_lock = record.write_lock.lock().await;
        let (revision, present) = {
            let history = record.history.lock().unwrap();
            (history.last().revision, history.last().state)
        };
        let next = other_words(random, Some(present));
        record.history.lock().unwrap().begin(revision + 1, next);
        let acknowledge = |endpoint| record.history.lock().unwrap().acknowledge(endpoint);
        let (_, text) = self.write(random, &Write::Model(next), acknowledge).await;
        let token = CoveredToken { text, model: Some(revision + 1), ..CoveredToken::default() };
        let organization = random.below(self.oracle.organizations.len());
        let questions: Vec<Question> = (0..3).map(|_| self.question(random, organization, false)).collect();
        self.use_token(random, token, &questions).await;
    }

    /// Checks the result of a write with its token, possibly on a server that has not applied it yet, and stores the
    /// token.
    async fn use_token(&self, random: &mut SeededRandom, token: CoveredToken, questions: &[Question]) {
        if random.below(2) == 0 {
            self.check(random.below(self.endpoints.len()), Mode::AtLeast(token.clone()), questions, random).await;
        }
        self.store_token(random, token);
    }

    fn record(&self, acknowledgement: Acknowledgement) {
        self.journal.lock().unwrap().push(acknowledgement);
    }

    /// Sends a write to a random endpoint, and to other endpoints until one acknowledges it. Sometimes repeats an
    /// acknowledged write: a server that did not execute it then returns the same answer. Returns the id of the request
    /// and the consistency token.
    async fn write(
        &self,
        random: &mut SeededRandom,
        write: &Write,
        acknowledge: impl Fn(usize) + Send,
    ) -> (String, String) {
        let request_id = random::uuid().to_string();
        let start = Instant::now();
        let mut repeat = random.below(10) == 0;
        loop {
            let endpoint = random.below(self.endpoints.len());
            let target = &self.endpoints[endpoint];
            let call = Box::pin(write.call(target.clients.clone(), request_id.clone()));
            match target.outcome(call).await {
                Ok(token) => {
                    acknowledge(endpoint);
                    if !std::mem::take(&mut repeat) {
                        self.counts.writes.fetch_add(1, Ordering::Relaxed);
                        return (request_id, token);
                    }
                }
                Err(status) => {
                    assert!(start.elapsed() < WRITE_TIMEOUT, "seed {}: a write timed out: {status:?}", self.seed);
                    self.counts.unknown.fetch_add(1, Ordering::Relaxed);
                    self.count_failure("a write", &status).await;
                }
            }
        }
    }
}

impl Traffic {
    /// Starts this many writers and checkers.
    pub fn begin(workload: &Arc<Workload>, writers: usize, checkers: usize) -> Self {
        workload.stop.store(false, Ordering::Relaxed);
        let mut callers = JoinSet::new();
        for index in 0..writers + checkers {
            let number = workload.callers.fetch_add(1, Ordering::Relaxed) + 1;
            if index < writers {
                callers.spawn(workload.clone().run_writer(number));
            } else {
                callers.spawn(workload.clone().run_checker(number));
            }
        }
        Self { workload: workload.clone(), callers }
    }

    /// Runs until a condition holds. Panics with the first caller that panics.
    pub async fn until(&mut self, condition: &str, mut holds: impl FnMut(&Workload) -> bool) {
        let start = Instant::now();
        while !holds(&self.workload) {
            assert!(
                start.elapsed() < 2 * WRITE_TIMEOUT,
                "seed {}: timed out waiting until {condition}",
                self.workload.seed
            );
            self.run_for(Duration::from_millis(5)).await;
        }
    }

    /// Runs for this time.
    pub async fn run_for(&mut self, time: Duration) {
        tokio::select! {
            Some(outcome) = self.callers.join_next() => outcome.unwrap(),
            () = tokio::time::sleep(time) => {}
        }
    }

    /// Runs until this many more calls and this many more writes have been answered.
    pub async fn until_served(&mut self, more: u64) {
        let count = |counts: &Counts| (counts.calls.load(Ordering::Relaxed), counts.writes.load(Ordering::Relaxed));
        let (calls, writes) = count(&self.workload.counts);
        let served = |workload: &Workload| {
            let now = count(&workload.counts);
            now.0 >= calls + more && now.1 >= writes + more
        };
        self.until("calls were answered", served).await;
    }

    /// Stops all callers. Afterwards no write is pending.
    pub async fn end(mut self) {
        self.workload.stop.store(true, Ordering::Relaxed);
        while let Some(outcome) = self.callers.join_next().await {
            outcome.unwrap();
        }
    }
}
