//! A fixture for the tests of authentication: an issuer with its key and JWKS file, an authenticator that accepts its
//! tokens, and an adjustable clock.

use super::mint::{ClaimSet, SigningKey};
use super::settings::{Callers, IssuerSettings};
use super::{AuthSettings, Authenticator, Caller, PeerShare};
use crate::clock::Clock;
use crate::domain::{Refusal, Scope};
use http::{HeaderMap, HeaderValue};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// The result of a test.
pub(super) type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The time at the start of every test, in seconds since 1970.
pub(super) const NOW: i64 = 1_800_000_000;
/// The address of the peer that sends the credentials.
pub(super) const PEER: &str = "192.0.2.7";
/// The name of the fixture's issuer.
pub(super) const ISSUER: &str = "https://id.example";

/// An issuer and an authenticator that accepts its tokens.
pub(super) struct AuthFixture {
    pub(super) key: SigningKey,
    pub(super) auth: Authenticator,
    /// The authenticator's time, in seconds since 1970.
    pub(super) now: Arc<AtomicU64>,
    directory: tempfile::TempDir,
}

impl AuthFixture {
    /// Creates an authenticator with one issuer, which may grant these scopes.
    pub(super) fn new(scopes: &[Scope]) -> Result<Self, Box<dyn std::error::Error>> {
        Self::with(vec![issuer(ISSUER, PathBuf::new(), scopes)])
    }

    /// Creates an authenticator with these issuers. They share one JWKS file.
    pub(super) fn with(mut issuers: Vec<IssuerSettings>) -> Result<Self, Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let key = SigningKey::generate();
        let now = Arc::new(AtomicU64::new(NOW.unsigned_abs()));
        std::fs::write(directory.path().join("jwks.json"), key.public_jwks().to_string())?;
        for issuer in &mut issuers {
            issuer.jwks_file = Some(directory.path().join("jwks.json"));
        }
        let settings = AuthSettings { issuers, development_keys: true, ..AuthSettings::default() };
        let seconds = Arc::clone(&now);
        let clock = Clock::from_fn(move || UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed)));
        let auth = Authenticator::new(&settings, clock).map_err(|mistakes| mistakes.join("; "))?;
        Ok(Self { key, auth, now, directory })
    }

    /// Returns the path of the issuer's JWKS file.
    pub(super) fn jwks_file(&self) -> PathBuf {
        self.directory.path().join("jwks.json")
    }

    /// Advances the clock.
    pub(super) fn advance(&self, seconds: u64) {
        self.now.fetch_add(seconds, Ordering::Relaxed);
    }
}

/// Returns a peer without limits.
pub(super) fn peer() -> PeerShare {
    PeerShare::unlimited(PEER.to_owned())
}

/// Returns the settings of an issuer with a JWKS file.
pub(super) fn issuer(name: &str, jwks_file: PathBuf, scopes: &[Scope]) -> IssuerSettings {
    IssuerSettings {
        issuer: name.to_owned(),
        audience: "roster".into(),
        jwks_file: Some(jwks_file),
        scopes: scopes.to_vec(),
        callers: Some(Callers::People),
        ..IssuerSettings::default()
    }
}

/// Returns the claims of a valid token that expires after an hour.
pub(super) fn claims(subject: &str) -> ClaimSet {
    ClaimSet {
        iss: ISSUER.to_owned(),
        aud: "roster".to_owned(),
        sub: subject.to_owned(),
        exp: NOW + 3600,
        iat: NOW,
        ..ClaimSet::default()
    }
}

/// Returns the claims of a valid token of the service `billing` with these scopes.
pub(super) fn service(scope: &str) -> ClaimSet {
    ClaimSet { scope: Some(scope.to_owned()), ..claims("billing") }
}

/// Authenticates with a token of these claims and with other headers. The scheme is in another case, before two blanks.
pub(super) async fn authenticate(
    fixture: &AuthFixture,
    claims: &ClaimSet,
    others: &[(&'static str, &str)],
) -> Result<Arc<Caller>, Refusal> {
    let token = fixture.key.mint(claims).map_err(|_| Refusal::CredentialMissing)?;
    let headers = headers(&format!("bEARER  {}", token.expose()), others).map_err(|_| Refusal::CredentialMissing)?;
    fixture.auth.authenticate(&headers, &peer()).await
}

/// Returns headers with this `authorization` and others.
pub(super) fn headers(authorization: &str, others: &[(&'static str, &str)]) -> Result<HeaderMap, http::Error> {
    let mut headers = HeaderMap::new();
    headers.append("authorization", HeaderValue::from_str(authorization)?);
    for (name, value) in others {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes())?);
    }
    Ok(headers)
}
