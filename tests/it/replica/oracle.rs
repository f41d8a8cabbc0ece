//! What may be answered: the history of every organization and user, as those who write it know it, and the contract of
//! checks as a question put to it.
//!
//! An answer carries its organization's revision, so it must say exactly what the history says at that revision; and the
//! revision must lie between the oldest and the newest that the contract allows. Where an answer carries none (an
//! organization that is deleted, or has another slug), some revision in between must say so. All that one batch says of an
//! organization must be so at one revision.

use roster::grpc::pb;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The users: first those who may own, then those who may be switched off, last those who are nobody's members.
pub const OWNERS: usize = 8;
pub const MEMBERS: usize = 22;
pub const USERS: usize = 24;
/// The slugs that each organization takes in turn.
pub const SLUGS: usize = 3;

/// A stored role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    None,
    Member,
    Admin,
}

/// An organization as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    pub deleted: bool,
    pub inactive: bool,
    pub owner: usize,
    pub slug: usize,
    pub roles: [Role; USERS],
}

/// A state, and when it came to be.
#[derive(Debug, Clone)]
pub struct ChangeDetail<T> {
    pub revision: i64,
    pub state: T,
    /// Before the write was sent.
    sent: Instant,
    /// After it was acknowledged; none while it is under way.
    acknowledged: Option<Instant>,
    /// The doors that acknowledged it, and when: more than one where the request was repeated.
    by: Vec<(usize, Instant)>,
}

/// All states that something has had, oldest first. Only the last may be under way.
#[derive(Debug)]
pub struct History<T>(Vec<ChangeDetail<T>>);

impl<T: Clone> History<T> {
    pub fn new(revision: i64, state: T) -> Self {
        let now = Instant::now();
        Self(vec![ChangeDetail { revision, state, sent: now, acknowledged: Some(now), by: Vec::new() }])
    }

    pub fn last(&self) -> &ChangeDetail<T> {
        self.0.last().unwrap()
    }

    /// A write is about to be sent.
    pub fn begin(&mut self, revision: i64, state: T) {
        assert!(self.last().acknowledged.is_some(), "two writes at once");
        self.0.push(ChangeDetail { revision, state, sent: Instant::now(), acknowledged: None, by: Vec::new() });
    }

    /// It was acknowledged, perhaps once more.
    pub fn end(&mut self, door: usize) {
        let (last, now) = (self.0.last_mut().unwrap(), Instant::now());
        last.acknowledged.get_or_insert(now);
        last.by.push((door, now));
    }

    /// The states that an answer may reflect: from the newest that it must, to the newest that it can.
    fn window(&self, asked: &Asked, floor: Option<i64>) -> RangeInclusive<usize> {
        let acknowledged = |by: Instant| {
            self.0.partition_point(|entry| entry.acknowledged.is_some_and(|at| at <= by)).saturating_sub(1)
        };
        let old = asked.sent.checked_sub(asked.tolerance());
        let mut oldest = old.map_or(0, acknowledged);
        if let Some(floor) = floor {
            oldest = oldest.max(self.0.partition_point(|entry| entry.revision < floor));
        }
        // A server never answers from before what it has acknowledged itself.
        let is_own =
            |index: &usize| self.0[*index].by.iter().any(|(door, at)| *door == asked.door && *at <= asked.sent);
        let own = (oldest..=acknowledged(asked.sent)).rev().find(is_own);
        let newest = self.0.partition_point(|entry| entry.sent <= asked.received).saturating_sub(1);
        oldest.max(own.unwrap_or(0))..=newest
    }
}

/// How fresh an answer is to be.
#[derive(Debug, Clone)]
pub enum Mode {
    Recent,
    AtLeast(ConsistencyToken),
    /// With a token of before a failover that lost writes: as good as [`Self::Full`].
    Before(String),
    Full,
}

/// A token, and what its bearer knows that it covers.
#[derive(Debug, Clone, Default)]
pub struct ConsistencyToken {
    pub text: String,
    /// Revisions of organizations.
    pub organizations: BTreeMap<usize, i64>,
    /// Revisions of users.
    pub users: BTreeMap<usize, i64>,
}

/// When, where and how something was asked and answered.
#[derive(Debug, Clone)]
pub struct Asked {
    pub door: usize,
    pub mode: Mode,
    pub sent: Instant,
    pub received: Instant,
    /// The server's `max_staleness`; its cap, if an answer said that it was stale.
    pub staleness: Duration,
}

impl Asked {
    fn tolerance(&self) -> Duration {
        match self.mode {
            Mode::Recent | Mode::AtLeast(_) => self.staleness,
            Mode::Before(_) | Mode::Full => Duration::ZERO,
        }
    }
}

/// What is asked of a user.
#[derive(Debug, Clone, Copy)]
pub enum What {
    Member,
    Admin,
    Owner,
    MembersAdd,
}

/// A question.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    pub place: usize,
    /// By this of its slugs; none for by id.
    pub slug: Option<usize>,
    pub user: usize,
    pub change: What,
}

/// An organization, and its history.
pub struct Place {
    pub id: String,
    /// Held by who writes it.
    pub turn: tokio::sync::Mutex<()>,
    pub history: Mutex<History<Organization>>,
}

/// A user, and whether they are switched off.
pub struct Person {
    pub turn: tokio::sync::Mutex<()>,
    pub history: Mutex<History<bool>>,
}

/// All that is known.
pub struct Oracle {
    pub places: Vec<Place>,
    pub people: Vec<Person>,
}

/// How far every history had come.
pub struct Mark {
    places: Vec<usize>,
    people: Vec<usize>,
}

pub fn user(index: usize) -> String {
    format!("user-{index}")
}

pub fn slug(place: usize, index: usize) -> String {
    format!("place-{place}-{index}")
}

impl Oracle {
    /// Of organizations of these ids, which are at this revision and state.
    pub fn new(places: Vec<(String, i64, Organization)>) -> Self {
        let place = |(id, revision, state)| Place {
            id,
            turn: tokio::sync::Mutex::default(),
            history: Mutex::new(History::new(revision, state)),
        };
        let person = |_| Person { turn: tokio::sync::Mutex::default(), history: Mutex::new(History::new(0, false)) };
        Self { places: places.into_iter().map(place).collect(), people: (0..USERS).map(person).collect() }
    }

    pub fn name(&self, question: &Question) -> String {
        question.slug.map_or_else(|| self.places[question.place].id.clone(), |index| slug(question.place, index))
    }

    /// How far every history has come. Nobody may write meanwhile.
    pub fn mark(&self) -> Mark {
        let places = self.places.iter().map(|place| place.history.lock().unwrap().0.len());
        let people = self.people.iter().map(|person| person.history.lock().unwrap().0.len());
        Mark { places: places.collect(), people: people.collect() }
    }

    /// Everything that came after this was lost.
    pub fn lose(&self, mark: &Mark) {
        for (place, length) in self.places.iter().zip(&mark.places) {
            place.history.lock().unwrap().0.truncate(*length);
        }
        for (person, length) in self.people.iter().zip(&mark.people) {
            person.history.lock().unwrap().0.truncate(*length);
        }
    }

    /// Judges the answers to one call, all given at once. Tells what the answer's token must cover, or what is wrong.
    pub fn judge(
        &self,
        asked: &Asked,
        questions: &[Question],
        answers: &[pb::CheckResult],
    ) -> Result<ConsistencyToken, String> {
        assert_eq!(questions.len(), answers.len(), "as many answers as questions");
        let (none_organizations, none_users) = (BTreeMap::new(), BTreeMap::new());
        let (organization_floors, user_floors) = match &asked.mode {
            Mode::AtLeast(token) => (&token.organizations, &token.users),
            Mode::Recent | Mode::Before(_) | Mode::Full => (&none_organizations, &none_users),
        };
        let mut token = ConsistencyToken::default();
        let mut switched: BTreeMap<usize, Switched> = BTreeMap::new();
        for question in questions {
            switched.entry(question.user).or_insert_with(|| {
                let history = self.people[question.user].history.lock().unwrap();
                let window = history.window(asked, user_floors.get(&question.user).copied());
                token.users.insert(question.user, history.0[*window.start()].revision);
                Switched::new(&history.0[window])
            });
        }
        let mut by_place: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, question) in questions.iter().enumerate() {
            by_place.entry(question.place).or_default().push(index);
        }
        for (place, indices) in by_place {
            let history = self.places[place].history.lock().unwrap();
            let window = history.window(asked, organization_floors.get(&place).copied());
            let fits = |entry: &&ChangeDetail<Organization>| {
                indices.iter().all(|index| {
                    let (question, answer) = (&questions[*index], &answers[*index]);
                    switched[&question.user].possible().any(|off| agrees(entry, question, off, answer))
                })
            };
            let Some(found) = history.0[window.clone()].iter().find(fits) else {
                let told: Vec<_> = indices.iter().take(12).map(|index| (questions[*index], &answers[*index])).collect();
                let near = &history.0[window.start().saturating_sub(3)..];
                let near: Vec<_> = near.iter().take(20).collect();
                return Err(format!(
                    "no state in {window:?} fits: {asked:?}\nanswers: {told:#?}\nusers: {switched:?}\nhistory: {near:#?}"
                ));
            };
            token.organizations.insert(place, found.revision);
        }
        Ok(token)
    }
}

/// What a user may have been.
#[derive(Debug)]
struct Switched {
    on: bool,
    off: bool,
}

impl Switched {
    fn new(entries: &[ChangeDetail<bool>]) -> Self {
        Self { on: entries.iter().any(|entry| !entry.state), off: entries.iter().any(|entry| entry.state) }
    }

    fn possible(&self) -> impl Iterator<Item = bool> {
        [(self.on, false), (self.off, true)].into_iter().filter(|(possible, _)| *possible).map(|(_, off)| off)
    }
}

/// Whether an answer is what is to be said of this state.
fn agrees(entry: &ChangeDetail<Organization>, question: &Question, off: bool, answer: &pb::CheckResult) -> bool {
    let (reason, role, revision) = expected(entry, question, off);
    let allowed = reason == pb::CheckReason::Allowed;
    answer.revision == revision && answer.reason() == reason && answer.role == role && answer.allowed == allowed
}

fn expected(
    entry: &ChangeDetail<Organization>,
    question: &Question,
    off: bool,
) -> (pb::CheckReason, &'static str, i64) {
    use pb::CheckReason::{
        Allowed, NotAMember, OrganizationInactive, OrganizationNotFound, RoleLacksPermission, RoleTooLow, UserInactive,
    };
    let state = &entry.state;
    if state.deleted || question.slug.is_some_and(|slug| slug != state.slug) {
        return (OrganizationNotFound, "", 0);
    }
    let owns = state.owner == question.user;
    let stored = state.roles[question.user];
    let role = match stored {
        Role::None => "",
        _ if owns => "owner",
        Role::Admin => "admin",
        Role::Member => "member",
    };
    let reason = match (question.change, stored) {
        _ if state.inactive => OrganizationInactive,
        _ if off => UserInactive,
        (_, Role::None) => NotAMember,
        (What::Owner, _) if !owns => RoleTooLow,
        (What::Admin, Role::Member) => RoleTooLow,
        (What::MembersAdd, Role::Member) => RoleLacksPermission,
        _ => Allowed,
    };
    (reason, role, entry.revision)
}
