//! The members, organizations and roles that use a role or a permission: counts for the plan of an access model.
//!
//! Small tables are read in full. Of a large table a sample is read, which gives an estimate. What the sample shows to be
//! rare is counted by an index, up to a bound. The index counts nothing else: an index on lists of permissions reads every
//! entry of a permission before it returns the first one.

use super::StoreError;
use super::log::tail::LogPosition;
use crate::domain::{Kind, OrganizationId, RoleName};
use sqlx::PgConnection;
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// Rows in a sample from which on their number is taken for an estimate: its standard error is a third. With a higher
/// number, an index would have to read too many entries for each of 1 000 permissions.
const SAMPLED_ROWS: i64 = 8;

/// How much is read for some counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountLimits {
    /// The rows that are counted for one role or permission: its count is exact up to here.
    pub rows_of_each: i64,
    /// The rows that are counted in all.
    pub rows: i64,
    /// The size up to which a table is read in full, and of the sample of a larger one, in bytes.
    pub table_bytes: i64,
}

impl CountLimits {
    /// The rows to count for one role or permission, if this number of them is counted.
    fn of_each(&self, count: usize) -> i64 {
        let count = i64::try_from(count).unwrap_or(i64::MAX).max(1);
        (self.rows / count).min(self.rows_of_each)
    }
}

/// The use of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoleUsage {
    /// The number of members with this role.
    pub members: i64,
    /// The number of organizations with such members.
    pub organizations: i64,
    /// Whether the numbers are estimates. They are exact otherwise.
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

/// The rows and organizations with one role or permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Count {
    rows: i64,
    organizations: i64,
    is_estimate: bool,
}

impl From<Count> for RoleUsage {
    fn from(Count { rows: members, organizations, is_estimate }: Count) -> Self {
        Self { members, organizations, is_estimate }
    }
}

impl From<Count> for PermissionUsage {
    fn from(Count { rows: roles, organizations, is_estimate }: Count) -> Self {
        Self { roles, organizations, is_estimate }
    }
}

/// Counts of the rows with some values, from the whole of a table or a sample of it.
struct Sample {
    /// The part of the table that was read, at most 1.
    part: f64,
    /// The organizations of the datastore, by the statistics of Postgres; 0 if they do not say.
    all_organizations: i64,
    counts: HashMap<String, Count>,
}

struct SampledCount {
    value: String,
    rows: i64,
    organizations: i64,
}

impl Sample {
    fn new(part: f64, all_organizations: i64, counts: Vec<SampledCount>) -> Self {
        let is_estimate = part < 1.0;
        let count = |SampledCount { value, rows, organizations }| (value, Count { rows, organizations, is_estimate });
        Self { part, all_organizations, counts: counts.into_iter().map(count).collect() }
    }

    /// The rows with a value: exact if the whole table was read.
    fn count(&self, value: &str) -> Count {
        let found = self.counts.get(value).copied().unwrap_or_default();
        let is_estimate = self.part < 1.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "an estimate")]
        let scale = |number: i64| if is_estimate { (number as f64 / self.part).round() as i64 } else { number };
        let most = if self.all_organizations > 0 { self.all_organizations } else { i64::MAX };
        let organizations = if is_estimate { scale(found.organizations).min(most) } else { found.organizations };
        Count { rows: scale(found.rows), organizations, is_estimate }
    }

    /// Whether the rows with a value are to be counted by an index, up to this number: there are few of them.
    fn is_rare(&self, value: &str, most: i64) -> bool {
        let sampled = self.counts.get(value).map_or(0, |count| count.rows);
        self.part < 1.0 && (sampled < SAMPLED_ROWS || self.count(value).rows <= most)
    }

    /// The rows with a value of which an index found some, up to this number and one more.
    fn refine(&self, value: &str, found: &BoundedCount, most: i64) -> Count {
        if found.rows <= most {
            return Count { rows: found.rows, organizations: found.organizations, is_estimate: false };
        }
        let Count { rows, organizations, .. } = self.count(value);
        let (rows, organizations) = (rows.max(found.rows), organizations.max(found.organizations));
        Count { rows, organizations: organizations.min(rows), is_estimate: true }
    }
}

/// A count up to a bound.
struct BoundedCount {
    /// The rows found, at most one more than the bound.
    rows: i64,
    /// The organizations of these rows.
    organizations: i64,
}

/// The sizes of the tables in which uses are counted, in bytes. Long lists of permissions are stored beside the rows, and
/// count.
struct Sizes {
    members: i64,
    roles: i64,
    organizations: i64,
}

async fn sizes(connection: &mut PgConnection) -> Result<Sizes, StoreError> {
    let sizes = sqlx::query_as!(
        Sizes,
        r#"SELECT pg_table_size('memberships') AS "members!", pg_table_size('organization_roles') AS "roles!",
                  greatest(reltuples, 0)::bigint AS "organizations!"
           FROM pg_class WHERE oid = to_regclass('organizations')"#,
    );
    Ok(sizes.fetch_one(connection).await?)
}

/// The part of a table of this size to read.
#[expect(clippy::cast_precision_loss, reason = "a part of the table")]
fn part_of(size: i64, limits: &CountLimits) -> f64 {
    if size <= limits.table_bytes { 1.0 } else { limits.table_bytes as f64 / size as f64 }
}

/// The use of each of these roles, `admin` and `member` included, in their order. A number 0 of `admin` or `member` may be
/// an estimate, that of another role is exact.
///
/// # Errors
/// If Postgres does not answer.
pub async fn roles(
    connection: &mut PgConnection,
    roles: &[RoleName],
    limits: &CountLimits,
) -> Result<Vec<RoleUsage>, StoreError> {
    let sizes = sizes(connection).await?;
    let part = part_of(sizes.members, limits);
    let names: Vec<String> = roles.iter().map(RoleName::to_string).collect();
    let counts = sqlx::query_as!(
        SampledCount,
        r#"SELECT m.role AS value, count(*) AS "rows!", count(DISTINCT m.organization_id) AS "organizations!"
           FROM memberships m TABLESAMPLE SYSTEM ($2::float8 * 100)
           JOIN unnest($1::text[]) AS q (role) ON q.role = m.role GROUP BY m.role"#,
        &names,
        part,
    )
    .fetch_all(&mut *connection)
    .await?;
    let sample = Sample::new(part, sizes.organizations, counts);
    let most = limits.of_each(roles.len());
    let has_index = |role: &RoleName| *role != RoleName::ADMIN && *role != RoleName::MEMBER;
    let is_rare = |role: &&RoleName| has_index(role) && sample.is_rare(role.as_str(), most);
    let rare: Vec<RoleName> = roles.iter().filter(is_rare).cloned().collect();
    let mut found = bounded_members(connection, &rare, most).await?.into_iter();
    let usages = roles.iter().map(|role| {
        let found = if is_rare(&role) { found.next() } else { None };
        let name = role.as_str();
        found.map_or_else(|| sample.count(name), |found| sample.refine(name, &found, most)).into()
    });
    Ok(usages.collect())
}

/// The use of each of these roles of the deployment, in their order, exact up to `most` members of each. Beyond it, one
/// member more stands for all of them, marked as an estimate. Not for `admin` and `member`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn deployment_roles(
    connection: &mut PgConnection,
    roles: &[RoleName],
    most: i64,
) -> Result<Vec<RoleUsage>, StoreError> {
    let counts = bounded_members(connection, roles, most).await?.into_iter();
    let usage = |BoundedCount { rows, organizations }| Count { rows, organizations, is_estimate: rows > most }.into();
    Ok(counts.map(usage).collect())
}

/// Those of these roles of the deployment that a member holds, or that replace a role of an organization.
///
/// # Errors
/// If Postgres does not answer.
pub async fn held_roles(connection: &mut PgConnection, roles: &[RoleName]) -> Result<Vec<RoleName>, StoreError> {
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = roles.iter().map(RoleName::to_string).collect();
    let held = sqlx::query_scalar!(
        r#"SELECT q.role AS "role!" FROM unnest($1::text[]) AS q (role)
           CROSS JOIN LATERAL (
               (SELECT 1 FROM memberships WHERE deployment_role = q.role COLLATE "C" LIMIT 1)
               UNION ALL
               (SELECT 1 FROM organization_roles WHERE deployment_replacement = q.role COLLATE "C" LIMIT 1)
               LIMIT 1) held"#,
        &names,
    );
    Ok(held.fetch_all(connection).await?.iter().map(|name| RoleName::from_stored(name)).collect())
}

async fn bounded_members(
    connection: &mut PgConnection,
    roles: &[RoleName],
    most: i64,
) -> Result<Vec<BoundedCount>, StoreError> {
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = roles.iter().map(RoleName::to_string).collect();
    let counts = sqlx::query_as!(
        BoundedCount,
        r#"SELECT u.found AS "rows!", u.organizations AS "organizations!"
           FROM unnest($1::text[]) WITH ORDINALITY AS q (role, number)
           CROSS JOIN LATERAL (
               SELECT count(*) AS found, count(DISTINCT m.organization_id) AS organizations FROM (
                   SELECT organization_id FROM memberships WHERE deployment_role = q.role COLLATE "C"
                   ORDER BY bucket, organization_id LIMIT $2::bigint + 1) m) u
           ORDER BY q.number"#,
        &names,
        most,
    );
    Ok(counts.fetch_all(connection).await?)
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

/// The use of each of these permissions by roles of organizations, in their order.
///
/// # Errors
/// If Postgres does not answer.
pub async fn permissions(
    connection: &mut PgConnection,
    permissions: &[String],
    limits: &CountLimits,
) -> Result<Vec<PermissionUsage>, StoreError> {
    let sizes = sizes(connection).await?;
    let part = part_of(sizes.roles, limits);
    let rows = sqlx::query!(
        "SELECT organization_id, permissions FROM organization_roles TABLESAMPLE SYSTEM ($1::float8 * 100)",
        part,
    );
    // Counted here: Postgres sorts every word of every row for it.
    let mut holders: HashMap<&str, Vec<Uuid>> = permissions.iter().map(|word| (word.as_str(), Vec::new())).collect();
    for row in rows.fetch_all(&mut *connection).await? {
        for word in &row.permissions {
            if let Some(organizations) = holders.get_mut(word.as_str()) {
                organizations.push(row.organization_id);
            }
        }
    }
    let counts = holders.into_iter().map(|(word, mut organizations)| {
        let rows = organizations.len();
        organizations.sort_unstable();
        organizations.dedup();
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        SampledCount { value: word.to_owned(), rows: number(rows), organizations: number(organizations.len()) }
    });
    let sample = Sample::new(part, sizes.organizations, counts.collect());
    let most = limits.of_each(permissions.len());
    let is_rare = |word: &&String| sample.is_rare(word, most);
    let rare: Vec<String> = permissions.iter().filter(is_rare).cloned().collect();
    let mut found = bounded_roles(connection, &rare, most).await?.into_iter();
    let usages = permissions.iter().map(|word| {
        let found = if is_rare(&word) { found.next() } else { None };
        found.map_or_else(|| sample.count(word), |found| sample.refine(word, &found, most)).into()
    });
    Ok(usages.collect())
}

async fn bounded_roles(
    connection: &mut PgConnection,
    permissions: &[String],
    most: i64,
) -> Result<Vec<BoundedCount>, StoreError> {
    if permissions.is_empty() {
        return Ok(Vec::new());
    }
    let counts = sqlx::query_as!(
        BoundedCount,
        r#"SELECT u.found AS "rows!", u.organizations AS "organizations!"
           FROM unnest($1::text[]) WITH ORDINALITY AS q (permission, number)
           CROSS JOIN LATERAL (
               SELECT count(*) AS found, count(DISTINCT r.organization_id) AS organizations FROM (
                   SELECT organization_id FROM organization_roles WHERE permissions @> ARRAY[q.permission COLLATE "C"]
                   LIMIT $2::bigint + 1) r) u
           ORDER BY q.number"#,
        permissions,
        most,
    );
    Ok(counts.fetch_all(connection).await?)
}

/// Whether a role of an organization that was written after these heads of the change log, one for each bucket in order,
/// holds one of these permissions, or did when it was written.
///
/// # Errors
/// If Postgres does not answer.
pub async fn are_permissions_used_since(
    connection: &mut PgConnection,
    heads: &[LogPosition],
    permissions: &[String],
) -> Result<bool, StoreError> {
    let positions: Vec<i64> = heads.iter().map(|head| head.position).collect();
    let times: Vec<OffsetDateTime> = heads.iter().map(|head| head.write_time).collect();
    // The time finds the partitions of the log.
    let is_used = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM unnest($1::bigint[], $2::timestamptz[]) WITH ORDINALITY AS q (position, write_time, number)
               JOIN log_heads h ON h.bucket = q.number - 1 AND h.position > q.position
               CROSS JOIN LATERAL (
                   SELECT FROM log WHERE log.bucket = h.bucket AND log.position > q.position
                       AND log.write_time > q.write_time AND log.permissions && $3::text[] LIMIT 1) l) AS "is_used!""#,
        &positions,
        &times,
        permissions,
    );
    Ok(is_used.fetch_one(connection).await?)
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

    fn sample(part: f64, rows: i64, organizations: i64) -> Sample {
        Sample::new(part, 5_000, vec![SampledCount { value: "a".to_owned(), rows, organizations }])
    }

    #[test]
    fn a_whole_table_gives_exact_counts() {
        let whole = sample(1.0, 200_000, 7_000);
        assert_eq!(whole.count("a"), Count { rows: 200_000, organizations: 7_000, is_estimate: false });
        assert_eq!(whole.count("b"), Count::default());
        assert!(!whole.is_rare("a", 1_000) && !whole.is_rare("b", 1_000));
    }

    #[test]
    fn a_part_of_a_table_gives_estimates_of_what_is_not_rare() {
        let many = sample(0.01, 200, 100);
        assert_eq!(many.count("a"), Count { rows: 20_000, organizations: 5_000, is_estimate: true });
        assert!(!many.is_rare("a", 1_000) && many.is_rare("a", 20_000) && many.is_rare("b", 1_000));
        let few = sample(0.01, 7, 1);
        assert!(few.is_rare("a", 1_000));
        let found = |rows, organizations| BoundedCount { rows, organizations };
        let exact = Count { rows: 1_000, organizations: 9, is_estimate: false };
        assert_eq!(few.refine("a", &found(1_000, 9), 1_000), exact);
        let estimate = |rows, organizations| Count { rows, organizations, is_estimate: true };
        assert_eq!(few.refine("a", &found(1_001, 9), 1_000), estimate(1_001, 100));
        // The sample is no less than what was found.
        assert_eq!(few.refine("b", &found(1_001, 9), 1_000), estimate(1_001, 9));
    }

    #[test]
    fn many_roles_share_the_rows_to_count() {
        let limits = CountLimits { rows_of_each: 1_000, rows: 200_000, table_bytes: 0 };
        for (count, most) in [(0, 1_000), (1, 1_000), (200, 1_000), (201, 995), (2_000, 100)] {
            assert_eq!(limits.of_each(count), most);
        }
    }
}
