//! Concurrency on a real Postgres: each race many times, from a barrier and stepped by hand.
//!
//! A race has two sides, and its outcome must be that of one of the two orders in which the sides could have come one
//! after the other: each race says for both orders what each side is told. It is run in three ways:
//!
//! * *held*, the first side ahead: the test holds the row that both sides must lock, lets the first side come to a stop
//!   before it, then the second, and lets go. Both sides have then been let in by what was true before either: the worst
//!   interleaving there is, without luck. Of two who wait for a row Postgres serves the one who came first, so the order
//!   is known;
//! * held, the second side ahead;
//! * *free*: both from a barrier, and either order will do.
//!
//! After each round the datastore keeps every invariant, and holds as many events as were acknowledged.

mod ownership;
mod requests;
mod slugs;
mod storm;
mod users;
mod without_locks;

use crate::harness::server::Clients;
use crate::harness::{Database, Server, reason};
use roster::grpc::pb;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Barrier;
use tonic::{Response, Status};
use tonic_types::StatusExt;

/// How often each race is run in each of its three ways; `ROSTER_TEST_ROUNDS` says otherwise.
pub fn rounds() -> usize {
    std::env::var("ROSTER_TEST_ROUNDS").ok().map_or(7, |rounds| rounds.parse().unwrap())
}

/// One side of a race.
pub type Call = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// Makes a side of a call.
pub fn side<T>(call: impl Future<Output = Result<Response<T>, Status>> + Send + 'static) -> Call {
    Box::pin(async move { call.await.map(|_| ()) })
}

/// What a side was told: `OK`, or the reason of its refusal, and the state that it lost to where that is told.
pub fn told(answer: &Result<(), Status>) -> String {
    let Err(status) = answer else { return "OK".to_owned() };
    let info = status.get_details_error_info();
    let state = info.and_then(|mut info| info.metadata.remove("state"));
    [Some(reason(status)), state].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The row that both sides of a race must lock.
pub enum Held {
    Organization(String),
    User(String),
    /// A slug, which is held by having it claimed and then not taken. Postgres wakes all who wait for that at once, so
    /// the order of the sides is not known.
    Slug(String),
    /// Nothing: the sides lock different things, and only run free.
    Nothing,
}

impl Held {
    fn statement(&self) -> String {
        match self {
            Self::Nothing => "SELECT".to_owned(),
            Self::Organization(id) => format!("SELECT FROM organizations WHERE id = '{id}' FOR NO KEY UPDATE"),
            Self::User(id) => format!("SELECT FROM users WHERE id = '{id}' FOR NO KEY UPDATE"),
            Self::Slug(slug) => {
                let id = "00000000-0000-4000-8000-000000000000";
                format!("INSERT INTO slugs (slug, bucket, organization_id) VALUES ('{slug}', 0, '{id}')")
            }
        }
    }
}

/// One round's two sides, and what they meet at.
pub struct Sides {
    pub held: Held,
    pub calls: [Call; 2],
}

/// What each side is told, and how many events there are for it.
pub type Outcome = ([&'static str; 2], i64);

/// The outcomes of a race when the first side comes first, and when the second does; and more that only a free run
/// has, where a side may be refused before it reaches the lock.
#[derive(Debug, Clone, Copy)]
pub struct Outcomes {
    pub first_ahead: Outcome,
    pub second_ahead: Outcome,
    pub free: &'static [Outcome],
}

impl Outcomes {
    pub fn of(first_ahead: Outcome, second_ahead: Outcome) -> Self {
        Self { first_ahead, second_ahead, free: &[] }
    }

    fn all(&self) -> Vec<Outcome> {
        [&[self.first_ahead, self.second_ahead], self.free].concat()
    }
}

/// Runs a race in its three ways, many rounds each, and judges each round.
pub async fn run(server: &Server, outcomes: Outcomes, setup: impl AsyncFn(usize) -> Sides) {
    run_for(rounds(), server, outcomes, setup).await;
}

async fn run_for(rounds: usize, server: &Server, outcomes: Outcomes, setup: impl AsyncFn(usize) -> Sides) {
    let database = &server.database;
    let mut number = 0;
    for _ in 0..rounds {
        for way in [Way::FirstAhead, Way::SecondAhead, Way::Free] {
            let sides = setup(number).await;
            number += 1;
            let expected = match (&sides.held, way) {
                (Held::Slug(_) | Held::Nothing, _) | (_, Way::Free) => outcomes.all(),
                (_, Way::FirstAhead) => vec![outcomes.first_ahead],
                (_, Way::SecondAhead) => vec![outcomes.second_ahead],
            };
            let before = events(database).await;
            let answers = way.run(database, sides).await;
            let seen = (answers.each_ref().map(told), events(database).await - before);
            let matches = expected.iter().any(|(told, events)| seen.0 == *told && seen.1 == *events);
            assert!(matches, "{way:?}: {seen:?} is none of {expected:?}");
            database.assert_invariants().await;
        }
    }
    database.assert_no_open_transactions().await;
}

/// How a round is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    FirstAhead,
    SecondAhead,
    Free,
}

impl Way {
    async fn run(self, database: &Database, Sides { held, calls: [first, second] }: Sides) -> [Result<(), Status>; 2] {
        match self {
            _ if matches!(held, Held::Nothing) => from_barrier(vec![first, second]).await.try_into().unwrap(),
            Self::Free => from_barrier(vec![first, second]).await.try_into().unwrap(),
            Self::FirstAhead => one_behind_the_other(database, &held, vec![first, second]).await.try_into().unwrap(),
            Self::SecondAhead => {
                let answers = one_behind_the_other(database, &held, vec![second, first]).await;
                let [second, first]: [_; 2] = answers.try_into().unwrap();
                [first, second]
            }
        }
    }
}

/// Lets all go at once.
pub async fn from_barrier(calls: Vec<Call>) -> Vec<Result<(), Status>> {
    let barrier = Arc::new(Barrier::new(calls.len()));
    let tasks: Vec<_> = calls
        .into_iter()
        .map(|call| {
            let barrier = barrier.clone();
            tokio::spawn(async move {
                barrier.wait().await;
                call.await
            })
        })
        .collect();
    answers(tasks).await
}

/// Holds what all must lock, lets them come up one behind the other, and then lets go.
pub async fn one_behind_the_other(database: &Database, held: &Held, calls: Vec<Call>) -> Vec<Result<(), Status>> {
    let mut holder = database.pool.begin().await.unwrap();
    sqlx::query(AssertSqlSafe(held.statement())).execute(&mut *holder).await.unwrap();
    let mut tasks = Vec::new();
    for call in calls {
        tasks.push(tokio::spawn(call));
        until_waiting(database, tasks.len()).await;
    }
    holder.rollback().await.unwrap();
    answers(tasks).await
}

async fn answers(tasks: Vec<tokio::task::JoinHandle<Result<(), Status>>>) -> Vec<Result<(), Status>> {
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

/// Waits until this many transactions of the database wait for a lock.
pub async fn until_waiting(database: &Database, waiters: usize) {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let all = i64::try_from(waiters).unwrap();
    let all_wait = async { while database.count(WAITING).await != all {} };
    let waited = tokio::time::timeout(Duration::from_secs(10), all_wait).await;
    assert!(waited.is_ok(), "never were {waiters} transactions waiting for a lock at once");
}

/// Those who take part, each known already, so that no call of theirs has a profile to write down first.
struct Cast {
    server: Server,
    ada: Clients,
    grace: Clients,
    alan: Clients,
    operator: Clients,
}

impl Cast {
    async fn new() -> Self {
        let server = Server::start().await;
        let people = ["ada", "grace", "alan"].map(|id| server.user(id));
        for mut person in people.clone() {
            person.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        }
        let [ada, grace, alan] = people;
        let operator = server.operator();
        Self { server, ada, grace, alan, operator }
    }

    /// An organization of ada's, with grace as admin and alan as member.
    async fn acme(&self) -> String {
        let mut ada = self.ada.clone();
        let acme = ada.create("Acme").await;
        let items = [("grace", "admin"), ("alan", "member")].map(|(user, role)| pb::BatchAddMembersItem {
            person: Some(pb::batch_add_members_item::Person::UserId(user.to_owned())),
            role: role.to_owned(),
            ..Default::default()
        });
        let organization = acme.clone();
        let batch = pb::BatchAddMembersRequest { organization, items: items.into(), ..Default::default() };
        ada.organizations.batch_add_members(batch).await.unwrap();
        acme
    }

    /// A user whom no round before has touched, and who is known.
    async fn somebody(&self, number: usize) -> String {
        let id = format!("user-{number}");
        let put =
            pb::PutUserRequest { user_id: id.clone(), display_name: "Some Body".to_owned(), ..Default::default() };
        self.operator.clone().users.put_user(put).await.unwrap();
        id
    }

    fn deactivate(&self, user: &str) -> Call {
        let mut users = self.operator.users.clone();
        let request = pb::DeactivateUserRequest { user_id: user.to_owned(), ..Default::default() };
        side(async move { users.deactivate_user(request).await })
    }

    fn delete_user(&self, user: &str) -> Call {
        let mut users = self.operator.users.clone();
        let request = pb::DeleteUserRequest { user_id: user.to_owned(), ..Default::default() };
        side(async move { users.delete_user(request).await })
    }
}

/// Makes a side of one caller's request: `call!(cast.ada.organizations.add_member(request))`.
macro_rules! call {
    ($cast:ident.$who:ident.$service:ident.$method:ident($request:expr)) => {{
        let mut client = $cast.$who.$service.clone();
        let request = $request;
        $crate::races::side(async move { client.$method(request).await })
    }};
}
use call;

/// How many changes have left an event, save that a user became known.
pub async fn events(database: &Database) -> i64 {
    database
        .count(
            "SELECT (SELECT count(*) FROM events) +
                    (SELECT count(*) FROM user_events WHERE type NOT IN ('user.created', 'user.updated'))",
        )
        .await
}

/// Runs a statement that a test composes.
async fn execute(connection: &mut PgConnection, statement: &str) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query(AssertSqlSafe(statement.to_owned())).execute(connection).await?.rows_affected())
}

/// The one row that a query gives.
async fn row(connection: &mut PgConnection, query: &str) -> sqlx::postgres::PgRow {
    sqlx::query(AssertSqlSafe(query.to_owned())).fetch_one(connection).await.unwrap()
}

/// The one value that a query gives.
async fn value<T>(connection: &mut PgConnection, query: &str) -> T
where
    T: sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
{
    row(connection, query).await.get(0)
}
