//! Invalid tokens of every known kind, each with the reason of its rejection.

use super::credential_error::CredentialError;
use super::mint::SigningKey;
use super::testing::{AuthFixture, ISSUER, NOW, Outcome, PEER, headers, peer};
use crate::domain::{Refusal, Scope};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderMap;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

const SUBJECT: &str = "ada-of-the-tests";
const ADDRESS: &str = "ada@private.example";

/// Valid tokens with one claim replaced (by this JSON) or removed.
const CLAIMS: &[(&str, Option<&str>, CredentialError)] = &[
    ("iss", None, CredentialError::InvalidClaims),
    ("iss", Some("7"), CredentialError::InvalidClaims),
    ("iss", Some(r#"["https://id.example"]"#), CredentialError::InvalidClaims),
    ("iss", Some(r#""https://id.example/""#), CredentialError::UnknownIssuer),
    ("iss", Some(r#""https://ID.example""#), CredentialError::UnknownIssuer),
    ("aud", None, CredentialError::InvalidClaims),
    ("aud", Some("null"), CredentialError::InvalidClaims),
    ("aud", Some("true"), CredentialError::InvalidClaims),
    ("aud", Some(r#"{"roster":1}"#), CredentialError::InvalidClaims),
    ("aud", Some(r#"["roster",7]"#), CredentialError::InvalidClaims),
    ("aud", Some("[]"), CredentialError::WrongAudience),
    ("aud", Some(r#""roster2""#), CredentialError::WrongAudience),
    ("aud", Some(r#"["Roster","roster "]"#), CredentialError::WrongAudience),
    ("sub", None, CredentialError::InvalidClaims),
    ("sub", Some("7"), CredentialError::InvalidClaims),
    ("sub", Some(r#"["ada"]"#), CredentialError::InvalidClaims),
    ("sub", Some(r#""""#), CredentialError::InvalidSubject),
    ("sub", Some(r#""a\u0000b""#), CredentialError::InvalidSubject),
    ("exp", None, CredentialError::InvalidClaims),
    ("exp", Some("null"), CredentialError::InvalidClaims),
    ("exp", Some("true"), CredentialError::InvalidClaims),
    ("exp", Some("[1800003600]"), CredentialError::InvalidClaims),
    ("exp", Some(r#""1800003600""#), CredentialError::InvalidClaims),
    ("exp", Some("1e300"), CredentialError::InvalidClaims),
    ("exp", Some("1799999940"), CredentialError::Expired),
    ("exp", Some("1799999940.9"), CredentialError::Expired),
    ("exp", Some("0"), CredentialError::Expired),
    ("exp", Some("-9223372036854775808"), CredentialError::Expired),
    ("nbf", Some("null"), CredentialError::InvalidClaims),
    ("nbf", Some(r#""0""#), CredentialError::InvalidClaims),
    ("nbf", Some("1800000061"), CredentialError::NotYetValid),
    ("iat", Some(r#""0""#), CredentialError::InvalidClaims),
    ("iat", Some("1800000061"), CredentialError::IssuedInFuture),
    ("scope", Some("7"), CredentialError::InvalidClaims),
    ("scope", Some("null"), CredentialError::InvalidClaims),
    ("scope", Some(r#""openid roster:operator""#), CredentialError::ScopeNotGranted),
    ("scope", Some(r#"["roster:check","roster:manage"]"#), CredentialError::ScopeNotGranted),
    ("scope", Some(r#"["openid roster:operator"]"#), CredentialError::ScopeNotGranted),
    ("scope", Some(r#""roster:check roster:everything""#), CredentialError::UnknownScope),
    ("scope", Some(r#""roster:""#), CredentialError::UnknownScope),
    ("scope", Some(r#""roster:check,roster:check""#), CredentialError::UnknownScope),
    // The name contains a second claim, so the token has that claim twice.
    ("x\":1,\"sub", Some(r#""root""#), CredentialError::InvalidClaims),
    ("x\":1,\"exp", Some("9000000000"), CredentialError::InvalidClaims),
    ("x\":1,\"email", Some(r#""root@x.example""#), CredentialError::InvalidClaims),
];

/// Token headers, signed with valid claims by a valid key. `KID` stands for the id of the key.
const HEADERS: &[(&str, CredentialError)] = &[
    (r#"{"alg":"none","kid":"KID"}"#, CredentialError::UnsupportedAlgorithm),
    (r#"{"alg":"NONE"}"#, CredentialError::UnsupportedAlgorithm),
    (r#"{"alg":"eddsa","kid":"KID"}"#, CredentialError::UnsupportedAlgorithm),
    (r#"{"alg":"","kid":"KID"}"#, CredentialError::UnsupportedAlgorithm),
    (r#"{"kid":"KID"}"#, CredentialError::InvalidHeader),
    (r#"{"alg":["EdDSA"],"kid":"KID"}"#, CredentialError::InvalidHeader),
    (r#"{"alg":"none","alg":"EdDSA","kid":"KID"}"#, CredentialError::InvalidHeader),
    (r#"{"alg":"EdDSA","kid":null}"#, CredentialError::InvalidHeader),
    (r#"{"alg":"ES256","kid":"KID"}"#, CredentialError::AlgorithmMismatch),
    (r#"{"alg":"HS256","kid":"KID"}"#, CredentialError::AlgorithmMismatch),
    (r#"{"alg":"RS256"}"#, CredentialError::UnknownKey),
    (r#"{"alg":"EdDSA","kid":"another"}"#, CredentialError::UnknownKey),
    (r#"{"alg":"EdDSA","kid":""}"#, CredentialError::UnknownKey),
    (r#"{"alg":"EdDSA","kid":"KID","crit":["exp"]}"#, CredentialError::CriticalExtension),
    (r#"{"alg":"EdDSA","kid":"KID","crit":null}"#, CredentialError::CriticalExtension),
    (r#"["EdDSA","KID"]"#, CredentialError::MalformedToken),
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

/// Returns tokens that differ from a valid one in more than one claim or header parameter.
fn forged_tokens(key: &SigningKey) -> Result<Vec<(String, CredentialError)>, Box<dyn std::error::Error>> {
    let (header, good, other_key) = (good_header(key), good_token(key), SigningKey::generate());
    let (message, signature) = good.rsplit_once('.').ok_or("no signature")?;
    let (_, payload) = message.split_once('.').ok_or("no payload")?;
    let embedded = format!(r#"{{"alg":"EdDSA","kid":"{}","jwk":{}}}"#, key.id(), other_key.public_jwks()["keys"][0]);
    let mut bytes = URL_SAFE_NO_PAD.decode(signature)?;
    bytes[9] ^= 1;
    let flipped = URL_SAFE_NO_PAD.encode(&bytes);

    let mut tokens = vec![
        (other_key.sign(&header, &json(&good_claims())), CredentialError::InvalidSignature),
        (other_key.sign(&embedded, &json(&good_claims())), CredentialError::InvalidSignature),
        (other_key.sign(r#"{"alg":"EdDSA"}"#, &json(&good_claims())), CredentialError::InvalidSignature),
        (good_token(&other_key), CredentialError::UnknownKey),
        (format!("{message}.{flipped}"), CredentialError::InvalidSignature),
        (format!("{message}.{}", &signature[..80]), CredentialError::InvalidSignature),
        (format!("{message}.{signature}="), CredentialError::InvalidSignature),
        (format!("{message}."), CredentialError::InvalidSignature),
        (message.to_owned(), CredentialError::MalformedToken),
        (format!("{good}.{signature}"), CredentialError::MalformedToken),
        (format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#)), CredentialError::UnsupportedAlgorithm),
        (key.sign(&header, r#"["https://id.example","roster","ada",1800003600]"#), CredentialError::MalformedToken),
        (key.sign(&header, "{}"), CredentialError::InvalidClaims),
        (key.sign(&header, "null"), CredentialError::MalformedToken),
        (key.sign(&header, ""), CredentialError::MalformedToken),
        ("x".to_owned(), CredentialError::MalformedToken),
        ("roster_".to_owned(), CredentialError::UnknownApiKey),
        (super::api_keys::generate().secret.expose().to_owned(), CredentialError::UnknownApiKey),
    ];
    // The public key, which is not secret, used as a shared secret: its bytes, their text, its PEM.
    let jwks = key.public_jwks();
    let public = jwks["keys"][0]["x"].as_str().ok_or("no public key")?;
    for secret in
        [URL_SAFE_NO_PAD.decode(public)?, public.into(), key.public_pem().into(), key.public_pem().trim().into()]
    {
        for (kid, error) in [(Some(key.id()), CredentialError::AlgorithmMismatch), (None, CredentialError::UnknownKey)]
        {
            let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
            header.kid = kid;
            let claims: serde_json::Value = serde_json::from_str(&json(&good_claims()))?;
            let secret = jsonwebtoken::EncodingKey::from_secret(&secret)?;
            tokens.push((jsonwebtoken::encode(&header, &claims, &secret)?, error));
        }
    }
    for (size, error) in [(300, CredentialError::InvalidSubject), (25_000, CredentialError::TooLong)] {
        let mut claims = good_claims();
        claims.insert("sub", format!("\"{}\"", "s".repeat(size)));
        tokens.push((key.sign(&header, &json(&claims)), error));
    }
    Ok(tokens)
}

/// Returns rejected requests, each with its reason.
fn bad_requests(key: &SigningKey) -> Result<Vec<(HeaderMap, CredentialError)>, Box<dyn std::error::Error>> {
    let good = good_token(key);
    let mut tokens = forged_tokens(key)?;
    for (name, value, error) in CLAIMS {
        let mut claims = good_claims();
        match value {
            Some(value) => claims.insert(name, (*value).to_owned()),
            None => claims.remove(name),
        };
        tokens.push((key.sign(&good_header(key), &json(&claims)), *error));
    }
    for (header, error) in HEADERS {
        tokens.push((key.sign(&header.replace("KID", &key.id()), &json(&good_claims())), *error));
    }
    let mut requests = Vec::new();
    for (token, error) in tokens {
        requests.push((headers(&format!("Bearer {token}"), &[])?, error));
    }
    for (authorization, error) in [
        ("Bearer ".to_owned(), CredentialError::NotBearer),
        ("Bearer".to_owned(), CredentialError::NotBearer),
        (String::new(), CredentialError::NotBearer),
        (good.clone(), CredentialError::NotBearer),
        (format!("Basic {}", STANDARD.encode("ada:secret")), CredentialError::NotBearer),
        (format!("Basic {good}"), CredentialError::NotBearer),
        (format!("Bearer\t{good}"), CredentialError::NotBearer),
        (format!("Bearer {good} "), CredentialError::InvalidSignature),
        (format!("Bearer {good}, Bearer {good}"), CredentialError::MalformedToken),
    ] {
        requests.push((headers(&authorization, &[])?, error));
    }
    let bearer = format!("Bearer {good}");
    requests.push((headers(&bearer, &[("authorization", &bearer)])?, CredentialError::DuplicateHeader));
    let mut binary = HeaderMap::new();
    binary.insert("authorization", http::HeaderValue::from_bytes(b"Bearer \xc3\xa9")?);
    requests.push((binary, CredentialError::NotBearer));
    Ok(requests)
}

#[tokio::test]
async fn invalid_tokens_are_rejected_for_their_reason_and_not_cached() -> Outcome {
    let fixture = AuthFixture::new(&[Scope::Check])?;
    for (headers, error) in bad_requests(&fixture.key)? {
        let expected = match error {
            CredentialError::Expired => Refusal::CredentialExpired,
            CredentialError::TooLong => Refusal::CredentialTooLarge { limit_bytes: 24_576 },
            _ => Refusal::CredentialInvalid,
        };
        // The second attempt must have the same result as the first.
        for _ in 0..2 {
            assert_eq!(
                fixture.auth.identify(&headers, &peer()).await.err().map(|rejection| rejection.error),
                Some(error),
                "{headers:?}"
            );
            assert_eq!(
                fixture.auth.authenticate(&headers, &peer()).await.err().as_ref(),
                Some(&expected),
                "{headers:?}"
            );
        }
    }
    assert_eq!(fixture.auth.cached_tokens(), 0);
    // The valid token from which all others were derived.
    fixture.auth.authenticate(&headers(&format!("Bearer {}", good_token(&fixture.key)), &[])?, &peer()).await?;
    assert_eq!(fixture.auth.cached_tokens(), 1);
    Ok(())
}

/// A log that the test can read.
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
async fn the_log_contains_reasons_and_no_personal_data() -> Outcome {
    let fixture = AuthFixture::new(&[Scope::Check])?;
    let (mut requests, errors): (Vec<_>, Vec<_>) = bad_requests(&fixture.key)?.into_iter().unzip();
    requests.push(headers(&format!("Bearer {}", good_token(&fixture.key)), &[])?);

    // With a single subscriber, tracing decides once whether a log statement is enabled, by the subscriber of the first
    // thread that reaches it. A thread of another test has no subscriber, which would disable the statement
    // permanently. A second subscriber prevents this.
    let _other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let log = TestLog::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut secrets = vec![SUBJECT.to_owned(), ADDRESS.to_owned()];
    for headers in &requests {
        let _ = fixture.auth.authenticate(headers, &peer()).await;
        for value in headers.values() {
            let text = String::from_utf8_lossy(value.as_bytes());
            secrets.extend(text.split(['.', ' ']).filter(|part| part.len() > 16).map(str::to_owned));
        }
    }

    let log = String::from_utf8(log.0.lock().unwrap_or_else(PoisonError::into_inner).clone())?;
    let lines = log.lines().filter(|line| line.contains("credential refused")).count();
    assert!((1..requests.len() / 2).contains(&lines), "{lines} lines for {} requests", requests.len());
    for error in errors {
        assert!(log.contains(&error.to_string()), "{error}");
    }
    for claim in [format!("issuer=\"{ISSUER}\""), format!("kid=\"{}\"", fixture.key.id()), format!("peer=\"{PEER}\"")] {
        assert!(log.contains(&claim), "{claim}: {log}");
    }
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret}");
    }
    Ok(())
}
