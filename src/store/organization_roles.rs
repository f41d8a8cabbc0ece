//! Rows of the roles that organizations define for themselves.
//!
//! Every change of one happens under the lock of its organization, as changes of members do.

use super::StoreError;
use crate::domain::{Kind, Organization, OrganizationId, RoleName, UserId};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// A role of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganizationRole {
    /// The name, which begins with `org:`. Unique in the organization.
    pub name: RoleName,
    /// What a caller sets.
    pub content: RoleContent,
    /// The organization's revision at which the role last changed: its etag.
    pub revision: i64,
    /// The time at which it was created.
    pub create_time: OffsetDateTime,
    /// The time of its last change.
    pub update_time: OffsetDateTime,
}

/// The columns of a role that a caller sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleContent {
    /// The title for people, at most 200 characters.
    pub title: String,
    /// The description, at most 1 000 characters.
    pub description: String,
    /// The words of its permissions, as stored.
    pub permissions: Vec<String>,
    /// The role that replaces it, while its members move there: no member gets it any more.
    pub replaced_by: Option<RoleName>,
}

struct OrganizationRoleRow {
    name: String,
    title: String,
    description: String,
    permissions: Vec<String>,
    replaced_by: Option<String>,
    revision: i64,
    create_time: OffsetDateTime,
    update_time: OffsetDateTime,
}

impl From<OrganizationRoleRow> for OrganizationRole {
    fn from(row: OrganizationRoleRow) -> Self {
        Self {
            name: RoleName::from_stored(&row.name),
            content: RoleContent {
                title: row.title,
                description: row.description,
                permissions: row.permissions,
                replaced_by: row.replaced_by.as_deref().map(RoleName::from_stored),
            },
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        }
    }
}

/// A statement that returns [`OrganizationRoleRow`]s: the text before the column list, the text after it, the arguments. The
/// table has the alias `r`.
macro_rules! role_query {
    ($before:literal, $after:literal, $($argument:tt)*) => {
        sqlx::query_as!(
            OrganizationRoleRow,
            $before
                + " r.name, r.title, r.description, r.permissions, r.replaced_by, r.revision, r.create_time,
                    r.update_time "
                + $after,
            $($argument)*
        )
    };
}

/// Adds a role, at the current revision of the organization; `None` if the organization has a role of this name.
///
/// # Errors
/// If Postgres does not answer.
pub async fn insert(
    connection: &mut PgConnection,
    organization: &Organization,
    name: &RoleName,
    content: &RoleContent,
) -> Result<Option<OrganizationRole>, StoreError> {
    Ok(role_query!(
        "INSERT INTO organization_roles AS r (bucket, organization_id, name, title, description, permissions, replaced_by,
                                              revision, create_time, update_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, statement_timestamp(), statement_timestamp())
         ON CONFLICT DO NOTHING
         RETURNING",
        "",
        organization.id.bucket(),
        organization.id.as_uuid(),
        name.as_str(),
        content.title,
        content.description,
        &content.permissions,
        content.replaced_by.as_ref().map(RoleName::as_str),
        organization.revision,
    )
    .fetch_optional(connection)
    .await?
    .map(OrganizationRole::from))
}

/// Reads a role.
///
/// # Errors
/// If Postgres does not answer.
pub async fn get(
    connection: &mut PgConnection,
    organization: OrganizationId,
    name: &RoleName,
) -> Result<Option<OrganizationRole>, StoreError> {
    Ok(role_query!(
        "SELECT",
        "FROM organization_roles r WHERE r.bucket = $1 AND r.organization_id = $2 AND r.name = $3",
        organization.bucket(),
        organization.as_uuid(),
        name.as_str(),
    )
    .fetch_optional(connection)
    .await?
    .map(OrganizationRole::from))
}

/// Lists the roles of an organization by name, at most `most`. An organization has at most 50, so there are no pages.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list(
    connection: &mut PgConnection,
    organization: OrganizationId,
    most: i64,
) -> Result<Vec<OrganizationRole>, StoreError> {
    Ok(role_query!(
        "SELECT",
        "FROM organization_roles r WHERE r.bucket = $1 AND r.organization_id = $2 ORDER BY r.name LIMIT $3",
        organization.bucket(),
        organization.as_uuid(),
        most,
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(OrganizationRole::from)
    .collect())
}

/// The roles of an organization whose members move to this one.
///
/// # Errors
/// If Postgres does not answer.
pub async fn replaced_by(
    connection: &mut PgConnection,
    organization: OrganizationId,
    name: &RoleName,
) -> Result<Vec<OrganizationRole>, StoreError> {
    Ok(role_query!(
        "SELECT",
        "FROM organization_roles r WHERE r.bucket = $1 AND r.organization_id = $2 AND r.replaced_by = $3 ORDER BY r.name",
        organization.bucket(),
        organization.as_uuid(),
        name.as_str(),
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(OrganizationRole::from)
    .collect())
}

/// The members who hold a role of the deployment because their own role is being replaced by it: for each of the first
/// `most` such roles, up to one more than `most` members, and at least one. With a kind, only those in organizations of
/// other kinds.
///
/// # Errors
/// If Postgres does not answer.
pub async fn members_moving_to(
    connection: &mut PgConnection,
    role: &RoleName,
    outside: Option<&Kind>,
    most: i64,
) -> Result<i64, StoreError> {
    let members = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(greatest(m.members, 1)), 0)::bigint AS "members!" FROM (
               SELECT r.bucket, r.organization_id, r.name FROM organization_roles r
               JOIN organizations o ON o.bucket = r.bucket AND o.id = r.organization_id
               WHERE r.deployment_replacement = $1 AND ($2::text IS NULL OR o.kind <> $2) LIMIT $3) r
           CROSS JOIN LATERAL (
               SELECT count(*) AS members FROM (
                   SELECT FROM memberships
                   WHERE bucket = r.bucket AND organization_id = r.organization_id AND organization_role = r.name
                   LIMIT $3::bigint + 1) counted) m"#,
        role.as_str(),
        outside.map(Kind::as_str),
        most,
    );
    Ok(members.fetch_one(connection).await?)
}

/// The first roles of organizations whose members move to another role, in the order of the organizations: at most `most`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn to_move(connection: &mut PgConnection, most: i64) -> Result<Vec<(OrganizationId, RoleName)>, StoreError> {
    let rows = sqlx::query!(
        "SELECT organization_id, name FROM organization_roles WHERE replaced_by IS NOT NULL
         ORDER BY bucket, organization_id, name LIMIT $1",
        most,
    );
    let rows = rows.fetch_all(connection).await?.into_iter();
    Ok(rows.map(|row| (OrganizationId::from_uuid(row.organization_id), RoleName::from_stored(&row.name))).collect())
}

/// Overwrites a role, at the current revision of the organization.
///
/// # Errors
/// If Postgres does not answer, or the organization has no role of this name.
pub async fn update(
    connection: &mut PgConnection,
    organization: &Organization,
    name: &RoleName,
    content: &RoleContent,
) -> Result<OrganizationRole, StoreError> {
    Ok(role_query!(
        "UPDATE organization_roles r SET title = $4, description = $5, permissions = $6, replaced_by = $7, revision = $8,
                                         update_time = statement_timestamp()
         WHERE r.bucket = $1 AND r.organization_id = $2 AND r.name = $3
         RETURNING",
        "",
        organization.id.bucket(),
        organization.id.as_uuid(),
        name.as_str(),
        content.title,
        content.description,
        &content.permissions,
        content.replaced_by.as_ref().map(RoleName::as_str),
        organization.revision,
    )
    .fetch_one(connection)
    .await?
    .into())
}

/// Deletes a role; false if the organization has no role of this name. Fails if a member holds it.
///
/// # Errors
/// If Postgres does not answer.
pub async fn delete(
    connection: &mut PgConnection,
    organization: OrganizationId,
    name: &RoleName,
) -> Result<bool, StoreError> {
    let result = sqlx::query!(
        "DELETE FROM organization_roles WHERE bucket = $1 AND organization_id = $2 AND name = $3",
        organization.bucket(),
        organization.as_uuid(),
        name.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// The number of members who hold each role of an organization, by name, counted up to `most` for each. Roles without
/// members are left out.
///
/// # Errors
/// If Postgres does not answer.
pub async fn members(
    connection: &mut PgConnection,
    organization: OrganizationId,
    most: i64,
) -> Result<Vec<(RoleName, i64)>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT r.name, m.members AS "members!" FROM organization_roles r
           CROSS JOIN LATERAL (
               SELECT count(*) AS members FROM (
                   SELECT FROM memberships WHERE bucket = $1 AND organization_id = $2 AND organization_role = r.name
                   LIMIT $3) counted) m
           WHERE r.bucket = $1 AND r.organization_id = $2 AND m.members > 0
           ORDER BY r.name"#,
        organization.bucket(),
        organization.as_uuid(),
        most,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (RoleName::from_stored(&row.name), row.members)).collect())
}

/// The number of roles of an organization.
///
/// # Errors
/// If Postgres does not answer.
pub async fn count(connection: &mut PgConnection, organization: OrganizationId) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM organization_roles WHERE bucket = $1 AND organization_id = $2"#,
        organization.bucket(),
        organization.as_uuid(),
    );
    Ok(count.fetch_one(connection).await?)
}

/// The number of members who hold a role of an organization, counted up to `most`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn members_with(
    connection: &mut PgConnection,
    organization: OrganizationId,
    name: &RoleName,
    most: i64,
) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM (
               SELECT FROM memberships WHERE bucket = $1 AND organization_id = $2 AND organization_role = $3
               LIMIT $4) counted"#,
        organization.bucket(),
        organization.as_uuid(),
        name.as_str(),
        most,
    );
    Ok(count.fetch_one(connection).await?)
}

/// A membership whose role [`move_members`] has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedMember {
    /// The member whose role changed.
    pub user: UserId,
    /// The revision of the organization that this change made: another one for each member.
    pub revision: i64,
}

/// Moves at most `most` members of an organization from one role to another, the first ones by user id. `from` is a role of
/// the organization or of the deployment, and neither `admin` nor `member`: those have no index. `since` is the time since
/// which they hold the other role; `None` leaves their update times. Returns the moved members in the order of their
/// revisions, which follow the current revision of the organization.
///
/// # Errors
/// If Postgres does not answer.
pub async fn move_members(
    connection: &mut PgConnection,
    organization: &Organization,
    from: &RoleName,
    to: &RoleName,
    since: Option<OffsetDateTime>,
    most: i64,
) -> Result<Vec<MovedMember>, StoreError> {
    let users = members_of(connection, organization.id, from, most).await?;
    // One statement with a join of the table with itself would take minutes where the statistics are missing or old.
    let rows = sqlx::query!(
        "UPDATE memberships m
         SET role = $4, revision = $5 + q.number, update_time = greatest(m.update_time, $6),
             organization_role = CASE WHEN $4 LIKE 'org:%' THEN $4 END,
             deployment_role = CASE WHEN $4 NOT LIKE 'org:%' AND $4 NOT IN ('admin', 'member') THEN $4 END
         FROM unnest($3::text[]) WITH ORDINALITY AS q (user_id, number)
         WHERE m.bucket = $1 AND m.organization_id = $2 AND m.user_id = q.user_id COLLATE \"C\"
         RETURNING m.user_id, m.revision",
        organization.id.bucket(),
        organization.id.as_uuid(),
        &users,
        to.as_str(),
        organization.revision,
        since,
    )
    .fetch_all(connection)
    .await?;
    let moved = rows.into_iter();
    let mut moved: Vec<MovedMember> =
        moved.map(|row| MovedMember { user: UserId::from_stored(row.user_id), revision: row.revision }).collect();
    moved.sort_by_key(|member| member.revision);
    Ok(moved)
}

/// The first members of an organization with a role, by id.
async fn members_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    role: &RoleName,
    most: i64,
) -> Result<Vec<String>, StoreError> {
    let (bucket, id) = (organization.bucket(), organization.as_uuid());
    let users = if role.is_of_organization() {
        let users = sqlx::query_scalar!(
            "SELECT user_id FROM memberships WHERE bucket = $1 AND organization_id = $2 AND organization_role = $3
             ORDER BY user_id LIMIT $4",
            bucket,
            id,
            role.as_str(),
            most,
        );
        users.fetch_all(connection).await?
    } else {
        let users = sqlx::query_scalar!(
            "SELECT user_id FROM memberships WHERE bucket = $1 AND organization_id = $2 AND deployment_role = $3
             ORDER BY user_id LIMIT $4",
            bucket,
            id,
            role.as_str(),
            most,
        );
        users.fetch_all(connection).await?
    };
    Ok(users)
}
