//! Client certificates: which the handshake accepts, and which service they identify.

use crate::harness::server::{API_KEY, Clients, Credential};
use crate::harness::tls::{self, Authority, Identity, Request, VERSIONS, channel};
use crate::harness::{Server, is_member, refused};
use crate::peers::observers::{metric, scrape};
use crate::peers::rigs::OPENING;
use crate::replica::until;
use crate::streams::soon;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose};
use roster::authn::AuthSettings;
use roster::authn::settings::ClientCertificateSettings;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use roster::server::tls::ClientCertificateMode::{self, Optional, Required};
use rustls::{ClientConfig, HandshakeKind};
use std::sync::Arc;
use time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

fn entry(name: &str, san: &str, scopes: &[Scope]) -> ClientCertificateSettings {
    ClientCertificateSettings { name: name.to_owned(), san: san.to_owned(), scopes: scopes.to_vec() }
}

fn configure(auth: &mut AuthSettings) {
    auth.client_certificates = vec![
        entry("billing", "billing.test", &[Scope::Check]),
        entry("mesh", "spiffe://test/ns/a", &[Scope::Check, Scope::ActAs]),
        entry("root", "root.test", &[Scope::Operator]),
    ];
}

/// A server whose own clients have a certificate without a service.
async fn server(authority: &Authority, mode: ClientCertificateMode) -> Server {
    let settings = ServerSettings { tls: Some(authority.server_tls(Some(mode))), ..ServerSettings::default() };
    Server::with_tls_and(settings, authority.named_client(&["harness.test"]), configure).await
}

/// Clients with this configuration, and with this credential in their calls.
fn clients(server: &Server, config: Arc<ClientConfig>, credential: Credential) -> Clients {
    Clients::new(&channel(server.address, config), credential)
}

async fn check(clients: &mut Clients, organization: &str) -> Result<bool, (Code, String)> {
    match clients.checks.check_membership(is_member(organization, "ada")).await {
        Ok(answer) => Ok(answer.into_inner().result.unwrap().allowed),
        Err(status) => Err(refused(Err::<(), _>(status))),
    }
}

/// Whether a connection with this configuration is served. In TLS 1.3 a client learns only later that it was refused.
async fn is_served(server: &Server, config: ClientConfig) -> bool {
    let opened = async {
        let mut stream = tls::connect(server.address, &Arc::new(config)).await?;
        stream.write_all(OPENING).await?;
        stream.read_exact(&mut [0; 9]).await
    };
    soon(opened).await.is_ok()
}

#[tokio::test]
async fn the_handshake_accepts_only_valid_certificates_of_the_authority() {
    let authority = Authority::new();
    let request = || Request::named(&["billing.test"]);
    let with_usage = |usage| {
        let mut request = request();
        request.0.extended_key_usages = vec![usage];
        authority.sign(&request)
    };
    // With the answers of a server that asks for certificates, and of one that requires them.
    let cases: [(&str, Option<Identity>, [bool; 2]); 7] = [
        ("none", None, [true, false]),
        ("valid", Some(authority.sign(&request())), [true, true]),
        ("for clients", Some(with_usage(ExtendedKeyUsagePurpose::ClientAuth)), [true, true]),
        ("for servers", Some(with_usage(ExtendedKeyUsagePurpose::ServerAuth)), [false, false]),
        ("of another authority", Some(Authority::new().sign(&request())), [false, false]),
        ("expired", Some(authority.sign(&request().valid(-Duration::HOUR * 2, -Duration::HOUR))), [false, false]),
        ("not valid yet", Some(authority.sign(&request().valid(Duration::HOUR, Duration::HOUR * 2))), [false, false]),
    ];
    for (index, mode) in [Optional, Required].into_iter().enumerate() {
        let server = server(&authority, mode).await;
        for version in VERSIONS {
            for (name, identity, expected) in &cases {
                let is_open = is_served(&server, authority.client(identity.as_ref(), &[version])).await;
                assert_eq!(is_open, expected[index], "{name}, {mode:?}, {version:?}");
            }
        }
        let refused = cases.iter().filter(|(_, _, expected)| !expected[index]).count() * VERSIONS.len();
        until("the refused certificates are counted", async || {
            let name = "roster_connections_closed_total{reason=\"client_certificate\"}";
            metric(&scrape(&server).await, name) == Some(f64::from(u32::try_from(refused).unwrap()))
        })
        .await;
    }
}

#[tokio::test]
async fn a_name_in_the_certificate_identifies_the_service() {
    let authority = Authority::new();
    let server = server(&authority, Optional).await;
    let organization = server.user("ada").create("Acme").await;
    let mut common_name = CertificateParams::default();
    common_name.distinguished_name.push(DnType::CommonName, "billing.test");
    let common_name = authority.sign(&Request(common_name).valid(-Duration::HOUR, Duration::HOUR));
    let missing = Err((Code::Unauthenticated, "CREDENTIAL_MISSING".to_owned()));
    for (config, expected) in [
        (authority.named_client(&["billing.test"]), Ok(true)),
        (authority.named_client(&["other.test", "BILLING.test"]), Ok(true)),
        (authority.named_client(&["spiffe://test/ns/a"]), Ok(true)),
        (authority.named_client(&["root.test"]), Ok(true)),
        (authority.named_client(&["a.billing.test"]), missing.clone()),
        (authority.named_client(&["*.test"]), missing.clone()),
        (authority.named_client(&["spiffe://test/ns/ab"]), missing.clone()),
        (Arc::new(authority.client(Some(&common_name), VERSIONS)), missing.clone()),
        (authority.anonymous_client(), missing.clone()),
    ] {
        assert_eq!(check(&mut clients(&server, config, Credential::default()), &organization).await, expected);
    }
    // The scopes are those of the entry, and the name stands in the audit trail.
    let mut root = clients(&server, authority.named_client(&["root.test"]), Credential::default());
    root.create("Root's").await;
    let mut billing = clients(&server, authority.named_client(&["billing.test"]), Credential::default());
    let denied = billing.organizations.add_member(crate::harness::add(&organization, "bob", "member")).await;
    assert_eq!(refused(denied).0, Code::PermissionDenied);
}

#[tokio::test]
async fn a_credential_in_the_call_takes_precedence() {
    let authority = Authority::new();
    let server = server(&authority, Required).await;
    let organization = server.user("ada").create("Acme").await;
    let config = authority.named_client(&["billing.test"]);
    let with = |token: &str, on_behalf_of: Option<&str>| Credential {
        token: (!token.is_empty()).then(|| token.to_owned()),
        on_behalf_of: on_behalf_of.map(str::to_owned),
    };
    let operator = server.service_token("root", &[Scope::Operator]);
    let mut operator = clients(&server, config.clone(), with(&operator, None));
    operator.add(&organization, "bob", "member").await;
    let mut user = clients(&server, config.clone(), with(&server.mint(&Server::claims("ada")), None));
    let caller = user.users.get_caller(pb::GetCallerRequest::default()).await.unwrap().into_inner();
    assert_eq!(caller.user.unwrap().user_id, "ada");
    let mut keyed = clients(&server, config.clone(), with(API_KEY.secret.expose(), None));
    assert_eq!(check(&mut keyed, &organization).await, Ok(true));
    // A bad credential is not replaced by the certificate.
    for token in ["roster_none", "a.b.c"] {
        let mut bad = clients(&server, config.clone(), with(token, None));
        let expected = Err((Code::Unauthenticated, "CREDENTIAL_INVALID".to_owned()));
        assert_eq!(check(&mut bad, &organization).await, expected);
    }
    // The certificate of a service with `act-as` names a user, and others may not.
    for (name, expected) in [
        ("spiffe://test/ns/a", Ok("ada".to_owned())),
        ("billing.test", Err("ON_BEHALF_OF_NOT_ALLOWED".to_owned())),
        ("other.test", Err("CREDENTIAL_MISSING".to_owned())),
    ] {
        let mut clients = clients(&server, authority.named_client(&[name]), with("", Some("ada")));
        let caller = clients.users.get_caller(pb::GetCallerRequest::default()).await;
        let outcome = caller
            .map(|answer| answer.into_inner().user.unwrap().user_id)
            .map_err(|status| refused(Err::<(), _>(status)).1);
        assert_eq!(outcome, expected);
    }
}

#[tokio::test]
async fn the_fast_path_answers_a_service_with_a_certificate() {
    let authority = Authority::new();
    let server = server(&authority, Optional).await;
    let organization = server.user("ada").create("Acme").await;
    let mut billing = clients(&server, authority.named_client(&["billing.test"]), Credential::default());
    until("the fast path answers", async || {
        let answer = billing.checks.check_membership(is_member(&organization, "ada")).await.unwrap();
        // The pipeline names each request in its response.
        !answer.metadata().contains_key("x-request-id")
    })
    .await;
    assert_eq!(server.authenticator.computed_signatures(), 1, "only the token of the user has a signature");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_when_its_certificate_expires() {
    let authority = Authority::new();
    let server = server(&authority, Optional).await;
    let organization = server.user("ada").create("Acme").await;
    let short = authority.sign(&Request::named(&["billing.test"]).valid(-Duration::HOUR, Duration::SECOND * 4));
    let config = Arc::new(authority.client(Some(&short), VERSIONS));
    let mut raw = tls::connect(server.address, &config).await.unwrap();
    raw.write_all(OPENING).await.unwrap();
    let mut billing = clients(&server, config.clone(), Credential::default());
    assert_eq!(check(&mut billing, &organization).await, Ok(true));
    let (_questions, receiver) = tokio::sync::mpsc::channel(1);
    let requests = tonic::codegen::tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut stream = billing.checks.stream_checks(requests).await.unwrap().into_inner();
    // The stream is decided again while it is open, and ends with the certificate.
    let end = soon(stream.message()).await;
    assert_eq!(refused(end), (Code::Unauthenticated, "CREDENTIAL_EXPIRED".to_owned()));
    let mut rest = Vec::new();
    soon(raw.read_to_end(&mut rest)).await.unwrap();
    assert!(crate::peers::rigs::says_goaway(&rest));
    // The client connects again, and is refused in the handshake.
    assert!(billing.checks.check_membership(is_member(&organization, "ada")).await.is_err());
    assert!(!is_served(&server, authority.client(Some(&short), VERSIONS)).await);
}

#[tokio::test]
async fn each_connection_shows_its_certificate_again() {
    let authority = Authority::new();
    let server = server(&authority, Optional).await;
    for version in VERSIONS {
        let identity = authority.sign(&Request::named(&["billing.test"]));
        let client = Arc::new(authority.client(Some(&identity), &[version]));
        for _ in 0..3 {
            let mut stream = tls::connect(server.address, &client).await.unwrap();
            stream.write_all(OPENING).await.unwrap();
            soon(stream.read_exact(&mut [0; 9])).await.unwrap();
            // A ticket could outlive the certificate, or its authority in the settings.
            let kind = stream.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Full), "{version:?}");
        }
    }
}
