//! Every command, over the database and over a server: the same output, the same rules, the same events.

use super::MODEL;
use crate::harness::program::{output, roster};
use crate::harness::server::Server;
use crate::harness::tls::{Authority, Request};
use crate::harness::{Database, add};
use roster::clock::Clock;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use roster::server::tls::{ClientCertificateMode, ServerTls};
use serde_json::Value;
use std::process::Stdio;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

/// How the commands reach the access model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Database,
    Server,
}

const WAYS: [Way; 2] = [Way::Database, Way::Server];

/// A server with a new database, the commands over one of the ways to it, and a directory for their files.
struct Target {
    server: Server,
    flags: Vec<String>,
    directory: TempDir,
}

impl Target {
    async fn new(way: Way) -> Self {
        let server = Server::start().await;
        let directory = tempfile::tempdir().unwrap();
        let mut target = Self { server, flags: Vec::new(), directory };
        target.flags = match way {
            Way::Database => vec!["--database-url".to_owned(), target.server.database.url.clone()],
            Way::Server => {
                let token = target.server.service_token("root", &[Scope::Operator]);
                target.server_flags(&format!("http://{}", target.server.address), &token)
            }
        };
        target
    }

    /// The flags for this server, with a file that holds this credential.
    fn server_flags(&self, url: &str, credential: &str) -> Vec<String> {
        let file = self.file("credential", &format!("{credential}\n"));
        ["--server", url, "--credential-file", &file].map(str::to_owned).to_vec()
    }

    /// Writes a file. Returns its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs a command. Returns its exit code, its standard output and its standard error.
    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        output(&[&["access-model"], arguments, &flags].concat()).await
    }

    /// Runs a command with a model in its file.
    async fn run_with(&self, model: &str, before: &[&str], after: &[&str]) -> (Option<i32>, String, String) {
        let file = self.file("model.toml", model);
        let (code, stdout, stderr) = self.run(&[before, &[file.as_str()], after].concat()).await;
        (code, stdout, stderr.replace(&file, "FILE"))
    }

    async fn apply(&self, model: &str, options: &[&str]) -> (Option<i32>, String, String) {
        self.run_with(model, &["apply"], options).await
    }

    /// The revision, the document and the actors of every change.
    async fn stored(&self) -> (i64, Value, Vec<(String, String)>) {
        let pool = &self.server.database.pool;
        let (revision, model) =
            sqlx::query_as("SELECT revision, model FROM access_model").fetch_one(pool).await.unwrap();
        let actors = sqlx::query_as("SELECT actor_kind, actor_id FROM access_model_revisions ORDER BY revision");
        (revision, model, actors.fetch_all(pool).await.unwrap())
    }
}

#[tokio::test]
async fn a_model_is_compared_tried_and_applied_both_ways_alike() {
    let mut transcripts = Vec::new();
    for way in WAYS {
        let target = Target::new(way).await;
        let mut transcript = vec![
            target.run(&["show"]).await,
            target.run(&["show", "--format", "json"]).await,
            target.run_with(MODEL, &["diff"], &[]).await,
            target.apply(MODEL, &["--dry-run"]).await,
        ];
        let (code, patch, stderr) = transcript[3].clone();
        assert_eq!((code, transcript[2].0), (Some(0), Some(3)), "{stderr}");
        assert_eq!(patch, transcript[2].1);
        assert!(patch.contains("+ name = \"accountant\"\n"), "{patch}");
        assert!(stderr.contains("Nothing was changed, because of --dry-run."), "{stderr}");
        assert_eq!(target.stored().await, (0, serde_json::json!({}), Vec::new()));

        transcript.push(target.apply(MODEL, &[]).await);
        let (code, applied, stderr) = transcript[4].clone();
        assert_eq!((code, &applied), (Some(0), &patch), "{stderr}");
        assert!(stderr.contains("The access model has the revision 1."), "{stderr}");
        let (revision, model, actors) = target.stored().await;
        assert_eq!((revision, &model["roles"][0]["name"]), (1, &Value::from("accountant")));
        let actor = if way == Way::Database { "roster access-model" } else { "root" };
        assert_eq!(actors, [("operator".to_owned(), actor.to_owned())]);

        transcript.push(target.run_with(MODEL, &["diff"], &[]).await);
        transcript.push(target.apply(MODEL, &[]).await);
        for (code, stdout, stderr) in &transcript[5..] {
            assert_eq!((*code, stdout.as_str()), (Some(0), ""), "{stderr}");
            assert!(stderr.contains("No difference from revision 1"), "{stderr}");
        }
        let shown = target.run(&["show"]).await;
        assert_eq!(target.run_with(&shown.1, &["diff"], &[]).await.0, Some(0));
        transcript.push(shown);
        assert_eq!(target.stored().await.0, 1);
        transcripts.push(transcript);
    }
    assert_eq!(transcripts[0], transcripts[1]);
}

#[tokio::test]
async fn standard_input_is_applied() {
    let target = Target::new(Way::Database).await;
    let flags: Vec<&str> = target.flags.iter().map(String::as_str).collect();
    let mut command = roster(&[&["access-model", "apply", "-"], &flags[..]].concat());
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = streams.spawn().unwrap();
    process.stdin.take().unwrap().write_all(MODEL.as_bytes()).await.unwrap();
    let ended = process.wait_with_output().await.unwrap();
    let patch = String::from_utf8(ended.stdout).unwrap();
    assert!(ended.status.success() && patch.contains("+ name = \"accountant\"\n"), "{patch}");
    assert_eq!(target.stored().await.0, 1);
}

#[tokio::test]
async fn a_role_in_use_is_replaced_both_ways_alike() {
    let mut transcripts = Vec::new();
    for way in WAYS {
        let target = Target::new(way).await;
        assert_eq!(target.apply(MODEL, &[]).await.0, Some(0));
        let organization = target.server.user("grace").create("Acme").await;
        let mut operator = target.server.operator();
        operator.organizations.add_member(add(&organization, "ada", "accountant")).await.unwrap();
        let role = async || {
            let select = "SELECT role FROM memberships WHERE user_id = 'ada'";
            sqlx::query_scalar::<_, String>(select).fetch_one(&target.server.database.pool).await.unwrap()
        };

        let (code, stdout, stderr) = target.apply("", &[]).await;
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.contains("members hold roles that the change takes away (accountant: 1)"), "{stderr}");

        let tried = target.apply("", &["--replace", "accountant=member", "--dry-run"]).await;
        assert!(tried.0 == Some(0) && tried.1.contains("- name = \"accountant\"\n"), "{tried:?}");
        let held = "accountant: 1 member(s), in 1 organization(s); they get the role member\n";
        assert!(tried.2.contains(held), "{tried:?}");
        assert_eq!((role().await.as_str(), target.stored().await.0), ("accountant", 1));

        let applied = target.apply("", &["--replace", "accountant=member"]).await;
        assert!(applied.0 == Some(0) && applied.2.contains("revision 2. 1 member(s) got another role."), "{applied:?}");
        assert_eq!((role().await.as_str(), target.stored().await.0), ("member", 2));
        transcripts.push((tried, applied));

        for (replace, part) in [("clerk=member", "replace_roles[clerk]: "), ("accountant=clerk", "replace_roles[")] {
            let (code, stdout, stderr) = target.apply(MODEL, &["--replace", replace]).await;
            assert!(code == Some(1) && stdout.is_empty() && stderr.contains(part), "{code:?} {stderr}");
        }
        assert_eq!(target.stored().await.0, 2);
    }
    assert_eq!(transcripts[0], transcripts[1]);
}

/// A model in which members hold nothing.
const OTHER_MEMBER: &str = "[[roles]]\nname = 'member'\npermissions = []\n";

#[tokio::test]
async fn a_change_of_member_needs_a_confirmation() {
    for way in WAYS {
        let target = Target::new(way).await;
        for options in [&[][..], &["--dry-run"]] {
            let (code, stdout, stderr) = target.apply(OTHER_MEMBER, options).await;
            assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
            assert!(stderr.contains("(member): update every client first"), "{stderr}");
        }
        let (code, stdout, stderr) = target.apply(OTHER_MEMBER, &["--older-clients-gone"]).await;
        assert!(code == Some(0) && stdout.contains("-     \"members.list\",\n"), "{code:?} {stdout} {stderr}");
        assert!(stderr.contains("warning: the change of member gives wrong answers in clients"), "{stderr}");
    }
}

#[tokio::test]
async fn nothing_is_applied_before_custom_roles_are_enabled() {
    for way in WAYS {
        let target = Target::new(way).await;
        let disable = sqlx::query("UPDATE access_model SET enabled = false");
        disable.execute(&target.server.database.pool).await.unwrap();
        for options in [&[][..], &["--dry-run"]] {
            let (code, stdout, stderr) = target.apply(MODEL, options).await;
            assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
            assert!(stderr.contains("run `roster access-model enable`"), "{stderr}");
        }
        assert!(target.run(&["show"]).await.2.contains("are not enabled: run `roster access-model enable`"));
        for sentence in ["are enabled.\n", "were enabled before.\n"] {
            let (code, stdout, stderr) = target.run(&["enable"]).await;
            assert!(code == Some(0) && stdout.ends_with(sentence), "{code:?} {stdout} {stderr}");
        }
        let (code, _, stderr) = target.apply(MODEL, &[]).await;
        assert_eq!(code, Some(0), "{stderr}");
        assert!(!target.run(&["show"]).await.2.contains("not enabled"));
        // The switch and the model, each an event.
        assert_eq!(target.stored().await.2.len(), 2);
    }
}

#[tokio::test]
async fn a_server_refuses_other_callers_and_the_command_names_the_reason() {
    let mut target = Target::new(Way::Server).await;
    let url = format!("http://{}", target.server.address);
    for (scope, reads, writes) in [
        (Scope::Model, Ok(()), Ok(())),
        (Scope::Check, Ok(()), Err("SCOPE_MISSING")),
        (Scope::Manage, Ok(()), Err("SCOPE_MISSING")),
    ] {
        target.flags = target.server_flags(&url, &target.server.service_token("deploy", &[scope]));
        let show = target.run(&["show"]).await;
        let apply = target.apply(MODEL, &[]).await;
        for ((code, stdout, stderr), expected) in [(show, reads), (apply, writes)] {
            let is_expected = match expected {
                Ok(()) => code == Some(0),
                Err(reason) => code == Some(1) && stdout.is_empty() && stderr.contains(reason),
            };
            assert!(is_expected, "{scope:?}: {code:?} {stderr}");
        }
    }
    // Only an operator enables.
    target.flags = target.server_flags(&url, &target.server.service_token("deploy", &[Scope::Model]));
    let (code, _, stderr) = target.run(&["enable"]).await;
    assert_eq!(code, Some(1), "{stderr}");
    target.flags = target.server_flags(&url, "roster_none");
    let (code, _, stderr) = target.run(&["show"]).await;
    assert!(code == Some(1) && stderr.contains("CREDENTIAL_INVALID"), "{code:?} {stderr}");
    assert!(!stderr.contains("roster_none"), "{stderr}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error() {
    let mut target = Target::new(Way::Server).await;
    for (url, code, part) in [
        ("http://127.0.0.1:1", 1, "the server cannot read or change the access model: roster is not available"),
        ("unix:/missing.sock", 1, "roster is not available"),
        ("ftp://127.0.0.1:1", 2, "--server: address: begin it with https://"),
        ("127.0.0.1:1", 2, "--server: address: "),
        // The credential would cross a network.
        ("http://192.0.2.1:1", 2, "plain text"),
    ] {
        target.flags = target.server_flags(url, "secret");
        let (ended, stdout, stderr) = target.run(&["show"]).await;
        assert!(ended == Some(code) && stdout.is_empty() && stderr.contains(part), "{url}: {ended:?} {stderr}");
    }
}

#[tokio::test]
async fn a_server_with_tls_is_verified_and_gets_a_client_certificate() {
    let authority = Authority::new();
    let files =
        authority.write(&authority.sign(&Request::named(&["localhost"])), Some(ClientCertificateMode::Required));
    let tls = ServerTls::new(&files, Clock::system()).unwrap();
    let settings = ServerSettings { tls: Some(tls), ..ServerSettings::default() };
    let server = Server::launch_with(Database::new().await, settings, |_| {}).await;
    let mut target = Target { server, flags: Vec::new(), directory: tempfile::tempdir().unwrap() };
    let token = target.server.service_token("root", &[Scope::Operator]);
    let server = target.server_flags(&format!("https://localhost:{}", target.server.address.port()), &token);
    let identity = authority.sign(&Request::named(&["deploy.test"]));
    let ca = target.file("ca.pem", &authority.pem());
    let certificate = target.file("client.pem", &identity.certificate);
    let key = target.file("client.key", &identity.key);
    let ca = ["--ca-file", &ca];
    let own = ["--certificate-file", &certificate, "--key-file", &key];
    for (flags, code, part) in [
        ([&ca[..], &own].concat(), 0, ""),
        // The platform does not trust the authority of the test.
        (own.to_vec(), 1, "UnknownIssuer"),
        (ca.to_vec(), 1, "roster is not available"),
    ] {
        target.flags = server.iter().cloned().chain(flags.iter().map(|&flag| flag.to_owned())).collect();
        let (ended, _, stderr) = target.run(&["show"]).await;
        assert!(ended == Some(code) && stderr.contains(part), "{flags:?}: {ended:?} {stderr}");
    }
}

#[tokio::test]
async fn the_changes_of_both_ways_are_events() {
    let target = Target::new(Way::Database).await;
    assert_eq!(target.apply(MODEL, &[]).await.0, Some(0));
    let listed = target.server.operator().models.list_model_events(pb::ListModelEventsRequest::default()).await;
    let events = listed.unwrap().into_inner().events;
    assert_eq!(events.iter().map(|event| event.r#type.as_str()).collect::<Vec<_>>(), ["model.changed"]);
    assert_eq!(events[0].actor.as_ref().unwrap().id, "roster access-model");
}

#[tokio::test]
async fn a_model_that_another_command_changed_is_not_overwritten() {
    let database = Database::new().await;
    let flags = ["--database-url", &database.url];
    let directory = tempfile::tempdir().unwrap();
    let files: Vec<String> = (0..6)
        .map(|number| {
            let path = directory.path().join(format!("{number}.toml"));
            std::fs::write(&path, format!("[[roles]]\nname = 'r{number}'\npermissions = []\n")).unwrap();
            path.to_str().unwrap().to_owned()
        })
        .collect();
    let commands =
        files.iter().map(|file| async { output(&[&["access-model", "apply", file], &flags[..]].concat()).await });
    let outcomes = futures_util::future::join_all(commands).await;
    let applied = outcomes.iter().filter(|(code, ..)| *code == Some(0)).count();
    for (code, stdout, stderr) in &outcomes {
        // What a command prints as a change is what it has changed.
        let is_refused = *code == Some(1) && stdout.is_empty() && stderr.contains("has changed since");
        assert!(*code == Some(0) || is_refused, "{code:?} {stderr}");
    }
    let revision: i64 =
        sqlx::query_scalar("SELECT revision FROM access_model").fetch_one(&database.pool).await.unwrap();
    assert!(applied >= 1 && revision == i64::try_from(applied).unwrap(), "{applied} {revision}");
}
