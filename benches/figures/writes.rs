//! Members added to many organizations by many callers, in comparison with a pgbench script of the same statements on the
//! same number of connections. All processes run on both cores.

use crate::echo::medians;
use crate::tool::median;
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::measure_on;
use crate::tool::stage::{Stage, both, rounds};

/// Connections of pgbench: the default of the server's pool.
const CONNECTIONS: u32 = 16;

/// The transaction of `AddMember` for a known user: the statements of the service, with ids that SQL makes from numbers. Only
/// the settings for time limit and plans, which the service sends with `BEGIN`, are missing. The users differ from those of
/// [`crate::tool::table::not_a_member`], so that script and service never add the same member.
const SCRIPT: &str = "
\\set o random(0, :organizations - 1)
\\set u (:o * 10 + 10 + random(:users / 2, :users - 30)) % :users
BEGIN ISOLATION LEVEL READ COMMITTED;
SELECT id, slug, name, kind, attributes, state, deactivated_by_operator, owner_id, revision, row_revision, create_time, update_time, delete_time, purge_time FROM organizations WHERE bucket = {bucket} AND id = {organization} FOR NO KEY UPDATE;
SELECT u.id, u.state, u.deactivated_by_operator, u.email, u.email_verified, u.display_name, u.profile_issued_at, u.revision, u.create_time, u.update_time FROM users u JOIN unnest(ARRAY[user_bucket_of({user})], ARRAY[{user}]) AS q (user_bucket, id) ON u.user_bucket = q.user_bucket AND u.id = q.id ORDER BY u.id FOR SHARE OF u;
SELECT m.user_id, m.role, (m.user_id = o.owner_id) AS is_owner, m.attributes, m.revision, m.create_time, m.update_time FROM memberships m JOIN organizations o ON o.bucket = m.bucket AND o.id = m.organization_id WHERE m.bucket = {bucket} AND m.organization_id = {organization} AND m.user_id = {user};
INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time) VALUES ({bucket}, {organization}, {user}, 'member', '{}', 2, clock_timestamp(), clock_timestamp()) ON CONFLICT DO NOTHING RETURNING user_id, role, false AS is_owner, attributes, revision, create_time, update_time;
UPDATE organizations SET revision = revision + 1 WHERE bucket = {bucket} AND id = {organization} RETURNING revision \\gset
INSERT INTO events (bucket, organization_id, revision, type, actor_kind, actor_id, actor_via, user_id, old, new, reason, request_id, create_time) SELECT {bucket}, {organization}, q.revision, q.type, 'service', 'bench', NULL, q.user_id, q.old, q.new, NULL, NULL, clock_timestamp() FROM unnest(ARRAY[(:revision)::bigint], ARRAY['member.added'], ARRAY[{user}], ARRAY[NULL::jsonb], ARRAY['{\"role\": \"member\"}'::jsonb]) AS q (revision, type, user_id, old, new);
WITH head AS (UPDATE log_heads SET position = position + cardinality(ARRAY[{organization}]), write_time = greatest(clock_timestamp(), write_time + interval '1 microsecond') WHERE bucket = {bucket} RETURNING position, write_time), written AS (INSERT INTO log (bucket, position, commit_position, organization_id, revision, kind, entry, user_id, role, state, owner_id, slug, write_time) SELECT {bucket}, head.position - cardinality(ARRAY[{organization}]) + q.number, head.position, q.organization_id, q.revision, q.kind, q.entry, q.user_id, q.role, q.state, q.owner_id, q.slug, head.write_time FROM head, unnest(ARRAY[{organization}], ARRAY[(:revision)::bigint], ARRAY['organization'], ARRAY['MEMBERSHIP'], ARRAY[{user}], ARRAY['member'], ARRAY[NULL::text], ARRAY[NULL::text], ARRAY[NULL::text]) WITH ORDINALITY AS q (organization_id, revision, kind, entry, user_id, role, state, owner_id, slug, number)) SELECT position FROM head;
COMMIT;
";

/// The placeholders of the script, with their SQL.
const NAMES: [(&str, &str); 3] = [
    ("{bucket}", "organization_bucket_of({organization})"),
    ("{organization}", "md5('o' || (:o)::int)::uuid"),
    ("{user}", "md5('u' || (:u)::int)::uuid::text"),
];

pub(crate) fn rows(stage: &Stage) -> Vec<Row> {
    let script = stage.directory.path().join("add.sql");
    let organizations = stage.size.organizations();
    let text = NAMES.iter().fold(SCRIPT.to_owned(), |text, (name, sql)| text.replace(name, sql));
    let text = text.replace(":organizations", &organizations.to_string());
    let text = text.replace(":users", &stage.size.users.to_string());
    std::fs::write(&script, text).unwrap();
    let server = stage.start_on(&both());
    let token = stage.token("roster:manage");
    let (mut added, mut reference) = (Vec::new(), Vec::new());
    for salt in 0..rounds() {
        let load = stage.load(&server.address, &token, Kind::Add { salt, table: stage.size });
        added.push(measure_on(&server.process, &load, &both()));
        reference.push(stage.pgbench(&script, CONNECTIONS));
    }
    let (added, reference) = (medians(&added), median(reference));
    vec![row(
        &format!("AddMember over {organizations} organizations, 128 callers"),
        format!("{:.0}/s, p50 {:.1} ms, p99 {:.1} ms", added.rate, added.p50 / 1e3, added.p99 / 1e3),
        format!("pgbench -M prepared -c {CONNECTIONS}, the same statements: {reference:.0}/s"),
        Some(added.rate / reference),
        "≥ 0.7",
    )]
}
