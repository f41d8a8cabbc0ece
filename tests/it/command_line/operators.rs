//! What an operator sees: mistakes in settings, signals, addresses, rights, and the log.

use super::{DataDirectory, Dev};
use crate::harness::Database;
use crate::harness::program::{PATIENCE, Serve, channel, free_port, output, roster, until};
use crate::harness::server::Clients;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roster::grpc::pb;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;
use tonic_health::pb::health_check_response::ServingStatus;

/// A settings file with these lines, an API key and no mail.
async fn settings(lines: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let (_, _, stanza) = output(&["api-key", "--name", "ops", "--scopes", "operator"]).await;
    let stanza = &stanza[stanza.find("[[api_keys]]").unwrap()..];
    let path = directory.path().join("roster.toml");
    std::fs::write(&path, format!("{lines}\n{stanza}\n[mail]\nkind = 'off'\n")).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}

/// The exit code of a command that ends, and what it wrote to its standard error.
async fn ended(command: &mut Command) -> (Option<i32>, String) {
    let ended = tokio::time::timeout(PATIENCE, command.output()).await.expect("the command does not end").unwrap();
    (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
}

const UNREACHABLE: &str = "database_url = 'postgres://127.0.0.1:1/roster'";

#[tokio::test]
async fn a_mistyped_variable_or_log_level_does_not_pass() {
    let (_directory, config) = settings(UNREACHABLE).await;
    let unknown = "ROSTER_LISTN: no such setting; the nearest is ROSTER_LISTEN";
    let check = || roster(&["check-config", "--config", &config]);
    let (code, stderr) = ended(check().env("ROSTER_LISTN", "x")).await;
    assert!(code == Some(2) && stderr.contains(unknown), "{code:?} {stderr}");
    let (code, stderr) = ended(check().env("ROSTER_SERVICE_HOST", "10.0.0.1").env("ROSTER_PORT", "tcp://x")).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for filter in ["inf", "", "rooster=debug", "roster=loud"] {
        for command in ["check-config", "serve"] {
            let (code, stderr) = ended(&mut roster(&[command, "--config", &config, "--log", filter])).await;
            assert!(code == Some(2) && stderr.contains("log (from --log): write a "), "{filter}: {code:?} {stderr}");
        }
    }
    // Commands whose log has no other setting than the variable.
    let data = DataDirectory::new();
    for command in [&["dev", "--data-dir", data.0.to_str().unwrap()][..], &["migrate", "--config", &config]] {
        let (code, stderr) = ended(roster(command).env("ROSTER_LOG", "inf")).await;
        assert!(code == Some(2) && stderr.contains("log (from ROSTER_LOG): write a "), "{code:?} {stderr}");
    }
    // At a start it is a warning, unless there are other mistakes.
    let (code, stderr) =
        ended(roster(&["migrate", "--config", &config]).env("ROSTER_LISTN", "x").env("ROSTER_LOG", "warn")).await;
    assert!(code == Some(1) && stderr.contains("WARN") && stderr.contains(unknown), "{code:?} {stderr}");
    let (code, stderr) = ended(roster(&["serve"]).env("ROSTER_DATABASE_URI", "s3cret")).await;
    assert!(code == Some(2) && stderr.contains("the nearest is ROSTER_DATABASE_URL"), "{code:?} {stderr}");
    assert!(!stderr.contains("s3cret"), "{stderr}");
}

#[tokio::test]
async fn an_address_may_be_a_host_name_and_a_failure_names_its_setting() {
    for host in ["localhost", "", "127.0.0.1"] {
        let port = free_port();
        let (_directory, config) = settings(UNREACHABLE).await;
        let address = format!("{host}:{port}");
        let mut server = roster(&["serve", "--config", &config, "--listen", &address]).spawn().unwrap();
        until(&channel(&format!("127.0.0.1:{port}")), ServingStatus::NotServing).await;
        server.kill().await.unwrap();
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (_directory, config) = settings(&format!("{UNREACHABLE}\nlisten = '127.0.0.1:0'")).await;
    for (flag, address, words) in [
        ("--metrics-listen", format!("127.0.0.1:{port}"), "is in use by another program; to choose another address: "),
        ("--listen", format!("localhost:{port}"), "is in use by another program; to choose another address: "),
        ("--listen", "192.0.2.1:50051".to_owned(), "cannot listen on 192.0.2.1:50051; to choose another address: "),
        ("--metrics-listen", "no-such-host.invalid:1".to_owned(), "the host name no-such-host.invalid of "),
    ] {
        let (code, stderr) = ended(&mut roster(&["serve", "--config", &config, flag, &address])).await;
        assert!(code == Some(1) && stderr.contains(&format!("{words}{flag}")), "{flag} {address}: {code:?} {stderr}");
    }
}

/// Lets the programs that this process starts have the default action of SIGHUP, also if the tests run under nohup: they
/// inherit an ignored signal, but no handler.
pub(super) fn handle_hangup() {
    drop(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap());
}

#[tokio::test]
async fn a_hangup_stops_dev_with_its_postgres() {
    handle_hangup();
    let directory = DataDirectory::new();
    let dev = Dev::start(&directory.0).await;
    let postmaster = directory.postmaster().unwrap();
    // A closed terminal can send it several times.
    for _ in 0..2 {
        crate::harness::program::send(&dev.process, Signal::SIGHUP);
    }
    assert_eq!(dev.signal(Signal::SIGHUP).await, Some(0));
    assert!(kill(postmaster, None).is_err(), "Postgres still runs");
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_dev_under_nohup_goes_on_after_a_hangup() {
    let directory = DataDirectory::new();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_roster"), "dev", "--listen"]);
    command.args(["127.0.0.1:0", "--data-dir"]).arg(&directory.0).stdin(Stdio::null()).kill_on_drop(true);
    let dev = Dev::of(command).await;
    let id = dev.process.id().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 1, 1, "the signal is not ignored: {status}");
    kill(Pid::from_raw(id.try_into().unwrap()), Signal::SIGHUP).unwrap();
    dev.clients("ADA").users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    assert_eq!(dev.signal(Signal::SIGTERM).await, Some(0));
}

/// The applied migrations, as an older release finds them after these statements.
async fn migrate_after(statements: &'static str) -> (Option<i32>, String, String) {
    let database = Database::new().await;
    sqlx::raw_sql(statements).execute(&database.pool).await.unwrap();
    output(&["migrate", "--database-url", &database.url]).await
}

#[tokio::test]
async fn migrate_leaves_the_schema_of_a_newer_release_alone() {
    const NEWER: &str = "INSERT INTO _sqlx_migrations VALUES (9998, 'later', now(), true, '', 0),
        (9999, 'latest', now(), true, '', 0)";
    let (code, stdout, stderr) = migrate_after(NEWER).await;
    // The database is a copy, which has moved its place.
    let is_newer = stdout.ends_with("The schema is newer than this release, which works with it.\n");
    assert!(code == Some(0) && is_newer, "{code:?} {stdout} {stderr}");
    assert!(stderr.starts_with("warning: ") && stderr.contains("(9998, 9999): nothing was migrated"), "{stderr}");
    // Migrations of another program, and a schema that lacks one of this release.
    for statements in [
        "INSERT INTO _sqlx_migrations VALUES (0, 'foreign', now(), true, '', 0)",
        "INSERT INTO _sqlx_migrations VALUES (9999, 'latest', now(), true, '', 0);
         DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations WHERE version < 9999)",
        "INSERT INTO _sqlx_migrations VALUES (9999, 'latest', now(), true, '', 0);
         UPDATE _sqlx_migrations SET checksum = '' WHERE version < 9999",
    ] {
        let (code, _, stderr) = migrate_after(statements).await;
        assert!(code == Some(1) && stderr.contains("migration"), "{statements}: {code:?} {stderr}");
    }
}

/// A role without any right, and the URL of a database for it.
async fn ordinary_role(database: &Database) -> (String, String) {
    let role = format!("App {}", roster::random::uuid().simple());
    let statement = format!("CREATE ROLE \"{role}\" LOGIN");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&database.pool).await.unwrap();
    let url = database.url.replace("postgres://postgres@", &format!("postgres://{}@", role.replace(' ', "%20")));
    PgConnection::connect(&url).await.unwrap().close().await.unwrap();
    (role, url)
}

async fn denied(url: &str) -> String {
    let (code, _, stderr) = output(&["migrate", "--database-url", url]).await;
    assert!(code == Some(1) && !stderr.contains("at line"), "{code:?} {stderr}");
    stderr
}

#[tokio::test]
async fn migrate_names_the_right_that_the_role_lacks() {
    let database = Database::empty().await;
    let (role, url) = ordinary_role(&database).await;
    let execute = async |statement: String| {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&database.pool).await.unwrap();
    };
    execute(format!("ALTER ROLE \"{role}\" SET search_path = nowhere")).await;
    let stderr = denied(&url).await;
    assert!(stderr.contains(&format!("the role \"{role}\" has no schema to create tables in")), "{stderr}");
    execute(format!("ALTER ROLE \"{role}\" RESET search_path")).await;
    let stderr = denied(&url).await;
    let grant = format!("GRANT CREATE ON SCHEMA public TO \"{role}\"");
    assert!(
        stderr.contains(&grant) && stderr.contains("permission denied for schema public (SQLSTATE 42501)"),
        "{stderr}"
    );
    execute(grant).await;
    let (code, _, stderr) = output(&["migrate", "--database-url", &url]).await;
    assert_eq!(code, Some(0), "{stderr}");
    // Another role cannot take over.
    let (other, url) = ordinary_role(&database).await;
    for grant in ["", "GRANT CREATE ON SCHEMA public TO"] {
        if !grant.is_empty() {
            execute(format!("{grant} \"{other}\"")).await;
        }
        let stderr = denied(&url).await;
        let owner = format!("run `roster migrate` as their owner, \"{role}\"");
        assert!(stderr.contains(&owner), "{stderr}");
    }
}

/// The lines of a JSON log with this message, once there is one.
async fn logged(serve: &Serve, message: &str) -> Vec<Value> {
    let found = async {
        loop {
            // A line may be written in part.
            let log = serve.log();
            let complete = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
            let lines = complete.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")));
            let lines: Vec<Value> = lines.filter(|line: &Value| line["message"] == message).collect();
            if !lines.is_empty() {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {message:?} in: {}", serve.log()))
}

#[tokio::test]
async fn json_lines_have_causes_and_numbers() {
    let format = "log_format = 'json'";
    let serve = Serve::start("postgres://127.0.0.1:1/roster", format).await;
    let line = &logged(&serve, "health: NOT_SERVING: the database did not answer").await[0];
    let error = line["error"].as_str().unwrap();
    assert!(error.starts_with("the datastore cannot be reached: ") && error.contains("Connection refused"), "{error}");
    assert!(line["timestamp"].is_string() && line["level"] == "WARN", "{line}");

    // A role without rights on the tables.
    let database = Database::new().await;
    let (_, url) = ordinary_role(&database).await;
    let serve = Serve::start(&url, format).await;
    let line = &logged(&serve, "health: NOT_SERVING: the database did not answer").await[0];
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("permission denied for table ") && error.ends_with("(SQLSTATE 42501)"), "{error}");

    let serve = Serve::start_with_log(&database.url, format, "roster=debug").await;
    serve.until(ServingStatus::Serving).await;
    let Clients { users, .. } = &serve.clients;
    users.clone().get_user(pb::GetUserRequest { user_id: "absent".to_owned() }).await.unwrap_err();
    let lines = logged(&serve, "answered").await;
    let line = lines.iter().find(|line| line["span"]["path"] == "/roster.v1.UserService/GetUser").unwrap();
    assert_eq!((line["code"].as_u64(), &line["status"]), (Some(5), &"NOT_FOUND".into()));
    assert!(line["micros"].is_u64() && line["span"]["request_id"].is_string(), "{line}");
}
