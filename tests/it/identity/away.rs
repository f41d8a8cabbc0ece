//! An identity provider that is away: before its first answer, and after it.

use super::issuer_keys::IssuerKey;
use super::provider::{Behaviour, KEYS, Provider};
use super::{Rig, by_discovery};
use crate::harness::log::Log;
use crate::replica::until;
use futures_util::FutureExt;
use futures_util::future::join_all;
use roster::authn::limits;
use roster::authn::settings::IssuerSettings;
use roster::domain::{Refusal, Scope};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// Advances the clock until the provider was asked again and did not answer, this number of times.
async fn fail(rig: &Rig, times: u64) {
    let before = rig.statistics().failed_fetches;
    until("fetches fail", async || {
        if rig.statistics().failed_fetches < before + times {
            rig.advance(*limits::KEY_RETRY_SECONDS.end());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        rig.statistics().failed_fetches >= before + times
    })
    .await;
}

#[tokio::test]
async fn a_server_starts_without_its_provider_and_is_complete_when_it_answers() {
    let key = IssuerKey::ed25519();
    let mut provider = Provider::start(&[&key]).await;
    provider.go_down();
    let rig = Rig::of(&provider);
    let token = rig.token(&provider, &key);
    assert_eq!(rig.ask(&token).await.err(), Some(Refusal::KeysUnavailable));
    // No caller waits any more, and none of them causes a fetch.
    let failed = rig.statistics().failed_fetches;
    for number in 0..1000 {
        let token = IssuerKey::ed25519().with_id(&format!("invented-{number}")).sign(&rig.claims(&provider));
        let answer = rig.ask(&token).now_or_never().expect("a call waits for a provider that is away");
        assert_eq!(answer.err(), Some(Refusal::KeysUnavailable));
    }
    assert!(rig.statistics().failed_fetches <= failed + 1);
    assert_eq!(rig.statistics().age, None);

    provider.come_back().await;
    rig.advance(*limits::KEY_RETRY_SECONDS.end());
    until("the token is accepted", async || rig.ask(&token).await.is_ok()).await;
}

#[tokio::test]
async fn the_last_keys_stay_for_a_day_and_come_back_with_the_provider() {
    let key = IssuerKey::ed25519();
    let log = Log::watch();
    let mut provider = Provider::start(&[&key]).await;
    let rig = Rig::with_keys(&provider).await;
    let known = rig.token(&provider, &key);
    rig.ask(&known).await.unwrap();
    provider.go_down();
    rig.advance(limits::KEY_REFRESH_DEFAULT_SECONDS);
    fail(&rig, 3).await;
    // Known tokens, and others with the last keys.
    assert!(rig.recognizes(&known));
    let another = key.sign(&{
        let mut claims = rig.claims(&provider);
        claims["sub"] = "grace".into();
        claims
    });
    rig.ask(&another).await.unwrap();
    // A key id that is not known is refused at once: the provider cannot be asked.
    let unknown = rig.token(&provider, &IssuerKey::ed25519());
    let answer = rig.ask(&unknown).now_or_never().expect("an unknown key id waits");
    assert_eq!(answer.err(), Some(Refusal::CredentialInvalid));

    rig.now.store(super::NOW + limits::KEYS_LAST_SECONDS - 1, std::sync::atomic::Ordering::Relaxed);
    assert!(rig.recognizes(&known));
    rig.advance(1);
    assert!(!rig.recognizes(&known));
    for token in [&known, &another, &unknown] {
        assert_eq!(rig.ask(token).await.err(), Some(Refusal::KeysUnavailable));
    }
    provider.come_back().await;
    rig.advance(*limits::KEY_RETRY_SECONDS.end());
    until("the token is accepted", async || rig.ask(&known).await.is_ok()).await;

    let lines = log.end();
    assert_eq!(lines.matches("cannot fetch the keys of the issuer").count(), 1, "{lines}");
    assert_eq!(lines.matches("the identity provider answers again").count(), 1, "{lines}");
    assert_eq!(lines.matches("fetched other keys").count(), 1, "{lines}");
}

#[tokio::test]
async fn a_cause_that_changes_has_a_line_of_its_own() {
    let key = IssuerKey::ed25519();
    let log = Log::watch();
    let provider = Provider::start(&[&key]).await;
    let rig = Rig::with_keys(&provider).await;
    provider.behave(Behaviour::Close);
    rig.advance(limits::KEY_REFRESH_DEFAULT_SECONDS);
    fail(&rig, 2).await;
    provider.behave(Behaviour::Bytes("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned()));
    fail(&rig, 2).await;
    let lines = log.end();
    let lines: Vec<_> = lines.lines().filter(|line| line.contains("cannot fetch the keys of the issuer")).collect();
    // A fetch may have seen the first fault in its second request.
    assert!(lines.len() == 2 && lines[0].contains("no answer from 127.0.0.1"), "{lines:?}");
    assert!(lines[1].contains("answered with the status 503"), "{lines:?}");
}

#[tokio::test]
async fn a_provider_that_never_answers_holds_up_no_call_and_no_other_issuer() {
    let key = IssuerKey::ed25519();
    let (silent, slow, good) =
        (Provider::start(&[&key]).await, Provider::start(&[&key]).await, Provider::start(&[&key]).await);
    silent.behave(Behaviour::Silent);
    slow.behave(Behaviour::Drip);
    let prefixed = |provider: &Provider, prefix: &str| IssuerSettings {
        user_id_prefix: prefix.to_owned(),
        ..by_discovery(provider)
    };
    let rig = Rig::new(vec![prefixed(&silent, "a|"), prefixed(&slow, "b|"), prefixed(&good, "c|")]);
    let begun = Instant::now();
    let (of_silent, of_slow) = (rig.token(&silent, &key), rig.token(&slow, &key));
    rig.ask(&rig.token(&good, &key)).await.unwrap();
    // More callers than may wait, for a bounded time.
    let crowd = join_all((0..2 * limits::KEY_WAITERS).map(|_| rig.ask(&of_silent)));
    for answer in crowd.await {
        assert_eq!(answer.err(), Some(Refusal::KeysUnavailable));
    }
    assert_eq!(rig.ask(&of_slow).await.err(), Some(Refusal::KeysUnavailable));
    assert!(begun.elapsed() < limits::KEY_FETCH, "the calls waited for the whole fetch");
    until("the fetches have failed", async || {
        rig.auth.key_statistics().iter().filter(|issuer| issuer.failed_fetches == 1).count() == 2
    })
    .await;
    assert_eq!((silent.connections(), slow.connections()), (1, 1));
    for token in [&of_silent, &of_slow] {
        let answer = rig.ask(token).now_or_never().expect("a call waits for a provider that did not answer");
        assert_eq!(answer.err(), Some(Refusal::KeysUnavailable));
    }
    for (provider, token) in [(&silent, &of_silent), (&slow, &of_slow)] {
        provider.behave(Behaviour::Answer);
        rig.advance(*limits::KEY_RETRY_SECONDS.end());
        until("the token is accepted", async || rig.ask(token).await.is_ok()).await;
        assert!(provider.requests(KEYS) >= 1);
    }
}

#[tokio::test]
async fn other_settings_of_an_issuer_keep_its_fetched_keys() {
    let key = IssuerKey::ed25519();
    let mut provider = Provider::start(&[&key]).await;
    let rig = Rig::with_keys(&provider).await;
    let token = rig.token(&provider, &key);
    rig.ask(&token).await.unwrap();
    provider.go_down();

    let with = |scopes: Vec<Scope>, ca_file: Option<PathBuf>| {
        let issuer = IssuerSettings { scopes, ca_file, ..by_discovery(&provider) };
        Rig::new(vec![issuer]).auth.clone()
    };
    let changes = rig.auth.adopt(&with(vec![Scope::Check], None));
    assert_eq!((changes.added_issuers.len(), changes.removed_issuers.len()), (1, 1));
    rig.ask(&token).await.unwrap();
    assert_eq!(rig.statistics().age, Some(0));

    // Keys that came by other settings are not those of the issuer.
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, rcgen::generate_simple_self_signed(["id.test".to_owned()]).unwrap().cert.pem()).unwrap();
    assert!(!rig.auth.adopt(&with(vec![Scope::Check], Some(ca))).is_empty());
    assert_eq!(rig.ask(&token).await.err(), Some(Refusal::KeysUnavailable));
}
