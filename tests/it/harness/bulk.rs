//! Thousands of rows, inserted directly into the tables. The change log and the events do not contain them.

use super::Database;
use sqlx::AssertSqlSafe;

/// Adds this many members, whose entries in an export take about 200 bytes each, to an organization. They have no account.
pub async fn add_members(database: &Database, organization: &str, members: i64) {
    sqlx::query(
        "INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time)
         SELECT m.bucket, m.organization_id, 'member-' || repeat('x', 180) || n, 'member', '{}', 1, now(), now()
         FROM memberships m, generate_series(1, $2) n WHERE m.organization_id = $1::uuid",
    )
    .bind(organization)
    .bind(members)
    .execute(&database.pool)
    .await
    .unwrap();
}

/// The rows to insert, as one query for each table.
pub struct Bulk<'a> {
    /// A query that returns `id`.
    pub users: &'a str,
    /// Returns `id`, `slug` and `owner`. `memberships` must contain each owner.
    pub organizations: &'a str,
    /// Returns the `id` of an organization and a `user_id`. Every member becomes an admin.
    pub memberships: &'a str,
}

impl Bulk<'_> {
    /// Inserts all rows in one transaction.
    pub async fn insert(self, database: &Database) {
        let Self { users, organizations, memberships } = self;
        let statements = format!(
            "INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email_verified, profile_issued_at, revision,
                                create_time, update_time)
             SELECT user_bucket_of(id), id, 'ACTIVE', false, false, 0, 1, now(), now() FROM ({users}) made;
             INSERT INTO organizations (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator, owner_id,
                                        revision, row_revision, create_time, update_time)
             SELECT organization_bucket_of(id), id, slug, 'Acme', 'account', '{{}}', 'ACTIVE', false, owner, 1, 1, now(), now()
             FROM ({organizations}) made;
             INSERT INTO slugs (slug, bucket, organization_id)
             SELECT slug, organization_bucket_of(id), id FROM ({organizations}) made;
             INSERT INTO memberships
             SELECT organization_bucket_of(id), id, user_id, 'admin', '{{}}', 1, now(), now() FROM ({memberships}) made"
        );
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&database.pool).await.unwrap();
    }
}
