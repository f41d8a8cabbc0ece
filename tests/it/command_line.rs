//! The program itself, as somebody at a terminal meets it.

use crate::harness::program::{PATIENCE, channel, clients, free_port, output, roster, send, until};
use crate::harness::server::Clients;
use crate::harness::{Database, organization};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roster::grpc::pb;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tonic_health::pb::health_check_response::ServingStatus;

/// A data directory of `roster dev`. It goes with the test, and so does its Postgres.
struct Home(PathBuf);

impl Home {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("roster-test-{}", roster::random::uuid().simple())))
    }

    fn postmaster(&self) -> Option<Pid> {
        let file = std::fs::read_to_string(self.0.join("postgres/postmaster.pid")).ok()?;
        file.lines().next()?.parse().ok().map(Pid::from_raw)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(postmaster) = self.postmaster() {
            let _ = kill(postmaster, Signal::SIGQUIT);
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A `roster dev` that has said that it is ready.
struct Dev {
    process: Child,
    address: String,
    exports: HashMap<String, String>,
    /// Held, so that it can go on writing.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Dev {
    async fn start(home: &Path) -> Self {
        let arguments = ["dev", "--listen", "127.0.0.1:0", "--data-dir", home.to_str().unwrap()];
        let mut process = roster(&arguments).stdout(Stdio::piped()).spawn().unwrap();
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
async fn dev_needs_nothing_and_leaves_nothing_running() {
    let home = Home::new();
    let dev = Dev::start(&home.0).await;
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

    let postmaster = home.postmaster().unwrap();
    assert_eq!(dev.signal(Signal::SIGINT).await, Some(0));
    assert!(kill(postmaster, None).is_err(), "Postgres was left running");

    // Everything is there again.
    let dev = Dev::start(&home.0).await;
    let request = pb::GetOrganizationRequest { organization: "acme".to_owned() };
    dev.clients("OPERATOR").organizations.get_organization(request).await.unwrap();
    assert_eq!(dev.signal(Signal::SIGTERM).await, Some(0));
}

#[tokio::test]
async fn dev_goes_on_after_it_was_killed() {
    let home = Home::new();
    let dev = Dev::start(&home.0).await;
    dev.clients("ADA").organizations.create_organization(organization("Acme")).await.unwrap();
    let postmaster = home.postmaster();
    assert_eq!(dev.signal(Signal::SIGKILL).await, None);

    let dev = Dev::start(&home.0).await;
    assert_eq!(home.postmaster(), postmaster, "the Postgres that was left was not adopted");
    let request = pb::GetOrganizationRequest { organization: "acme".to_owned() };
    dev.clients("OPERATOR").organizations.get_organization(request).await.unwrap();
}

#[tokio::test]
async fn two_devs_do_not_fight() {
    let (home, other) = (Home::new(), Home::new());
    let dev = Dev::start(&home.0).await;
    let (code, _, told) = output(&["dev", "--listen", "127.0.0.1:0", "--data-dir", home.0.to_str().unwrap()]).await;
    let process = format!("another `roster dev` (process {})", dev.process.id().unwrap());
    assert!(code == Some(1) && told.contains(&process) && told.contains("--data-dir"), "{code:?} {told}");
    let (code, _, told) = output(&["dev", "--listen", &dev.address, "--data-dir", other.0.to_str().unwrap()]).await;
    let in_use = format!("{} is in use by another program", dev.address);
    assert!(code == Some(1) && told.contains(&in_use) && told.contains("--listen 127.0.0.1:"), "{code:?} {told}");
}

#[tokio::test]
async fn tokens_are_for_whom_they_say() {
    let home = Home::new();
    let directory = home.0.to_str().unwrap();
    let token = |more: &[&str]| {
        let arguments: Vec<String> =
            ["token", "--data-dir", directory].iter().chain(more).map(|text| (*text).to_owned()).collect();
        async move { output(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let (code, stdout, told) = token(&["--operator"]).await;
    assert!(code == Some(2) && stdout.is_empty() && told.contains("roster dev --data-dir"), "{code:?} {told}");

    let dev = Dev::start(&home.0).await;
    let (code, bare, told) = token(&["--user", "alan", "--email", "Alan@x.example", "--unverified-email"]).await;
    assert!(code == Some(0) && told.is_empty() && bare.trim_end().split('.').count() == 3, "{code:?} {told}");
    let mut alan = clients(&channel(&dev.address), bare.trim_end());
    let user = alan.users.get_caller(pb::GetCallerRequest {}).await.unwrap().into_inner().user.unwrap();
    assert_eq!((user.user_id.as_str(), user.email.as_str(), user.email_verified), ("alan", "Alan@x.example", false));

    for wrong in [
        &[][..],
        &["--operator", "--user", "ada"],
        &["--service", "check,everything"],
        &["--operator", "--email", "ada@example.com"],
        &["--user", "ada", "--unverified-email"],
        &["--user", "ada", "--email", "nonsense"],
        &["--user", ""],
        &["--user", "ada", "--expires-in", "0"],
    ] {
        let (code, stdout, _) = token(wrong).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{wrong:?}");
    }
}

#[tokio::test]
async fn serve_starts_with_what_api_key_prints_and_is_healthy_when_migrated() {
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

    let (code, _, told) = output(&["check-config", "--config", config]).await;
    assert!(code == Some(2) && told.contains("database_url is needed"), "{code:?} {told}");
    let database = Database::empty().await;
    let settings = ["--config", config, "--database-url", &database.url];
    assert_eq!(output(&[&["check-config"], &settings[..]].concat()).await, (Some(0), "OK\n".into(), String::new()));

    let server = roster(&[&["serve"], &settings[..]].concat()).stderr(Stdio::null()).spawn().unwrap();
    let channel = channel(&address);
    until(&channel, ServingStatus::NotServing).await;
    for _ in 0..2 {
        let (code, _, told) = output(&[&["migrate"], &settings[..]].concat()).await;
        assert_eq!(code, Some(0), "{told}");
    }
    until(&channel, ServingStatus::Serving).await;
    let caller = clients(&channel, key.trim_end()).users.get_caller(pb::GetCallerRequest {}).await;
    caller.unwrap();

    let mut server = server;
    send(&server, Signal::SIGTERM);
    assert_eq!(tokio::time::timeout(PATIENCE, server.wait()).await.unwrap().unwrap().code(), Some(0));
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
    let warning = format!(
        "index_memory_mib (from {config}) is deprecated and will be removed in the next release: use replica_memory_mib"
    );
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
async fn nothing_configured_and_it_does_not_start() {
    for command in ["serve", "check-config"] {
        let (code, stdout, told) = output(&[command]).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{told}");
        assert!(told.contains("database_url is needed") && told.contains("nobody could call"), "{told}");
    }
    let (code, _, told) = output(&["migrate", "--database-url", "postgres://u:s3cret@127.0.0.1:1/roster"]).await;
    assert!(code == Some(1) && told.contains("migrations") && !told.contains("s3cret"), "{code:?} {told}");
}
