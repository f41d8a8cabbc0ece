//! The `roster` program, run as a process.

use super::dynamic::Caller;
use super::server::{Clients, Credential};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Upper limit of every wait: longer than any step takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub fn roster(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roster"));
    command.args(arguments).env_clear().env("ROSTER_LOG", "error").stdin(Stdio::null()).kill_on_drop(true);
    for name in ["PATH", "ROSTER_POSTGRES_BIN", "ROSTER_POSTGRES_USER"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command
}

pub async fn output(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = roster(arguments).output().await.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

pub fn send(process: &Child, signal: Signal) {
    kill(Pid::from_raw(process.id().unwrap().try_into().unwrap()), signal).unwrap();
}

pub fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

pub fn clients(channel: &Channel, token: &str) -> Clients {
    Clients::new(channel, Credential { token: Some(token.to_owned()), on_behalf_of: None })
}

/// Waits until the health service reports this status. Retries, since the server may not listen yet.
pub async fn until(channel: &Channel, wanted: ServingStatus) {
    let reported = async {
        loop {
            let answer = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
            if answer.is_ok_and(|answer| answer.into_inner().status() == wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reported).await.is_ok(), "the health service never reported {wanted:?}");
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A `roster serve` whose callers have an API key with every scope, and whose log is kept.
pub struct Serve {
    process: Child,
    pub address: SocketAddr,
    /// The API key of `clients`.
    pub key: String,
    pub channel: Channel,
    pub clients: Clients,
    directory: TempDir,
}

impl Serve {
    /// Starts the program with this database and with these settings, without waiting until it is healthy.
    pub async fn start(database_url: &str, settings: &str) -> Self {
        Self::start_with_log(database_url, settings, "info").await
    }

    /// Starts the program as [`Self::start`] does, with this filter of log lines.
    pub async fn start_with_log(database_url: &str, settings: &str, filter: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (_, key, stanza) = output(&["api-key", "--name", "ops", "--scopes", "operator,check,manage"]).await;
        let stanza = &stanza[stanza.find("[[api_keys]]").unwrap()..];
        let address = format!("127.0.0.1:{}", free_port());
        let config = directory.path().join("roster.toml");
        let text = format!(
            "listen = '{address}'\ndatabase_url = '{database_url}'\nlog = '{filter}'\n{settings}\n{stanza}\n[mail]\n\
             kind = 'off'\n"
        );
        std::fs::write(&config, text).unwrap();
        let process = Self::spawn(directory.path());
        let channel = channel(&address);
        let key = key.trim_end().to_owned();
        let clients = clients(&channel, &key);
        Self { process, address: address.parse().unwrap(), key, channel, clients, directory }
    }

    /// Starts the program with the configuration in this directory. Its log follows the one of the program before.
    fn spawn(directory: &Path) -> Child {
        let log = File::options().create(true).append(true).open(directory.join("log")).unwrap();
        let config = directory.join("roster.toml");
        let mut serve = roster(&["serve", "--config", config.to_str().unwrap()]);
        // The filter is in the file, which a variable precedes.
        serve.env_remove("ROSTER_LOG").stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// Kills the process, and waits until it has ended.
    pub async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Starts the program again after [`Self::kill`], at the same address and with the same settings, and waits until it
    /// answers, healthy or not.
    pub async fn start_again(&mut self) {
        self.process = Self::spawn(self.directory.path());
        let answers = async {
            while HealthClient::new(self.channel.clone()).check(HealthCheckRequest::default()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, answers).await.is_ok(), "the program did not start: {}", self.log());
    }

    /// The settings file, and beside it other files that it may name.
    pub fn settings_file(&self) -> PathBuf {
        self.directory.path().join("roster.toml")
    }

    /// Changes the text of the settings file, as an operator does: a new file takes the place of the old one.
    pub fn change_settings(&self, change: impl FnOnce(String) -> String) {
        let text = std::fs::read_to_string(self.settings_file()).unwrap();
        let next = self.directory.path().join("next.toml");
        std::fs::write(&next, change(text)).unwrap();
        std::fs::rename(next, self.settings_file()).unwrap();
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        send(&self.process, signal);
    }

    /// Waits until the process has ended. Returns its exit code.
    pub async fn exit_code(&mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE, self.process.wait()).await.expect("the program runs on").unwrap().code()
    }

    /// The resident memory of the process, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// The largest resident memory of the process so far, in bytes.
    pub fn peak_memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id().unwrap())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")).unwrap();
        peak.trim().parse::<usize>().unwrap() * 1024
    }

    /// A client that sends encoded messages.
    pub fn caller(&self) -> Caller {
        Caller::with_token(&self.channel, self.key.clone())
    }

    /// The log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Waits until the health service reports this status.
    pub async fn until(&self, wanted: ServingStatus) {
        until(&self.channel, wanted).await;
    }
}
