//! Members added over many organizations by many callers, beside a pgbench script of the statements of that transaction
//! with as many connections. Everybody has both cores.

use crate::echo::medians;
use crate::tool::median;
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::measure_on;
use crate::tool::stage::{Stage, both, rounds};

/// As many as the server has by default.
const CONNECTIONS: u32 = 16;

/// The transaction of `AddMember` for a user who is known, statement by statement. Its users are others than those of
/// [`crate::tool::table::not_a_member`], so that neither adds whom the other has added.
const SCRIPT: &str = "
\\set o random(0, :organizations - 1)
\\set u (:o * 10 + 10 + random(:users / 2, :users - 30)) % :users
BEGIN ISOLATION LEVEL READ COMMITTED;
SELECT id, slug, name, kind, attributes, state, deactivated_by_operator, owner_id, revision, row_revision, create_time, update_time, delete_time, purge_time FROM organizations WHERE bucket = organization_bucket_of(md5('o' || (:o)::int)::uuid) AND id = md5('o' || (:o)::int)::uuid FOR NO KEY UPDATE;
SELECT id, state, email, email_verified, display_name, profile_issued_at, revision, create_time, update_time FROM users WHERE user_bucket = user_bucket_of(md5('u' || (:u)::int)::uuid::text) AND id = md5('u' || (:u)::int)::uuid::text FOR SHARE;
SELECT m.user_id, m.role, m.attributes, m.revision FROM memberships m JOIN organizations o ON o.bucket = m.bucket AND o.id = m.organization_id WHERE m.bucket = organization_bucket_of(md5('o' || (:o)::int)::uuid) AND m.organization_id = md5('o' || (:o)::int)::uuid AND m.user_id = md5('u' || (:u)::int)::uuid::text;
INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time) VALUES (organization_bucket_of(md5('o' || (:o)::int)::uuid), md5('o' || (:o)::int)::uuid, md5('u' || (:u)::int)::uuid::text, 'member', '{}', 2, clock_timestamp(), clock_timestamp()) ON CONFLICT DO NOTHING RETURNING user_id, role;
UPDATE organizations SET revision = revision + 1 WHERE bucket = organization_bucket_of(md5('o' || (:o)::int)::uuid) AND id = md5('o' || (:o)::int)::uuid RETURNING revision \\gset
INSERT INTO events (bucket, organization_id, revision, type, actor_kind, actor_id, user_id, new, create_time) VALUES (organization_bucket_of(md5('o' || (:o)::int)::uuid), md5('o' || (:o)::int)::uuid, (:revision)::bigint, 'member.added', 'service', 'bench', md5('u' || (:u)::int)::uuid::text, '{\"role\": \"member\"}', clock_timestamp());
WITH head AS (UPDATE log_heads SET position = position + 1, write_time = greatest(clock_timestamp(), write_time + interval '1 microsecond') WHERE bucket = organization_bucket_of(md5('o' || (:o)::int)::uuid) RETURNING bucket, position, write_time), written AS (INSERT INTO log (bucket, position, commit_position, organization_id, revision, kind, entry, user_id, role, write_time) SELECT head.bucket, head.position, head.position, md5('o' || (:o)::int)::uuid, (:revision)::bigint, 'organization', 'MEMBERSHIP', md5('u' || (:u)::int)::uuid::text, 'member', head.write_time FROM head) SELECT position FROM head;
COMMIT;
";

pub(crate) fn rows(stage: &Stage) -> Vec<Row> {
    let script = stage.directory.path().join("add.sql");
    let organizations = stage.size.organizations();
    let text =
        SCRIPT.replace(":organizations", &organizations.to_string()).replace(":users", &stage.size.users.to_string());
    std::fs::write(&script, text).unwrap();
    let server = stage.start_on(&both());
    let token = stage.token("roster:manage");
    let (mut added, mut asked) = (Vec::new(), Vec::new());
    for salt in 0..rounds() {
        let load = stage.load(&server.address, &token, Kind::Add { salt, table: stage.size });
        added.push(measure_on(&server.process, &load, &both()));
        asked.push(stage.pgbench(&script, CONNECTIONS));
    }
    let (added, asked) = (medians(&added), median(asked));
    vec![row(
        &format!("AddMember over {organizations} organizations, 128 callers"),
        format!("{:.0}/s, p50 {:.1} ms, p99 {:.1} ms", added.rate, added.p50 / 1e3, added.p99 / 1e3),
        format!("pgbench -M prepared -c {CONNECTIONS}, the same statements: {asked:.0}/s"),
        Some(added.rate / asked),
        "≥ 0.7",
    )]
}
