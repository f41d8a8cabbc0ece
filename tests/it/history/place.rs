//! `roster migrate` and the place of the database.

use crate::harness::Database;
use crate::harness::cluster::TestCluster;
use crate::harness::program::output;
use roster::store::datastore_url::DatastoreUrl;
use roster::store::migrations::migrate_and_check;
use roster::store::place::PlaceCheck;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

const UP_TO_DATE: &str = "The schema is up to date.\n";

async fn migrate(url: &str) -> PlaceCheck {
    migrate_and_check(&DatastoreUrl::parse(url).unwrap(), false).await.unwrap().place
}

async fn after_restore(url: &str) -> PlaceCheck {
    migrate_and_check(&DatastoreUrl::parse(url).unwrap(), true).await.unwrap().place
}

#[tokio::test]
async fn a_copied_database_gets_a_new_epoch_once() {
    // A copy of the template, in which the place of the template is stored.
    let copy = Database::new().await;
    let url = DatastoreUrl::parse(&copy.url).unwrap();
    let checks = futures_util::future::join_all((0..4).map(|_| migrate_and_check(&url, false))).await;
    let checks: Vec<PlaceCheck> = checks.into_iter().map(|report| report.unwrap().place).collect();
    assert_eq!(checks.iter().filter(|check| **check == PlaceCheck::Moved(2)).count(), 1, "{checks:?}");
    assert_eq!(checks.iter().filter(|check| **check == PlaceCheck::Unchanged).count(), 3, "{checks:?}");
    assert_eq!(migrate(&copy.url).await, PlaceCheck::Unchanged);
    assert_eq!(copy.count("SELECT epoch::bigint FROM datastore").await, 2);
}

#[tokio::test]
async fn the_place_is_stored_first_and_a_new_name_does_not_change_it() {
    let cluster = TestCluster::with_schema().await;
    let stored = "SELECT system_identifier = (SELECT system_identifier FROM pg_control_system())
        AND database_oid = (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) FROM datastore";
    assert!(cluster.value::<bool>(stored).await);
    assert_eq!(cluster.value::<i32>("SELECT epoch FROM datastore").await, 1);
    let mut connection = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    sqlx::query("ALTER DATABASE roster RENAME TO renamed").execute(&mut connection).await.unwrap();
    assert_eq!(migrate(&cluster.url("renamed")).await, PlaceCheck::Unchanged);
    // A database of release 0.2 has no place.
    let mut renamed = PgConnection::connect(&cluster.url("renamed")).await.unwrap();
    let forget = "UPDATE datastore SET system_identifier = NULL, database_oid = NULL";
    sqlx::query(forget).execute(&mut renamed).await.unwrap();
    assert_eq!(migrate(&cluster.url("renamed")).await, PlaceCheck::Unchanged);
    let stored: bool = sqlx::query_scalar(stored).fetch_one(&mut renamed).await.unwrap();
    assert!(stored);
}

#[tokio::test]
async fn a_reported_restore_raises_the_epoch_once_also_in_another_place() {
    let database = Database::new().await;
    assert_eq!(after_restore(&database.url).await, PlaceCheck::Restored(2));
    assert_eq!(migrate(&database.url).await, PlaceCheck::Unchanged);
    assert_eq!(after_restore(&database.url).await, PlaceCheck::Restored(3));
}

#[tokio::test]
async fn a_role_without_superuser_rights_migrates_and_is_recognized() {
    let cluster = TestCluster::start(&[]).await;
    cluster.create_owner("app", "secret", "").await;
    let url = cluster.url_of("app", "secret");
    assert_eq!(migrate(&url).await, PlaceCheck::Unchanged);
    assert!(cluster.value::<bool>("SELECT system_identifier IS NOT NULL FROM datastore").await);
    cluster.execute("UPDATE datastore SET database_oid = 1").await;
    assert_eq!(migrate(&url).await, PlaceCheck::Moved(2));
    // Some providers forbid the function.
    cluster.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public").await;
    assert_eq!(migrate(&url).await, PlaceCheck::Unknown);
    assert_eq!(after_restore(&url).await, PlaceCheck::Restored(3));
    let (code, stdout, stderr) = output(&["migrate", "--database-url", &url]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("pg_control_system()") && stdout.ends_with(UP_TO_DATE), "{stdout}");
}

#[tokio::test]
async fn the_command_names_both_epochs() {
    let database = Database::new().await;
    let run = async |arguments: &[&str]| {
        let (code, stdout, stderr) = output(&[&["migrate", "--database-url", &database.url], arguments].concat()).await;
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
        stdout
    };
    let moved = run(&[]).await;
    assert!(moved.contains("from 1 to 2") && moved.contains("another place") && moved.ends_with(UP_TO_DATE), "{moved}");
    assert_eq!(run(&[]).await, UP_TO_DATE);
    let restored = run(&["--after-restore"]).await;
    assert!(restored.contains("from 2 to 3") && restored.lines().count() == 2, "{restored}");
    let oid = "UPDATE datastore SET system_identifier = 1";
    sqlx::query(AssertSqlSafe(oid)).execute(&database.pool).await.unwrap();
    assert!(run(&["--after-restore"]).await.contains("from 3 to 4"));
    assert_eq!(run(&[]).await, UP_TO_DATE);
}
