//! Rows of memberships.

use super::row_page::RowPage;
use super::users::UserRow;
use super::{StoreError, limits};
use crate::domain::{Attributes, Member, Membership, Organization, OrganizationId, Role, RoleName, User, UserId};
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

struct MembershipRow {
    user_id: String,
    role: String,
    replaced_by: Option<String>,
    replace_time: Option<OffsetDateTime>,
    is_owner: Option<bool>,
    attributes: Json<Attributes>,
    revision: i64,
    create_time: OffsetDateTime,
    update_time: OffsetDateTime,
}

/// A statement that returns [`MembershipRow`]s: the text before the column list, the text after it, the arguments. The
/// table has the alias `m`. The text after the list adds `is_owner`, since a membership does not contain the owner, and
/// `replaced_by` and `replace_time`: the role that replaces the stored one, and since when.
///
/// With `record` in front, the statement returns records, which may have more columns.
macro_rules! membership_query {
    (record $before:literal, $after:literal, $($argument:tt)*) => {
        membership_query!(@ query!(), $before, $after, $($argument)*)
    };
    (@ $query:ident!($($row:ident)?), $before:literal, $after:literal, $($argument:tt)*) => {
        sqlx::$query!(
            $($row,)?
            $before
                + r#" m.user_id, m.role, m.attributes AS "attributes: Json<Attributes>", m.revision, m.create_time,
                      m.update_time, "#
                + $after,
            $($argument)*
        )
    };
    ($before:literal, $after:literal, $($argument:tt)*) => {
        membership_query!(@ query_as!(MembershipRow), $before, $after, $($argument)*)
    };
}

/// The rows of a membership and of its user in a record that has both.
macro_rules! member_rows {
    ($record:ident) => {{
        let user = UserRow {
            id: $record.user_id.clone(),
            state: $record.user_state,
            deactivated_by_operator: $record.deactivated_by_operator,
            email: $record.email,
            email_verified: $record.email_verified,
            display_name: $record.display_name,
            profile_issued_at: $record.profile_issued_at,
            email_issued_at: $record.email_issued_at,
            display_name_issued_at: $record.display_name_issued_at,
            known: $record.known,
            revision: $record.user_revision,
            create_time: $record.user_create_time,
            update_time: $record.user_update_time,
        };
        let membership = MembershipRow {
            user_id: $record.user_id,
            role: $record.role,
            replaced_by: $record.replaced_by,
            replace_time: $record.replace_time,
            is_owner: $record.is_owner,
            attributes: $record.attributes,
            revision: $record.revision,
            create_time: $record.create_time,
            update_time: $record.update_time,
        };
        (membership, user)
    }};
}

impl MembershipRow {
    fn read(self, organization: OrganizationId) -> Membership {
        // A member whose role is being replaced holds the new one before the row changes.
        let stored = Role::read(self.replaced_by.as_ref().unwrap_or(&self.role));
        Membership {
            organization,
            role: if self.is_owner == Some(true) { Role::OWNER } else { stored },
            user: UserId::from_stored(self.user_id),
            attributes: self.attributes.0,
            revision: self.revision,
            create_time: self.create_time,
            update_time: self.replace_time.map_or(self.update_time, |time| time.max(self.update_time)),
        }
    }
}

/// Adds a member, at the current revision of the organization; `None` if the user is a member already.
///
/// # Errors
/// If Postgres does not answer.
pub async fn insert(
    connection: &mut PgConnection,
    organization: &Organization,
    user: &UserId,
    role: &Role,
    attributes: &Attributes,
) -> Result<Option<Membership>, StoreError> {
    Ok(membership_query!(
        "INSERT INTO memberships AS m
             (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time,
              organization_role, deployment_role)
         VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp(), clock_timestamp(),
                 CASE WHEN $4 LIKE 'org:%' THEN $4 END,
                 CASE WHEN $4 NOT LIKE 'org:%' AND $4 NOT IN ('admin', 'member') THEN $4 END)
         ON CONFLICT DO NOTHING
         RETURNING",
        "NULL::text AS replaced_by, NULL::timestamptz AS replace_time, (m.user_id = $7) AS is_owner",
        organization.id.bucket(),
        organization.id.as_uuid(),
        user.as_str(),
        role.name.as_str(),
        attributes.to_value(),
        organization.revision,
        organization.owner.as_ref().map(UserId::as_str),
    )
    .fetch_optional(connection)
    .await?
    .map(|row| row.read(organization.id)))
}

/// Reads a membership.
///
/// # Errors
/// If Postgres does not answer.
pub async fn get(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: &UserId,
) -> Result<Option<Membership>, StoreError> {
    Ok(membership_query!(
        "SELECT",
        "coalesce(r.replaced_by, d.replaced_by) AS replaced_by,
         CASE WHEN r.replaced_by IS NULL THEN d.replace_time ELSE r.update_time END AS replace_time,
         (m.user_id = o.owner_id) AS is_owner
         FROM memberships m JOIN organizations o ON o.bucket = m.bucket AND o.id = m.organization_id
         LEFT JOIN deployment_roles d ON d.name = m.deployment_role
         LEFT JOIN organization_roles r
             ON r.bucket = m.bucket AND r.organization_id = m.organization_id AND r.name = m.organization_role
         WHERE m.bucket = $1 AND m.organization_id = $2 AND m.user_id = $3",
        organization.bucket(),
        organization.as_uuid(),
        user.as_str(),
    )
    .fetch_optional(connection)
    .await?
    .map(|row| row.read(organization)))
}

/// Overwrites the role and attributes of a member, at the current revision of the organization.
///
/// # Errors
/// If Postgres does not answer, or the user is not a member.
pub async fn update(
    connection: &mut PgConnection,
    organization: &Organization,
    user: &UserId,
    role: &Role,
    attributes: &Attributes,
) -> Result<Membership, StoreError> {
    Ok(membership_query!(
        "UPDATE memberships m SET role = $4, attributes = $5, revision = $6,
             update_time = greatest(statement_timestamp(),
                                    (m.update_time AT TIME ZONE 'UTC' + interval '1 microsecond') AT TIME ZONE 'UTC'),
             organization_role = CASE WHEN $4 LIKE 'org:%' THEN $4 END,
             deployment_role = CASE WHEN $4 NOT LIKE 'org:%' AND $4 NOT IN ('admin', 'member') THEN $4 END
         WHERE m.bucket = $1 AND m.organization_id = $2 AND m.user_id = $3
         RETURNING",
        "NULL::text AS replaced_by, NULL::timestamptz AS replace_time, (m.user_id = $7) AS is_owner",
        organization.id.bucket(),
        organization.id.as_uuid(),
        user.as_str(),
        role.name.as_str(),
        attributes.to_value(),
        organization.revision,
        organization.owner.as_ref().map(UserId::as_str),
    )
    .fetch_one(connection)
    .await?
    .read(organization.id))
}

/// Records that the ownership of members has changed, at the current revision of the organization.
///
/// # Errors
/// If Postgres does not answer.
pub async fn record_ownership(
    connection: &mut PgConnection,
    organization: &Organization,
    users: &[&UserId],
) -> Result<(), StoreError> {
    let users: Vec<String> = users.iter().map(|user| user.as_str().to_owned()).collect();
    sqlx::query!(
        "UPDATE memberships
         SET revision = $4,
             update_time = greatest(statement_timestamp(),
                                    (update_time AT TIME ZONE 'UTC' + interval '1 microsecond') AT TIME ZONE 'UTC')
         WHERE bucket = $1 AND organization_id = $2 AND user_id = ANY ($3)",
        organization.id.bucket(),
        organization.id.as_uuid(),
        &users,
        organization.revision,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes a member; false if the user is not a member.
///
/// # Errors
/// If Postgres does not answer.
pub async fn delete(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: &UserId,
) -> Result<bool, StoreError> {
    let result = sqlx::query!(
        "DELETE FROM memberships WHERE bucket = $1 AND organization_id = $2 AND user_id = $3",
        organization.bucket(),
        organization.as_uuid(),
        user.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// A membership, and where its role is defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipOrigin {
    /// The revision of the organization.
    pub organization_revision: i64,
    /// The revision of the access model.
    pub model_revision: i64,
    /// The name of the role, `owner` for the owner.
    pub role: RoleName,
    /// The revision of the organization that the latest change of the membership made.
    pub revision: i64,
    /// The revision of the organization at which the role last changed; `None` for a role that is not the organization's.
    pub role_revision: Option<i64>,
    /// The role that replaces it, while its members move there.
    pub replaced_by: Option<RoleName>,
}

/// Reads a membership with the definition of its role, from one snapshot.
///
/// # Errors
/// If Postgres does not answer.
pub async fn origin(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: &UserId,
) -> Result<Option<MembershipOrigin>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT o.revision AS organization_revision, a.revision AS model_revision, m.role, m.revision,
                  (m.user_id = o.owner_id) AS is_owner, r.revision AS "role_revision?",
                  coalesce(r.replaced_by, d.replaced_by) AS replaced_by
           FROM memberships m
           JOIN organizations o ON o.bucket = m.bucket AND o.id = m.organization_id
           CROSS JOIN access_model a
           LEFT JOIN organization_roles r
               ON r.bucket = m.bucket AND r.organization_id = m.organization_id AND r.name = m.organization_role
           LEFT JOIN deployment_roles d ON d.name = m.deployment_role
           WHERE m.bucket = $1 AND m.organization_id = $2 AND m.user_id = $3"#,
        organization.bucket(),
        organization.as_uuid(),
        user.as_str(),
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| MembershipOrigin {
        organization_revision: row.organization_revision,
        model_revision: row.model_revision,
        role: if row.is_owner == Some(true) { RoleName::OWNER } else { RoleName::from_stored(&row.role) },
        revision: row.revision,
        role_revision: row.role_revision,
        replaced_by: row.replaced_by.as_deref().map(RoleName::from_stored),
    }))
}

/// A page of an organization's members.
#[derive(Debug, Clone)]
pub struct MemberFilter {
    /// Only members with one of these roles; `None` for all members. A member whose role is being replaced has the new one.
    pub roles: Option<Vec<RoleName>>,
    /// Only user ids greater than this one: the last of the previous page.
    pub after: Option<String>,
    /// Maximum number of members.
    pub limit: i64,
}

/// Lists members by user id. Every member has a row in `users`: it is inserted before the membership and never deleted.
///
/// The plan reads the members of the page in the order of their key, then the user of each: the planner does not know the
/// size of the page, and without OFFSET 0 it would join all members with all users.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list(
    connection: &mut PgConnection,
    organization: OrganizationId,
    filter: &MemberFilter,
) -> Result<RowPage<Member>, StoreError> {
    let roles: Option<Vec<String>> = filter.roles.as_ref().map(|roles| roles.iter().map(ToString::to_string).collect());
    // No id is empty, so the first page starts after the empty id: every page uses the same index condition.
    let rows = membership_query!(
        record
        "SELECT",
        "coalesce(r.replaced_by, d.replaced_by) AS replaced_by, (m.user_id = o.owner_id) AS is_owner, m.has_next,
         CASE WHEN r.replaced_by IS NULL THEN d.replace_time ELSE r.update_time END AS replace_time,
         u.state AS user_state, u.deactivated_by_operator, u.email, u.email_verified, u.display_name, u.profile_issued_at,
         u.email_issued_at, u.display_name_issued_at, u.known, u.revision AS user_revision,
         u.create_time AS user_create_time, u.update_time AS user_update_time
         FROM organizations o
         CROSS JOIN LATERAL (
             SELECT array(
                 SELECT name FROM unnest($4::text[]) AS name EXCEPT
                 SELECT name FROM organization_roles
                 WHERE bucket = $1 AND organization_id = $2 AND replaced_by IS NOT NULL EXCEPT
                 SELECT name FROM deployment_roles WHERE replaced_by IS NOT NULL UNION
                 SELECT name FROM deployment_roles WHERE replaced_by = ANY ($4) UNION
                 SELECT name FROM organization_roles
                 WHERE bucket = $1 AND organization_id = $2 AND replaced_by = ANY ($4)) AS roles) wanted
         CROSS JOIN LATERAL (
             SELECT * FROM (
                 SELECT s.*, sum(octet_length(s.attributes::text)) OVER before AS text_before
                 FROM (
                     SELECT p.*, sum(pg_column_size(p.attributes || '{}')) OVER before AS stored_before,
                            lead(true) OVER (ORDER BY p.user_id) AS has_next
                     FROM (
                         SELECT * FROM memberships
                         WHERE bucket = $1 AND organization_id = $2 AND user_id > coalesce($3::text, '')
                           AND ($4::text[] IS NULL
                                OR CASE WHEN user_id = o.owner_id THEN 'owner' ELSE role END = ANY (wanted.roles))
                         ORDER BY user_id
                         LIMIT $5) p
                     WINDOW before AS (ORDER BY p.user_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) s
                 WHERE coalesce(s.stored_before, 0) < $6
                 WINDOW before AS (ORDER BY s.user_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) t
             WHERE coalesce(t.text_before, 0) < $7) m
         CROSS JOIN LATERAL (
             SELECT * FROM users WHERE user_bucket = user_bucket_of(m.user_id) AND id = m.user_id OFFSET 0) u
         LEFT JOIN LATERAL (SELECT * FROM deployment_roles WHERE name = m.deployment_role OFFSET 0) d ON true
         LEFT JOIN LATERAL (
             SELECT replaced_by, update_time FROM organization_roles
             WHERE bucket = $1 AND organization_id = $2 AND name = m.organization_role OFFSET 0) r ON true
         WHERE o.bucket = $1 AND o.id = $2
         ORDER BY m.user_id",
        organization.bucket(),
        organization.as_uuid(),
        filter.after,
        roles.as_deref(),
        filter.limit,
        limits::PAGE_STORED_BYTES,
        limits::PAGE_TEXT_BYTES,
    )
    .fetch_all(connection)
    .await?;
    Ok(RowPage::new(
        rows,
        |row| row.has_next,
        |row| {
            let (membership, user) = member_rows!(row);
            Member { membership: membership.read(organization), user: User::from(user) }
        },
    ))
}

/// The ids of all organizations of a user, ascending. Includes deleted organizations.
///
/// # Errors
/// If Postgres does not answer.
pub async fn organizations_of(connection: &mut PgConnection, user: &UserId) -> Result<Vec<OrganizationId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "SELECT organization_id FROM memberships WHERE user_id = $1 ORDER BY bucket, organization_id",
        user.as_str()
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(OrganizationId::from_uuid).collect())
}

/// The ids of the organizations that a user owns, ascending. Deleted organizations are included only on request.
///
/// # Errors
/// If Postgres does not answer.
pub async fn owned_by(
    connection: &mut PgConnection,
    user: &UserId,
    include_deleted: bool,
) -> Result<Vec<OrganizationId>, StoreError> {
    // Every owner has a membership, so the index of memberships by user finds the organizations.
    let ids = sqlx::query_scalar!(
        r#"SELECT o.id FROM memberships m
           JOIN organizations o ON o.bucket = m.bucket AND o.id = m.organization_id
           WHERE m.user_id = $1 AND o.owner_id = $1 AND ($2 OR o.delete_time IS NULL)
           ORDER BY o.bucket, o.id"#,
        user.as_str(),
        include_deleted,
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(OrganizationId::from_uuid).collect())
}
