//! The rows that a search reads, with and without the extension `pg_trgm`.

use super::run;
use crate::harness::bulk::Bulk;
use crate::harness::program::roster;
use crate::harness::{Database, Server};
use roster::domain::{OrganizationState, SearchText};
use roster::server::ServerSettings;
use roster::store::organizations::{self, OrganizationFilter};
use sqlx::{Connection, PgConnection};

/// The organizations of the table: enough to make a plan for every argument the cheaper one in the eyes of Postgres.
const ORGANIZATIONS: i64 = 20_000;

/// A database with [`ORGANIZATIONS`] organizations, whose names are 32 hexadecimal digits and ` gmbh`.
async fn filled() -> Database {
    let database = Database::new().await;
    let made = format!("SELECT md5(n::text)::uuid AS id, n FROM generate_series(1, {ORGANIZATIONS}) n");
    Bulk {
        users: "SELECT 'ada' AS id",
        organizations: &format!("SELECT id, 'org-' || n AS slug, 'ada' AS owner FROM ({made}) made"),
        memberships: &format!("SELECT id, 'ada' AS user_id FROM ({made}) made"),
    }
    .insert(&database)
    .await;
    run(&database, "UPDATE organizations SET name = md5(slug) || ' gmbh'").await;
    database.migrate().await;
    database
}

/// Searches 12 times over one connection, which is more often than Postgres plans a prepared statement for its
/// arguments. Returns the number of organizations found, the sequential scans, and the rows read by each search.
async fn cost(database: &Database, text: &str) -> (usize, i64, i64) {
    const TIMES: i64 = 12;
    let search = SearchText::parse(text).unwrap();
    let filter = OrganizationFilter {
        kind: None,
        states: vec![OrganizationState::Active],
        search: Some(search.clone()),
        after: None,
        limit: 51,
    };
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let mut found = 0;
    for _ in 0..TIMES {
        let rows = organizations::search_candidates(&mut transaction, &filter, &search, None, 51).await.unwrap();
        found = rows.rows.len();
    }
    let (scans, read): (i64, i64) = sqlx::query_as(
        "SELECT seq_scan, seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'organizations'",
    )
    .fetch_one(&mut *transaction)
    .await
    .unwrap();
    (found, scans, read / TIMES)
}

/// Asserts that a search finds this number of organizations, and reads few rows.
#[track_caller]
fn assert_cheap((found, scans, read): (usize, i64, i64), expected: usize) {
    assert_eq!((found, scans), (expected, 0));
    assert!(read < ORGANIZATIONS / 20, "a search read {read} rows");
}

#[tokio::test]
async fn a_search_reads_an_index_and_not_the_table() {
    let database = filled().await;
    // One name and one slug; no name; nearly every name; the beginning of a few names; the beginning of no name.
    let name: String = sqlx::query_scalar("SELECT name FROM organizations WHERE slug = 'org-12345'")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_cheap(cost(&database, &name[7..21]).await, 1);
    assert_cheap(cost(&database, "org-12345").await, 1);
    assert_cheap(cost(&database, "no such name").await, 0);
    assert_cheap(cost(&database, "GMBH").await, 51);
    assert_cheap(cost(&database, "a7").await, 51);
    assert_cheap(cost(&database, "zz").await, 0);
    let trigrams = sqlx::query("DROP EXTENSION pg_trgm CASCADE").execute(&database.pool).await;
    trigrams.unwrap();
    assert_cheap(cost(&database, "a7").await, 51);
    assert_cheap(cost(&database, "zz").await, 0);
    assert_cheap(cost(&database, "GMBH").await, 51);
    let (found, _, read) = cost(&database, &name[7..21]).await;
    assert!(found == 1 && read >= ORGANIZATIONS, "the search without an index read {read} rows");
}

#[tokio::test]
async fn the_index_uses_the_extension_where_it_is() {
    let database = Database::with_options("TEMPLATE template0").await.unwrap();
    run(&database, "CREATE SCHEMA \"Other\"; CREATE EXTENSION pg_trgm SCHEMA \"Other\"").await;
    database.migrate().await;
    database.migrate().await;
    let index = "SELECT count(*) FROM pg_indexes WHERE indexname = 'organizations_by_trigram'";
    assert_eq!(database.count(index).await, 1);
}

#[tokio::test]
async fn a_role_that_may_not_create_the_extension_is_warned_and_searches_without() {
    let database = Database::with_options("TEMPLATE template0").await.unwrap();
    let role = format!("limited_{}", std::process::id());
    run(&database, &format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}")).await;
    let url = database.url.replacen("postgres@", &format!("{role}@"), 1);
    for filter in ["warn", "info"] {
        let arguments = ["migrate", "--database-url", &url];
        let output = roster(&arguments).env("ROSTER_LOG", filter).output().await.unwrap();
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!((output.status.code(), stdout.as_str()), (Some(0), "The schema is up to date.\n"), "{stderr}");
        assert!(stderr.contains("CREATE EXTENSION pg_trgm"), "{stderr}");
    }
    let server = Server::over(Database::at(url), ServerSettings::default()).await;
    for name in ["Ärger GmbH", "Straße"] {
        server.user("ada").create(name).await;
    }
    for (text, found) in [("RGER", "Ärger GmbH"), ("ä", "Ärger GmbH"), ("ASSE", "Straße")] {
        assert_eq!(super::search(&mut server.operator(), text).await, [found]);
    }
}
