//! The oracle: the history of every organization and user, as recorded by the writers, and the verification of answers
//! against the consistency contract.
//!
//! An answer carries its organization's revision, so it must equal the history at that revision, and the revision must
//! lie between the oldest and the newest that the contract allows. If an answer carries no revision (the organization
//! is deleted, or has another slug), at least one revision in between must give this answer. All answers of one batch
//! about one organization must be correct at one common revision.

use roster::grpc::pb;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Numbers of users: the first may own organizations, the next may be deactivated, the last are never members.
pub const OWNERS: usize = 8;
pub const MEMBERS: usize = 22;
pub const USERS: usize = 24;
/// The number of slugs that each organization alternates between.
pub const SLUGS: usize = 3;

/// A stored role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    None,
    Member,
    Admin,
    /// A role of the deployment. The access model says what it holds.
    Accountant,
    /// A role of the organization's own.
    Own,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Accountant => "accountant",
            Self::Own => "org:own",
        }
    }
}

/// A set of permissions, one bit for each.
pub type Permissions = u8;
/// The words of the application, which the accountant and roles of organizations hold, with their bits.
pub const WORDS: [(&str, Permissions); 2] = [("billing.read", 1), ("billing.pay", 2)];
/// What members and admins hold beside those.
const MEMBER: Permissions = 4;
const ADMIN: Permissions = MEMBER | 8;
const OWNER: Permissions = Permissions::MAX;

/// The words in a set.
pub fn words(permissions: Permissions) -> Vec<String> {
    let held = WORDS.iter().filter(|(_, bit)| permissions & bit != 0);
    held.map(|(word, _)| (*word).to_owned()).collect()
}

/// An organization as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganizationState {
    pub deleted: bool,
    pub inactive: bool,
    pub owner: usize,
    pub slug: usize,
    pub roles: [Role; USERS],
    /// What the organization's own role holds; `None` if it does not exist.
    pub own: Option<Permissions>,
}

/// A version of a state, with the times of its write.
#[derive(Debug, Clone)]
pub struct Version<T> {
    pub revision: i64,
    pub state: T,
    /// A time before the write was sent.
    sent: Instant,
    /// A time after its acknowledgement; `None` while the write is pending.
    acknowledged: Option<Instant>,
    /// The endpoints that acknowledged the write, with the times: several if the request was repeated.
    acknowledgements: Vec<(usize, Instant)>,
}

/// All versions of a state, oldest first. Only the last may be pending.
#[derive(Debug)]
pub struct History<T>(Vec<Version<T>>);

impl<T: Clone> History<T> {
    pub fn new(revision: i64, state: T) -> Self {
        let now = Instant::now();
        Self(vec![Version { revision, state, sent: now, acknowledged: Some(now), acknowledgements: Vec::new() }])
    }

    pub fn last(&self) -> &Version<T> {
        self.0.last().unwrap()
    }

    /// Records a write before it is sent.
    pub fn begin(&mut self, revision: i64, state: T) {
        assert!(self.last().acknowledged.is_some(), "the previous write is still pending");
        self.0.push(Version {
            revision,
            state,
            sent: Instant::now(),
            acknowledged: None,
            acknowledgements: Vec::new(),
        });
    }

    /// Records an acknowledgement of the last write, the first one or a repeated one.
    pub fn acknowledge(&mut self, endpoint: usize) {
        let (last, now) = (self.0.last_mut().unwrap(), Instant::now());
        last.acknowledged.get_or_insert(now);
        last.acknowledgements.push((endpoint, now));
    }

    /// The versions that an answer may reflect: from the oldest that the contract allows to the newest that can exist.
    fn window(&self, call: &Call, floor: Option<i64>) -> RangeInclusive<usize> {
        let acknowledged = |time: Instant| {
            self.0.partition_point(|version| version.acknowledged.is_some_and(|at| at <= time)).saturating_sub(1)
        };
        let bound = call.sent.checked_sub(call.tolerance());
        let mut oldest = bound.map_or(0, acknowledged);
        if let Some(floor) = floor {
            oldest = oldest.max(self.0.partition_point(|version| version.revision < floor));
        }
        // A server never answers from a state before a write that it has acknowledged itself.
        let is_own = |index: &usize| {
            self.0[*index].acknowledgements.iter().any(|(endpoint, at)| *endpoint == call.endpoint && *at <= call.sent)
        };
        let own = (oldest..=acknowledged(call.sent)).rev().find(is_own);
        let newest = self.0.partition_point(|version| version.sent <= call.received).saturating_sub(1);
        oldest.max(own.unwrap_or(0))..=newest
    }
}

/// The consistency requirement of a call.
#[derive(Debug, Clone)]
pub enum Mode {
    Recent,
    AtLeast(CoveredToken),
    /// A consistency token from before a failover that lost writes: equivalent to [`Self::Full`].
    LostEpoch(String),
    Full,
}

/// A consistency token and the revisions that it must cover.
#[derive(Debug, Clone, Default)]
pub struct CoveredToken {
    pub text: String,
    /// Revisions of organizations.
    pub organizations: BTreeMap<usize, i64>,
    /// Revisions of users.
    pub users: BTreeMap<usize, i64>,
    /// The revision of the access model.
    pub model: Option<i64>,
}

/// A call of a check, with its endpoint and its times.
#[derive(Debug, Clone)]
pub struct Call {
    pub endpoint: usize,
    pub mode: Mode,
    pub sent: Instant,
    pub received: Instant,
    /// The server's `max_staleness`; its `serve_stale` if an answer is marked as stale.
    pub staleness: Duration,
}

impl Call {
    fn tolerance(&self) -> Duration {
        match self.mode {
            Mode::Recent | Mode::AtLeast(_) => self.staleness,
            Mode::LostEpoch(_) | Mode::Full => Duration::ZERO,
        }
    }
}

/// The condition that a check tests.
#[derive(Debug, Clone, Copy)]
pub enum Criterion {
    Member,
    Admin,
    Owner,
    MembersAdd,
    /// A permission of the application: the index of its word.
    Word(usize),
    Accountant,
    Own,
}

impl Criterion {
    /// Whether the answer depends on what roles hold.
    fn depends_on_model(self) -> bool {
        !matches!(self, Self::Member)
    }
}

/// A check and its answer.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// The organization's number.
    pub organization: usize,
    /// The number of the slug that names the organization; `None` names it by id.
    pub slug: Option<usize>,
    pub user: usize,
    pub criterion: Criterion,
}

/// An organization and its history.
pub struct Organization {
    pub id: String,
    /// Serializes the writers of the organization.
    pub write_lock: tokio::sync::Mutex<()>,
    pub history: Mutex<History<OrganizationState>>,
}

/// A user and the history of its deactivation.
pub struct User {
    pub write_lock: tokio::sync::Mutex<()>,
    pub history: Mutex<History<bool>>,
}

/// The recorded histories.
pub struct Oracle {
    pub organizations: Vec<Organization>,
    pub users: Vec<User>,
    /// What the accountant holds.
    pub model: AccessModel,
}

/// The access model and its history.
pub struct AccessModel {
    pub write_lock: tokio::sync::Mutex<()>,
    pub history: Mutex<History<Permissions>>,
}

/// The length of every history at one time.
pub struct Mark {
    organizations: Vec<usize>,
    users: Vec<usize>,
    model: usize,
}

pub fn user(index: usize) -> String {
    format!("user-{index}")
}

pub fn slug(organization: usize, index: usize) -> String {
    format!("organization-{organization}-{index}")
}

impl Oracle {
    /// An oracle of organizations with these ids, revisions and states, and of an access model at revision 1.
    pub fn new(organizations: Vec<(String, i64, OrganizationState)>, model: Permissions) -> Self {
        let model =
            AccessModel { write_lock: tokio::sync::Mutex::default(), history: Mutex::new(History::new(1, model)) };
        let organization = |(id, revision, state)| Organization {
            id,
            write_lock: tokio::sync::Mutex::default(),
            history: Mutex::new(History::new(revision, state)),
        };
        let user = |_| User { write_lock: tokio::sync::Mutex::default(), history: Mutex::new(History::new(0, false)) };
        Self {
            organizations: organizations.into_iter().map(organization).collect(),
            users: (0..USERS).map(user).collect(),
            model,
        }
    }

    pub fn name(&self, question: &Question) -> String {
        question.slug.map_or_else(
            || self.organizations[question.organization].id.clone(),
            |index| slug(question.organization, index),
        )
    }

    /// The present length of every history. No write may run at the same time.
    pub fn mark(&self) -> Mark {
        let organizations = self.organizations.iter().map(|organization| organization.history.lock().unwrap().0.len());
        let users = self.users.iter().map(|user| user.history.lock().unwrap().0.len());
        let model = self.model.history.lock().unwrap().0.len();
        Mark { organizations: organizations.collect(), users: users.collect(), model }
    }

    /// Discards the versions after a mark, because the datastore has lost them.
    pub fn discard_after(&self, mark: &Mark) {
        for (organization, length) in self.organizations.iter().zip(&mark.organizations) {
            organization.history.lock().unwrap().0.truncate(*length);
        }
        for (user, length) in self.users.iter().zip(&mark.users) {
            user.history.lock().unwrap().0.truncate(*length);
        }
        self.model.history.lock().unwrap().0.truncate(mark.model);
    }

    /// Verifies the answers to one call: all of them by one access model. Returns the revisions that the answer's token
    /// must cover, or a description of the violation.
    pub fn verify(
        &self,
        call: &Call,
        questions: &[Question],
        answers: &[pb::CheckResult],
    ) -> Result<CoveredToken, String> {
        assert_eq!(questions.len(), answers.len(), "one answer per question");
        let floor = match &call.mode {
            Mode::AtLeast(token) => token.model,
            Mode::Recent | Mode::LostEpoch(_) | Mode::Full => None,
        };
        let models = {
            let history = self.model.history.lock().unwrap();
            let window = history.window(call, floor);
            history.0[window].to_vec()
        };
        let depends = questions.iter().any(|question| question.criterion.depends_on_model());
        let mut outcome = Err("no access model is possible".to_owned());
        for model in &models {
            outcome = self.verify_by(model.state, call, questions, answers);
            if let Ok(token) = outcome {
                return Ok(CoveredToken { model: depends.then_some(model.revision), ..token });
            }
        }
        outcome.map_err(|violation| format!("{violation}\nmodels: {models:?}"))
    }

    /// As [`Self::verify`], by an access model in which the accountant holds these permissions.
    fn verify_by(
        &self,
        accountant: Permissions,
        call: &Call,
        questions: &[Question],
        answers: &[pb::CheckResult],
    ) -> Result<CoveredToken, String> {
        let (no_organizations, no_users) = (BTreeMap::new(), BTreeMap::new());
        let (organization_floors, user_floors) = match &call.mode {
            Mode::AtLeast(token) => (&token.organizations, &token.users),
            Mode::Recent | Mode::LostEpoch(_) | Mode::Full => (&no_organizations, &no_users),
        };
        let mut token = CoveredToken::default();
        let mut user_states: BTreeMap<usize, PossibleStates> = BTreeMap::new();
        for question in questions {
            user_states.entry(question.user).or_insert_with(|| {
                let history = self.users[question.user].history.lock().unwrap();
                let window = history.window(call, user_floors.get(&question.user).copied());
                token.users.insert(question.user, history.0[*window.start()].revision);
                PossibleStates::new(&history.0[window])
            });
        }
        let mut by_organization: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, question) in questions.iter().enumerate() {
            by_organization.entry(question.organization).or_default().push(index);
        }
        for (organization, indices) in by_organization {
            let history = self.organizations[organization].history.lock().unwrap();
            let window = history.window(call, organization_floors.get(&organization).copied());
            let matches = |version: &&Version<OrganizationState>| {
                indices.iter().all(|index| {
                    let (question, answer) = (&questions[*index], &answers[*index]);
                    user_states[&question.user]
                        .possible()
                        .any(|inactive| agrees(version, question, inactive, accountant, answer))
                })
            };
            let Some(version) = history.0[window.clone()].iter().find(matches) else {
                let given: Vec<_> =
                    indices.iter().take(12).map(|index| (questions[*index], &answers[*index])).collect();
                let nearby = &history.0[window.start().saturating_sub(3)..];
                let nearby: Vec<_> = nearby.iter().take(20).collect();
                return Err(format!(
                    "no version in {window:?} matches: {call:?}\nanswers: {given:#?}\nusers: {user_states:?}\n\
                     history: {nearby:#?}"
                ));
            };
            token.organizations.insert(organization, version.revision);
        }
        Ok(token)
    }
}

/// The states that a user may have had within the window.
#[derive(Debug)]
struct PossibleStates {
    active: bool,
    inactive: bool,
}

impl PossibleStates {
    fn new(versions: &[Version<bool>]) -> Self {
        Self {
            active: versions.iter().any(|version| !version.state),
            inactive: versions.iter().any(|version| version.state),
        }
    }

    fn possible(&self) -> impl Iterator<Item = bool> {
        [(self.active, false), (self.inactive, true)]
            .into_iter()
            .filter(|(possible, _)| *possible)
            .map(|(_, inactive)| inactive)
    }
}

/// Whether an answer is correct for a version of the organization, a state of the user and what the accountant holds.
fn agrees(
    version: &Version<OrganizationState>,
    question: &Question,
    inactive: bool,
    accountant: Permissions,
    answer: &pb::CheckResult,
) -> bool {
    let (reason, role, revision) = expected(version, question, inactive, accountant);
    let allowed = reason == pb::CheckReason::Allowed;
    answer.revision == revision && answer.reason() == reason && answer.role == role && answer.allowed == allowed
}

fn expected(
    version: &Version<OrganizationState>,
    question: &Question,
    inactive: bool,
    accountant: Permissions,
) -> (pb::CheckReason, &'static str, i64) {
    use pb::CheckReason::{
        Allowed, NotAMember, OrganizationInactive, OrganizationNotFound, RoleLacksPermission, RoleNotFound, RoleTooLow,
        UserInactive,
    };
    let state = &version.state;
    if state.deleted || question.slug.is_some_and(|slug| slug != state.slug) {
        return (OrganizationNotFound, "", 0);
    }
    let is_owner = state.owner == question.user;
    let stored = state.roles[question.user];
    let role = if is_owner { "owner" } else { stored.name() };
    let held = match stored {
        _ if is_owner => OWNER,
        Role::None => 0,
        Role::Member => MEMBER,
        Role::Admin => ADMIN,
        Role::Accountant => accountant,
        Role::Own => state.own.expect("a member holds a role that exists"),
    };
    let (required, otherwise) = match question.criterion {
        Criterion::Member => (0, Allowed),
        Criterion::Admin => (ADMIN, RoleTooLow),
        Criterion::Owner => (OWNER, RoleTooLow),
        Criterion::MembersAdd => (ADMIN, RoleLacksPermission),
        Criterion::Word(index) => (WORDS[index].1, RoleLacksPermission),
        Criterion::Accountant => (accountant, RoleTooLow),
        Criterion::Own => (state.own.unwrap_or_default(), RoleTooLow),
    };
    let reason = match stored {
        _ if state.inactive => OrganizationInactive,
        _ if inactive => UserInactive,
        _ if matches!(question.criterion, Criterion::Own) && state.own.is_none() => RoleNotFound,
        Role::None => NotAMember,
        _ if held & required == required => Allowed,
        _ => otherwise,
    };
    (reason, role, version.revision)
}
