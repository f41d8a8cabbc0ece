//! Clients of other languages over TLS: calls, streams, a new certificate under load, and what their users read when the
//! handshake fails.

use super::{Probe, ProbeSettings};
use crate::harness::tls::{Authority, NAME, Request, connect, reload};
use crate::harness::{Server, add};
use crate::peers::observers::{metric, scrape};
use crate::replica::until;
use roster::clock::Clock;
use roster::domain::Scope;
use roster::server::ServerSettings;
use roster::server::tls::{ClientCertificateMode, ServerTls};
use std::process::Stdio;
use std::time::Duration;
use time::Duration as Hours;
use tokio::process::Command;

const PROBES: [Probe; 4] = [Probe::Go, Probe::Java, Probe::Node, Probe::Python];

/// A server with TLS, with what its clients need.
struct TlsServer {
    server: Server,
    tls: ServerTls,
    authority: Authority,
    clients: Option<ClientCertificateMode>,
}

impl TlsServer {
    async fn start(clients: Option<ClientCertificateMode>) -> Self {
        let authority = Authority::new();
        std::fs::write(authority.path("ca.pem"), authority.pem()).unwrap();
        let identity = authority.sign(&localhost());
        let own = authority.sign(&Request::named(&["billing.example.com"]));
        std::fs::write(authority.path("client.pem"), &own.certificate).unwrap();
        std::fs::write(authority.path("client.key"), &own.key).unwrap();
        let tls = ServerTls::new(&authority.write(&identity, clients), Clock::system()).unwrap();
        let settings = ServerSettings {
            tls: Some(tls.clone()),
            max_connection_age: Some(Duration::from_secs(1)),
            connection_age_grace: Duration::from_secs(1),
            ..ServerSettings::default()
        };
        let client = authority.named_client(&["test.example.com"]);
        let server = Server::with_tls_and(settings, client, |_| {}).await;
        server.user("ada").create("Acme, Inc.").await;
        Self { server, tls, authority, clients }
    }

    /// The variables of a probe without a client certificate.
    fn settings(&self) -> ProbeSettings {
        let credential = self.server.service_token("probe", &[Scope::Check, Scope::Manage]);
        let address = format!("localhost:{}", self.server.address.port());
        let ca = self.authority.path("ca.pem");
        ProbeSettings::new(&address, &credential).with("ROSTER_CA", ca.to_str().unwrap())
    }

    /// The same with a client certificate.
    fn certified(&self) -> ProbeSettings {
        let path = |name| self.authority.path(name).to_str().unwrap().to_owned();
        self.settings().with("ROSTER_CERTIFICATE", path("client.pem")).with("ROSTER_KEY", path("client.key"))
    }

    /// Replaces the certificate of the server.
    fn replace(&self, authority: &Authority, request: &Request) {
        self.authority.write(&authority.sign(request), self.clients);
        reload(&self.tls).unwrap();
    }

    /// The certificate that the server shows.
    async fn certificate(&self) -> Vec<u8> {
        let client = self.authority.named_client(&["test.example.com"]);
        let stream = connect(self.server.address, &client).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    async fn aged(&self) -> f64 {
        let sample = r#"roster_connections_closed_total{reason="age"}"#;
        metric(&scrape(&self.server).await, sample).unwrap_or_default()
    }
}

fn localhost() -> Request {
    Request::named(&["localhost", NAME])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the programs of other languages: make interop runs it"]
async fn a_certificate_is_replaced_under_load() {
    for clients in [None, Some(ClientCertificateMode::Required)] {
        let tls = TlsServer::start(clients).await;
        for probe in PROBES {
            let load = probe.load(&if clients.is_some() { tls.certified() } else { tls.settings() });
            let connected = tls.aged().await;
            until("the probe has connected", async || tls.aged().await > connected).await;
            let (before, aged) = (tls.certificate().await, tls.aged().await);
            tls.replace(&tls.authority, &localhost());
            assert_ne!(tls.certificate().await, before, "the certificate is the former one");
            // The probe has opened connections with the new one, and its stream goes on.
            until("the connections are new", async || tls.aged().await >= aged + 3.0).await;
            let user = format!("user-of-{probe:?}");
            // The connection of the harness may end before a call, too.
            until("a member is added", async || {
                let request = add("acme-inc", &user, "member");
                tls.server.service(&[Scope::Manage]).organizations.add_member(request).await.is_ok()
            })
            .await;
            until("the stream has received the event", async || load.has_event()).await;
            let [calls, streams, events] = load.end().await;
            assert!(calls > 200 && streams >= 2 && events >= 1, "{probe:?}: {calls} {streams} {events}");
        }
    }
}

/// A client that fails by TLS, and what its user reads.
struct Reading {
    case: &'static str,
    client: String,
    output: String,
}

/// Makes a call with each client, which fails.
async fn read(case: &'static str, settings: &ProbeSettings, readings: &mut Vec<Reading>) {
    for probe in PROBES {
        let output = probe.command("call", settings).stdin(Stdio::null()).output().await.unwrap();
        let output = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        readings.push(Reading { case, client: format!("{probe:?}"), output });
    }
    let variable = |name: &str| settings.0.get(name);
    let mut grpcurl = Command::new(super::installed().join("bin/grpcurl"));
    grpcurl.args(["-cacert", variable("ROSTER_CA").unwrap(), "-max-time", "10"]);
    if let (Some(certificate), Some(key)) = (variable("ROSTER_CERTIFICATE"), variable("ROSTER_KEY")) {
        grpcurl.args(["-cert", certificate, "-key", key]);
    }
    grpcurl.args([variable("ROSTER_ADDRESS").unwrap(), "grpc.health.v1.Health/Check"]);
    let output = grpcurl.output().await.unwrap();
    let output = [output.stdout, output.stderr].concat();
    let output = String::from_utf8(output).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    readings.push(Reading { case, client: "grpcurl".to_owned(), output });
}

/// The sentences of `docs/languages.md` for a case and a client.
fn sentences<'a>(document: &'a str, case: &str, client: &str) -> Vec<&'a str> {
    let row = document.lines().find_map(|line| line.strip_prefix(&format!("| {case} | {client} | ")));
    row.into_iter().flat_map(|row| row.split('`').skip(1).step_by(2)).collect()
}

/// Whether a text has the parts of a sentence, which are separated by `…`.
fn reads(mut text: &str, sentence: &str) -> bool {
    sentence.split('…').all(|part| {
        let end = text.find(part).map(|start| start + part.len());
        text = &text[end.unwrap_or_default()..];
        end.is_some()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the programs of other languages: make interop runs it"]
async fn users_read_the_sentences_of_the_documents() {
    let (other, mut readings) = (Authority::named("another authority"), Vec::new());
    let tls = TlsServer::start(None).await;
    read("none", &tls.settings(), &mut readings).await;
    tls.replace(&tls.authority, &Request::named(&["roster.example.com"]));
    read("wrong name", &tls.settings(), &mut readings).await;
    tls.replace(&tls.authority, &localhost().valid(-2 * Hours::HOUR, -Hours::HOUR));
    read("expired certificate", &tls.settings(), &mut readings).await;
    tls.replace(&other, &localhost());
    read("unknown CA", &tls.settings(), &mut readings).await;
    let demanding = TlsServer::start(Some(ClientCertificateMode::Required)).await;
    read("none", &demanding.certified(), &mut readings).await;
    read("no client certificate", &demanding.settings(), &mut readings).await;
    let plain = Server::start().await;
    let address = format!("localhost:{}", plain.address.port());
    read("server without TLS", &tls.settings().with("ROSTER_ADDRESS", address), &mut readings).await;

    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/languages.md")).unwrap();
    let mut wrong = Vec::new();
    for Reading { case, client, output } in readings {
        println!("| {case} | {client} | `{output}` |");
        if case == "none" {
            assert!(output == "ok" || output.contains("SERVING"), "{client}: {output}");
            continue;
        }
        let expected = sentences(&document, case, &client);
        if !expected.iter().any(|sentence| reads(&output, sentence)) {
            wrong.push(format!("{case}, {client}: {output}: the document has: {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
