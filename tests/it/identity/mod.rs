//! Keys of issuers by URL: an identity provider in this process, over real sockets, and an authenticator with a clock that
//! the test sets.

mod away;
mod commands;
mod fetches;
mod hostile;
mod issuer_keys;
mod oidc_provider;
mod provider;
mod proxy;
mod server;
mod tls;

use crate::replica::until;
use issuer_keys::IssuerKey;
use provider::Provider;
use roster::authn::settings::{AuthSettings, Callers, IssuerSettings};
use roster::authn::{Authenticator, Caller, KeyStatistics, PeerShare, RecentCredentials};
use roster::clock::Clock;
use roster::domain::Refusal;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use tokio::task::JoinHandle;

/// The time at the start of every test, in seconds since 1970.
const NOW: u64 = 1_800_000_000;
const AUDIENCE: &str = "roster";

/// An authenticator that fetches the keys of its issuers.
struct Rig {
    auth: Authenticator,
    now: Arc<AtomicU64>,
    refresh: JoinHandle<()>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.refresh.abort();
    }
}

impl Rig {
    /// An authenticator that accepts the tokens of these issuers.
    fn new(issuers: Vec<IssuerSettings>) -> Self {
        let now = Arc::new(AtomicU64::new(NOW));
        let seconds = now.clone();
        let clock = Clock::from_fn(move || UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed)));
        let settings = AuthSettings { issuers, ..AuthSettings::default() };
        let auth = Authenticator::new(&settings, clock).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        let refresh = tokio::spawn({
            let auth = auth.clone();
            async move { auth.refresh_keys().await }
        });
        Self { auth, now, refresh }
    }

    /// An authenticator that knows only the issuer of this provider.
    fn of(provider: &Provider) -> Self {
        Self::new(vec![by_discovery(provider)])
    }

    /// An authenticator that knows only the issuer of this provider, and that has fetched its keys.
    async fn with_keys(provider: &Provider) -> Self {
        let rig = Self::of(provider);
        rig.until_fetched().await;
        rig
    }

    async fn until_fetched(&self) {
        until("the keys are fetched", async || self.statistics().age.is_some()).await;
    }

    /// The state of the keys of the first issuer.
    fn statistics(&self) -> KeyStatistics {
        self.auth.key_statistics().swap_remove(0)
    }

    fn advance(&self, seconds: u64) {
        self.now.fetch_add(seconds, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Identifies the caller of a request with this token.
    async fn ask(&self, token: &str) -> Result<Arc<Caller>, Refusal> {
        self.auth.authenticate(&bearer(token), &PeerShare::unlimited("192.0.2.7".to_owned())).await
    }

    /// Whether the caller is known without a wait.
    fn recognizes(&self, token: &str) -> bool {
        let peer = PeerShare::unlimited("192.0.2.7".to_owned());
        let caller = self.auth.recognize(&bearer(token), &RecentCredentials::default(), &peer);
        caller.is_ok_and(|caller| caller.is_some())
    }

    /// The claims of a token that is valid for two days.
    fn claims(&self, provider: &Provider) -> Value {
        let now = self.now();
        json!({"iss": provider.issuer(), "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 2 * 86_400})
    }

    /// A token that is valid for two days.
    fn token(&self, provider: &Provider, key: &IssuerKey) -> String {
        key.sign(&self.claims(provider))
    }
}

/// An issuer that is known by its name only.
fn by_discovery(provider: &Provider) -> IssuerSettings {
    IssuerSettings {
        issuer: provider.issuer(),
        audience: AUDIENCE.into(),
        callers: Some(Callers::People),
        ..IssuerSettings::default()
    }
}

fn bearer(token: &str) -> http::HeaderMap {
    let value = http::HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    http::HeaderMap::from_iter([(http::header::AUTHORIZATION, value)])
}
