//! Callers who never stop: those who write, each change on record before it is sent, and those who ask, each answer judged.

use super::change::{Change, Write};
use super::oracle::{
    self, Asked, ConsistencyToken, MEMBERS, Mode, OWNERS, Oracle, Organization, Question, Role, SLUGS, USERS, What,
};
use crate::harness::server::Clients;
use crate::harness::{is_member, organization};
use roster::grpc::pb;
use roster::grpc::pb::consistency::Requirement;
use roster::random;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::{Code, Status};

/// How long a write may be repeated until it is answered.
const PATIENCE: Duration = Duration::from_mins(1);
/// Questions in a batch at most.
const BATCH: usize = 300;
/// Tokens that are kept to be brought along.
const TOKENS: usize = 64;

/// Small numbers that look random and are the same for each seed (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, number: u64) -> Self {
        Self((seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1))
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % sides
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.roll(of.len())])
    }
}

/// A server, as its callers know it.
pub struct Pipeline {
    pub clients: Clients,
    /// Its `max_staleness`.
    pub staleness: Duration,
    /// Its `serve_stale`.
    pub stale: Option<Duration>,
}

/// What has been counted.
#[derive(Debug, Default)]
pub struct Counts {
    pub checks: AtomicU64,
    pub writes: AtomicU64,
    pub calls: AtomicU64,
    pub failed: AtomicU64,
    pub tables: AtomicU64,
    pub primary: AtomicU64,
    pub stale: AtomicU64,
}

impl Counts {
    pub fn operations(&self) -> u64 {
        self.checks.load(Ordering::Relaxed) + self.writes.load(Ordering::Relaxed)
    }
}

/// Everything that callers share.
pub struct Scene {
    pub oracle: Oracle,
    pub doors: Vec<Pipeline>,
    pub counts: Counts,
    pub seed: u64,
    /// Whether calls may fail, for as long as they say so by name.
    pub tolerant: AtomicBool,
    stop: AtomicBool,
    tokens: Mutex<Vec<ConsistencyToken>>,
    callers: AtomicUsize,
}

/// Callers at work.
pub struct Traffic {
    pub scene: Arc<Scene>,
    callers: JoinSet<()>,
}

impl Scene {
    /// Makes organizations by the first door, and what is known of them.
    pub async fn new(doors: Vec<Pipeline>, places: usize, seed: u64) -> Arc<Self> {
        let mut made = Vec::new();
        let mut clients = doors[0].clients.clone();
        for place in 0..places {
            let (owner, mut roles) = (place % OWNERS, [Role::None; USERS]);
            let request = pb::CreateOrganizationRequest {
                slug: oracle::slug(place, 0),
                owner_user_id: oracle::user(owner),
                ..organization(&format!("Place {place}"))
            };
            let id = clients.organizations.create_organization(request).await.unwrap();
            let id = id.into_inner().organization.unwrap().id;
            roles[owner] = Role::Admin;
            let mut revision = 2;
            for (user, role) in roles.iter_mut().enumerate().take(MEMBERS) {
                if user != owner && (user + place) % 3 == 0 {
                    clients.add(&id, &oracle::user(user), "member").await;
                    *role = Role::Member;
                    revision += 1;
                }
            }
            made.push((id, revision, Organization { deleted: false, inactive: false, owner, slug: 0, roles }));
        }
        Arc::new(Self {
            oracle: Oracle::new(made),
            doors,
            counts: Counts::default(),
            seed,
            tolerant: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            tokens: Mutex::default(),
            callers: AtomicUsize::new(0),
        })
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn keep(&self, dice: &mut Dice, token: ConsistencyToken) {
        let mut tokens = self.tokens.lock().unwrap();
        if tokens.len() < TOKENS {
            tokens.push(token);
        } else {
            tokens[dice.roll(TOKENS)] = token;
        }
    }

    /// Tokens of before a failover that lost writes know of things that never were.
    pub fn forget_tokens(&self) -> Vec<ConsistencyToken> {
        std::mem::take(&mut *self.tokens.lock().unwrap())
    }

    /// Notes that a call failed, and waits a moment.
    async fn failed(&self, change: &str, status: &Status) {
        let known = [Code::Unavailable, Code::DeadlineExceeded];
        assert!(self.tolerant.load(Ordering::Relaxed), "seed {}: {change}: {status:?}", self.seed);
        assert!(known.contains(&status.code()), "seed {}: {change} fails otherwise: {status:?}", self.seed);
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    /// Asks through a door, and judges the answers. Tells whether there were any.
    pub async fn ask(&self, door: usize, mode: Mode, questions: &[Question], dice: &mut Dice) -> bool {
        let mut checks = self.doors[door].clients.checks.clone();
        let requirement = match &mode {
            Mode::Recent => None,
            Mode::AtLeast(ConsistencyToken { text, .. }) | Mode::Before(text) => {
                Some(Requirement::AtLeastAsFresh(text.clone()))
            }
            Mode::Full => Some(Requirement::FullyConsistent(true)),
        };
        let consistency = requirement.map(|requirement| pb::Consistency { requirement: Some(requirement) });
        let sent = Instant::now();
        let answered = if let [question] = questions {
            let request = pb::CheckMembershipRequest { consistency, ..self.single(question) };
            let answered = checks.check_membership(request).await;
            answered.map(|answer| answer.into_inner().result.unwrap()).map(|answer| {
                let token = answer.consistency_token.clone();
                (vec![answer], token)
            })
        } else {
            let items = questions.iter().map(|question| self.item(question)).collect();
            let answered = checks.batch_check_membership(pb::BatchCheckMembershipRequest { items, consistency }).await;
            answered.map(tonic::Response::into_inner).map(|answer| (answer.results, answer.consistency_token))
        };
        let received = Instant::now();
        match answered {
            Ok((answers, text)) => {
                let staleness = self.count(door, &mode, &answers);
                let asked = Asked { door, mode, sent, received, staleness };
                let judged = self.oracle.judge(&asked, questions, &answers);
                let token = judged.unwrap_or_else(|wrong| panic!("seed {}: outside the contract: {wrong}", self.seed));
                self.keep(dice, ConsistencyToken { text, ..token });
                true
            }
            Err(status) => {
                self.failed("a check", &status).await;
                false
            }
        }
    }

    /// Counts who answered, and tells how old the answers may be.
    fn count(&self, door: usize, mode: &Mode, answers: &[pb::CheckResult]) -> Duration {
        let count = |source| u64::try_from(answers.iter().filter(|answer| answer.source() == source).count()).unwrap();
        let tables = count(pb::CheckSource::Memory);
        let (primary, stale) = (count(pb::CheckSource::Primary), count(pb::CheckSource::StaleMemory));
        assert_eq!(tables + primary + stale, u64::try_from(answers.len()).unwrap());
        let full = matches!(mode, Mode::Full | Mode::Before(_));
        assert!(!full || tables + stale == 0, "not from the primary: {answers:?}");
        assert!(stale == 0 || matches!(mode, Mode::Recent), "stale answers to who asked for more");
        for (counter, more) in [
            (&self.counts.tables, tables),
            (&self.counts.primary, primary),
            (&self.counts.stale, stale),
            (&self.counts.checks, tables + primary + stale),
            (&self.counts.calls, 1),
        ] {
            counter.fetch_add(more, Ordering::Relaxed);
        }
        let door = &self.doors[door];
        if stale == 0 { door.staleness } else { door.stale.expect("stale answers where none are allowed") }
    }

    fn single(&self, question: &Question) -> pb::CheckMembershipRequest {
        use pb::check_membership_request::Question::{Permission, Role};
        let asked = match question.change {
            What::Member => None,
            What::Admin => Some(Role("admin".to_owned())),
            What::Owner => Some(Role("owner".to_owned())),
            What::MembersAdd => Some(Permission("members.add".to_owned())),
        };
        let request = is_member(&self.oracle.name(question), &oracle::user(question.user));
        pb::CheckMembershipRequest { question: asked, ..request }
    }

    fn item(&self, question: &Question) -> pb::CheckItem {
        use pb::check_item::Question::{Permission, Role};
        use pb::check_membership_request::Question as Single;
        let single = self.single(question);
        let question = single.question.map(|question| match question {
            Single::Role(role) => Role(role),
            Single::Permission(permission) => Permission(permission),
        });
        pb::CheckItem { organization: single.organization, user_id: single.user_id, question }
    }

    /// Some question. By a slug that the organization had last, or by any: where that is nobody's, the primary answers.
    pub fn question(&self, dice: &mut Dice, place: usize, any_slug: bool) -> Question {
        let change = [What::Member, What::Member, What::Admin, What::Owner, What::MembersAdd][dice.roll(5)];
        let slug = (dice.roll(4) == 0).then(|| {
            let last = self.oracle.places[place].history.lock().unwrap().last().state.slug;
            if any_slug { dice.roll(SLUGS) } else { last }
        });
        Question { place, slug, user: dice.roll(USERS), change }
    }

    async fn ask_for_ever(self: Arc<Self>, number: usize) {
        let mut dice = Dice::new(self.seed, u64::try_from(number).unwrap());
        while !self.stopped() {
            let door = dice.roll(self.doors.len());
            let mode = match dice.roll(8) {
                0 => Mode::Full,
                1..=3 => {
                    let tokens = self.tokens.lock().unwrap();
                    let kept = (!tokens.is_empty()).then(|| tokens[dice.roll(tokens.len())].clone());
                    kept.map_or(Mode::Recent, Mode::AtLeast)
                }
                _ => Mode::Recent,
            };
            let places: Vec<usize> = (0..=dice.roll(8)).map(|_| dice.roll(self.oracle.places.len())).collect();
            let count = if dice.roll(5) < 2 { 1 } else { 2 + dice.roll(BATCH - 1) };
            let any_slug = dice.roll(4) == 0;
            let questions: Vec<Question> = (0..count)
                .map(|_| {
                    let place = places[dice.roll(places.len())];
                    self.question(&mut dice, place, any_slug)
                })
                .collect();
            self.ask(door, mode, &questions, &mut dice).await;
        }
    }

    async fn write_for_ever(self: Arc<Self>, number: usize) {
        let mut dice = Dice::new(self.seed, u64::try_from(number).unwrap());
        while !self.stopped() {
            if dice.roll(12) == 0 {
                self.switch(&mut dice).await;
            } else {
                let place = dice.roll(self.oracle.places.len());
                self.write(&mut dice, place).await;
            }
        }
    }

    /// One random write in an organization.
    pub async fn write(&self, dice: &mut Dice, place: usize) {
        let here = &self.oracle.places[place];
        let _turn = here.turn.lock().await;
        let (revision, state) = {
            let history = here.history.lock().unwrap();
            (history.last().revision, history.last().state.clone())
        };
        let change = Change::pick(dice, &state);
        // Nobody is switched off while they are added: that would be refused.
        let _person = match change {
            Change::Add(user, _) => {
                let turn = self.oracle.people[user].turn.lock().await;
                if self.oracle.people[user].history.lock().unwrap().last().state {
                    return;
                }
                Some(turn)
            }
            _ => None,
        };
        let (next, more) = change.apply(&state);
        here.history.lock().unwrap().begin(revision + more, next);
        let name = format!("Place {place} at {revision}");
        let write = Write::In { change, place, id: here.id.clone(), name };
        let done = |door| here.history.lock().unwrap().end(door);
        let text = self.until_done(dice, &write, done).await;
        let organizations = [(place, revision + more)].into();
        let token = ConsistencyToken { text, organizations, ..ConsistencyToken::default() };
        let questions: Vec<Question> = (0..3).map(|_| self.question(dice, place, false)).collect();
        self.bring(dice, token, &questions).await;
    }

    /// Switches a user off or on.
    async fn switch(&self, dice: &mut Dice) {
        let user = OWNERS + dice.roll(MEMBERS - OWNERS);
        let person = &self.oracle.people[user];
        let _turn = person.turn.lock().await;
        let (revision, off) = {
            let history = person.history.lock().unwrap();
            (history.last().revision, history.last().state)
        };
        person.history.lock().unwrap().begin(revision + 1, !off);
        let write = Write::Switch { user, off: !off };
        let text = self.until_done(dice, &write, |door| person.history.lock().unwrap().end(door)).await;
        let users = [(user, revision + 1)].into();
        let token = ConsistencyToken { text, users, ..ConsistencyToken::default() };
        let place = dice.roll(self.oracle.places.len());
        self.bring(dice, token, &[Question { place, slug: None, user, change: What::Member }]).await;
    }

    /// Asks about what was just written, of a server that has hardly heard of it, and keeps the token for others.
    async fn bring(&self, dice: &mut Dice, token: ConsistencyToken, questions: &[Question]) {
        if dice.roll(2) == 0 {
            self.ask(dice.roll(self.doors.len()), Mode::AtLeast(token.clone()), questions, dice).await;
        }
        self.keep(dice, token);
    }

    /// Writes through some door, and through others while nobody knows whether it is done. Now and then once more
    /// although it is: the same answer then comes from a server that has not written itself.
    async fn until_done(&self, dice: &mut Dice, write: &Write, done: impl Fn(usize) + Send) -> String {
        let request_id = random::uuid().to_string();
        let begun = Instant::now();
        let mut again = dice.roll(10) == 0;
        loop {
            let door = dice.roll(self.doors.len());
            match write.call(self.doors[door].clients.clone(), request_id.clone()).await {
                Ok(token) => {
                    done(door);
                    if !std::mem::take(&mut again) {
                        self.counts.writes.fetch_add(1, Ordering::Relaxed);
                        return token;
                    }
                }
                Err(status) => {
                    assert!(begun.elapsed() < PATIENCE, "seed {}: a write is never done: {status:?}", self.seed);
                    self.failed("a write", &status).await;
                }
            }
        }
    }
}

impl Traffic {
    /// So many who write and so many who ask.
    pub fn begin(scene: &Arc<Scene>, writers: usize, checkers: usize) -> Self {
        scene.stop.store(false, Ordering::Relaxed);
        let mut callers = JoinSet::new();
        for index in 0..writers + checkers {
            let number = scene.callers.fetch_add(1, Ordering::Relaxed) + 1;
            if index < writers {
                callers.spawn(scene.clone().write_for_ever(number));
            } else {
                callers.spawn(scene.clone().ask_for_ever(number));
            }
        }
        Self { scene: scene.clone(), callers }
    }

    /// Goes on until a condition holds. Fails with the first caller that fails.
    pub async fn until(&mut self, change: &str, mut holds: impl FnMut(&Scene) -> bool) {
        let begun = Instant::now();
        while !holds(&self.scene) {
            assert!(begun.elapsed() < 2 * PATIENCE, "seed {}: it never happened that {change}", self.scene.seed);
            self.for_a_while(Duration::from_millis(5)).await;
        }
    }

    /// Goes on for so long.
    pub async fn for_a_while(&mut self, time: Duration) {
        tokio::select! {
            Some(ended) = self.callers.join_next() => ended.unwrap(),
            () = tokio::time::sleep(time) => {}
        }
    }

    /// Goes on until so many more calls and writes were answered.
    pub async fn served(&mut self, more: u64) {
        let count = |counts: &Counts| (counts.calls.load(Ordering::Relaxed), counts.writes.load(Ordering::Relaxed));
        let (calls, writes) = count(&self.scene.counts);
        let served = |scene: &Scene| {
            let now = count(&scene.counts);
            now.0 >= calls + more && now.1 >= writes + more
        };
        self.until("calls were answered", served).await;
    }

    /// Ends it: every write is done then.
    pub async fn end(mut self) {
        self.scene.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
    }
}
