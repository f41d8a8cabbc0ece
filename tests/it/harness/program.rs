//! The `roster` program, run as a process.

use super::server::{Clients, Credential};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Output, Stdio};
use std::time::Duration;
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
