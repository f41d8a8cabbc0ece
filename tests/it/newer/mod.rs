//! Rolling forward: rows that a newer roster wrote. A role, state or log entry that this program does not know concerns
//! only the membership, organization, user or invitation in which it stands.

mod checks;
mod client;
mod mail;
mod reads;
mod streams;
mod writes;

use crate::harness::server::Clients;
use crate::harness::{Database, Server, reason};
use roster::domain::Scope;
use roster::server::ServerSettings;
use sqlx::{AssertSqlSafe, PgConnection};
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Timeout of every expected condition.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(30);

/// The schema of a newer roster: it permits more roles, states, entries and occasions.
const NEWER_SCHEMA: [&str; 9] = [
    "ALTER TABLE memberships DROP CONSTRAINT memberships_role",
    "ALTER TABLE organizations DROP CONSTRAINT organizations_state",
    "ALTER TABLE users DROP CONSTRAINT users_state",
    "ALTER TABLE user_log DROP CONSTRAINT user_log_state",
    "ALTER TABLE log DROP CONSTRAINT log_entry",
    "ALTER TABLE log ALTER COLUMN organization_id DROP NOT NULL",
    "ALTER TABLE invitations DROP CONSTRAINT invitations_state, DROP CONSTRAINT invitations_role,
         DROP CONSTRAINT invitations_inviter, DROP CONSTRAINT invitations_mail",
    "ALTER TABLE outbox DROP CONSTRAINT outbox_occasion",
    "ALTER TABLE events DROP CONSTRAINT events_actor",
];

/// A server, and three organizations of `ada` with the admin `grace` and the members `alan`, `eve` and `joan`.
struct Fixture {
    server: Server,
    acme: String,
    beta: String,
    gamma: String,
}

impl Fixture {
    async fn new() -> Self {
        let server = Server::start_generous().await;
        for statement in NEWER_SCHEMA {
            sqlx::query(statement).execute(&server.database.pool).await.unwrap();
        }
        let mut ada = server.user("ada");
        let acme = ada.create("Acme").await;
        let beta = ada.create("Beta").await;
        let gamma = ada.create("Gamma").await;
        for organization in [&acme, &beta, &gamma] {
            ada.add(organization, "grace", "admin").await;
            for user in ["alan", "eve", "joan"] {
                ada.add(organization, user, "member").await;
            }
        }
        Self { server, acme, beta, gamma }
    }

    fn database(&self) -> &Database {
        &self.server.database
    }

    fn backend(&self) -> Clients {
        self.server.service(&[Scope::Check, Scope::Manage])
    }

    /// The role of `eve` in Acme, the state of Beta and the state of `joan` become values of a newer roster; the log
    /// gets a change of Gamma of a newer type, and one that names no organization.
    async fn roll_forward(&self) {
        self.set_role(&self.acme, "eve", "auditor").await;
        self.set_state(&self.beta, "SUSPENDED").await;
        self.set_user_state("joan", "LOCKED").await;
        self.append(&self.gamma, "entry, user_id", "'ROLE_DEFINITION', 'auditor'").await;
        let mut connection = self.database().pool.acquire().await.unwrap();
        append(&mut connection, &self.gamma, 0, "organization_id, entry", "NULL, 'CENSUS'").await;
        drop(connection);
        self.caught_up().await;
    }

    /// The values of [`Self::roll_forward`] go away, by known writes of a newer roster.
    async fn roll_back(&self) {
        self.set_role(&self.acme, "eve", "admin").await;
        self.set_state(&self.beta, "INACTIVE").await;
        self.set_user_state("joan", "ACTIVE").await;
        self.caught_up().await;
    }

    /// Writes a role as a newer roster does: the row, the event, and the change log.
    async fn set_role(&self, organization: &str, user: &str, role: &str) {
        self.sql(&format!(
            "UPDATE memberships SET role = '{role}' WHERE organization_id = '{organization}' AND user_id = '{user}'"
        ))
        .await;
        self.append(organization, "entry, user_id, role", &format!("'MEMBERSHIP', '{user}', '{role}'")).await;
    }

    /// Writes the state of an organization as a newer roster does.
    async fn set_state(&self, organization: &str, state: &str) {
        self.sql(&format!("UPDATE organizations SET state = '{state}' WHERE id = '{organization}'")).await;
        let slug: String = sqlx::query_scalar("SELECT slug FROM organizations WHERE id::text = $1")
            .bind(organization)
            .fetch_one(&self.database().pool)
            .await
            .unwrap();
        let values = format!("'ORGANIZATION', '{state}', 'ada', '{slug}'");
        self.append(organization, "entry, state, owner_id, slug", &values).await;
    }

    /// Writes the state of a user as a newer roster does.
    async fn set_user_state(&self, user: &str, state: &str) {
        self.sql(&format!("UPDATE users SET state = '{state}', revision = revision + 1 WHERE id = '{user}'")).await;
        self.sql(&format!(
            "WITH head AS (
                 UPDATE user_log_heads SET position = position + 1, write_time = clock_timestamp()
                 WHERE user_bucket = user_bucket_of('{user}') RETURNING *)
             INSERT INTO user_log (user_bucket, position, user_id, revision, state, write_time)
             SELECT u.user_bucket, head.position, u.id, u.revision, u.state, head.write_time
             FROM head JOIN users u ON u.id = '{user}'"
        ))
        .await;
    }

    /// Appends a change of an organization to the change log, with its event and its revision.
    async fn append(&self, organization: &str, columns: &str, values: &str) {
        let mut transaction = self.database().pool.begin().await.unwrap();
        let revision: i64 = sqlx::query_scalar(
            "UPDATE organizations SET revision = revision + 1 WHERE id::text = $1 RETURNING revision",
        )
        .bind(organization)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
        let event = format!(
            "INSERT INTO events (bucket, organization_id, revision, type, actor_kind, actor_id, create_time)
             SELECT bucket, id, {revision}, 'newer.changed', 'agent', 'x', now() FROM organizations
             WHERE id = '{organization}'"
        );
        sqlx::query(AssertSqlSafe(event)).execute(&mut *transaction).await.unwrap();
        let columns = format!("organization_id, {columns}");
        append(&mut transaction, organization, revision, &columns, &format!("'{organization}', {values}")).await;
        transaction.commit().await.unwrap();
    }

    /// Runs a statement directly on the database. Panics if it changes no row.
    async fn sql(&self, statement: &str) {
        let done = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&self.database().pool).await.unwrap();
        assert_ne!(done.rows_affected(), 0, "{statement}");
    }

    /// Waits until the replica of the server has applied everything: no poll and no load fails because of the rows.
    async fn caught_up(&self) {
        caught_up(&self.server).await;
    }

    /// Stops the server, and starts another one on the same database.
    async fn restart(&mut self) {
        self.server.stop().await;
        self.server = Server::over(self.database().clone(), ServerSettings::default()).await;
        self.caught_up().await;
    }
}

async fn caught_up(server: &Server) {
    let replica = server.roster.replica();
    let loaded = async {
        replica.loaded().await;
        replica.caught_up().await;
    };
    let done = tokio::time::timeout(CONDITION_TIMEOUT, loaded).await;
    let statistics = replica.statistics();
    assert!(done.is_ok(), "the replica did not catch up: {statistics:?}");
    assert_eq!((statistics.gaps, statistics.lost, statistics.buckets), (0, 0, 256), "{statistics:?}");
}

/// Appends a row to the change log of an organization's bucket.
async fn append(connection: &mut PgConnection, organization: &str, revision: i64, columns: &str, values: &str) {
    let statement = format!(
        "WITH head AS (
             UPDATE log_heads SET position = position + 1,
                 write_time = greatest(clock_timestamp(), write_time + interval '1 microsecond')
             WHERE bucket = organization_bucket_of('{organization}') RETURNING *)
         INSERT INTO log (bucket, position, commit_position, revision, kind, write_time, {columns})
         SELECT bucket, position, position, {revision}, 'organization', write_time, {values} FROM head"
    );
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await.unwrap();
}

/// Asserts that an answer is `UNAVAILABLE` because of a value of this kind.
#[track_caller]
fn assert_unknown<T: std::fmt::Debug>(answer: Result<T, Status>, value: &str) {
    let status = answer.expect_err("the call succeeded");
    assert_unknown_status(&status, value);
}

#[track_caller]
fn assert_unknown_status(status: &Status, value: &str) {
    assert_eq!((status.code(), reason(status)), (Code::Unavailable, "VALUE_UNKNOWN".to_owned()), "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().metadata["value"], value);
    assert!(status.get_details_retry_info().is_some());
}
