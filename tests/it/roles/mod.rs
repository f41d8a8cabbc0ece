//! Roles: the access model and the roles of organizations over the network, and in the datastore, where no member holds a
//! role that does not exist, whatever is written and whatever races.

mod apply;
mod attributes;
mod bad_models;
mod ceiling;
mod define;
mod integrity;
mod migration;
mod model;
mod moves;
mod organization;
mod races;
mod replacement;
mod versions;

use crate::harness::Database;
use roster::domain::access_model::ModelParts;
use roster::domain::{ActorKind, Organization, OrganizationId, RoleName};
use roster::grpc::pb;
use roster::store::access_model::DeploymentRoleRow;
use roster::store::events::Cause;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::time::Duration;
use tonic_types::StatusExt;
use uuid::Uuid;

/// The access model with this JSON form, valid or not.
pub fn model(json: serde_json::Value) -> pb::AccessModel {
    let ModelParts { delegable, permissions, roles } = serde_json::from_value(json).unwrap();
    let permissions = permissions.into_iter().map(|permission| pb::AccessModelPermission {
        name: permission.name,
        title: permission.title,
        description: permission.description,
    });
    let roles = roles.into_iter().map(|role| pb::AccessModelRole {
        name: role.name,
        kind: role.kind,
        title: role.title,
        description: role.description,
        permissions: role.permissions,
    });
    pb::AccessModel { permissions: permissions.collect(), roles: roles.collect(), delegable }
}

/// A request to apply this model, to any version.
pub fn apply(json: serde_json::Value) -> pb::ApplyAccessModelRequest {
    pb::ApplyAccessModelRequest { model: Some(model(json)), ..Default::default() }
}

/// The metadata of an error.
fn metadata(status: &tonic::Status, key: &str) -> String {
    status.get_details_error_info().unwrap().metadata[key].clone()
}

/// Timeout of every expected condition.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(30);

/// Two organizations of `ada` with the members `bob` and `eve`, Acme in bucket 1 of the kind `organization` and Beta in
/// bucket 2 of the kind `team`. The deployment has the roles `auditor` and `clerk`, Acme has `org:editor` and `org:unused`,
/// and Beta has `org:lead`. In Acme `bob` is an auditor, and `eve` an editor.
const ROWS: &str = "
    INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email_verified, profile_issued_at, revision,
                       create_time, update_time)
    SELECT user_bucket_of(id), id, 'ACTIVE', false, false, 0, 1, now(), now()
    FROM unnest(ARRAY['ada', 'bob', 'eve', 'joan']) AS id;
    INSERT INTO organizations (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator, owner_id, revision,
                               row_revision, create_time, update_time)
    VALUES (1, '01000000-0000-4000-8000-000000000000', 'acme', 'Acme', 'organization', '{}', 'ACTIVE', false, 'ada', 1, 1,
            now(), now()),
           (2, '02000000-0000-4000-8000-000000000000', 'beta', 'Beta', 'team', '{}', 'ACTIVE', false, 'ada', 1, 1, now(),
            now());
    INSERT INTO deployment_roles (name) VALUES ('auditor'), ('clerk');
    INSERT INTO organization_roles (bucket, organization_id, name, title, description, permissions, revision, create_time,
                                    update_time)
    SELECT o.bucket, o.id, 'org:' || r.name, r.name, '', ARRAY['billing.read'], 1, now(), now()
    FROM organizations o
    JOIN (VALUES ('acme', 'editor'), ('acme', 'unused'), ('beta', 'lead')) AS r (slug, name) ON r.slug = o.slug;
    INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time)
    SELECT bucket, id, member, CASE member WHEN 'ada' THEN 'admin' ELSE 'member' END, '{}', 1, now(), now()
    FROM organizations, unnest(ARRAY['ada', 'bob', 'eve']) AS member;
    UPDATE memberships SET role = 'auditor', deployment_role = 'auditor' WHERE bucket = 1 AND user_id = 'bob';
    UPDATE memberships SET role = 'org:editor', organization_role = 'org:editor' WHERE bucket = 1 AND user_id = 'eve'";

/// Memberships whose role does not exist.
const DANGLING: &str = "SELECT count(*) FROM memberships m
    LEFT JOIN deployment_roles d ON d.name = m.role
    LEFT JOIN organization_roles o ON o.bucket = m.bucket AND o.organization_id = m.organization_id AND o.name = m.role
    WHERE m.role NOT IN ('admin', 'member') AND d.name IS NULL AND o.name IS NULL";

/// A database with [`ROWS`].
async fn database() -> Database {
    let database = Database::new().await;
    run(&database, ROWS).await;
    database
}

async fn run(database: &Database, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&database.pool).await.unwrap();
}

async fn connect(database: &Database) -> PgConnection {
    PgConnection::connect(&database.url).await.unwrap()
}

/// Executes a statement. Returns the number of rows, or the SQLSTATE and the constraint.
async fn execute(connection: &mut PgConnection, statement: &str) -> Result<u64, (String, String)> {
    let done = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(connection).await;
    done.map(|done| done.rows_affected()).map_err(|error| violation(&error))
}

/// The SQLSTATE and the constraint of an error.
fn violation(error: &sqlx::Error) -> (String, String) {
    let error = error.as_database_error().unwrap_or_else(|| panic!("{error}"));
    (error.code().unwrap_or_default().into_owned(), error.constraint().unwrap_or_default().to_owned())
}

/// Waits until this many sessions wait for a lock on a row, a transaction or a table.
async fn until_waiting(database: &Database, sessions: i64) {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
          AND wait_event IN ('transactionid', 'tuple', 'relation')";
    let wait = async { while database.count(WAITING).await != sessions {} };
    let waited = tokio::time::timeout(CONDITION_TIMEOUT, wait).await;
    assert!(waited.is_ok(), "there were never {sessions} sessions waiting for a lock");
}

fn acme() -> OrganizationId {
    OrganizationId::from_uuid(Uuid::from_u128(0x0100_0000_0000_4000_8000_0000_0000_0000))
}

fn beta() -> OrganizationId {
    OrganizationId::from_uuid(Uuid::from_u128(0x0200_0000_0000_4000_8000_0000_0000_0000))
}

/// Locks Acme in the transaction of the connection, if it has one.
async fn lock_acme(connection: &mut PgConnection) -> Organization {
    roster::store::organizations::lock(connection, acme()).await.unwrap().unwrap().organization
}

fn name(name: &str) -> RoleName {
    RoleName::parse(name).unwrap()
}

/// A role of the deployment for all kinds.
fn of_all_kinds(role: &str) -> DeploymentRoleRow {
    DeploymentRoleRow { name: name(role), kind: None, replaced_by: None }
}

fn cause() -> Cause {
    Cause {
        actor_kind: ActorKind::Operator,
        actor_id: "ops".to_owned(),
        actor_issuer: None,
        actor_via: None,
        reason: Some("a test".to_owned()),
        request_id: None,
    }
}
