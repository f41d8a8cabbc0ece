//! Answers of a provider, or of the network before it, that must not be used.

use super::Rig;
use super::issuer_keys::IssuerKey;
use super::provider::{Behaviour, DISCOVERY, KEYS, Provider};
use crate::replica::until;
use roster::authn::limits;
use roster::domain::Refusal;
use serde_json::json;

#[tokio::test]
async fn an_answer_that_is_no_key_set_leaves_the_keys_unchanged() {
    let (key, foreign) = (IssuerKey::ed25519(), IssuerKey::ed25519());
    let provider = Provider::start(&[&key]).await;
    let rig = Rig::with_keys(&provider).await;
    let token = rig.token(&provider, &key);
    let forged = foreign.sign(&rig.claims(&provider));
    let issuer = provider.issuer();
    let with_head = |head: &str| Behaviour::Bytes(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{{}}"));
    let discovery = |issuer: &str, keys: &str| {
        Behaviour::Document(json!({"issuer": issuer, "jwks_uri": keys, "keys": [foreign.public()]}).to_string())
    };
    let large = json!({"keys": [foreign.public()], "issuer": issuer, "jwks_uri": format!("{issuer}{KEYS}"),
        "padding": "x".repeat(limits::KEY_FILE_BYTES)});
    let keys_url = format!("{issuer}{KEYS}");
    // Another service, whose documents would be accepted if a redirect led to it.
    let elsewhere = Provider::start(&[]).await;
    elsewhere.behave(discovery(&issuer, &keys_url));
    for (name, behaviour) in [
        ("closed", Behaviour::Close),
        ("endless", Behaviour::Endless),
        ("no HTTP", Behaviour::Bytes("SSH-2.0-OpenSSH_9\r\n".to_owned())),
        ("500", Behaviour::Bytes("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\n{}".to_owned())),
        ("204", Behaviour::Bytes("HTTP/1.1 204 No Content\r\n\r\n".to_owned())),
        ("large head", with_head(&format!("a: {}", "x".repeat(1 << 20)))),
        ("cut", with_head("content-length: 100")),
        ("large", Behaviour::Document(large.to_string())),
        ("HTML", Behaviour::Document("<html>sign in to the network</html>".to_owned())),
        ("keys that are no list", Behaviour::Document(r#"{"keys":{}}"#.to_owned())),
        ("another issuer", discovery("https://id.example", &keys_url)),
        ("the issuer with a slash", discovery(&format!("{issuer}/"), &keys_url)),
        ("the issuer in capitals", discovery(&issuer.to_uppercase(), &keys_url)),
        ("keys in plaintext", discovery(&issuer, "http://id.example/keys")),
        ("keys in a file", discovery(&issuer, "file:///etc/passwd")),
        ("keys nowhere", discovery(&issuer, "")),
        ("redirect to another port", Behaviour::Redirect(format!("{}/keys", elsewhere.issuer()))),
        ("redirect to another host", Behaviour::Redirect(elsewhere.issuer().replace("127.0.0.1", "localhost"))),
        ("redirect to another scheme", Behaviour::Redirect(issuer.replace("http:", "https:"))),
        ("redirect in a circle", Behaviour::Redirect("/keys".to_owned())),
        ("many redirects", Behaviour::Hops(limits::KEY_REDIRECTS + 1)),
    ] {
        let failed = rig.statistics().failed_fetches;
        provider.behave(behaviour);
        rig.advance(limits::KEY_REFRESH_DEFAULT_SECONDS);
        until("the fetch fails", async || rig.statistics().failed_fetches > failed).await;
        assert_eq!(rig.ask(&forged).await.err(), Some(Refusal::CredentialInvalid), "{name}");
        rig.ask(&token).await.unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        // The age says how long this has lasted.
        assert!(rig.statistics().age.unwrap() >= limits::KEY_REFRESH_DEFAULT_SECONDS, "{name}");
    }
    provider.behave(Behaviour::Answer);
    rig.advance(limits::KEY_REFRESH_DEFAULT_SECONDS);
    until("the fetch succeeds", async || rig.statistics().age == Some(0)).await;
}

#[tokio::test]
async fn redirects_within_the_provider_are_followed() {
    let key = IssuerKey::ed25519();
    let provider = Provider::start(&[&key]).await;
    provider.behave(Behaviour::Hops(limits::KEY_REDIRECTS));
    let rig = Rig::of(&provider);
    rig.ask(&rig.token(&provider, &key)).await.unwrap();
    let each = limits::KEY_REDIRECTS + 1;
    assert_eq!((provider.requests(DISCOVERY), provider.requests(KEYS)), (each, each));
}

#[tokio::test]
async fn a_discovery_document_of_another_issuer_gives_no_keys() {
    let key = IssuerKey::ed25519();
    let provider = Provider::start(&[&key]).await;
    provider.claim_issuer("https://id.example");
    let rig = Rig::of(&provider);
    assert_eq!(rig.ask(&rig.token(&provider, &key)).await.err(), Some(Refusal::KeysUnavailable));
    assert_eq!(provider.requests(KEYS), 0);
}

#[tokio::test]
async fn the_keys_of_one_issuer_verify_no_token_of_another() {
    let (one, other) = (IssuerKey::ed25519().with_id("same"), IssuerKey::ed25519().with_id("same"));
    let (first, second) = (Provider::start(&[&one]).await, Provider::start(&[&other]).await);
    let mut issuers = vec![super::by_discovery(&first), super::by_discovery(&second)];
    issuers[1].user_id_prefix = "second|".to_owned();
    let rig = Rig::new(issuers);
    rig.ask(&rig.token(&first, &one)).await.unwrap();
    rig.ask(&rig.token(&second, &other)).await.unwrap();
    for (provider, key) in [(&first, &other), (&second, &one)] {
        assert_eq!(rig.ask(&rig.token(provider, key)).await.err(), Some(Refusal::CredentialInvalid));
    }
}
