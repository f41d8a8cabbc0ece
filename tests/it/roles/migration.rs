//! `roster migrate` on a datastore of an earlier release: its rows stay, its servers go on, and roles that are not built in
//! are enabled in new datastores only.

use super::{connect, execute, run, until_waiting};
use crate::harness::Database;
use roster::store::access_model;
use roster::store::migrations::MIGRATIONS;
use sqlx::migrate::Migrate;

/// The last migration of release 0.3.0.
const FORMER: i64 = 9;

/// Rows of a former release.
const FORMER_ROWS: &str = "
    INSERT INTO organizations (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator, owner_id, revision,
                               row_revision, create_time, update_time)
    SELECT organization_bucket_of(id), id, 'org-' || n, 'Org', 'organization', '{}', 'ACTIVE', false, 'ada', 1, 1, now(),
           now()
    FROM (SELECT n, md5(n::text)::uuid AS id FROM generate_series(1, 300) n) made;
    INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time)
    SELECT bucket, id, member, CASE member WHEN 'ada' THEN 'admin' ELSE 'member' END, '{}', 1, now(), now()
    FROM organizations, unnest(ARRAY['ada', 'bob']) AS member;
    INSERT INTO invitations (bucket, organization_id, id, identifier, identifier_normal, is_email, role, makes_owner,
                             attributes, state, inviter_kind, inviter_id, expire_time, sends, send_time, create_time,
                             update_time)
    SELECT bucket, id, id, 'eve', 'eve', false, 'admin', false, '{}', 'PENDING', 'user', 'ada', now(), 0, now(), now(), now()
    FROM organizations;
    INSERT INTO log (bucket, position, commit_position, organization_id, revision, kind, entry, user_id, role, write_time)
    SELECT DISTINCT ON (bucket) bucket, 1, 1, id, 1, 'organization', 'MEMBERSHIP', 'bob', 'member', now()
    FROM organizations;
    UPDATE log_heads h SET position = 1 FROM log l WHERE l.bucket = h.bucket";

/// A write of a former release, up to its commit: first the head of the log, so that a migration of it waits.
const FORMER_WRITE: [&str; 3] = [
    "UPDATE log_heads SET position = position + 1 WHERE bucket = 255",
    "INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time)
     SELECT bucket, id, 'eve', 'member', '{}', 2, now(), now() FROM organizations WHERE slug = 'org-1'",
    "UPDATE memberships SET role = 'admin' WHERE user_id = 'bob'",
];

/// A datastore as release 0.3.0 has migrated it.
async fn former() -> Database {
    let database = Database::empty().await;
    let mut connection = connect(&database).await;
    MIGRATIONS.run_to(FORMER, &mut connection).await.unwrap();
    run(&database, FORMER_ROWS).await;
    database
}

async fn is_enabled(database: &Database) -> bool {
    access_model::current(&mut connect(database).await).await.unwrap().is_enabled
}

/// The constraints that no row was compared with.
const NOT_VALID: &str = "SELECT count(*) FROM pg_constraint WHERE NOT convalidated";

#[tokio::test]
async fn a_datastore_made_from_nothing_is_enabled() {
    let database = Database::empty().await;
    // Several processes: whichever runs the first migration.
    tokio::join!(database.migrate(), database.migrate(), database.migrate());
    assert!(is_enabled(&database).await);
    run(&database, "UPDATE access_model SET enabled = false").await;
    database.migrate().await;
    assert!(!is_enabled(&database).await);
}

#[tokio::test]
async fn a_datastore_of_a_former_release_is_not_enabled_until_the_operator_says_so() {
    let database = former().await;
    for _ in 0..2 {
        database.migrate().await;
        assert!(!is_enabled(&database).await);
    }
    let mut connection = connect(&database).await;
    assert!(access_model::enable(&mut connection).await.unwrap());
    assert!(!access_model::enable(&mut connection).await.unwrap());
    database.migrate().await;
    assert!(is_enabled(&database).await);
}

#[tokio::test]
async fn a_process_that_waited_for_the_migrations_of_a_former_release_does_not_enable() {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'";
    let database = Database::empty().await;
    let mut former = connect(&database).await;
    // A process of the former release holds the lock of the migrations.
    former.lock().await.unwrap();
    let release = async {
        let wait = async { while database.count(WAITING).await == 0 {} };
        tokio::time::timeout(super::CONDITION_TIMEOUT, wait).await.unwrap();
        MIGRATIONS.run_to(FORMER, &mut former).await.unwrap();
        former.unlock().await.unwrap();
    };
    tokio::join!(database.migrate(), release);
    assert!(!is_enabled(&database).await);
}

#[tokio::test]
async fn the_rows_of_a_former_release_stay_and_every_constraint_is_valid() {
    const ROWS: &str = "SELECT md5(string_agg(row, '' ORDER BY row)) FROM (
        SELECT concat_ws(' ', bucket, organization_id, user_id, role, revision) AS row FROM memberships
        UNION ALL SELECT concat_ws(' ', organization_id, role) FROM invitations
        UNION ALL SELECT concat_ws(' ', bucket, position, entry, user_id, role) FROM log
        UNION ALL SELECT concat_ws(' ', bucket, position) FROM log_heads) rows";
    const FILES: &str = "SELECT string_agg(pg_relation_filenode(oid)::text, ' ' ORDER BY oid) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
          AND relname IN ('memberships', 'invitations', 'log_heads', 'organizations', 'log_default')";
    let database = former().await;
    let facts = async || -> [String; 2] {
        let mut connection = connect(&database).await;
        let rows = sqlx::query_scalar(ROWS).fetch_one(&mut connection).await.unwrap();
        [rows, sqlx::query_scalar(FILES).fetch_one(&mut connection).await.unwrap()]
    };
    let before = facts().await;
    database.migrate().await;
    // No row is another one, and no table was written again.
    assert_eq!(facts().await, before);
    assert_eq!(database.count(NOT_VALID).await, 0);
}

#[tokio::test]
async fn a_migration_waits_for_a_write_of_a_former_release_and_neither_fails() {
    // The write has touched nothing else than the head, then the memberships too.
    for steps_before in 1..=FORMER_WRITE.len() {
        let database = former().await;
        let mut writer = connect(&database).await;
        execute(&mut writer, "BEGIN").await.unwrap();
        for statement in &FORMER_WRITE[..steps_before] {
            execute(&mut writer, statement).await.unwrap();
        }
        let commit = async {
            until_waiting(&database, 1).await;
            for statement in &FORMER_WRITE[steps_before..] {
                execute(&mut writer, statement).await.unwrap();
            }
            execute(&mut writer, "COMMIT").await.unwrap();
        };
        tokio::join!(database.migrate(), commit);
        assert_eq!(database.count(NOT_VALID).await, 0);
        assert_eq!(database.count("SELECT count(*) FROM memberships WHERE user_id = 'eve'").await, 1);
    }
}
