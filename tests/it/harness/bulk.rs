//! Rows by the thousand, put into the tables without going through the service. No log and no events tell of them.

use super::Database;
use sqlx::AssertSqlSafe;

/// What to put in: a query each.
pub struct Bulk<'a> {
    /// Of `id`.
    pub users: &'a str,
    /// Of `id`, `slug` and `owner`, of whom a membership is below.
    pub organizations: &'a str,
    /// Of `id`, an organization's, and `user_id`. All are admins.
    pub memberships: &'a str,
}

impl Bulk<'_> {
    /// Puts all of it in, or nothing.
    pub async fn put(self, database: &Database) {
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
