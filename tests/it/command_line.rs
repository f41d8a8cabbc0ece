//! Tests of the sub-commands, run as processes.

mod access_model;
mod operators;
mod reload;

use crate::harness::program::{PATIENCE, Serve, channel, clients, free_port, output, roster, send, until};
use crate::harness::server::Clients;
use crate::harness::{Database, organization};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roster::grpc::pb;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tonic_health::pb::health_check_response::ServingStatus;

/// A data directory of `roster dev`. It is removed at the end of the test, and its Postgres stopped.
struct DataDirectory(PathBuf);

impl DataDirectory {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("roster-test-{}", roster::random::uuid().simple())))
    }

    fn postmaster(&self) -> Option<Pid> {
        let file = std::fs::read_to_string(self.0.join("postgres/postmaster.pid")).ok()?;
        file.lines().next()?.parse().ok().map(Pid::from_raw)
    }
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        if let Some(postmaster) = self.postmaster() {
            let _ = kill(postmaster, Signal::SIGQUIT);
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A `roster dev` that has printed that it is ready.
struct Dev {
    process: Child,
    address: String,
    exports: HashMap<String, String>,
    /// Kept open, so that the process can go on writing.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Dev {
    async fn start(directory: &Path) -> Self {
        let arguments = ["dev", "--listen", "127.0.0.1:0", "--data-dir", directory.to_str().unwrap()];
        Self::of(roster(&arguments)).await
    }

    /// Starts this command, which is a `roster dev`.
    async fn of(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        let (mut address, mut exports) = (String::new(), HashMap::new());
        while exports.len() < 4 {
            let line = tokio::time::timeout(PATIENCE, stdout.next_line()).await.unwrap().unwrap().unwrap();
            if let Some(rest) = line.strip_prefix("roster is ready at ") {
                rest.split(',').next().unwrap().clone_into(&mut address);
            }
            if let Some((name, token)) = line.strip_prefix("export ").and_then(|rest| rest.split_once('=')) {
                exports.insert(name.to_owned(), token.to_owned());
            }
        }
        Self { process, address, exports, _stdout: stdout }
    }

    /// Clients with the token of this shell variable.
    fn clients(&self, variable: &str) -> Clients {
        clients(&channel(&self.address), &self.exports[variable])
    }

    async fn signal(mut self, signal: Signal) -> Option<i32> {
        send(&self.process, signal);
        tokio::time::timeout(PATIENCE, self.process.wait()).await.unwrap().unwrap().code()
    }
}

#[tokio::test]
async fn dev_starts_without_setup_and_leaves_no_process() {
    let directory = DataDirectory::new();
    let dev = Dev::start(&directory.0).await;
    until(&channel(&dev.address), ServingStatus::Serving).await;
    let caller = dev.clients("ADA").users.get_caller(pb::GetCallerRequest {}).await.unwrap().into_inner();
    assert_eq!(caller.user.unwrap().email, "ada@example.com");
    dev.clients("ADA").organizations.create_organization(organization("Acme")).await.unwrap();
    for variable in ["OPERATOR", "SERVICE"] {
        let request = pb::GetOrganizationRequest { organization: "acme".to_owned() };
        dev.clients(variable).organizations.get_organization(request).await.unwrap();
    }
    let grace = dev.clients("GRACE").users.get_caller(pb::GetCallerRequest {}).await.unwrap().into_inner();
    assert_eq!(grace.user.unwrap().email, "grace@example.com");

    let postmaster = directory.postmaster().unwrap();
    assert_eq!(dev.signal(Signal::SIGINT).await, Some(0));
    assert!(kill(postmaster, None).is_err(), "Postgres still runs");

    // The data are still there after a restart.
    let dev = Dev::start(&directory.0).await;
    let request = pb::GetOrganizationRequest { organization: "acme".to_owned() };
    dev.clients("OPERATOR").organizations.get_organization(request).await.unwrap();
    assert_eq!(dev.signal(Signal::SIGTERM).await, Some(0));
}

#[tokio::test]
async fn dev_adopts_its_postgres_after_it_was_killed() {
    let directory = DataDirectory::new();
    let dev = Dev::start(&directory.0).await;
    dev.clients("ADA").organizations.create_organization(organization("Acme")).await.unwrap();
    let postmaster = directory.postmaster();
    assert_eq!(dev.signal(Signal::SIGKILL).await, None);

    let dev = Dev::start(&directory.0).await;
    assert_eq!(directory.postmaster(), postmaster, "the running Postgres was not adopted");
    let request = pb::GetOrganizationRequest { organization: "acme".to_owned() };
    dev.clients("OPERATOR").organizations.get_organization(request).await.unwrap();
}

#[tokio::test]
async fn a_second_dev_reports_the_conflict() {
    let (directory, other) = (DataDirectory::new(), DataDirectory::new());
    let dev = Dev::start(&directory.0).await;
    let (code, _, stderr) =
        output(&["dev", "--listen", "127.0.0.1:0", "--data-dir", directory.0.to_str().unwrap()]).await;
    let process = format!("another `roster dev` (process {})", dev.process.id().unwrap());
    assert!(code == Some(1) && stderr.contains(&process) && stderr.contains("--data-dir"), "{code:?} {stderr}");
    let (code, _, stderr) = output(&["dev", "--listen", &dev.address, "--data-dir", other.0.to_str().unwrap()]).await;
    let in_use = format!("{} is in use by another program", dev.address);
    assert!(code == Some(1) && stderr.contains(&in_use) && stderr.contains("--listen 127.0.0.1:"), "{code:?} {stderr}");
}

#[tokio::test]
async fn tokens_identify_the_given_caller() {
    let directory = DataDirectory::new();
    let path = directory.0.to_str().unwrap();
    let token = |more: &[&str]| {
        let arguments: Vec<String> =
            ["token", "--data-dir", path].iter().chain(more).map(|text| (*text).to_owned()).collect();
        async move { output(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let (code, stdout, stderr) = token(&["--operator"]).await;
    assert!(code == Some(2) && stdout.is_empty() && stderr.contains("roster dev --data-dir"), "{code:?} {stderr}");

    let dev = Dev::start(&directory.0).await;
    let (code, printed, stderr) = token(&["--user", "alan", "--email", "Alan@x.example", "--unverified-email"]).await;
    assert!(code == Some(0) && stderr.is_empty() && printed.trim_end().split('.').count() == 3, "{code:?} {stderr}");
    let mut alan = clients(&channel(&dev.address), printed.trim_end());
    let user = alan.users.get_caller(pb::GetCallerRequest {}).await.unwrap().into_inner().user.unwrap();
    assert_eq!((user.user_id.as_str(), user.email.as_str(), user.email_verified), ("alan", "Alan@x.example", false));

    for invalid in [
        &[][..],
        &["--operator", "--user", "ada"],
        &["--service", "check,everything"],
        &["--operator", "--email", "ada@example.com"],
        &["--user", "ada", "--unverified-email"],
        &["--user", "ada", "--email", "nonsense"],
        &["--user", ""],
        &["--user", "ada", "--expires-in", "0"],
    ] {
        let (code, stdout, _) = token(invalid).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{invalid:?}");
    }
}

#[tokio::test]
async fn serve_accepts_the_printed_api_key_and_is_healthy_after_the_migration() {
    let directory = tempfile::tempdir().unwrap();
    let (code, key, stanza) = output(&["api-key", "--name", "ops \"1\"", "--scopes", "operator,check"]).await;
    assert_eq!(code, Some(0));
    let stanza = &stanza[stanza.find("[[api_keys]]").unwrap()..];
    assert!(!stanza.contains(key.trim_end()));
    let config = directory.path().join("roster.toml");
    let address = format!("127.0.0.1:{}", free_port());
    std::fs::write(&config, format!("listen = '{address}'\ndrain_ms = 1000\n{stanza}\n[mail]\nkind = 'off'\n"))
        .unwrap();
    let config = config.to_str().unwrap();

    let (code, _, stderr) = output(&["check-config", "--config", config]).await;
    assert!(code == Some(2) && stderr.contains("database_url is needed"), "{code:?} {stderr}");
    let database = Database::empty().await;
    let settings = ["--config", config, "--database-url", &database.url];
    assert_eq!(output(&[&["check-config"], &settings[..]].concat()).await, (Some(0), "OK\n".into(), String::new()));

    let server = roster(&[&["serve"], &settings[..]].concat()).stderr(Stdio::null()).spawn().unwrap();
    let channel = channel(&address);
    until(&channel, ServingStatus::NotServing).await;
    for _ in 0..2 {
        let (code, _, stderr) = output(&[&["migrate"], &settings[..]].concat()).await;
        assert_eq!(code, Some(0), "{stderr}");
    }
    until(&channel, ServingStatus::Serving).await;
    let caller = clients(&channel, key.trim_end()).users.get_caller(pb::GetCallerRequest {}).await;
    caller.unwrap();

    let mut server = server;
    send(&server, Signal::SIGTERM);
    assert_eq!(tokio::time::timeout(PATIENCE, server.wait()).await.unwrap().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_the_lame_duck_time_at_once() {
    let database = Database::new().await;
    let mut serve = Serve::start(&database.url, "lame_duck_ms = 600000").await;
    serve.until(ServingStatus::Serving).await;
    serve.signal(Signal::SIGTERM);
    serve.until(ServingStatus::NotServing).await;
    serve.signal(Signal::SIGTERM);
    assert_eq!(serve.exit_code().await, Some(1), "{}", serve.log());
}

#[tokio::test]
async fn a_deprecated_setting_gives_one_warning() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("roster.toml");
    let (_, _, stanza) = output(&["api-key", "--name", "ops", "--scopes", "operator"]).await;
    let stanza = &stanza[stanza.find("[[api_keys]]").unwrap()..];
    let address = format!("127.0.0.1:{}", free_port());
    let text = format!(
        "listen = '{address}'\ndatabase_url = 'postgres://127.0.0.1:1/roster'\nindex_memory_mib = 64\n{stanza}\n\
         [mail]\nkind = 'off'\n"
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let warning =
        format!("index_memory_mib (from {config}) is deprecated and will be removed in 1.0: use replica_memory_mib");
    let (code, stdout, stderr) = output(&["check-config", "--config", config]).await;
    assert_eq!((code, stdout, stderr), (Some(0), "OK\n".to_owned(), format!("warning: {warning}\n")));

    let server = roster(&["serve", "--config", config, "--log", "warn"]).stderr(Stdio::piped()).spawn().unwrap();
    until(&channel(&address), ServingStatus::NotServing).await;
    send(&server, Signal::SIGTERM);
    let log = tokio::time::timeout(PATIENCE, server.wait_with_output()).await.unwrap().unwrap().stderr;
    let log = String::from_utf8(log).unwrap();
    assert_eq!(log.matches("deprecated").count(), 1, "{log}");
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains(&warning)), "{log}");
}

#[tokio::test]
async fn an_empty_configuration_does_not_start() {
    for command in ["serve", "check-config"] {
        let (code, stdout, stderr) = output(&[command]).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains("database_url is needed") && stderr.contains("no caller can authenticate"), "{stderr}");
    }
    let (code, _, stderr) = output(&["migrate", "--database-url", "postgres://u:s3cret@127.0.0.1:1/roster"]).await;
    assert!(code == Some(1) && stderr.contains("migrations") && !stderr.contains("s3cret"), "{code:?} {stderr}");
}
