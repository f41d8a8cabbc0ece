//! `roster access-model`: mistakes that are found before the datastore is asked, and the stored model. [`commands`] runs each
//! command over the database and over a server, [`expected`] compares a server with its file, [`page`] runs the commands of the documents.

mod commands;
mod expected;
mod page;

use crate::harness::Database;
use crate::harness::program::{PATIENCE, output, roster};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;

/// Nothing listens there.
const DATABASE: [&str; 2] = ["--database-url", "postgres://127.0.0.1:1/roster"];

/// Runs the command with this standard input. Returns its exit code and what it wrote to its standard error.
async fn with_input(arguments: &[&str], input: &[u8]) -> (Option<i32>, String) {
    let mut command = roster(&[&["access-model"], arguments, &DATABASE].concat());
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = streams.spawn().unwrap();
    process.stdin.take().unwrap().write_all(input).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, process.wait_with_output()).await.expect("the command does not end");
    let ended = ended.unwrap();
    assert!(ended.stdout.is_empty(), "{:?}", ended.stdout);
    (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
}

#[tokio::test]
async fn every_mistake_in_a_model_is_named_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.toml");
    let text = "[[permissions]]\nname = 'members.add'\n[[roles]]\nname = 'owner'\npermissions = ['billing.reed']\n";
    std::fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    for command in [&["diff", file][..], &["apply", file], &["apply", file, "--dry-run"]] {
        let (code, stdout, stderr) = output(&[&["access-model"], command, &DATABASE].concat()).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        let (first, mistakes) = stderr.split_once('\n').unwrap();
        assert_eq!(first, format!("roster: {file} is no access model:"));
        let places: Vec<&str> = mistakes.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        let expected = [
            r#"permissions[0].name ("members.add")"#,
            r#"roles[0].name ("owner")"#,
            r#"roles[0].permissions[0] ("owner", "billing.reed")"#,
        ];
        assert_eq!(places, expected);
    }
}

#[tokio::test]
async fn standard_input_is_toml_or_json() {
    for (input, part) in [
        (&b"[[roles]]\nnames = 'a'"[..], "roles[0].names: no such key; the nearest is name"),
        (br#" {"roles": [{"name": "a", "kind": 1}]}"#, "roles[0].kind (\"a\"): write a text in quotation marks"),
        (b"[[roles]", "not valid TOML: "),
        (b"{", "not valid JSON: "),
    ] {
        let (code, stderr) = with_input(&["diff", "-"], input).await;
        assert!(code == Some(2) && stderr.starts_with("roster: - is no access model:\n"), "{code:?} {stderr}");
        assert!(stderr.contains(part), "{stderr}");
    }
    let (code, stderr) = with_input(&["apply", "-"], b"\xff\xfe").await;
    assert!(code == Some(1) && stderr.contains("cannot use -: "), "{code:?} {stderr}");
}

#[tokio::test]
async fn the_database_is_named_before_the_file_is_read() {
    let (code, _, stderr) = output(&["access-model", "diff", "/missing.toml"]).await;
    assert!(code == Some(2) && stderr.contains("database_url"), "{code:?} {stderr}");
    let (code, _, stderr) = output(&[&["access-model", "diff", "/missing.toml"][..], &DATABASE].concat()).await;
    assert!(code == Some(1) && stderr.contains("cannot use /missing.toml: "), "{code:?} {stderr}");
}

/// A model with one role, `accountant`.
const MODEL: &str = r#"[[permissions]]
name = "billing.read"

[[roles]]
name = "accountant"
title = "Accountant"
permissions = ["billing.read"]
"#;

#[tokio::test]
async fn the_stored_model_is_shown_and_compared() {
    let database = Database::new().await;
    let run = async |arguments: &[&str]| {
        output(&[&["access-model"], arguments, &["--database-url", &database.url]].concat()).await
    };
    let (code, stdout, stderr) = run(&["show"]).await;
    assert_eq!((code, stdout.trim()), (Some(0), ""), "{stderr}");
    let (code, stdout, _) = run(&["show", "--format", "json"]).await;
    assert_eq!((code, stdout.as_str()), (Some(0), "{}\n"));

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.toml");
    std::fs::write(&path, MODEL).unwrap();
    let file = path.to_str().unwrap();
    let (code, stdout, stderr) = run(&["diff", file]).await;
    assert_eq!(code, Some(3), "{stderr}");
    let added = stdout.lines().filter(|line| !line.is_empty());
    assert!(stdout.contains("+ name = \"accountant\"") && added.clone().all(|line| line.starts_with("+ ")), "{stdout}");
    let warning =
        "warning: admins cannot add, change or remove members with the role accountant: admin lacks billing.read";
    assert!(stderr.contains(warning) && stderr.contains("differs from revision 0"), "{stderr}");

    // As a newer release may store it.
    let stored = serde_json::json!({
        "permissions": [{ "name": "billing.read", "tags": [] }],
        "roles": [{ "name": "accountant", "title": "Accountant", "permissions": ["billing.read"] }],
        "teams": [],
    });
    let update = sqlx::query("UPDATE access_model SET revision = 7, model = $1").bind(stored);
    update.execute(&database.pool).await.unwrap();
    let (code, stdout, stderr) = run(&["diff", file]).await;
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    assert!(stderr.contains("No difference from revision 7."), "{stderr}");
    let (_, shown, _) = run(&["show"]).await;
    std::fs::write(&path, shown).unwrap();
    assert_eq!(run(&["diff", file]).await.0, Some(0));

    sqlx::query("UPDATE access_model SET model = '{\"roles\": 1}'").execute(&database.pool).await.unwrap();
    let (code, _, stderr) = run(&["show"]).await;
    assert!(code == Some(1) && stderr.contains("run a newer release"), "{code:?} {stderr}");
}

#[tokio::test]
async fn custom_roles_are_enabled_once() {
    let database = Database::new().await;
    sqlx::query("UPDATE access_model SET enabled = false").execute(&database.pool).await.unwrap();
    for sentence in
        ["Custom roles and permissions are enabled.\n", "Custom roles and permissions were enabled before.\n"]
    {
        let (code, stdout, stderr) = output(&["access-model", "enable", "--database-url", &database.url]).await;
        assert_eq!((code, stdout.as_str()), (Some(0), sentence), "{stderr}");
        let enabled = sqlx::query_scalar("SELECT enabled FROM access_model").fetch_one(&database.pool).await.unwrap();
        assert!(Some(true) == enabled);
    }
}

#[tokio::test]
async fn a_datastore_without_a_model_or_an_answer_is_an_error() {
    let (code, _, stderr) = output(&[&["access-model", "show"], &DATABASE[..]].concat()).await;
    assert!(code == Some(1) && stderr.contains("the access model cannot be read or changed: "), "{code:?} {stderr}");
    let database = Database::new().await;
    sqlx::raw_sql("DROP TABLE access_model CASCADE").execute(&database.pool).await.unwrap();
    let (code, _, stderr) = output(&["access-model", "show", "--database-url", &database.url]).await;
    assert!(code == Some(1) && stderr.contains("run `roster migrate`"), "{code:?} {stderr}");
}
