//! Concurrency on a real Postgres: each race runs many times, from a barrier and stepped through a lock.
//!
//! A race has two sides. Its outcome must equal the outcome of running the two sides one after the other, in one of the
//! two orders: each race lists the expected answers for both orders. It runs with three schedules:
//!
//! * *first ahead*: the test locks the row that both sides must lock, waits until the first side waits for that lock,
//!   then until the second does, and releases the lock. Both sides have then been authorized by the state before either
//!   of them, which is the worst interleaving, without depending on chance. Postgres grants a row lock in the order of
//!   the waiters, so the order is known;
//! * *second ahead*: the same in the other order;
//! * *free*: both start from a barrier, and either order is allowed.
//!
//! After each round the datastore keeps every invariant, and has as many events as the acknowledged writes make.

mod ownership;
mod random_writes;
mod requests;
mod roles;
mod slugs;
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

/// The number of rounds of each race with each schedule; `ROSTER_TEST_ROUNDS` overrides it.
pub fn rounds() -> usize {
    std::env::var("ROSTER_TEST_ROUNDS").ok().map_or(7, |rounds| rounds.parse().unwrap())
}

/// One side of a race: a call that has not started.
pub type Call = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// Makes a call one side of a race.
pub fn side<T>(call: impl Future<Output = Result<Response<T>, Status>> + Send + 'static) -> Call {
    Box::pin(async move { call.await.map(|_| ()) })
}

/// The outcome of a side: `OK`, or the reason of its error, followed by the `state` of the error's metadata if it has
/// one.
pub fn outcome(answer: &Result<(), Status>) -> String {
    let Err(status) = answer else { return "OK".to_owned() };
    let info = status.get_details_error_info();
    let state = info.and_then(|mut info| info.metadata.remove("state"));
    [Some(reason(status)), state].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The row that both sides of a race must lock.
pub enum ContendedRow {
    Organization(String),
    User(String),
    /// A slug, which the test inserts and rolls back. Postgres wakes all waiters for a unique key at once, so the order
    /// of the sides is not known.
    Slug(String),
    /// The access model.
    Model,
    /// The head of the change log of an organization's bucket, which a write locks last.
    Head(String),
    /// No row: the sides lock different rows, and only run free.
    None,
}

impl ContendedRow {
    fn statement(&self) -> String {
        match self {
            Self::None => "SELECT".to_owned(),
            Self::Model => "SELECT FROM access_model FOR NO KEY UPDATE".to_owned(),
            Self::Head(id) => format!("SELECT FROM log_heads WHERE bucket = organization_bucket_of('{id}') FOR UPDATE"),
            Self::Organization(id) => format!("SELECT FROM organizations WHERE id = '{id}' FOR NO KEY UPDATE"),
            Self::User(id) => format!("SELECT FROM users WHERE id = '{id}' FOR NO KEY UPDATE"),
            Self::Slug(slug) => {
                let id = "00000000-0000-4000-8000-000000000000";
                format!("INSERT INTO slugs (slug, bucket, organization_id) VALUES ('{slug}', 0, '{id}')")
            }
        }
    }
}

/// The two sides of one round, and the row that both must lock.
pub struct Sides {
    pub row: ContendedRow,
    pub calls: [Call; 2],
}

/// The outcome of each side, and the number of events of both.
pub type Outcome = ([&'static str; 2], i64);

/// The outcomes of a race when the first side is first, and when the second side is. `free` has further outcomes of the
/// free schedule, where a side may be refused before it reaches the lock.
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

/// Runs a race with its three schedules, many rounds each, and checks each round.
pub async fn run(server: &Server, outcomes: Outcomes, setup: impl AsyncFn(usize) -> Sides) {
    run_for(rounds(), server, outcomes, setup).await;
}

async fn run_for(rounds: usize, server: &Server, outcomes: Outcomes, setup: impl AsyncFn(usize) -> Sides) {
    let database = &server.database;
    let mut number = 0;
    for _ in 0..rounds {
        for schedule in [Schedule::FirstAhead, Schedule::SecondAhead, Schedule::Free] {
            let sides = setup(number).await;
            number += 1;
            let expected = match (&sides.row, schedule) {
                (ContendedRow::Slug(_) | ContendedRow::None, _) | (_, Schedule::Free) => outcomes.all(),
                (_, Schedule::FirstAhead) => vec![outcomes.first_ahead],
                (_, Schedule::SecondAhead) => vec![outcomes.second_ahead],
            };
            let before = events(database).await;
            let answers = schedule.run(database, sides).await;
            let actual = (answers.each_ref().map(outcome), events(database).await - before);
            let matches = expected.iter().any(|(outcomes, events)| actual.0 == *outcomes && actual.1 == *events);
            assert!(matches, "{schedule:?}: {actual:?} is none of {expected:?}");
            database.assert_invariants().await;
        }
    }
    database.assert_no_open_transactions().await;
}

/// The order of the sides in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Schedule {
    FirstAhead,
    SecondAhead,
    Free,
}

impl Schedule {
    async fn run(self, database: &Database, Sides { row, calls: [first, second] }: Sides) -> [Result<(), Status>; 2] {
        match self {
            _ if matches!(row, ContendedRow::None) => from_barrier(vec![first, second]).await.try_into().unwrap(),
            Self::Free => from_barrier(vec![first, second]).await.try_into().unwrap(),
            Self::FirstAhead => in_lock_order(database, &row, vec![first, second]).await.try_into().unwrap(),
            Self::SecondAhead => {
                let answers = in_lock_order(database, &row, vec![second, first]).await;
                let [second, first]: [_; 2] = answers.try_into().unwrap();
                [first, second]
            }
        }
    }
}

/// Starts all calls at once.
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

/// Locks the row that all calls must lock, starts each call when the one before waits for the lock, and then releases
/// it.
pub async fn in_lock_order(database: &Database, row: &ContendedRow, calls: Vec<Call>) -> Vec<Result<(), Status>> {
    let mut holder = database.pool.begin().await.unwrap();
    sqlx::query(AssertSqlSafe(row.statement())).execute(&mut *holder).await.unwrap();
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
    assert!(waited.is_ok(), "there were never {waiters} transactions waiting for a lock at once");
}

/// A server and the callers of a race. Each has called before, so that no later call has a profile to store.
struct Fixture {
    server: Server,
    ada: Clients,
    grace: Clients,
    alan: Clients,
    operator: Clients,
}

impl Fixture {
    async fn new() -> Self {
        let server = Server::start_contended().await;
        let users = ["ada", "grace", "alan"].map(|id| server.user(id));
        for mut user in users.clone() {
            user.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        }
        let [ada, grace, alan] = users;
        let operator = server.operator();
        Self { server, ada, grace, alan, operator }
    }

    /// Creates an organization of `ada` with `grace` as admin and `alan` as member.
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

    /// Creates a user whom no earlier round has used.
    async fn new_user(&self, number: usize) -> String {
        let id = format!("user-{number}");
        let put = pb::PutUserRequest { user_id: id.clone(), display_name: "A name".to_owned(), ..Default::default() };
        self.operator.clone().users.put_user(put).await.unwrap();
        id
    }

    fn deactivate(&self, user: &str) -> Call {
        let mut users = self.operator.users.clone();
        let request = pb::DeactivateUserRequest { user_id: user.to_owned(), ..Default::default() };
        side(async move { users.deactivate_user(request).await })
    }

    fn reinstate(&self, user: &str) -> Call {
        let mut users = self.operator.users.clone();
        let request = pb::ReinstateUserRequest { user_id: user.to_owned(), ..Default::default() };
        side(async move { users.reinstate_user(request).await })
    }

    fn delete_user(&self, user: &str) -> Call {
        let mut users = self.operator.users.clone();
        let request = pb::DeleteUserRequest { user_id: user.to_owned(), ..Default::default() };
        side(async move { users.delete_user(request).await })
    }
}

/// Makes a caller's request one side of a race: `call!(fixture.ada.organizations.add_member(request))`.
macro_rules! call {
    ($fixture:ident.$caller:ident.$service:ident.$method:ident($request:expr)) => {{
        let mut client = $fixture.$caller.$service.clone();
        let request = $request;
        $crate::races::side(async move { client.$method(request).await })
    }};
}
use call;

/// The number of events, with those of the access model and without those of new and updated users.
pub async fn events(database: &Database) -> i64 {
    database
        .count(
            "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM access_model_revisions) +
                    (SELECT count(*) FROM user_events WHERE type NOT IN ('user.created', 'user.updated'))",
        )
        .await
}

/// Runs a statement that a test composes.
async fn execute(connection: &mut PgConnection, statement: &str) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query(AssertSqlSafe(statement.to_owned())).execute(connection).await?.rows_affected())
}

/// The one row that a query returns.
async fn row(connection: &mut PgConnection, query: &str) -> sqlx::postgres::PgRow {
    sqlx::query(AssertSqlSafe(query.to_owned())).fetch_one(connection).await.unwrap()
}

/// The one value that a query returns.
async fn value<T>(connection: &mut PgConnection, query: &str) -> T
where
    T: sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
{
    row(connection, query).await.get(0)
}
