//! Tests with the Postgres that is installed on the machine.

use super::binaries::parse_version;
use super::{Binaries, Cluster, Error, Options, Stop};
use sqlx::{Connection, PgConnection};
use std::path::{Path, PathBuf};
use std::time::Duration;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A directory that is removed at the end of the test.
struct TestDirectory(PathBuf);

impl TestDirectory {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("roster-test-{}", crate::random::uuid().simple())))
    }

    fn data(&self) -> PathBuf {
        self.0.join("postgres")
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn start(data: &Path) -> Result<Cluster, Error> {
    Cluster::start(&Binaries::find(None)?, Options::kept(data).with("fsync", "off")).await
}

async fn count(cluster: &Cluster, sql: &'static str) -> Result<i64, sqlx::Error> {
    let mut connection = PgConnection::connect(&cluster.url("roster")).await?;
    sqlx::query_scalar(sql).fetch_one(&mut connection).await
}

async fn run(cluster: &Cluster, sql: &'static str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(&cluster.url("roster")).await?;
    sqlx::raw_sql(sql).execute(&mut connection).await?;
    Ok(())
}

fn alive(pid: Option<i32>) -> bool {
    pid.is_some_and(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok())
}

#[test]
fn versions_are_parsed() {
    assert_eq!(parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
    assert_eq!(parse_version("postgres (PostgreSQL) 19beta1"), Some(19));
    assert_eq!(parse_version("postgres (PostgreSQL) next"), None);
    assert_eq!(parse_version(""), None);
}

#[test]
fn a_given_directory_must_contain_a_server() {
    assert!(matches!(Binaries::find(Some(Path::new("/etc"))), Err(Error::NotAServer(_))));
}

#[tokio::test]
async fn a_temporary_cluster_leaves_no_files_and_no_process() -> Outcome {
    let cluster = Cluster::start(&Binaries::find(None)?, Options::temporary()).await?;
    cluster.create_database("roster").await?;
    cluster.create_database("roster").await?;
    let encoding =
        "SELECT count(*) FROM pg_database WHERE datname = 'roster' AND pg_encoding_to_char(encoding) = 'UTF8'";
    assert_eq!(count(&cluster, encoding).await?, 1);
    assert_eq!(count(&cluster, "SELECT length(current_setting('listen_addresses'))::int8").await?, 0);
    let (data, pid) = (cluster.data().to_owned(), cluster.pid());
    drop(cluster);
    assert!(!data.exists());
    assert!(!alive(pid));
    Ok(())
}

#[tokio::test]
async fn restarts_keep_committed_data() -> Outcome {
    let mut cluster = Cluster::start(&Binaries::find(None)?, Options::temporary()).await?;
    cluster.create_database("roster").await?;
    run(&cluster, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").await?;
    for mode in [Stop::Smart, Stop::Fast, Stop::Immediate, Stop::Kill] {
        let before = cluster.pid();
        cluster.restart(mode).await?;
        assert_ne!(cluster.pid(), before);
        assert!(!alive(before));
        assert_eq!(count(&cluster, "SELECT count(*) FROM kept").await?, 1);
    }
    cluster.stop(Stop::Fast).await;
    assert_eq!(cluster.pid(), None);
    assert!(count(&cluster, "SELECT count(*) FROM kept").await.is_err());
    cluster.start_again().await?;
    assert_eq!(count(&cluster, "SELECT count(*) FROM kept").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_paused_server_does_not_answer_until_it_is_resumed() -> Outcome {
    let cluster = Cluster::start(&Binaries::find(None)?, Options::temporary()).await?;
    let mut connection = PgConnection::connect(&cluster.url("postgres")).await?;
    cluster.pause();
    let answer = tokio::time::timeout(Duration::from_millis(200), connection.ping()).await;
    assert!(answer.is_err(), "an open connection answered");
    let greeting = tokio::time::timeout(Duration::from_millis(200), PgConnection::connect(&cluster.url("postgres")));
    assert!(greeting.await.is_err(), "a new connection was accepted");
    cluster.resume();
    let mut connection = PgConnection::connect(&cluster.url("postgres")).await?;
    connection.ping().await?;
    cluster.pause();
    // Dropping a paused cluster must end, and must not leave the process.
    let pid = cluster.pid();
    drop(cluster);
    assert!(!alive(pid));
    Ok(())
}

#[tokio::test]
async fn a_running_server_is_adopted() -> Outcome {
    let scratch = TestDirectory::new();
    let first = start(&scratch.data()).await?;
    first.create_database("roster").await?;
    let (pid, url) = (first.pid(), first.url("roster"));
    std::mem::forget(first);
    let mut second = start(&scratch.data()).await?;
    assert_eq!(second.pid(), pid);
    assert_eq!(second.url("roster"), url);
    assert_eq!(count(&second, "SELECT 1::int8").await?, 1);
    second.restart(Stop::Fast).await?;
    assert_ne!(second.pid(), pid);
    assert_eq!(count(&second, "SELECT 1::int8").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_start_succeeds_after_a_crash() -> Outcome {
    let scratch = TestDirectory::new();
    // initdb was killed before it was complete.
    std::fs::create_dir_all(scratch.0.join("postgres.unfinished/base"))?;
    drop(start(&scratch.data()).await?);
    // The server was killed, and its process id now belongs to another process: this one.
    let postmaster_pid = format!("{}\n{}\n0\n5432\n\n\n\nready   \n", std::process::id(), scratch.data().display());
    std::fs::write(scratch.data().join("postmaster.pid"), postmaster_pid)?;
    let cluster = start(&scratch.data()).await?;
    assert_ne!(cluster.pid(), i32::try_from(std::process::id()).ok());
    Ok(())
}

#[tokio::test]
async fn paths_may_be_long_and_contain_special_characters() -> Outcome {
    for name in ["d".repeat(120), "Ünder, \"quoted\" %2F: it's".to_owned()] {
        let scratch = TestDirectory::new();
        let cluster = start(&scratch.0.join(name).join("postgres")).await?;
        cluster.create_database("roster").await?;
        assert_eq!(count(&cluster, "SELECT 1::int8").await?, 1);
        let socket = cluster.socket_directory().to_owned();
        assert_ne!(socket, cluster.data());
        drop(cluster);
        assert!(!socket.exists());
    }
    Ok(())
}

#[tokio::test]
async fn directories_with_other_contents_are_not_changed() -> Outcome {
    let scratch = TestDirectory::new();
    std::fs::create_dir_all(scratch.data())?;
    std::fs::write(scratch.data().join("document"), "precious")?;
    assert!(matches!(start(&scratch.data()).await, Err(Error::NotData(_))));
    for (version, is_too_old) in [("9.6", true), ("14", true), ("99", false), ("x", false)] {
        std::fs::write(scratch.data().join("PG_VERSION"), format!("{version}\n"))?;
        let error = start(&scratch.data()).await.err().ok_or("started")?;
        let sentence = error.to_string();
        match error {
            // The programs of this version are of no use to roster.
            Error::DataTooOld { .. } => assert!(is_too_old && !sentence.contains("ROSTER_POSTGRES_BIN"), "{sentence}"),
            Error::OtherVersion { .. } => assert!(!is_too_old && sentence.contains("--postgres-bin"), "{sentence}"),
            _ => return Err(sentence.into()),
        }
    }
    assert_eq!(std::fs::read_to_string(scratch.data().join("document"))?, "precious");
    Ok(())
}
