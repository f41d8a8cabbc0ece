//! The memberships that are asked for: number n is user n in organization n / 10, with ids made from the numbers.

use sqlx::{AssertSqlSafe, Connection};
use std::path::{Path, PathBuf};

/// Members of each organization.
const MEMBERS: u32 = 10;

/// Fills the tables without going through the service: a million writes are not what is measured here.
pub(crate) async fn fill(url: &str, count: u32) {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    let organizations = count / MEMBERS;
    for statement in [
        format!(
            "CREATE TEMPORARY TABLE made AS
             SELECT number, md5('o' || number)::uuid AS id FROM generate_series(0, {organizations} - 1) AS number"
        ),
        format!(
            "INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email_verified, profile_issued_at,
                                revision, create_time, update_time)
             SELECT user_bucket_of(id), id, 'ACTIVE', false, false, 0, 1, now(), now()
             FROM (SELECT md5('u' || number)::uuid::text AS id FROM generate_series(0, {count} - 1) AS number) made"
        ),
        "INSERT INTO slugs SELECT 'o' || number, organization_bucket_of(id), id FROM made".to_owned(),
        "INSERT INTO organizations (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator, owner_id,
                                    revision, row_revision, create_time, update_time)
         SELECT organization_bucket_of(id), id, 'o' || number, 'o' || number, 'organization', '{}', 'PENDING', false,
                NULL, 1, 1, now(), now() FROM made"
            .to_owned(),
        format!(
            "INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time,
                                      update_time)
             SELECT organization_bucket_of(id), id, md5('u' || number * {MEMBERS} + member)::uuid::text, 'admin', '{{}}',
                    1, now(), now()
             FROM made, generate_series(0, {MEMBERS} - 1) AS member"
        ),
        format!(
            "UPDATE organizations o SET state = 'ACTIVE', owner_id = md5('u' || number * {MEMBERS})::uuid::text
             FROM made WHERE made.id = o.id"
        ),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    }
    for statement in ["VACUUM ANALYZE organizations, memberships, users, slugs", "CHECKPOINT"] {
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    }
}

/// The ids of organization and user of a membership, as they are made above.
pub(crate) fn ids(number: u32) -> (String, String) {
    use md5::Digest;
    let uuid = |text: String| uuid::Uuid::from_bytes(md5::Md5::digest(text).into()).to_string();
    (uuid(format!("o{}", number / MEMBERS)), uuid(format!("u{number}")))
}

/// Writes the pgbench script that asks for one membership by its key.
pub(crate) fn pgbench_script(directory: &Path, count: u32) -> PathBuf {
    let path = directory.join("membership.sql");
    let script = format!(
        "\\set number random(0, {})\n\
         SELECT role FROM memberships WHERE bucket = organization_bucket_of(md5('o' || :number / {MEMBERS})::uuid) \
         AND organization_id = md5('o' || :number / {MEMBERS})::uuid AND user_id = md5('u' || :number)::uuid::text;\n",
        count - 1
    );
    std::fs::write(&path, script).unwrap();
    path
}
