//! New certificates without a restart.

use crate::harness::server::Clients;
use crate::harness::tls::{self, Authority, NAME, Request, channel, reload, replace};
use crate::harness::{Server, is_member};
use crate::peers::observers::scrape;
use roster::clock::Clock;
use roster::domain::Scope;
use roster::server::ServerSettings;
use roster::server::tls::{ClientCertificateMode, ServerTls};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use time::Duration;

/// The certificate that a new connection gets.
async fn served(server: &Server, authority: &Authority) -> Vec<u8> {
    let stream = tls::connect(server.address, &authority.anonymous_client()).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_loses_no_call() {
    let authority = Authority::new();
    let tls = authority.server_tls(None);
    let server = Server::with_tls(&authority, tls.clone(), |_| {}).await;
    let organization = server.user("ada").create("Acme").await;
    let (done, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let credential = server.credential(&[Scope::Check]);
    let mut callers = Vec::new();
    for number in 0..4 {
        let (done, calls, organization) = (done.clone(), calls.clone(), organization.clone());
        let (address, client, credential) = (server.address, authority.anonymous_client(), credential.clone());
        let kept = channel(address, client.clone());
        callers.push(tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                // Two keep their connection, and two connect for each call.
                let channel = if number < 2 { kept.clone() } else { channel(address, client.clone()) };
                let mut clients = Clients::new(&channel, credential.clone());
                clients.checks.check_membership(is_member(&organization, "ada")).await.unwrap();
                calls.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut before = served(&server, &authority).await;
    for _ in 0..10 {
        let called = calls.load(Ordering::Relaxed);
        let next = authority.sign(&Request::named(&[NAME]));
        replace(&authority.path("server.pem"), &next.certificate);
        // In between the two files do not fit, and nothing changes.
        assert!(reload(&tls).is_err_and(|mistakes| mistakes[0].contains("does not belong to the first certificate")));
        assert_eq!(served(&server, &authority).await, before);
        replace(&authority.path("server.key"), &next.key);
        reload(&tls).unwrap();
        let after = served(&server, &authority).await;
        assert!(after != before);
        before = after;
        crate::replica::until("calls go on", async || calls.load(Ordering::Relaxed) > called + 20).await;
    }
    done.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("a call failed");
    }
}

#[tokio::test]
async fn bad_files_are_named_and_the_former_ones_stay() {
    let authority = Authority::new();
    let tls = authority.server_tls(Some(ClientCertificateMode::Optional));
    let server = Server::with_tls(&authority, tls.clone(), |_| {}).await;
    let before = served(&server, &authority).await;
    let good =
        ["server.pem", "server.key", "clients.pem"].map(|name| (name, std::fs::read_to_string(authority.path(name))));
    let other = Authority::new().sign(&Request::named(&[NAME]));
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (name, text, sentence) in [
        ("server.pem", "", "tls_certificate_file: PATH: the file has no certificate"),
        ("server.pem", not_der, "tls_certificate_file: PATH: the first certificate cannot be used"),
        ("server.pem", "-----BEGIN CERTIFICATE-----\nAAAA", "tls_certificate_file: PATH: the file is not PEM"),
        ("server.key", "", "tls_key_file: PATH: the file has no private key"),
        ("server.key", not_der, "tls_key_file: PATH: the file has no private key"),
        ("server.key", &other.key, "tls_key_file: the key in PATH does not belong to the first certificate"),
        ("clients.pem", "", "tls_client_ca_file: PATH: the file has no certificate"),
        ("clients.pem", not_der, "tls_client_ca_file: PATH: the certificate number 1 cannot be used"),
    ] {
        let path = authority.path(name);
        replace(&path, text);
        let mistakes = reload(&tls).unwrap_err();
        let expected = sentence.replace("PATH", &path.display().to_string());
        assert!(mistakes.len() == 1 && mistakes[0].starts_with(&expected), "{mistakes:?}");
        assert_eq!(served(&server, &authority).await, before);
        let good = good.iter().find(|(good, _)| *good == name).unwrap();
        replace(&path, good.1.as_ref().unwrap());
    }
    for (name, _) in &good {
        std::fs::remove_file(authority.path(name)).unwrap();
    }
    let mistakes = reload(&tls).unwrap_err();
    assert_eq!(mistakes.iter().filter(|mistake| mistake.contains("cannot be read")).count(), 3, "{mistakes:?}");
    assert_eq!(served(&server, &authority).await, before);
}

#[tokio::test]
async fn the_metric_follows_and_a_removed_authority_counts_for_new_handshakes_only() {
    let (authority, next) = (Authority::new(), Authority::new());
    let settings = authority.write(
        &authority.sign(&Request::named(&[NAME]).valid(-Duration::HOUR, Duration::HOUR)),
        Some(ClientCertificateMode::Required),
    );
    let tls = ServerTls::new(&settings, Clock::system()).unwrap();
    let settings = ServerSettings { tls: Some(tls.clone()), ..ServerSettings::default() };
    let client = authority.named_client(&["a.test"]);
    let server = Server::with_tls_and(settings, client.clone(), |_| {}).await;
    let organization = server.user("ada").create("Acme").await;
    let mut clients = server.service(&[Scope::Check]);
    assert!(clients.is_member(&organization, "ada").await);

    let renewed = authority.sign(&Request::named(&[NAME]).valid(-Duration::HOUR, Duration::HOUR * 9));
    replace(&authority.path("server.pem"), &renewed.certificate);
    replace(&authority.path("server.key"), &renewed.key);
    replace(&authority.path("clients.pem"), &next.pem());
    let before = tls.expires_at();
    reload(&tls).unwrap();
    assert!((8 * 3600..9 * 3600).contains(&(tls.expires_at() - before)));
    let expected = format!("roster_tls_certificate_expiry_timestamp_seconds {}", tls.expires_at());
    let text = scrape(&server).await;
    assert!(text.lines().any(|line| line == expected), "{text}");
    // The open connection goes on, and a new one with a certificate of the former authority does not begin.
    assert!(clients.is_member(&organization, "ada").await);
    let mut refused = Clients::new(&channel(server.address, client), server.credential(&[Scope::Check]));
    assert!(refused.checks.check_membership(is_member(&organization, "ada")).await.is_err());
}
