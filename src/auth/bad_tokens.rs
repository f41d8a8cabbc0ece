//! Every way we could think of to get in with a bad token, and for which reason it fails.

use super::fault::Fault;
use super::mint::SigningKey;
use super::testing::{Bench, ISSUER, NOW, Outcome, headers};
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
const CLAIMS: &[(&str, Option<&str>, Fault)] = &[
    ("iss", None, Fault::Claims),
    ("iss", Some("7"), Fault::Claims),
    ("iss", Some(r#"["https://id.example"]"#), Fault::Claims),
    ("iss", Some(r#""https://id.example/""#), Fault::UnknownIssuer),
    ("iss", Some(r#""https://ID.example""#), Fault::UnknownIssuer),
    ("aud", None, Fault::Claims),
    ("aud", Some("null"), Fault::Claims),
    ("aud", Some("true"), Fault::Claims),
    ("aud", Some(r#"{"roster":1}"#), Fault::Claims),
    ("aud", Some(r#"["roster",7]"#), Fault::Claims),
    ("aud", Some("[]"), Fault::Audience),
    ("aud", Some(r#""roster2""#), Fault::Audience),
    ("aud", Some(r#"["Roster","roster "]"#), Fault::Audience),
    ("sub", None, Fault::Claims),
    ("sub", Some("7"), Fault::Claims),
    ("sub", Some(r#"["ada"]"#), Fault::Claims),
    ("sub", Some(r#""""#), Fault::Subject),
    ("sub", Some(r#""a\u0000b""#), Fault::Subject),
    ("exp", None, Fault::Claims),
    ("exp", Some("null"), Fault::Claims),
    ("exp", Some("true"), Fault::Claims),
    ("exp", Some("[1800003600]"), Fault::Claims),
    ("exp", Some(r#""1800003600""#), Fault::Claims),
    ("exp", Some("1e300"), Fault::Claims),
    ("exp", Some("1799999970"), Fault::Expired),
    ("exp", Some("1799999970.9"), Fault::Expired),
    ("exp", Some("0"), Fault::Expired),
    ("exp", Some("-9223372036854775808"), Fault::Expired),
    ("nbf", Some("null"), Fault::Claims),
    ("nbf", Some(r#""0""#), Fault::Claims),
    ("nbf", Some("1800000031"), Fault::NotYetValid),
    ("iat", Some(r#""0""#), Fault::Claims),
    ("iat", Some("1800000031"), Fault::IssuedInFuture),
    ("scope", Some("7"), Fault::Claims),
    ("scope", Some("null"), Fault::Claims),
    ("scope", Some(r#""openid roster:operator""#), Fault::ScopeNotGranted),
    ("scope", Some(r#"["roster:check","roster:manage"]"#), Fault::ScopeNotGranted),
    ("scope", Some(r#"["openid roster:operator"]"#), Fault::ScopeNotGranted),
    ("scope", Some(r#""roster:check roster:everything""#), Fault::UnknownScope),
    ("scope", Some(r#""roster:""#), Fault::UnknownScope),
    ("scope", Some(r#""roster:check,roster:check""#), Fault::UnknownScope),
    // The name of a claim that is there already: the same claim twice.
    ("x\":1,\"sub", Some(r#""root""#), Fault::Claims),
    ("x\":1,\"exp", Some("9000000000"), Fault::Claims),
    ("x\":1,\"email", Some(r#""root@x.example""#), Fault::Claims),
];

/// Headers that a good key has signed with good claims. `KID` stands for its id.
const HEADERS: &[(&str, Fault)] = &[
    (r#"{"alg":"none","kid":"KID"}"#, Fault::UnknownAlgorithm),
    (r#"{"alg":"NONE"}"#, Fault::UnknownAlgorithm),
    (r#"{"alg":"eddsa","kid":"KID"}"#, Fault::UnknownAlgorithm),
    (r#"{"alg":"","kid":"KID"}"#, Fault::UnknownAlgorithm),
    (r#"{"kid":"KID"}"#, Fault::Header),
    (r#"{"alg":["EdDSA"],"kid":"KID"}"#, Fault::Header),
    (r#"{"alg":"none","alg":"EdDSA","kid":"KID"}"#, Fault::Header),
    (r#"{"alg":"EdDSA","kid":null}"#, Fault::Header),
    (r#"{"alg":"ES256","kid":"KID"}"#, Fault::WrongAlgorithm),
    (r#"{"alg":"HS256","kid":"KID"}"#, Fault::WrongAlgorithm),
    (r#"{"alg":"RS256"}"#, Fault::UnknownKey),
    (r#"{"alg":"EdDSA","kid":"another"}"#, Fault::UnknownKey),
    (r#"{"alg":"EdDSA","kid":""}"#, Fault::UnknownKey),
    (r#"{"alg":"EdDSA","kid":"KID","crit":["exp"]}"#, Fault::Critical),
    (r#"{"alg":"EdDSA","kid":"KID","crit":null}"#, Fault::Critical),
    (r#"["EdDSA","KID"]"#, Fault::NotAToken),
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
fn forged(key: &SigningKey) -> Result<Vec<(String, Fault)>, Box<dyn std::error::Error>> {
    let (header, good, stranger) = (good_header(key), good_token(key), SigningKey::generate());
    let (message, signature) = good.rsplit_once('.').ok_or("no signature")?;
    let (_, payload) = message.split_once('.').ok_or("no payload")?;
    let embedded = format!(r#"{{"alg":"EdDSA","kid":"{}","jwk":{}}}"#, key.id(), stranger.public_jwks()["keys"][0]);
    let mut bytes = URL_SAFE_NO_PAD.decode(signature)?;
    bytes[9] ^= 1;
    let flipped = URL_SAFE_NO_PAD.encode(&bytes);

    let mut tokens = vec![
        (stranger.sign(&header, &json(&good_claims())), Fault::Signature),
        (stranger.sign(&embedded, &json(&good_claims())), Fault::Signature),
        (stranger.sign(r#"{"alg":"EdDSA"}"#, &json(&good_claims())), Fault::Signature),
        (good_token(&stranger), Fault::UnknownKey),
        (format!("{message}.{flipped}"), Fault::Signature),
        (format!("{message}.{}", &signature[..80]), Fault::Signature),
        (format!("{message}.{signature}="), Fault::Signature),
        (format!("{message}."), Fault::Signature),
        (message.to_owned(), Fault::NotAToken),
        (format!("{good}.{signature}"), Fault::NotAToken),
        (format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#)), Fault::UnknownAlgorithm),
        (key.sign(&header, r#"["https://id.example","roster","ada",1800003600]"#), Fault::NotAToken),
        (key.sign(&header, "{}"), Fault::Claims),
        (key.sign(&header, "null"), Fault::NotAToken),
        (key.sign(&header, ""), Fault::NotAToken),
        ("x".to_owned(), Fault::NotAToken),
        ("roster_".to_owned(), Fault::UnknownApiKey),
        (super::api_keys::generate().secret.expose().to_owned(), Fault::UnknownApiKey),
    ];
    // The public key, which everybody has, as if it were a shared secret: its bytes, their text, its PEM.
    let jwks = key.public_jwks();
    let public = jwks["keys"][0]["x"].as_str().ok_or("no public key")?;
    for secret in
        [URL_SAFE_NO_PAD.decode(public)?, public.into(), key.public_pem().into(), key.public_pem().trim().into()]
    {
        for (kid, fault) in [(Some(key.id()), Fault::WrongAlgorithm), (None, Fault::UnknownKey)] {
            let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
            header.kid = kid;
            let claims: serde_json::Value = serde_json::from_str(&json(&good_claims()))?;
            let secret = jsonwebtoken::EncodingKey::from_secret(&secret);
            tokens.push((jsonwebtoken::encode(&header, &claims, &secret)?, fault));
        }
    }
    for (size, fault) in [(300, Fault::Subject), (9000, Fault::TooLong)] {
        let mut claims = good_claims();
        claims.insert("sub", format!("\"{}\"", "s".repeat(size)));
        tokens.push((key.sign(&header, &json(&claims)), fault));
    }
    Ok(tokens)
}

/// Requests that are refused, each with its reason.
fn bad_requests(key: &SigningKey) -> Result<Vec<(HeaderMap, Fault)>, Box<dyn std::error::Error>> {
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
        ("Bearer ".to_owned(), Fault::NotBearer),
        ("Bearer".to_owned(), Fault::NotBearer),
        (String::new(), Fault::NotBearer),
        (good.clone(), Fault::NotBearer),
        (format!("Basic {}", STANDARD.encode("ada:secret")), Fault::NotBearer),
        (format!("Basic {good}"), Fault::NotBearer),
        (format!("Bearer\t{good}"), Fault::NotBearer),
        (format!("Bearer {good} "), Fault::Signature),
        (format!("Bearer {good}, Bearer {good}"), Fault::NotAToken),
    ] {
        requests.push((headers(&authorization, &[])?, fault));
    }
    let bearer = format!("Bearer {good}");
    requests.push((headers(&bearer, &[("authorization", &bearer)])?, Fault::Repeated));
    let mut binary = HeaderMap::new();
    binary.insert("authorization", http::HeaderValue::from_bytes(b"Bearer \xc3\xa9")?);
    requests.push((binary, Fault::NotBearer));
    Ok(requests)
}

#[tokio::test]
async fn a_bad_token_is_refused_for_its_reason_and_not_remembered() -> Outcome {
    let bench = Bench::new(&[Scope::Check])?;
    for (headers, fault) in bad_requests(&bench.key)? {
        let expected = if fault == Fault::Expired { Refusal::CredentialExpired } else { Refusal::CredentialInvalid };
        // Twice: having been refused must not make a difference.
        for _ in 0..2 {
            assert_eq!(bench.auth.recognize(&headers).await.err().map(|why| why.fault), Some(fault), "{headers:?}");
            assert_eq!(bench.auth.authenticate(&headers).await.err().as_ref(), Some(&expected), "{headers:?}");
        }
    }
    assert_eq!(bench.auth.remembered(), 0);
    // What all of these were made of is good.
    bench.auth.authenticate(&headers(&format!("Bearer {}", good_token(&bench.key)), &[])?).await?;
    assert_eq!(bench.auth.remembered(), 1);
    Ok(())
}

/// A log that a test can read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_says_why_and_never_who() -> Outcome {
    let bench = Bench::new(&[Scope::Check])?;
    let mut requests: Vec<_> = bad_requests(&bench.key)?.into_iter().map(|(headers, _)| headers).collect();
    requests.push(headers(&format!("Bearer {}", good_token(&bench.key)), &[])?);

    // While there is but one subscriber, tracing takes that of the thread that reaches a log statement first, and the
    // threads of other tests have none: the statement would be off for good. So there are two.
    let _other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let log = Log::default();
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
    assert!(log.contains(&Fault::Signature.to_string()) && log.contains(ISSUER), "{log}");
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret}");
    }
    Ok(())
}
