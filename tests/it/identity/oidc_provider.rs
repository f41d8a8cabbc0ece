//! A real OpenID provider, oidc-provider of npm, and `roster serve`, which knows only its name. `make interop` runs these
//! tests, because they need Node.js; `ROSTER_OIDC_PROVIDER` is the directory of the program.

use super::issuer_keys::IssuerKey;
use crate::harness::program::{Serve, clients, free_port};
use crate::harness::{Database, assert_refused};
use crate::replica::until;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use roster::authn::limits;
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

/// A running oidc-provider.
struct OidcProvider {
    port: u16,
    process: Child,
}

impl OidcProvider {
    /// Starts the provider with these private keys, of which the first signs. Its clock is fast by `skew` seconds.
    async fn start(port: u16, keys: &[&Value], skew: i64) -> Self {
        let directory = std::env::var_os("ROSTER_OIDC_PROVIDER").expect("ROSTER_OIDC_PROVIDER is not set");
        let mut command = Command::new("node");
        command
            .arg("provider.js")
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        // It warns of its version of Node.js and of its storage. To see more, run it alone.
        command.stderr(Stdio::null());
        command.env("PORT", port.to_string()).env("SKEW", skew.to_string());
        let mut process = command.env("KEYS", serde_json::to_string(keys).unwrap()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        while !lines.next_line().await.unwrap().expect("the provider ended").starts_with("listening at ") {}
        // The provider must not block when it writes more.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { port, process }
    }

    /// Stops the provider and starts it with other keys.
    async fn restart(&mut self, keys: &[&Value], skew: i64) {
        self.process.kill().await.unwrap();
        *self = Self::start(self.port, keys, skew).await;
    }

    fn signal(&self, signal: Signal) {
        crate::harness::program::send(&self.process, signal);
    }

    /// A token of the client `billing`, by client credentials.
    async fn token(&self) -> String {
        let (body, credentials) =
            ("grant_type=client_credentials&scope=roster:check", STANDARD.encode("billing:a-secret-of-the-tests"));
        let request = format!(
            "POST /token HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\nauthorization: Basic {credentials}\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let json = answer.find("\r\n\r\n{").map_or_else(|| panic!("{answer}"), |at| &answer[at + 4..]);
        let json: Value = serde_json::from_str(json).unwrap();
        json["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

/// `roster serve` with nothing but the name of the issuer.
async fn serve(database: &Database, port: u16) -> Serve {
    let issuer = format!("[[issuers]]\nissuer = 'http://127.0.0.1:{port}'\naudience = 'roster'\nscopes = ['check']\n");
    let serve = Serve::start(&database.url, &issuer).await;
    serve.until(ServingStatus::Serving).await;
    serve
}

async fn check(serve: &Serve, token: &str) -> Result<bool, Status> {
    let request = crate::harness::is_member("acme", "ada");
    let answer = clients(&serve.channel, token).checks.check_membership(request).await?;
    Ok(answer.into_inner().result.unwrap().allowed)
}

/// Creates the organization `acme` with its owner Ada.
async fn create(serve: &Serve) {
    let mut request = crate::harness::organization("Acme");
    "ada".clone_into(&mut request.owner_user_id);
    serve.clients.clone().organizations.create_organization(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs oidc-provider of npm: make interop runs it"]
async fn a_check_is_answered_with_the_token_of_a_real_provider_through_every_change_of_its_keys() {
    let [first, second, third] =
        [IssuerKey::ed25519().private(), IssuerKey::p256().private(), IssuerKey::ed25519().private()];
    let mut provider = OidcProvider::start(free_port(), &[&first], 0).await;
    let serve = serve(&Database::new().await, provider.port).await;
    create(&serve).await;
    let of_first = provider.token().await;
    assert!(check(&serve, &of_first).await.unwrap());

    // The provider signs with another key: the first token with it makes roster fetch.
    provider.restart(&[&second, &first], 0).await;
    assert!(check(&serve, &provider.token().await).await.unwrap());
    assert!(check(&serve, &of_first).await.unwrap());

    // Down: the last keys stay. Back: nothing else is needed.
    let of_second = provider.token().await;
    provider.process.kill().await.unwrap();
    assert!(check(&serve, &of_second).await.unwrap());
    provider.restart(&[&second, &first], 0).await;
    assert!(check(&serve, &provider.token().await).await.unwrap());

    // It never answers: the last keys stay.
    let of_second = provider.token().await;
    provider.signal(Signal::SIGSTOP);
    assert!(check(&serve, &of_second).await.unwrap());
    provider.signal(Signal::SIGCONT);

    // Its clock differs by a minute. A token is valid for half a minute.
    for skew in [60, -60] {
        provider.restart(&[&second, &first], skew).await;
        assert!(check(&serve, &provider.token().await).await.unwrap(), "{skew}");
    }

    // Both keys are withdrawn. A token with the new one makes roster fetch, a minute after the last one.
    provider.restart(&[&second, &first], 60).await;
    tokio::time::sleep(Duration::from_secs(limits::UNKNOWN_KEY_SECONDS)).await;
    let still_valid = provider.token().await;
    assert!(check(&serve, &still_valid).await.unwrap());
    provider.restart(&[&third], 0).await;
    assert!(check(&serve, &provider.token().await).await.unwrap());
    assert_refused(check(&serve, &still_valid).await, Code::Unauthenticated, "CREDENTIAL_INVALID");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs oidc-provider of npm: make interop runs it"]
async fn a_server_starts_while_the_provider_is_down_or_never_answers() {
    let key = IssuerKey::p256().private();
    let database = Database::new().await;
    let mut provider = OidcProvider::start(free_port(), &[&key], 0).await;
    let token = provider.token().await;
    provider.process.kill().await.unwrap();
    let down = serve(&database, provider.port).await;
    create(&down).await;
    assert_refused(check(&down, &token).await, Code::Unavailable, "KEYS_UNAVAILABLE");

    provider.restart(&[&key], 0).await;
    provider.signal(Signal::SIGSTOP);
    let silent = serve(&database, provider.port).await;
    for serve in [&down, &silent] {
        assert_refused(check(serve, &token).await, Code::Unavailable, "KEYS_UNAVAILABLE");
    }
    provider.signal(Signal::SIGCONT);
    for serve in [&down, &silent] {
        until("the keys came", async || {
            let token = provider.token().await;
            check(serve, &token).await.is_ok_and(|allowed| allowed)
        })
        .await;
    }
}
