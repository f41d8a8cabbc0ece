//! A real OpenID provider, oidc-provider of npm, and `roster serve`, which knows only its name. `make interop` runs these
//! tests, because they need Node.js; `ROSTER_OIDC_PROVIDER` is the directory of the program.

use super::issuer_keys::IssuerKey;
use crate::harness::program::{self, Serve, clients, free_port};
use crate::harness::server::{Clients, Credential};
use crate::harness::tls::{self, Authority, NAME, Request, VERSIONS};
use crate::harness::{Database, assert_refused};
use crate::replica::until;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use roster::authn::limits;
use roster::server::tls::ClientCertificateMode;
use serde_json::Value;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tonic::transport::Channel;
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

/// `roster serve` over TLS, which knows nothing of the provider but its name.
struct TlsServe {
    serve: Serve,
    authority: Authority,
    channel: Channel,
}

impl TlsServe {
    async fn start(database: &Database, port: u16) -> Self {
        let authority = Authority::new();
        let files = authority.write(&authority.sign(&Request::named(&[NAME])), Some(ClientCertificateMode::Optional));
        let settings = format!(
            "tls_certificate_file = '{}'\ntls_key_file = '{}'\ntls_client_ca_file = '{}'\n\
             [[client_certificates]]\nname = 'search'\nsan = 'search.test'\nscopes = ['check']\n\
             [[issuers]]\nissuer = 'http://127.0.0.1:{port}'\naudience = 'roster'\nscopes = ['check']\n",
            files.certificate_file.display(),
            files.key_file.display(),
            files.client_ca_file.unwrap().display(),
        );
        let serve = Serve::start(&database.url, &settings).await;
        let channel = tls::channel(serve.address, Arc::new(authority.client(None, VERSIONS)));
        program::until(&channel, ServingStatus::Serving).await;
        Self { serve, authority, channel }
    }

    /// Creates the organization `acme` with its owner Ada.
    async fn create(&self) {
        let mut request = crate::harness::organization("Acme");
        "ada".clone_into(&mut request.owner_user_id);
        let mut operator = clients(&self.channel, &self.serve.key);
        operator.organizations.create_organization(request).await.unwrap();
    }

    /// A check with this token.
    async fn check(&self, token: &str) -> Result<bool, Status> {
        allowed(clients(&self.channel, token)).await
    }

    /// A check without a token, over a connection with the certificate of this name.
    async fn check_by_certificate(&self, name: &str) -> Result<bool, Status> {
        let identity = self.authority.sign(&Request::named(&[name]));
        let config = Arc::new(self.authority.client(Some(&identity), VERSIONS));
        allowed(Clients::new(&tls::channel(self.serve.address, config), Credential::default())).await
    }
}

async fn allowed(mut clients: Clients) -> Result<bool, Status> {
    let answer = clients.checks.check_membership(crate::harness::is_member("acme", "ada")).await?;
    Ok(answer.into_inner().result.unwrap().allowed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs oidc-provider of npm: make interop runs it"]
async fn a_check_is_answered_with_the_token_of_a_real_provider_through_every_change_of_its_keys() {
    let [first, second, third] =
        [IssuerKey::ed25519().private(), IssuerKey::p256().private(), IssuerKey::ed25519().private()];
    let mut provider = OidcProvider::start(free_port(), &[&first], 0).await;
    let serve = TlsServe::start(&Database::new().await, provider.port).await;
    serve.create().await;
    let of_first = provider.token().await;
    assert!(serve.check(&of_first).await.unwrap());

    // A service needs no token if its certificate has a name in the settings.
    assert!(serve.check_by_certificate("search.test").await.unwrap());
    assert_refused(serve.check_by_certificate("other.test").await, Code::Unauthenticated, "CREDENTIAL_MISSING");

    // The provider signs with another key: the first token with it makes roster fetch.
    provider.restart(&[&second, &first], 0).await;
    assert!(serve.check(&provider.token().await).await.unwrap());
    assert!(serve.check(&of_first).await.unwrap());

    // Down: the last keys stay. Back: nothing else is needed.
    let of_second = provider.token().await;
    provider.process.kill().await.unwrap();
    assert!(serve.check(&of_second).await.unwrap());
    provider.restart(&[&second, &first], 0).await;
    assert!(serve.check(&provider.token().await).await.unwrap());

    // It never answers: the last keys stay.
    let of_second = provider.token().await;
    provider.signal(Signal::SIGSTOP);
    assert!(serve.check(&of_second).await.unwrap());
    provider.signal(Signal::SIGCONT);

    // Its clock differs by a minute. A token is valid for half a minute.
    for skew in [60, -60] {
        provider.restart(&[&second, &first], skew).await;
        assert!(serve.check(&provider.token().await).await.unwrap(), "{skew}");
    }

    // Both keys are withdrawn. A token with the new one makes roster fetch, a minute after the last one.
    provider.restart(&[&second, &first], 60).await;
    tokio::time::sleep(Duration::from_secs(limits::UNKNOWN_KEY_SECONDS)).await;
    let still_valid = provider.token().await;
    assert!(serve.check(&still_valid).await.unwrap());
    provider.restart(&[&third], 0).await;
    assert!(serve.check(&provider.token().await).await.unwrap());
    assert_refused(serve.check(&still_valid).await, Code::Unauthenticated, "CREDENTIAL_INVALID");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs oidc-provider of npm: make interop runs it"]
async fn a_server_starts_while_the_provider_is_down_or_never_answers() {
    let key = IssuerKey::p256().private();
    let database = Database::new().await;
    let mut provider = OidcProvider::start(free_port(), &[&key], 0).await;
    let token = provider.token().await;
    provider.process.kill().await.unwrap();
    let down = TlsServe::start(&database, provider.port).await;
    down.create().await;
    assert_refused(down.check(&token).await, Code::Unavailable, "KEYS_UNAVAILABLE");

    provider.restart(&[&key], 0).await;
    provider.signal(Signal::SIGSTOP);
    let silent = TlsServe::start(&database, provider.port).await;
    for serve in [&down, &silent] {
        assert_refused(serve.check(&token).await, Code::Unavailable, "KEYS_UNAVAILABLE");
    }
    provider.signal(Signal::SIGCONT);
    for serve in [&down, &silent] {
        until("the keys came", async || {
            let token = provider.token().await;
            serve.check(&token).await.is_ok_and(|allowed| allowed)
        })
        .await;
    }
}
