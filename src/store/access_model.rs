//! The access model: the document with the permissions and roles of the deployment, its revisions, and the table of its
//! roles that memberships refer to.
//!
//! The revisions are the change log of [`MODEL_BUCKET`]: a position in it is a revision.
//!
//! A model is applied in this order: [`lock`], the uses of permissions that it takes away, [`apply`], the members of roles
//! that it takes away, [`delete_roles`], [`write_to_heads`], the roles of organizations that were written since the uses of
//! permissions were counted, commit.
//!
//! [`apply`] holds up the writes that assign a role that the model takes away, so the members can be counted after it.
//! [`write_to_heads`] waits for every write that is about to commit, and holds up every later one. All of them then see the
//! position of the new model when they append to the change log. So little as possible follows it.

use super::events::Cause;
use super::log::tail::LogPosition;
use super::row_page::RowPage;
use super::{StoreError, limits};
#[cfg(doc)]
use crate::domain::ids::MODEL_BUCKET;
use crate::domain::{Kind, RoleName};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// The present access model.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredModel {
    /// The number of models that were applied: its etag, and the last position of its change log.
    pub revision: i64,
    /// The time at which it was applied, by the clock of Postgres; 1970 for revision 0.
    pub write_time: OffsetDateTime,
    /// The document, as stored.
    pub model: Value,
    /// Whether the operator has said that every server knows roles and permissions that are not built in.
    pub is_enabled: bool,
}

impl StoredModel {
    /// The end of the model's change log.
    #[must_use]
    pub fn at(&self) -> LogPosition {
        LogPosition { position: self.revision, write_time: self.write_time }
    }
}

/// Reads the present model.
///
/// # Errors
/// If Postgres does not answer.
pub async fn current(connection: &mut PgConnection) -> Result<StoredModel, StoreError> {
    let model =
        sqlx::query_as!(StoredModel, "SELECT revision, write_time, model, enabled AS is_enabled FROM access_model");
    Ok(model.fetch_one(connection).await?)
}

/// Reads the end of the model's change log.
///
/// # Errors
/// If Postgres does not answer.
pub async fn position(connection: &mut PgConnection) -> Result<LogPosition, StoreError> {
    let at = sqlx::query_as!(LogPosition, "SELECT revision AS position, write_time FROM access_model");
    Ok(at.fetch_one(connection).await?)
}

/// Reads the present model under a lock that excludes every other change of it until the transaction ends.
///
/// # Errors
/// If Postgres does not answer, or the lock is not granted in time.
pub async fn lock(connection: &mut PgConnection) -> Result<StoredModel, StoreError> {
    let model = sqlx::query_as!(
        StoredModel,
        "SELECT revision, write_time, model, enabled AS is_enabled FROM access_model FOR NO KEY UPDATE"
    );
    Ok(model.fetch_one(connection).await?)
}

/// Whether the operator has said that every server knows roles and permissions that are not built in.
///
/// # Errors
/// If Postgres does not answer.
pub async fn is_enabled(connection: &mut PgConnection) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!("SELECT enabled FROM access_model").fetch_one(connection).await?)
}

/// Records that every server knows roles and permissions that are not built in. Returns false if that was recorded before.
///
/// # Errors
/// If Postgres does not answer.
pub async fn enable(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let result = sqlx::query!("UPDATE access_model SET enabled = true WHERE NOT enabled").execute(connection).await?;
    Ok(result.rows_affected() == 1)
}

/// A role of the deployment, as far as the database needs it. `admin` and `member` are not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentRoleRow {
    /// The name, unique in the deployment.
    pub name: RoleName,
    /// The one kind of organizations that has the role; `None` for a role of all kinds.
    pub kind: Option<Kind>,
    /// The role that replaces it, while its members move there.
    pub replaced_by: Option<RoleName>,
}

/// Reads the roles of the deployment by name, with those whose members still move to another role.
///
/// # Errors
/// If Postgres does not answer.
pub async fn deployment_roles(connection: &mut PgConnection) -> Result<Vec<DeploymentRoleRow>, StoreError> {
    let rows = sqlx::query!("SELECT name, kind, replaced_by FROM deployment_roles ORDER BY name");
    let rows = rows.fetch_all(connection).await?.into_iter();
    Ok(rows
        .map(|row| DeploymentRoleRow {
            name: RoleName::from_stored(&row.name),
            kind: row.kind.map(Kind::from_stored),
            replaced_by: row.replaced_by.as_deref().map(RoleName::from_stored),
        })
        .collect())
}

/// Reads the removed roles of the deployment whose members still move to another role, by name.
///
/// # Errors
/// If Postgres does not answer.
pub async fn replaced_roles(connection: &mut PgConnection) -> Result<Vec<DeploymentRoleRow>, StoreError> {
    let roles = deployment_roles(connection).await?;
    Ok(roles.into_iter().filter(|role| role.replaced_by.is_some()).collect())
}

/// Reads the time since which a removed role is replaced; `None` if it is not, or no longer.
///
/// # Errors
/// If Postgres does not answer.
pub async fn replace_time(
    connection: &mut PgConnection,
    name: &RoleName,
) -> Result<Option<OffsetDateTime>, StoreError> {
    let time = sqlx::query_scalar!("SELECT replace_time FROM deployment_roles WHERE name = $1", name.as_str());
    Ok(time.fetch_optional(connection).await?.flatten())
}

/// Deletes a removed role, unless a member still holds it. Returns whether it was deleted.
///
/// # Errors
/// If Postgres does not answer.
pub async fn delete_replaced_role(connection: &mut PgConnection, name: &RoleName) -> Result<bool, StoreError> {
    let result = sqlx::query!(
        "DELETE FROM deployment_roles
         WHERE name = $1 AND replaced_by IS NOT NULL
           AND NOT EXISTS (SELECT FROM memberships WHERE deployment_role = $1)",
        name.as_str(),
    );
    Ok(result.execute(connection).await?.rows_affected() == 1)
}

/// Stores the next model and its revision, and inserts and updates the roles of the deployment. Returns the end of the
/// model's change log.
///
/// Waits for every transaction that assigns one of the roles that are not in `roles`, that become roles of one kind, or that
/// are replaced from now on. Those roles stay locked: no write can assign them until this transaction ends.
/// [`delete_roles`] deletes the former. The caller holds the lock of the model.
///
/// # Errors
/// If Postgres does not answer, or a lock is not granted in time.
pub async fn apply(
    connection: &mut PgConnection,
    model: &Value,
    roles: &[DeploymentRoleRow],
    cause: &Cause,
) -> Result<LogPosition, StoreError> {
    let names = names(roles);
    let kinds: Vec<Option<String>> =
        roles.iter().map(|role| role.kind.as_ref().map(|kind| kind.as_str().to_owned())).collect();
    let replacements: Vec<Option<String>> =
        roles.iter().map(|role| role.replaced_by.as_ref().map(RoleName::to_string)).collect();
    let at = store(connection, model, cause).await?;
    // A role that is assigned has a lock FOR KEY SHARE of the foreign key.
    sqlx::query!(
        "SELECT r.name FROM deployment_roles r
         LEFT JOIN unnest($1::text[], $2::text[], $3::text[]) AS q (name, kind, replaced_by) ON q.name = r.name
         WHERE q.name IS NULL OR q.kind <> r.kind OR (q.kind IS NOT NULL AND r.kind IS NULL)
            OR (q.replaced_by IS NOT NULL AND r.replaced_by IS NULL)
         ORDER BY r.name FOR UPDATE OF r",
        &names,
        &kinds as &[Option<String>],
        &replacements as &[Option<String>],
    )
    .fetch_all(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO deployment_roles AS r (name, kind, replaced_by, replace_time)
         SELECT name, kind, replaced_by, CASE WHEN replaced_by IS NOT NULL THEN statement_timestamp() END
         FROM unnest($1::text[], $2::text[], $3::text[]) AS q (name, kind, replaced_by)
         ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, replaced_by = excluded.replaced_by,
                                          replace_time = excluded.replace_time
         WHERE (r.kind, r.replaced_by) IS DISTINCT FROM (excluded.kind, excluded.replaced_by)",
        &names,
        &kinds as &[Option<String>],
        &replacements as &[Option<String>],
    )
    .execute(&mut *connection)
    .await?;
    Ok(at)
}

/// Writes the position of an applied model to the head of every bucket of organizations.
///
/// Waits for every transaction that has appended to the change log. From here on until this transaction ends, no other
/// transaction can append: this is the last step before the rows of the change log.
///
/// # Errors
/// If Postgres does not answer, or a lock is not granted in time.
pub async fn write_to_heads(connection: &mut PgConnection, at: LogPosition) -> Result<(), StoreError> {
    sqlx::query!("SELECT write_model_to_log_heads($1, $2)", at.position, at.write_time).execute(connection).await?;
    Ok(())
}

fn names(roles: &[DeploymentRoleRow]) -> Vec<String> {
    roles.iter().map(|role| role.name.to_string()).collect()
}

/// Stores the next model and the row of its revision.
async fn store(connection: &mut PgConnection, model: &Value, cause: &Cause) -> Result<LogPosition, StoreError> {
    let at = sqlx::query_as!(
        LogPosition,
        r#"UPDATE access_model
           SET revision = revision + 1, model = $1,
               write_time = greatest(statement_timestamp(),
                                     (write_time AT TIME ZONE 'UTC' + interval '1 microsecond') AT TIME ZONE 'UTC')
           RETURNING revision AS position, write_time"#,
        model,
    )
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO access_model_revisions
             (revision, model, actor_kind, actor_id, actor_issuer, actor_via, reason, request_id, create_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        at.position,
        model,
        cause.actor_kind.as_str(),
        cause.actor_id,
        cause.actor_issuer,
        cause.actor_via,
        cause.reason,
        cause.request_id,
        at.write_time,
    )
    .execute(connection)
    .await?;
    Ok(at)
}

/// Deletes every role of the deployment but these. Fails if a member holds one of the others. Returns the number deleted.
///
/// # Errors
/// If Postgres does not answer.
pub async fn delete_roles(connection: &mut PgConnection, except: &[DeploymentRoleRow]) -> Result<u64, StoreError> {
    let names = names(except);
    let result = sqlx::query!("DELETE FROM deployment_roles WHERE name <> ALL ($1)", &names);
    Ok(result.execute(connection).await?.rows_affected())
}

/// A revision of the model: a row of its change log and of its audit trail.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRevision {
    /// The number of the revision, from 1 on.
    pub revision: i64,
    /// The document, as stored.
    pub model: Value,
    /// The kind of the actor that applied it, as stored.
    pub actor_kind: String,
    /// The actor's user id, or the name of the service or operator.
    pub actor_id: String,
    /// The issuer of the token with which the call was made, if it was made with one.
    pub actor_issuer: Option<String>,
    /// The service that acted on behalf of the user, if one did.
    pub actor_via: Option<String>,
    /// The reason in the request, if it had one.
    pub reason: Option<String>,
    /// The request id in the request, if it had one.
    pub request_id: Option<Uuid>,
    /// The time at which it was applied.
    pub create_time: OffsetDateTime,
}

/// Reads a revision of the model; `None` if no model was applied as that revision. Revision 0 is the default model.
///
/// # Errors
/// If Postgres does not answer.
pub async fn revision(connection: &mut PgConnection, revision: i64) -> Result<Option<ModelRevision>, StoreError> {
    let row = sqlx::query_as!(
        ModelRevision,
        "SELECT revision, model, actor_kind, actor_id, actor_issuer, actor_via, reason, request_id, create_time
         FROM access_model_revisions WHERE revision = $1",
        revision,
    );
    Ok(row.fetch_optional(connection).await?)
}

/// Lists the revisions before a revision, or all of them, the newest first. A page ends early by the bytes of its models.
///
/// # Errors
/// If Postgres does not answer.
pub async fn history(
    connection: &mut PgConnection,
    before: Option<i64>,
    limit: i64,
) -> Result<RowPage<ModelRevision>, StoreError> {
    // The first page starts before the highest possible revision: every page uses the same index condition.
    let rows = sqlx::query!(
        r#"SELECT revision AS "revision!", model AS "model!", actor_kind AS "actor_kind!", actor_id AS "actor_id!",
                  actor_issuer, actor_via, reason, request_id, create_time AS "create_time!", has_next
           FROM (
               SELECT s.*, sum(octet_length(s.model::text)) OVER before AS text_before
               FROM (
                   SELECT p.*, sum(pg_column_size(p.model || '{}')) OVER before AS stored_before,
                          lead(true) OVER (ORDER BY p.revision DESC) AS has_next
                   FROM (
                       SELECT * FROM access_model_revisions WHERE revision < $1 ORDER BY revision DESC LIMIT $2) p
                   WINDOW before AS (ORDER BY p.revision DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) s
               WHERE coalesce(s.stored_before, 0) < $3
               WINDOW before AS (ORDER BY s.revision DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) t
           WHERE coalesce(t.text_before, 0) < $4
           ORDER BY revision DESC"#,
        before.unwrap_or(i64::MAX),
        limit,
        limits::PAGE_STORED_BYTES,
        limits::PAGE_TEXT_BYTES,
    )
    .fetch_all(connection)
    .await?;
    Ok(RowPage::new(
        rows,
        |row| row.has_next,
        |row| ModelRevision {
            revision: row.revision,
            model: row.model,
            actor_kind: row.actor_kind,
            actor_id: row.actor_id,
            actor_issuer: row.actor_issuer,
            actor_via: row.actor_via,
            reason: row.reason,
            request_id: row.request_id,
            create_time: row.create_time,
        },
    ))
}
