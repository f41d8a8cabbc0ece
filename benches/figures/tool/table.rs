//! The memberships that are asked for: number n is user n (modulo the number of users) in organization n / 10, with ids
//! made from the numbers.

use sqlx::{AssertSqlSafe, Connection};
use std::path::{Path, PathBuf};

/// Members of each organization.
const MEMBERS: u32 = 10;

/// How many there are.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct Size {
    pub(crate) memberships: u32,
    pub(crate) users: u32,
}

impl Size {
    /// So many memberships, of three users in each ten of them.
    pub(crate) fn of(memberships: u32) -> Self {
        Self { memberships, users: (memberships / 10 * 3).max(MEMBERS) }
    }

    pub(crate) fn organizations(self) -> u32 {
        self.memberships / MEMBERS
    }
}

/// Fills the tables without going through the service: a million writes are not what is measured here.
pub(crate) async fn fill(url: &str, size: Size) {
    let users = size.users;
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    let organizations = size.organizations();
    for statement in [
        // What is written here is right; looking each reference up takes longer than writing it.
        "SET session_replication_role = replica".to_owned(),
        format!(
            "CREATE TEMPORARY TABLE made AS
             SELECT number, md5('o' || number)::uuid AS id FROM generate_series(0, {organizations} - 1) AS number"
        ),
        format!(
            "INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email_verified, profile_issued_at,
                                revision, create_time, update_time)
             SELECT user_bucket_of(id), id, 'ACTIVE', false, false, 0, 1, now(), now()
             FROM (SELECT md5('u' || number)::uuid::text AS id FROM generate_series(0, {users} - 1) AS number) made"
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
             SELECT organization_bucket_of(id), id, md5('u' || (number * {MEMBERS} + member) % {users})::uuid::text, 'admin', '{{}}',
                    1, now(), now()
             FROM made, generate_series(0, {MEMBERS} - 1) AS member"
        ),
        format!(
            "UPDATE organizations o SET state = 'ACTIVE', owner_id = md5('u' || number * {MEMBERS} % {users})::uuid::text
             FROM made WHERE made.id = o.id"
        ),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    }
    for statement in ["VACUUM ANALYZE organizations, memberships, users, slugs", "CHECKPOINT"] {
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    }
}

fn uuid(text: String) -> String {
    use md5::Digest;
    uuid::Uuid::from_bytes(md5::Md5::digest(text).into()).to_string()
}

/// The id of an organization.
pub(crate) fn organization(number: u32) -> String {
    uuid(format!("o{number}"))
}

/// The ids of organization and user of a membership, as they are made above.
pub(crate) fn ids(number: u32, users: u32) -> (String, String) {
    (organization(number / MEMBERS), uuid(format!("u{}", number % users)))
}

/// Writes the pgbench script that asks for one membership by its key.
pub(crate) fn pgbench_script(directory: &Path, Size { memberships, users }: Size) -> PathBuf {
    let path = directory.join("membership.sql");
    let script = format!(
        "\\set number random(0, {})\n\
         SELECT role FROM memberships WHERE bucket = organization_bucket_of(md5('o' || :number / {MEMBERS})::uuid) \
         AND organization_id = md5('o' || :number / {MEMBERS})::uuid AND user_id = md5('u' || :number % {users})::uuid::text;\n",
        memberships - 1
    );
    std::fs::write(&path, script).unwrap();
    path
}
