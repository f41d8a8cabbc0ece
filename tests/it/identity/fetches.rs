//! When keys are fetched, and what a rotation and a withdrawal of a key do.

use super::issuer_keys::IssuerKey;
use super::provider::{DISCOVERY, KEYS, Provider};
use super::{Rig, by_discovery};
use crate::replica::until;
use futures_util::FutureExt;
use futures_util::future::join_all;
use roster::authn::Caller;
use roster::authn::limits;
use roster::authn::settings::IssuerSettings;
use roster::domain::Refusal;
use serde_json::json;
use std::time::Duration;

/// Longer than the task that fetches takes to notice that the clock was set.
const NOTICED: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn the_name_of_an_issuer_is_enough_and_every_algorithm_works() {
    let keys = [IssuerKey::rsa(), IssuerKey::p256(), IssuerKey::p384(), IssuerKey::ed25519()];
    let provider = Provider::start(&keys.each_ref()).await;
    let rig = Rig::of(&provider);
    // The first call waits for the first fetch.
    for key in &keys {
        for algorithm in key.algorithms() {
            let caller = rig.ask(&key.sign_with(algorithm, &rig.claims(&provider))).await;
            assert!(matches!(&*caller.unwrap(), Caller::User(user) if user.id.as_str() == "ada"), "{algorithm}");
        }
    }
    assert_eq!((provider.requests(DISCOVERY), provider.requests(KEYS)), (1, 1));
    // Each algorithm needs a key of its type.
    for (key, algorithm) in [(&keys[0], "ES256"), (&keys[1], "ES384"), (&keys[2], "ES256"), (&keys[3], "RS256")] {
        let refusal = rig.ask(&key.sign_with(algorithm, &rig.claims(&provider))).await.err();
        assert_eq!(refusal, Some(Refusal::CredentialInvalid), "{algorithm}");
    }
    assert_eq!(provider.requests(KEYS), 1);
}

#[tokio::test]
async fn a_key_with_an_algorithm_verifies_only_that_one() {
    let key = IssuerKey::rsa();
    let provider = Provider::start(&[]).await;
    let mut public = key.public();
    public["alg"] = "PS256".into();
    provider.publish_all(vec![public]);
    let rig = Rig::with_keys(&provider).await;
    for (algorithm, is_good) in [("PS256", true), ("RS256", false), ("PS384", false)] {
        let answer = rig.ask(&key.sign_with(algorithm, &rig.claims(&provider))).await;
        assert_eq!(answer.is_ok(), is_good, "{algorithm}");
    }
}

#[tokio::test]
async fn the_url_of_a_key_set_needs_no_discovery() {
    let key = IssuerKey::ed25519();
    let provider = Provider::start(&[&key]).await;
    let jwks_url = Some(format!("{}{KEYS}?tenant=a", provider.issuer()));
    // The issuer is no URL, and the documents of the provider do not name it.
    let issuer = IssuerSettings { issuer: "tenant a".to_owned(), jwks_url, ..by_discovery(&provider) };
    let rig = Rig::new(vec![issuer]);
    let mut claims = rig.claims(&provider);
    claims["iss"] = "tenant a".into();
    rig.ask(&key.sign(&claims)).await.unwrap();
    assert_eq!((provider.requests(DISCOVERY), provider.requests(KEYS)), (0, 1));
}

#[tokio::test]
async fn a_rotated_key_is_fetched_once_for_all_callers_that_need_it() {
    let (old, new) = (IssuerKey::ed25519(), IssuerKey::ed25519());
    let provider = Provider::start(&[&old]).await;
    let rig = Rig::with_keys(&provider).await;
    let before = rig.token(&provider, &old);
    rig.ask(&before).await.unwrap();

    provider.publish(&[&old, &new]);
    let tokens: Vec<_> = (0..50)
        .map(|number| {
            let mut claims = rig.claims(&provider);
            claims["sub"] = format!("user-{number}").into();
            new.sign(&claims)
        })
        .collect();
    for answer in join_all(tokens.iter().map(|token| rig.ask(token))).await {
        answer.unwrap();
    }
    assert_eq!(provider.requests(KEYS), 2);
    rig.ask(&before).await.unwrap();
}

#[tokio::test]
async fn invented_key_ids_cause_one_fetch_a_minute() {
    let key = IssuerKey::ed25519();
    let provider = Provider::start(&[&key]).await;
    let rig = Rig::with_keys(&provider).await;
    let claims = rig.claims(&provider);
    let forged = |number: usize| key.sign_as(&json!({"alg": "EdDSA", "kid": format!("invented-{number}")}), &claims);
    let flood = async |from: usize| {
        let tokens: Vec<_> = (from..from + 100).map(forged).collect();
        for answer in join_all(tokens.iter().map(|token| rig.ask(token))).await {
            assert_eq!(answer.err(), Some(Refusal::CredentialInvalid));
        }
    };
    flood(0).await;
    assert_eq!(provider.requests(KEYS), 2);
    // Neither a fetch nor a wait for one.
    for number in 100..200 {
        let token = forged(number);
        let answer = rig.ask(&token).now_or_never().expect("an invented key id waits");
        assert_eq!(answer.err(), Some(Refusal::CredentialInvalid));
    }
    rig.advance(limits::UNKNOWN_KEY_SECONDS - 1);
    flood(200).await;
    assert_eq!(provider.requests(KEYS), 2);
    rig.advance(1);
    flood(300).await;
    assert_eq!(provider.requests(KEYS), 3);
    // A known key works throughout, and one without an id that several keys match causes no more.
    rig.ask(&rig.token(&provider, &key)).await.unwrap();
}

#[tokio::test]
async fn a_cancelled_call_does_not_stop_the_fetch_that_it_caused() {
    let (old, new) = (IssuerKey::ed25519(), IssuerKey::ed25519());
    let provider = Provider::start(&[&old]).await;
    let rig = Rig::with_keys(&provider).await;
    provider.publish(&[&new]);
    let token = rig.token(&provider, &new);
    assert!(rig.ask(&token).now_or_never().is_none());
    until("the key is fetched", async || rig.ask(&token).now_or_never().is_some_and(|answer| answer.is_ok())).await;
    assert_eq!(provider.requests(KEYS), 2);
}

#[tokio::test]
async fn a_withdrawn_key_ends_with_the_next_fetch_also_for_known_tokens() {
    let (withdrawn, other) = (IssuerKey::ed25519(), IssuerKey::ed25519());
    for (cache_control, seconds) in [
        (None, limits::KEY_REFRESH_DEFAULT_SECONDS),
        (Some("max-age=120"), 120),
        (Some("public, max-age=31536000"), *limits::KEY_REFRESH_SECONDS.end()),
        (Some("no-store"), *limits::KEY_REFRESH_SECONDS.start()),
        (Some("max-age=0"), *limits::KEY_REFRESH_SECONDS.start()),
    ] {
        let provider = Provider::start(&[&withdrawn, &other]).await;
        if let Some(value) = cache_control {
            provider.cache_control(value);
        }
        let rig = Rig::with_keys(&provider).await;
        let token = rig.token(&provider, &withdrawn);
        rig.ask(&token).await.unwrap();
        provider.publish(&[&other]);

        rig.advance(seconds);
        until("the keys are fetched again", async || !rig.recognizes(&token)).await;
        assert_eq!(rig.ask(&token).await.err(), Some(Refusal::CredentialInvalid), "{cache_control:?}");
        assert_eq!(rig.auth.cached_tokens(), 0);
        rig.ask(&rig.token(&provider, &other)).await.unwrap();
    }
}

#[tokio::test]
async fn an_emptied_key_set_withdraws_every_key() {
    let key = IssuerKey::ed25519();
    let provider = Provider::start(&[&key]).await;
    let rig = Rig::with_keys(&provider).await;
    let token = rig.token(&provider, &key);
    rig.ask(&token).await.unwrap();
    provider.publish(&[]);
    rig.advance(limits::KEY_REFRESH_DEFAULT_SECONDS);
    until("the keys are fetched again", async || !rig.recognizes(&token)).await;
    assert_eq!(rig.ask(&token).await.err(), Some(Refusal::CredentialInvalid));
}

#[tokio::test]
async fn no_fetch_comes_before_its_time() {
    let key = IssuerKey::ed25519();
    let provider = Provider::start(&[&key]).await;
    provider.cache_control("max-age=5");
    let rig = Rig::with_keys(&provider).await;
    rig.advance(limits::KEY_REFRESH_SECONDS.start() - 1);
    tokio::time::sleep(NOTICED).await;
    assert_eq!(provider.requests(KEYS), 1);
    rig.advance(1);
    until("the keys are fetched", async || provider.requests(KEYS) == 2).await;
    // A clock that is set back must not stop the fetches.
    until("the fetch has ended", async || rig.statistics().age == Some(0)).await;
    rig.now.store(super::NOW - 86_400, std::sync::atomic::Ordering::Relaxed);
    until("the keys are fetched", async || provider.requests(KEYS) == 3).await;
}

#[tokio::test]
async fn the_clock_of_a_provider_may_differ_by_a_minute() {
    let key = IssuerKey::ed25519();
    let provider = Provider::start(&[&key]).await;
    let rig = Rig::with_keys(&provider).await;
    let now = rig.now();
    // Tokens of a provider whose clock is fast: they are issued now. Then of one whose clock is slow: they expire now.
    for (name, seconds, expected) in [
        ("iat", now + 60, None),
        ("nbf", now + 60, None),
        ("exp", now - 59, None),
        ("iat", now + 61, Some(Refusal::CredentialInvalid)),
        ("nbf", now + 61, Some(Refusal::CredentialInvalid)),
        ("exp", now - 60, Some(Refusal::CredentialExpired)),
    ] {
        let mut claims = rig.claims(&provider);
        claims[name] = seconds.into();
        assert_eq!(rig.ask(&key.sign(&claims)).await.err(), expected, "{name}");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_skipped_and_named_once() {
    let (good, development) = (IssuerKey::ed25519(), IssuerKey::ed25519().with_id("roster-dev-x"));
    let log = crate::harness::log::Log::watch();
    let provider = Provider::start(&[]).await;
    provider.cache_control("no-store");
    let mut encryption = IssuerKey::ed25519().with_id("encryption").public();
    encryption["use"] = "enc".into();
    let private = json!({"kty": "oct", "kid": "private", "k": "c2VjcmV0LWtleS1tYXRlcmlhbA"});
    let repeated = IssuerKey::ed25519().with_id(&good.id).public();
    provider.publish_all(vec![private, encryption, good.public(), repeated, development.public(), json!("x")]);
    let rig = Rig::with_keys(&provider).await;
    rig.ask(&rig.token(&provider, &good)).await.unwrap();
    let refusal = rig.ask(&rig.token(&provider, &development)).await.err();
    assert_eq!(refusal, Some(Refusal::CredentialInvalid));
    // The same set again causes no lines.
    let fetched = provider.requests(KEYS);
    rig.advance(*limits::KEY_REFRESH_SECONDS.start());
    until("the keys are fetched again", async || provider.requests(KEYS) > fetched).await;
    until("the fetch has ended", async || rig.statistics().age == Some(0)).await;

    let lines = log.end();
    assert_eq!(lines.matches("fetched other keys from the identity provider").count(), 1, "{lines}");
    assert!(lines.contains(&format!("kids=\"{}\"", good.id)), "{lines}");
    for (index, kid, reason) in [
        (0, "kid=\"private\"", "a private or symmetric key"),
        (1, "kid=\"encryption\"", "not for signatures"),
        (3, &*format!("kid=\"{}\"", good.id), "the same kid and algorithm"),
        (4, "kid=\"roster-dev-x\"", "a key of `roster dev`"),
        (5, "", "not a JWK"),
    ] {
        let found = lines.lines().filter(|line| {
            line.contains("a key of the issuer is not used") && line.contains(&format!("index={index}"))
        });
        let found: Vec<_> = found.collect();
        assert!(found.len() == 1 && found[0].contains(kid) && found[0].contains(reason), "{index}: {found:?}");
    }
    assert!(!lines.contains("c2VjcmV0"), "{lines}");
}
