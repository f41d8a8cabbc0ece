//! The memberships of the measurements: number n is user n (modulo the number of users) in organization n / 10, with ids
//! derived from the numbers.
//!
//! With roles, the deployment has an access model with 20 roles, and each of the first organizations defines one role.
//! Then the first members of these organizations are admins, [`DEPLOYMENT_MEMBER`] has a role of the deployment, and
//! [`ORGANIZATION_MEMBER`] that of the organization.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection};
use std::path::{Path, PathBuf};

/// The number of members of each organization.
const MEMBERS: u32 = 10;
/// The number of roles of the deployment.
const ROLES: u32 = 20;
/// The first of three members with a role of the deployment.
pub(crate) const DEPLOYMENT_MEMBER: u32 = 4;
/// The first of three members with the role of their organization.
pub(crate) const ORGANIZATION_MEMBER: u32 = 7;
/// The permission of the application that these roles hold.
pub(crate) const PERMISSION: &str = "billing.read";

/// The numbers of memberships and users.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct Size {
    pub(crate) memberships: u32,
    pub(crate) users: u32,
}

impl Size {
    /// The size for this number of memberships, with three users for every ten.
    pub(crate) fn of(memberships: u32) -> Self {
        Self { memberships, users: (memberships / 10 * 3).max(MEMBERS) }
    }

    pub(crate) fn organizations(self) -> u32 {
        self.memberships / MEMBERS
    }
}

/// Fills the tables by SQL, since a million writes through the service would take too long. `roles` is the number of
/// organizations with a role of their own; 0 for built-in roles only.
pub(crate) async fn fill(url: &str, size: Size, roles: u32) {
    let number_of_users = size.users;
    let count = size.organizations();
    let made = format!(
        "SELECT number, md5('o' || number)::uuid AS id, 'o' || number AS name,
                md5('u' || number * {MEMBERS} % {number_of_users})::uuid::text AS owner
         FROM generate_series(0, {count} - 1) AS number"
    );
    let statements = [
        users(&format!(
            "SELECT md5('u' || number)::uuid::text AS id FROM generate_series(0, {number_of_users} - 1) AS number"
        )),
        format!("INSERT INTO slugs SELECT name, organization_bucket_of(id), id FROM ({made}) made"),
        organizations(&made),
        memberships(&format!(
            "SELECT id, md5('u' || (number * {MEMBERS} + member) % {number_of_users})::uuid::text AS user_id
             FROM ({made}) made, generate_series(0, {MEMBERS} - 1) AS member"
        )),
    ];
    run(url, &statements).await;
    if roles > 0 {
        run(url, &add_roles(&made, size.users, roles)).await;
    }
    run(url, &["CHECKPOINT".to_owned()]).await;
}

/// The statements that apply the access model, and that define and assign the roles.
fn add_roles(made: &str, users: u32, roles: u32) -> Vec<String> {
    let role = |number| json!({ "name": format!("role-{number}"), "permissions": [PERMISSION] });
    let model = json!({
        "permissions": [{ "name": PERMISSION }, { "name": "billing.write" }],
        "roles": (0..ROLES).map(role).collect::<Vec<_>>(),
    });
    let organizations =
        format!("SELECT organization_bucket_of(id) AS bucket, * FROM ({made}) made WHERE number < {roles}");
    let assign = |first: u32, column: &str, name: &str| {
        format!(
            "UPDATE memberships m SET role = {name}, {column} = {name}
             FROM ({organizations}) o, generate_series({first}, {first} + 2) AS member
             WHERE m.bucket = o.bucket AND m.organization_id = o.id AND m.user_id <> o.owner
               AND m.user_id = md5('u' || (o.number * {MEMBERS} + member) % {users})::uuid::text"
        )
    };
    vec![
        format!("UPDATE access_model SET revision = 1, write_time = now(), model = '{model}', enabled = true"),
        "INSERT INTO access_model_revisions (revision, model, actor_kind, actor_id, create_time)
         SELECT revision, model, 'system', '', write_time FROM access_model"
            .to_owned(),
        "UPDATE log_heads SET model_revision = 1".to_owned(),
        format!("INSERT INTO deployment_roles (name) SELECT 'role-' || number FROM generate_series(0, {ROLES} - 1) AS number"),
        format!(
            "INSERT INTO organization_roles (bucket, organization_id, name, title, description, permissions, revision,
                                             create_time, update_time)
             SELECT bucket, id, 'org:clerk', '', '', '{{{PERMISSION},members.list}}', 1, now(), now() FROM ({organizations}) o"
        ),
        assign(DEPLOYMENT_MEMBER, "deployment_role", &format!("'role-' || o.number % {ROLES}")),
        assign(ORGANIZATION_MEMBER, "organization_role", "'org:clerk'"),
    ]
}

fn uuid(text: String) -> String {
    use md5::Digest;
    uuid::Uuid::from_bytes(md5::Md5::digest(text).into()).to_string()
}

/// The id of an organization.
pub(crate) fn organization(number: u32) -> String {
    uuid(format!("o{number}"))
}

/// The ids of the organization and the user of a membership.
pub(crate) fn ids(number: u32, users: u32) -> (String, String) {
    (organization(number / MEMBERS), uuid(format!("u{}", number % users)))
}

/// The ids of an organization and of a user that `fill` has not added to it: another user for each number.
pub(crate) fn not_a_member(organization: u32, number: u32, users: u32) -> (String, String) {
    let user = (organization * MEMBERS + MEMBERS + number) % users;
    (self::organization(organization), uuid(format!("u{user}")))
}

/// Writes the pgbench script that reads one membership by its key.
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

/// The ids of an organization and of one of its members.
pub(crate) fn member(organization: u32, member: u32, users: u32) -> (String, String) {
    ids(organization * MEMBERS + member, users)
}

/// Adds an organization with this number of members, and returns its id.
pub(crate) async fn add_large(url: &str, members: u32) -> String {
    let id = uuid(format!("large{members}"));
    let statements = [
        format!("INSERT INTO slugs SELECT 'large{members}', organization_bucket_of('{id}'), '{id}'"),
        organizations(&format!("SELECT '{id}'::uuid AS id, 'large{members}' AS name, md5('u0')::uuid::text AS owner")),
        memberships(&format!(
            "SELECT '{id}'::uuid AS id, md5('u' || number)::uuid::text AS user_id FROM generate_series(0, {members} - 1) AS number"
        )),
        // Some of the users may not exist yet.
        users(&format!("SELECT md5('u' || number)::uuid::text AS id FROM generate_series(0, {members} - 1) AS number")),
    ];
    run(url, &statements).await;
    id
}

/// Adds a user that owns this number of organizations, and returns the user's id.
pub(crate) async fn add_busy(url: &str, count: u32) -> String {
    let user = uuid(format!("busy{count}"));
    let all = format!(
        "SELECT md5('b{count}-' || number)::uuid AS id, 'b{count}-' || number AS name, '{user}' AS owner
         FROM generate_series(0, {count} - 1) AS number"
    );
    let statements = [
        users(&format!("SELECT '{user}' AS id")),
        format!("INSERT INTO slugs SELECT name, organization_bucket_of(id), id FROM ({all}) made"),
        organizations(&all),
        memberships(&format!("SELECT id, owner AS user_id FROM ({all}) made")),
    ];
    run(url, &statements).await;
    user
}

fn users(rows: &str) -> String {
    format!(
        "INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email_verified, profile_issued_at,
                            revision, create_time, update_time)
         SELECT user_bucket_of(id), id, 'ACTIVE', false, false, 0, 1, now(), now() FROM ({rows}) rows ON CONFLICT DO NOTHING"
    )
}

fn organizations(rows: &str) -> String {
    format!(
        "INSERT INTO organizations (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator, owner_id,
                                    revision, row_revision, create_time, update_time)
         SELECT organization_bucket_of(id), id, name, name, 'organization', '{{}}', 'ACTIVE', false, owner, 1, 1,
                now(), now() FROM ({rows}) rows"
    )
}

fn memberships(rows: &str) -> String {
    format!(
        "INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time)
         SELECT organization_bucket_of(id), id, user_id, 'admin', '{{}}', 1, now(), now() FROM ({rows}) rows"
    )
}

/// Runs statements without checks of foreign keys, and updates the statistics of the tables.
async fn run(url: &str, statements: &[String]) {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    for statement in ["SET session_replication_role = replica"].into_iter().chain(statements.iter().map(String::as_str))
    {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
    }
    sqlx::raw_sql("VACUUM ANALYZE organizations, memberships, users, slugs").execute(&mut connection).await.unwrap();
}
