//! The way of the client to the server: TLS and its errors, and which credential goes where in plain text.

use super::soon;
use crate::harness::Server;
use crate::harness::tls::{Authority, NAME, Request, reload};
use roster::client::{CacheSettings, Check, Client, ClientSettings, Consistency, Error, MembershipCache, TokenSource};
use roster::clock::Clock;
use roster::domain::Scope;
use roster::server::ServerSettings;
use roster::server::tls::{ClientCertificateMode, ServerTls};
use std::net::SocketAddr;
use std::time::Duration;
use time::Duration as Hours;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tonic::transport::Endpoint;

/// Passes every connection on to a server.
fn pass_on<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(mut socket: S, server: SocketAddr) {
    tokio::spawn(async move {
        let mut connection = TcpStream::connect(server).await.unwrap();
        let _ = copy_bidirectional(&mut socket, &mut connection).await;
    });
}

/// A certificate for this machine.
fn of_this_machine(names: &[&str]) -> Request {
    Request::named(&[names, &[NAME]].concat())
}

/// A server with TLS, an organization, and the certificate that it uses at first.
async fn server(authority: &Authority, clients: Option<ClientCertificateMode>) -> (Server, ServerTls) {
    let identity = authority.sign(&of_this_machine(&["localhost", "127.0.0.1"]));
    let tls = ServerTls::new(&authority.write(&identity, clients), Clock::system()).unwrap();
    let own = authority.named_client(&["ada.example.com"]);
    let settings = ServerSettings { tls: Some(tls.clone()), ..ServerSettings::default() };
    let server = Server::with_tls_and(settings, own, |_| {}).await;
    server.user("ada").create("Acme").await;
    (server, tls)
}

fn token(server: &Server) -> TokenSource {
    TokenSource::fixed(&server.service_token("backend", &[Scope::Check])).unwrap()
}

/// The outcome of the first check of a client.
async fn first_check(settings: ClientSettings) -> Result<bool, Error> {
    let client = soon(Client::connect(settings)).await?;
    let check = Check::member("acme", "ada").unwrap();
    Ok(soon(client.check(&check, &Consistency::Recent)).await?.is_allowed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_and_the_cache_go_over_tls() {
    let authority = Authority::new();
    let own = authority.sign(&Request::named(&["billing.example.com"]));
    for clients in [None, Some(ClientCertificateMode::Required)] {
        let (server, _) = server(&authority, clients).await;
        for host in ["localhost", "127.0.0.1"] {
            let settings = ClientSettings::new(format!("https://{host}:{}", server.address.port())).unwrap();
            let settings = settings.with_ca(authority.pem()).unwrap().with_token(token(&server));
            let settings = settings.with_client_certificate(&own.certificate, &own.key).unwrap();
            assert_eq!(format!("{settings:?}").matches("ClientTls { .. }").count(), 1, "{settings:?}");
            assert!(first_check(settings.clone()).await.unwrap());
            let cache = MembershipCache::start(&Client::lazy(settings), CacheSettings::default());
            soon(cache.caught_up()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_of_tls_is_a_sentence_that_says_what_to_do() {
    let (authority, other) = (Authority::new(), Authority::named("another authority"));
    let (server, tls) = server(&authority, None).await;
    let settings = |server: &Server| {
        let settings = ClientSettings::new(format!("https://localhost:{}", server.address.port())).unwrap();
        settings.with_token(token(server))
    };
    let trusting = |server: &Server| settings(server).with_ca(authority.pem()).unwrap();
    let fails = async |settings: ClientSettings, advice: &str| {
        let error = first_check(settings).await.unwrap_err();
        assert!(error.is_unavailable() && error.to_string().contains(advice), "{advice}: {error:?}");
    };
    // The platform does not trust the authority.
    fails(settings(&server), "name the CA by with_ca").await;
    let endpoint = Endpoint::from_shared(format!("https://localhost:{}", server.address.port())).unwrap();
    fails(ClientSettings::of(endpoint), "give the endpoint a ClientTlsConfig, or use ClientSettings::new").await;
    let localhost = || of_this_machine(&["localhost"]);
    let certificates = [
        (authority.sign(&of_this_machine(&[])), "use a name in the address that the server's certificate has"),
        (authority.sign(&localhost().valid(-2 * Hours::HOUR, -Hours::HOUR)), "renew the server's certificate"),
        (authority.sign(&localhost().valid(Hours::HOUR, 2 * Hours::HOUR)), "compare the clock of this machine"),
        (other.sign(&localhost()), "signed by a CA that is not trusted: name the CA by with_ca"),
    ];
    for (identity, advice) in certificates {
        authority.write(&identity, None);
        reload(&tls).unwrap();
        fails(trusting(&server), advice).await;
    }
    let demanding = server_that_demands(&authority).await;
    fails(trusting(&demanding), "client certificate").await;
    let own = other.sign(&Request::named(&["billing.example.com"]));
    let unknown = trusting(&demanding).with_client_certificate(&own.certificate, &own.key).unwrap();
    fails(unknown, "client certificate").await;
    let plain = Server::start().await;
    fails(trusting(&plain), "the server does not speak TLS on this port").await;
    let settings = ClientSettings::new(format!("http://localhost:{}", server.address.port())).unwrap();
    // The library may lose the answer of the server, which names TLS too.
    let error = first_check(settings).await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error:?}");
}

async fn server_that_demands(authority: &Authority) -> Server {
    server(authority, Some(ClientCertificateMode::Required)).await.0
}

/// What a peer sends to a listener that answers nothing.
async fn received(listener: &TcpListener) -> Vec<u8> {
    let (mut socket, _) = soon(listener.accept()).await.unwrap();
    let mut bytes = Vec::new();
    // The peer waits for an answer first.
    let _ = tokio::time::timeout(Duration::from_millis(500), socket.read_to_end(&mut bytes)).await;
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_sends_nothing_readable_to_a_listener_without_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let secret = TokenSource::fixed("roster_very-secret").unwrap();
    let endpoint = Endpoint::from_shared(address.clone()).unwrap();
    for settings in [ClientSettings::new(&address).unwrap(), ClientSettings::of(endpoint)] {
        let client = Client::lazy(settings.with_token(secret.clone()));
        let check = Check::member("acme", "ada").unwrap();
        let (bytes, answer) = tokio::join!(received(&listener), client.check(&check, &Consistency::Recent));
        assert!(answer.is_err(), "{answer:?}");
        // A TLS handshake record, or nothing.
        assert!(bytes.is_empty() || bytes.starts_with(&[0x16, 3]), "{bytes:?}");
        assert!(!bytes.windows(11).any(|part| part == b"very-secret"), "{bytes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_in_plain_text_leaves_this_machine_only_if_that_is_allowed() {
    let server = Server::start().await;
    server.user("ada").create("Acme").await;
    // A name, to the client: the system looks up what it stands for, and finds this machine.
    let named = format!("http://127.1:{}", server.address.port());
    let of = |address: &str| ClientSettings::of(Endpoint::from_shared(address.to_owned()).unwrap());
    for settings in [ClientSettings::new(&named).unwrap(), of(&named)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = format!("http://127.1:{}", listener.local_addr().unwrap().port());
        let refused = [ClientSettings::new(&silent).unwrap(), of(&silent)];
        for refused in refused.map(|settings| settings.with_token(token(&server))) {
            let error = Client::connect(refused.clone()).await.unwrap_err();
            assert!(matches!(error, Error::InvalidSettings(_)), "{error:?}");
            assert!(error.to_string().contains("call allow_plaintext_credentials"), "{error}");
            let client = Client::lazy(refused);
            let check = Check::member("acme", "ada").unwrap();
            let error = client.check(&check, &Consistency::Recent).await.unwrap_err();
            assert!(matches!(error, Error::InvalidSettings(_)), "{error:?}");
            assert!(client.request(()).await.is_err());
            let mut health = tonic_health::pb::health_client::HealthClient::new(client.channel());
            let error = health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap_err();
            assert!(error.message().contains("allow_plaintext_credentials"), "{error:?}");
            let cache = MembershipCache::start(&client, CacheSettings::default());
            assert!(matches!(cache.check(&check).await, Err(Error::InvalidSettings(_))));
        }
        let connected = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
        assert!(connected.is_err(), "a connection was opened");
        // Without a credential there is nothing to protect, and the server refuses the call.
        let error = first_check(settings.clone()).await.unwrap_err();
        assert!(matches!(&error, Error::Refused(failure) if failure.code == tonic::Code::Unauthenticated), "{error:?}");
        assert!(first_check(settings.with_token(token(&server)).allow_plaintext_credentials()).await.unwrap());
    }
    for local in ["127.0.0.1", "localhost"] {
        let settings = of(&format!("http://{local}:{}", server.address.port())).with_token(token(&server));
        assert!(first_check(settings).await.unwrap(), "{local}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_is_local() {
    let server = Server::start().await;
    server.user("ada").create("Acme").await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("roster.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let address = server.address;
    tokio::spawn(async move {
        loop {
            pass_on(listener.accept().await.unwrap().0, address);
        }
    });
    for prefix in ["unix:", "unix://"] {
        let settings = ClientSettings::new(format!("{prefix}{}", path.display())).unwrap().with_token(token(&server));
        let cache = MembershipCache::start(&Client::lazy(settings.clone()), CacheSettings::default());
        assert!(first_check(settings).await.unwrap());
        soon(cache.caught_up()).await;
    }
}

#[tokio::test]
async fn settings_that_allow_no_connection_say_why() {
    let authority = Authority::new();
    let own = authority.sign(&Request::named(&["billing.example.com"]));
    let stranger = authority.sign(&Request::named(&["billing.example.com"]));
    let https = || ClientSettings::new("https://localhost:1").unwrap();
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let mistakes = [
        (ClientSettings::new("roster.internal:50051"), "address: begin it with https://, http:// or unix:"),
        (ClientSettings::new("ftp://roster.internal"), "address: begin it with https://, http:// or unix:"),
        (ClientSettings::new("https://a b"), "address: "),
        (https().with_ca(""), "CA: no certificate in PEM"),
        (https().with_ca(&own.key), "CA: no certificate in PEM"),
        (https().with_ca(damaged), "CA: "),
        (https().with_client_certificate("", &own.key), "client certificate: no certificate in PEM"),
        (https().with_client_certificate(&own.certificate, &own.certificate), "no private key in PEM"),
        (
            ClientSettings::new("http://localhost").unwrap().with_ca(authority.pem()),
            "with_ca needs an address that begins with https://",
        ),
    ];
    for (settings, sentence) in mistakes {
        let error = settings.unwrap_err();
        assert!(matches!(error, Error::InvalidSettings(_)), "{error:?}");
        assert!(
            error.to_string().starts_with(sentence) || error.to_string().ends_with(sentence),
            "{sentence}: {error}"
        );
    }
    let settings = https().with_ca(authority.pem()).unwrap();
    let settings = settings.with_client_certificate(&own.certificate, &stranger.key).unwrap();
    let error = Client::connect(settings).await.unwrap_err();
    assert!(matches!(&error, Error::InvalidSettings(sentence) if sentence.starts_with("TLS: ")), "{error:?}");
}
