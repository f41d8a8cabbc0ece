//! Every way we could think of to get in with a bad token, and for which reason it fails.

use super::credential_error::CredentialError;
use super::mint::SigningKey;
use super::testing::{AuthFixture, ISSUER, NOW, Outcome, headers};
use crate::domain::{Refusal, Scope};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderMap;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

const SUBJECT: &str = "ada-of-the-tests";
const ADDRESS: &str = "ada@private.example";

/// One claim of a good token written otherwise (as JSON), or left out.
const CLAIMS: &[(&str, Option<&str>, CredentialError)] = &[
    ("iss", None, CredentialError::Claims),
    ("iss", Some("7"), CredentialError::Claims),
    ("iss", Some(r#"["https://id.example"]"#), CredentialError::Claims),
    ("iss", Some(r#""https://id.example/""#), CredentialError::UnknownIssuer),
    ("iss", Some(r#""https://ID.example""#), CredentialError::UnknownIssuer),
    ("aud", None, CredentialError::Claims),
    ("aud", Some("null"), CredentialError::Claims),
    ("aud", Some("true"), CredentialError::Claims),
    ("aud", Some(r#"{"roster":1}"#), CredentialError::Claims),
    ("aud", Some(r#"["roster",7]"#), CredentialError::Claims),
    ("aud", Some("[]"), CredentialError::Audience),
    ("aud", Some(r#""roster2""#), CredentialError::Audience),
    ("aud", Some(r#"["Roster","roster "]"#), CredentialError::Audience),
    ("sub", None, CredentialError::Claims),
    ("sub", Some("7"), CredentialError::Claims),
    ("sub", Some(r#"["ada"]"#), CredentialError::Claims),
    ("sub", Some(r#""""#), CredentialError::Subject),
    ("sub", Some(r#""a\u0000b""#), CredentialError::Subject),
    ("exp", None, CredentialError::Claims),
    ("exp", Some("null"), CredentialError::Claims),
    ("exp", Some("true"), CredentialError::Claims),
    ("exp", Some("[1800003600]"), CredentialError::Claims),
    ("exp", Some(r#""1800003600""#), CredentialError::Claims),
    ("exp", Some("1e300"), CredentialError::Claims),
    ("exp", Some("1799999970"), CredentialError::Expired),
    ("exp", Some("1799999970.9"), CredentialError::Expired),
    ("exp", Some("0"), CredentialError::Expired),
    ("exp", Some("-9223372036854775808"), CredentialError::Expired),
    ("nbf", Some("null"), CredentialError::Claims),
    ("nbf", Some(r#""0""#), CredentialError::Claims),
    ("nbf", Some("1800000031"), CredentialError::NotYetValid),
    ("iat", Some(r#""0""#), CredentialError::Claims),
    ("iat", Some("1800000031"), CredentialError::IssuedInFuture),
    ("scope", Some("7"), CredentialError::Claims),
    ("scope", Some("null"), CredentialError::Claims),
    ("scope", Some(r#""openid roster:operator""#), CredentialError::ScopeNotGranted),
    ("scope", Some(r#"["roster:check","roster:manage"]"#), CredentialError::ScopeNotGranted),
    ("scope", Some(r#"["openid roster:operator"]"#), CredentialError::ScopeNotGranted),
    ("scope", Some(r#""roster:check roster:everything""#), CredentialError::UnknownScope),
    ("scope", Some(r#""roster:""#), CredentialError::UnknownScope),
    ("scope", Some(r#""roster:check,roster:check""#), CredentialError::UnknownScope),
    // The name of a claim that is there already: the same claim twice.
    ("x\":1,\"sub", Some(r#""root""#), CredentialError::Claims),
    ("x\":1,\"exp", Some("9000000000"), CredentialError::Claims),
    ("x\":1,\"email", Some(r#""root@x.example""#), CredentialError::Claims),
];

/// Headers that a good key has signed with good claims. `KID` stands for its id.
const HEADERS: &[(&str, CredentialError)] = &[
    (r#"{"alg":"none","kid":"KID"}"#, CredentialError::UnknownAlgorithm),
    (r#"{"alg":"NONE"}"#, CredentialError::UnknownAlgorithm),
    (r#"{"alg":"eddsa","kid":"KID"}"#, CredentialError::UnknownAlgorithm),
    (r#"{"alg":"","kid":"KID"}"#, CredentialError::UnknownAlgorithm),
    (r#"{"kid":"KID"}"#, CredentialError::Header),
    (r#"{"alg":["EdDSA"],"kid":"KID"}"#, CredentialError::Header),
    (r#"{"alg":"none","alg":"EdDSA","kid":"KID"}"#, CredentialError::Header),
    (r#"{"alg":"EdDSA","kid":null}"#, CredentialError::Header),
    (r#"{"alg":"ES256","kid":"KID"}"#, CredentialError::WrongAlgorithm),
    (r#"{"alg":"HS256","kid":"KID"}"#, CredentialError::WrongAlgorithm),
    (r#"{"alg":"RS256"}"#, CredentialError::UnknownKey),
    (r#"{"alg":"EdDSA","kid":"another"}"#, CredentialError::UnknownKey),
    (r#"{"alg":"EdDSA","kid":""}"#, CredentialError::UnknownKey),
    (r#"{"alg":"EdDSA","kid":"KID","crit":["exp"]}"#, CredentialError::Critical),
    (r#"{"alg":"EdDSA","kid":"KID","crit":null}"#, CredentialError::Critical),
    (r#"["EdDSA","KID"]"#, CredentialError::NotAToken),
];

fn good_claims() -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("iss", format!("\"{ISSUER}\"")),
        ("aud", r#"["other","roster"]"#.to_owned()),
        ("sub", format!("\"{SUBJECT}\"")),
        ("exp", (NOW + 60).to_string()),
        ("email", format!("\"{ADDRESS}\"")),
    ])
}

fn json(claims: &BTreeMap<&str, String>) -> String {
    let members: Vec<_> = claims.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

fn good_header(key: &SigningKey) -> String {
    format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, key.id())
}

fn good_token(key: &SigningKey) -> String {
    key.sign(&good_header(key), &json(&good_claims()))
}

/// Tokens that are bad in more than one claim or header.
fn forged(key: &SigningKey) -> Result<Vec<(String, CredentialError)>, Box<dyn std::error::Error>> {
    let (header, good, stranger) = (good_header(key), good_token(key), SigningKey::generate());
    let (message, signature) = good.rsplit_once('.').ok_or("no signature")?;
    let (_, payload) = message.split_once('.').ok_or("no payload")?;
    let embedded = format!(r#"{{"alg":"EdDSA","kid":"{}","jwk":{}}}"#, key.id(), stranger.public_jwks()["keys"][0]);
    let mut bytes = URL_SAFE_NO_PAD.decode(signature)?;
    bytes[9] ^= 1;
    let flipped = URL_SAFE_NO_PAD.encode(&bytes);

    let mut tokens = vec![
        (stranger.sign(&header, &json(&good_claims())), CredentialError::Signature),
        (stranger.sign(&embedded, &json(&good_claims())), CredentialError::Signature),
        (stranger.sign(r#"{"alg":"EdDSA"}"#, &json(&good_claims())), CredentialError::Signature),
        (good_token(&stranger), CredentialError::UnknownKey),
        (format!("{message}.{flipped}"), CredentialError::Signature),
        (format!("{message}.{}", &signature[..80]), CredentialError::Signature),
        (format!("{message}.{signature}="), CredentialError::Signature),
        (format!("{message}."), CredentialError::Signature),
        (message.to_owned(), CredentialError::NotAToken),
        (format!("{good}.{signature}"), CredentialError::NotAToken),
        (format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#)), CredentialError::UnknownAlgorithm),
        (key.sign(&header, r#"["https://id.example","roster","ada",1800003600]"#), CredentialError::NotAToken),
        (key.sign(&header, "{}"), CredentialError::Claims),
        (key.sign(&header, "null"), CredentialError::NotAToken),
        (key.sign(&header, ""), CredentialError::NotAToken),
        ("x".to_owned(), CredentialError::NotAToken),
        ("roster_".to_owned(), CredentialError::UnknownApiKey),
        (super::api_keys::generate().secret.expose().to_owned(), CredentialError::UnknownApiKey),
    ];
    // The public key, which everybody has, as if it were a shared secret: its bytes, their text, its PEM.
    let jwks = key.public_jwks();
    let public = jwks["keys"][0]["x"].as_str().ok_or("no public key")?;
    for secret in
        [URL_SAFE_NO_PAD.decode(public)?, public.into(), key.public_pem().into(), key.public_pem().trim().into()]
    {
        for (kid, fault) in [(Some(key.id()), CredentialError::WrongAlgorithm), (None, CredentialError::UnknownKey)] {
            let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
            header.kid = kid;
            let claims: serde_json::Value = serde_json::from_str(&json(&good_claims()))?;
            let secret = jsonwebtoken::EncodingKey::from_secret(&secret);
            tokens.push((jsonwebtoken::encode(&header, &claims, &secret)?, fault));
        }
    }
    for (size, fault) in [(300, CredentialError::Subject), (9000, CredentialError::TooLong)] {
        let mut claims = good_claims();
        claims.insert("sub", format!("\"{}\"", "s".repeat(size)));
        tokens.push((key.sign(&header, &json(&claims)), fault));
    }
    Ok(tokens)
}

/// Requests that are refused, each with its reason.
fn bad_requests(key: &SigningKey) -> Result<Vec<(HeaderMap, CredentialError)>, Box<dyn std::error::Error>> {
    let good = good_token(key);
    let mut tokens = forged(key)?;
    for (name, value, fault) in CLAIMS {
        let mut claims = good_claims();
        match value {
            Some(value) => claims.insert(name, (*value).to_owned()),
            None => claims.remove(name),
        };
        tokens.push((key.sign(&good_header(key), &json(&claims)), *fault));
    }
    for (header, fault) in HEADERS {
        tokens.push((key.sign(&header.replace("KID", &key.id()), &json(&good_claims())), *fault));
    }
    let mut requests = Vec::new();
    for (token, fault) in tokens {
        requests.push((headers(&format!("Bearer {token}"), &[])?, fault));
    }
    for (authorization, fault) in [
        ("Bearer ".to_owned(), CredentialError::NotBearer),
        ("Bearer".to_owned(), CredentialError::NotBearer),
        (String::new(), CredentialError::NotBearer),
        (good.clone(), CredentialError::NotBearer),
        (format!("Basic {}", STANDARD.encode("ada:secret")), CredentialError::NotBearer),
        (format!("Basic {good}"), CredentialError::NotBearer),
        (format!("Bearer\t{good}"), CredentialError::NotBearer),
        (format!("Bearer {good} "), CredentialError::Signature),
        (format!("Bearer {good}, Bearer {good}"), CredentialError::NotAToken),
    ] {
        requests.push((headers(&authorization, &[])?, fault));
    }
    let bearer = format!("Bearer {good}");
    requests.push((headers(&bearer, &[("authorization", &bearer)])?, CredentialError::Repeated));
    let mut binary = HeaderMap::new();
    binary.insert("authorization", http::HeaderValue::from_bytes(b"Bearer \xc3\xa9")?);
    requests.push((binary, CredentialError::NotBearer));
    Ok(requests)
}

#[tokio::test]
async fn a_bad_token_is_refused_for_its_reason_and_not_remembered() -> Outcome {
    let bench = AuthFixture::new(&[Scope::Check])?;
    for (headers, fault) in bad_requests(&bench.key)? {
        let expected =
            if fault == CredentialError::Expired { Refusal::CredentialExpired } else { Refusal::CredentialInvalid };
        // Twice: having been refused must not make a difference.
        for _ in 0..2 {
            assert_eq!(bench.auth.recognize(&headers).await.err().map(|why| why.fault), Some(fault), "{headers:?}");
            assert_eq!(bench.auth.authenticate(&headers).await.err().as_ref(), Some(&expected), "{headers:?}");
        }
    }
    assert_eq!(bench.auth.cached_tokens(), 0);
    // What all of these were made of is good.
    bench.auth.authenticate(&headers(&format!("Bearer {}", good_token(&bench.key)), &[])?).await?;
    assert_eq!(bench.auth.cached_tokens(), 1);
    Ok(())
}

/// A log that a test can read.
#[derive(Clone, Default)]
struct TestLog(Arc<Mutex<Vec<u8>>>);

impl Write for TestLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_says_why_and_never_who() -> Outcome {
    let bench = AuthFixture::new(&[Scope::Check])?;
    let mut requests: Vec<_> = bad_requests(&bench.key)?.into_iter().map(|(headers, _)| headers).collect();
    requests.push(headers(&format!("Bearer {}", good_token(&bench.key)), &[])?);

    // While there is but one subscriber, tracing takes that of the thread that reaches a log statement first, and the
    // threads of other tests have none: the statement would be off for good. So there are two.
    let _other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let log = TestLog::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut secrets = vec![SUBJECT.to_owned(), ADDRESS.to_owned()];
    for headers in &requests {
        let _ = bench.auth.authenticate(headers).await;
        for value in headers.values() {
            let text = String::from_utf8_lossy(value.as_bytes());
            secrets.extend(text.split(['.', ' ']).filter(|part| part.len() > 16).map(str::to_owned));
        }
    }

    let log = String::from_utf8(log.0.lock().unwrap_or_else(PoisonError::into_inner).clone())?;
    assert_eq!(log.lines().filter(|line| line.contains("credential refused")).count(), requests.len() - 1);
    assert!(log.contains(&CredentialError::Signature.to_string()) && log.contains(ISSUER), "{log}");
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret}");
    }
    Ok(())
}
