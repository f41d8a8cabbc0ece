//! Rows of memberships.

use super::StoreError;
use crate::domain::{Attributes, Member, Membership, Organization, OrganizationId, Role, UserId};
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

struct MembershipRow {
    user_id: String,
    role: String,
    is_owner: Option<bool>,
    attributes: Json<Attributes>,
    revision: i64,
    create_time: OffsetDateTime,
    update_time: OffsetDateTime,
}

impl MembershipRow {
    fn read(self, organization: OrganizationId) -> Result<Membership, StoreError> {
        let stored = Role::parse(&self.role)?;
        Ok(Membership {
            organization,
            role: if self.is_owner == Some(true) { Role::OWNER } else { stored },
            user: UserId::parse(&self.user_id)?,
            attributes: self.attributes.0,
            revision: self.revision,
            create_time: self.create_time,
            update_time: self.update_time,
        })
    }
}

/// Adds a member, at the organization's present revision; none if the user is one already.
///
/// # Errors
/// If Postgres does not answer.
pub async fn insert(
    connection: &mut PgConnection,
    organization: &Organization,
    user: &UserId,
    role: Role,
    attributes: &Attributes,
) -> Result<Option<Membership>, StoreError> {
    sqlx::query_as!(
        MembershipRow,
        r#"INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time)
           VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp(), clock_timestamp())
           ON CONFLICT DO NOTHING
           RETURNING user_id, role, (user_id = $7) AS is_owner, attributes AS "attributes: Json<Attributes>", revision, create_time, update_time"#,
        organization.id.bucket(),
        organization.id.as_uuid(),
        user.as_str(),
        role.as_str(),
        attributes.to_value(),
        organization.revision,
        organization.owner.as_ref().map(UserId::as_str),
    )
    .fetch_optional(connection)
    .await?
    .map(|row| row.read(organization.id))
    .transpose()
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
    sqlx::query_as!(
        MembershipRow,
        r#"SELECT m.user_id, m.role, (m.user_id = o.owner_id) AS is_owner, m.attributes AS "attributes: Json<Attributes>",
                  m.revision, m.create_time, m.update_time
           FROM memberships m JOIN organizations o ON o.bucket = m.bucket AND o.id = m.organization_id
           WHERE m.bucket = $1 AND m.organization_id = $2 AND m.user_id = $3"#,
        organization.bucket(),
        organization.as_uuid(),
        user.as_str(),
    )
    .fetch_optional(connection)
    .await?
    .map(|row| row.read(organization))
    .transpose()
}

/// Writes a member's role and attributes, at the organization's present revision.
///
/// # Errors
/// If Postgres does not answer, or the user is not a member.
pub async fn update(
    connection: &mut PgConnection,
    organization: &Organization,
    user: &UserId,
    role: Role,
    attributes: &Attributes,
) -> Result<Membership, StoreError> {
    sqlx::query_as!(
        MembershipRow,
        r#"UPDATE memberships SET role = $4, attributes = $5, revision = $6, update_time = clock_timestamp()
           WHERE bucket = $1 AND organization_id = $2 AND user_id = $3
           RETURNING user_id, role, (user_id = $7) AS is_owner, attributes AS "attributes: Json<Attributes>", revision, create_time, update_time"#,
        organization.id.bucket(),
        organization.id.as_uuid(),
        user.as_str(),
        role.as_str(),
        attributes.to_value(),
        organization.revision,
        organization.owner.as_ref().map(UserId::as_str),
    )
    .fetch_one(connection)
    .await?
    .read(organization.id)
}

/// Removes a member; false if the user is not one.
///
/// # Errors
/// If Postgres does not answer.
pub async fn delete(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: &UserId,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM memberships WHERE bucket = $1 AND organization_id = $2 AND user_id = $3",
        organization.bucket(),
        organization.as_uuid(),
        user.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Which members to list.
#[derive(Debug, Clone)]
pub struct MemberFilter {
    /// Only this role.
    pub role: Option<Role>,
    /// Only those behind this user id.
    pub after: Option<String>,
    /// How many at most.
    pub limit: i64,
}

/// Lists members by user id. Every member has a row in users: it is made before the membership and never deleted.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list(
    connection: &mut PgConnection,
    organization: OrganizationId,
    filter: &MemberFilter,
) -> Result<Vec<Member>, StoreError> {
    // No id is empty, so the first page begins behind the empty one: one index condition for every page. The members of
    // the page first, in the order of their key, then each one's user: OFFSET 0 keeps the planner, who does not know how
    // many are asked for, from joining all members with all users.
    let rows = sqlx::query!(
        r#"SELECT m.user_id, m.role, (m.user_id = o.owner_id) AS is_owner, m.attributes AS "attributes: Json<Attributes>", m.revision, m.create_time, m.update_time,
                  u.state AS user_state, u.deactivated_by_operator, u.email, u.email_verified, u.display_name,
                  u.profile_issued_at, u.revision AS user_revision, u.create_time AS user_create_time,
                  u.update_time AS user_update_time
           FROM organizations o
           CROSS JOIN LATERAL (
               SELECT * FROM memberships
               WHERE bucket = $1 AND organization_id = $2 AND user_id > coalesce($3::text, '')
                 AND ($4::text IS NULL OR CASE WHEN user_id = o.owner_id THEN 'owner' ELSE role END = $4)
               ORDER BY user_id
               LIMIT $5) m
           CROSS JOIN LATERAL (
               SELECT * FROM users WHERE user_bucket = user_bucket_of(m.user_id) AND id = m.user_id OFFSET 0) u
           WHERE o.bucket = $1 AND o.id = $2
           ORDER BY m.user_id"#,
        organization.bucket(),
        organization.as_uuid(),
        filter.after,
        filter.role.map(Role::as_str),
        filter.limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let user = super::users::UserRow {
                id: row.user_id.clone(),
                state: row.user_state,
                deactivated_by_operator: row.deactivated_by_operator,
                email: row.email,
                email_verified: row.email_verified,
                display_name: row.display_name,
                profile_issued_at: row.profile_issued_at,
                revision: row.user_revision,
                create_time: row.user_create_time,
                update_time: row.user_update_time,
            };
            let membership = MembershipRow {
                user_id: row.user_id,
                role: row.role,
                is_owner: row.is_owner,
                attributes: row.attributes,
                revision: row.revision,
                create_time: row.create_time,
                update_time: row.update_time,
            };
            Ok(Member { membership: membership.read(organization)?, user: user.try_into()? })
        })
        .collect()
}

/// The ids of all organizations that a user is in, ascending: deleted ones too.
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

/// The ids of the organizations that a user owns, ascending; the deleted ones among them only if asked for.
///
/// # Errors
/// If Postgres does not answer.
pub async fn owned_by(
    connection: &mut PgConnection,
    user: &UserId,
    deleted_too: bool,
) -> Result<Vec<OrganizationId>, StoreError> {
    // An owner is a member: the index by user serves.
    let ids = sqlx::query_scalar!(
        r#"SELECT o.id FROM memberships m
           JOIN organizations o ON o.bucket = m.bucket AND o.id = m.organization_id
           WHERE m.user_id = $1 AND o.owner_id = $1 AND ($2 OR o.delete_time IS NULL)
           ORDER BY o.bucket, o.id"#,
        user.as_str(),
        deleted_too,
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(OrganizationId::from_uuid).collect())
}
