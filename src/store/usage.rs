//! The members, organizations and roles that use a role or a permission: counts for the plan of an access model.
//!
//! A count is exact up to a bound, by an index. Beyond it, the statistics of Postgres give an estimate, marked as one.

use super::StoreError;
use crate::domain::{Kind, OrganizationId, RoleName};
use sqlx::PgConnection;
use uuid::Uuid;

/// The use of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoleUsage {
    /// The number of members with this role.
    pub members: i64,
    /// The number of organizations with such members.
    pub organizations: i64,
    /// Whether the numbers are estimates. They are exact otherwise. 0 is always exact.
    pub is_estimate: bool,
}

/// The use of a permission by roles of organizations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PermissionUsage {
    /// The number of organization roles that hold it.
    pub roles: i64,
    /// The number of organizations with such roles.
    pub organizations: i64,
    /// Whether the numbers are estimates. They are exact otherwise. 0 is always exact.
    pub is_estimate: bool,
}

/// A count up to a bound, and what the statistics say.
struct BoundedCount {
    /// The rows found, at most one more than the bound.
    found: i64,
    /// The organizations of these rows.
    organizations: i64,
    /// The number of rows by the statistics; 0 if they say nothing about this value.
    estimate: i64,
}

impl BoundedCount {
    /// The rows, the organizations, and whether they are estimates. Beyond the bound, as many rows are taken to share an
    /// organization as among the rows found.
    fn read(&self, most: i64) -> (i64, i64, bool) {
        if self.found <= most {
            return (self.found, self.organizations, false);
        }
        let rows = self.estimate.max(self.found);
        let organizations = i128::from(self.organizations) * i128::from(rows) / i128::from(self.found.max(1));
        (rows, i64::try_from(organizations).unwrap_or(i64::MAX), true)
    }
}

/// The use of each of these roles of the deployment, in their order, exact up to `most` members of each. Not for `admin`
/// and `member`: see [`built_in_role`].
///
/// # Errors
/// If Postgres does not answer.
pub async fn deployment_roles(
    connection: &mut PgConnection,
    roles: &[RoleName],
    most: i64,
) -> Result<Vec<RoleUsage>, StoreError> {
    let names: Vec<String> = roles.iter().map(RoleName::to_string).collect();
    let counts = sqlx::query_as!(
        BoundedCount,
        r#"SELECT u.found AS "found!", u.organizations AS "organizations!", coalesce((
                      SELECT c.reltuples * s.most_common_freqs[array_position(s.most_common_vals::text::text[], q.role)]
                      FROM pg_stats s JOIN pg_class c ON c.oid = to_regclass('memberships')
                      JOIN pg_namespace n ON n.oid = c.relnamespace
                      WHERE s.schemaname = n.nspname AND s.tablename = c.relname
                        AND s.attname = 'role' AND c.reltuples > 0 AND u.found > $2::bigint), 0)::bigint AS "estimate!"
           FROM unnest($1::text[]) WITH ORDINALITY AS q (role, number)
           CROSS JOIN LATERAL (
               SELECT count(*) AS found, count(DISTINCT m.organization_id) AS organizations FROM (
                   SELECT organization_id FROM memberships WHERE deployment_role = q.role COLLATE "C"
                   ORDER BY bucket, organization_id LIMIT $2::bigint + 1) m) u
           ORDER BY q.number"#,
        &names,
        most,
    )
    .fetch_all(connection)
    .await?;
    Ok(counts.iter().map(|count| RoleUsage::of(count, most)).collect())
}

impl RoleUsage {
    fn of(count: &BoundedCount, most: i64) -> Self {
        let (members, organizations, is_estimate) = count.read(most);
        Self { members, organizations, is_estimate }
    }
}

/// The use of a role of the deployment in organizations of other kinds than one: exact up to `most` organizations, and a
/// lower bound that is marked as an estimate beyond.
///
/// # Errors
/// If Postgres does not answer.
pub async fn deployment_role_outside(
    connection: &mut PgConnection,
    role: &RoleName,
    kind: &Kind,
    most: i64,
) -> Result<RoleUsage, StoreError> {
    let usage = sqlx::query!(
        r#"SELECT coalesce(sum(found.members), 0)::bigint AS "members!", count(*) AS "organizations!" FROM (
               SELECT m.members FROM (
                   SELECT bucket, organization_id, count(*) AS members FROM memberships
                   WHERE deployment_role = $1 GROUP BY bucket, organization_id) m
               JOIN organizations o ON o.bucket = m.bucket AND o.id = m.organization_id AND o.kind <> $2
               LIMIT $3::bigint + 1) found"#,
        role.as_str(),
        kind.as_str(),
        most,
    )
    .fetch_one(connection)
    .await?;
    let (members, organizations) = (usage.members, usage.organizations);
    Ok(RoleUsage { members, organizations, is_estimate: organizations > most })
}

/// The use of `admin` or `member`, of which there is no index: exact if the table of memberships has at most `most_bytes`,
/// or if the statistics do not have the role because it is rare; else an estimate. The estimate takes every organization to
/// have such a member.
///
/// # Errors
/// If Postgres does not answer.
pub async fn built_in_role(
    connection: &mut PgConnection,
    role: &RoleName,
    most_bytes: i64,
) -> Result<RoleUsage, StoreError> {
    let estimate = sqlx::query!(
        r#"SELECT (c.reltuples * s.most_common_freqs[array_position(s.most_common_vals::text::text[], $1)])::bigint
                      AS members,
                  (SELECT o.reltuples FROM pg_class o WHERE o.oid = to_regclass('organizations'))::bigint
                      AS organizations
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname
                AND s.attname = 'role'
           WHERE c.oid = to_regclass('memberships') AND c.reltuples > 0 AND pg_relation_size(c.oid) > $2"#,
        role.as_str(),
        most_bytes,
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(estimate) = estimate
        && let Some(members) = estimate.members
    {
        let organizations = estimate.organizations.unwrap_or_default().clamp(0, members);
        return Ok(RoleUsage { members, organizations, is_estimate: true });
    }
    let usage = sqlx::query!(
        r#"SELECT count(*) AS "members!", count(DISTINCT organization_id) AS "organizations!"
           FROM memberships WHERE role = $1"#,
        role.as_str(),
    )
    .fetch_one(connection)
    .await?;
    Ok(RoleUsage { members: usage.members, organizations: usage.organizations, is_estimate: false })
}

/// The use of each of these permissions by roles of organizations, in their order, exact up to `most` roles of each.
///
/// # Errors
/// If Postgres does not answer.
pub async fn permissions(
    connection: &mut PgConnection,
    permissions: &[String],
    most: i64,
) -> Result<Vec<PermissionUsage>, StoreError> {
    let counts = sqlx::query_as!(
        BoundedCount,
        r#"SELECT u.found AS "found!", u.organizations AS "organizations!", coalesce((
                      SELECT c.reltuples
                             * s.most_common_elem_freqs[array_position(s.most_common_elems::text::text[], q.permission)]
                      FROM pg_stats s JOIN pg_class c ON c.oid = to_regclass('organization_roles')
                      JOIN pg_namespace n ON n.oid = c.relnamespace
                      WHERE s.schemaname = n.nspname AND s.tablename = c.relname
                        AND s.attname = 'permissions' AND c.reltuples > 0 AND u.found > $2::bigint), 0)::bigint AS "estimate!"
           FROM unnest($1::text[]) WITH ORDINALITY AS q (permission, number)
           CROSS JOIN LATERAL (
               SELECT count(*) AS found, count(DISTINCT r.organization_id) AS organizations FROM (
                   SELECT organization_id FROM organization_roles WHERE permissions @> ARRAY[q.permission COLLATE "C"]
                   LIMIT $2::bigint + 1) r) u
           ORDER BY q.number"#,
        permissions,
        most,
    )
    .fetch_all(connection)
    .await?;
    let usage = |count: &BoundedCount| {
        let (roles, organizations, is_estimate) = count.read(most);
        PermissionUsage { roles, organizations, is_estimate }
    };
    Ok(counts.iter().map(usage).collect())
}

/// The first organizations, in the order of their locks, that have members with a role of the deployment: at most `most`
/// after one. The members of a role that is being replaced are moved organization by organization.
///
/// # Errors
/// If Postgres does not answer.
pub async fn organizations_with(
    connection: &mut PgConnection,
    role: &RoleName,
    after: Option<OrganizationId>,
    most: i64,
) -> Result<Vec<OrganizationId>, StoreError> {
    // No bucket is negative, so the first page starts after bucket -1.
    let ids = sqlx::query_scalar!(
        "SELECT DISTINCT ON (bucket, organization_id) organization_id FROM memberships
         WHERE deployment_role = $1 AND (bucket, organization_id) > ($2::smallint, $3::uuid)
         ORDER BY bucket, organization_id LIMIT $4",
        role.as_str(),
        after.map_or(-1, OrganizationId::bucket),
        after.map_or(Uuid::nil(), OrganizationId::as_uuid),
        most,
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(OrganizationId::from_uuid).collect())
}

/// The organizations of other kinds than one, in the order of their locks, that have members with a role of the deployment:
/// at most `most`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn organizations_outside(
    connection: &mut PgConnection,
    role: &RoleName,
    kind: &Kind,
    most: i64,
) -> Result<Vec<OrganizationId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "SELECT m.organization_id FROM (
             SELECT DISTINCT bucket, organization_id FROM memberships WHERE deployment_role = $1) m
         JOIN organizations o ON o.bucket = m.bucket AND o.id = m.organization_id AND o.kind <> $2
         ORDER BY m.bucket, m.organization_id LIMIT $3",
        role.as_str(),
        kind.as_str(),
        most,
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(OrganizationId::from_uuid).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_beyond_the_bound_is_an_estimate_and_no_less_than_what_was_found() {
        let count = |found, organizations, estimate| BoundedCount { found, organizations, estimate }.read(100);
        assert_eq!(count(0, 0, 0), (0, 0, false));
        assert_eq!(count(100, 7, 5_000), (100, 7, false));
        assert_eq!(count(101, 50, 1_010), (1_010, 500, true));
        // The statistics say nothing, or less than was found.
        assert_eq!(count(101, 101, 0), (101, 101, true));
        assert_eq!(count(101, 1, 3), (101, 1, true));
        assert_eq!(count(101, 101, i64::MAX), (i64::MAX, i64::MAX, true));
    }
}
